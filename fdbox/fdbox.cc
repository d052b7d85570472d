// SPDX-License-Identifier: GPL-2.0
// All boxes, and the edges of the module: ioctls, and what C calls.
#include <ferry/ioctl.hh>
#include <ferry/log.hh>
#include <ferry/scope.hh>

#include <atomic>
#include <string_view>

#include "fdbox/box.hh"
#include "fdbox/linux.h"

using ferry::Call;
using ferry::Errno;
using ferry::fail;
using ferry::Ref;
using ferry::Result;

// Somebody who has the device of a box open.
struct fdbox_opener {
	Ref<fdbox::Box> box;
	// The user is the creator's, or showed the key.
	bool allowed;
};

namespace fdbox {
namespace {

// Lock order: this, a box's, a seal's, luo's. Under the first the devices come and go.
using Boxes = ferry::List<Box>;
struct All {
	ferry::Locked<Boxes, "fdbox.boxes"> boxes;
	// Those of the last kernel are among them, as far as they can be.
	std::atomic<bool> complete{false};
};
constinit All *all;

Box &box_of(fdbox_handle *handle)
{
	return *reinterpret_cast<Box *>(handle);
}

Box *find(Boxes &boxes, std::string_view name)
{
	for (Box &box : boxes) {
		if (name == box.name())
			return &box;
	}
	return nullptr;
}

// Takes over the reference. While there are boxes the module stays.
Result<void> add(Boxes &boxes, Ref<Box> box)
{
	if (find(boxes, box->name()))
		return fail(Errno::Exist);
	TRY(ferry::check_status(linux_box_add(reinterpret_cast<fdbox_handle *>(box.get()),
					      box->name(), &box->device)));
	ferry_module_get(linux_this_module());
	boxes.push_back(*box.release());
	return {};
}

template <class Arg> Name &name_of(Arg &arg)
{
	return reinterpret_cast<Name &>(arg.name);
}

/* ---- on /dev/fdbox/fdbox ---- */

Result<void> create_box(void *user)
{
	Call<fdbox_box> call;
	ferry::Undo wipe{[&] { linux_wipe(&call.arg, sizeof(call.arg)); }};
	TRY(call.read(user, sizeof(call.arg)));
	Key key = TRY(ferry::key_of<FDBOX_KEY>(call.arg));
	auto box = TRY(Box::create(name_of(call.arg), key));
	auto boxes = all->boxes.lock();
	return add(*boxes, std::move(box));
}

Result<void> delete_box(void *user)
{
	Call<fdbox_box> call;
	ferry::Undo wipe{[&] { linux_wipe(&call.arg, sizeof(call.arg)); }};
	TRY(call.read(user, sizeof(call.arg)));
	Key key = TRY(ferry::key_of<FDBOX_KEY>(call.arg));
	call.arg.name[sizeof(call.arg.name) - 1] = 0;
	auto boxes = all->boxes.lock();
	Box *box = find(*boxes, name_of(call.arg));
	if (!box)
		return fail(Errno::NoEnt);
	if (!linux_privileged()) {
		if (box->keyed())
			TRY(box->unlock(key));
		else if (!box->is_creators())
			return fail(Errno::Perm);
	}
	TRY(box->empty());
	linux_box_remove(box->device);
	boxes->remove(*box);
	box->put();
	ferry_module_put(linux_this_module());
	return {};
}

/* ---- on /dev/fdbox/NAME ---- */

Result<void> put_fd(fdbox_opener &opener, void *user)
{
	Call<fdbox_file> call;
	TRY(call.read(user, sizeof(call.arg)));
	return opener.box->put_file(call.arg.fd, name_of(call.arg));
}

Result<void> get_fd(fdbox_opener &opener, void *user)
{
	Call<fdbox_file> call;
	TRY(call.read(user, sizeof(call.arg)));
	return respond_with_fd(call, [&] { return opener.box->take_file(name_of(call.arg)); });
}

Result<void> seal(fdbox_opener &opener, void *user)
{
	Call<fdbox_seal> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	Box *box = opener.box.get();
	return Box::seal(&box, 1);
}

// The box of a descriptor, for who may use it by this one.
Result<Box *> other_box(file *open)
{
	fdbox_opener *opener = open ? linux_opener_of(open) : nullptr;
	if (!opener)
		return fail(Errno::BadF);
	if (!opener->allowed)
		return fail(Errno::Perm);
	return opener->box.get();
}

[[gnu::noinline]] Result<void> seal_with(fdbox_opener &opener, void *user)
{
	Call<fdbox_seal_with> call;
	TRY(call.read(user, sizeof(call.arg)));
	const unsigned int others = call.arg.nr;
	if (!others || others >= FDBOX_MAX_TOGETHER)
		return fail(Errno::Inval);
	int fds[FDBOX_MAX_TOGETHER];
	const std::size_t size = others * sizeof(fds[0]);
	TRY(ferry::check_status(
		linux_user_read(fds, size, reinterpret_cast<const void *>(call.arg.fds), size)));
	// An open file keeps its box.
	FileRef files[FDBOX_MAX_TOGETHER];
	Box *boxes[FDBOX_MAX_TOGETHER] = {opener.box.get()};
	for (unsigned int i = 0; i < others; ++i) {
		files[i] = FileRef{linux_file_of(fds[i])};
		Box *box = TRY(other_box(files[i].get()));
		if (std::find(boxes, boxes + i + 1, box) != boxes + i + 1)
			return fail(Errno::Inval);
		boxes[i + 1] = box;
	}
	return Box::seal(boxes, others + 1);
}

Result<void> unseal(fdbox_opener &opener, void *user)
{
	Call<fdbox_seal> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	return opener.box->unseal();
}

// More than that nobody lists at once.
constexpr unsigned int max_list = 1 << 16;

Result<void> list(fdbox_opener &opener, void *user)
{
	Call<fdbox_list> call;
	TRY(call.read(user, sizeof(call.arg)));
	const unsigned int room = std::min(call.arg.nr, max_list);
	// Collected first: no lock waits for user space.
	auto entries = static_cast<fdbox_entry *>(
		room ? ferry_alloc(std::size_t{room} * sizeof(fdbox_entry)) : nullptr);
	if (room && !entries)
		return fail(Errno::NoMem);
	ferry::Undo free{[&] { ferry_free(entries); }};
	unsigned int nr = 0;
	TRY(opener.box->list(call.arg, [&](const Name &name) {
		if (nr < room)
			memcpy(entries[nr].name, name, sizeof(name));
		++nr;
	}));
	call.arg.nr = nr;
	if (nr <= room && nr)
		TRY(ferry::check_status(linux_user_write(reinterpret_cast<void *>(call.arg.entries),
							 entries,
							 std::size_t{nr} * sizeof(fdbox_entry))));
	TRY(call.respond());
	return nr <= room ? Result<void>{} : fail(Errno::NoSpc);
}

Result<void> unlock(fdbox_opener &opener, void *user)
{
	Call<fdbox_unlock> call;
	ferry::Undo wipe{[&] { linux_wipe(&call.arg, sizeof(call.arg)); }};
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	TRY(opener.box->unlock(call.arg.key));
	opener.allowed = true;
	return {};
}

struct ManagerCommand {
	unsigned int command;
	Result<void> (*run)(void *user);
};

constexpr ManagerCommand manager_commands[] = {
	{FDBOX_CREATE_BOX, create_box},
	{FDBOX_DELETE_BOX, delete_box},
};

struct BoxCommand {
	unsigned int command;
	Result<void> (*run)(fdbox_opener &opener, void *user);
};

constexpr BoxCommand box_commands[] = {
	{FDBOX_PUT_FD, put_fd},	      {FDBOX_GET_FD, get_fd}, {FDBOX_SEAL, seal},
	{FDBOX_UNSEAL, unseal},	      {FDBOX_LIST, list},     {FDBOX_UNLOCK, unlock},
	{FDBOX_SEAL_WITH, seal_with},
};

Result<void> run_manager(unsigned int command, void *user)
{
	const ManagerCommand *entry = ferry::find_number(manager_commands, command);
	if (!entry || entry->command != command)
		return fail(Errno::NotTty);
	if (!all->complete)
		return fail(Errno::Again);
	return entry->run(user);
}

Result<void> run_box(fdbox_opener &opener, unsigned int command, void *user)
{
	const BoxCommand *entry = ferry::find_number(box_commands, command);
	if (!entry || entry->command != command)
		return fail(Errno::NotTty);
	if (!opener.allowed && command != FDBOX_UNLOCK)
		return fail(Errno::Perm);
	return entry->run(opener, user);
}

/* ---- boxes of the last kernel ---- */

// What came together: one box, or a set, of which the first one in the tree has the files.
struct Arrived : ferry::Linked<Arrived> {
	unsigned long long number = 0;
	Ref<Seal> seal;
};

// All that came, while it is looked through. Sessions are held here also where they cannot be
// boxes: who lets one go gets it again.
struct Arrivals {
	Arrivals() = default;
	~Arrivals()
	{
		while (Arrived *arrived = sets.front()) {
			sets.remove(*arrived);
			ferry::destroy(arrived);
		}
	}

	Seal *find(unsigned long long number)
	{
		for (Arrived &each : sets) {
			if (each.number == number)
				return each.seal.get();
		}
		return nullptr;
	}
	// A set of its own for a session. Errno::NoMem.
	Result<Ref<Seal>> add(unsigned long long number, Session &session)
	{
		auto arrived = TRY(ferry::make<Arrived>());
		arrived->number = number;
		arrived->seal = TRY(ferry::make_ref<Seal>());
		TRY(arrived->seal->add(session));
		Ref<Seal> seal = arrived->seal;
		sets.push_back(*arrived.release());
		return seal;
	}

	ferry::List<Arrived> sets;
};

// The seal that a session belongs to; it has the session then.
Result<Ref<Seal>> seal_of(Arrivals &arrivals, const Together &together, Session &session)
{
	Seal *known = together.number ? arrivals.find(together.number) : nullptr;
	const bool is_first = !together.place;
	if (together.place >= FDBOX_MAX_TOGETHER || is_first != !known) {
		log_err(is_first ? "two sets of boxes have one number"
				 : "what was sealed together with a box did not come");
		return fail(Errno::BadMsg);
	}
	if (is_first)
		return arrivals.add(together.number, session);
	TRY(known->add(session));
	return Ref<Seal>{*known};
}

Result<Ref<Box>> take_box(Arrivals &arrivals, const ferry_luo_about &about, Session &session)
{
	const Together together = Box::together(about);
	return Box::carried(about, together, TRY(seal_of(arrivals, together, session)));
}

void cannot_be(const char *session, Errno error)
{
	log_err("session '%s' cannot become a box, error %d: it waits", session, int(error));
}

// The devices come last: who opens one finds all that came with it.
void add_all(Boxes &arrived)
{
	while (Box *box = arrived.front()) {
		arrived.remove(*box);
		auto held = Ref<Box>::adopt(box);
		auto added = add(*all->boxes.lock(), held);
		if (!added.has_value())
			cannot_be(held->name(), added.error());
	}
}

void take_carried()
{
	Arrivals arrivals;
	Boxes boxes;
	for (;;) {
		ferry_luo_session *taken = nullptr;
		ferry_luo_about about;
		if (ferry_luo_session_take("fdbox", &taken, &about))
			break;
		Session session{taken};
		auto box = take_box(arrivals, about, session);
		if (box.has_value()) {
			boxes.push_back(*box->release());
			continue;
		}
		cannot_be(about.name, box.error());
		if (session && !arrivals.add(0, session).has_value())
			break;
	}
	add_all(boxes);
}

} // namespace
} // namespace fdbox

using fdbox::all;

extern "C" {

int fdbox_module_init()
{
	auto made = ferry::make<fdbox::All>();
	if (!made.has_value())
		return ferry::to_errno(made);
	all = made->release();
	return 0;
}

void fdbox_module_start()
{
	fdbox::take_carried();
	all->complete = true;
}

void fdbox_module_exit()
{
	// There are no boxes: each holds the module.
	ferry::destroy(all);
	all = nullptr;
}

long fdbox_manager_ioctl(unsigned int command, void *user)
{
	return ferry::to_errno(fdbox::run_manager(command, user));
}

int fdbox_open(fdbox_handle *handle, fdbox_opener **opener)
{
	fdbox::Box &box = fdbox::box_of(handle);
	const bool allowed = !box.keyed() && box.is_creators();
	if (!box.keyed() && !allowed)
		return -int(Errno::Acces);
	auto made = ferry::make<fdbox_opener>(Ref<fdbox::Box>{box}, allowed);
	*opener = made.has_value() ? made->release() : nullptr;
	return ferry::to_errno(made);
}

void fdbox_release(fdbox_opener *opener)
{
	ferry::destroy(opener);
}

long fdbox_ioctl(fdbox_opener *opener, unsigned int command, void *user)
{
	return ferry::to_errno(fdbox::run_box(*opener, command, user));
}

} /* extern "C" */
