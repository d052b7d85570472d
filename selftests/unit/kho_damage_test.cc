// SPDX-License-Identifier: GPL-2.0
// Chains of runs that came damaged: refused as a whole, with a message, and
// without a page being touched.
#include "kho_testing.hh"

#include "fake/carry.hh"

#include <cerrno>

namespace {

class KhoDamage : public Kho {
    protected:
	using Blocks = std::vector<fake::Handover::Page *>;

	// Three full blocks, of which `damage` changes what it likes. With `fix`
	// the checksums are right again afterwards.
	int
	open_damaged(const std::function<void(ferry_bulk &, Blocks &, fake::Handover &)> &damage,
		     bool fix)
	{
		unload();
		fake::power_off();
		load();
		ferry_runs *out = ferry_runs_create(owner);
		for (unsigned int i = 0; i < 3 * FERRY_RUNS_PER_BLOCK; ++i) {
			ferry_run run = run_at(i * 4 + 4, i * 4, 1, 1);
			EXPECT_EQ(ferry_runs_append(out, &run), 0);
		}
		ferry_bulk ref;
		EXPECT_EQ(ferry_runs_seal(out, &ref), 0);
		kexec([&] { ferry_runs_destroy(out); },
		      [&](fake::Handover &handover) {
			      Blocks blocks;
			      for (fake::Pfn pfn = ref.first / 4096; pfn;) {
				      blocks.push_back(&handover.pages.at(pfn));
				      pfn = header(*blocks.back())->next / 4096;
			      }
			      damage(ref, blocks, handover);
			      for (auto block : blocks) {
				      if (fix)
					      fake::fix_block(*block);
			      }
		      });
		fake::clear_log();
		std::size_t before = fake::waiting();
		ferry_runs_in *in = nullptr;
		int err = ferry_runs_open(&ref, "test", &in);
		if (err) {
			EXPECT_EQ(in, nullptr);
			EXPECT_EQ(fake::waiting(), before);
			EXPECT_TRUE(fake::logged(FERRY_ERR, "test")) << fake::log_text();
		}
		ferry_runs_close(in);
		return err;
	}

	void refuse(const char *why,
		    const std::function<void(ferry_bulk &, Blocks &, fake::Handover &)> &damage,
		    bool fix = true)
	{
		SCOPED_TRACE(why);
		EXPECT_EQ(open_damaged(damage, fix), -EBADMSG);
	}

	static ferry_runs_block *header(fake::Handover::Page &page)
	{
		return reinterpret_cast<ferry_runs_block *>(page.data());
	}

	static ferry_run_entry *entries(fake::Handover::Page &page)
	{
		return reinterpret_cast<ferry_run_entry *>(page.data() + sizeof(ferry_runs_block));
	}
};

using Bulk = ferry_bulk &;
using Handed = fake::Handover &;

TEST_F(KhoDamage, UndamagedIsTaken)
{
	EXPECT_EQ(open_damaged([](Bulk, Blocks &, Handed) {}, false), 0);
	EXPECT_EQ(open_damaged([](Bulk, Blocks &, Handed) {}, true), 0);
}

TEST_F(KhoDamage, EveryByteOfABlockIsCovered)
{
	for (std::size_t at = 0; at < 4096; at += at < 64 || at > 4000 ? 1 : 37) {
		SCOPED_TRACE(at);
		auto damage = [&](Bulk, Blocks &blocks, Handed) { (*blocks[1])[at] ^= 0x10; };
		ASSERT_EQ(open_damaged(damage, false), -EBADMSG);
	}
}

TEST_F(KhoDamage, Headers)
{
	refuse("wrong magic", [](Bulk, Blocks &b, Handed) { header(*b[0])->magic ^= 1; });
	refuse("newer version", [](Bulk, Blocks &b, Handed) { header(*b[0])->version = 3; });
	refuse("no version", [](Bulk, Blocks &b, Handed) { header(*b[0])->version = 0; });
	refuse("no entries", [](Bulk, Blocks &b, Handed) { header(*b[1])->nr = 0; });
	refuse("too many entries",
	       [](Bulk, Blocks &b, Handed) { header(*b[1])->nr = FERRY_RUNS_PER_BLOCK + 1; });
	refuse("absurd entries", [](Bulk, Blocks &b, Handed) { header(*b[1])->nr = 0xffff; });
	refuse("one entry less", [](Bulk, Blocks &b, Handed) { header(*b[2])->nr--; });
	refuse("wrong sequence", [](Bulk, Blocks &b, Handed) { header(*b[1])->seq = 2; });
	refuse("wrong checksum", [](Bulk, Blocks &b, Handed) { header(*b[2])->crc ^= 1; }, false);
}

// A block with a list of ten folios, of which `damage` changes what it likes.
class KhoDamagedList : public KhoDamage {
    protected:
	using Damage = std::function<void(ferry_runs_block &, ferry_run_entry &, unsigned int *)>;

	// What arrives of it; 0 or an error.
	int open(const Damage &damage, ferry_runs_in **in)
	{
		ferry_runs *out = ferry_runs_create(owner);
		for (unsigned int i = 0; i < 11; ++i) {
			ferry_run run = run_at(1 + i * 3, i, 1);
			EXPECT_EQ(ferry_runs_append(out, &run), 0);
		}
		ferry_bulk ref;
		EXPECT_EQ(ferry_runs_seal(out, &ref), 0);
		kexec([&] { ferry_runs_destroy(out); },
		      [&](fake::Handover &handover) {
			      auto &page = handover.pages.at(ref.first / 4096);
			      // The first one is an entry of its own.
			      ferry_run_entry *head = entries(page) + 1;
			      EXPECT_EQ(header(page)->nr, 1 + FERRY_RUN_LIST_ENTRIES(10));
			      damage(*header(page), *head,
				     reinterpret_cast<unsigned int *>(head + 1));
			      fake::fix_block(page);
		      });
		return ferry_runs_open(&ref, "list", in);
	}

	int open_with(const Damage &damage)
	{
		ferry_runs_in *in = nullptr;
		int err = open(damage, &in);
		ferry_runs_close(in);
		return err;
	}

	void refuse_list(const char *why, const Damage &damage, const char *message = nullptr)
	{
		SCOPED_TRACE(why);
		EXPECT_EQ(open_with(damage), -EBADMSG);
		if (message)
			EXPECT_TRUE(fake::logged(FERRY_ERR, message)) << fake::log_text();
		fake::power_off();
	}
};

TEST_F(KhoDamagedList, IsRefused)
{
	using Block = ferry_runs_block &;
	using Head = ferry_run_entry &;
	using Places = unsigned int *;
	constexpr unsigned long long one = 1ull << FERRY_RUN_INDEX_BITS;
	constexpr unsigned int order_bit = FERRY_RUN_PFN_BITS;
	EXPECT_EQ(open_with([](Block, Head, Places) {}), 0);
	refuse_list("in a block that has none", [](Block b, Head, Places) { b.version = 1; });
	refuse_list("no folios", [](Block, Head h, Places) { h.what &= one - 1; });
	refuse_list("a folio more", [](Block, Head h, Places) { h.what += one; });
	refuse_list("a folio less", [](Block, Head h, Places) { h.what -= one; });
	refuse_list("beyond the block", [](Block, Head h, Places) { h.what += 3 * one; });
	refuse_list("absurdly long", [](Block, Head h, Places) { h.what |= ~(one - 1); });
	refuse_list("cut off", [](Block b, Head, Places) { --b.nr; });
	refuse_list("descending",
		    [](Block, Head h, Places) { h.where |= 1ull << (order_bit + 6 + 9); });
	refuse_list("of large folios", [](Block, Head h, Places) { h.where |= 1ull << order_bit; });
	refuse_list("of folios that are too large",
		    [](Block, Head h, Places) { h.where |= 31ull << order_bit; });
	refuse_list("not preserved", [](Block, Head, Places p) { p[9] += 1; });
	refuse_list("not memory", [](Block, Head, Places p) { p[0] = ~0u; });
	refuse_list("page 0", [](Block, Head, Places p) { p[0] = 0; });
	refuse_list("elsewhere", [](Block, Head h, Places) { h.where |= 1ull << 47; });
	refuse_list(
		"behind all memory",
		[](Block, Head h, Places) { h.where |= (1ull << FERRY_RUN_PFN_BITS) - 1; },
		"a malformed run");
	refuse_list(
		"of large folios, not aligned in memory",
		[](Block, Head h, Places) { h.where |= 2ull << order_bit | 1; }, "a malformed run");
	refuse_list(
		"of large folios, not aligned in the file",
		[](Block, Head h, Places) { h.where |= 2ull << order_bit; }, "a malformed run");
	refuse_list("beyond the file", [](Block, Head h, Places) { h.what |= one - 1; });
}

TEST_F(KhoDamagedList, AFolioThatIsThereTwiceIsGivenOnce)
{
	auto twice = [](ferry_runs_block &, ferry_run_entry &, unsigned int *place) {
		place[7] = place[2];
	};
	for (unsigned int room : {1, 3, 512}) {
		SCOPED_TRACE(room);
		ferry_runs_in *in = nullptr;
		ASSERT_EQ(open(twice, &in), 0);
		unsigned int lost = 0;
		Runs taken = take(in, room, &lost);
		EXPECT_EQ(lost, 1u);
		ASSERT_EQ(taken.size(), 10u);
		EXPECT_EQ(taken[7].index, 7u);
		EXPECT_EQ(taken[8].index, 9u);
		release(taken);
		ferry_runs_close(in);
		fake::power_off();
	}
	// What is given out already does not keep the others from being freed.
	EXPECT_EQ(open_with(twice), 0);
	fake::power_off();
}

TEST_F(KhoDamage, Links)
{
	refuse("loop to itself", [](Bulk r, Blocks &b, Handed) { header(*b[0])->next = r.first; });
	refuse("loop to the first",
	       [](Bulk r, Blocks &b, Handed) { header(*b[2])->next = r.first; });
	refuse("loop to the first, counted", [](Bulk r, Blocks &b, Handed) {
		header(*b[2])->next = r.first;
		r.blocks = 1000;
	});
	refuse("cut short", [](Bulk, Blocks &b, Handed) { header(*b[1])->next = 0; });
	refuse("skips one",
	       [](Bulk, Blocks &b, Handed) { header(*b[0])->next = header(*b[1])->next; });
	refuse("not memory", [](Bulk, Blocks &b, Handed) { header(*b[0])->next = ~0xfffull; });
	refuse("not a page", [](Bulk, Blocks &b, Handed) { header(*b[0])->next += 16; });
	refuse("not preserved", [](Bulk, Blocks &b, Handed handed) {
		handed.keys.erase(header(*b[0])->next / 4096);
	});
	refuse("a large folio",
	       [](Bulk, Blocks &b, Handed handed) { handed.keys[header(*b[0])->next / 4096] = 1; });
	refuse("a page of the file", [](Bulk, Blocks &b, Handed) {
		header(*b[0])->next = (fake::first_folio + 4) * 4096;
	});
}

TEST_F(KhoDamage, Reference)
{
	refuse("first is 0", [](Bulk r, Blocks &, Handed) { r.first = 0; });
	refuse("no blocks, but a first",
	       [](Bulk r, Blocks &, Handed) { r = {r.first, 0, 0, 0, 0}; });
	refuse("first is the second",
	       [](Bulk r, Blocks &b, Handed) { r.first = header(*b[0])->next; });
	refuse("fewer blocks", [](Bulk r, Blocks &, Handed) { r.blocks = 2; });
	refuse("more blocks", [](Bulk r, Blocks &, Handed) { r.blocks = 4; });
	refuse("fewer runs", [](Bulk r, Blocks &, Handed) { r.runs--; });
	refuse("more runs", [](Bulk r, Blocks &, Handed) { r.runs++; });
	refuse("fewer pages", [](Bulk r, Blocks &, Handed) { r.pages--; });
	refuse("more pages", [](Bulk r, Blocks &, Handed) { r.pages++; });
	refuse("absurd", [](Bulk r, Blocks &, Handed) { r.blocks = r.runs = r.pages = ~0ull; });
}

// The reference counts the pages as the damaged entry does: the entry itself has
// to be refused, and not its sum.
TEST_F(KhoDamage, Entries)
{
	const fake::Pfn pfn = fake::first_folio + 4;
	struct {
		const char *why;
		unsigned long long pfn, order, index, count;
	} const bad[] = {
		{"no pages", pfn, 1, 0, 0},
		{"not aligned to its order", pfn + 1, 1, 0, 1},
		{"index not aligned", pfn, 1, 1, 1},
		{"absurd order", 0x400000000, 63, 0, 1},
		{"greatest order and one", pfn, 19, 0, 1},
		{"a smaller order than preserved", pfn, 0, 0, 1},
		{"a greater order than preserved", pfn, 2, 0, 1},
		{"single pages of which some were preserved", pfn, 0, 0, 3},
		{"more than were preserved", pfn, 1, 0, 2},
		{"the tail of a folio", pfn + 1, 0, 0, 1},
		{"the most there can be", pfn, 1, 0, (1 << 24) - 1},
		{"past the end of the file", pfn, 1, (1ull << 40) - 2, 2},
		{"not memory", (1ull << 48) - 2, 1, 0, 1},
		{"past all memory", (1ull << 48) - 2, 1, 0, 2},
		{"page frame 0", 0, 1, 0, 1},
		{"all zeros", 0, 0, 0, 0},
		{"all ones", (1ull << 48) - 1, 63, (1ull << 40) - 1, (1 << 24) - 1},
	};
	for (auto &entry : bad) {
		refuse(entry.why, [&](Bulk r, Blocks &b, Handed) {
			entries(*b[0])[0] = {entry.pfn | entry.order << 48,
					     entry.index | entry.count << 40};
			r.pages += (entry.count << entry.order) - 2;
		});
	}
	refuse("pages that were not preserved",
	       [=](Bulk, Blocks &, Handed handed) { handed.keys.erase(pfn); });
}

// The same pages twice: whoever comes second does not get them.
TEST_F(KhoDamage, OverlappingRunsAreGivenOutOnce)
{
	unload();
	fake::Handover handover;
	fake::Pfn block = fake::first_pfn + 8, page = block + 2;
	ferry_run runs[] = {{page, 0, 1, 0, 0}, {page + 2, 1, 1, 0, 0}, {page, 2, 1, 0, 0}};
	ferry_bulk ref = fake::carry_runs(handover, block, runs);
	handover.preserve(page, {});
	handover.preserve(page + 2, {});
	fake::boot(handover);
	load();

	ferry_runs_in *in = nullptr;
	int err = ferry_runs_open(&ref, "test", &in);
	if (err) {
		EXPECT_EQ(err, -EBADMSG);
		return;
	}
	unsigned int lost = 0;
	Runs taken = take(in, 512, &lost);
	EXPECT_EQ(taken.size(), 2u);
	EXPECT_EQ(lost, 1u);
	release(taken);
	ferry_runs_close(in);
}

// A run that names the block that it is in: the block must not be given away
// while it is still read.
TEST_F(KhoDamage, ARunOfItsOwnBlockIsNotGivenOut)
{
	unload();
	fake::Handover handover;
	fake::Pfn block = fake::first_pfn + 8, page = block + 2;
	ferry_run runs[] = {{block, 0, 1, 0, 0}, {page, 1, 1, 0, 0}};
	ferry_bulk ref = fake::carry_runs(handover, block, runs);
	handover.preserve(page, {});
	fake::boot(handover);
	load();

	ferry_runs_in *in = nullptr;
	int err = ferry_runs_open(&ref, "test", &in);
	if (err) {
		EXPECT_EQ(err, -EBADMSG);
		return;
	}
	ferry_run run;
	for (int result; (result = ferry_runs_next(in, &run, 1));) {
		if (result != 1)
			continue;
		EXPECT_NE(run.pfn, block) << "the block was given away";
		if (run.pfn == block)
			break;
		linux_release(run.pfn, run.count, run.order);
	}
	ferry_runs_close(in);
}

} // namespace
