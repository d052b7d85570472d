// SPDX-License-Identifier: GPL-2.0
// iommu/: what is preserved of an iommufd, what is refused, and how page tables
// are compared.
#include "device_testing.hh"
#include "fake/carry.hh"
#include "fake/iommu.hh"

#include <abi/iommu.h>
#include <ferry/iommu.h>

namespace {

using fake::Address;
using fake::Iommufd;
using fake::PageTable;
using fake::Pfn;

constexpr Address KiB = 1024, MiB = 1024 * KiB, GiB = 1024 * MiB;
constexpr Pfn ram = fake::first_folio + 0x10000;

class IommuTest : public DeviceTest<iommu_module_init, iommu_module_exit> {
    public:
	enum : unsigned long long { IOMMUFD = 1, RAM = 2 };

	// 16 pages of a file at 1 MiB, and 2 MiB of it in one piece at 1 GiB.
	void make()
	{
		memory = open("ram");
		iommufd = fake::install(fake::new_iommufd());
		auto &pages = fake::pages_of(fake::file_of(memory));
		for (Address i = 0; i < 1024; ++i)
			pages[i] = ram + i;
		table = std::make_shared<PageTable>();
		for (Address i = 0; i < 16; ++i)
			table->map(MiB + i * 4096, (ram + i) * 4096);
		table->map(GiB, (ram + 512) * 4096, 2);
		the().hwpts = {{7, table}};
		the().mappings = {{7, MiB, 64 * KiB, fake::file_of(memory), 0},
				  {7, GiB, 2 * MiB, fake::file_of(memory), 2 * MiB}};
	}
	Iommufd &the() const
	{
		return fake::iommufd_of(fake::file_of(iommufd));
	}

	int preserve_all()
	{
		session = create("vm");
		if (session < 0)
			return session;
		int err = preserve(session, iommufd, IOMMUFD);
		return err ? err : preserve(session, memory, RAM);
	}
	static int prepare()
	{
		return luo_prepare(true);
	}
	void close_all()
	{
		DeviceTest::close_all();
		session = iommufd = memory = -1;
		table.reset();
	}

	// The old table is in the next kernel as it was, but is nobody's.
	void jump(const std::function<void(fake::Handover &)> &damage = [](fake::Handover &) {})
	{
		DeviceTest::jump(
			[this](fake::Handover &) {
				old = table->where;
				old_pages = table->pages;
				if (saved)
					ferry_iommu_unsave(std::exchange(saved, nullptr));
				table.reset();
			},
			damage);
	}

	int iommufd = -1, memory = -1;
	std::shared_ptr<PageTable> table;
	linux_table old{};
	std::vector<Pfn> old_pages;
	// Saved until the jump.
	device *saved = nullptr;
};

// ---- in the kernel that preserves ----

TEST_F(IommuTest, PreservesEachPageOfAPageTableOnce)
{
	make();
	ASSERT_EQ(preserve_all(), 0) << fake::log_text();
	EXPECT_TRUE(the().frozen);
	// The top, and for each of the two places a page of level 2, one of level 1.
	EXPECT_EQ(table->pages.size(), 4u);
	for (Pfn pfn : table->pages)
		EXPECT_TRUE(fake::preserved(pfn));
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	luo_abort();
	fake::close(std::exchange(session, -1));
	EXPECT_FALSE(the().frozen);
	close_all();
}

TEST_F(IommuTest, TellsWhatItPreservesAndHowFarItIs)
{
	make();
	// 4 GiB: for each of them a page of the table.
	for (Address i = 0; i < 4 * 512; ++i)
		table->map((4 + i / 512) * GiB + i % 512 * 2 * MiB, (ram + 512) * 4096, 2);
	the().mappings.push_back({7, 4 * GiB, 4 * GiB, fake::file_of(memory), 0});
	session = create("vm");
	std::vector<liveupdate_ferry_session> seen;
	fake::at_table_page = [&] { seen.push_back(info_of_unlocked(session)); };
	ASSERT_EQ(preserve(session, iommufd, IOMMUFD), 0) << fake::log_text();
	fake::at_table_page = {};
	ASSERT_FALSE(seen.empty());
	EXPECT_EQ(seen.front().total, 0u);
	EXPECT_EQ(seen.back().operation, LIVEUPDATE_FERRY_OP_PRESERVE);
	EXPECT_EQ(seen.back().token, IOMMUFD);
	EXPECT_EQ(seen.back().total, 4 * GiB + 2 * MiB + 64 * KiB);
	EXPECT_GE(seen.back().done, 3 * GiB);
	EXPECT_LE(seen.back().done, seen.back().total);
	const auto after = info_of(session);
	EXPECT_EQ(after.bytes, table->pages.size() * 4096);
	EXPECT_GT(after.runs, 0u);
	EXPECT_GT(after.metadata, 0u);
	close_all();
}

TEST_F(IommuTest, TakesAnIommufdOnce)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	int other = create("other");
	EXPECT_EQ(preserve(other, iommufd, 1), -EBUSY);
	fake::close(other);
	close_all();
}

TEST_F(IommuTest, NeedsTheFilesThatAreMapped)
{
	make();
	session = create("vm");
	ASSERT_EQ(preserve(session, iommufd, IOMMUFD), 0);
	EXPECT_EQ(prepare(), -ENOENT);
	EXPECT_EQ(preserve(session, memory, RAM), 0);
	EXPECT_EQ(prepare(), 0);
	luo_abort();
	close_all();
}

TEST_F(IommuTest, RefusesWhatItCannotCarry)
{
	struct Case {
		const char *text;
		std::function<void(Iommufd &)> change;
		int error;
	};
	const Case cases[] = {
		{"it has more than", [](Iommufd &is) { is.other_object = true; }, -EOPNOTSUPP},
		{"second stage", [](Iommufd &is) { is.other_format = true; }, -EOPNOTSUPP},
		{"is not of a file", [](Iommufd &is) { is.mappings[1].file = nullptr; },
		 -EOPNOTSUPP},
		{"whole pages", [](Iommufd &is) { is.mappings[0].start = 512; }, -EOPNOTSUPP},
		{"",
		 [](Iommufd &is) {
			 is.meanwhile = [](Iommufd &now) {
				 now.mappings.push_back(now.mappings[0]);
			 };
		 },
		 -EBUSY},
	};
	for (const Case &each : cases) {
		SCOPED_TRACE(each.text);
		make();
		each.change(the());
		session = create("vm");
		EXPECT_EQ(preserve(session, iommufd, IOMMUFD), each.error);
		EXPECT_TRUE(fake::logged(FERRY_ERR, each.text) || !*each.text) << fake::log_text();
		EXPECT_FALSE(the().frozen);
		close_all();
	}
}

TEST_F(IommuTest, RefusesAFreezeWhereDevicesReachOtherMemory)
{
	struct Case {
		const char *text;
		std::function<void(IommuTest &)> change;
		int error;
	};
	const Case cases[] = {
		{"is not that of the file", // a hole
		 [](IommuTest &is) { fake::pages_of(fake::file_of(is.memory)).erase(3); }, -EINVAL},
		{"is not that of the file", // another page
		 [](IommuTest &is) { fake::pages_of(fake::file_of(is.memory))[3] = ram + 900; },
		 -EINVAL},
		{"is not that of the file", // in a large one
		 [](IommuTest &is) { fake::pages_of(fake::file_of(is.memory))[1023] = ram + 9000; },
		 -EINVAL},
		{"is not that of the file",
		 [](IommuTest &is) { fake::huge_files.insert(fake::file_of(is.memory)); },
		 -EOPNOTSUPP},
		{"but is not mapped",
		 [](IommuTest &is) { is.table->entry(MiB + 16 * 4096, 1) = (ram + 16) * 4096 | 3; },
		 -EINVAL},
		{"but is not mapped",
		 [](IommuTest &is) { is.table->entry(0, 1) = (ram + 1) * 4096 | 1; }, -EINVAL},
	};
	for (const Case &each : cases) {
		make();
		ASSERT_EQ(preserve_all(), 0);
		each.change(*this);
		// A page of the table that came later is not preserved.
		fake::clear_log();
		EXPECT_EQ(prepare(), each.error);
		EXPECT_TRUE(fake::logged(FERRY_ERR, each.text)) << fake::log_text();
		close_all();
		// The same when the memory is preserved before, and cannot change any more.
		make();
		each.change(*this);
		session = create("vm");
		ASSERT_EQ(preserve(session, memory, RAM), 0);
		fake::clear_log();
		EXPECT_EQ(preserve(session, iommufd, IOMMUFD), each.error);
		EXPECT_TRUE(fake::logged(FERRY_ERR, each.text)) << fake::log_text();
		EXPECT_FALSE(the().frozen);
		close_all();
	}
}

TEST_F(IommuTest, LooksAtPreserveTimeWhereTheMemoryIsPreservedBefore)
{
	make();
	// A second file, which comes too late.
	int late = open("late");
	auto &pages = fake::pages_of(fake::file_of(late));
	pages[0] = ram + 3000;
	for (bool both : {true, false}) {
		SCOPED_TRACE(both);
		auto other = std::make_shared<PageTable>();
		other->map(MiB, (ram + 3000) * 4096);
		the().hwpts = {{7, table}, {9, other}};
		the().mappings.resize(2);
		the().mappings.push_back({9, MiB, 4096, fake::file_of(late), 0});
		session = create("vm");
		ASSERT_EQ(preserve(session, memory, RAM), 0);
		if (both)
			ASSERT_EQ(preserve(session, late, RAM + 1), 0);
		ASSERT_EQ(preserve(session, iommufd, IOMMUFD), 0) << fake::log_text();
		if (!both)
			ASSERT_EQ(preserve(session, late, RAM + 1), 0);
		fake::lookups = 0;
		EXPECT_EQ(prepare(), 0) << fake::log_text();
		EXPECT_EQ(fake::lookups > 0, !both);
		luo_abort();
		fake::close(std::exchange(session, -1));
	}
	close_all();
}

TEST_F(IommuTest, TellsMappingsOfOneIoasFromThoseOfAnother)
{
	make();
	auto other = std::make_shared<PageTable>();
	other->map(MiB, (ram + 100) * 4096);
	the().hwpts.push_back({9, other});
	the().mappings.push_back({9, MiB, 4096, fake::file_of(memory), 100 * 4096});
	ASSERT_EQ(preserve_all(), 0);
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	luo_abort();
	other->map(MiB, (ram + 0) * 4096);
	EXPECT_EQ(prepare(), -EINVAL);
	close_all();
}

TEST_F(IommuTest, FollowsNoTableThatCannotBeOne)
{
	make();
	the().hwpts[0].table = std::make_shared<PageTable>(4);
	// A large page of 512 GiB does not exist.
	the().hwpts[0].table->entry(0, 4) = GiB | 0x83;
	session = create("vm");
	EXPECT_EQ(preserve(session, iommufd, IOMMUFD), -EBADMSG);
	close_all();
}

TEST_F(IommuTest, GivesBackEverythingWhateverFails)
{
	make();
	for_each_failure([&] {
		int err = preserve_all();
		if (!err)
			err = prepare();
		if (!err)
			luo_abort();
		if (session >= 0)
			fake::close(std::exchange(session, -1));
		return err;
	});
	close_all();
}

// ---- in the next kernel ----

TEST_F(IommuTest, GivesAnEmptyIommufdAndKnowsTheOldTable)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump();
	iommufd = retrieve(session, IOMMUFD);
	ASSERT_GE(iommufd, 0) << fake::log_text();
	EXPECT_TRUE(the().mappings.empty());
	for (Pfn pfn : old_pages)
		EXPECT_TRUE(fake::owns(pfn));
	PageTable now;
	for (Address i = 0; i < 16; ++i)
		now.map(MiB + i * 4096, (ram + i) * 4096);
	now.map(GiB, (ram + 512) * 4096, 2);
	EXPECT_EQ(iommu_compare(&old, &now.where), 0) << fake::log_text();
	EXPECT_EQ(finish(session), 0);
	for (Pfn pfn : old_pages)
		EXPECT_FALSE(fake::owns(pfn));
	EXPECT_EQ(iommu_compare(&old, &now.where), -ENOENT);
	close_all();
}

TEST_F(IommuTest, ComparesWhatIsTranslatedNotHow)
{
	fake::scatter = true;
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump();
	iommufd = retrieve(session, IOMMUFD);
	ASSERT_GE(iommufd, 0);
	// Small pages instead of a large one, more levels, other bits.
	PageTable now{4};
	for (Address i = 0; i < 16; ++i)
		now.map(MiB + i * 4096, (ram + i) * 4096);
	for (Address i = 0; i < 512; ++i)
		now.map(GiB + i * 4096, (ram + 512 + i) * 4096);
	now.entry(MiB, 1) |= 1 << 11 | 1 << 8 | 1 << 9;
	EXPECT_EQ(iommu_compare(&old, &now.where), 0) << fake::log_text();
	close_all();
}

TEST_F(IommuTest, RefusesEveryDifference)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump();
	iommufd = retrieve(session, IOMMUFD);
	ASSERT_GE(iommufd, 0);
	const std::function<void(PageTable &)> changes[] = {
		[](PageTable &now) { now.entry(MiB, 1) = 0; },
		[](PageTable &now) { now.entry(MiB + 15 * 4096, 1) = 0; },
		[](PageTable &now) { now.entry(GiB, 2) = 0; },
		[](PageTable &now) { now.map(MiB + 5 * 4096, (ram + 6) * 4096); },
		[](PageTable &now) { now.map(MiB + 5 * 4096, (ram + 5) * 4096, 1, 1); },
		[](PageTable &now) { now.map(MiB + 5 * 4096, (ram + 5) * 4096, 1, 2); },
		// Rights are taken away above.
		[](PageTable &now) { now.entry(MiB, 2) &= ~2ull; },
		[](PageTable &now) { now.map(0, ram * 4096); },
		[](PageTable &now) { now.map(MiB + 16 * 4096, (ram + 16) * 4096); },
		[](PageTable &now) { now.map(2 * GiB, ram * 4096, 1, 1); },
		[](PageTable &now) { std::memset(fake::page_at(now.where.top / 4096), 0, 4096); },
	};
	for (auto &change : changes) {
		PageTable now;
		for (Address i = 0; i < 16; ++i)
			now.map(MiB + i * 4096, (ram + i) * 4096);
		now.map(GiB, (ram + 512) * 4096, 2);
		ASSERT_EQ(iommu_compare(&old, &now.where), 0);
		change(now);
		EXPECT_EQ(iommu_compare(&old, &now.where), -EINVAL);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "the translations differ"));
		fake::clear_log();
	}
	close_all();
}

TEST_F(IommuTest, KnowsATableByItsTopAndLevels)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump();
	EXPECT_EQ(iommu_compare(&old, &old), -ENOENT);
	iommufd = retrieve(session, IOMMUFD);
	ASSERT_GE(iommufd, 0);
	linux_table other = old;
	other.levels = 4;
	EXPECT_EQ(iommu_compare(&other, &old), -ENOENT);
	close_all();
}

TEST_F(IommuTest, FollowsADamagedTableNowhere)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump();
	iommufd = retrieve(session, IOMMUFD);
	ASSERT_GE(iommufd, 0);
	PageTable now;
	auto top = static_cast<Address *>(fake::page_at(old.top / 4096));
	const Address second = top[0] & 0xffffffffff000;
	const Address bad[] = {
		fake::first_pfn * 4096 + 3, // a page that is not one of the table's
		0xffffffffff000 | 3, // no memory
		old.top | 3, // a ring
		second | 3, // the same again
		(ram + 1) * 4096 | 0x83, // a large page at an odd place
	};
	for (Address entry : bad) {
		const Address was = std::exchange(top[1], entry);
		EXPECT_LT(iommu_compare(&old, &now.where), 0);
		// Compared with what it was: the damage is found behind what is alike.
		PageTable same;
		for (Address i = 0; i < 16; ++i)
			same.map(MiB + i * 4096, (ram + i) * 4096);
		same.map(GiB, (ram + 512) * 4096, 2);
		EXPECT_LT(iommu_compare(&old, &same.where), 0);
		top[1] = was;
	}
	close_all();
}

TEST_F(IommuTest, TakesNoFoliosThatATableCannotHave)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump([this](fake::Handover &handover) {
		// The list of the page table becomes one of a folio of four pages.
		const unsigned int magic = FERRY_RUNS_MAGIC;
		for (Pfn block : handover.find(&magic, sizeof(magic))) {
			fake::Handover::Page &page = handover.pages[block];
			unsigned long long where;
			std::memcpy(&where, page.data() + 32, sizeof(where));
			if ((where & 0xffffffffffff) != old_pages[0])
				continue;
			constexpr Pfn folio = fake::first_folio + 0x400;
			ASSERT_EQ(old_pages.size(), 4u);
			where = folio | 2ull << 48;
			unsigned long long what = 1ull << 40;
			std::memcpy(page.data() + 32, &where, sizeof(where));
			std::memcpy(page.data() + 40, &what, sizeof(what));
			fake::fix_block(page);
			handover.keys[folio] = 2;
		}
	});
	EXPECT_EQ(retrieve(session, IOMMUFD), -EBADMSG);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "cannot be taken")) << fake::log_text();
	EXPECT_EQ(iommu_compare(&old, &old), -ENOENT);
	EXPECT_EQ(finish(session), 0);
	close_all();
}

TEST_F(IommuTest, KeepsTheMemoryOfATableInUse)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump();
	iommufd = retrieve(session, IOMMUFD);
	ASSERT_GE(iommufd, 0);
	ferry_jump_device device{};
	device.table = old.top;
	fake::incoming_devices = {{device, LINUX_DEVICE_ADOPTED}};
	EXPECT_EQ(finish(session), 0);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "stays reserved"));
	for (Pfn pfn : old_pages) {
		EXPECT_TRUE(fake::owns(pfn));
		linux_release(pfn, 1, 0); // for the next test
	}
	close_all();
}

TEST_F(IommuTest, FreesThePasidTablesOfADeviceWithItsPageTable)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	device dev;
	dev.is.table = table->where.top;
	dev.is.scalable = 1;
	ASSERT_EQ(ferry_iommu_save(&dev), 0);
	saved = &dev;
	jump([](fake::Handover &handover) {
		ferry_jump record;
		auto &page =
			handover.pages.at(handover.subtrees.at("iommu-liveupdate").phys / 4096);
		std::memcpy(&record, page.data(), sizeof(record));
		fake::incoming_devices = {{record.device[0], LINUX_DEVICE_ADOPTED}};
	});
	iommufd = retrieve(session, IOMMUFD);
	ASSERT_GE(iommufd, 0);
	// The record, which is the kernel's; the PASID directory, and its table.
	EXPECT_EQ(fake::waiting(), 3u);
	fake::incoming_devices[0].how = LINUX_DEVICE_DONE;
	EXPECT_EQ(finish(session), 0);
	EXPECT_EQ(fake::waiting(), 1u);
	close_all();
}

TEST_F(IommuTest, FreesTheTablesOfAnIommufdThatNobodyWants)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump();
	EXPECT_EQ(finish(session), 0);
	EXPECT_EQ(fake::waiting(), 0u);
	close_all();
}

TEST_F(IommuTest, FreesEverythingWhateverFailsInRetrieve)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	ASSERT_EQ(prepare(), 0);
	fake::Handover handover = fake::handover();
	luo_abort();
	close_all();
	unload_module();
	unload();
	for_each_failure(
		[&] {
			fake::boot(handover);
			load();
			load_module();
			session = retrieve_session("vm");
			ASSERT_GE(session, 0);
		},
		[&] {
			iommufd = retrieve(session, IOMMUFD);
			return std::min(iommufd, 0);
		},
		[&] {
			EXPECT_EQ(finish(session), 0);
			close_all();
			unload_module();
			unload();
			EXPECT_EQ(fake::waiting(), 0u);
			fake::power_off();
		});
}

TEST_F(IommuTest, LetsGoOfEverythingWhateverFailsAtTheStart)
{
	unload_module();
	for_each_failure([] {
		int err = iommu_module_init();
		if (!err)
			iommu_module_exit();
		return err;
	});
}

} // namespace
