// SPDX-License-Identifier: GPL-2.0
// The records of devices and their iommufds, byte for byte: see
// kho_golden_test.cc.
#include "fake/carry.hh"
#include "golden.hh"
#include "luo_testing.hh"

#include <abi/iommu.h>
#include <abi/vfio.h>

#include "kho/linux.h"

#include <algorithm>

namespace {

ferry_vfio sample_device()
{
	ferry_vfio device{};
	device.segment = 1;
	device.rid = 0x0219;
	for (unsigned int i = 0; i < sizeof(device.config); ++i)
		device.config[i] = static_cast<unsigned char>(0x80 + i);
	device.interrupts = FERRY_VFIO_MSIX;
	device.vectors[0] = 0x21;
	device.vectors[sizeof(device.vectors) - 1] = 0x80;
	device.quiet = 1;
	return device;
}

constexpr ferry_iommufd iommufd{.hwpts = 1};
constexpr ferry_hwpt hwpt{
	.top = 0x123456000, .levels = 4, .format = FERRY_HWPT_VTD_SECOND_STAGE, .ioas = 7};
constexpr ferry_bulk tables{.first = 0x345678000, .blocks = 1, .runs = 2, .pages = 5, .bytes = 0};

int save(void *, ferry_writer *writer, bool)
{
	const ferry_vfio device = sample_device();
	int err = ferry_begin(writer, "iommufd");
	err = err ? err : ferry_put(writer, &ferry_iommufd_record, &iommufd);
	err = err ? err : ferry_begin(writer, "hwpt@0");
	err = err ? err : ferry_put(writer, &ferry_hwpt_record, &hwpt);
	err = err ? err : ferry_begin(writer, "tables");
	err = err ? err : ferry_put(writer, &ferry_bulk_record, &tables);
	for (int i = 0; i < 3; ++i)
		err = err ? err : ferry_end(writer);
	err = err ? err : ferry_begin(writer, "vfio");
	err = err ? err : ferry_put(writer, &ferry_vfio_record, &device);
	return err ? err : ferry_end(writer);
}

constexpr ferry_provider provider{"devices", nullptr, save, nullptr};

class IommuGolden : public testing::Test {
    protected:
	void SetUp() override
	{
		ASSERT_EQ(kho_module_init(), 0);
	}
	void TearDown() override
	{
		kho_module_exit();
		fake::power_off();
	}
};

TEST_F(IommuGolden, Records)
{
	ASSERT_EQ(ferry_kho_register(&provider), 0);
	void *data = nullptr;
	long size = kho_tree_copy(false, &data);
	ASSERT_GT(size, 0);
	auto bytes = static_cast<unsigned char *>(data);
	expect_golden("devices-v2.bin", {bytes, bytes + size});
	ferry_free(data);
	ferry_kho_unregister(&provider);
}

// What every version has.
void check_devices(const char *file, ferry_vfio &device)
{
	kho_module_exit();
	fake::boot(fake::carry_tree(golden(file)));
	ASSERT_EQ(kho_module_init(), 0);
	ferry_node node = ferry_child(ferry_incoming("devices"), "iommufd");
	ferry_iommufd its{};
	ASSERT_EQ(ferry_get(node, &ferry_iommufd_record, &its), 0);
	EXPECT_EQ(its.hwpts, 1u);
	node = ferry_child(node, "hwpt@0");
	ferry_hwpt table{};
	ASSERT_EQ(ferry_get(node, &ferry_hwpt_record, &table), 0);
	EXPECT_EQ(table.top, hwpt.top);
	EXPECT_EQ(table.levels, hwpt.levels);
	EXPECT_EQ(table.format, hwpt.format);
	EXPECT_EQ(table.ioas, hwpt.ioas);
	ferry_bulk bulk{};
	ASSERT_EQ(ferry_get(ferry_child(node, "tables"), &ferry_bulk_record, &bulk), 0);
	EXPECT_EQ(bulk.pages, tables.pages);
	node = ferry_child(ferry_incoming("devices"), "vfio");
	ASSERT_EQ(ferry_get(node, &ferry_vfio_record, &device), 0);
	const ferry_vfio want = sample_device();
	EXPECT_EQ(device.segment, want.segment);
	EXPECT_EQ(device.rid, want.rid);
	EXPECT_EQ(std::memcmp(device.config, want.config, sizeof(want.config)), 0);
	ferry_incoming_done();
}

TEST_F(IommuGolden, RecordsAreRead)
{
	ferry_vfio device{};
	check_devices("devices-v2.bin", device);
	const ferry_vfio want = sample_device();
	EXPECT_EQ(device.interrupts, want.interrupts);
	EXPECT_EQ(std::memcmp(device.vectors, want.vectors, sizeof(want.vectors)), 0);
	EXPECT_EQ(device.quiet, want.quiet);
}

// They say nothing of interrupts: those were off.
TEST_F(IommuGolden, RecordsOfVersion1AreRead)
{
	ferry_vfio device{};
	check_devices("devices-v1.bin", device);
	EXPECT_EQ(device.interrupts, FERRY_VFIO_NONE);
	EXPECT_EQ(std::ranges::count(device.vectors, 0), FERRY_VFIO_VECTORS_SIZE);
	EXPECT_EQ(device.quiet, 0u);
}

} // namespace
