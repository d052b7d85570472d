// SPDX-License-Identifier: GPL-2.0
// What goes over a kexec, and how it comes back.

#include <algorithm>
#include <filesystem>

#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/wait.h>

#include "selftests/kexec/carry.hh"

namespace {

void only_ferry(const char *why)
{
	if (mainline())
		ktap::skip(why);
}

// ---- contents ----

struct Size {
	const char *name;
	uint64_t bytes;
};

void size_before(Stage &stage, const Size &size)
{
	auto memfd = make_memfd(size.bytes);
	fill(memfd, 0, size.bytes, size.bytes + 1);
	OK(stage.session().preserve(memfd.get(), size.bytes));
	stage.note("blocks", status(memfd).st_blocks);
}

void size_after(Stage &stage, const Size &size)
{
	auto memfd = VALUE(stage.session().retrieve(size.bytes));
	CHECK_EQ(status(memfd).st_size, size.bytes);
	CHECK_EQ(status(memfd).st_blocks, stage.number("blocks"));
	CHECK(has(memfd, 0, size.bytes, size.bytes + 1));
	// What follows the last byte in its page.
	if (auto rest = size.bytes % page) {
		SYS(::ftruncate(memfd.get(), size.bytes - rest + page));
		CHECK(zero(memfd, size.bytes, page - rest));
	}
	OK(stage.session().finish());
	CHECK(has(memfd, 0, size.bytes, size.bytes + 1));
}

const Table<Size> sizes("size/",
			{
				{"empty", 0},
				{"1 byte", 1},
				{"a page less 1", page - 1},
				{"a page", page},
				{"a page and 1", page + 1},
				{"12345", 12345},
				{"1 MiB and 1", MiB + 1},
				{"64 MiB", 64 * MiB},
			},
			size_before, size_after);

// ---- holes ----

struct Range {
	uint64_t offset, length;
};

struct Sparse {
	const char *name;
	uint64_t size;
	std::vector<Range> data;
	bool extents; // have to be the same after as before
};

void sparse_before(Stage &stage, const Sparse &sparse)
{
	if (sparse.extents)
		only_ferry("mainline fills holes");
	auto memfd = make_memfd(sparse.size);
	for (auto &range : sparse.data)
		fill(memfd, range.offset, range.length, 5);
	stage.note("extents") = extents(memfd);
	stage.note("blocks", status(memfd).st_blocks);
	OK(stage.session().preserve(memfd.get(), 1));
	if (sparse.extents) {
		CHECK_EQ(status(memfd).st_blocks, stage.number("blocks"));
		CHECK(extents(memfd) == stage.note("extents"));
	}
}

bool same_extents(Stage &stage, const Fd &memfd)
{
	auto is = extents(memfd);
	if (is != stage.note("extents"))
		ktap::print("# %s instead of %s", is.c_str(), stage.note("extents").c_str());
	return is == stage.note("extents");
}

void sparse_after(Stage &stage, const Sparse &sparse)
{
	long shmem = meminfo("Shmem");
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK_EQ(status(memfd).st_size, sparse.size);
	uint64_t end = 0, look = sparse.data.size() > 100 ? page : 4 * MiB;
	for (auto &range : sparse.data) {
		auto gap = std::min(range.offset - end, look);
		CHECK(zero(memfd, end, gap));
		CHECK(zero(memfd, range.offset - gap, gap));
		if (!CHECK(has(memfd, range.offset, range.length, 5)))
			break;
		end = range.offset + range.length;
	}
	CHECK(zero(memfd, end, std::min(sparse.size - end, 4 * MiB)));
	if (!sparse.extents)
		return;
	CHECK_EQ(status(memfd).st_blocks, stage.number("blocks"));
	CHECK(near(meminfo("Shmem"), shmem + stage.number("blocks") / 2));
	CHECK(same_extents(stage, memfd));
}

// One page in a hundred.
std::vector<Range> percent(uint64_t size)
{
	std::vector<Range> data;
	for (uint64_t at = 0; at < size; at += 100 * page)
		data.push_back({at, page});
	return data;
}

const std::vector<Range> some = {{8 * MiB, MiB}, {24 * MiB, 4 * page}};

const Table<Sparse>
	sparse("sparse/",
	       {
		       {"holes at start, middle and end: contents", 32 * MiB, some, false},
		       {"holes at start, middle and end: extents", 32 * MiB, some, true},
		       {"all hole", 16 * MiB, {}, true},
		       {"one byte after a TiB", 1024 * GiB + 1, {{1024 * GiB, 1}}, true},
		       {"beyond 4 GiB",
			6 * GiB,
			{{0, page}, {4 * GiB - page, 3 * page}, {5 * GiB + 512 * MiB, 2 * MiB}},
			true},
		       {"1% of 4 GiB", 4 * GiB, percent(4 * GiB), true},
	       },
	       sparse_before, sparse_after);

BEFORE("unwritten/reads zero and stays allocated")
{
	auto memfd = make_memfd(8 * MiB);
	SYS(::fallocate(memfd.get(), 0, 2 * MiB, 4 * MiB));
	fill(memfd, 3 * MiB, MiB, 6);
	OK(stage.session().preserve(memfd.get(), 1));
	stage.note("blocks", status(memfd).st_blocks);
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK_EQ(status(memfd).st_blocks, stage.number("blocks"));
	CHECK(zero(memfd, 0, 3 * MiB));
	CHECK(has(memfd, 3 * MiB, MiB, 6));
	CHECK(zero(memfd, 4 * MiB, 4 * MiB));
	// Allocated, so writing takes no new block.
	fill(memfd, 2 * MiB, MiB, 7);
	CHECK_EQ(status(memfd).st_blocks, stage.number("blocks"));
}

BEFORE("unwritten/SEEK_DATA skips it as before")
{
	only_ferry("mainline marks it as written");
	auto memfd = make_memfd(8 * MiB);
	SYS(::fallocate(memfd.get(), 0, 2 * MiB, 4 * MiB));
	fill(memfd, 3 * MiB, MiB, 6);
	stage.note("extents") = extents(memfd);
	OK(stage.session().preserve(memfd.get(), 1));
	CHECK(extents(memfd) == stage.note("extents"));
	// Written only now.
	fill(memfd, 5 * MiB, 2 * page, 8);
	stage.note("extents") = extents(memfd);
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK(zero(memfd, 0, 3 * MiB));
	CHECK(has(memfd, 3 * MiB, MiB, 6));
	CHECK(has(memfd, 5 * MiB, 2 * page, 8));
	CHECK(same_extents(stage, memfd));
}

BEFORE("unwritten/allocated behind the end of the file")
{
	auto memfd = make_memfd();
	fill(memfd, 0, 2 * page + 10, 7);
	SYS(::fallocate(memfd.get(), FALLOC_FL_KEEP_SIZE, 0, MiB));
	OK(stage.session().preserve(memfd.get(), 1));
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK_EQ(status(memfd).st_size, 2 * page + 10);
	CHECK(has(memfd, 0, 2 * page + 10, 7));
	SYS(::ftruncate(memfd.get(), MiB));
	CHECK(zero(memfd, 2 * page + 10, MiB - 2 * page - 10));
}

// ---- memory in fragments ----

BEFORE("fragments/every second page is somebody else's")
{
	const uint64_t size = 16 * MiB;
	auto memfd = make_memfd(size), other = make_memfd(size);
	for (uint64_t at = 0; at < size; at += page) {
		fill(memfd, at, page, 11);
		fill(other, at, page, 12);
	}
	OK(stage.session().preserve(memfd.get(), 1));
}

AFTER()
{
	// What lies between is free again, and is used here; the fragments are not.
	auto churn = make_memfd(128 * MiB);
	fill(churn, 0, 128 * MiB, 13);
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK_EQ(status(memfd).st_blocks, 16 * MiB / 512);
	for (uint64_t at = 0; at < 16 * MiB; at += page) {
		if (!CHECK(has(memfd, at, page, 11)))
			break;
	}
	CHECK(has(churn, 0, 128 * MiB, 13));
	OK(stage.session().finish());
}

// KiB that neither a program nor the kernel's own counts account for.
long unaccounted()
{
	long rest = meminfo("MemTotal") - free_memory();
	for (auto key :
	     {"Buffers", "Cached", "AnonPages", "Slab", "KernelStack", "PageTables", "Percpu"})
		rest -= std::max(meminfo(key), 0l);
	return rest;
}

bool runs(const std::string &task)
{
	for (auto &entry : std::filesystem::directory_iterator("/proc"))
		if (read_file((entry.path() / "comm").c_str()) == task + "\n")
			return true;
	return false;
}

// Does this kernel free what lies between with all other memory, when it initialises the struct
// pages?
bool deferred_init()
{
	const int status =
		std::system("zcat /proc/config.gz | grep -q ^CONFIG_DEFERRED_STRUCT_PAGE_INIT=y");
	REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) < 2);
	return !WEXITSTATUS(status);
}

constexpr uint64_t many_pages = 192 * MiB / page;

// Every second page, of twice as many.
void preserve_many(Stage &stage)
{
	auto memfd = make_memfd(many_pages * page), other = make_memfd(many_pages * page);
	Map map(memfd, many_pages * page), between(other, many_pages * page);
	for (uint64_t i = 0; i < many_pages; i++) {
		reinterpret_cast<uint64_t *>(map.data() + i * page)[0] = i + 1;
		between.data()[i * page] = 1;
	}
	OK(stage.session().preserve(memfd.get(), 1));
	// Or else the files of other cases come to lie there.
	stage.keep(std::move(other));
}

void retrieve_many(Stage &stage)
{
	auto memfd = VALUE(stage.session().retrieve(1));
	Map map(memfd, many_pages * page, PROT_READ);
	uint64_t wrong = 0;
	for (uint64_t i = 0; i < many_pages; i++)
		wrong += reinterpret_cast<uint64_t *>(map.data() + i * page)[0] != i + 1;
	CHECK_EQ(wrong, 0);
	OK(stage.session().finish());
}

BEFORE("fragments/what lies between many is free in the end")
{
	preserve_many(stage);
	stage.note("unaccounted", unaccounted());
}

AFTER()
{
	CHECK(wait_for([] { return !runs("kho_free"); }));
	const auto log = kernel_log();
	const auto at = log.find(" pages that lie between preserved ones are free now");
	if (!deferred_init()) {
		REQUIRE(at != log.npos);
		const auto freed = std::atol(log.c_str() + log.rfind(' ', at - 1));
		ktap::print("# %ld pages were freed after the boot", freed);
		CHECK(freed > long(many_pages / 4));
	}
	const long is = unaccounted(), was = long(stage.number("unaccounted"));
	ktap::print("# nobody has %ld KiB, and had %ld", is, was);
	CHECK(is < was + long(many_pages * page / KiB / 4));
	retrieve_many(stage);
}

// ---- what need not be measured anew ----

// What the timer of the local APIC multiplies nanoseconds with; 0 where the TSC is the timer.
long apic_timer()
{
	const auto timers = read_file("/proc/timer_list");
	const auto at = timers.find("Clock Event Device: lapic\n");
	const auto mult = timers.find("mult:", at);
	return at == timers.npos || mult == timers.npos ? 0 : std::atol(timers.c_str() + mult + 5);
}

void check_apic_timer(Stage &stage)
{
	CHECK(kernel_log().find("The last kernel knew the rate of the APIC timer") !=
	      std::string::npos);
	CHECK_EQ(apic_timer(), stage.number("mult"));
}

BEFORE("clock/the rate of the APIC timer is handed over")
{
	const long mult = apic_timer();
	if (mult <= 1)
		ktap::skip("the timer of this CPU is not that of its APIC, or is the TSC");
	stage.note("mult", mult);
}

AFTER()
{
	check_apic_timer(stage);
}

AFTER()
{
	check_apic_timer(stage);
}

// ---- too little memory ----

long vmstat(const char *key)
{
	auto all = "\n" + read_file("/proc/vmstat");
	auto at = all.find("\n" + std::string(key) + " ");
	return at == all.npos ? -1 : std::atol(all.c_str() + at + std::strlen(key) + 2);
}

// Does a process live that writes to so much memory?
bool lives_with(uint64_t size)
{
	const pid_t child = SYS(::fork());
	if (!child) {
		void *all = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (all == MAP_FAILED)
			std::_Exit(1);
		for (uint64_t at = 0; at < size; at += page)
			static_cast<volatile char *>(all)[at] = 1;
		std::_Exit(0);
	}
	int status;
	SYS(::waitpid(child, &status, 0));
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

BEFORE("pieces/some are free for early boot, the others before somebody is killed")
{
	if (deferred_init())
		ktap::skip("this kernel has nothing to give up");
	preserve_many(stage);
}

// The thread that would free it is not there in this kernel.
AFTER()
{
	const auto log = kernel_log();
	REQUIRE(log.find("initcall kho_start_freeing blacklisted") != log.npos);
	REQUIRE(!runs("kho_free"));
	// Of the zone above 4 GiB, which is too small to have enough in larger pieces.
	const auto at = log.find(" pages that lie between preserved ones are free already");
	REQUIRE(at != log.npos);
	const auto early = std::atol(log.c_str() + log.rfind(' ', at - 1));
	ktap::print("# %ld pages were freed at once", early);
	CHECK(early > 0);
	CHECK(early < long(many_pages / 2));
	const long killed = vmstat("oom_kill"), before = free_memory();
	constexpr long more = 32 * MiB / KiB;
	REQUIRE(killed >= 0);
	CHECK(lives_with((before + more) * KiB));
	CHECK_EQ(vmstat("oom_kill"), killed);
	check_freed(before, more / 2);
	retrieve_many(stage);
}

BEFORE("memory cgroup/no room the first time")
{
	only_ferry("mainline loses the file, or has the task killed");
	auto memfd = make_memfd(32 * MiB);
	fill(memfd, 0, 32 * MiB, 14);
	OK(stage.session().preserve(memfd.get(), 1));
}

AFTER()
{
	constexpr char top[] = "/tmp/cgroup", small[] = "/tmp/cgroup/small";
	::mkdir(top, 0700);
	if (::mount("none", top, "cgroup2", 0, nullptr) && errno != EBUSY)
		ktap::skip("no cgroups here");
	auto set = [](const std::string &path, const char *value) {
		return write_file(path.c_str(), value);
	};
	if (!set(std::string(top) + "/cgroup.subtree_control", "+memory"))
		ktap::skip("no memory cgroups here");
	SYS(::mkdir(small, 0700));
	CHECK(set(std::string(small) + "/memory.max", "16M"));
	CHECK(set(std::string(small) + "/cgroup.procs", "0"));
	FAILS(stage.session().retrieve(1), ENOMEM);
	FAILS(stage.session().retrieve(1), ENOMEM);
	// All of it was given back.
	CHECK(std::atoll(read_file("/tmp/cgroup/small/memory.current").c_str()) < 16 * 1024 * 1024);
	CHECK(set(std::string(small) + "/memory.max", "64M"));
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK(std::atoll(read_file("/tmp/cgroup/small/memory.current").c_str()) >=
	      32 * 1024 * 1024);
	CHECK(set(std::string(top) + "/cgroup.procs", "0"));
	CHECK(has(memfd, 0, 32 * MiB, 14));
	CHECK_EQ(status(memfd).st_blocks, 32 * MiB / 512);
	OK(stage.session().finish());
	memfd.reset();
	CHECK(std::atoll(read_file("/tmp/cgroup/small/memory.current").c_str()) < 16 * 1024 * 1024);
	SYS(::rmdir(small));
	SYS(::umount(top));
}

BEFORE("memory cgroup/full when a file is preserved")
{
	constexpr char top[] = "/tmp/cgroup", full[] = "/tmp/cgroup/full";
	// Sixteen bytes for each page of it are 768 KiB.
	const uint64_t size = 192 * MiB;
	::mkdir(top, 0700);
	if (::mount("none", top, "cgroup2", 0, nullptr) && errno != EBUSY)
		ktap::skip("no cgroups here");
	if (!write_file("/tmp/cgroup/cgroup.subtree_control", "+memory"))
		ktap::skip("no memory cgroups here");
	SYS(::mkdir(full, 0700));
	CHECK(write_file("/tmp/cgroup/full/cgroup.procs", "0"));
	auto memfd = make_memfd(size);
	fill(memfd, 0, size, 15);
	// Nothing of it can be swapped out, and each of two CPUs has charged 256 KiB ahead at the
	// most: so there is room for 576 KiB. Whoever takes more is killed.
	auto used = std::atoll(read_file("/tmp/cgroup/full/memory.current").c_str());
	CHECK(used >= (long long)size);
	CHECK(write_file("/tmp/cgroup/full/memory.max", std::to_string(used + 64 * 1024)));
	OK(stage.session().preserve(memfd.get(), 1));
	CHECK(write_file("/tmp/cgroup/full/memory.max", "max"));
	CHECK(write_file("/tmp/cgroup/cgroup.procs", "0"));
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK(has(memfd, 0, status(memfd).st_size, 15));
	OK(stage.session().finish());
}

// Lets the nth allocation fail that this thread does in the kernel.
class Failing {
    public:
	Failing()
	{
		if (::access(nth_, F_OK))
			ktap::skip("this kernel does not let allocations fail");
		for (std::string kind : {"failslab/", "fail_page_alloc/"}) {
			auto set = [&](const char *what, const char *value) {
				REQUIRE(write_file(("/sys/kernel/debug/" + kind + what).c_str(),
						   value));
			};
			set("ignore-gfp-wait", "N");
			set("verbose", "0");
			if (kind == "fail_page_alloc/")
				set("min-order", "0");
		}
		fd_.reset(SYS(::open(nth_, O_RDWR | O_CLOEXEC)));
	}
	void arm(int nth)
	{
		auto text = std::to_string(nth);
		REQUIRE(::pwrite(fd_.get(), text.data(), text.size(), 0) > 0);
	}
	// Whether one has failed since.
	bool disarm()
	{
		char left[16] = "";
		// These calls are counted, too, and may be the one that fails.
		while (::pread(fd_.get(), left, sizeof(left) - 1, 0) < 1)
			;
		while (::pwrite(fd_.get(), "0", 1, 0) < 1)
			;
		return !std::atoi(left);
	}

    private:
	static constexpr const char *nth_ = "/proc/thread-self/fail-nth";
	Fd fd_;
};

// Not the errno of something that has nothing to do with it; a copy to or from the program
// counts as an allocation.
bool lacks_memory(const std::error_code &error)
{
	if (error.value() != ENOMEM && error.value() != EFAULT)
		ktap::print("# the errno is %d", error.value());
	return error.value() == ENOMEM || error.value() == EFAULT;
}

// Two files of so many pages, those of one between those of the other.
Fd make_fragmented(uint64_t size, uint64_t seed)
{
	auto memfd = make_memfd(size), other = make_memfd(size);
	for (uint64_t at = 0; at < size; at += page) {
		fill(memfd, at, page, seed);
		fill(other, at, page, seed);
	}
	return memfd;
}

constexpr uint64_t each_failure = 80, fragment = 256 * 1024;

BEFORE("allocations/each one of a preservation and of a retrieval fails")
{
	only_ferry("mainline loses the file");
	Failing failing;
	auto memfd = make_fragmented(8 * MiB, 16);
	int failures = 0;
	for (bool failed = true; failed;) {
		auto session = VALUE(stage.device.create("failing"));
		failing.arm(failures + 1);
		auto result = session.preserve(memfd.get(), 1);
		failed = failing.disarm();
		failures += failed;
		CHECK(result.has_value() || (failed && lacks_memory(result.error())));
		if (result.has_value())
			continue;
		// Nothing is left behind that is in the way; or it was done, and only the
		// answer could not be written.
		auto again = session.preserve(memfd.get(), 1);
		CHECK(again.has_value() ||
		      (result.error().value() == EFAULT && again.error().value() == EEXIST));
	}
	ktap::print("# %d allocations, and copies", failures);
	CHECK(failures > 10);
	CHECK(has(memfd, 0, 8 * MiB, 16));
	SYS(::ftruncate(memfd.get(), 0));

	for (uint64_t token = 1; token <= each_failure; ++token)
		OK(stage.session().preserve(make_fragmented(fragment, token).get(), token));
}

AFTER()
{
	Failing failing;
	auto &session = stage.session();
	bool failed = true;
	int failures = 0;
	for (uint64_t token = 1; token <= each_failure; ++token) {
		failing.arm(static_cast<int>(token));
		auto result = session.retrieve(token);
		failed = failing.disarm();
		failures += failed;
		CHECK(result.has_value() || (failed && lacks_memory(result.error())));
		// What could not be had the first time can be had now, and is whole.
		auto memfd = VALUE(session.retrieve(token));
		CHECK(has(memfd, 0, fragment, token));
		CHECK_EQ(status(memfd).st_blocks, fragment / 512);
	}
	ktap::print("# %d allocations, and copies", failures);
	CHECK(failures > 10);
	// There are no more than were tried.
	CHECK(!failed);
	OK(session.finish());
}

// ---- huge pages ----

BEFORE("huge pages/stay huge")
{
	const uint64_t size = 8 * MiB;
	if (!write_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise\n"))
		ktap::skip("no huge pages for shmem in this kernel");
	auto memfd = make_memfd(size);
	// Aligned, or the kernel does not use them.
	auto area = static_cast<char *>(SYS(
		::mmap(nullptr, size + 2 * MiB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
	auto aligned = reinterpret_cast<char *>((uint64_t(area) + 2 * MiB - 1) & -2 * MiB);
	SYS(::mmap(aligned, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd.get(), 0));
	SYS(::madvise(aligned, size, MADV_HUGEPAGE));
	long before = meminfo("ShmemHugePages");
	for (uint64_t at = 0; at < size; at += page)
		aligned[at] = 1;
	long huge = meminfo("ShmemHugePages") - before;
	fill(memfd, 0, size, 9);
	::munmap(area, size + 2 * MiB);
	if (!huge)
		ktap::skip("the kernel gave no huge pages");
	stage.note("huge", huge);
	OK(stage.session().preserve(memfd.get(), 1));
	CHECK(near(meminfo("ShmemHugePages"), before + huge));
}

AFTER()
{
	long before = meminfo("ShmemHugePages");
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK(near(meminfo("ShmemHugePages"), before + stage.number("huge")));
	CHECK_EQ(status(memfd).st_blocks, 8 * MiB / 512);
	CHECK(has(memfd, 0, 8 * MiB, 9));
	OK(stage.session().finish());
	// They can be split and freed like any others.
	SYS(::fallocate(memfd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page, page));
	SYS(::ftruncate(memfd.get(), 4 * MiB + page));
	CHECK(has(memfd, 0, page, 9));
	CHECK(zero(memfd, page, page));
	CHECK(has(memfd, 2 * page, 4 * MiB - page, 9));
	memfd.reset();
	CHECK(near(meminfo("ShmemHugePages"), before));
}

// ---- swap ----

BEFORE("swap/pages that are swapped out")
{
	const uint64_t size = 8 * MiB;
	if (::access("/dev/zram0", F_OK))
		ktap::skip("no /dev/zram0 to swap to");
	if (!write_file("/sys/block/zram0/disksize", "64M") ||
	    std::system("mkswap /dev/zram0 >/dev/null") || ::swapon("/dev/zram0", 0))
		ktap::skip("no swap on /dev/zram0");
	auto memfd = make_memfd(size);
	fill(memfd, 0, size, 10);
	{
		Map map(memfd, size);
		for (uint64_t at = 0; at < size; at += page)
			(void)*static_cast<volatile char *>(map.data() + at);
		::madvise(map.data(), size, MADV_PAGEOUT);
	}
	long out = meminfo("SwapTotal") - meminfo("SwapFree");
	ktap::print("# %ld KiB are swapped out", out);
	if (out < 1024) {
		::swapoff("/dev/zram0");
		ktap::skip("the kernel swapped nothing out");
	}
	OK(stage.session().preserve(memfd.get(), 1));
	CHECK(has(memfd, 0, size, 10));
	// And what is preserved stays in memory.
	{
		Map map(memfd, size);
		(void)*static_cast<volatile char *>(map.data());
		::madvise(map.data(), size, MADV_PAGEOUT);
	}
	CHECK_EQ(meminfo("SwapTotal") - meminfo("SwapFree"), 0);
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK(has(memfd, 0, 8 * MiB, 10));
}

// ---- seals and mode ----

struct Seals {
	const char *name;
	unsigned create; // MFD_*
	int always; // F_SEAL_*, on top of each combination
	const char *not_mainline; // why
};

// All combinations of the seals but F_SEAL_EXEC.
int combination(int i)
{
	return (i & 1 ? F_SEAL_SHRINK : 0) | (i & 2 ? F_SEAL_GROW : 0) |
	       (i & 4 ? F_SEAL_WRITE : 0) | (i & 8 ? F_SEAL_FUTURE_WRITE : 0) |
	       (i & 16 ? F_SEAL_SEAL : 0);
}

void seals_before(Stage &stage, const Seals &row)
{
	if (row.not_mainline)
		only_ferry(row.not_mainline);
	for (int i = 0; i < 32; i++) {
		auto nr = std::to_string(i);
		auto memfd = make_memfd(page, row.create);
		fill(memfd, 0, page, i + 1);
		SYS(::fcntl(memfd.get(), F_ADD_SEALS, combination(i) | row.always));
		stage.note("seals" + nr, SYS(::fcntl(memfd.get(), F_GET_SEALS)));
		stage.note("mode" + nr, status(memfd).st_mode);
		OK(stage.session().preserve(memfd.get(), i));
	}
}

// The seals are in force.
void seals_hold(const Fd &memfd, int seals)
{
	if (seals & F_SEAL_GROW)
		CHECK_ERRNO(::ftruncate(memfd.get(), 2 * page), EPERM);
	else
		SYS(::ftruncate(memfd.get(), 2 * page));
	if (seals & F_SEAL_SHRINK)
		CHECK_ERRNO(::ftruncate(memfd.get(), 1), EPERM);
	if (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		CHECK_ERRNO(::pwrite(memfd.get(), "x", 1, 0), EPERM);
	else
		SYS(::pwrite(memfd.get(), "x", 1, 0));
	if (seals & F_SEAL_SEAL)
		CHECK_ERRNO(::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_GROW), EPERM);
	if (seals & F_SEAL_EXEC)
		CHECK_ERRNO(::fchmod(memfd.get(), status(memfd).st_mode ^ 0111), EPERM);
}

void seals_after(Stage &stage, const Seals &)
{
	for (int i = 0; i < 32; i++) {
		auto nr = std::to_string(i);
		auto memfd = VALUE(stage.session().retrieve(i));
		int seals = SYS(::fcntl(memfd.get(), F_GET_SEALS));
		CHECK_EQ(seals, stage.number("seals" + nr));
		CHECK_EQ(status(memfd).st_mode, stage.number("mode" + nr));
		CHECK(has(memfd, 0, page, i + 1));
		seals_hold(memfd, seals);
	}
}

const Table<Seals>
	seals("seals/",
	      {
		      {"all combinations", MFD_ALLOW_SEALING, 0, nullptr},
		      {"all combinations, executable and F_SEAL_EXEC", MFD_ALLOW_SEALING | MFD_EXEC,
		       F_SEAL_EXEC, nullptr},
		      {"all combinations, MFD_NOEXEC_SEAL", MFD_NOEXEC_SEAL, 0,
		       "mainline does not keep the mode, and so adds seals to F_SEAL_EXEC"},
	      },
	      seals_before, seals_after);

BEFORE("seals/a memfd that takes none")
{
	auto memfd = make_memfd(page, 0);
	OK(stage.session().preserve(memfd.get(), 1));
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK_EQ(SYS(::fcntl(memfd.get(), F_GET_SEALS)), F_SEAL_SEAL);
}

BEFORE("mode/permissions")
{
	only_ferry("mainline does not keep the mode");
	for (int mode : {0600, 0444, 0, 0777, 0640}) {
		auto memfd = make_memfd(page);
		SYS(::fchmod(memfd.get(), mode));
		OK(stage.session().preserve(memfd.get(), mode));
	}
}

AFTER()
{
	for (int mode : {0600, 0444, 0, 0777, 0640})
		CHECK_EQ(status(VALUE(stage.session().retrieve(mode))).st_mode & 07777, mode);
}

BEFORE("descriptor/is read-write and close-on-exec")
{
	OK(stage.session().preserve(make_memfd(page).get(), 1));
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK_EQ(SYS(::fcntl(memfd.get(), F_GETFD)), FD_CLOEXEC);
	CHECK_EQ(SYS(::fcntl(memfd.get(), F_GETFL)) & O_ACCMODE, O_RDWR);
}

// ---- position ----

BEFORE("position/of a file, also when it moves after preserve")
{
	static Fd files[4];
	off_t at[] = {0, 1234, 3 * page, 1ll << 40};
	for (int i = 0; i < 4; i++) {
		files[i] = make_memfd(2 * page);
		if (i != 1)
			SYS(::lseek(files[i].get(), at[i], SEEK_SET));
		OK(stage.session().preserve(files[i].get(), i));
	}
	SYS(::lseek(files[1].get(), at[1], SEEK_SET));
}

AFTER()
{
	off_t at[] = {0, 1234, 3 * page, 1ll << 40};
	for (int i = 0; i < 4; i++)
		CHECK_EQ(SYS(::lseek(VALUE(stage.session().retrieve(i)).get(), 0, SEEK_CUR)),
			 at[i]);
}

// ---- data that comes after preserve ----

BEFORE("late data/in pages and in holes")
{
	auto memfd = make_memfd(16 * MiB);
	fill(memfd, 0, 4 * MiB, 11);
	OK(stage.session().preserve(memfd.get(), 1));
	fill(memfd, 2 * MiB, page, 12);
	fill(memfd, 8 * MiB + page, 3 * page, 13);
	Map map(memfd, 16 * MiB);
	std::memcpy(map.data() + MiB, "mapped", 6);
	std::memcpy(map.data() + 12 * MiB, "mapped hole", 11);
	auto begin = map.data() + 15 * MiB;
	std::memset(begin, 'z', MiB);
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK(has(memfd, 0, MiB, 11));
	CHECK(has(memfd, 2 * MiB, page, 12));
	CHECK(has(memfd, 2 * MiB + page, 2 * MiB - page, 11));
	CHECK(has(memfd, 8 * MiB + page, 3 * page, 13));
	CHECK(zero(memfd, 4 * MiB, 4 * MiB + page));
	CHECK(zero(memfd, 9 * MiB, 3 * MiB));
	Map map(memfd, 16 * MiB, PROT_READ);
	CHECK(!std::memcmp(map.data() + MiB, "mapped", 6));
	CHECK(!std::memcmp(map.data() + 12 * MiB, "mapped hole", 11));
	CHECK(std::all_of(map.data() + 15 * MiB, map.data() + 16 * MiB,
			  [](char c) { return c == 'z'; }));
}

// A process writes into hole after hole until the machine jumps, also while the
// kernel freezes. Page 0 counts what is done: all of that, and at most one page
// more, has to be there.
constexpr uint64_t writer_pages = 32768;

BEFORE("late data/a writer that runs until the jump")
{
	auto memfd = make_memfd((writer_pages + 1) * page);
	SYS(::pwrite(memfd.get(), "\0\0\0\0\0\0\0", 8, 0));
	OK(stage.session().preserve(memfd.get(), 1));
	if (SYS(::fork()))
		return;
	::setsid(); // or else it dies with the console's shell, before the jump
	auto words = static_cast<volatile uint64_t *>(::mmap(nullptr, (writer_pages + 1) * page,
							     PROT_READ | PROT_WRITE, MAP_SHARED,
							     memfd.get(), 0));
	// Slowly, and not too many, so that there are holes left at the end; then, between the load
	// of the next kernel and the jump, as fast as it goes. Where that takes very long, slowly
	// again.
	constexpr uint64_t many = writer_pages / 4;
	bool loaded = false;
	for (uint64_t i = 1;; i++) {
		words[(1 + i % writer_pages) * page / 8] = i;
		words[0] = i;
		while (!loaded) {
			::usleep(1000);
			loaded = kexec_loaded();
			if (i < many)
				break;
		}
		if (i > 3 * many)
			::usleep(20'000);
	}
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	Map map(memfd, (writer_pages + 1) * page, PROT_READ);
	auto words = reinterpret_cast<uint64_t *>(map.data());
	uint64_t done = words[0], wrong = 0;
	ktap::print("# %llu pages were written", (unsigned long long)done);
	CHECK(done > 0);
	CHECK(done < writer_pages); // or else it proves nothing
	for (uint64_t i = done; i > 0 && i + writer_pages > done + 1; i--)
		wrong += words[(1 + i % writer_pages) * page / 8] != i;
	CHECK_EQ(wrong, 0);
}

// ---- tokens, names, numbers ----

BEFORE("tokens/the smallest and the greatest")
{
	uint64_t all[] = {0, ~0ull, 1, 1ull << 63, 0xffffffff};
	for (auto token : all) {
		auto memfd = make_memfd(page);
		fill(memfd, 0, page, token);
		OK(stage.session().preserve(memfd.get(), token));
	}
}

AFTER()
{
	uint64_t all[] = {1ull << 63, 1, 0, 0xffffffff, ~0ull};
	FAILS(stage.session().retrieve(2), ENOENT);
	for (auto token : all)
		CHECK(has(VALUE(stage.session().retrieve(token)), 0, page, token));
	FAILS(stage.session().retrieve(~0ull - 1), ENOENT);
}

const std::string odd_names[] = {
	std::string(63, 'n'), "/", "a b\tc", "%s%n", "\x01\x7f\xff\xfe", "line\nbreak", "../../etc",
};

BEFORE("names/any bytes")
{
	for (auto &name : odd_names) {
		auto session = VALUE(stage.device.create(name));
		auto memfd = make_memfd();
		SYS(::write(memfd.get(), name.data(), name.size()));
		OK(session.preserve(memfd.get(), 1));
		stage.keep(std::move(session));
	}
}

AFTER()
{
	for (auto &name : odd_names) {
		auto session = VALUE(stage.device.retrieve(name));
		CHECK(VALUE(session.name()) == name);
		auto memfd = VALUE(session.retrieve(1));
		char text[64] = {};
		SYS(::pread(memfd.get(), text, 63, 0));
		CHECK(text == name);
	}
	FAILS(stage.device.retrieve(std::string(62, 'n')), ENOENT);
}

BEFORE("sessions/100, in another order")
{
	for (int i = 0; i < 100; i++) {
		auto session = VALUE(stage.device.create("many-" + std::to_string(i)));
		for (int j = 0; j < 3; j++) {
			auto memfd = make_memfd();
			fill(memfd, 0, page, i * 3 + j);
			OK(session.preserve(memfd.get(), j));
		}
		stage.keep(std::move(session));
	}
}

AFTER()
{
	for (int i = 99; i >= 0; i--) {
		auto session = VALUE(stage.device.retrieve("many-" + std::to_string(i * 37 % 100)));
		for (int j = 2; j >= 0; j--)
			if (!has(VALUE(session.retrieve(j)), 0, page, i * 37 % 100 * 3 + j))
				CHECK(!"contents");
		OK(session.finish());
	}
}

BEFORE("sessions/without files")
{
	stage.session();
}

AFTER()
{
	FAILS(stage.session().retrieve(0), ENOENT);
	OK(stage.session().finish());
}

BEFORE("sessions/closed before the kexec are not there")
{
	auto session = VALUE(stage.device.create("closed before"));
	OK(session.preserve(make_memfd(page).get(), 1));
}

AFTER()
{
	FAILS(stage.device.retrieve("closed before"), ENOENT);
}

// ---- after the retrieve ----

BEFORE("retrieved memfd/grows, shrinks, is punched and sealed")
{
	auto memfd = make_memfd(8 * page);
	fill(memfd, 0, 8 * page, 14);
	OK(stage.session().preserve(memfd.get(), 1));
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	for (int i = 0; i < 2; i++) { // before and after finish
		SYS(::ftruncate(memfd.get(), 16 * page));
		CHECK(zero(memfd, 8 * page, 8 * page));
		SYS(::fallocate(memfd.get(), 0, 16 * page, page));
		fill(memfd, 12 * page, 8 * page, 15);
		CHECK_EQ(status(memfd).st_size, 20 * page);
		SYS(::fallocate(memfd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * page,
				page));
		CHECK(has(memfd, 0, 2 * page, 14));
		CHECK(zero(memfd, 2 * page, page));
		CHECK(has(memfd, 3 * page, 5 * page, 14));
		CHECK(has(memfd, 12 * page, 8 * page, 15));
		SYS(::ftruncate(memfd.get(), 8 * page));
		{
			Map map(memfd, 8 * page);
			std::memcpy(map.data() + 2 * page, "again", 5);
		}
		if (!i)
			OK(stage.session().finish());
	}
	SYS(::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE));
	CHECK_ERRNO(::ftruncate(memfd.get(), 16 * page), EPERM);
	CHECK_ERRNO(::pwrite(memfd.get(), "x", 1, 0), EPERM);
	CHECK(has(memfd, 3 * page, 5 * page, 14));
}

BEFORE("memory/is counted, charged, and free after close")
{
	auto memfd = make_memfd();
	fill(memfd, 0, 32 * MiB, 16);
	OK(stage.session().preserve(memfd.get(), 1));
}

AFTER()
{
	const char *cgroup = "/sys/fs/cgroup/ferry-test";
	bool charged = write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory") &&
		       !::mkdir(cgroup, 0755);
	if (charged)
		CHECK(write_file("/sys/fs/cgroup/ferry-test/cgroup.procs", "0"));
	else
		ktap::print("# no memory cgroups here");
	const long shmem = meminfo("Shmem"), before = free_memory();
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK_EQ(status(memfd).st_blocks, 32 * MiB / 512);
	CHECK(near(meminfo("Shmem"), shmem + 32 * 1024));
	if (charged) {
		auto stat = read_file("/sys/fs/cgroup/ferry-test/memory.stat");
		auto at = stat.find("\nshmem ");
		REQUIRE(at != stat.npos);
		CHECK(std::atoll(stat.c_str() + at + 7) >= (long long)(32 * MiB));
		CHECK(write_file("/sys/fs/cgroup/cgroup.procs", "0"));
	}
	OK(stage.session().finish());
	CHECK(near(meminfo("Shmem"), shmem + 32 * 1024));
	memfd.reset();
	CHECK(near(meminfo("Shmem"), shmem));
	check_freed(before, 16 * 1024);
}

// ---- the calls after the kexec ----

BEFORE("retrieve/twice gives the same file")
{
	OK(stage.session().preserve(make_memfd(page).get(), 1));
}

AFTER()
{
	auto one = VALUE(stage.session().retrieve(1)), other = VALUE(stage.session().retrieve(1));
	CHECK(one.get() != other.get());
	CHECK_EQ(status(one).st_ino, status(other).st_ino);
	SYS(::lseek(one.get(), 100, SEEK_SET));
	CHECK_EQ(SYS(::lseek(other.get(), 0, SEEK_CUR)), 100);
	// Also when the first descriptor is closed meanwhile.
	fill(one, 0, page, 3);
	one.reset();
	other.reset();
	CHECK(has(VALUE(stage.session().retrieve(1)), 0, page, 3));
}

BEFORE("retrieve/unknown tokens and sessions ENOENT")
{
	OK(stage.session().preserve(make_memfd(page).get(), 1));
}

AFTER()
{
	FAILS(stage.session().retrieve(2), ENOENT);
	FAILS(stage.session().retrieve(0), ENOENT);
	FAILS(stage.device.retrieve("nobody"), ENOENT);
	FAILS(stage.device.retrieve(""), ENOENT);
	OK(stage.session().retrieve(1));
}

BEFORE("retrieve/a session twice EINVAL")
{
	OK(stage.session().preserve(make_memfd(page).get(), 1));
}

AFTER()
{
	stage.session();
	FAILS(stage.device.retrieve(stage.session_name()), EINVAL);
	OK(stage.session().retrieve(1));
}

BEFORE("retrieve/preserve in a retrieved session EINVAL")
{
	OK(stage.session().preserve(make_memfd(page).get(), 1));
}

AFTER()
{
	FAILS(stage.session().preserve(make_memfd(page).get(), 2), EINVAL);
	FAILS(stage.session().preserve(-1, 2), EINVAL);
	OK(stage.session().finish());
	FAILS(stage.session().preserve(make_memfd(page).get(), 2), EINVAL);
}

BEFORE("retrieve/bad arguments")
{
	OK(stage.session().preserve(make_memfd(page).get(), 1));
}

AFTER()
{
	int fd = stage.session().get();
	liveupdate_session_retrieve_fd retrieve{sizeof(retrieve) - 1, 0, 1};
	CHECK_ERRNO(::ioctl(fd, LIVEUPDATE_SESSION_RETRIEVE_FD, &retrieve), EINVAL);
	CHECK_ERRNO(::ioctl(fd, LIVEUPDATE_SESSION_RETRIEVE_FD, nullptr), EFAULT);
	liveupdate_session_finish finish{sizeof(finish), 1};
	CHECK_ERRNO(::ioctl(fd, LIVEUPDATE_SESSION_FINISH, &finish), EINVAL);
	finish = {sizeof(finish) - 1, 0};
	CHECK_ERRNO(::ioctl(fd, LIVEUPDATE_SESSION_FINISH, &finish), EINVAL);
	struct {
		liveupdate_session_finish finish;
		unsigned tail;
	} longer{{sizeof(longer), 0}, 1};
	CHECK_ERRNO(::ioctl(fd, LIVEUPDATE_SESSION_FINISH, &longer), E2BIG);
	// Nothing of that finished it.
	OK(stage.session().retrieve(1));
	longer.tail = 0;
	SYS(::ioctl(fd, LIVEUPDATE_SESSION_FINISH, &longer));
}

BEFORE("retrieve/answer cannot be written: nothing is lost")
{
	auto memfd = make_memfd(page);
	fill(memfd, 0, page, 17);
	OK(stage.session().preserve(memfd.get(), 1));
}

AFTER()
{
	auto at = SYS(
		::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	auto arg = new (at)
		liveupdate_session_retrieve_fd{sizeof(liveupdate_session_retrieve_fd), -1, 1};
	SYS(::mprotect(at, page, PROT_READ));
	CHECK_ERRNO(::ioctl(stage.session().get(), LIVEUPDATE_SESSION_RETRIEVE_FD, arg), EFAULT);
	::munmap(at, page);
	CHECK(has(VALUE(stage.session().retrieve(1)), 0, page, 17));
}

BEFORE("retrieve/a new session may have the name of an old one")
{
	OK(stage.session().preserve(make_memfd(page).get(), 1));
}

AFTER()
{
	auto fresh = VALUE(stage.device.create(stage.session_name()));
	OK(stage.session().retrieve(1));
	FAILS(fresh.retrieve(1), EINVAL);
}

BEFORE("finish/frees what was not retrieved")
{
	for (int i = 0; i < 4; i++) {
		auto memfd = make_memfd();
		fill(memfd, 0, 16 * MiB, 18 + i);
		OK(stage.session().preserve(memfd.get(), i));
	}
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(2));
	const long before = free_memory();
	OK(stage.session().finish());
	check_freed(before, 32 * 1024); // most of the 48 MiB
	for (int i = 0; i < 4; i++)
		FAILS(stage.session().retrieve(i), ENOENT);
	CHECK(has(memfd, 0, 16 * MiB, 20));
	OK(stage.session().finish());
	CHECK(VALUE(stage.session().name()) == stage.session_name());
}

BEFORE("finish/close does it as well")
{
	for (int i = 0; i < 2; i++) {
		auto memfd = make_memfd();
		fill(memfd, 0, 32 * MiB, 22 + i);
		OK(stage.session().preserve(memfd.get(), i));
	}
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	const long before = free_memory();
	stage.session().close();
	check_freed(before, 16 * 1024);
	FAILS(stage.device.retrieve(stage.session_name()), ENOENT);
	CHECK(has(memfd, 0, 32 * MiB, 23));
	SYS(::ftruncate(memfd.get(), MiB));
}

// ---- over a second kexec ----

BEFORE("again/a retrieved memfd goes over the next kexec, too")
{
	auto memfd = make_memfd(MiB);
	fill(memfd, 0, MiB, 24);
	SYS(::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_SHRINK));
	OK(stage.session().preserve(memfd.get(), 1));
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK(has(memfd, 0, MiB, 24));
	auto next = VALUE(stage.device.create(stage.session_name()));
	// It still belongs to the session that it came with.
	FAILS(next.preserve(memfd.get(), 2), EBUSY);
	OK(stage.session().finish());
	fill(memfd, MiB, MiB, 25);
	OK(next.preserve(memfd.get(), 2));
	fill(memfd, 0, page, 26);
	stage.keep(std::move(next));
}

AFTER()
{
	FAILS(stage.session().retrieve(1), ENOENT);
	auto memfd = VALUE(stage.session().retrieve(2));
	CHECK_EQ(status(memfd).st_size, 2 * MiB);
	CHECK_EQ(SYS(::fcntl(memfd.get(), F_GET_SEALS)), F_SEAL_SHRINK);
	CHECK(has(memfd, 0, page, 26));
	CHECK(has(memfd, page, MiB - page, 24));
	CHECK(has(memfd, MiB, MiB, 25));
	OK(stage.session().finish());
}

BEFORE("again/what nobody retrieved does not go over the next kexec")
{
	auto memfd = make_memfd();
	fill(memfd, 0, 16 * MiB, 27);
	OK(stage.session().preserve(memfd.get(), 1));
}

AFTER()
{
}

AFTER()
{
	FAILS(stage.device.retrieve(stage.session_name()), ENOENT);
}

BEFORE("again/nor does what was retrieved and not preserved again")
{
	auto memfd = make_memfd();
	fill(memfd, 0, MiB, 28);
	OK(stage.session().preserve(memfd.get(), 1));
}

AFTER()
{
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK(has(memfd, 0, MiB, 28));
	stage.keep(std::move(memfd));
	stage.keep(stage.session().release());
}

AFTER()
{
	FAILS(stage.device.retrieve(stage.session_name()), ENOENT);
}

// ---- what the kernel says about it ----

std::map<std::string, long long> last_update()
{
	std::map<std::string, long long> values;
	auto text = read_file("/sys/kernel/debug/ferry/update");
	for (size_t at = 0, end; at < text.size(); at = end + 1) {
		end = std::min(text.find('\n', at), text.size());
		auto space = text.find(' ', at);
		if (space < end)
			values[text.substr(at, space - at)] = std::atoll(text.c_str() + space);
	}
	return values;
}

BEFORE("update/its figures in debugfs")
{
	only_ferry("debugfs of our orchestrator");
	auto memfd = make_memfd();
	fill(memfd, 0, 4 * MiB, 30);
	OK(stage.session().preserve(memfd.get(), 1));
	CHECK_EQ(last_update()["number"], 0);
}

AFTER()
{
	auto update = last_update();
	CHECK_EQ(update["number"], 1);
	CHECK(update["sessions"] > 1);
	CHECK(update["files"] > 1);
	CHECK(update["pages"] >= (long long)(4 * MiB / page));
	for (auto key : {"runs", "metadata", "preserve_ns", "freeze_ns", "jump_ns", "boot_ns"})
		if (!CHECK(update[key] > 0))
			ktap::print("# that is: %s", key);
}

AFTER()
{
	CHECK_EQ(last_update()["number"], 2);
}

BEFORE("update/the tree can be read, before and after")
{
	only_ferry("debugfs of our orchestrator");
	OK(stage.session().preserve(make_memfd(page).get(), 1));
	auto dump = read_file("/sys/kernel/debug/ferry/out/dump");
	CHECK(dump.find(stage.session_name()) != dump.npos);
	CHECK(read_file("/sys/kernel/debug/ferry/out/fdt").starts_with("\xd0\x0d\xfe\xed"));
	CHECK(!read_file("/sys/kernel/debug/ferry/formats").empty());
}

AFTER()
{
	auto dump = read_file("/sys/kernel/debug/ferry/in/dump");
	CHECK(dump.find(stage.session_name()) != dump.npos);
	CHECK(read_file("/sys/kernel/debug/ferry/in/fdt").starts_with("\xd0\x0d\xfe\xed"));
	// It is not read as what goes out next.
	dump = read_file("/sys/kernel/debug/ferry/out/dump");
	CHECK(dump.find(stage.session_name()) == dump.npos);
}

BEFORE("update/the modules stay while a session waits")
{
	only_ferry("modules of our orchestrator");
	OK(stage.session().preserve(make_memfd(page).get(), 1));
}

AFTER()
{
	for (auto module : {"luo", "kho"}) {
		int error = unload_module(module);
		CHECK(error == EWOULDBLOCK || error == EBUSY);
	}
}

} // namespace

int carry_stage(int stage, const char *filter)
{
	return run_stage(stage, "", filter);
}

int pieces_stage(int stage, const char *filter)
{
	return run_stage(stage, "pieces/", filter);
}
