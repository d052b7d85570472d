// SPDX-License-Identifier: GPL-2.0
// What the self-tests share: memfds with known contents, and views of the kernel.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "selftests/lib/ktap.hh"
#include "selftests/lib/liveupdate.hh"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

using liveupdate::Device;
using liveupdate::Fd;
using liveupdate::Session;
using std::uint64_t;

constexpr uint64_t page = 4096;
constexpr uint64_t KiB = 1024, MiB = 1024 * KiB, GiB = 1024 * MiB;

inline std::string read_file(const char *path)
{
	std::string all;
	Fd fd(::open(path, O_RDONLY | O_CLOEXEC));
	char buffer[4096];
	ssize_t n;
	while (fd && (n = ::read(fd.get(), buffer, sizeof(buffer))) > 0)
		all.append(buffer, n);
	return all;
}

inline bool write_file(const char *path, const std::string &text)
{
	Fd fd(::open(path, O_WRONLY | O_CLOEXEC));
	return fd && ::write(fd.get(), text.data(), text.size()) == ssize_t(text.size());
}

inline bool on_cmdline(const char *word)
{
	return (" " + read_file("/proc/cmdline")).find(" " + std::string(word)) !=
	       std::string::npos;
}

// Whose /dev/liveupdate is this?
inline bool mainline()
{
	static const bool answer = on_cmdline("liveupdate=on");
	return answer;
}

// A value of /proc/meminfo, in KiB.
inline long meminfo(const char *key)
{
	auto all = "\n" + read_file("/proc/meminfo");
	auto at = all.find("\n" + std::string(key) + ":");
	return at == std::string::npos ? -1 : std::atol(all.c_str() + at + std::strlen(key) + 2);
}

inline std::string kernel_log()
{
	std::string log(SYS(::klogctl(10, nullptr, 0)), '\0'); // SIZE_BUFFER
	log.resize(SYS(::klogctl(3, log.data(), log.size()))); // READ_ALL
	return log;
}

// KiB that nobody has: also those that wait in the lists of the CPUs, which may be many, and in the
// pool of huge pages.
inline long free_memory()
{
	auto zones = read_file("/proc/zoneinfo");
	long pages = 0;
	for (size_t at = 0; (at = zones.find(" count:", at)) != zones.npos; at++)
		pages += std::atol(zones.c_str() + at + 7);
	return meminfo("MemFree") + pages * long(page / KiB) +
	       meminfo("HugePages_Free") * meminfo("Hugepagesize");
}

// Are two such values the same, but for what each CPU has not reported yet?
inline bool near(long kib, long other)
{
	if (std::labs(kib - other) <= 512)
		return true;
	ktap::print("# %ld KiB instead of %ld", kib, other);
	return false;
}

// Waits for what comes by itself, however busy the machine is. What does not come within a minute
// never does; a case that has failed already does not wait as long again.
template <typename F> bool wait_for(F condition)
{
	const auto end = std::chrono::steady_clock::now() +
			 std::chrono::seconds(ktap::current.failed ? 5 : 60);
	while (!condition()) {
		if (std::chrono::steady_clock::now() >= end)
			return condition();
		::usleep(1000);
	}
	return true;
}

// Waits until so much more (KiB) is free than was before.
inline void check_freed(long before, long freed)
{
	CHECK(wait_for([&] { return free_memory() > before + freed; }));
	ktap::print("# %ld KiB are free again, of more than %ld that are due",
		    free_memory() - before, freed);
}

// ---- memfds ----

inline Fd make_memfd(uint64_t size = 0, unsigned flags = MFD_ALLOW_SEALING)
{
	Fd fd(SYS(::memfd_create("ferry-test", MFD_CLOEXEC | flags)));
	if (size)
		SYS(::ftruncate(fd.get(), size));
	return fd;
}

inline struct stat status(const Fd &fd)
{
	struct stat st;
	SYS(::fstat(fd.get(), &st));
	return st;
}

// The bytes of a file are a function of a seed and their place in it.
inline uint64_t word_at(uint64_t seed, uint64_t index)
{
	uint64_t x = (index + seed * 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
	return x ^ (x >> 29);
}

inline void pattern(std::vector<uint64_t> &words, uint64_t offset, uint64_t seed)
{
	for (size_t i = 0; i < words.size(); i++)
		words[i] = word_at(seed, offset / 8 + i);
}

// offset is a multiple of 8; length is any.
inline void fill(const Fd &fd, uint64_t offset, uint64_t length, uint64_t seed)
{
	std::vector<uint64_t> words(std::min(length + 7, 256 * KiB) / 8);
	for (uint64_t done = 0; done < length;) {
		pattern(words, offset + done, seed);
		auto part = std::min<uint64_t>(length - done, words.size() * 8);
		part = SYS(::pwrite(fd.get(), words.data(), part, offset + done)) & ~7ull ?: part;
		done += part;
	}
}

// Are these the bytes of that seed? Of the first other one it says where it is.
inline bool has(const Fd &fd, uint64_t offset, uint64_t length, uint64_t seed)
{
	std::vector<uint64_t> want(std::min(length + 7, 256 * KiB) / 8), is(want.size());
	for (uint64_t done = 0; done < length;) {
		auto part = std::min<uint64_t>(length - done, want.size() * 8);
		if (uint64_t(SYS(::pread(fd.get(), is.data(), part, offset + done))) != part) {
			ktap::print("# short read at %llu", (unsigned long long)(offset + done));
			return false;
		}
		pattern(want, offset + done, seed);
		if (std::memcmp(want.data(), is.data(), part)) {
			size_t i = 0;
			while (want[i] == is[i])
				i++;
			ktap::print("# at %llu: %016llx instead of %016llx",
				    (unsigned long long)(offset + done + i * 8),
				    (unsigned long long)is[i], (unsigned long long)want[i]);
			return false;
		}
		done += part;
	}
	return true;
}

inline bool zero(const Fd &fd, uint64_t offset, uint64_t length)
{
	static std::vector<char> is(64 * KiB);
	static const std::vector<char> none(64 * KiB);
	for (uint64_t done = 0; done < length;) {
		auto part = std::min<uint64_t>(length - done, is.size());
		if (uint64_t(SYS(::pread(fd.get(), is.data(), part, offset + done))) != part ||
		    std::memcmp(is.data(), none.data(), part)) {
			ktap::print("# not zero between %llu and %llu",
				    (unsigned long long)(offset + done),
				    (unsigned long long)(offset + done + part));
			return false;
		}
		done += part;
	}
	return true;
}

// Where SEEK_DATA and SEEK_HOLE see data: "0-4096 8192-12288", or what stands for it when it is
// long.
inline std::string extents(const Fd &fd)
{
	std::string all;
	uint64_t hash = 14695981039346656037ull, count = 0;
	auto kept = ::lseek(fd.get(), 0, SEEK_CUR);
	for (off_t end = 0;;) {
		off_t begin = ::lseek(fd.get(), end, SEEK_DATA);
		if (begin < 0)
			break;
		end = SYS(::lseek(fd.get(), begin, SEEK_HOLE));
		char text[64];
		std::snprintf(text, sizeof(text), "%lld-%lld ", (long long)begin, (long long)end);
		if (++count <= 8)
			all += text;
		for (char *c = text; *c; c++)
			hash = (hash ^ *c) * 1099511628211ull;
	}
	::lseek(fd.get(), kept, SEEK_SET);
	if (count > 8)
		all += "... " + std::to_string(count) + " " + std::to_string(hash);
	return all;
}

// A shared mapping of a file.
class Map {
    public:
	Map(const Fd &fd, uint64_t size, int prot = PROT_READ | PROT_WRITE, uint64_t offset = 0)
		: size_(size), at_(SYS(::mmap(nullptr, size, prot, MAP_SHARED, fd.get(), offset)))
	{
	}
	~Map()
	{
		::munmap(at_, size_);
	}
	Map(const Map &) = delete;
	char *data() const
	{
		return static_cast<char *>(at_);
	}

    private:
	uint64_t size_;
	void *at_;
};

// The device, open for the length of a test.
inline Device open_device()
{
	return VALUE(Device::open());
}

// ---- kernels ----

// Is the next kernel loaded?
inline bool kexec_loaded()
{
	return read_file("/sys/kernel/kexec/loaded")[0] == '1' ||
	       read_file("/sys/kernel/kexec_loaded")[0] == '1';
}

// ---- modules ----

inline void load_module(const std::string &name)
{
	Fd fd(SYS(::open(("/lib/modules/" + name + ".ko").c_str(), O_RDONLY | O_CLOEXEC)));
	SYS(::syscall(SYS_finit_module, fd.get(), "", 0));
}

// 0 or an errno.
inline int unload_module(const char *name)
{
	return ::syscall(SYS_delete_module, name, O_NONBLOCK) < 0 ? errno : 0;
}
