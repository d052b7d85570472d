// SPDX-License-Identifier: GPL-2.0
// Memfds of hugetlb pages, of both sizes: what goes over a kexec, and what is in the
// pools then. The machine has pools from its command line.

#include <memory>

#include "selftests/kexec/carry.hh"
#include "selftests/kexec/pages.hh"

namespace {

constexpr int hugetlb_2m = MFD_HUGETLB | 21 << 26, hugetlb_1g = MFD_HUGETLB | 30 << 26;

struct Pool {
	const char *name;
	int flags;
	uint64_t size; // of a page
	const char *sysfs;

	long value(const char *key) const
	{
		return std::atol(read_file((std::string(sysfs) + "/" + key).c_str()).c_str());
	}
	std::string state() const
	{
		return std::to_string(value("nr_hugepages")) + " pages, " +
		       std::to_string(value("free_hugepages")) + " free, " +
		       std::to_string(value("resv_hugepages")) + " reserved, " +
		       std::to_string(value("surplus_hugepages")) + " surplus";
	}
};

const Pool small{"2 MiB", hugetlb_2m, 2 * MiB, "/sys/kernel/mm/hugepages/hugepages-2048kB"};
const Pool large{"1 GiB", hugetlb_1g, GiB, "/sys/kernel/mm/hugepages/hugepages-1048576kB"};

bool is(const Pool &pool, const std::string &expected)
{
	auto now = pool.state();
	if (now != expected)
		ktap::print("# pages of %s: %s instead of %s", pool.name, now.c_str(),
			    expected.c_str());
	return now == expected;
}

Fd make_huge(const Pool &pool, uint64_t pages)
{
	return make_memfd(pages * pool.size, MFD_ALLOW_SEALING | pool.flags);
}

// hugetlbfs has no write(2).
void fill_huge(const Pool &pool, const Fd &fd, uint64_t at, uint64_t seed)
{
	Map map(fd, pool.size, PROT_READ | PROT_WRITE, at * pool.size);
	std::vector<uint64_t> words(64 * KiB / 8);
	for (uint64_t done = 0; done < pool.size; done += words.size() * 8) {
		pattern(words, at * pool.size + done, seed);
		std::memcpy(map.data() + done, words.data(), words.size() * 8);
	}
}

bool has_huge(const Pool &pool, const Fd &fd, uint64_t at, uint64_t seed)
{
	return has(fd, at * pool.size, pool.size, seed);
}

// The first thing in each kernel: what the boot made of the command line.
BEFORE("hugetlb/boot/the pools are as they were asked for")
{
	stage.note("small") = small.state();
	stage.note("large") = large.state();
	CHECK(is(small, "32 pages, 32 free, 0 reserved, 0 surplus"));
	if (large.value("nr_hugepages") == 0)
		ktap::print("# no pages of 1 GiB here");
}

AFTER()
{
	// 24 of the pages come in files. Their memory is not there twice.
	CHECK(is(small, "8 pages, 8 free, 0 reserved, 0 surplus"));
	if (stage.note("large").starts_with("1 "))
		CHECK(is(large, "0 pages, 0 free, 0 reserved, 0 surplus"));
}

// As in veto.cc. Before the pools are used up, and they are what they were when it has ended.
const astray::Cases pages(
	"hugetlb/pages/",
	{{"unpinned", astray::hugetlb, nullptr, astray::unpin, astray::unpinned},
	 {"moved", astray::hugetlb, astray::stays, astray::move, astray::replaced},
	 {"freed", astray::hugetlb, astray::keeps, astray::punch, astray::gone, astray::Left::hole},
	 {"written-anew", astray::hugetlb, astray::keeps, astray::write_anew, astray::replaced,
	  astray::Left::written},
	 {"in-scratch", astray::hugetlb, nullptr, astray::scratch, astray::in_scratch}});

BEFORE("hugetlb/pages/the pools are what they were")
{
	CHECK(is(small, "32 pages, 32 free, 0 reserved, 0 surplus"));
}

struct Case {
	const char *name;
	const Pool *pool;
	uint64_t pages;
};

void whole_before(Stage &stage, const Case &row)
{
	if (row.pool->value("free_hugepages") < long(row.pages))
		ktap::skip("no such pages");
	auto memfd = make_huge(*row.pool, row.pages);
	for (uint64_t at = 0; at < row.pages; ++at)
		fill_huge(*row.pool, memfd, at, 40 + at);
	SYS(::lseek(memfd.get(), 12345, SEEK_SET));
	SYS(::fchmod(memfd.get(), 0640));
	SYS(::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_GROW));
	auto usual = row.pool->state();
	OK(stage.session().preserve(memfd.get(), 1));
	CHECK(is(*row.pool, usual));
	// It keeps its pages and its size.
	CHECK_ERRNO(::ftruncate(memfd.get(), 0), EPERM);
	CHECK_ERRNO(::fallocate(memfd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				row.pool->size),
		    EPERM);
	CHECK_ERRNO(::fallocate(memfd.get(), 0, 0, row.pool->size), EPERM);
	// What comes later comes, too.
	Map map(memfd, row.pool->size);
	std::memcpy(map.data() + 100, "late", 4);
	stage.note("blocks", status(memfd).st_blocks);
}

void whole_after(Stage &stage, const Case &row)
{
	long pages = row.pool->value("nr_hugepages"), available = row.pool->value("free_hugepages");
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK_EQ(row.pool->value("nr_hugepages"), pages + long(row.pages));
	CHECK_EQ(row.pool->value("free_hugepages"), available);
	CHECK_EQ(row.pool->value("surplus_hugepages"), 0);
	CHECK_EQ(status(memfd).st_size, row.pages * row.pool->size);
	CHECK_EQ(status(memfd).st_blocks, stage.number("blocks"));
	CHECK_EQ(status(memfd).st_mode & 07777, 0640);
	CHECK_EQ(SYS(::lseek(memfd.get(), 0, SEEK_CUR)), 12345);
	CHECK_EQ(SYS(::fcntl(memfd.get(), F_GET_SEALS)), F_SEAL_GROW);
	{
		Map map(memfd, row.pool->size);
		CHECK(!std::memcmp(map.data() + 100, "late", 4));
		uint64_t words[2] = {word_at(40, 12), word_at(40, 13)};
		std::memcpy(map.data() + 96, words, sizeof(words));
	}
	for (uint64_t at = 0; at < row.pages; ++at)
		CHECK(has_huge(*row.pool, memfd, at, 40 + at));
	OK(stage.session().finish());
	// Free, they are pages of the pool as any others, and can be used again.
	memfd.reset();
	CHECK_EQ(row.pool->value("nr_hugepages"), pages + long(row.pages));
	CHECK_EQ(row.pool->value("free_hugepages"), available + long(row.pages));
	auto again = make_huge(*row.pool, row.pages);
	for (uint64_t at = 0; at < row.pages; ++at)
		fill_huge(*row.pool, again, at, 50 + at);
	for (uint64_t at = 0; at < row.pages; ++at)
		CHECK(has_huge(*row.pool, again, at, 50 + at));
}

const Table<Case> whole("hugetlb/whole/", {{"2 MiB", &small, 8}, {"1 GiB", &large, 1}},
			whole_before, whole_after);

BEFORE("hugetlb/sparse/holes stay holes, and what is reserved stays so")
{
	auto memfd = make_huge(small, 12);
	stage.keep(std::make_shared<Map>(memfd, 12 * small.size));
	CHECK_EQ(small.value("resv_hugepages"), 12);
	for (uint64_t at : {1, 2, 7})
		fill_huge(small, memfd, at, 60 + at);
	CHECK_EQ(small.value("resv_hugepages"), 9);
	OK(stage.session().preserve(memfd.get(), 1));
	CHECK_EQ(small.value("resv_hugepages"), 9);
	// One more, that comes after preserve.
	fill_huge(small, memfd, 10, 70);
	CHECK_EQ(small.value("resv_hugepages"), 8);
}

AFTER()
{
	long pages = small.value("nr_hugepages"), reserved = small.value("resv_hugepages");
	auto memfd = VALUE(stage.session().retrieve(1));
	CHECK_EQ(status(memfd).st_blocks, 4 * small.size / 512);
	CHECK_EQ(small.value("nr_hugepages"), pages + 4);
	CHECK_EQ(small.value("resv_hugepages"), reserved + 8);
	for (uint64_t at : {1, 2, 7})
		CHECK(has_huge(small, memfd, at, 60 + at));
	CHECK(has_huge(small, memfd, 10, 70));
	OK(stage.session().finish());
	// The holes are filled out of what is reserved.
	fill_huge(small, memfd, 0, 80);
	CHECK_EQ(small.value("resv_hugepages"), reserved + 7);
	memfd.reset();
	CHECK_EQ(small.value("resv_hugepages"), reserved);
	CHECK_EQ(small.value("free_hugepages"), small.value("nr_hugepages"));
}

BEFORE("hugetlb/finish/what nobody retrieved is free in the pool")
{
	auto memfd = make_huge(small, 12);
	for (uint64_t at = 0; at < 12; ++at)
		fill_huge(small, memfd, at, 90);
	OK(stage.session().preserve(memfd.get(), 1));
}

AFTER()
{
	long pages = small.value("nr_hugepages"), available = small.value("free_hugepages");
	OK(stage.session().finish());
	CHECK_EQ(small.value("nr_hugepages"), pages + 12);
	CHECK_EQ(small.value("free_hugepages"), available + 12);
}

// After all others: everything is as it was before.
BEFORE("hugetlb/the end/the pools are what they were")
{
}

AFTER()
{
	CHECK(is(small, "32 pages, 32 free, 0 reserved, 0 surplus"));
	if (large.value("nr_hugepages"))
		CHECK(is(large, "1 pages, 1 free, 0 reserved, 0 surplus"));
}

} // namespace

int hugetlb_stage(int stage, const char *filter)
{
	return run_stage(stage, "hugetlb/", filter);
}
