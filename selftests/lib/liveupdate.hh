// SPDX-License-Identifier: GPL-2.0
/*
 * A client of /dev/liveupdate in C++23: what a VMM needs, in one header.
 *
 * Before the kexec:
 *
 *	auto device = liveupdate::Device::open();
 *	auto session = device->create("my-vm");
 *	session->preserve(memfd, 1);
 *	// keep *session open until the kexec; closing it undoes everything
 *
 * and after it:
 *
 *	auto device = liveupdate::Device::open();
 *	auto session = device->retrieve("my-vm");
 *	auto memory = session->retrieve(1);
 *	session->finish();
 *
 * Every call gives a Result: the value, or the errno as a std::error_code. What
 * owns a descriptor closes it. Nothing throws, nothing is shared.
 */
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <expected>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/liveupdate.h>

namespace liveupdate {

template <typename T> using Result = std::expected<T, std::error_code>;

inline std::unexpected<std::error_code> failure(int error)
{
	return std::unexpected(std::error_code(error, std::system_category()));
}

// An owned file descriptor.
class [[nodiscard]] Fd {
    public:
	Fd() = default;
	explicit Fd(int fd) : fd_(fd)
	{
	}
	Fd(Fd &&other) noexcept : fd_(other.release())
	{
	}
	Fd &operator=(Fd &&other) noexcept
	{
		reset(other.release());
		return *this;
	}
	~Fd()
	{
		reset();
	}

	explicit operator bool() const
	{
		return fd_ >= 0;
	}
	int get() const
	{
		return fd_;
	}
	int release()
	{
		return std::exchange(fd_, -1);
	}
	void reset(int fd = -1)
	{
		if (fd_ >= 0)
			::close(fd_);
		fd_ = fd;
	}

    private:
	int fd_ = -1;
};

// All structures of the interface begin with their size.
template <typename Arg> Result<void> call(int fd, unsigned long request, Arg &arg)
{
	arg.size = sizeof(arg);
	if (::ioctl(fd, request, &arg) < 0)
		return failure(errno);
	return {};
}

// A group of files that are carried over together. One that Device::create()
// made takes files for the next kernel; one that Device::retrieve() found
// gives back those of the last one.
class [[nodiscard]] Session {
    public:
	Session() = default;
	// Also for one that came over a socket, or from a service manager.
	explicit Session(Fd fd) : fd_(std::move(fd))
	{
	}

	// Have a file carried over; get it back with the same token. Any number
	// of them, in any order.
	Result<void> preserve(int fd, std::uint64_t token)
	{
		liveupdate_session_preserve_fd arg{};
		arg.fd = fd;
		arg.token = token;
		return call(get(), LIVEUPDATE_SESSION_PRESERVE_FD, arg);
	}

	Result<Fd> retrieve(std::uint64_t token)
	{
		liveupdate_session_retrieve_fd arg{};
		arg.token = token;
		if (auto done = call(get(), LIVEUPDATE_SESSION_RETRIEVE_FD, arg); !done)
			return std::unexpected(done.error());
		return Fd(arg.fd);
	}

	// The kernel lets go of what it still keeps for this session, also of
	// files that were not retrieved. After an error it can be tried again.
	Result<void> finish()
	{
		liveupdate_session_finish arg{};
		return call(get(), LIVEUPDATE_SESSION_FINISH, arg);
	}

	Result<std::string> name() const
	{
		liveupdate_session_get_name arg{};
		if (auto done = call(get(), LIVEUPDATE_SESSION_GET_NAME, arg); !done)
			return std::unexpected(done.error());
		auto text = reinterpret_cast<const char *>(arg.name);
		return std::string(text, ::strnlen(text, sizeof(arg.name)));
	}

	int get() const
	{
		return fd_.get();
	}
	// Before the kexec this undoes what was preserved; after it, it finishes.
	void close()
	{
		fd_.reset();
	}
	Fd release()
	{
		return std::move(fd_);
	}

    private:
	Fd fd_;
};

// /dev/liveupdate. One process at a time has it open (else EBUSY), so open it
// for as long as you create or retrieve sessions, which do not need it.
class [[nodiscard]] Device {
    public:
	static Result<Device> open(const char *path = "/dev/liveupdate")
	{
		Fd fd(::open(path, O_RDWR | O_CLOEXEC));
		if (!fd)
			return failure(errno);
		return Device(std::move(fd));
	}

	Result<Session> create(std::string_view name)
	{
		return named<liveupdate_ioctl_create_session>(LIVEUPDATE_IOCTL_CREATE_SESSION,
							      name);
	}

	Result<Session> retrieve(std::string_view name)
	{
		return named<liveupdate_ioctl_retrieve_session>(LIVEUPDATE_IOCTL_RETRIEVE_SESSION,
								name);
	}

	int get() const
	{
		return fd_.get();
	}

    private:
	explicit Device(Fd fd) : fd_(std::move(fd))
	{
	}

	template <typename Arg> Result<Session> named(unsigned long request, std::string_view name)
	{
		Arg arg{};
		if (name.size() >= sizeof(arg.name))
			return failure(EINVAL);
		std::memcpy(arg.name, name.data(), name.size());
		if (auto done = call(get(), request, arg); !done)
			return std::unexpected(done.error());
		return Session(Fd(arg.fd));
	}

	Fd fd_;
};

} // namespace liveupdate
