// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/*
 * libliveupdate in C++20: descriptors as owned types, errors as values.
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
 * Every call gives a Result: the value, or the errno as a std::error_code; then
 * liveupdate::message() has the reason as a sentence. What owns a descriptor
 * closes it. Nothing throws but for want of memory, and nothing is shared.
 *
 * A Result is a std::expected, which is of C++23. In C++20 it is the tl::expected
 * that became it (Debian's libexpected-dev), with the same members. Older C++ can
 * use <liveupdate.h>.
 */
#pragma once

#if __cplusplus < 202002L
#error "<liveupdate.hpp> needs C++20; <liveupdate.h> is for older C++, too"
#endif

#include <version>
#ifdef __cpp_lib_expected
#include <expected>
#elif __has_include(<tl/expected.hpp>)
#include <tl/expected.hpp>
#else
#error "<liveupdate.hpp> needs std::expected (C++23), or tl/expected.hpp (libexpected-dev)"
#endif

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

#include <liveupdate.h>

namespace liveupdate {

#ifdef __cpp_lib_expected
template <typename T> using Result = std::expected<T, std::error_code>;
using Failure = std::unexpected<std::error_code>;
#else
template <typename T> using Result = tl::expected<T, std::error_code>;
using Failure = tl::unexpected<std::error_code>;
#endif

inline Failure failure(int error)
{
	return Failure(std::error_code(error, std::system_category()));
}

// Why the last call of this thread failed that did.
inline std::string_view message()
{
	return ::lu_message();
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

// What a function of <liveupdate.h> returned.
inline Result<void> status(int returned)
{
	if (returned < 0)
		return failure(-returned);
	return {};
}

template <typename T> Result<T> owner(int returned)
{
	if (returned < 0)
		return failure(-returned);
	return T(Fd(returned));
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
		return status(::lu_preserve_fd(get(), fd, token));
	}

	Result<Fd> retrieve(std::uint64_t token)
	{
		return owner<Fd>(::lu_retrieve_fd(get(), token));
	}

	// The kernel lets go of what it still keeps for this session, also of
	// files that were not retrieved. After an error it can be tried again.
	Result<void> finish()
	{
		return status(::lu_finish(get()));
	}

	Result<std::string> name() const
	{
		char text[LU_NAME_SIZE];
		if (int error = ::lu_get_name(get(), text, sizeof(text)); error < 0)
			return failure(-error);
		return text;
	}

	int get() const
	{
		return fd_.get();
	}
	// What Ferry's has beyond that; EOPNOTSUPP elsewhere. See
	// <linux/liveupdate_ferry.h>.
	Result<liveupdate_ferry_session> info() const
	{
		liveupdate_ferry_session_get_info arg{};
		arg.size = sizeof(arg);
		if (int error = ::lu_session_get_info(get(), &arg); error < 0)
			return failure(-error);
		return arg.session;
	}
	Result<void> set_policy(liveupdate_ferry_policy policy, std::chrono::milliseconds deadline = {})
	{
		return status(::lu_set_policy(get(), policy,
					      static_cast<std::uint64_t>(deadline.count())));
	}
	// A retrieved session becomes one for the next kernel, with the files that
	// were retrieved, if with_files.
	Result<void> renew(bool with_files)
	{
		return status(::lu_renew(get(), with_files ? LIVEUPDATE_FERRY_RENEW_FILES : 0));
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

// Without it nobody gets the session back. Take it from getrandom(2).
using Key = std::array<std::uint8_t, LIVEUPDATE_FERRY_KEY_SIZE>;

// /dev/liveupdate. In Linux one process at a time has it open (else EBUSY), so
// open it for as long as you create or retrieve sessions, which do not need it.
class [[nodiscard]] Device {
    public:
	explicit Device(Fd fd) : fd_(std::move(fd))
	{
	}

	// Waits for up to that long while somebody else has it open.
	static Result<Device> open(std::chrono::milliseconds wait = {})
	{
		auto ms = std::clamp<long long>(wait.count(), 0, LU_WAIT_MAX);
		return owner<Device>(::lu_open(static_cast<unsigned int>(ms)));
	}

	Result<Session> create(std::string_view name)
	{
		return owner<Session>(::lu_create_session(get(), Name(name)));
	}

	Result<Session> retrieve(std::string_view name)
	{
		return owner<Session>(::lu_retrieve_session(get(), Name(name)));
	}

	// Which live update is this?
	Result<enum lu_implementation> implementation() const
	{
		int is = ::lu_get_implementation(get());
		if (is < 0)
			return failure(-is);
		return static_cast<enum lu_implementation>(is);
	}

	// What Ferry's has beyond that; EOPNOTSUPP elsewhere. See
	// <linux/liveupdate_ferry.h>.
	Result<Session> create(std::string_view name, const lu_session_options &options)
	{
		return owner<Session>(::lu_create_session_with(get(), Name(name), &options));
	}
	Result<Session> retrieve(std::string_view name, const Key &key)
	{
		return owner<Session>(
			::lu_retrieve_session_with_key(get(), Name(name), key.data()));
	}
	Result<void> discard(std::string_view name)
	{
		return status(::lu_discard_session(get(), Name(name)));
	}
	Result<liveupdate_ferry_info> info() const
	{
		return filled<liveupdate_ferry_info>(::lu_get_info);
	}
	Result<liveupdate_ferry_update> update() const
	{
		return filled<liveupdate_ferry_update>(::lu_get_update);
	}
	Result<liveupdate_ferry_failure> last_failure() const
	{
		return filled<liveupdate_ferry_failure>(::lu_get_failure);
	}
	Result<std::vector<liveupdate_ferry_session>> sessions() const
	{
		return listed<liveupdate_ferry_session>([&](auto *entries, unsigned int *nr) {
			return ::lu_list_sessions(get(), entries, sizeof(*entries), nr);
		});
	}
	// Of the session of that name: of the last kernel, or for the next.
	Result<std::vector<liveupdate_ferry_file>> files(std::string_view name, bool incoming) const
	{
		std::uint32_t flags = incoming ? LIVEUPDATE_FERRY_INCOMING : 0;
		return listed<liveupdate_ferry_file>([&](auto *entries, unsigned int *nr) {
			return ::lu_list_files(get(), Name(name), flags, entries, sizeof(*entries),
					       nr);
		});
	}

	int get() const
	{
		return fd_.get();
	}

    private:
	// With its NUL. One that no session can have becomes the empty name, which
	// the calls refuse.
	class Name {
	    public:
		explicit Name(std::string_view name)
		{
			if (name.size() < sizeof(text_) && name.find('\0') == name.npos)
				name.copy(text_, name.size());
		}
		operator const char *() const
		{
			return text_;
		}

	    private:
		char text_[LU_NAME_SIZE] = {};
	};

	template <typename T> Result<T> filled(int (*call)(int, T *)) const
	{
		T arg{};
		arg.size = sizeof(arg);
		if (int error = call(get(), &arg); error < 0)
			return failure(-error);
		return arg;
	}
	// Until the list fits: it may grow in between.
	template <typename T, typename Call> static Result<std::vector<T>> listed(Call &&call)
	{
		std::vector<T> list(8);
		for (;;) {
			auto nr = static_cast<unsigned int>(list.size());
			int error = call(list.data(), &nr);
			if (error < 0 && error != -ENOSPC)
				return failure(-error);
			list.resize(nr);
			if (!error)
				return list;
		}
	}

	Fd fd_;
};

} // namespace liveupdate
