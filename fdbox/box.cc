// SPDX-License-Identifier: GPL-2.0
#include "fdbox/box.hh"

#include <ferry/log.hh>

#include <algorithm>
#include <string_view>

using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Ref;
using ferry::Result;

namespace fdbox {
namespace {

using Lock = ferry::Guard<ferry::Mutex<"fdbox.box">>;

constexpr char maker[] = "fdbox";
// Of the session of a box, before its name.
constexpr std::string_view prefix = "fdbox:";
constexpr std::size_t max_name = 47;
static_assert(prefix.size() + max_name < FERRY_LUO_NAME_SIZE);

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

Result<Ref<Box>> Box::carried(const ferry_luo_about &about, Session session)
{
	std::string_view name{about.name};
	if (!name.starts_with(prefix) || !names_a_box(name.substr(prefix.size()))) {
		log_err("session '%s' is no box", about.name);
		return fail(Errno::BadMsg);
	}
	auto box = TRY(ferry::make_ref<Box>(about));
	box->came_ = std::move(session);
	box->sealed_ = true;
	TRY(box->load_items());
	return box;
}

Result<void> Box::load_items()
{
	Lock lock{mutex_};
	for (unsigned int nr = 0;; ++nr) {
		auto item = TRY(ferry::make<Item>());
		if (ferry_luo_session_file(came_.get(), nr, &item->token, item->name))
			return {};
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

Result<void> Box::check_open() const
{
	TRY(check_there());
	if (sealed_)
		return fail(Errno::Busy);
	return {};
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

// The files that came are on their own from here.
Result<void> Box::finish_came()
{
	if (!came_)
		return {};
	TRY(check_status(ferry_luo_session_finish(came_.get())));
	came_.close();
	return {};
}

Result<void> Box::seal()
{
	Lock lock{mutex_};
	TRY(check_there());
	if (sealed_)
		return fail(Errno::Already);
	TRY(finish_came());
	ferry_luo_session *made = nullptr;
	TRY(check_status(ferry_luo_session_create(&about_, &made)));
	// Closing it undoes what was preserved.
	Session session{made};
	unsigned long long token = 0;
	for (const Item &item : items_) {
		auto preserved = check_status(
			ferry_luo_session_preserve(made, item.file.get(), token++, item.name));
		if (!preserved.has_value()) {
			log_err("box '%s': '%s' cannot be sealed in, error %d", name(), item.name,
				int(preserved.error()));
			return preserved;
		}
	}
	TRY(check_status(ferry_luo_session_check(made)));
	out_ = std::move(session);
	sealed_ = true;
	return {};
}

Result<void> Box::unseal()
{
	Lock lock{mutex_};
	TRY(check_there());
	if (!sealed_)
		return fail(Errno::Already);
	out_.close();
	for (Item &item : items_) {
		if (item.file)
			continue;
		file *made = nullptr;
		TRY(check_status(ferry_luo_session_retrieve(came_.get(), item.token, &made)));
		item.file = FileRef{made};
	}
	sealed_ = false;
	return {};
}

Result<void> Box::empty()
{
	Lock lock{mutex_};
	TRY(check_there());
	TRY(finish_came());
	out_.close();
	while (Item *item = items_.front())
		drop(*item);
	gone_ = true;
	return {};
}

} // namespace fdbox
