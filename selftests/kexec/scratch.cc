// SPDX-License-Identifier: GPL-2.0
// KHO's scratch areas are too small for what the next kernel needs early in its boot.

#include "selftests/kexec/carry.hh"

namespace {

// Of nearly all memory a page remains here and there: nowhere is a GiB in one piece, as that would
// be scratch memory in any case.
constexpr uint64_t step = 8 * MiB, spared = 128 * MiB;

Fd nearly_all(uint64_t &size)
{
	size = (free_memory() * KiB - spared) / step * step;
	auto memfd = make_memfd(size);
	SYS(::fallocate(memfd.get(), 0, 0, size));
	return memfd;
}

uint64_t &number_at(const Map &map, uint64_t at)
{
	return *reinterpret_cast<uint64_t *>(map.data() + at);
}

uint64_t wrong(const Map &map, uint64_t size)
{
	uint64_t count = 0;
	for (uint64_t at = 0; at < size; at += step)
		count += number_at(map, at) != at + 1;
	return count;
}

BEFORE("scratch/too small: the next kernel takes what lies between preserved memory")
{
	REQUIRE(read_file("/proc/cmdline").find("kho_scratch=4M,40M,4M") != std::string::npos);
	uint64_t size = 0;
	auto memfd = nearly_all(size);
	Map map(memfd, size);
	for (uint64_t at = 0; at < size; at += step) {
		number_at(map, at) = at + 1;
		SYS(::fallocate(memfd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at + page,
				step - page));
	}
	OK(stage.session().preserve(memfd.get(), 1));
	stage.note("size", size);
}

AFTER()
{
	const auto log = kernel_log();
	uint64_t taken = 0;
	for (size_t at = 0; (at = log.find("out of scratch memory, ", at)) != log.npos;) {
		at = log.find(", ", at) + 2;
		taken += std::atol(log.c_str() + at);
	}
	ktap::print("# %llu MiB were taken", (unsigned long long)taken);
	CHECK(taken > 0);
	const uint64_t size = stage.number("size");
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK_EQ(status(memfd).st_blocks, size / step * page / 512);
	Map map(memfd, size, PROT_READ);
	CHECK_EQ(wrong(map, size), 0);
	// All else is to be had.
	uint64_t rest = 0;
	auto churn = nearly_all(rest);
	CHECK(rest > size - size / 16);
	CHECK_EQ(wrong(map, size), 0);
	OK(stage.session().finish());
}

} // namespace

int scratch_stage(int stage, const char *filter)
{
	return run_stage(stage, "scratch/", filter);
}
