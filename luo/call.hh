// SPDX-License-Identifier: GPL-2.0
// How an ioctl is answered.
#pragma once

#include <ferry/result.hh>
#include <uapi/linux/liveupdate.h>

#include <algorithm>
#include <utility>

#include "luo/linux.h"
#include "luo/orchestrator.hh"

namespace luo {

// The argument of an ioctl: in, out, and how much of it the caller knows.
template <class Arg> class Call {
    public:
	// Errno::Inval: the caller's structure ends before the field at `needed`;
	// Errno::TooBig: it has more than this kernel knows of, and not zeros.
	ferry::Result<void> read(void *user, std::size_t needed)
	{
		user_ = user;
		TRY(ferry::check_status(linux_user_size(user, &size_)));
		if (size_ < needed)
			return ferry::fail(ferry::Errno::Inval);
		return ferry::check_status(linux_user_read(&arg, sizeof(arg), user, size_));
	}
	ferry::Result<void> respond()
	{
		return ferry::check_status(
			linux_user_write(user_, &arg, std::min<std::size_t>(size_, sizeof(arg))));
	}

	Arg arg{};

    private:
	void *user_ = nullptr;
	unsigned int size_ = 0;
};

// Answers with a descriptor. The answer goes out first: what was made or taken
// over for somebody who then cannot be told would have to be undone, and a
// session that is closed is finished.
template <class Arg, class Make> ferry::Result<void> respond_with_fd(Call<Arg> &call, Make make)
{
	int fd = TRY(ferry::check(linux_fd_reserve()));
	int before = std::exchange(call.arg.fd, fd);
	auto made = call.respond();
	if (made.has_value()) {
		ferry::Result<FileRef> file = make();
		if (file.has_value()) {
			linux_fd_install(fd, file->release());
			return {};
		}
		made = ferry::fail(file.error());
		// An error leaves the caller's structure as it was.
		call.arg.fd = before;
		(void)call.respond();
	}
	linux_fd_abandon(fd);
	return made;
}

template <std::size_t size> auto &text(__u8 (&name)[size])
{
	return reinterpret_cast<char(&)[size]>(name);
}

// Which sessions an ioctl is for.
enum class For : unsigned char {
	Outgoing,
	Incoming,
	Both,
};

struct SessionCommand {
	unsigned int command;
	For sessions;
	ferry::Result<void> (*run)(Orchestrator &orchestrator, Session &session, void *user);
};

struct DeviceCommand {
	unsigned int command;
	ferry::Result<void> (*run)(Orchestrator &orchestrator, void *user);
};

// The entry that has the number of a command; null: none has.
template <class Entry, std::size_t size>
const Entry *find_number(const Entry (&entries)[size], unsigned int command)
{
	for (const Entry &entry : entries) {
		if (_IOC_NR(entry.command) == _IOC_NR(command))
			return &entry;
	}
	return nullptr;
}

// Those of <uapi/linux/liveupdate_ferry.h>, in extension.cc. Null: it has no such number.
const DeviceCommand *find_extension(unsigned int command);
const SessionCommand *find_session_extension(unsigned int command);

} // namespace luo
