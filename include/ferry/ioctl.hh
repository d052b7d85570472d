// SPDX-License-Identifier: GPL-2.0
// How an ioctl is answered whose structure begins with its size. For modules whose
// linux.h has these functions.
#pragma once

#include <ferry/file_ref.hh>
#include <ferry/kernel.h>
#include <ferry/result.hh>

#include <algorithm>
#include <utility>

#include <linux/ioctl.h>

extern "C" {
// The size that starts every argument, in bytes. Return: 0 or -EFAULT.
int(linux_user_size)(const void *user, unsigned int *size);
// copy_struct_from_user(). Return: 0, -EFAULT, or -E2BIG.
int(linux_user_read)(void *to, ferry_size size, const void *user, ferry_size user_size);
// copy_to_user(). Return: 0 or -EFAULT.
int(linux_user_write)(void *user, const void *from, ferry_size size);
// get_unused_fd_flags(O_CLOEXEC), fd_install(), put_unused_fd().
int(linux_fd_reserve)(void);
void(linux_fd_install)(int fd, struct file *file);
void(linux_fd_abandon)(int fd);
}

namespace ferry {

// The argument of an ioctl: in, out, and how much of it the caller knows.
template <class Arg> class Call {
    public:
	// Errno::Inval: the caller's structure ends before the field at `needed`;
	// Errno::TooBig: it has more than this kernel knows of, and not zeros.
	Result<void> read(void *user, std::size_t needed)
	{
		user_ = user;
		TRY(check_status(linux_user_size(user, &size_)));
		if (size_ < needed)
			return fail(Errno::Inval);
		return check_status(linux_user_read(&arg, sizeof(arg), user, size_));
	}
	Result<void> respond()
	{
		return check_status(
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
template <class Arg, class Make> Result<void> respond_with_fd(Call<Arg> &call, Make make)
{
	int fd = TRY(check(linux_fd_reserve()));
	int before = std::exchange(call.arg.fd, fd);
	auto made = call.respond();
	if (made.has_value()) {
		Result<FileRef> file = make();
		if (file.has_value()) {
			linux_fd_install(fd, file->release());
			return {};
		}
		made = fail(file.error());
		// An error leaves the caller's structure as it was.
		call.arg.fd = before;
		(void)call.respond();
	}
	linux_fd_abandon(fd);
	return made;
}

template <std::size_t size> auto &text(unsigned char (&name)[size])
{
	return reinterpret_cast<char(&)[size]>(name);
}

// The key of a call, if its flags have this one; null when it has none.
template <unsigned int has_key, class Arg> Result<const unsigned char *> key_of(const Arg &arg)
{
	if (arg.flags & ~has_key)
		return fail(Errno::OpNotSupp);
	if (arg.flags & has_key)
		return arg.key;
	// Who gives a key and does not say so would believe that it counts.
	for (unsigned char byte : arg.key) {
		if (byte)
			return fail(Errno::Inval);
	}
	return nullptr;
}

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

} // namespace ferry
