// SPDX-License-Identifier: GPL-2.0
#include "fdbox/box.hh"

#include <ferry/log.hh>
#include <ferry/scope.hh>

#include <algorithm>
#include <atomic>
#include <string_view>

using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Ref;
using ferry::Result;

namespace fdbox {
namespace {

using Lock = ferry::Guard<ferry::Mutex<"fdbox.box">>;
using SealLock = ferry::Guard<ferry::Mutex<"fdbox.seal">>;

constexpr char maker[] = "fdbox";
// Of the session of a box, before its name.
constexpr std::string_view prefix = "fdbox:";
constexpr std::size_t max_name = 47;
static_assert(prefix.size() + max_name < FERRY_LUO_NAME_SIZE);

// In a tag the number of the set is above the place in it, in a token the place of the box
// above the number of the file.
constexpr unsigned int place_bits = 16, token_bits = 32;
static_assert(FDBOX_MAX_TOGETHER <= 64); // Seal has a word of them

// Sets are told apart among those that go out at once.
constinit std::atomic<unsigned long long> last_set{0};

// The text in a name; nothing when it does not end.
std::string_view text(const Name &name)
{
	for (std::size_t length = 0; length < sizeof(name); ++length) {
		if (!name[length])
			return {name, length};
	}
	return {};
}

bool plain(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '_' || c == '-';
}

// It becomes the name of a file in /dev/fdbox.
bool names_a_box(std::string_view name)
{
	return !name.empty() && name.size() <= max_name && name[0] != '.' && name != "fdbox" &&
	       std::all_of(name.begin(), name.end(), plain);
}

} // namespace

Result<Ref<Box>> Box::create(const Name &name, Key key)
{
	if (!names_a_box(text(name)))
		return fail(Errno::Inval);
	ferry_luo_about about{};
	ferry_format(about.name, sizeof(about.name), "fdbox:%s", name);
	ferry_format(about.maker, sizeof(about.maker), "%s", maker);
	about.uid = linux_caller();
	ferry_luo_lock_make(&about.lock, key);
	return ferry::make_ref<Box>(about);
}

Together Box::together(const ferry_luo_about &about)
{
	return {about.tag >> place_bits,
		static_cast<unsigned int>(about.tag & ((1u << place_bits) - 1))};
}

Result<Ref<Box>> Box::carried(const ferry_luo_about &about, const Together &together,
			      Ref<Seal> seal)
{
	std::string_view name{about.name};
	if (!name.starts_with(prefix) || !names_a_box(name.substr(prefix.size()))) {
		log_err("session '%s' is no box", about.name);
		return fail(Errno::BadMsg);
	}
	auto box = TRY(ferry::make_ref<Box>(about));
	TRY(seal->join(together.place));
	// From here on its destructor undoes that.
	box->came_ = std::move(seal);
	box->unopened_ = true;
	TRY(box->load_items(together));
	return box;
}

Result<void> Box::load_items(const Together &together)
{
	Lock lock{mutex_};
	for (unsigned int nr = 0;; ++nr) {
		auto item = TRY(ferry::make<Item>());
		if (ferry_luo_session_file(came_->files(), nr, &item->token, item->name))
			return {};
		if (together.number && item->token >> token_bits != together.place)
			continue;
		if (!item->name[0] || find(item->name)) {
			log_err("box '%s': token %#llx has no name of its own, and is left out",
				name(), item->token);
			continue;
		}
		items_.push_back(*item.release());
	}
}

Box::~Box()
{
	if (came_ && !gone_)
		came_->forget(unopened_);
	while (Item *item = items_.front())
		drop(*item);
}

const char *Box::name() const
{
	return about_.name + prefix.size();
}

Item *Box::find(const Name &name)
{
	for (Item &item : items_) {
		if (text(name) == text(item.name))
			return &item;
	}
	return nullptr;
}

void Box::drop(Item &item)
{
	items_.remove(item);
	ferry::destroy(&item);
}

Result<void> Box::check_there() const
{
	if (gone_)
		return fail(Errno::NoDev);
	return {};
}

Result<void> Box::check_open()
{
	TRY(check_there());
	if (sealing_ || sealed())
		return fail(Errno::Busy);
	return {};
}

bool Box::sealed()
{
	// Another box may have opened it.
	if (out_ && !out_->closed())
		out_ = {};
	return unopened_ || bool(out_);
}

Result<void> Box::put_file(int fd, const Name &name)
{
	Lock lock{mutex_};
	TRY(check_open());
	if (text(name).empty())
		return fail(Errno::Inval);
	if (find(name))
		return fail(Errno::Exist);
	FileRef file{linux_file_of(fd)};
	if (!file)
		return fail(Errno::BadF);
	// A box in itself, or two in each other, would never go.
	if (linux_is_box(file.get()))
		return fail(Errno::Loop);
	auto item = TRY(ferry::make<Item>());
	ferry_format(item->name, sizeof(item->name), "%s", name);
	item->file = std::move(file);
	items_.push_back(*item.release());
	linux_fd_close(fd);
	return {};
}

Result<FileRef> Box::take_file(const Name &name)
{
	Lock lock{mutex_};
	TRY(check_open());
	Item *item = find(name);
	if (!item)
		return fail(Errno::NoEnt);
	FileRef file = std::move(item->file);
	drop(*item);
	return file;
}

/* ---- sealing ---- */

Result<void> Box::begin_sealing()
{
	Lock lock{mutex_};
	TRY(check_there());
	if (sealing_)
		return fail(Errno::Busy);
	if (sealed())
		return fail(Errno::Already);
	sealing_ = true;
	return {};
}

void Box::end_sealing(Ref<Seal> seal)
{
	Lock lock{mutex_};
	sealing_ = false;
	out_ = std::move(seal);
}

Result<Session> Box::make_session(const Together &together) const
{
	ferry_luo_about about = about_;
	about.tag = together.number << place_bits | together.place;
	ferry_luo_session *made = nullptr;
	TRY(check_status(ferry_luo_session_create(&about, &made)));
	return Session{made};
}

Result<void> Box::preserve_items(ferry_luo_session *files, unsigned int place)
{
	unsigned long long token = static_cast<unsigned long long>(place) << token_bits;
	for (const Item &item : items_) {
		auto preserved = check_status(
			ferry_luo_session_preserve(files, item.file.get(), token++, item.name));
		if (!preserved.has_value()) {
			log_err("box '%s': '%s' cannot be sealed in, error %d", name(), item.name,
				int(preserved.error()));
			return preserved;
		}
	}
	return {};
}

Result<void> Box::seal(Box *const *boxes, unsigned int nr)
{
	unsigned int begun = 0;
	Ref<Seal> done;
	ferry::Undo end{[&] {
		while (begun)
			boxes[--begun]->end_sealing(done);
	}};
	for (; begun < nr; ++begun)
		TRY(boxes[begun]->begin_sealing());
	for (unsigned int i = 0; i < nr; ++i) {
		if (boxes[i]->came_)
			TRY(boxes[i]->came_->finish());
	}
	auto seal = TRY(ferry::make_ref<Seal>());
	TRY(preserve(*seal, boxes, nr));
	done = std::move(seal);
	return {};
}

Result<void> Box::add_session(Seal &seal, const Together &together) const
{
	auto session = TRY(make_session(together));
	auto added = seal.add(session);
	if (!added.has_value())
		session.undo();
	return added;
}

// Of a kexec in the middle the next kernel gets all of this, or nothing: it waits until we are
// through.
Result<void> Box::preserve(Seal &seal, Box *const *boxes, unsigned int nr)
{
	ferry_luo_enter();
	ferry::Undo leave{ferry_luo_leave};
	ferry::Undo undo{[&] { seal.undo(); }};
	const unsigned long long number = nr > 1 ? ++last_set : 0;
	for (unsigned int i = 0; i < nr; ++i)
		TRY(boxes[i]->add_session(seal, {number, i}));
	for (unsigned int i = 0; i < nr; ++i)
		TRY(boxes[i]->preserve_items(seal.files(), i));
	TRY(check_status(ferry_luo_session_check(seal.files())));
	undo.dismiss();
	return {};
}

Result<void> Box::unseal()
{
	Lock lock{mutex_};
	TRY(check_there());
	if (sealing_)
		return fail(Errno::Busy);
	if (!sealed())
		return fail(Errno::Already);
	if (!unopened_) {
		out_->open();
		out_ = {};
		return {};
	}
	for (Item &item : items_) {
		if (item.file)
			continue;
		file *made = nullptr;
		TRY(check_status(ferry_luo_session_retrieve(came_->files(), item.token, &made)));
		item.file = FileRef{made};
	}
	unopened_ = false;
	came_->unsealed();
	return {};
}

Result<void> Box::empty()
{
	Lock lock{mutex_};
	TRY(check_there());
	if (sealing_)
		return fail(Errno::Busy);
	if (came_)
		TRY(came_->leave(unopened_));
	unopened_ = false;
	if (out_)
		out_->open();
	while (Item *item = items_.front())
		drop(*item);
	gone_ = true;
	return {};
}

/* ---- seals ---- */

Result<void> Seal::add(Session &session)
{
	auto part = TRY(ferry::make<Part>(std::move(session)));
	parts_.push_back(*part.release());
	parts_first_ = parts_.front()->session.get();
	return {};
}

void Seal::undo()
{
	for (auto at = parts_.end(); at != parts_.begin();)
		(--at)->session.undo();
	parts_first_ = nullptr;
}

bool Seal::closed()
{
	SealLock lock{mutex_};
	return !parts_.empty();
}

void Seal::open()
{
	SealLock lock{mutex_};
	open_locked();
}

void Seal::open_locked()
{
	parts_first_ = nullptr;
	while (Part *part = parts_.back()) {
		parts_.remove(*part);
		ferry::destroy(part);
	}
}

Result<void> Seal::join(unsigned int place)
{
	SealLock lock{mutex_};
	const unsigned long long bit = 1ull << place;
	if (places_ & bit) {
		log_err("two boxes that were sealed together are at one place");
		return fail(Errno::BadMsg);
	}
	places_ |= bit;
	++boxes_;
	++sealed_;
	return {};
}

void Seal::unsealed()
{
	SealLock lock{mutex_};
	--sealed_;
}

Result<void> Seal::leave(bool sealed)
{
	SealLock lock{mutex_};
	if (boxes_ == 1)
		TRY(finish_locked());
	forget_locked(sealed);
	return {};
}

void Seal::forget(bool sealed)
{
	SealLock lock{mutex_};
	forget_locked(sealed);
}

void Seal::forget_locked(bool sealed)
{
	--boxes_;
	sealed_ -= sealed;
}

Result<void> Seal::finish()
{
	SealLock lock{mutex_};
	if (sealed_)
		return fail(Errno::Busy);
	return finish_locked();
}

Result<void> Seal::finish_locked()
{
	if (parts_.empty())
		return {};
	TRY(check_status(ferry_luo_session_finish(parts_first_)));
	// The others have no files, which could refuse.
	for (Part &part : parts_) {
		if (part.session.get() != parts_first_)
			(void)ferry_luo_session_finish(part.session.get());
	}
	open_locked();
	return {};
}

} // namespace fdbox
