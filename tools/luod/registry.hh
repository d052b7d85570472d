// SPDX-License-Identifier: GPL-2.0
/*
 * What luod knows of its sessions, in memory that outlives it: a memfd that the
 * fd store keeps for luod's next process, and that a session of luod's own
 * carries into the next kernel.
 *
 * A memfd that is preserved cannot grow, so it has its size from the start. It
 * has room for two texts; one is written while the other counts, so that luod
 * can be killed at any time. What is read was written by another process, maybe
 * of another version: nothing of it is trusted.
 */
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include <liveupdate.hpp>

namespace luod {

using liveupdate::Fd;
using liveupdate::Result;

// Can a session of a service have this name? 1 to 63 letters, digits, and "._-";
// neither luod's nor systemd's own.
bool valid_name(std::string_view name);

// Who may have a session besides root.
struct Owner {
	std::uint32_t uid;
	std::uint32_t gid;
	bool operator==(const Owner &) const = default;
};

using Owners = std::map<std::string, Owner, std::less<>>;

class Registry {
    public:
	static constexpr std::size_t max_sessions = 1024;

	// A new one, for no session.
	static Result<Registry> create();
	// Over one that is there. EBADMSG: it is damaged, or of a version that
	// this luod does not read; nothing is changed then.
	static Result<Registry> open(Fd fd);

	const Owners &owners() const
	{
		return owners_;
	}
	// Changes the memory before it returns. ENOSPC: there are too many.
	Result<void> add(const std::string &name, Owner owner);
	void remove(std::string_view name);

	int fd() const
	{
		return fd_.get();
	}

	Registry(Registry &&other) noexcept
		: fd_(std::move(other.fd_)), at_(std::exchange(other.at_, nullptr)),
		  owners_(std::move(other.owners_))
	{
	}
	Registry &operator=(Registry &&other) noexcept
	{
		std::swap(fd_, other.fd_);
		std::swap(at_, other.at_);
		std::swap(owners_, other.owners_);
		return *this;
	}
	~Registry();

    private:
	struct Page;

	Registry(Fd fd, Page *at) : fd_(std::move(fd)), at_(at)
	{
	}
	static Result<Registry> map(Fd fd);
	void write();

	Fd fd_;
	Page *at_;
	Owners owners_;
};

} // namespace luod
