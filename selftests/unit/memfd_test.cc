// SPDX-License-Identifier: GPL-2.0
// memfd/: what is preserved of a memfd, when, and what is done with bad data.
//
// kho.ko is a double here, a list of runs and a list of records, so that a test
// can see what was recorded and can forge what is read back.
#include "failures.hh"
#include "fake/memfd.hh"

#include <abi/hugetlb.h>
#include <abi/memfd.h>
#include <ferry/extents.hh>
#include <ferry/luo.h>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

using fake::Folio;
using fake::Index;
using fake::Shmem;

// ---- the double of kho.ko ----

struct ferry_owner {};

struct ferry_runs {
	std::vector<ferry_run> runs;
	bool sealed = false;
};

struct ferry_runs_in {
	std::vector<ferry_run> runs;
	std::size_t at = 0;
};

struct ferry_writer {
	int depth = 0;
	bool reserved = false; // the child that is written
};

struct ferry_blob {};

namespace {

struct Kho {
	// What was put, and what is there to be got.
	std::optional<ferry_memfd> memfd;
	std::optional<ferry_hugetlb> hugetlb;
	std::optional<ferry_bulk> bulk;
	std::optional<ferry_bulk> reserved;
	std::vector<unsigned char> blob;
	int blobs = 0;
	int blobs_saved = 0; // ever
	bool blob_waits = false; // for the next kernel
	std::vector<ferry_run> runs;
	// ferry_runs_next() fails for this one.
	std::size_t lost = ~0ul;
	int lists = 0;
};
Kho kho;
const ferry_luo_handler *handler; // of memfds on shmem
const ferry_luo_handler *huge_handler;
ferry_usage told; // to luo, last
ferry_owner the_owner;

unsigned long long pages_of(const ferry_run &run)
{
	return static_cast<unsigned long long>(run.count) << run.order;
}

unsigned long long pages_of(const std::vector<ferry_run> &runs)
{
	unsigned long long pages = 0;
	for (auto &run : runs)
		pages += pages_of(run);
	return pages;
}

} // namespace

extern "C" {

struct ferry_owner *ferry_owner_create(const char *)
{
	return fake::inject("ferry_owner_create") ? nullptr : &the_owner;
}

void ferry_owner_destroy(struct ferry_owner *)
{
}

struct ferry_runs *ferry_runs_create(struct ferry_owner *)
{
	if (fake::inject("ferry_runs_create"))
		return nullptr;
	++kho.lists;
	return new ferry_runs;
}

int ferry_runs_append(struct ferry_runs *runs, const struct ferry_run *run)
{
	if (fake::inject("ferry_runs_append"))
		return -ENOMEM;
	for (unsigned int i = 0; i < run->count; ++i) {
		Folio *folio = fake::shmem_folio(run->pfn + (Index(i) << run->order));
		if (!folio || !folio->pins || folio->order != run->order)
			fake::bug("a folio is preserved that is not pinned");
	}
	constexpr unsigned short descends = FERRY_RUN_DESCENDING;
	runs->sealed = false;
	if (!runs->runs.empty()) {
		ferry_run &last = runs->runs.back();
		bool next = last.order == run->order &&
			    (last.flags | descends) == (run->flags | descends) &&
			    last.index + pages_of(last) == run->index;
		if (next && !((last.flags | run->flags) & descends) &&
		    last.pfn + pages_of(last) == run->pfn) {
			last.count += run->count;
			return 0;
		}
		if (next && (last.flags & descends || last.count == 1) &&
		    (run->flags & descends || run->count == 1) &&
		    run->pfn + pages_of(*run) == last.pfn) {
			last.pfn = run->pfn;
			last.flags |= descends;
			last.count += run->count;
			return 0;
		}
	}
	runs->runs.push_back(*run);
	return 0;
}

int ferry_runs_append_folios(struct ferry_runs *runs, const struct ferry_folios *folios,
			     unsigned int *done)
{
	for (*done = 0; *done < folios->nr; ++*done) {
		const Index index = folios->index + (Index(*done) << folios->order);
		ferry_run run{folios->pfn[*done], index, 1, folios->order, folios->flags};
		if (int err = ferry_runs_append(runs, &run))
			return err;
	}
	return 0;
}

int ferry_runs_seal(struct ferry_runs *runs, struct ferry_bulk *ref)
{
	if (!runs->sealed && fake::inject("ferry_runs_seal"))
		return -ENOMEM;
	runs->sealed = true;
	*ref = {};
	ref->runs = runs->runs.size();
	ref->pages = pages_of(runs->runs);
	kho.runs = runs->runs;
	return 0;
}

void ferry_runs_usage(const struct ferry_runs *runs, struct ferry_usage *usage)
{
	*usage = {};
	usage->runs = runs->runs.size();
	usage->pages = pages_of(runs->runs);
}

int ferry_runs_walk(const struct ferry_runs *runs,
		    int (*visit)(void *ctx, const struct ferry_run *run), void *ctx)
{
	for (auto &run : runs->runs) {
		if (int stop = visit(ctx, &run))
			return stop;
	}
	return 0;
}

void ferry_runs_destroy(struct ferry_runs *runs)
{
	for (auto &run : runs->runs) {
		Folio *folio = fake::shmem_folio(run.pfn);
		if (!fake::shmem_astray && (!folio || !folio->pins))
			fake::bug("a folio may have moved before its preservation ended");
	}
	--kho.lists;
	delete runs;
}

int ferry_runs_open(const struct ferry_bulk *ref, const char *, struct ferry_runs_in **in)
{
	if (fake::inject("ferry_runs_open"))
		return -ENOMEM;
	if (kho.reserved && ref->bytes) {
		// The blob, which is only to be freed.
		kho.blob_waits = false;
		++kho.lists;
		*in = new ferry_runs_in{};
		return 0;
	}
	if (ref->runs != kho.runs.size())
		return -EBADMSG;
	++kho.lists;
	*in = new ferry_runs_in{kho.runs};
	return 0;
}

int ferry_runs_next(struct ferry_runs_in *in, struct ferry_run *run, unsigned int room)
{
	if (in->at != in->runs.size() && in->at == kho.lost) {
		linux_shmem_free(&in->runs[in->at++]);
		return -EIO;
	}
	// The real one stops at the end of a list, too, before there is no room left.
	room = std::min(room, 5u);
	unsigned int nr = 0;
	while (nr < room && in->at != in->runs.size() && in->at != kho.lost)
		run[nr++] = in->runs[in->at++];
	return static_cast<int>(nr);
}

void ferry_runs_leave(struct ferry_runs_in *in)
{
	if (in->at)
		fake::bug("a list is left of which runs were taken");
	--kho.lists;
	delete in;
}

void ferry_runs_close(struct ferry_runs_in *in)
{
	for (; in->at < in->runs.size(); ++in->at)
		linux_shmem_free(&in->runs[in->at]);
	--kho.lists;
	delete in;
}

int ferry_put(struct ferry_writer *writer, const struct ferry_record *record, const void *obj)
{
	if (fake::inject("ferry_put"))
		return -ENOMEM;
	if (record == &ferry_memfd_record)
		kho.memfd = *static_cast<const ferry_memfd *>(obj);
	else if (record == &ferry_hugetlb_record)
		kho.hugetlb = *static_cast<const ferry_hugetlb *>(obj);
	else
		(writer->reserved ? kho.reserved : kho.bulk) =
			*static_cast<const ferry_bulk *>(obj);
	return 0;
}

int ferry_blob_save(struct ferry_owner *, const void *data, std::size_t size,
		    struct ferry_bulk *ref, struct ferry_blob **blob)
{
	if (fake::inject("ferry_blob_save"))
		return -ENOMEM;
	auto *bytes = static_cast<const unsigned char *>(data);
	kho.blob.assign(bytes, bytes + size);
	*ref = {};
	ref->bytes = size;
	*blob = new ferry_blob;
	++kho.blobs;
	++kho.blobs_saved;
	return 0;
}

void ferry_blob_destroy(struct ferry_blob *blob)
{
	--kho.blobs;
	delete blob;
}

int ferry_blob_load(const struct ferry_bulk *ref, const char *, std::size_t max, void **data)
{
	if (fake::inject("ferry_blob_load"))
		return -ENOMEM;
	if (ref->bytes > max || ref->bytes != kho.blob.size() || !kho.blob_waits)
		return -EBADMSG;
	*data = ferry_alloc(ref->bytes);
	if (!*data)
		return -ENOMEM;
	memcpy(*data, kho.blob.data(), ref->bytes);
	kho.blob_waits = false;
	return 0;
}

int ferry_begin(struct ferry_writer *writer, const char *name)
{
	if (fake::inject("ferry_begin"))
		return -ENOMEM;
	++writer->depth;
	writer->reserved = !std::strcmp(name, "reserved");
	return 0;
}

int ferry_end(struct ferry_writer *writer)
{
	if (fake::inject("ferry_end"))
		return -ENOMEM;
	--writer->depth;
	return 0;
}

struct ferry_node ferry_child(struct ferry_node, const char *name)
{
	if (!std::strcmp(name, "reserved"))
		return {kho.reserved ? 2 : -1};
	return {1};
}

int ferry_get(struct ferry_node node, const struct ferry_record *record, void *obj)
{
	memset(obj, 0, record->size);
	if (record == &ferry_memfd_record) {
		if (!kho.memfd)
			return -EBADMSG;
		memcpy(obj, &*kho.memfd, sizeof(*kho.memfd));
	} else if (record == &ferry_hugetlb_record) {
		if (!kho.hugetlb)
			return -EBADMSG;
		memcpy(obj, &*kho.hugetlb, sizeof(*kho.hugetlb));
	} else if (node.offset == 2) {
		memcpy(obj, &*kho.reserved, sizeof(*kho.reserved));
	} else {
		if (!kho.bulk)
			return -EBADMSG;
		memcpy(obj, &*kho.bulk, sizeof(*kho.bulk));
	}
	return 0;
}

int ferry_formats_register(const struct ferry_record *const *, unsigned int)
{
	return fake::inject("ferry_formats_register") ? -ENOMEM : 0;
}

void ferry_formats_unregister(const struct ferry_record *const *)
{
}

int ferry_luo_register(const struct ferry_luo_handler *registered)
{
	if (fake::inject("ferry_luo_register"))
		return -ENOMEM;
	(std::strcmp(registered->compatible, FERRY_MEMFD_COMPATIBLE) ? huge_handler : handler) =
		registered;
	return 0;
}

void ferry_luo_progress(ferry_luo_file *, unsigned long long done, unsigned long long total)
{
	EXPECT_TRUE(!total || done <= total);
}

void ferry_luo_usage(ferry_luo_file *, const ferry_usage *usage)
{
	told = *usage;
}

void ferry_luo_unregister(const struct ferry_luo_handler *gone)
{
	(gone == handler ? handler : huge_handler) = nullptr;
}

static struct module this_module;

struct module *memfd_this_module(void)
{
	return &this_module;
}

} // extern "C"

namespace {

// ---- a memfd that is preserved ----

class Preserved {
    public:
	explicit Preserved(Shmem &shmem)
	{
		args_.handler = shmem.shmem ? handler : huge_handler;
		args_.file = shmem;
	}
	~Preserved()
	{
		if (frozen_)
			unfreeze();
		if (preserved_)
			args_.handler->ops->unpreserve(&args_);
	}

	int preserve()
	{
		int err = args_.handler->ops->preserve(&args_);
		preserved_ = !err;
		return err;
	}
	int freeze()
	{
		int err = args_.handler->ops->freeze(&args_);
		frozen_ = !err;
		return err;
	}
	void unfreeze()
	{
		args_.handler->ops->unfreeze(&args_);
		frozen_ = false;
	}
	int save()
	{
		ferry_writer writer;
		int err = args_.handler->ops->save(&args_, &writer);
		if (!err && writer.depth)
			fake::bug("a node is left open");
		return err;
	}

    private:
	ferry_luo_args args_{};
	bool preserved_ = false;
	bool frozen_ = false;
};

class MemfdTest : public testing::Test {
    protected:
	MemfdTest()
	{
		kho = {};
		fake::shmem_kept = 0;
		fake::shmem_checks = false;
		fake::shmem_astray = false;
		EXPECT_EQ(memfd_module_init(), 0);
	}
	~MemfdTest() override
	{
		memfd_module_exit();
		EXPECT_EQ(kho.lists, 0);
		EXPECT_EQ(kho.blobs, 0);
	}

	// Up to the jump. The old file goes, and what was recorded is on the way.
	static int carry(Shmem &shmem)
	{
		Preserved preserved{shmem};
		if (int err = preserved.preserve())
			return err;
		if (int err = preserved.freeze())
			return err;
		if (int err = preserved.save())
			return err;
		jump();
		return 0;
	}

	static void jump()
	{
		kho.blob_waits = kho.reserved.has_value();
		for (const ferry_run &run : kho.runs) {
			for (unsigned int i = 0; i < run.count; ++i) {
				auto pfn = run.pfn + (Index(i) << run.order);
				fake::shmem_loose[pfn] = {run.order, fake::shmem_folio(pfn)->byte};
			}
		}
	}

	static int retrieve(struct file **file)
	{
		ferry_luo_args args{};
		args.handler = kho.hugetlb ? huge_handler : handler;
		int err = args.handler->ops->retrieve(&args);
		*file = args.file;
		retrieved = args.priv;
		return err;
	}

	static void finish(int status)
	{
		ferry_luo_args args{};
		args.handler = kho.hugetlb ? huge_handler : handler;
		args.priv = status == FERRY_NOT_RETRIEVED ? nullptr : retrieved;
		args.status = status;
		args.handler->ops->finish(&args);
	}

	// What retrieve() left to finish().
	static inline void *retrieved;
};

// Runs as text: "index+pages*order/flags".
std::string text(const std::vector<ferry_run> &runs)
{
	std::string text;
	for (auto &run : runs) {
		text += (text.empty() ? "" : " ") + std::to_string(run.index) + "+" +
			std::to_string(run.count);
		if (run.order)
			text += "*" + std::to_string(run.order);
		if (run.flags)
			text += "/" + std::to_string(run.flags);
	}
	return text;
}

// ---- which files ----

TEST_F(MemfdTest, TakesShmemFilesWithoutAName)
{
	Shmem memfd{0}, linked{0}, hugetlb{0};
	linked.nlink = 1;
	hugetlb.shmem = false;
	EXPECT_TRUE(handler->ops->can_preserve(memfd));
	EXPECT_FALSE(handler->ops->can_preserve(linked));
	EXPECT_FALSE(handler->ops->can_preserve(hugetlb));
	EXPECT_NE(handler->ops->id(memfd), handler->ops->id(linked));
}

// ---- preserve ----

TEST_F(MemfdTest, PreservesAnEmptyFile)
{
	Shmem shmem{0};
	Preserved preserved{shmem};
	EXPECT_EQ(preserved.preserve(), 0);
	EXPECT_EQ(preserved.freeze(), 0);
	EXPECT_EQ(preserved.save(), 0);
	EXPECT_EQ(text(kho.runs), "");
	EXPECT_EQ(kho.memfd->size, 0u);
}

TEST_F(MemfdTest, RecordsRunsAndNoHoles)
{
	Shmem shmem{1ull << 40};
	for (Index index : {0, 1, 2, 700, 701})
		shmem.add(index);
	shmem.add(1ull << 27);
	Preserved preserved{shmem};
	ASSERT_EQ(preserved.preserve(), 0);
	EXPECT_EQ(text(kho.runs), "0+3 700+2 134217728+1");
	EXPECT_EQ(shmem.cache.size(), 6u);
}

TEST_F(MemfdTest, RecordsMoreThanABatchInOneRun)
{
	constexpr Index pages = 5 * LINUX_SHMEM_BATCH / 2;
	Shmem shmem{pages * 4096};
	for (Index index = 0; index < pages; ++index)
		shmem.add(index);
	Preserved preserved{shmem};
	ASSERT_EQ(preserved.preserve(), 0);
	EXPECT_EQ(text(kho.runs), "0+1280");
	EXPECT_EQ(told.pages, pages);
}

TEST_F(MemfdTest, RecordsMoreExtentsThanFitOnce)
{
	Shmem shmem{1ull << 30};
	for (Index index = 0; index < 1000; ++index)
		shmem.add(index * 3);
	Preserved preserved{shmem};
	ASSERT_EQ(preserved.preserve(), 0);
	EXPECT_EQ(pages_of(kho.runs), 1000u);
}

TEST_F(MemfdTest, KeepsLargeFoliosWhole)
{
	Shmem shmem{8 << 20};
	shmem.add(0, 9);
	shmem.add(512, 9);
	shmem.add(1024, 2);
	shmem.add(1028);
	Preserved preserved{shmem};
	ASSERT_EQ(preserved.preserve(), 0);
	EXPECT_EQ(text(kho.runs), "0+2*9 1024+1*2 1028+1");
}

TEST_F(MemfdTest, TakesALargeFolioThatEndsBehindTheFile)
{
	Shmem shmem{5000};
	shmem.add(0, 9);
	ASSERT_EQ(carry(shmem), 0);
	EXPECT_EQ(text(kho.runs), "0+1*9");
	struct file *file;
	ASSERT_EQ(retrieve(&file), 0);
	EXPECT_EQ(Shmem::of(file).pages(), 512u);
	fake::shmem_drop(file);
}

TEST_F(MemfdTest, AFreezeFindsPagesThatAreAstray)
{
	static constexpr Index place = 5;
	auto other_place = [](Shmem &shmem) {
		fake::Folio &folio = *shmem.at(place);
		fake::Folio mine = folio;
		folio.pfn += 100;
		return [&folio, mine] { folio = mine; };
	};
	auto another_size = [](Shmem &shmem) {
		fake::Folio &folio = *shmem.at(place);
		folio.order = 1;
		return [&folio] { folio.order = 0; };
	};
	auto without_pin = [](Shmem &shmem) {
		int &pins = shmem.at(place)->pins;
		--pins;
		return [&pins] { ++pins; };
	};
	auto in_scratch = [](Shmem &shmem) {
		bool &where = shmem.at(place)->in_scratch;
		where = true;
		return [&where] { where = false; };
	};
	auto gone = [](Shmem &shmem) {
		using Node = decltype(shmem.cache)::node_type;
		auto node = std::make_shared<Node>(shmem.cache.extract(place));
		return [&shmem, node] { shmem.cache.insert(std::move(*node)); };
	};
	struct {
		const char *what;
		std::function<std::function<void()>(Shmem &)> happens;
	} const cases[] = {{"was replaced", other_place},
			   {"was split", another_size},
			   {"is not pinned", without_pin},
			   {"is in scratch memory", in_scratch},
			   {"is gone", gone}};
	for (auto &[what, happens] : cases) {
		SCOPED_TRACE(what);
		Shmem shmem{8 * 4096};
		// It lies in the middle of a run that descends.
		for (Index index = 0; index < 8; ++index)
			shmem.add(index, 0, 1, fake::shmem_pfns + 20 - index);
		Preserved preserved{shmem};
		ASSERT_EQ(preserved.preserve(), 0);
		fake::shmem_checks = true;
		EXPECT_EQ(preserved.freeze(), 0);
		preserved.unfreeze();
		auto mend = happens(shmem);
		fake::clear_log();
		EXPECT_EQ(preserved.freeze(), -EIO);
		EXPECT_FALSE(shmem.held);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "memfd:test: the page at byte 20480"))
			<< fake::log_text();
		EXPECT_TRUE(fake::logged(FERRY_ERR, what)) << fake::log_text();
		mend();
		EXPECT_EQ(preserved.freeze(), 0);
		fake::shmem_checks = false;
	}
}

// What somebody did to preserved pages does no more harm when the file is given back.
TEST_F(MemfdTest, GivesAFileBackWhosePagesAreAstray)
{
	auto unpin = [](Shmem &shmem, Index place) { linux_shmem_unpin(&shmem.at(place)->pfn, 1); };
	struct {
		const char *said;
		unsigned long long pages;
		std::function<void(Shmem &)> happens;
	} const cases[] = {
		{"is not pinned", 1, [&](Shmem &shmem) { unpin(shmem, 3); }},
		{"is gone", 1,
		 [&](Shmem &shmem) {
			 unpin(shmem, 3);
			 shmem.free(3);
		 }},
		{"was replaced", 1,
		 [&](Shmem &shmem) {
			 unpin(shmem, 3);
			 shmem.free(3);
			 shmem.add(3);
		 }},
		{"was split", 4,
		 [&](Shmem &shmem) {
			 unpin(shmem, 4);
			 shmem.split(4);
		 }},
	};
	for (auto &[said, pages, happens] : cases) {
		SCOPED_TRACE(said);
		Shmem shmem{8 * 4096};
		for (Index index : {0, 1, 2, 3})
			shmem.add(index);
		shmem.add(4, 2);
		fake::clear_log();
		{
			Preserved preserved{shmem};
			ASSERT_EQ(preserved.preserve(), 0);
			happens(shmem);
			fake::shmem_astray = true;
			fake::shmem_checks = true;
			EXPECT_EQ(preserved.freeze(), -EIO);
			fake::shmem_checks = false;
			EXPECT_TRUE(fake::logged(FERRY_ERR, said)) << fake::log_text();
		}
		EXPECT_TRUE(fake::logged(FERRY_ERR, std::to_string(pages) +
							    " pages of memfd:test did not stay"))
			<< fake::log_text();
		// There are no pins too many or too few, and it can be preserved again.
		fake::shmem_astray = false;
		Preserved again{shmem};
		EXPECT_EQ(again.preserve(), 0);
		EXPECT_EQ(pages_of(kho.runs), shmem.pages());
	}
}

TEST_F(MemfdTest, LeavesPagesBeyondTheFileOut)
{
	Shmem shmem{2 * 4096 + 1};
	for (Index index = 0; index < 6; ++index)
		shmem.add(index);
	Preserved preserved{shmem};
	ASSERT_EQ(preserved.preserve(), 0);
	EXPECT_EQ(text(kho.runs), "0+3");
	ASSERT_EQ(preserved.freeze(), 0);
	ASSERT_EQ(preserved.save(), 0);
	EXPECT_EQ(text(kho.runs), "0+3");
}

TEST_F(MemfdTest, BringsSwappedPagesIn)
{
	Shmem shmem{1 << 20};
	for (Index index : {3, 4, 5})
		shmem.add(index).swapped = true;
	Preserved preserved{shmem};
	ASSERT_EQ(preserved.preserve(), 0);
	EXPECT_EQ(text(kho.runs), "3+3");
	EXPECT_FALSE(shmem.at(4)->swapped);
}

TEST_F(MemfdTest, RefusesBadMemory)
{
	Shmem shmem{1 << 20};
	for (Index index : {3, 4, 5})
		shmem.add(index);
	shmem.at(4)->poisoned = true;
	Preserved preserved{shmem};
	EXPECT_EQ(preserved.preserve(), -EHWPOISON);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "cannot be pinned"));
}

TEST_F(MemfdTest, FailsToPreserveWithoutATrace)
{
	Shmem shmem{1ull << 30};
	for (Index index = 0; index < 600; ++index)
		shmem.add(index);
	for (Index index = 0; index < 70; ++index)
		shmem.add(1000 + 2 * index);
	for_each_failure([&] {
		Preserved preserved{shmem};
		return preserved.preserve();
	});
	EXPECT_EQ(kho.lists, 0);
}

// A folio that became part of a large one between the look and the pin.
TEST_F(MemfdTest, TakesAFolioThatBeginsBeforeTheRange)
{
	Shmem shmem{1 << 20};
	shmem.add(2);
	shmem.add(6);
	bool collapsed = false;
	shmem.meanwhile = [&](Shmem &shmem) {
		if (!std::exchange(collapsed, true))
			shmem.collapse(0, 3);
	};
	Preserved preserved{shmem};
	ASSERT_EQ(preserved.preserve(), 0);
	EXPECT_EQ(text(kho.runs), "0+1*3");
	ASSERT_EQ(preserved.freeze(), 0);
	EXPECT_EQ(shmem.at(2)->pins, 1);
}

// Whatever order the page frames are in, each page comes back where it was.
TEST_F(MemfdTest, RecordsMemoryInAnyOrder)
{
	struct {
		std::vector<unsigned int> frames;
		const char *runs;
	} const cases[] = {
		{{4, 3, 2, 1}, "0+4/512"},
		{{1, 2, 4, 3}, "0+2 2+2/512"},
		{{1, 2, 3, 2 + 3}, "0+3 3+1"},
		{{2, 1, 4, 3, 6, 5}, "0+2/512 2+2/512 4+2/512"},
		{{3, 2, 1, 6, 5, 4}, "0+3/512 3+3/512"},
		{{8, 6, 4, 2}, "0+1 1+1 2+1 3+1"},
	};
	for (auto &[frames, runs] : cases) {
		Shmem old{1 << 20};
		for (Index index = 0; index < frames.size(); ++index)
			old.add(index, 0, 1 + index, fake::shmem_pfns + frames[index]);
		ASSERT_EQ(carry(old), 0);
		EXPECT_EQ(text(kho.runs), runs);
		struct file *file;
		ASSERT_EQ(retrieve(&file), 0);
		for (Index index = 0; index < frames.size(); ++index)
			EXPECT_EQ(Shmem::of(file).at(index)->byte, 1 + index) << runs;
		fake::shmem_drop(file);
	}
}

TEST_F(MemfdTest, RecordsLargeFoliosInAnyOrder)
{
	Shmem old{16 << 20};
	for (Index i = 0; i < 4; ++i)
		old.add(i * 512, 9, 1 + i, fake::shmem_pfns + (8 - i) * 512);
	ASSERT_EQ(carry(old), 0);
	EXPECT_EQ(text(kho.runs), "0+4*9/512");
	struct file *file;
	ASSERT_EQ(retrieve(&file), 0);
	for (Index i = 0; i < 4; ++i)
		EXPECT_EQ(Shmem::of(file).at(i * 512 + 7)->byte, 1 + i);
	fake::shmem_drop(file);
}

// ---- freeze ----

TEST_F(MemfdTest, DoesNotLookAgainWhenNothingWasAdded)
{
	Shmem shmem{1 << 20};
	shmem.add(2);
	Preserved preserved{shmem};
	ASSERT_EQ(preserved.preserve(), 0);
	shmem.meanwhile = [](Shmem &) { ADD_FAILURE() << "pinned again"; };
	ASSERT_EQ(preserved.freeze(), 0);
	EXPECT_TRUE(shmem.held);
	EXPECT_EQ(fake::shmem_kept, 0u);
}

TEST_F(MemfdTest, CatchesUpWithNewPages)
{
	Shmem shmem{1 << 20};
	for (Index index : {10, 11, 20})
		shmem.add(index);
	Preserved preserved{shmem};
	ASSERT_EQ(preserved.preserve(), 0);
	for (Index index : {5, 9, 12, 15, 21, 30})
		shmem.add(index, 0, 2).dirty = false;
	ASSERT_EQ(preserved.freeze(), 0);
	ASSERT_EQ(preserved.save(), 0);
	EXPECT_EQ(pages_of(kho.runs), 9u);
	EXPECT_EQ(fake::shmem_kept, 6u);
	for (auto &[index, folio] : shmem.cache)
		EXPECT_EQ(folio.pins, 1) << index;
}

TEST_F(MemfdTest, CatchesUpAgainAfterAKexecThatWasCalledOff)
{
	Shmem shmem{1 << 20};
	shmem.add(10);
	Preserved preserved{shmem};
	ASSERT_EQ(preserved.preserve(), 0);
	for (Index index : {11, 9, 30, 31, 0}) {
		shmem.add(index);
		ASSERT_EQ(preserved.freeze(), 0);
		preserved.unfreeze();
		EXPECT_FALSE(shmem.held);
	}
	ASSERT_EQ(preserved.freeze(), 0);
	ASSERT_EQ(preserved.save(), 0);
	EXPECT_EQ(text(kho.runs), "10+2 9+1 30+2 0+1");
	for (auto &[index, folio] : shmem.cache)
		EXPECT_EQ(folio.pins, 1) << index;
}

TEST_F(MemfdTest, LetsGoWhenFreezeFails)
{
	for_each_failure([&] {
		Shmem shmem{1 << 20};
		shmem.add(10);
		Preserved preserved{shmem};
		if (int err = preserved.preserve())
			return err;
		for (Index index = 20; index < 90; index += 2)
			shmem.add(index);
		int err = preserved.freeze();
		EXPECT_EQ(shmem.held, !err);
		return err;
	});
}

TEST_F(MemfdTest, FreezesAfterAFreezeThatFailed)
{
	for (unsigned long nth = 1; nth < 6; ++nth) {
		Shmem shmem{1 << 20};
		shmem.add(10);
		Preserved preserved{shmem};
		ASSERT_EQ(preserved.preserve(), 0);
		for (Index index = 20; index < 24; index += 2)
			shmem.add(index);
		fake::arm(nth);
		int err = preserved.freeze();
		EXPECT_EQ(fake::disarm() != nullptr, err != 0);
		if (err) {
			ASSERT_EQ(preserved.freeze(), 0);
		}
		ASSERT_EQ(preserved.save(), 0);
		EXPECT_EQ(pages_of(kho.runs), 3u);
	}
}

// ---- save ----

TEST_F(MemfdTest, SavesWhatTheFileIsLikeThen)
{
	Shmem shmem{123456};
	Preserved preserved{shmem};
	ASSERT_EQ(preserved.preserve(), 0);
	shmem.pos = 77;
	shmem.seals = 0x25;
	shmem.mode = 0640;
	ASSERT_EQ(preserved.save(), 0);
	EXPECT_EQ(kho.memfd->size, 123456u);
	EXPECT_EQ(kho.memfd->pos, 77u);
	EXPECT_EQ(kho.memfd->seals, 0x25u);
	EXPECT_EQ(kho.memfd->mode, 0640u);
}

// ---- retrieve ----

TEST_F(MemfdTest, GivesBackWhatItWasGiven)
{
	Shmem old{1ull << 33};
	old.pos = 42;
	old.seals = 0x2f;
	old.mode = 0666;
	old.add(0, 0, 7);
	old.add(512, 9, 8);
	old.add(1ull << 20, 0, 9);
	ASSERT_EQ(carry(old), 0);

	struct file *file;
	ASSERT_EQ(retrieve(&file), 0);
	Shmem &shmem = Shmem::of(file);
	EXPECT_EQ(shmem.size, 1ull << 33);
	EXPECT_EQ(shmem.pos, 42u);
	EXPECT_EQ(shmem.seals, 0x2fu);
	EXPECT_EQ(shmem.mode, 0666u);
	EXPECT_EQ(shmem.pages(), 514u);
	EXPECT_EQ(shmem.at(0)->byte, 7);
	EXPECT_EQ(shmem.at(600)->byte, 8);
	EXPECT_EQ(shmem.at(1ull << 20)->byte, 9);
	EXPECT_EQ(shmem.at(1), nullptr);
	finish(FERRY_RETRIEVED);
	fake::shmem_drop(file);
}

TEST_F(MemfdTest, TellsUnwrittenPagesFromThoseWrittenLater)
{
	Shmem old{1 << 20};
	for (Index index : {1, 2, 3})
		old.add(index, 0, 99).uptodate = false;
	{
		Preserved preserved{old};
		ASSERT_EQ(preserved.preserve(), 0);
		EXPECT_EQ(text(kho.runs), "1+3/1");
		EXPECT_EQ(old.at(2)->byte, 0) << "old memory is handed over";
		old.at(2)->byte = 5;
		old.at(2)->uptodate = true;
		ASSERT_EQ(preserved.freeze(), 0);
		ASSERT_EQ(preserved.save(), 0);
		jump();
	}
	struct file *file;
	ASSERT_EQ(retrieve(&file), 0);
	EXPECT_EQ(Shmem::of(file).pages(), 3u);
	EXPECT_EQ(Shmem::of(file).data(), 1u);
	EXPECT_EQ(Shmem::of(file).at(2)->byte, 5);
	fake::shmem_drop(file);
}

TEST_F(MemfdTest, FailsToRetrieveWithoutATrace)
{
	Shmem old{1 << 20};
	for (Index index : {1, 2, 3, 30, 60, 61})
		old.add(index);
	for_each_failure([&] {
		// A failed open keeps the pages; they are finished with.
		if (int err = carry(old))
			return err;
		struct file *file = nullptr;
		int err = retrieve(&file);
		EXPECT_EQ(file != nullptr, !err);
		if (file)
			fake::shmem_drop(file);
		fake::shmem_loose.clear();
		return err;
	});
}

TEST_F(MemfdTest, CanBeTriedAgainWhenThereIsNoRoom)
{
	Shmem old{1 << 20};
	for (Index index : {1, 2, 3, 30, 60, 61})
		old.add(index);
	ASSERT_EQ(carry(old), 0);
	unsigned int refused = 0;
	struct file *file = nullptr;
	for (unsigned long nth = 1; !file; ++nth) {
		fake::arm(nth, false);
		int err = retrieve(&file);
		const char *failed = fake::disarm();
		ASSERT_EQ(file != nullptr, !failed);
		if (file)
			break;
		EXPECT_EQ(fake::shmem_files(), 0u) << failed;
		// Files are limited in number, too; that is not tried again.
		if (err == -ENFILE) {
			EXPECT_TRUE(fake::shmem_loose.empty()) << failed;
			ASSERT_EQ(carry(old), 0);
			continue;
		}
		EXPECT_EQ(err, -ENOMEM) << failed;
		++refused;
		EXPECT_EQ(retrieved, nullptr) << failed;
		EXPECT_EQ(fake::shmem_loose.size(), 6u) << failed;
	}
	// The list, what takes its runs in, and the room for the pages.
	EXPECT_EQ(refused, 3u);
	EXPECT_EQ(Shmem::of(file).pages(), 6u);
	fake::shmem_drop(file);
}

TEST_F(MemfdTest, TakesMoreRunsThanFitOnce)
{
	Shmem old{5 * LINUX_SHMEM_RUNS * 4096ull};
	for (Index index = 0; index < 5 * LINUX_SHMEM_RUNS; index += 2) {
		Folio &folio = old.add(index);
		folio.uptodate = index % 3;
	}
	ASSERT_EQ(carry(old), 0);
	struct file *file;
	ASSERT_EQ(retrieve(&file), 0);
	EXPECT_EQ(Shmem::of(file).pages(), 5u * LINUX_SHMEM_RUNS / 2);
	fake::shmem_drop(file);
}

TEST_F(MemfdTest, FreesTheRestWhenARunIsLost)
{
	Shmem old{1 << 20};
	for (Index index : {1, 2, 3, 30, 60, 61})
		old.add(index);
	ASSERT_EQ(carry(old), 0);
	kho.lost = 1;
	struct file *file = nullptr;
	EXPECT_EQ(retrieve(&file), -EIO);
	EXPECT_TRUE(fake::shmem_loose.empty());
}

// When some are in the file already, and when others wait to be.
TEST_F(MemfdTest, FreesTheRestWhenALateRunIsWrong)
{
	constexpr Index pages = 3 * LINUX_SHMEM_RUNS;
	Shmem old{2 * pages * 4096ull};
	for (Index index = 0; index < pages; ++index)
		old.add(2 * index);
	for (std::size_t at : {3, 7, LINUX_SHMEM_RUNS + 1, LINUX_SHMEM_RUNS + 8}) {
		SCOPED_TRACE(at);
		struct file *file = nullptr;
		ASSERT_EQ(carry(old), 0);
		kho.lost = at;
		EXPECT_EQ(retrieve(&file), -EIO);
		EXPECT_TRUE(fake::shmem_loose.empty());
		kho.lost = ~0ul;
		ASSERT_EQ(carry(old), 0);
		kho.runs[at].flags = 4;
		EXPECT_EQ(retrieve(&file), -EBADMSG);
		EXPECT_TRUE(fake::shmem_loose.empty());
		ASSERT_EQ(carry(old), 0);
		kho.runs[at].index = 0;
		EXPECT_EQ(retrieve(&file), -EEXIST);
		EXPECT_TRUE(fake::shmem_loose.empty());
		EXPECT_EQ(fake::shmem_files(), 0u);
	}
}

TEST_F(MemfdTest, RefusesRunsThatAPageCacheCannotTake)
{
	struct {
		void (*damage)(ferry_run &run);
		const char *message;
	} const cases[] = {
		{[](ferry_run &run) { run.index = 256; }, "beyond the end"},
		{[](ferry_run &run) { run.index = 254; }, "beyond the end"},
		{[](ferry_run &run) { run.index = (1ull << 40) - 4; }, "beyond the end"},
		{[](ferry_run &run) { run.flags = 4; }, "unknown flags"},
	};
	Shmem old{1 << 20};
	for (Index index : {1, 2, 3, 30})
		old.add(index);
	for (auto &[damage, message] : cases) {
		ASSERT_EQ(carry(old), 0);
		damage(kho.runs[0]);
		struct file *file = nullptr;
		EXPECT_EQ(retrieve(&file), -EBADMSG);
		EXPECT_TRUE(fake::logged(FERRY_ERR, message)) << message;
		EXPECT_TRUE(fake::shmem_loose.empty());
	}
}

TEST_F(MemfdTest, RefusesFoliosThatAPageCacheCannotTake)
{
	Shmem old{16 << 20};
	old.add(512, 9);
	ASSERT_EQ(carry(old), 0);
	kho.runs[0].index = 600;
	struct file *file = nullptr;
	EXPECT_EQ(retrieve(&file), -EBADMSG);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "not aligned"));

	kho.runs = {{1 << 20, 0, 1, 10, 0}};
	kho.bulk->runs = 1;
	fake::shmem_loose[1 << 20] = {10, 1};
	EXPECT_EQ(retrieve(&file), -EBADMSG);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "of an order"));
}

TEST_F(MemfdTest, RefusesPagesThatAreThereTwice)
{
	Shmem old{1 << 20};
	for (Index index : {1, 2, 3, 30})
		old.add(index);
	ASSERT_EQ(carry(old), 0);
	kho.runs[1].index = 2;
	struct file *file = nullptr;
	EXPECT_EQ(retrieve(&file), -EEXIST);
	EXPECT_TRUE(fake::shmem_loose.empty());
}

TEST_F(MemfdTest, FreesThePagesWhenTheRecordIsBad)
{
	Shmem old{1 << 20};
	old.add(1);
	ASSERT_EQ(carry(old), 0);
	kho.memfd.reset();
	struct file *file = nullptr;
	EXPECT_EQ(retrieve(&file), -EBADMSG);
	EXPECT_TRUE(fake::shmem_loose.empty());
}

// ---- finish ----

TEST_F(MemfdTest, FreesWhatNobodyRetrieved)
{
	Shmem old{1 << 20};
	for (Index index : {1, 2, 3, 30})
		old.add(index);
	ASSERT_EQ(carry(old), 0);
	finish(FERRY_NOT_RETRIEVED);
	EXPECT_TRUE(fake::shmem_loose.empty());
}

TEST_F(MemfdTest, SaysWhenPagesAreLost)
{
	finish(FERRY_NOT_RETRIEVED);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "lost"));
}

// ---- hugetlb ----

class HugetlbTest : public MemfdTest {
    protected:
	HugetlbTest()
	{
		fake::hugetlb_adopted = 0;
	}
	~HugetlbTest() override
	{
		EXPECT_FALSE(kho.blob_waits);
	}

	static constexpr unsigned int order = 9;
	static constexpr Index huge = 1 << order;

	// A file of some huge pages, of which these are there.
	static void make(Shmem &file, std::initializer_list<Index> pages)
	{
		file.shmem = false;
		file.huge_order = order;
		for (Index page : pages) {
			file.add(page * huge, order, static_cast<unsigned char>(1 + page));
			file.reserved.push_back({page * huge, (page + 1) * huge});
		}
	}

	struct Hugetlb : Shmem {
		Hugetlb(Index size, std::initializer_list<Index> pages) : Shmem{size * huge * 4096}
		{
			make(*this, pages);
		}
	};
};

TEST_F(HugetlbTest, HasAHandlerOfItsOwn)
{
	Hugetlb file{4, {}}, linked{4, {}};
	linked.nlink = 1;
	EXPECT_TRUE(huge_handler->ops->can_preserve(file));
	EXPECT_FALSE(handler->ops->can_preserve(file));
	EXPECT_FALSE(huge_handler->ops->can_preserve(linked));
}

TEST_F(HugetlbTest, GoesAndComesBack)
{
	Hugetlb old{8, {0, 1, 2, 5}};
	old.seals = 4;
	old.pos = 77;
	old.reserved = {{0, 4 * huge}, {5 * huge, 6 * huge}};
	ASSERT_EQ(carry(old), 0);
	EXPECT_EQ(text(kho.runs), "0+3*9 2560+1*9");
	EXPECT_EQ(kho.hugetlb->order, order);
	struct file *file;
	ASSERT_EQ(retrieve(&file), 0);
	Shmem &shmem = Shmem::of(file);
	EXPECT_EQ(shmem.size, old.size);
	EXPECT_EQ(shmem.seals, 4u);
	EXPECT_EQ(shmem.pos, 77u);
	EXPECT_EQ(shmem.pages(), 4 * huge);
	EXPECT_EQ(shmem.at(5 * huge)->byte, 6);
	ASSERT_EQ(shmem.reserved.size(), 2u);
	EXPECT_EQ(shmem.reserved[0].end, 4 * huge);
	EXPECT_EQ(fake::hugetlb_adopted, 4u);
	finish(FERRY_RETRIEVED);
	fake::shmem_drop(file);
}

TEST_F(HugetlbTest, TellsOfPagesThatCameLater)
{
	Hugetlb file{8, {3}};
	Preserved preserved{file};
	ASSERT_EQ(preserved.preserve(), 0);
	EXPECT_EQ(fake::counters()["folios of which the next kernel is told"], 1);
	file.add(4 * huge, order);
	file.add(0, order);
	ASSERT_EQ(preserved.freeze(), 0);
	EXPECT_EQ(fake::counters()["folios of which the next kernel is told"], 3);
	preserved.unfreeze();
	file.add(7 * huge, order);
	file.reserved.push_back({7 * huge, 9 * huge});
	ASSERT_EQ(preserved.freeze(), 0);
	ASSERT_EQ(preserved.save(), 0);
	EXPECT_EQ(fake::counters()["folios of which the next kernel is told"], 4);
	// What is reserved behind the end of the file is not carried.
	EXPECT_EQ(kho.blob.size(), 2 * sizeof(ferry_hugetlb_range));
}

TEST_F(HugetlbTest, WritesReservationsDownWhenTheyChange)
{
	Shmem file{16 * huge * 4096};
	file.shmem = false;
	file.huge_order = 9;
	file.reserved = {{0, 2 * huge}, {5 * huge, 6 * huge}};
	Preserved preserved{file};
	ASSERT_EQ(preserved.preserve(), 0);
	EXPECT_EQ(kho.blobs_saved, 1);
	ASSERT_EQ(preserved.freeze(), 0);
	preserved.unfreeze();
	EXPECT_EQ(kho.blobs_saved, 1);
	// A failure keeps what was written.
	file.reserved.push_back({7 * huge, 9 * huge});
	fake::arm(1, true);
	EXPECT_LT(preserved.freeze(), 0);
	fake::disarm();
	EXPECT_EQ(kho.blobs_saved, 1);
	EXPECT_EQ(kho.blob.size(), 2 * sizeof(ferry_hugetlb_range));
	ASSERT_EQ(preserved.freeze(), 0);
	preserved.unfreeze();
	EXPECT_EQ(kho.blobs_saved, 2);
	EXPECT_EQ(kho.blob.size(), 3 * sizeof(ferry_hugetlb_range));
	file.reserved.clear();
	ASSERT_EQ(preserved.freeze(), 0);
	preserved.unfreeze();
	EXPECT_EQ(kho.blobs, 0);
}

TEST_F(HugetlbTest, WithoutPagesAndReservations)
{
	Hugetlb old{8, {}};
	ASSERT_EQ(carry(old), 0);
	EXPECT_FALSE(kho.reserved);
	struct file *file;
	ASSERT_EQ(retrieve(&file), 0);
	EXPECT_EQ(Shmem::of(file).pages(), 0u);
	fake::shmem_drop(file);
}

TEST_F(HugetlbTest, FailsToPreserveWithoutATrace)
{
	Hugetlb file{64, {0, 1, 2, 5, 9}};
	for_each_failure([&] {
		Preserved preserved{file};
		return preserved.preserve();
	});
	for_each_failure([&] {
		Hugetlb late{64, {0, 1, 2, 5, 9}};
		Preserved preserved{late};
		if (int err = preserved.preserve())
			return err;
		late.add(20 * huge, order);
		if (int err = preserved.freeze())
			return err;
		return preserved.save();
	});
}

TEST_F(HugetlbTest, EveryFailureOfRetrieve)
{
	unsigned int again = 0;
	for (unsigned long nth = 1;; ++nth) {
		Hugetlb old{8, {0, 1, 2, 5}};
		kho = {};
		ASSERT_EQ(carry(old), 0);
		struct file *file = nullptr;
		fake::arm(nth);
		int err = retrieve(&file);
		const char *failed = fake::disarm();
		if (err == -ENOMEM) {
			++again;
			EXPECT_EQ(retrieved, nullptr) << failed;
			EXPECT_EQ(fake::shmem_loose.size(), 4u) << failed;
			err = retrieve(&file);
		}
		// Whatever failed, no page is lost.
		EXPECT_TRUE(fake::shmem_loose.empty()) << failed;
		EXPECT_EQ(file != nullptr, !err);
		finish(err ? FERRY_RETRIEVE_FAILED : FERRY_RETRIEVED);
		kho.blob_waits = false;
		if (file)
			fake::shmem_drop(file);
		if (!failed)
			break;
	}
	EXPECT_GE(again, 3u);
}

TEST_F(HugetlbTest, GivesToThePoolWhatNobodyRetrieved)
{
	Hugetlb old{8, {0, 1, 7}};
	ASSERT_EQ(carry(old), 0);
	finish(FERRY_NOT_RETRIEVED);
	EXPECT_TRUE(fake::shmem_loose.empty());
	EXPECT_EQ(fake::hugetlb_adopted, 3u);
}

TEST_F(HugetlbTest, SaysWhenThereIsLessToReserve)
{
	Hugetlb old{8, {0}};
	old.reserved = {{0, 8 * huge}};
	ASSERT_EQ(carry(old), 0);
	for (unsigned long nth = 1;; ++nth) {
		fake::arm(nth);
		struct file *file = nullptr;
		int err = retrieve(&file);
		const char *failed = fake::disarm();
		if (err) {
			ASSERT_EQ(err, -ENOMEM);
			continue;
		}
		ASSERT_TRUE(failed);
		EXPECT_STREQ(failed, "hugetlb_reserve_pages");
		EXPECT_TRUE(fake::logged(FERRY_WARN, "too few free pages"));
		EXPECT_EQ(Shmem::of(file).pages(), huge);
		fake::shmem_drop(file);
		break;
	}
}

TEST_F(HugetlbTest, RefusesWhatIsDamaged)
{
	struct {
		void (*damage)();
		const char *message;
	} const cases[] = {
		{[] { kho.runs[0].index = 7 * huge; }, "beyond the end"},
		{[] { kho.runs[0].flags = 1; }, "unknown flags"},
		{[] { kho.runs[0].index = 3; }, "not aligned"},
		{[] { kho.hugetlb->order = 8; }, "another size"},
		{[] { kho.hugetlb->size += 4096; }, "no number of pages"},
		{[] { kho.hugetlb.reset(); }, nullptr},
		{[] { kho.runs[1].index = huge; }, "cannot be put into it"},
		{[] { kho.blob.resize(20), kho.reserved->bytes = 20; }, "not in order"},
		{[] { kho.blob[0] = 1; }, "not in order"},
		{[] { kho.blob[8] = 0, kho.blob[9] = 0; }, "not in order"},
		{[] { kho.blob[16] = 0, kho.blob[17] = 0; }, "not in order"},
		{[] { kho.blob[27] = 1; }, "not in order"},
	};
	for (auto &[damage, message] : cases) {
		Hugetlb old{8, {0, 1, 5}};
		old.reserved = {{0, 2 * huge}, {5 * huge, 6 * huge}};
		kho = {};
		ASSERT_EQ(carry(old), 0);
		damage();
		ferry_luo_args args{};
		args.handler = huge_handler;
		int err = huge_handler->ops->retrieve(&args);
		EXPECT_TRUE(err == -EBADMSG || err == -EEXIST) << (message ? message : "record");
		if (message)
			EXPECT_TRUE(fake::logged(FERRY_ERR, message)) << message;
		EXPECT_TRUE(fake::shmem_loose.empty());
		EXPECT_EQ(fake::shmem_files(), 0u);
		kho.blob_waits = false;
	}
}

// ---- the module ----

TEST(MemfdModule, FailsToLoadWithoutATrace)
{
	for_each_failure([] {
		int err = memfd_module_init();
		if (!err)
			memfd_module_exit();
		return err;
	});
}

// ---- extents ----

std::string all(const ferry::Extents &extents)
{
	std::string text;
	for (std::size_t i = 0; i < extents.size(); ++i)
		text += std::to_string(extents[i].first) + "-" + std::to_string(extents[i].end) +
			" ";
	return text;
}

void add(ferry::Extents &extents, Index first, Index end)
{
	ASSERT_TRUE(extents.reserve().has_value());
	extents.add({first, end});
}

TEST(Extents, AreMergedWhenSettled)
{
	ferry::Extents extents;
	add(extents, 0, 2);
	add(extents, 2, 4);
	add(extents, 8, 9);
	EXPECT_EQ(all(extents), "");
	extents.settle();
	EXPECT_EQ(all(extents), "0-4 8-9 ");
	add(extents, 4, 8);
	add(extents, 12, 14);
	EXPECT_EQ(all(extents), "0-4 8-9 ");
	extents.settle();
	EXPECT_EQ(all(extents), "0-9 12-14 ");
	for (Index index = 100; index < 1000; index += 2)
		add(extents, index, index + 1);
	for (Index index = 1001; index < 1010; index += 2)
		add(extents, index, index + 1);
	extents.settle();
	EXPECT_EQ(extents.size(), 2 + 450 + 5u);
}

TEST(Extents, AreCutOutOfRanges)
{
	ferry::Extents extents;
	add(extents, 10, 20);
	add(extents, 30, 40);
	extents.settle();

	auto pieces = [&](std::initializer_list<ferry::Extent> ranges) {
		std::string text;
		ferry::Remainder remainder{extents};
		for (ferry::Extent range : ranges) {
			for (auto piece = remainder.next(range); piece.first < piece.end;
			     piece = remainder.next(range))
				text += std::to_string(piece.first) + "-" +
					std::to_string(piece.end) + " ";
		}
		return text;
	};
	EXPECT_EQ(pieces({{0, 5}, {6, 50}}), "0-5 6-10 20-30 40-50 ");
	EXPECT_EQ(pieces({{10, 20}, {30, 40}}), "");
	EXPECT_EQ(pieces({{12, 15}, {19, 31}, {39, 41}}), "20-30 40-41 ");
	EXPECT_EQ(pieces({{25, 26}, {50, 60}}), "25-26 50-60 ");
}

} // namespace
