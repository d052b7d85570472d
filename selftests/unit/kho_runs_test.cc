// SPDX-License-Identifier: GPL-2.0
// Lists of runs: written, handed over, read.
#include "kho_testing.hh"

#include <algorithm>
#include <cerrno>
#include <random>

namespace {

class KhoRuns : public Kho {
    protected:
	ferry_runs *create()
	{
		ferry_runs *runs = ferry_runs_create(owner);
		EXPECT_TRUE(runs);
		return runs;
	}

	static void append(ferry_runs *runs, const Runs &all)
	{
		for (const ferry_run &run : all)
			ASSERT_EQ(ferry_runs_append(runs, &run), 0) << run;
	}

	static ferry_bulk seal(ferry_runs *runs)
	{
		ferry_bulk ref{};
		EXPECT_EQ(ferry_runs_seal(runs, &ref), 0);
		return ref;
	}

	// Single pages, none of which is beside another one.
	static Runs scattered(unsigned int nr, fake::Pfn from = 1)
	{
		Runs runs;
		for (unsigned int i = 0; i < nr; ++i)
			runs.push_back(run_at(from + i * 2, i * 3, 1));
		return runs;
	}

	// Hands the runs over, and returns what arrives.
	Runs round_trip(const Runs &runs, const Runs &expected)
	{
		ferry_runs *out = create();
		append(out, runs);
		ferry_bulk ref = seal(out);
		EXPECT_EQ(walk(out), expected);
		kexec([&] { ferry_runs_destroy(out); });
		ferry_runs_in *in = nullptr;
		EXPECT_EQ(ferry_runs_open(&ref, "test", &in), 0);
		if (!in)
			return {};
		Runs arrived = take(in, 7);
		ferry_runs_close(in);
		release(arrived);
		EXPECT_EQ(fake::waiting(), 0u);
		return arrived;
	}
};

TEST_F(KhoRuns, EmptyList)
{
	ferry_runs *runs = create();
	EXPECT_TRUE(seal(runs) == ferry_bulk{});
	EXPECT_TRUE(walk(runs).empty());
	ferry_runs_destroy(runs);

	ferry_bulk ref{};
	ferry_runs_in *in = nullptr;
	ASSERT_EQ(ferry_runs_open(&ref, "test", &in), 0);
	ferry_run run;
	EXPECT_EQ(ferry_runs_next(in, &run, 1), 0);
	EXPECT_EQ(ferry_runs_next(in, &run, 1), 0);
	ferry_runs_close(in);
}

TEST_F(KhoRuns, DestroyTakesNull)
{
	ferry_runs_destroy(nullptr);
	ferry_runs_close(nullptr);
	ferry_owner_destroy(nullptr);
}

TEST_F(KhoRuns, NeighboursBecomeOneRun)
{
	Runs appended{run_at(8, 100, 1), run_at(9, 101, 3), run_at(12, 104, 4)};
	Runs merged{run_at(8, 100, 8)};
	EXPECT_EQ(round_trip(appended, merged), merged);
}

TEST_F(KhoRuns, OthersStayApart)
{
	Runs apart{
		run_at(8, 100, 1),	   run_at(10, 101, 1), // a hole in memory
		run_at(11, 103, 1), // a hole in the file
		run_at(12, 104, 1, 0, 1), // other flags
		run_at(16, 108, 1, 2, 1), // another order
		run_at(512, 124, 1, 2, 1), // elsewhere
		run_at(516, 128, 2, 2, 1), // merges
		run_at(100, 0, 1), // backwards
	};
	Runs merged = apart;
	merged[5].count = 3;
	merged.erase(merged.begin() + 6);
	EXPECT_EQ(round_trip(apart, merged), merged);
}

TEST_F(KhoRuns, DescendingNeighboursBecomeOneRun)
{
	constexpr unsigned short down = FERRY_RUN_DESCENDING;
	struct {
		const char *what;
		Runs appended, merged;
	} const cases[] = {
		{"all the way down",
		 {run_at(9, 0, 1), run_at(8, 1, 1), run_at(7, 2, 1)},
		 {run_at(7, 0, 3, 0, down)}},
		{"with flags, and large folios",
		 {run_at(1536, 0, 1, 9, 3), run_at(1024, 512, 1, 9, 3)},
		 {run_at(1024, 0, 2, 9, 3 | down)}},
		{"down, then up",
		 {run_at(9, 0, 1), run_at(8, 1, 1), run_at(9 + 1, 2, 1), run_at(11, 3, 1)},
		 {run_at(8, 0, 2, 0, down), run_at(10, 2, 2)}},
		{"up, then down",
		 {run_at(4, 0, 1), run_at(5, 1, 1), run_at(3, 2, 1), run_at(2, 3, 1)},
		 {run_at(4, 0, 2), run_at(2, 2, 2, 0, down)}},
		{"several at once do not descend",
		 {run_at(8, 0, 1), run_at(6, 1, 2)},
		 {run_at(8, 0, 1), run_at(6, 1, 2)}},
		{"nor do they continue what descends",
		 {run_at(9, 0, 1), run_at(8, 1, 1), run_at(6, 2, 2)},
		 {run_at(8, 0, 2, 0, down), run_at(6, 2, 2)}},
		{"runs that descend",
		 {run_at(9, 0, 1), run_at(6, 1, 3, 0, down), run_at(4, 4, 2, 0, down),
		  run_at(3, 6, 1)},
		 {run_at(3, 0, 7, 0, down)}},
		{"a run that descends after one that ascends",
		 {run_at(8, 0, 2), run_at(5, 2, 3, 0, down), run_at(10, 5, 2, 0, down)},
		 {run_at(8, 0, 2), run_at(5, 2, 3, 0, down), run_at(10, 5, 2, 0, down)}},
		{"a run that descends, above",
		 {run_at(8, 0, 1), run_at(9, 1, 2, 0, down)},
		 {run_at(8, 0, 1), run_at(9, 1, 2, 0, down)}},
		{"a hole in the file",
		 {run_at(9, 0, 1), run_at(8, 2, 1)},
		 {run_at(9, 0, 1), run_at(8, 2, 1)}},
	};
	for (auto &[what, appended, merged] : cases) {
		SCOPED_TRACE(what);
		EXPECT_EQ(round_trip(appended, merged), merged);
	}
	fake::node_boundary = fake::first_folio + 9;
	Runs apart{run_at(9, 0, 1), run_at(8, 1, 1)};
	EXPECT_EQ(round_trip(apart, apart), apart);
}

TEST_F(KhoRuns, AGiBIsOneRun)
{
	Runs runs;
	for (unsigned int i = 0; i < 512; ++i)
		runs.push_back(run_at(i * 512, i * 512, 1, 9));
	Runs merged{run_at(0, 0, 512, 9)};
	EXPECT_EQ(round_trip(runs, merged), merged);
}

TEST_F(KhoRuns, GiganticFolio)
{
	Runs runs{run_at(0, 0, 1, 18), run_at(1 << 18, 1 << 18, 2, 18)};
	EXPECT_EQ(round_trip(runs, {run_at(0, 0, 3, 18)}), (Runs{run_at(0, 0, 3, 18)}));
}

TEST_F(KhoRuns, UnalignedSinglePages)
{
	// KHO keeps these in pieces of 1, 2, 4, 8, ... pages.
	Runs runs{run_at(3, 3, 61), run_at(71, 100, 1000)};
	EXPECT_EQ(round_trip(runs, runs), runs);
}

TEST_F(KhoRuns, NodesStayApart)
{
	fake::node_boundary = fake::first_folio + 64;
	Runs runs{run_at(62, 0, 2), run_at(64, 2, 2)};
	EXPECT_EQ(round_trip(runs, runs), runs);
}

TEST_F(KhoRuns, ARunThatCrossesNodesIsRefused)
{
	fake::node_boundary = fake::first_folio + 63;
	ferry_runs *runs = create();
	ferry_run run = run_at(56, 0, 16);
	EXPECT_EQ(ferry_runs_append(runs, &run), -EINVAL);
	EXPECT_TRUE(walk(runs).empty());
	ferry_runs_destroy(runs);
}

TEST_F(KhoRuns, FoliosAreAppendedUpToTheFirstThatFails)
{
	ferry_runs *runs = create();
	std::vector<unsigned long long> pfn;
	for (unsigned int i = 0; i < 400; ++i)
		pfn.push_back(fake::first_folio + 1 + i * 2);
	ferry_folios folios{pfn.data(), 7, 300, 0, 0};
	unsigned int done = 0;
	ASSERT_EQ(ferry_runs_append_folios(runs, &folios, &done), 0);
	EXPECT_EQ(done, 300u);
	pfn[350] = 0;
	folios = {pfn.data() + 300, 307, 100, 0, 0};
	EXPECT_EQ(ferry_runs_append_folios(runs, &folios, &done), -EINVAL);
	EXPECT_EQ(done, 50u);
	Runs expected;
	for (unsigned int i = 0; i < 350; ++i)
		expected.push_back(run_at(1 + i * 2, 7 + i, 1));
	EXPECT_EQ(walk(runs), expected);
	ferry_runs_destroy(runs);
}

// Folios by their place in the file, as a file has them.
class KhoLists : public KhoRuns {
    protected:
	// Single folios of one order: what walk() says, taken apart.
	static Runs apart(const Runs &runs)
	{
		Runs all;
		for (const ferry_run &run : runs) {
			constexpr unsigned short down = FERRY_RUN_DESCENDING;
			for (unsigned int i = 0; i < run.count; ++i) {
				fake::Pfn at = run.flags & down ? run.count - 1 - i : i;
				all.push_back({run.pfn + (at << run.order),
					       run.index + (fake::Pfn{i} << run.order), 1,
					       run.order,
					       static_cast<unsigned short>(run.flags & ~down)});
			}
		}
		return all;
	}

	// Pieces that ascend, descend, or lie alone, in a memory that has them once.
	static std::vector<unsigned long long> random_folios(std::mt19937 &random, unsigned int nr,
							     unsigned int order)
	{
		std::vector<unsigned long long> pieces;
		for (unsigned int i = 0; i < nr / 8; ++i)
			pieces.push_back(fake::first_folio + (fake::Pfn{i * 16 + 1} << order));
		std::ranges::shuffle(pieces, random);
		std::vector<unsigned long long> pfn;
		for (unsigned long long at : pieces) {
			const unsigned int length = random() % 3 ? 1 : 1 + random() % 12;
			const bool down = random() % 2;
			for (unsigned int i = 0; i < length; ++i)
				pfn.push_back(at + (fake::Pfn{down ? length - 1 - i : i} << order));
		}
		return pfn;
	}

	// In batches, and with holes in the file.
	static int append_folios(ferry_runs *runs, const std::vector<unsigned long long> &pfn,
				 unsigned int order, unsigned int batch, Runs &appended)
	{
		unsigned long long index = 0;
		for (std::size_t at = 0; at < pfn.size(); at += batch) {
			const unsigned int nr = static_cast<unsigned int>(
				std::min<std::size_t>(batch, pfn.size() - at));
			ferry_folios folios{pfn.data() + at, index, nr,
					    static_cast<unsigned short>(order), 5};
			unsigned int done = 0;
			int err = ferry_runs_append_folios(runs, &folios, &done);
			EXPECT_EQ(done == nr, !err);
			for (unsigned int i = 0; i < done; ++i)
				appended.push_back({pfn[at + i], index + (fake::Pfn{i} << order), 1,
						    static_cast<unsigned short>(order), 5});
			if (err)
				return err;
			index += (fake::Pfn{nr} << order) + (at % 5 ? 0 : fake::Pfn{1} << order);
		}
		return 0;
	}
};

TEST_F(KhoLists, PagesThatLieApartTakeFourBytesEach)
{
	ferry_runs *out = create();
	std::vector<unsigned long long> pfn;
	// Their order in memory is another one than in the file.
	for (unsigned int i = 0; i < 16384; ++i)
		pfn.push_back(fake::first_folio + 1 + (i * 7919 % 16384) * 2);
	Runs appended;
	ferry_folios folios{pfn.data(), 0, 16384, 0, 0};
	unsigned int done;
	ASSERT_EQ(ferry_runs_append_folios(out, &folios, &done), 0);
	ferry_bulk ref = seal(out);
	EXPECT_EQ(ref.pages, 16384u);
	EXPECT_EQ(ref.runs, 16384u);
	// One of them is an entry at the begin of each block.
	EXPECT_EQ(ref.blocks, (16384u + 1008) / 1009);
	for (unsigned int i = 0; i < 16384; ++i)
		appended.push_back({pfn[i], i, 1, 0, 0});
	EXPECT_EQ(walk(out), appended);
	kexec([&] { ferry_runs_destroy(out); });
	ferry_runs_in *in = nullptr;
	ASSERT_EQ(ferry_runs_open(&ref, "test", &in), 0);
	Runs arrived = take(in);
	EXPECT_EQ(arrived, appended);
	ferry_runs_close(in);
	release(arrived);
	EXPECT_EQ(fake::waiting(), 0u);
}

TEST_F(KhoLists, ALongRunIsOneEntryAmongThem)
{
	ferry_runs *out = create();
	std::vector<unsigned long long> pfn;
	for (fake::Pfn at : {5, 3, 9, 7})
		pfn.push_back(fake::first_folio + at);
	for (fake::Pfn at = 100; at < 300; ++at)
		pfn.push_back(fake::first_folio + at);
	for (fake::Pfn at = 450; at > 400; --at)
		pfn.push_back(fake::first_folio + at);
	for (fake::Pfn at : {20, 21, 31, 30})
		pfn.push_back(fake::first_folio + at);
	ferry_folios folios{pfn.data(), 0, static_cast<unsigned int>(pfn.size()), 0, 0};
	unsigned int done;
	ASSERT_EQ(ferry_runs_append_folios(out, &folios, &done), 0);
	constexpr unsigned short down = FERRY_RUN_DESCENDING;
	Runs expected{run_at(5, 0, 1),	   run_at(3, 1, 1),
		      run_at(9, 2, 1),	   run_at(7, 3, 1),
		      run_at(100, 4, 200), run_at(401, 204, 50, 0, down),
		      run_at(20, 254, 2),  run_at(30, 256, 2, 0, down)};
	EXPECT_EQ(walk(out), expected);
	ferry_usage usage;
	ferry_runs_usage(out, &usage);
	EXPECT_EQ(usage.runs, expected.size());
	EXPECT_EQ(usage.pages, pfn.size());
	ferry_runs_destroy(out);
}

TEST_F(KhoLists, AnyMixtureArrives)
{
	std::mt19937 random{20261126};
	for (unsigned int round = 0; round < 60; ++round) {
		SCOPED_TRACE(round);
		const unsigned int order = round % 4 == 3 ? 2 : 0;
		auto pfn = random_folios(random, 4000, order);
		// A boundary of nodes, which goes through no folio.
		if (round % 5 == 0)
			fake::node_boundary = fake::first_folio + random() % 1000 * 4;
		ferry_runs *out = create();
		Runs appended;
		ASSERT_EQ(append_folios(out, pfn, order, 1 + random() % 512, appended), 0);
		ferry_bulk ref = seal(out);
		ASSERT_EQ(apart(walk(out)), appended);
		kexec([&] { ferry_runs_destroy(out); });
		ferry_runs_in *in = nullptr;
		ASSERT_EQ(ferry_runs_open(&ref, "test", &in), 0);
		constexpr unsigned int rooms[] = {1, 3, 32, 33, 512, 100000};
		Runs arrived = take(in, rooms[round % 6]);
		ASSERT_EQ(apart(arrived), appended);
		ferry_runs_close(in);
		release(arrived);
		ASSERT_EQ(fake::waiting(), 0u);
	}
}

TEST_F(KhoLists, EveryFailureLeavesThemUsable)
{
	std::mt19937 random{7};
	const auto pfn = random_folios(random, 8000, 0);
	for_each_failure([&] {
		ferry_runs *runs = ferry_runs_create(owner);
		if (!runs)
			return -ENOMEM;
		Runs appended;
		int result = append_folios(runs, pfn, 0, 512, appended);
		EXPECT_EQ(apart(walk(runs)), appended);
		ferry_bulk ref;
		int err = ferry_runs_seal(runs, &ref);
		if (!err)
			EXPECT_EQ(ref.pages, appended.size());
		ferry_runs_destroy(runs);
		return result ? result : err;
	});
}

TEST_F(KhoLists, WhatIsNoFolioIsRefused)
{
	ferry_runs *runs = create();
	std::vector<unsigned long long> pfn{fake::first_folio + 4, fake::first_folio + 16,
					    fake::first_folio + 32};
	unsigned int done;
	for (unsigned long long bad : {0ull, fake::first_folio + 50, 1ull << 48, ~0ull}) {
		pfn.push_back(bad);
		ferry_folios folios{pfn.data(), 0, 4, 2, 0};
		EXPECT_EQ(ferry_runs_append_folios(runs, &folios, &done), -EINVAL) << bad;
		EXPECT_EQ(done, 3u);
		ferry_runs_destroy(runs);
		runs = create();
		pfn.pop_back();
	}
	ferry_folios late{pfn.data(), (1ull << 40) - 8, 3, 2, 0};
	EXPECT_EQ(ferry_runs_append_folios(runs, &late, &done), -EINVAL);
	EXPECT_EQ(done, 2u);
	ferry_runs_destroy(runs);
}

TEST_F(KhoRuns, AnOwnerThatLeavesNothingBehindIsNotNamed)
{
	ferry_owner *other = ferry_owner_create("careless");
	ferry_runs *runs = ferry_runs_create(other);
	append(runs, {run_at(1, 0, 1)});
	seal(runs);
	ferry_usage usage;
	ferry_runs_usage(runs, &usage);
	EXPECT_EQ(usage.pages, 1u);
	fake::clear_log();
	ferry_runs_destroy(runs);
	ferry_owner_destroy(other);
	EXPECT_TRUE(fake::log().empty());
}

TEST_F(KhoRuns, CountIsBounded)
{
	// 2^24 - 1 is the greatest count; a run of that many pages cannot grow.
	ferry_runs *runs = create();
	ferry_run most = run_at(0, 0, 1 << 20);
	ASSERT_EQ(ferry_runs_append(runs, &most), 0);
	ferry_usage usage;
	ferry_runs_usage(runs, &usage);
	EXPECT_EQ(usage.pages, 1u << 20);
	ferry_run too_many = run_at(0, 0, 1 << 24);
	EXPECT_EQ(ferry_runs_append(runs, &too_many), -EINVAL);
	ferry_runs_destroy(runs);
}

TEST_F(KhoRuns, RefusesWhatIsNoRun)
{
	ferry_runs *runs = create();
	Runs bad{
		run_at(0, 0, 0), // nothing
		run_at(1, 0, 1, 1), // unaligned in memory
		run_at(0, 1, 1, 1), // unaligned in the file
		run_at(0, 0, 1, 19), // too great a folio
		run_at(0, 0, 1, 64),
		run_at(0, 0, 1, 0, FERRY_RUN_DESCENDING), // kho.ko's own
		run_at(0, 0, 1, 0, 1 << 10), // too many flags
		run_at(0, 1ull << 40, 1), // too far in the file
		run_at(0, (1ull << 40) - 1, 2),
		run_at(0, ~0ull, 1),
		{1ull << 48, 0, 1, 0, 0}, // too far in memory
		{(1ull << 48) - 1, 0, 2, 0, 0},
		{~0ull, 0, 1, 0, 0},
		{0, 0, 1, 0, 0}, // page 0 is never somebody's
	};
	for (const ferry_run &run : bad)
		EXPECT_EQ(ferry_runs_append(runs, &run), -EINVAL) << run;
	EXPECT_TRUE(walk(runs).empty());
	EXPECT_TRUE(seal(runs) == ferry_bulk{});
	ferry_runs_destroy(runs);
}

TEST_F(KhoRuns, EveryPageIsPreservedOnceSealed)
{
	ferry_runs *runs = create();
	append(runs, {run_at(8, 0, 4), run_at(100, 50, 1)});
	seal(runs);
	for (fake::Pfn pfn : {8, 11, 100})
		EXPECT_TRUE(fake::preserved(fake::first_folio + pfn));
	EXPECT_FALSE(fake::preserved(fake::first_folio + 12));
	ferry_runs_destroy(runs);
	EXPECT_FALSE(fake::preserved(fake::first_folio + 8));
}

TEST_F(KhoRuns, ExactlyOneBlockAndOneMore)
{
	for (unsigned int nr : {253u, 254u, 255u, 508u, 509u}) {
		SCOPED_TRACE(nr);
		Runs runs = scattered(nr);
		EXPECT_EQ(round_trip(runs, runs), runs);
	}
}

TEST_F(KhoRuns, TenThousandRuns)
{
	Runs runs = scattered(10'100);
	ferry_runs *out = create();
	append(out, runs);
	ferry_bulk ref = seal(out);
	EXPECT_EQ(ref.runs, 10'100u);
	EXPECT_EQ(ref.pages, 10'100u);
	EXPECT_EQ(ref.blocks, 40u);
	ferry_runs_destroy(out);
	EXPECT_EQ(round_trip(runs, runs), runs);
}

TEST_F(KhoRuns, BlocksFarFromEachOther)
{
	fake::scatter = true;
	Runs runs = scattered(1'000);
	EXPECT_EQ(round_trip(runs, runs), runs);
}

TEST_F(KhoRuns, CanBeSealedAgainAfterMore)
{
	ferry_runs *out = create();
	Runs first = scattered(300), second = scattered(300, 5'000);
	append(out, first);
	seal(out);
	seal(out);
	// One that would continue the last run, which is preserved as it is already.
	second.insert(second.begin(), run_at(600, 898, 1));
	append(out, second);
	ferry_bulk ref = seal(out);
	Runs all = first;
	all.insert(all.end(), second.begin(), second.end());
	EXPECT_EQ(walk(out), all);
	EXPECT_EQ(ref.runs, all.size());

	kexec([&] { ferry_runs_destroy(out); });
	ferry_runs_in *in = nullptr;
	ASSERT_EQ(ferry_runs_open(&ref, "test", &in), 0);
	Runs arrived = take(in);
	ferry_runs_close(in);
	EXPECT_EQ(arrived, all);
	release(arrived);
}

TEST_F(KhoRuns, WalkStopsOnDemand)
{
	ferry_runs *out = create();
	append(out, scattered(600));
	int left = 300;
	auto visit = [](void *ctx, const ferry_run *) {
		return --*static_cast<int *>(ctx) ? 0 : 7;
	};
	EXPECT_EQ(ferry_runs_walk(out, visit, &left), 7);
	EXPECT_EQ(left, 0);
	// The last one, which is still open.
	left = 600;
	EXPECT_EQ(ferry_runs_walk(out, visit, &left), 7);
	ferry_runs_destroy(out);
}

TEST_F(KhoRuns, UsageFollows)
{
	ferry_runs *out = create();
	ferry_usage usage;
	ferry_runs_usage(out, &usage);
	EXPECT_EQ(usage.pages + usage.runs + usage.metadata + usage.blobs, 0u);
	append(out, {run_at(0, 0, 2, 9), run_at(5000, 1024, 3)});
	ferry_runs_usage(out, &usage);
	EXPECT_EQ(usage.pages, 1027u);
	EXPECT_EQ(usage.runs, 2u);
	seal(out);
	ferry_runs_usage(out, &usage);
	EXPECT_EQ(usage.pages, 1027u);
	EXPECT_EQ(usage.metadata, 4096u);
	ferry_owner_usage(owner, &usage);
	EXPECT_EQ(usage.pages, 1027u);
	EXPECT_EQ(usage.runs, 2u);
	EXPECT_EQ(usage.metadata, 4096u);
	ferry_runs_destroy(out);
	ferry_owner_usage(owner, &usage);
	EXPECT_EQ(usage.pages + usage.runs + usage.metadata + usage.blobs, 0u);
}

TEST_F(KhoRuns, EveryFailureLeavesTheListUsable)
{
	for_each_failure([&] {
		ferry_runs *runs = ferry_runs_create(owner);
		if (!runs)
			return -ENOMEM;
		int result = 0;
		unsigned int appended = 0;
		for (const ferry_run &run : scattered(256)) {
			int err = ferry_runs_append(runs, &run);
			if (err && !result)
				result = err;
			// After an error the list is as it was, and goes on.
			appended += !err;
			ferry_usage usage;
			ferry_runs_usage(runs, &usage);
			EXPECT_EQ(usage.runs, appended);
			if (err)
				break;
		}
		EXPECT_EQ(walk(runs).size(), appended);
		ferry_bulk ref;
		int err = ferry_runs_seal(runs, &ref);
		if (!err)
			EXPECT_EQ(ref.runs, appended);
		if (!result)
			result = err;
		ferry_runs_destroy(runs);
		return result;
	});
}

TEST_F(KhoRuns, AppendCanBeTriedAgain)
{
	Runs runs = scattered(256);
	for (unsigned long nth = 1; nth < 270; nth += nth < 245 ? 9 : 1) {
		ferry_runs *out = create();
		fake::arm(nth);
		for (const ferry_run &run : runs) {
			if (ferry_runs_append(out, &run))
				ASSERT_EQ(ferry_runs_append(out, &run), 0);
		}
		ferry_bulk ref;
		if (ferry_runs_seal(out, &ref))
			ASSERT_EQ(ferry_runs_seal(out, &ref), 0);
		fake::disarm();
		ASSERT_EQ(walk(out), runs);
		ASSERT_EQ(ref.runs, runs.size());
		ferry_runs_destroy(out);
	}
}

TEST_F(KhoRuns, OpenCanBeTriedAgain)
{
	ferry_runs *out = create();
	append(out, scattered(300));
	ferry_bulk ref = seal(out);
	kexec([&] { ferry_runs_destroy(out); });
	std::size_t before = fake::waiting();
	ferry_runs_in *in = nullptr;
	fake::arm(1);
	EXPECT_EQ(ferry_runs_open(&ref, "test", &in), -ENOMEM);
	fake::disarm();
	EXPECT_EQ(fake::waiting(), before);
	ASSERT_EQ(ferry_runs_open(&ref, "test", &in), 0);
	ferry_runs_close(in);
	EXPECT_EQ(fake::waiting(), 0u);
}

TEST_F(KhoRuns, CloseFreesWhatWasNotTaken)
{
	ferry_runs *out = create();
	append(out, scattered(600));
	ferry_bulk ref = seal(out);
	kexec([&] { ferry_runs_destroy(out); });

	ferry_runs_in *in = nullptr;
	ASSERT_EQ(ferry_runs_open(&ref, "test", &in), 0);
	ferry_run run;
	for (int i = 0; i < 100; ++i)
		ASSERT_EQ(ferry_runs_next(in, &run, 1), 1);
	ferry_runs_close(in);
	EXPECT_EQ(fake::waiting(), 0u);
	EXPECT_EQ(fake::counters()["restored folios"], 100);
	EXPECT_TRUE(fake::owns(run.pfn));
}

TEST_F(KhoRuns, ARunThatIsNotRestoredIsLostAlone)
{
	ferry_runs *out = create();
	append(out, scattered(10));
	ferry_bulk ref = seal(out);
	kexec([&] { ferry_runs_destroy(out); });

	ferry_runs_in *in = nullptr;
	ASSERT_EQ(ferry_runs_open(&ref, "test", &in), 0);
	// The blocks of the list come first.
	fake::fail_restore = true;
	fake::arm(3);
	ferry_run run;
	ASSERT_EQ(ferry_runs_next(in, &run, 1), 1);
	EXPECT_EQ(ferry_runs_next(in, &run, 1), -EIO);
	fake::disarm();
	int left = 0;
	while (ferry_runs_next(in, &run, 1) == 1)
		++left;
	EXPECT_EQ(left, 8);
	ferry_runs_close(in);
}

TEST_F(KhoRuns, IncomingListOpenedTwiceIsRefused)
{
	ferry_runs *out = create();
	append(out, scattered(3));
	ferry_bulk ref = seal(out);
	kexec([&] { ferry_runs_destroy(out); });

	ferry_runs_in *in = nullptr;
	ASSERT_EQ(ferry_runs_open(&ref, "test", &in), 0);
	ferry_runs_close(in);
	EXPECT_EQ(ferry_runs_open(&ref, "test", &in), -EBADMSG);
	EXPECT_EQ(in, nullptr);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "test"));
}

} // namespace
