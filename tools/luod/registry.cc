// SPDX-License-Identifier: GPL-2.0
#include "tools/luod/registry.hh"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/stat.h>

using liveupdate::failure;
using Json = nlohmann::json;

namespace luod {

namespace {

constexpr char magic[8] = {'L', 'U', 'O', 'D', 'R', 'E', 'G', '1'};
constexpr unsigned int version = 1;

// Room for max_sessions of the longest names: each takes less than 128 bytes.
constexpr std::size_t text_size = 128 * 1024 - 64;

bool word(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '_' || c == '-';
}

std::string to_text(const Owners &owners)
{
	Json sessions = Json::array();
	for (const auto &[name, owner] : owners)
		sessions.push_back({{"name", name}, {"uid", owner.uid}, {"gid", owner.gid}});
	return Json{{"version", version}, {"sessions", std::move(sessions)}}.dump();
}

// A number that fits, or nothing.
bool read_id(const Json &of, const char *key, std::uint32_t &out)
{
	auto at = of.find(key);
	if (at == of.end() || !at->is_number_unsigned() || at->get<std::uint64_t>() > UINT32_MAX)
		return false;
	out = at->get<std::uint32_t>();
	return true;
}

bool read_session(const Json &from, Owners &owners)
{
	if (!from.is_object())
		return false;
	auto name = from.find("name");
	Owner owner{};
	return name != from.end() && name->is_string() &&
	       valid_name(name->get_ref<const std::string &>()) &&
	       read_id(from, "uid", owner.uid) && read_id(from, "gid", owner.gid) &&
	       owners.emplace(name->get<std::string>(), owner).second;
}

bool from_text(std::string_view text, Owners &owners)
{
	Json tree = Json::parse(text, nullptr, false);
	std::uint32_t is = 0;
	if (!tree.is_object() || !read_id(tree, "version", is) || is != version)
		return false;
	auto sessions = tree.find("sessions");
	if (sessions == tree.end() || !sessions->is_array() ||
	    sessions->size() > Registry::max_sessions)
		return false;
	return std::ranges::all_of(*sessions,
				   [&](auto &each) { return read_session(each, owners); });
}

} // namespace

bool valid_name(std::string_view name)
{
	return !name.empty() && name.size() < LU_NAME_SIZE && std::ranges::all_of(name, word) &&
	       name != "luod" && name != "systemd";
}

struct Registry::Page {
	char magic[8];
	std::atomic<std::uint32_t> current;
	char reserved[52];
	struct {
		std::uint32_t length;
		char text[text_size - sizeof(std::uint32_t)];
	} side[2];
};

Result<Registry> Registry::map(Fd fd)
{
	void *at = ::mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
	if (at == MAP_FAILED)
		return failure(errno);
	return Registry(std::move(fd), static_cast<Page *>(at));
}

Result<Registry> Registry::create()
{
	Fd fd(::memfd_create("luod-registry", MFD_CLOEXEC));
	if (!fd || ::ftruncate(fd.get(), sizeof(Page)) < 0)
		return failure(errno);
	auto made = map(std::move(fd));
	if (made) {
		std::memcpy(made->at_->magic, magic, sizeof(magic));
		made->write();
	}
	return made;
}

Result<Registry> Registry::open(Fd fd)
{
	struct stat is;
	if (::fstat(fd.get(), &is) < 0)
		return failure(errno);
	// Less than that cannot be looked at without a SIGBUS.
	if (!S_ISREG(is.st_mode) || is.st_size != sizeof(Page))
		return failure(EBADMSG);
	auto found = map(std::move(fd));
	if (!found)
		return found;
	const Page &page = *found->at_;
	std::uint32_t current = page.current;
	if (std::memcmp(page.magic, magic, sizeof(magic)) || current > 1 ||
	    page.side[current].length > sizeof(page.side[current].text) ||
	    !from_text({page.side[current].text, page.side[current].length}, found->owners_))
		return failure(EBADMSG);
	return found;
}

Registry::~Registry()
{
	if (at_)
		::munmap(at_, sizeof(Page));
}

void Registry::write()
{
	std::string text = to_text(owners_);
	std::uint32_t other = 1 - (at_->current & 1);
	auto &side = at_->side[other];
	side.length = static_cast<std::uint32_t>(text.copy(side.text, sizeof(side.text)));
	// All of it is there before it counts.
	at_->current.store(other, std::memory_order_release);
}

Result<void> Registry::add(const std::string &name, Owner owner)
{
	if (!valid_name(name))
		return failure(EINVAL);
	if (owners_.size() >= max_sessions && !owners_.contains(name))
		return failure(ENOSPC);
	owners_[name] = owner;
	write();
	return {};
}

void Registry::remove(std::string_view name)
{
	if (auto at = owners_.find(name); at != owners_.end()) {
		owners_.erase(at);
		write();
	}
}

} // namespace luod
