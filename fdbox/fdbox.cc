// SPDX-License-Identifier: GPL-2.0
// All boxes, and the edges of the module: ioctls, and what C calls.
#include <ferry/ioctl.hh>
#include <ferry/log.hh>
#include <ferry/scope.hh>

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

// Lock order: this, a box's, luo's. Under the first the devices come and go.
using Boxes = ferry::List<Box>;
struct All {
	ferry::Locked<Boxes, "fdbox.boxes"> boxes;
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

// Null when the call has none.
Result<Key> key_of(const fdbox_box &arg)
{
	if (arg.flags & ~FDBOX_KEY)
		return fail(Errno::OpNotSupp);
	if (arg.flags & FDBOX_KEY)
		return arg.key;
	for (unsigned char byte : arg.key) {
		if (byte)
			return fail(Errno::Inval);
	}
	return nullptr;
}

/* ---- on /dev/fdbox/fdbox ---- */

Result<void> create_box(void *user)
{
	Call<fdbox_box> call;
	ferry::Undo wipe{[&] { linux_wipe(&call.arg, sizeof(call.arg)); }};
	TRY(call.read(user, sizeof(call.arg)));
	Key key = TRY(key_of(call.arg));
	auto box = TRY(Box::create(name_of(call.arg), key));
	auto boxes = all->boxes.lock();
	return add(*boxes, std::move(box));
}

Result<void> delete_box(void *user)
{
	Call<fdbox_box> call;
	ferry::Undo wipe{[&] { linux_wipe(&call.arg, sizeof(call.arg)); }};
	TRY(call.read(user, sizeof(call.arg)));
	Key key = TRY(key_of(call.arg));
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
	return opener.box->seal();
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
	{FDBOX_PUT_FD, put_fd}, {FDBOX_GET_FD, get_fd}, {FDBOX_SEAL, seal},
	{FDBOX_UNSEAL, unseal}, {FDBOX_LIST, list},	{FDBOX_UNLOCK, unlock},
};

Result<void> run_manager(unsigned int command, void *user)
{
	const ManagerCommand *entry = ferry::find_number(manager_commands, command);
	if (!entry || entry->command != command)
		return fail(Errno::NotTty);
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

void take_carried()
{
	for (;;) {
		ferry_luo_session *taken = nullptr;
		ferry_luo_about about;
		if (ferry_luo_session_take("fdbox", &taken, &about))
			return;
		auto box = Box::carried(about, Session{taken});
		auto added = box.has_value() ? add(*all->boxes.lock(), std::move(*box))
					     : Result<void>{fail(box.error())};
		if (!added.has_value()) {
			// It waits, and would only be taken again.
			log_err("session '%s' cannot become a box, error %d: it waits, and so do "
				"those after it",
				about.name, int(added.error()));
			return;
		}
	}
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
	fdbox::take_carried();
	return 0;
}

void fdbox_module_exit()
{
	// Boxes hold the module, but for when it could not be loaded.
	{
		auto boxes = all->boxes.lock();
		while (fdbox::Box *box = boxes->front()) {
			linux_box_remove(box->device);
			boxes->remove(*box);
			box->put();
			ferry_module_put(linux_this_module());
		}
	}
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
