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
	refuse("newer version", [](Bulk, Blocks &b, Handed) { header(*b[0])->version = 2; });
	refuse("no version", [](Bulk, Blocks &b, Handed) { header(*b[0])->version = 0; });
	refuse("no entries", [](Bulk, Blocks &b, Handed) { header(*b[1])->nr = 0; });
	refuse("too many entries",
	       [](Bulk, Blocks &b, Handed) { header(*b[1])->nr = FERRY_RUNS_PER_BLOCK + 1; });
	refuse("absurd entries", [](Bulk, Blocks &b, Handed) { header(*b[1])->nr = 0xffff; });
	refuse("one entry less", [](Bulk, Blocks &b, Handed) { header(*b[2])->nr--; });
	refuse("wrong sequence", [](Bulk, Blocks &b, Handed) { header(*b[1])->seq = 2; });
	refuse("wrong checksum", [](Bulk, Blocks &b, Handed) { header(*b[2])->crc ^= 1; }, false);
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

TEST_F(KhoDamage, Entries)
{
	auto where = [](unsigned long long pfn, unsigned long long order,
			unsigned long long flags) { return pfn | order << 48 | flags << 54; };
	auto what = [](unsigned long long index, unsigned long long count) {
		return index | count << 40;
	};
	fake::Pfn pfn = fake::first_folio + 4;

	refuse("all zeros", [](Bulk, Blocks &b, Handed) { entries(*b[1])[5] = {}; });
	refuse("all ones", [](Bulk, Blocks &b, Handed) { entries(*b[1])[5] = {~0ull, ~0ull}; });
	refuse("no pages", [=](Bulk, Blocks &b, Handed) { entries(*b[0])[0].what = what(0, 0); });
	refuse("not aligned to its order",
	       [=](Bulk, Blocks &b, Handed) { entries(*b[0])[0].where = where(pfn + 1, 1, 0); });
	refuse("index not aligned",
	       [=](Bulk, Blocks &b, Handed) { entries(*b[0])[0].what = what(1, 1); });
	refuse("absurd order", [=](Bulk, Blocks &b, Handed) {
		entries(*b[0])[0] = {where(0x400000000, 63, 0), what(0, 1)};
	});
	refuse("a smaller order than preserved", [=](Bulk, Blocks &b, Handed) {
		entries(*b[0])[0] = {where(pfn, 0, 0), what(0, 1)};
	});
	refuse("a greater order than preserved", [=](Bulk, Blocks &b, Handed) {
		entries(*b[0])[0] = {where(pfn, 2, 0), what(0, 1)};
	});
	refuse("more than were preserved",
	       [=](Bulk, Blocks &b, Handed) { entries(*b[0])[0].what = what(0, 2); });
	refuse("the most there can be",
	       [=](Bulk, Blocks &b, Handed) { entries(*b[0])[0].what = what(0, (1 << 24) - 1); });
	refuse("past the end of the file", [=](Bulk, Blocks &b, Handed) {
		entries(*b[0])[0].what = what((1ull << 40) - 2, 2);
	});
	refuse("not memory", [=](Bulk, Blocks &b, Handed) {
		entries(*b[0])[0].where = where((1ull << 48) - 2, 1, 0);
	});
	refuse("page frame 0",
	       [=](Bulk, Blocks &b, Handed) { entries(*b[0])[0].where = where(0, 1, 0); });
	refuse("pages that were not preserved", [=](Bulk, Blocks &b, Handed handed) {
		(void)b;
		handed.keys.erase(pfn);
	});
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
	ferry_run run;
	int given = 0, lost = 0, result;
	while ((result = ferry_runs_next(in, &run))) {
		given += result == 1;
		lost += result == -EIO;
		if (result == 1)
			linux_release(run.pfn, run.count, run.order);
	}
	EXPECT_EQ(given, 2);
	EXPECT_EQ(lost, 1);
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
	for (int result; (result = ferry_runs_next(in, &run));) {
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
