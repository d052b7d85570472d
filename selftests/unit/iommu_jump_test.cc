// SPDX-License-Identifier: GPL-2.0
// iommu/jump.cc: what IOMMUs walk in the jump, the kernel's record, and who frees it.
#include "device_testing.hh"
#include "fake/carry.hh"
#include "fake/iommu.hh"
#include "golden.hh"

#include <ferry/iommu.h>

namespace {

constexpr unsigned long long unit = 0xfed90000, other_unit = 0xfed91000, address = 0xffffffffff000;

class IommuJump : public DeviceTest<iommu_module_init, iommu_module_exit> {
    protected:
	static device legacy(unsigned short rid, unsigned long long of = unit)
	{
		device made;
		made.is = {.unit = of,
			   .root = 0,
			   .context = {0x123456001, 0x0501},
			   .table = 0x123456000,
			   .segment = 0,
			   .rid = rid,
			   .vendor = 0x8086,
			   .device = 0x10d3,
			   .did = 5,
			   .levels = 3,
			   .scalable = 0,
			   .reserved = 0};
		return made;
	}
	static device scalable(unsigned short rid, unsigned long long of = unit)
	{
		device made = legacy(rid, of);
		made.is.context[0] = made.is.context[1] = 0;
		made.is.scalable = 1;
		made.pasid[0] = 0x123456000 | 2 << 6 | 1 << 2 | 1;
		made.pasid[1] = 5;
		return made;
	}

	// The record that would be handed over; nr 0: there is none.
	static ferry_jump record()
	{
		ferry_jump found{};
		const fake::Handover handover = fake::handover();
		auto at = handover.subtrees.find("iommu-liveupdate");
		if (at != handover.subtrees.end()) {
			EXPECT_EQ(at->second.size, 4096u);
			std::memcpy(&found, fake::page_at(at->second.phys / 4096), sizeof(found));
		}
		return found;
	}

	// A word of a table, as the hardware sees it.
	static unsigned long long word(unsigned long long phys, unsigned int index)
	{
		EXPECT_EQ(phys % 4096, 0u);
		return fake::flushed(phys, index);
	}
	// The two words that an IOMMU finds for a device, from its root table on.
	static std::array<unsigned long long, 2> walk(const ferry_jump_device &is)
	{
		const unsigned int bus = is.rid >> 8, devfn = is.rid & 0xff;
		const unsigned long long context =
			word(is.root, bus * 2 + (is.scalable && devfn >= 0x80));
		EXPECT_EQ(context & ~address, 1u);
		const unsigned int index = is.scalable ? devfn % 0x80 * 4 : devfn * 2;
		return {word(context & address, index), word(context & address, index + 1)};
	}
	static void check(const device &dev, const ferry_jump_device &is)
	{
		EXPECT_EQ(dev.spare, 1);
		EXPECT_EQ(dev.root, fake::page_at(is.root / 4096));
		EXPECT_EQ(is.rid, dev.is.rid);
		EXPECT_EQ(is.did, dev.is.did);
		EXPECT_EQ(is.table, dev.is.table);
		EXPECT_EQ(walk(is)[0], is.context[0]);
		EXPECT_EQ(walk(is)[1], is.context[1]);
		if (!is.scalable) {
			EXPECT_EQ(is.context[0], dev.is.context[0]);
			EXPECT_EQ(is.context[1], dev.is.context[1]);
			return;
		}
		EXPECT_EQ(is.context[0] & ~address, 1u);
		EXPECT_EQ(is.context[1], 0u);
		const unsigned long long table = word(is.context[0] & address, 0);
		EXPECT_EQ(table & ~address, 1u);
		for (unsigned int i = 0; i < LINUX_PASID_WORDS; ++i)
			EXPECT_EQ(word(table & address, i), dev.pasid[i]);
		EXPECT_EQ(word(table & address, LINUX_PASID_WORDS), 0u);
	}
	static void check_gone(const device &dev)
	{
		EXPECT_EQ(dev.spare, 0);
		EXPECT_EQ(dev.root, nullptr);
	}
	// Words of a root table that are not 0.
	static unsigned int used(unsigned long long root)
	{
		unsigned int nr = 0;
		for (unsigned int i = 0; i < LINUX_TABLE_ENTRIES; ++i)
			nr += word(root, i) != 0;
		return nr;
	}

	// The next kernel, with luo_iommu.ko loaded, and devices as they were; damage(handover):
	// what came is not what was.
	void jump(linux_adoption how, const std::function<void(fake::Handover &)> &damage = {})
	{
		fake::Handover handover = fake::handover();
		const ferry_jump was = record();
		if (damage)
			damage(handover);
		for (device *dev : saved)
			ferry_iommu_unsave(dev);
		unload_module();
		unload();
		fake::boot(handover);
		// That page is the kernel's to free.
		linux_came_free(handover.subtrees.at("iommu-liveupdate").phys);
		load();
		for (unsigned int i = 0; i < was.nr; ++i)
			fake::incoming_devices.push_back({was.device[i], how});
		load_module();
	}

	std::vector<device *> saved;
};

TEST_F(IommuJump, HasNothingButTheSavedDevices)
{
	// Two buses, two IOMMUs, both halves of a bus.
	device devices[] = {legacy(0x0010), legacy(0x0098), legacy(0x0100),
			    legacy(0x0200, other_unit)};
	for (device &dev : devices)
		ASSERT_EQ(ferry_iommu_save(&dev), 0);
	ferry_jump now = record();
	ASSERT_EQ(now.nr, 4u);
	EXPECT_EQ(now.magic, FERRY_JUMP_MAGIC);
	EXPECT_EQ(now.version, FERRY_JUMP_VERSION);
	for (unsigned int i = 0; i < 4; ++i)
		check(devices[i], now.device[i]);
	EXPECT_EQ(now.device[0].root, now.device[2].root);
	EXPECT_NE(now.device[0].root, now.device[3].root);
	EXPECT_EQ(used(now.device[0].root), 2u);
	EXPECT_EQ(used(now.device[3].root), 1u);

	// The first goes: its place is empty, and the others stay.
	ferry_iommu_unsave(&devices[0]);
	EXPECT_EQ(walk(now.device[0])[0], 0u);
	EXPECT_EQ(devices[0].spare, 0);
	EXPECT_NE(devices[1].root, nullptr);
	now = record();
	ASSERT_EQ(now.nr, 3u);
	EXPECT_EQ(now.device[3].unit, 0u);
	check(devices[3], now.device[0]);
	check(devices[1], now.device[1]);
	for (device *dev : {&devices[3], &devices[2], &devices[1]})
		ferry_iommu_unsave(dev);
	for (device &dev : devices)
		EXPECT_EQ(dev.spare, 0);
	check_gone(devices[3]);
	EXPECT_EQ(record().nr, 0u);
}

TEST_F(IommuJump, GivesEachDeviceItsOwnPasidTableInScalableMode)
{
	device devices[] = {scalable(0x0010), scalable(0x0098)};
	for (device &dev : devices)
		ASSERT_EQ(ferry_iommu_save(&dev), 0);
	const ferry_jump now = record();
	ASSERT_EQ(now.nr, 2u);
	for (unsigned int i = 0; i < 2; ++i)
		check(devices[i], now.device[i]);
	// A context table for each half of the bus.
	EXPECT_EQ(used(now.device[0].root), 2u);
	EXPECT_NE(now.device[0].context[0], now.device[1].context[0]);
	for (device &dev : devices)
		ferry_iommu_unsave(&dev);
	check_gone(devices[1]);
}

TEST_F(IommuJump, RefusesWhatItCannotSave)
{
	device dev = legacy(0x0010), bad = legacy(0x0018);
	bad.error = -EOPNOTSUPP;
	EXPECT_EQ(ferry_iommu_save(&bad), -EOPNOTSUPP);
	EXPECT_EQ(record().nr, 0u);
	ASSERT_EQ(ferry_iommu_save(&dev), 0);
	EXPECT_EQ(ferry_iommu_save(&dev), -EBUSY);
	EXPECT_EQ(ferry_iommu_save(&bad), -EOPNOTSUPP);
	check_gone(bad);
	ferry_iommu_unsave(&dev);

	std::vector<device> many;
	for (unsigned int i = 0; i < FERRY_JUMP_MAX + 1; ++i)
		many.push_back(legacy(static_cast<unsigned short>(i << 3)));
	for (unsigned int i = 0; i < FERRY_JUMP_MAX; ++i)
		ASSERT_EQ(ferry_iommu_save(&many[i]), 0);
	EXPECT_EQ(ferry_iommu_save(&many[FERRY_JUMP_MAX]), -ENOSPC);
	EXPECT_EQ(record().nr, unsigned(FERRY_JUMP_MAX));
	for (unsigned int i = 0; i < FERRY_JUMP_MAX; ++i)
		ferry_iommu_unsave(&many[i]);
}

TEST_F(IommuJump, GivesBackEverythingWhateverFails)
{
	device first = scalable(0x0010);
	// Another bus, another IOMMU.
	for (unsigned long long of : {unit, other_unit}) {
		device second = scalable(0x0110, of);
		for_each_failure([&] {
			int err = ferry_iommu_save(&first);
			if (err)
				return err;
			err = ferry_iommu_save(&second);
			if (!err)
				ferry_iommu_unsave(&second);
			EXPECT_EQ(second.spare, 0);
			EXPECT_EQ(record().nr, 1u);
			check(first, record().device[0]);
			ferry_iommu_unsave(&first);
			return err;
		});
	}
	check_gone(first);
}

// Byte for byte; addresses of pages are those of the fake's memory.
TEST_F(IommuJump, RecordIsWhatItWas)
{
	device devices[] = {legacy(0x0010), scalable(0x0398, other_unit)};
	for (device &dev : devices)
		ASSERT_EQ(ferry_iommu_save(&dev), 0);
	ferry_jump now = record();
	// A page's checksum, with the addresses as they are.
	std::vector<unsigned char> page(4096);
	std::memcpy(page.data(), &now, sizeof(now));
	EXPECT_EQ(now.crc, fake::crc_with_zero_at(page, offsetof(ferry_jump, crc)));
	now.crc = 0;
	now.device[0].root = 0x1000;
	now.device[1].root = 0x2000;
	now.device[1].context[0] = 0x3001;
	std::memcpy(page.data(), &now, sizeof(now));
	page.resize(24 + 2 * sizeof(ferry_jump_device));
	expect_golden("jump-v1.bin", page);
	for (device &dev : devices)
		ferry_iommu_unsave(&dev);
}

// ---- in the next kernel ----

TEST_F(IommuJump, FreesWhatIommusHaveWalked)
{
	device devices[] = {legacy(0x0010), legacy(0x0110)};
	for (device &dev : devices) {
		ASSERT_EQ(ferry_iommu_save(&dev), 0);
		saved.push_back(&dev);
	}
	jump(LINUX_DEVICE_ADOPTED);
	EXPECT_EQ(fake::waiting(), 0u);
	// Once: also if the module is loaded again.
	unload_module();
	load_module();
}

TEST_F(IommuJump, LeavesWhatIsOfARefusedDevice)
{
	device dev = legacy(0x0010);
	ASSERT_EQ(ferry_iommu_save(&dev), 0);
	saved = {&dev};
	jump(LINUX_DEVICE_REFUSED);
	// The root table, and its context table.
	EXPECT_EQ(fake::waiting(), 2u);
}

TEST_F(IommuJump, FollowsNoEntryOutOfWhatCame)
{
	device dev = legacy(0x0010);
	ASSERT_EQ(ferry_iommu_save(&dev), 0);
	saved = {&dev};
	auto root = static_cast<unsigned long long *>(dev.root);
	const unsigned long long context = root[0];
	for (unsigned long long bad : {0ull, context & ~1ull, context ^ 0x40000000, ~0ull}) {
		SCOPED_TRACE(bad);
		ASSERT_EQ(record().nr, 1u);
		const unsigned long long at = record().device[0].root;
		jump(LINUX_DEVICE_DONE, [&](fake::Handover &handover) {
			std::memcpy(handover.pages[at / 4096].data(), &bad, sizeof(bad));
		});
		// The context table that nobody finds.
		EXPECT_EQ(fake::waiting(), 1u);
		unload_module();
		unload();
		fake::power_off();
		load();
		load_module();
		ASSERT_EQ(ferry_iommu_save(&dev), 0);
	}
	ferry_iommu_unsave(&dev);
}

} // namespace
