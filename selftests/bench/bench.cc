// SPDX-License-Identifier: GPL-2.0
/*
 * One run of the benchmark, in the test machine:
 *
 *	ferry-bench before LAYOUT MIB	preserves a memfd, and jumps
 *	ferry-bench after		retrieves it in the next kernel
 *
 * The layouts are those of `layouts` below. The next kernel has to be loaded
 * already (kexec-load). Each prints one line of JSON that scripts/bench reads;
 * it works with either orchestrator. Every page is written with a value of its
 * own, and has it still in the next kernel, or the run fails.
 */
#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <linux/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

#include "selftests/lib/stamps.hh"

using liveupdate::Device;
using liveupdate::Fd;
using liveupdate::Session;

namespace {

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t token = 1;

struct Layout {
	const char *name;
	std::uint64_t stride; // in pages: one of so many is written
	bool huge; // asks for THP
	bool interleaved; // every second page of the memory is somebody else's
	unsigned int hugetlb; // logarithm of the page's size; 0: not of hugetlb
	unsigned int files = 1; // each in a session of its own, retrieved by a thread of its own
};

constexpr Layout layouts[] = {
	{"4k", 1, false, false, 0},
	{"4k-two", 1, false, false, 0, 2},
	{"interleaved", 1, false, true, 0},
	{"thp", 1, true, false, 0},
	{"sparse", 100, false, false, 0},
	{"hugetlb-2m", 512, false, false, 21},
	{"hugetlb-1g", 262144, false, false, 30},
};

struct Run {
	std::uint64_t tsc_at_jump;
	std::uint64_t tsc_khz;
	std::uint64_t files;
	std::uint64_t size; // of each
	std::uint64_t stride;
	std::uint64_t align;
};

Fd create(const char *name, std::uint64_t size, unsigned int hugetlb = 0)
{
	unsigned int flags = hugetlb ? MFD_HUGETLB | hugetlb << 26 : 0;
	Fd fd(static_cast<int>(must_call("memfd", ::memfd_create(name, MFD_CLOEXEC | flags))));
	must_call("ftruncate", ::ftruncate(fd.get(), static_cast<off_t>(size)));
	return fd;
}

// Aligned, or the kernel does not use huge pages.
std::uint64_t *map(int fd, std::uint64_t size, std::uint64_t huge = 2 << 20)
{
	void *area = ::mmap(nullptr, size + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		die("mmap", {errno, std::system_category()});
	auto *aligned = reinterpret_cast<void *>(
		(reinterpret_cast<std::uint64_t>(area) + huge - 1) & -huge);
	void *at = ::mmap(aligned, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (at == MAP_FAILED)
		die("mmap", {errno, std::system_category()});
	return static_cast<std::uint64_t *>(at);
}

std::uint64_t word_of(std::uint64_t index)
{
	return (index + 1) * 0x9e3779b97f4a7c15ull;
}

std::uint64_t align_of(const Layout &layout)
{
	return std::max<std::uint64_t>(2 << 20, 1ull << layout.hugetlb);
}

void fill(const Layout &layout, int fd, std::uint64_t size)
{
	std::uint64_t *words = map(fd, size, align_of(layout));
	if (layout.huge)
		must_call("madvise", ::madvise(words, size, MADV_HUGEPAGE));
	// The pages of another file lie between those of this one.
	Fd other = create("other", size);
	std::uint64_t *between = map(other.get(), size);
	for (std::uint64_t index = 0; index < size / page; index += layout.stride) {
		words[index * page / sizeof(*words)] = word_of(index);
		if (layout.interleaved)
			between[index * page / sizeof(*words)] = 1;
	}
	::munmap(words, size);
	::munmap(between, size);
}

std::uint64_t wrong_pages(int fd, const Run &run)
{
	std::uint64_t wrong = 0;
	std::uint64_t *words = map(fd, run.size, run.align);
	for (std::uint64_t index = 0; index < run.size / page; index += run.stride)
		wrong += words[index * page / sizeof(*words)] != word_of(index);
	return wrong;
}

// A value of a "key value" file; -1 where there is none, as with mainline.
long long value_of(const char *path, const std::string &key)
{
	std::ifstream file(path);
	std::string name;
	long long value;
	while (file >> name >> value) {
		if (name == key)
			return value;
	}
	return -1;
}

std::uint64_t free_memory()
{
	struct sysinfo info{};
	::sysinfo(&info);
	return std::uint64_t{info.freeram} * info.mem_unit;
}

// How much less free memory there was, at the worst moment, than in the beginning.
class Peak {
    public:
	Peak() : before_{free_memory()}, least_{before_}, thread_{[this] { watch(); }}
	{
	}
	std::uint64_t stop()
	{
		stop_ = true;
		thread_.join();
		return before_ - least_;
	}

    private:
	void watch()
	{
		while (!stop_) {
			least_ = std::min(least_, free_memory());
			::usleep(2000);
		}
		least_ = std::min(least_, free_memory());
	}

	std::uint64_t before_;
	std::uint64_t least_;
	std::atomic<bool> stop_ = false;
	std::thread thread_;
};

std::uint64_t allocated(const std::vector<Fd> &files)
{
	std::uint64_t bytes = 0;
	for (const Fd &fd : files) {
		struct stat st{};
		must_call("fstat", ::fstat(fd.get(), &st));
		bytes += static_cast<std::uint64_t>(st.st_blocks) * 512;
	}
	return bytes;
}

std::string session_name(std::uint64_t index)
{
	return "ferry-bench-" + std::to_string(index);
}

void print(const char *name, std::uint64_t value)
{
	std::printf("BENCH {\"%s\": %llu}\n", name, static_cast<unsigned long long>(value));
}

[[noreturn]] void jump()
{
	::syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC,
		  nullptr);
	die("kexec", {errno, std::system_category()});
}

int before(const Layout &layout, std::uint64_t mib)
{
	auto device = must("/dev/liveupdate", Device::open());
	auto run = must("stamps", Stamps<Run>::create(device));
	run->files = layout.files;
	run->size = (mib << 20) / layout.files;
	run->stride = layout.stride;
	run->align = align_of(layout);
	run->tsc_khz = measure_tsc_khz();

	std::vector<Fd> files;
	std::vector<Session> sessions;
	for (std::uint64_t index = 0; index < run->files; index++) {
		files.push_back(create("bench", run->size, layout.hugetlb));
		fill(layout, files.back().get(), run->size);
		sessions.push_back(must("session", device.create(session_name(index))));
	}

	auto moved = [] { return value_of("/proc/vmstat", "pgmigrate_success"); };
	const long long moved_before = moved();
	Peak peak;
	std::uint64_t start = clock_ns();
	for (std::uint64_t index = 0; index < run->files; index++)
		must("preserve", sessions[index].preserve(files[index].get(), token));
	std::uint64_t preserved = clock_ns();
	print("peak", peak.stop());
	print("moved", static_cast<std::uint64_t>(moved() - moved_before) * page);
	print("preserve_ns", preserved - start);
	print("allocated", allocated(files));
	std::fflush(stdout);
	run->tsc_at_jump = __rdtsc();
	jump();
}

int after()
{
	std::uint64_t tsc = __rdtsc();
	std::uint64_t booted = clock_ns(CLOCK_BOOTTIME);
	auto device = must("/dev/liveupdate", Device::open());
	auto run = must("stamps", Stamps<Run>::retrieve(device));
	std::vector<Session> sessions;
	for (std::uint64_t index = 0; index < run->files; index++)
		sessions.push_back(must("session", device.retrieve(session_name(index))));

	std::vector<Fd> files(run->files);
	std::uint64_t start = clock_ns();
	auto retrieve = [&](std::uint64_t index) {
		files[index] = must("retrieve", sessions[index].retrieve(token));
	};
	{
		std::vector<std::jthread> others;
		for (std::uint64_t index = 1; index < run->files; index++)
			others.emplace_back(retrieve, index);
		retrieve(0);
	}
	std::uint64_t retrieved = clock_ns();
	std::uint64_t *words = map(files[0].get(), run->size, run->align);
	bool first_is_there = *words == word_of(0);
	std::uint64_t tsc_at_first = __rdtsc();
	std::uint64_t finishing = clock_ns();
	for (Session &session : sessions)
		must("finish", session.finish());
	std::uint64_t finished = clock_ns();

	std::uint64_t wrong = 0;
	for (const Fd &fd : files)
		wrong += wrong_pages(fd.get(), *run.operator->());
	if (wrong || !first_is_there) {
		std::fprintf(stderr, "ferry-bench: %llu pages came back wrong\n",
			     static_cast<unsigned long long>(wrong));
		return 1;
	}
	constexpr char update[] = "/sys/kernel/debug/ferry/update";
	auto since_jump = [&](std::uint64_t at) {
		return (at - run->tsc_at_jump) * 1'000'000 / run->tsc_khz;
	};
	print("blackout_ns", since_jump(tsc));
	print("boot_ns", booted);
	print("retrieve_ns", retrieved - start);
	print("first_ns", since_jump(tsc_at_first));
	print("finish_ns", finished - finishing);
	print("carried", allocated(files));
	for (const char *key : {"metadata", "runs", "freeze_ns"}) {
		if (long long value = value_of(update, key); value >= 0)
			print(key, static_cast<std::uint64_t>(value));
	}
	std::printf("BENCH {\"complete\": 1}\n");
	return 0;
}

} // namespace

int main(int argc, char **argv)
{
	std::string what = argc > 1 ? argv[1] : "";
	if (what == "after" && argc == 2)
		return after();
	std::string layout = argc > 2 ? argv[2] : "";
	std::uint64_t mib = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
	auto *found = std::ranges::find(layouts, layout, &Layout::name);
	if (what == "before" && argc == 4 && found != std::end(layouts) && mib)
		return before(*found, mib);
	std::fprintf(stderr,
		     "usage: ferry-bench before LAYOUT MIB | after, where LAYOUT is one of");
	for (const Layout &one : layouts)
		std::fprintf(stderr, " %s", one.name);
	std::fprintf(stderr, "\n");
	return 2;
}
