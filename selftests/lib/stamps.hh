// SPDX-License-Identifier: GPL-2.0
// For programs that measure an update. Figures that cross the kexec: a page of memory
// in a session of its own, and the time-stamp counter, which a kexec does not reset.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <new>

#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include "selftests/lib/liveupdate.hh"

// Such a program goes on only if all goes well.
[[noreturn]] inline void die(const std::string &what, std::error_code error)
{
	std::fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what.c_str(),
		     error.message().c_str());
	std::exit(1);
}

template <typename T> T must(const std::string &what, liveupdate::Result<T> result)
{
	if (!result)
		die(what, result.error());
	if constexpr (!std::is_void_v<T>)
		return std::move(*result);
}

// Of a system call: what it returned, if that is not negative.
inline long long must_call(const std::string &what, long long result)
{
	if (result < 0)
		die(what, {errno, std::system_category()});
	return result;
}

// Nanoseconds of one of this kernel's clocks.
inline std::uint64_t clock_ns(clockid_t clock = CLOCK_MONOTONIC)
{
	timespec now{};
	::clock_gettime(clock, &now);
	return std::uint64_t(now.tv_sec) * 1'000'000'000 + std::uint64_t(now.tv_nsec);
}

// The rate of the time-stamp counter, against this kernel's clock.
inline std::uint64_t measure_tsc_khz()
{
	std::uint64_t start = clock_ns(), tsc = __rdtsc(), now;
	do
		now = clock_ns();
	while (now - start < 100'000'000);
	return (__rdtsc() - tsc) * 1'000'000 / (now - start);
}

// A T that the next kernel's program finds again, as it was at the jump.
template <typename T> class Stamps {
    public:
	static constexpr char session_name[] = "ferry-stamps";

	static liveupdate::Result<Stamps> create(liveupdate::Device &device)
	{
		auto session = device.create(session_name);
		if (!session)
			return std::unexpected(session.error());
		liveupdate::Fd fd(::memfd_create("stamps", MFD_CLOEXEC));
		if (!fd || ::ftruncate(fd.get(), size) < 0)
			return liveupdate::failure(errno);
		auto mapped = map(fd.get());
		if (!mapped)
			return std::unexpected(mapped.error());
		new (*mapped) T{};
		if (auto done = session->preserve(fd.get(), 0); !done)
			return std::unexpected(done.error());
		return Stamps(std::move(*session), *mapped);
	}

	static liveupdate::Result<Stamps> retrieve(liveupdate::Device &device)
	{
		auto session = device.retrieve(session_name);
		if (!session)
			return std::unexpected(session.error());
		auto fd = session->retrieve(0);
		if (!fd)
			return std::unexpected(fd.error());
		auto mapped = map(fd->get());
		if (!mapped)
			return std::unexpected(mapped.error());
		if (auto done = session->finish(); !done)
			return std::unexpected(done.error());
		return Stamps(std::move(*session), *mapped);
	}

	T *operator->() const
	{
		return at_;
	}

    private:
	static constexpr std::size_t size = (sizeof(T) + 4095) / 4096 * 4096;

	Stamps(liveupdate::Session session, void *at)
		: session_(std::move(session)), at_(static_cast<T *>(at))
	{
	}
	static liveupdate::Result<void *> map(int fd)
	{
		void *at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (at == MAP_FAILED)
			return liveupdate::failure(errno);
		return at;
	}

	liveupdate::Session session_;
	T *at_;
};
