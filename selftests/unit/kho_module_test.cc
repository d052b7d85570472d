// SPDX-License-Identifier: GPL-2.0
// kho.ko as a whole: loading, the root page, providers, the way of the tree
// into the next kernel, dumps.
#include "kho_testing.hh"

#include "fake/carry.hh"

#include <cerrno>
#include <memory>
#include <string>

extern "C" {
#include <libfdt.h>
}

namespace {

#define NOTE_FIELDS(F, T)                                                                          \
	F(T, U64, number, 1, 0, ~0ull, 0)                                                          \
	F(T, STR, text, 1, 0, 31, 32)
FERRY_RECORD(note, "note", 1, 1, NOTE_FIELDS);

struct Provider {
	explicit Provider(const char *name, std::function<int(ferry_writer *, bool)> save)
		: save{std::move(save)}, provider{name, &module, call, this}
	{
	}

	static int call(void *ctx, ferry_writer *writer, bool final)
	{
		auto self = static_cast<Provider *>(ctx);
		EXPECT_EQ(fake::locks_held(), 0u);
		EXPECT_EQ(self->module.refs, 1);
		return self->save(writer, final);
	}

	::module module{.name = "provider"};
	std::function<int(ferry_writer *, bool)> save;
	ferry_provider provider;
};

int put_note(ferry_writer *writer, unsigned long long number, const char *text = "text")
{
	note note{.number = number, .text = {}};
	std::strncpy(note.text, text, sizeof(note.text) - 1);
	return ferry_put(writer, &note_record, &note);
}

std::string dump(bool incoming)
{
	seq_file file;
	kho_show_dump(&file, incoming);
	return file.text;
}

std::vector<unsigned char> tree_copy(bool incoming)
{
	void *data = nullptr;
	long size = kho_tree_copy(incoming, &data);
	EXPECT_GE(size, 0);
	std::vector<unsigned char> copy;
	if (data)
		copy.assign(static_cast<unsigned char *>(data),
			    static_cast<unsigned char *>(data) + size);
	ferry_free(data);
	return copy;
}

class KhoModule : public Kho {
    protected:
	// Loads into a kernel that was handed this.
	void boot(const fake::Handover &handover)
	{
		unload();
		fake::power_off();
		fake::boot(handover);
		load();
	}

	unsigned long long number(ferry_node node)
	{
		note note;
		EXPECT_EQ(ferry_get(node, &note_record, &note), 0);
		return note.number;
	}
};

TEST_F(KhoModule, ColdBootHasNoTree)
{
	EXPECT_LT(ferry_incoming("test").offset, 0);
	EXPECT_TRUE(fake::log().empty()) << fake::log_text();
	EXPECT_EQ(fake::kho_module().refs, 0);
	EXPECT_TRUE(tree_copy(true).empty());
	EXPECT_EQ(dump(true), "(nothing)\n");
	EXPECT_EQ(fake::handover().subtrees.count("ferry"), 1u);
}

TEST_F(KhoModule, WithoutATreeTheNextKernelGetsNone)
{
	kexec([] {});
	EXPECT_LT(ferry_incoming("test").offset, 0);
	EXPECT_EQ(fake::waiting(), 0u);
	EXPECT_FALSE(fake::logged(FERRY_ERR, "")) << fake::log_text();
}

TEST_F(KhoModule, ProvidersAreCarried)
{
	Provider one{"one", [](ferry_writer *writer, bool) { return put_note(writer, 1); }};
	Provider two{"two", [](ferry_writer *writer, bool) {
			     int err = put_note(writer, 2);
			     for (int i = 0; !err && i < 1000; ++i) {
				     std::string name = "child@" + std::to_string(i);
				     err = ferry_begin(writer, name.c_str());
				     if (!err)
					     err = put_note(writer, i,
							    "a longer text for a larger tree");
				     if (!err)
					     err = ferry_end(writer);
			     }
			     return err;
		     }};
	ASSERT_EQ(ferry_kho_register(&one.provider), 0);
	ASSERT_EQ(ferry_kho_register(&two.provider), 0);
	ASSERT_EQ(ferry_kho_finalize(), 0);
	kexec([&] {
		ferry_kho_abort();
		ferry_kho_unregister(&one.provider);
		ferry_kho_unregister(&two.provider);
	});
	EXPECT_EQ(fake::waiting(), 0u);
	EXPECT_EQ(number(ferry_incoming("one")), 1u);
	EXPECT_EQ(number(ferry_incoming("two")), 2u);
	EXPECT_LT(ferry_incoming("three").offset, 0);
	unsigned int nr = 0;
	for (ferry_node at = ferry_first(ferry_incoming("two")); at.offset >= 0;
	     at = ferry_next(at))
		EXPECT_EQ(number(at), nr++);
	EXPECT_EQ(nr, 1000u);
	// The incoming tree keeps the module until nobody needs it.
	EXPECT_EQ(fake::kho_module().refs, 1);
	ferry_incoming_done();
	EXPECT_EQ(fake::kho_module().refs, 0);
	ferry_incoming_done();
	EXPECT_EQ(fake::kho_module().refs, 0);
	EXPECT_LT(ferry_incoming("one").offset, 0);
}

TEST_F(KhoModule, ProvidersAreToldWhatItIsFor)
{
	std::vector<bool> finals;
	Provider one{"one", [&](ferry_writer *, bool final) {
			     finals.push_back(final);
			     return 0;
		     }};
	ASSERT_EQ(ferry_kho_register(&one.provider), 0);
	EXPECT_EQ(ferry_kho_finalize(), 0);
	tree_copy(false);
	dump(false);
	EXPECT_EQ(finals, (std::vector{true, false, false}));
	ferry_kho_abort();
	ferry_kho_unregister(&one.provider);
}

TEST_F(KhoModule, ProviderOfADyingModuleIsLeftOut)
{
	Provider one{"one", [&](ferry_writer *writer, bool) { return put_note(writer, 1); }};
	one.module.going = true;
	ASSERT_EQ(ferry_kho_register(&one.provider), 0);
	EXPECT_EQ(ferry_kho_finalize(), 0);
	EXPECT_EQ(dump(false).find("one"), std::string::npos);
	ferry_kho_abort();
	ferry_kho_unregister(&one.provider);
}

TEST_F(KhoModule, TooManyProvidersAreRefused)
{
	std::vector<std::unique_ptr<Provider>> providers;
	for (int i = 0; i < FERRY_MAX_PROVIDERS; ++i) {
		providers.push_back(
			std::make_unique<Provider>("p", [](ferry_writer *, bool) { return 0; }));
		EXPECT_EQ(ferry_kho_register(&providers.back()->provider), 0);
	}
	Provider more{"more", {}};
	EXPECT_EQ(ferry_kho_register(&more.provider), -ENOSPC);
	ferry_kho_unregister(&more.provider);
	for (auto &provider : providers)
		ferry_kho_unregister(&provider->provider);
}

TEST_F(KhoModule, AProviderCanRefuse)
{
	for (int err : {-EBUSY, -EOWNERDEAD}) {
		Provider one{"one", [=](ferry_writer *, bool) { return err; }};
		ASSERT_EQ(ferry_kho_register(&one.provider), 0);
		EXPECT_EQ(ferry_kho_finalize(), err);
		EXPECT_EQ(one.module.refs, 0);
		ferry_kho_unregister(&one.provider);
	}
	// Nothing of it is left for the next kernel.
	kexec([] {});
	EXPECT_LT(ferry_incoming("one").offset, 0);
}

TEST_F(KhoModule, AnUnbalancedProviderIsRefused)
{
	Provider open{"one",
		      [](ferry_writer *writer, bool) { return ferry_begin(writer, "open"); }};
	ASSERT_EQ(ferry_kho_register(&open.provider), 0);
	EXPECT_EQ(ferry_kho_finalize(), -EINVAL);
	ferry_kho_unregister(&open.provider);

	Provider closed{"one", [](ferry_writer *writer, bool) { return ferry_end(writer); }};
	ASSERT_EQ(ferry_kho_register(&closed.provider), 0);
	EXPECT_EQ(ferry_kho_finalize(), -EINVAL);
	ferry_kho_unregister(&closed.provider);
}

TEST_F(KhoModule, AbortTakesTheTreeBack)
{
	Provider one{"one", [](ferry_writer *writer, bool) { return put_note(writer, 1); }};
	ASSERT_EQ(ferry_kho_register(&one.provider), 0);
	auto before = fake::counters();
	for (int i = 0; i < 3; ++i) {
		ASSERT_EQ(ferry_kho_finalize(), 0);
		EXPECT_NE(fake::counters(), before);
		ferry_kho_abort();
		EXPECT_EQ(fake::counters(), before);
	}
	ferry_kho_abort();
	ferry_kho_unregister(&one.provider);
	kexec([] {});
	EXPECT_LT(ferry_incoming("one").offset, 0);
}

TEST_F(KhoModule, FinalizeAgainReplacesTheTree)
{
	unsigned long long number_now = 1;
	Provider one{"one", [&](ferry_writer *writer, bool) {
			     return number_now ? put_note(writer, number_now) : -EBUSY;
		     }};
	ASSERT_EQ(ferry_kho_register(&one.provider), 0);
	ASSERT_EQ(ferry_kho_finalize(), 0);
	number_now = 2;
	ASSERT_EQ(ferry_kho_finalize(), 0);
	kexec([&] {
		ferry_kho_abort();
		ferry_kho_unregister(&one.provider);
	});
	EXPECT_EQ(number(ferry_incoming("one")), 2u);
}

TEST_F(KhoModule, AFailedFinalizeLeavesNoTree)
{
	int result = 0;
	Provider one{"one", [&](ferry_writer *writer, bool) {
			     return result ? result : put_note(writer, 1);
		     }};
	ASSERT_EQ(ferry_kho_register(&one.provider), 0);
	ASSERT_EQ(ferry_kho_finalize(), 0);
	result = -EBUSY;
	EXPECT_EQ(ferry_kho_finalize(), -EBUSY);
	kexec([&] {
		ferry_kho_abort();
		ferry_kho_unregister(&one.provider);
	});
	EXPECT_LT(ferry_incoming("one").offset, 0);
}

TEST_F(KhoModule, EveryFailureToFinalize)
{
	Provider one{"one", [](ferry_writer *writer, bool) {
			     int err = put_note(writer, 1);
			     for (int i = 0; !err && i < 400; ++i) {
				     err = ferry_begin(writer, "child");
				     if (!err)
					     err = put_note(writer, i,
							    "a longer text for a larger tree");
				     if (!err)
					     err = ferry_end(writer);
			     }
			     return err;
		     }};
	ASSERT_EQ(ferry_kho_register(&one.provider), 0);
	for_each_failure([&] {
		int err = ferry_kho_finalize();
		if (!err)
			ferry_kho_abort();
		// What it points to is there, or it points nowhere.
		auto handover = fake::handover();
		EXPECT_EQ(handover.keys.size(), 1u);
		EXPECT_EQ(one.module.refs, 0);
		return err;
	});
	ferry_kho_unregister(&one.provider);
}

TEST_F(KhoModule, EveryFailureToDump)
{
	Provider one{"one", [](ferry_writer *writer, bool) { return put_note(writer, 1); }};
	ASSERT_EQ(ferry_kho_register(&one.provider), 0);
	for (unsigned long nth = 1; nth < 10; ++nth) {
		auto before = fake::counters();
		fake::arm(nth);
		dump(false);
		fake::disarm();
		EXPECT_EQ(fake::counters(), before);
	}
	ferry_kho_unregister(&one.provider);
}

TEST_F(KhoModule, EveryFailureToLoad)
{
	unload();
	for_each_failure([] {
		int err = kho_module_init();
		if (!err)
			kho_module_exit();
		return err;
	});
}

// A kernel that is out of memory while kho.ko is loaded: the next try finds
// everything.
TEST_F(KhoModule, LoadingCanBeTriedAgain)
{
	for (unsigned long nth = 1; nth < 100; ++nth) {
		SCOPED_TRACE(nth);
		Provider one{"one", [](ferry_writer *writer, bool) { return put_note(writer, 1); }};
		ASSERT_EQ(ferry_kho_register(&one.provider), 0);
		ASSERT_EQ(ferry_kho_finalize(), 0);
		fake::Handover handover = fake::handover();
		ferry_kho_abort();
		ferry_kho_unregister(&one.provider);
		unload();
		fake::boot(handover);
		fake::arm(nth);
		int err = kho_module_init();
		const char *failed = fake::disarm();
		if (!failed) {
			ASSERT_EQ(err, 0);
			ferry_incoming_done();
			kho_module_exit();
			break;
		}
		if (err) {
			EXPECT_EQ(err, -ENOMEM);
		} else {
			ferry_incoming_done();
			kho_module_exit();
			ADD_FAILURE() << "a failure of " << failed << " was not reported";
		}
		load();
		ASSERT_GE(ferry_incoming("one").offset, 0)
			<< "lost by a failure of " << failed << "\n"
			<< fake::log_text();
		EXPECT_EQ(number(ferry_incoming("one")), 1u);
	}
	load();
}

TEST_F(KhoModule, ReloadingFindsNothingMore)
{
	Provider one{"one", [](ferry_writer *writer, bool) { return put_note(writer, 1); }};
	ASSERT_EQ(ferry_kho_register(&one.provider), 0);
	ASSERT_EQ(ferry_kho_finalize(), 0);
	kexec([&] {
		ferry_kho_abort();
		ferry_kho_unregister(&one.provider);
	});
	ASSERT_GE(ferry_incoming("one").offset, 0);
	unload();
	load();
	EXPECT_LT(ferry_incoming("one").offset, 0);
}

TEST_F(KhoModule, NamesOfOwnersAreShown)
{
	ferry_run run = run_at(8, 8, 5);
	ferry_runs *runs = ferry_runs_create(owner);
	ASSERT_EQ(ferry_runs_append(runs, &run), 0);
	ferry_bulk ref;
	ASSERT_EQ(ferry_runs_seal(runs, &ref), 0);
	seq_file file;
	kho_show_owners(&file);
	EXPECT_NE(file.text.find(
			  "test                        5            1         4096            0"),
		  std::string::npos)
		<< file.text;
	ferry_runs_destroy(runs);
}

TEST_F(KhoModule, DumpShowsRecordsAsWhatTheyAre)
{
	const ferry_record *records[] = {&note_record};
	ASSERT_EQ(ferry_formats_register(records, 1), 0);
	Provider one{"one",
		     [](ferry_writer *writer, bool) { return put_note(writer, 42, "hello"); }};
	ASSERT_EQ(ferry_kho_register(&one.provider), 0);
	std::string out = dump(false);
	EXPECT_NE(out.find("number = 42\n"), std::string::npos) << out;
	EXPECT_NE(out.find("text = \"hello\"\n"), std::string::npos) << out;
	ASSERT_EQ(ferry_kho_finalize(), 0);
	kexec([&] {
		ferry_kho_abort();
		ferry_kho_unregister(&one.provider);
		ferry_formats_unregister(records);
	});
	// The records are those of the module that is loaded now.
	ASSERT_EQ(ferry_formats_register(records, 1), 0);
	EXPECT_EQ(dump(true), out);
	auto tree = tree_copy(true);
	EXPECT_EQ(fdt_check_full(tree.data(), tree.size()), 0);
	ferry_formats_unregister(records);
}

TEST_F(KhoModule, FormatsAreJson)
{
	const ferry_record *records[] = {&note_record};
	ASSERT_EQ(ferry_formats_register(records, 1), 0);
	seq_file file;
	kho_show_formats(&file);
	EXPECT_NE(file.text.find(
			  "{\"name\": \"note\", \"writes\": 1, \"reads\": [1, 1], \"fields\": ["),
		  std::string::npos)
		<< file.text;
	EXPECT_NE(file.text.find("\"bulk\""), std::string::npos);
	for (auto &[frame, version] :
	     {std::pair{"the root page", "1"}, std::pair{"the lists of runs", "2"},
	      std::pair{"the tree", "1"}})
		EXPECT_NE(file.text.find("{\"name\": \"" + std::string(frame) +
					 "\", \"writes\": " + version + ", \"reads\": [1, " +
					 version + "], \"fields\": []}"),
			  std::string::npos)
			<< frame;
	long depth = 0;
	for (char letter : file.text) {
		depth += letter == '{' || letter == '[';
		depth -= letter == '}' || letter == ']';
		EXPECT_GE(depth, 0);
	}
	EXPECT_EQ(depth, 0);
	ferry_formats_unregister(records);
}

// ---- what was handed over, damaged ----

std::vector<unsigned char> small_tree()
{
	std::vector<unsigned char> tree(4096);
	fdt_create(tree.data(), 4096);
	fdt_finish_reservemap(tree.data());
	fdt_begin_node(tree.data(), "");
	fdt_property_string(tree.data(), "compatible", "ferry,tree-v1");
	fdt_begin_node(tree.data(), "one");
	fdt_property(tree.data(), "compatible", "ferry,note-v1", 14);
	fdt_property_u64(tree.data(), "number", 3);
	fdt_property(tree.data(), "text", "x", 2);
	fdt_end_node(tree.data());
	fdt_end_node(tree.data());
	fdt_finish(tree.data());
	tree.resize(fdt_totalsize(tree.data()));
	return tree;
}

TEST_F(KhoModule, HandMadeTreeIsTaken)
{
	boot(fake::carry_tree(small_tree()));
	EXPECT_EQ(number(ferry_incoming("one")), 3u);
	EXPECT_EQ(fake::waiting(), 0u);
}

TEST_F(KhoModule, EveryByteOfTheRootIsCovered)
{
	for (std::size_t at = 0; at < sizeof(ferry_root); ++at) {
		SCOPED_TRACE(at);
		auto handover = fake::carry_tree(small_tree());
		handover.pages[fake::first_pfn + 1][at] ^= 0x20;
		std::size_t handed = handover.keys.size();
		boot(handover);
		EXPECT_LT(ferry_incoming("one").offset, 0);
		EXPECT_EQ(fake::waiting(), handed);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "root page")) << fake::log_text();
		fake::clear_log();
	}
}

TEST_F(KhoModule, ADamagedRootIsRefused)
{
	auto refuse = [&](const char *why,
			  const std::function<void(fake::Handover &, ferry_root &)> &damage) {
		SCOPED_TRACE(why);
		auto handover = fake::carry_tree(small_tree());
		auto &page = handover.pages[fake::first_pfn + 1];
		damage(handover, *reinterpret_cast<ferry_root *>(page.data()));
		fake::fix_root(page);
		fake::clear_log();
		boot(handover);
		EXPECT_LT(ferry_incoming("one").offset, 0);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "")) << fake::log_text();
	};
	using Handed = fake::Handover &;
	refuse("wrong magic", [](Handed, ferry_root &root) { root.magic ^= 1; });
	refuse("newer version", [](Handed, ferry_root &root) { root.version = 2; });
	refuse("no version", [](Handed, ferry_root &root) { root.version = 0; });
	refuse("too short",
	       [](Handed handed, ferry_root &) { handed.subtrees["ferry"].size = 63; });
	refuse("not a page",
	       [](Handed handed, ferry_root &) { handed.subtrees["ferry"].phys += 8; });
	refuse("not memory",
	       [](Handed handed, ferry_root &) { handed.subtrees["ferry"].phys = ~0xfffull; });
	refuse("physical address 0",
	       [](Handed handed, ferry_root &) { handed.subtrees["ferry"].phys = 0; });
	refuse("not preserved",
	       [](Handed handed, ferry_root &) { handed.keys.erase(fake::first_pfn + 1); });
	refuse("a large folio",
	       [](Handed handed, ferry_root &) { handed.keys[fake::first_pfn + 1] = 1; });
	refuse("no such block", [](Handed, ferry_root &root) { root.first += 4096; });
	refuse("more blocks", [](Handed, ferry_root &root) { root.blocks = 7; });
	refuse("no bytes", [](Handed, ferry_root &root) { root.bytes = 0; });
	refuse("more bytes", [](Handed, ferry_root &root) { root.bytes = 5000; });
	refuse("absurd bytes", [](Handed, ferry_root &root) { root.bytes = root.pages = ~0ull; });
	refuse("fewer bytes than the tree has", [](Handed, ferry_root &root) { root.bytes = 20; });
}

TEST_F(KhoModule, EveryByteOfTheTreeIsCovered)
{
	auto tree = small_tree();
	for (std::size_t at = 0; at < tree.size(); ++at) {
		SCOPED_TRACE(at);
		auto handover = fake::carry_tree(tree);
		handover.pages[fake::first_pfn + 3][at] ^= 1 << at % 8;
		boot(handover);
		EXPECT_LT(ferry_incoming("one").offset, 0);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "the tree")) << fake::log_text();
		fake::clear_log();
	}
}

TEST_F(KhoModule, OtherTreesAreRefused)
{
	for (const char *compatible :
	     {"ferry,tree-v2", "ferry,tree-v0", "ferry,trees-v1", "x", ""}) {
		SCOPED_TRACE(compatible);
		std::vector<unsigned char> tree(4096);
		fdt_create(tree.data(), 4096);
		fdt_finish_reservemap(tree.data());
		fdt_begin_node(tree.data(), "");
		if (*compatible)
			fdt_property_string(tree.data(), "compatible", compatible);
		fdt_begin_node(tree.data(), "one");
		fdt_end_node(tree.data());
		fdt_end_node(tree.data());
		fdt_finish(tree.data());
		tree.resize(fdt_totalsize(tree.data()));
		fake::clear_log();
		boot(fake::carry_tree(tree));
		EXPECT_LT(ferry_incoming("one").offset, 0);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "the tree")) << fake::log_text();
	}
}

TEST_F(KhoModule, ADamagedTreeIsRefused)
{
	auto tree = small_tree();
	for (std::size_t size : {1ul, 4ul, 39ul, 40ul, tree.size() - 1}) {
		SCOPED_TRACE(size);
		auto cut = tree;
		cut.resize(size);
		boot(fake::carry_tree(cut));
		EXPECT_LT(ferry_incoming("one").offset, 0);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "tree")) << fake::log_text();
		fake::clear_log();
	}
	// Any single bit: either it is refused, or what is read is within bounds.
	for (std::size_t at = 0; at < tree.size(); ++at) {
		auto damaged = tree;
		damaged[at] ^= 1 << at % 8;
		boot(fake::carry_tree(damaged));
		note note;
		ferry_get(ferry_incoming("one"), &note_record, &note);
		EXPECT_LT(strnlen(note.text, sizeof(note.text)), sizeof(note.text));
		dump(true);
		tree_copy(true);
	}
}

} // namespace
