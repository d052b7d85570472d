// SPDX-License-Identifier: GPL-2.0
/*
 * One run of the benchmark, in the test machine:
 *
 *	ferry-bench before LAYOUT MIB	preserves a memfd, and jumps
 *	ferry-bench after		retrieves it in the next kernel
 *
 * LAYOUT is 4k (every page written) or sparse (one page in a hundred). The next
 * kernel has to be loaded already (kexec-load). Each prints one line of JSON
 * that scripts/bench reads; it works with either orchestrator.
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include <linux/reboot.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "selftests/lib/stamps.hh"

using liveupdate::Device;
using liveupdate::Fd;

namespace {

constexpr std::uint64_t page = 4096;
constexpr char session_name[] = "ferry-bench";
constexpr std::uint64_t token = 1;

struct Run {
	std::uint64_t tsc_at_jump;
	std::uint64_t tsc_khz;
	std::uint64_t size;
	std::uint64_t stride; // in pages: one of so many is written
};

std::uint64_t *map(int fd, std::uint64_t size)
{
	void *at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		die("mmap", {errno, std::system_category()});
	return static_cast<std::uint64_t *>(at);
}

std::uint64_t word_of(std::uint64_t index)
{
	return (index + 1) * 0x9e3779b97f4a7c15ull;
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

int before(const std::string &layout, std::uint64_t mib)
{
	if (layout != "4k" && layout != "sparse") {
		std::fprintf(stderr, "ferry-bench: there is no layout '%s'\n", layout.c_str());
		return 2;
	}
	auto device = must("/dev/liveupdate", Device::open());
	auto run = must("stamps", Stamps<Run>::create(device));
	run->size = mib << 20;
	run->stride = layout == "4k" ? 1 : 100;
	run->tsc_khz = measure_tsc_khz();

	Fd fd(static_cast<int>(must_call("memfd", ::memfd_create("bench", MFD_CLOEXEC))));
	must_call("ftruncate", ::ftruncate(fd.get(), static_cast<off_t>(run->size)));
	std::uint64_t *words = map(fd.get(), run->size);
	for (std::uint64_t index = 0; index < run->size / page; index += run->stride)
		words[index * page / sizeof(*words)] = word_of(index);

	auto session = must("session", device.create(session_name));
	std::uint64_t start = clock_ns();
	must("preserve", session.preserve(fd.get(), token));
	std::uint64_t preserved = clock_ns();

	struct stat st;
	::fstat(fd.get(), &st);
	std::printf("BENCH {\"preserve_ns\": %llu, \"allocated\": %llu}\n",
		    static_cast<unsigned long long>(preserved - start),
		    static_cast<unsigned long long>(st.st_blocks) * 512);
	std::fflush(stdout);
	run->tsc_at_jump = __rdtsc();
	must_call("kexec", ::syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
				     LINUX_REBOOT_CMD_KEXEC, nullptr));
	return 1;
}

int after()
{
	std::uint64_t tsc = __rdtsc();
	std::uint64_t booted = clock_ns(CLOCK_BOOTTIME);
	auto device = must("/dev/liveupdate", Device::open());
	auto run = must("stamps", Stamps<Run>::retrieve(device));
	auto session = must("session", device.retrieve(session_name));

	std::uint64_t start = clock_ns();
	Fd fd = must("retrieve", session.retrieve(token));
	std::uint64_t retrieved = clock_ns();
	must("finish", session.finish());
	std::uint64_t finished = clock_ns();

	std::uint64_t wrong = 0;
	std::uint64_t *words = map(fd.get(), run->size);
	for (std::uint64_t index = 0; index < run->size / page; index += run->stride)
		wrong += words[index * page / sizeof(*words)] != word_of(index);
	if (wrong) {
		std::fprintf(stderr, "ferry-bench: %llu pages came back wrong\n",
			     static_cast<unsigned long long>(wrong));
		return 1;
	}
	struct stat st;
	::fstat(fd.get(), &st);
	constexpr char update[] = "/sys/kernel/debug/ferry/update";
	std::printf("BENCH {\"retrieve_ns\": %llu, \"finish_ns\": %llu, \"blackout_ns\": %llu, "
		    "\"boot_ns\": %llu, \"carried\": %llu, \"metadata\": %lld, \"runs\": %lld, "
		    "\"freeze_ns\": %lld}\n",
		    static_cast<unsigned long long>(retrieved - start),
		    static_cast<unsigned long long>(finished - retrieved),
		    static_cast<unsigned long long>((tsc - run->tsc_at_jump) * 1'000'000 /
						    run->tsc_khz),
		    static_cast<unsigned long long>(booted),
		    static_cast<unsigned long long>(st.st_blocks) * 512,
		    value_of(update, "metadata"), value_of(update, "runs"),
		    value_of(update, "freeze_ns"));
	return 0;
}

} // namespace

int main(int argc, char **argv)
{
	std::string what = argc > 1 ? argv[1] : "";
	if (what == "before" && argc == 4)
		return before(argv[2], std::strtoull(argv[3], nullptr, 10));
	if (what == "after" && argc == 2)
		return after();
	std::fprintf(stderr, "usage: ferry-bench before 4k|sparse MIB | after\n");
	return 2;
}
