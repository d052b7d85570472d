// SPDX-License-Identifier: GPL-2.0
// The formats as they are on the way, byte for byte: this kernel reads what is
// in golden/, and writes the same. A change that fails here is a change of a
// format: it needs a new version, a new set of files, and a reader of the old.
//
// `make golden` writes the files of the current version anew.
#include "golden.hh"
#include "kho_testing.hh"
#include "luo_v1.hh"

#include "fake/carry.hh"

#include <abi/hugetlb.h>
#include <abi/luo.h>
#include <abi/memfd.h>

namespace {

using Bytes = FileBytes;

// One of everything: a session of two files, one of which needs the other.
int save(void *, ferry_writer *writer, bool)
{
	luo_v1::ferry_update update{.number = 7,
				    .sessions = 1,
				    .files = 2,
				    .pages = 1000,
				    .runs = 3,
				    .metadata = 4096,
				    .preserve_ns = 123'456'789,
				    .freeze_ns = 987'654,
				    .tsc = 0x0123456789abcdef,
				    .tsc_khz = 2'400'000};
	luo_v1::ferry_session session{.session_name = "vm-1"};
	luo_v1::ferry_file file{.token = 0xf11e, .handler = FERRY_MEMFD_COMPATIBLE};
	luo_v1::ferry_file other{.token = 2, .handler = "other-v1"};
	ferry_need need{.token = 0xf11e};
	ferry_memfd memfd{.size = 0x40000000, .pos = 42, .seals = 2, .mode = 0600};
	ferry_bulk bulk{.first = 0x123456000, .blocks = 1, .runs = 3, .pages = 1000, .bytes = 0};

	int err = ferry_put(writer, &luo_v1::ferry_update_record, &update);
	auto begin = [&](const char *name, const ferry_record *record, const void *object) {
		err = err ? err : ferry_begin(writer, name);
		err = err || !record ? err : ferry_put(writer, record, object);
	};
	auto end = [&] { err = err ? err : ferry_end(writer); };

	begin("session@0", &luo_v1::ferry_session_record, &session);
	begin("file@0", &luo_v1::ferry_file_record, &file);
	begin("state", &ferry_memfd_record, &memfd);
	begin("pages", &ferry_bulk_record, &bulk);
	end();
	end();
	end();
	begin("file@1", &luo_v1::ferry_file_record, &other);
	begin("needs@0", &ferry_need_record, &need);
	end();
	begin("state", nullptr, nullptr);
	end();
	end();
	end();
	return err;
}

constexpr ferry_provider provider{"luo", nullptr, save, nullptr};

// Runs of every kind there is.
Runs sample_runs()
{
	return {
		run_at(1, 0, 1),
		run_at(512, 512, 3, 9),
		run_at(4096, 5000, 10, 0, FERRY_MEMFD_UNWRITTEN),
		run_at(1 << 18, 1ull << 38, 1, 18, 511),
		run_at(9001, 6000, 1),
		run_at(9000, 6001, 1),
	};
}

// What becomes of them: the last two lie backwards in memory.
Runs written_runs()
{
	Runs runs = sample_runs();
	runs.pop_back();
	runs.back() = run_at(9000, 6000, 2, 0, FERRY_RUN_DESCENDING);
	return runs;
}

class KhoGolden : public Kho {};

TEST_F(KhoGolden, Tree)
{
	ASSERT_EQ(ferry_kho_register(&provider), 0);
	void *data = nullptr;
	long size = kho_tree_copy(false, &data);
	ASSERT_GT(size, 0);
	auto bytes = static_cast<unsigned char *>(data);
	expect_golden("tree-v1.bin", {bytes, bytes + size});
	ferry_free(data);
	ferry_kho_unregister(&provider);
}

TEST_F(KhoGolden, TreeIsRead)
{
	unload();
	fake::boot(fake::carry_tree(golden("tree-v1.bin")));
	load();
	ferry_node luo = ferry_incoming("luo");
	ferry_update update;
	ASSERT_EQ(ferry_get(luo, &ferry_update_record, &update), 0);
	EXPECT_EQ(update.number, 7u);
	EXPECT_EQ(update.tsc, 0x0123456789abcdefu);
	EXPECT_EQ(update.tsc_khz, 2'400'000u);
	EXPECT_STREQ(update.from, "");
	ferry_session session;
	ferry_node node = ferry_child(luo, "session@0");
	ASSERT_EQ(ferry_get(node, &ferry_session_record, &session), 0);
	EXPECT_STREQ(session.session_name, "vm-1");
	EXPECT_EQ(session.keyed, 0u);
	ferry_file file;
	ASSERT_EQ(ferry_get(ferry_child(node, "file@0"), &ferry_file_record, &file), 0);
	EXPECT_EQ(file.token, 0xf11eu);
	EXPECT_STREQ(file.handler, "memfd-v1");
	ferry_memfd memfd;
	ferry_node state = ferry_child(ferry_child(node, "file@0"), "state");
	ASSERT_EQ(ferry_get(state, &ferry_memfd_record, &memfd), 0);
	EXPECT_EQ(memfd.size, 0x40000000u);
	EXPECT_EQ(memfd.pos, 42u);
	EXPECT_EQ(memfd.seals, 2u);
	EXPECT_EQ(memfd.mode, 0600u);
	ferry_bulk bulk;
	ASSERT_EQ(ferry_get(ferry_child(state, "pages"), &ferry_bulk_record, &bulk), 0);
	EXPECT_EQ(bulk.first, 0x123456000u);
	EXPECT_EQ(bulk.pages, 1000u);
	ferry_need need;
	node = ferry_child(ferry_child(node, "file@1"), "needs@0");
	ASSERT_EQ(ferry_get(node, &ferry_need_record, &need), 0);
	EXPECT_EQ(need.token, 0xf11eu);
}

// The state of a memfd of hugetlb, in a tree of its own.
int save_hugetlb(void *, ferry_writer *writer, bool)
{
	ferry_hugetlb hugetlb{.size = 0x80000000, .pos = 42, .seals = 2, .mode = 0600, .order = 18};
	ferry_bulk pages{
		.first = 0x123456000, .blocks = 1, .runs = 1, .pages = 1 << 18, .bytes = 0};
	ferry_bulk reserved{.first = 0x123458000, .blocks = 1, .runs = 1, .pages = 1, .bytes = 16};

	int err = ferry_put(writer, &ferry_hugetlb_record, &hugetlb);
	for (auto &[name, bulk] : {std::pair{"pages", &pages}, std::pair{"reserved", &reserved}}) {
		err = err ? err : ferry_begin(writer, name);
		err = err ? err : ferry_put(writer, &ferry_bulk_record, bulk);
		err = err ? err : ferry_end(writer);
	}
	return err;
}

constexpr ferry_provider hugetlb_provider{"state", nullptr, save_hugetlb, nullptr};

TEST_F(KhoGolden, Hugetlb)
{
	ASSERT_EQ(ferry_kho_register(&hugetlb_provider), 0);
	void *data = nullptr;
	long size = kho_tree_copy(false, &data);
	ASSERT_GT(size, 0);
	auto bytes = static_cast<unsigned char *>(data);
	expect_golden("hugetlb-v1.bin", {bytes, bytes + size});
	ferry_free(data);
	ferry_kho_unregister(&hugetlb_provider);
}

TEST_F(KhoGolden, HugetlbIsRead)
{
	unload();
	fake::boot(fake::carry_tree(golden("hugetlb-v1.bin")));
	load();
	ferry_node state = ferry_incoming("state");
	ferry_hugetlb hugetlb;
	ASSERT_EQ(ferry_get(state, &ferry_hugetlb_record, &hugetlb), 0);
	EXPECT_EQ(hugetlb.size, 0x80000000u);
	EXPECT_EQ(hugetlb.pos, 42u);
	EXPECT_EQ(hugetlb.seals, 2u);
	EXPECT_EQ(hugetlb.mode, 0600u);
	EXPECT_EQ(hugetlb.order, 18u);
	ferry_bulk bulk;
	ASSERT_EQ(ferry_get(ferry_child(state, "reserved"), &ferry_bulk_record, &bulk), 0);
	EXPECT_EQ(bulk.bytes, sizeof(ferry_hugetlb_range));
}

TEST_F(KhoGolden, Runs)
{
	ferry_runs *runs = ferry_runs_create(owner);
	for (const ferry_run &run : sample_runs())
		ASSERT_EQ(ferry_runs_append(runs, &run), 0);
	ferry_bulk ref;
	ASSERT_EQ(ferry_runs_seal(runs, &ref), 0);
	auto page = fake::handover().pages.at(ref.first / 4096);
	expect_golden("runs-v1.bin", {page.begin(), page.end()});
	ferry_runs_destroy(runs);
}

TEST_F(KhoGolden, RunsAreRead)
{
	unload();
	fake::Handover handover;
	Bytes bytes = golden("runs-v1.bin");
	ASSERT_EQ(bytes.size(), 4096u);
	fake::Handover::Page page;
	std::copy(bytes.begin(), bytes.end(), page.begin());
	handover.preserve(fake::first_pfn + 9, page);
	unsigned long long pages = 0;
	for (const ferry_run &run : written_runs()) {
		pages += static_cast<unsigned long long>(run.count) << run.order;
		if (!run.order)
			fake::preserve_pages(handover, run.pfn, run.count);
		for (unsigned int i = 0; run.order && i < run.count; ++i)
			handover.keys[run.pfn + (static_cast<fake::Pfn>(i) << run.order)] =
				run.order;
	}
	fake::boot(handover);
	load();
	ferry_bulk ref{(fake::first_pfn + 9) * 4096, 1, written_runs().size(), pages, 0};
	ferry_runs_in *in = nullptr;
	ASSERT_EQ(ferry_runs_open(&ref, "golden", &in), 0);
	auto taken = take(in);
	EXPECT_EQ(taken, written_runs());
	release(taken);
	ferry_runs_close(in);
	EXPECT_EQ(fake::waiting(), 0u);
}

// Two lists, and a run between them.
Runs sample_lists()
{
	return {
		run_at(1, 0, 1),
		run_at(7, 1, 1),
		run_at(3, 2, 1),
		run_at(100, 3, 9),
		run_at(1 << 18, 512, 1, 9, 5),
		run_at(1 << 17, 1024, 1, 9, 5),
		run_at(3 << 16, 1536, 1, 9, 5),
		run_at(1 << 19, 2048, 1, 9, 5),
		run_at(9 << 16, 2560, 1, 9, 5),
		run_at(10 << 16, 3072, 1, 9, 5),
	};
}

TEST_F(KhoGolden, Lists)
{
	ferry_runs *runs = ferry_runs_create(owner);
	for (const ferry_run &run : sample_lists())
		ASSERT_EQ(ferry_runs_append(runs, &run), 0);
	ferry_bulk ref;
	ASSERT_EQ(ferry_runs_seal(runs, &ref), 0);
	auto page = fake::handover().pages.at(ref.first / 4096);
	expect_golden("runs-v2.bin", {page.begin(), page.end()});
	ferry_runs_destroy(runs);
}

TEST_F(KhoGolden, ListsAreRead)
{
	unload();
	fake::Handover handover;
	Bytes bytes = golden("runs-v2.bin");
	ASSERT_EQ(bytes.size(), 4096u);
	fake::Handover::Page page;
	std::copy(bytes.begin(), bytes.end(), page.begin());
	handover.preserve(fake::first_pfn + 9, page);
	unsigned long long pages = 0;
	for (const ferry_run &run : sample_lists()) {
		pages += static_cast<unsigned long long>(run.count) << run.order;
		if (run.order)
			handover.keys[run.pfn] = run.order;
		else
			fake::preserve_pages(handover, run.pfn, run.count);
	}
	fake::boot(handover);
	load();
	ferry_bulk ref{(fake::first_pfn + 9) * 4096, 1, sample_lists().size(), pages, 0};
	ferry_runs_in *in = nullptr;
	ASSERT_EQ(ferry_runs_open(&ref, "golden", &in), 0);
	auto taken = take(in);
	EXPECT_EQ(taken, sample_lists());
	release(taken);
	ferry_runs_close(in);
	EXPECT_EQ(fake::waiting(), 0u);
}

TEST_F(KhoGolden, Root)
{
	ASSERT_EQ(ferry_kho_register(&provider), 0);
	ASSERT_EQ(ferry_kho_finalize(), 0);
	auto handover = fake::handover();
	auto subtree = handover.subtrees.at(FERRY_ROOT_SUBTREE);
	ASSERT_EQ(subtree.size, sizeof(ferry_root));
	auto page = handover.pages.at(subtree.phys / 4096);
	// Where in memory the tree is, is chance.
	reinterpret_cast<ferry_root *>(page.data())->first = (fake::first_pfn + 16) * 4096;
	fake::fix_root(page);
	expect_golden("root-v1.bin", {page.begin(), page.begin() + sizeof(ferry_root)});
	ferry_kho_abort();
	ferry_kho_unregister(&provider);
}

TEST_F(KhoGolden, RootIsRead)
{
	Bytes root = golden("root-v1.bin"), tree = golden("tree-v1.bin");
	ASSERT_EQ(root.size(), sizeof(ferry_root));
	ferry_root is;
	std::memcpy(&is, root.data(), sizeof(is));
	ASSERT_EQ(is.bytes, tree.size());
	unload();
	// The blob where the root says that it is.
	fake::Handover handover;
	fake::carry_blob(handover, is.first / 4096, tree);
	fake::Handover::Page page{};
	std::copy(root.begin(), root.end(), page.begin());
	fake::Pfn at = is.first / 4096 + 100;
	handover.preserve(at, page);
	handover.subtrees[FERRY_ROOT_SUBTREE] = {at * 4096, sizeof(ferry_root)};
	fake::boot(handover);
	load();
	EXPECT_GE(ferry_incoming("luo").offset, 0) << fake::log_text();
	EXPECT_EQ(fake::waiting(), 0u);
}

} // namespace
