// SPDX-License-Identifier: GPL-2.0
// The formats of virtual machines on the way, byte for byte: see
// kho_golden_test.cc. Blobs of sections are as luo_kvm.ko writes them; the tree
// that leads to them, with a record of each kind, is made by hand, as it has
// places in memory and times in it.
#include "golden.hh"
#include "kvm_testing.hh"

namespace {

using fake::CarriedVm;
using fake::Data;

// Values that are all different, and within bounds.
template <class T> T sample(const ferry_record &record)
{
	T object{};
	for (unsigned int i = 0; i < record.nr_fields; ++i) {
		const ferry_field &field = record.fields[i];
		unsigned long long value = 0x0102030405060708 * (i + 1);
		if (field.kind == FERRY_U32)
			value &= 0xffffffff;
		if (value > field.max)
			value = field.max - (field.max > field.min ? i % 2 : 0);
		std::memcpy(reinterpret_cast<char *>(&object) + field.offset, &value, field.room);
	}
	return object;
}

// The machine behind the golden blobs of a version, and the records of the tree.
CarriedVm golden_vm(unsigned int version)
{
	CarriedVm carried;
	carried.vm = sample<ferry_kvm_vm>(ferry_kvm_vm_record);
	carried.vm.pit_no_reinject = version >= 2;
	carried.vm.vcpus = 2;
	carried.vm.slots = 3;
	carried.vm.clock = 1'000'000;
	carried.vm.tsc = 5'000'000'000;
	carried.vm.tsc_khz = 2'000'000;
	carried.vm_state = golden("kvm-vm-v1.bin");
	for (unsigned int id : {0, 5}) {
		CarriedVm::Vcpu vcpu;
		vcpu.record = sample<ferry_kvm_vcpu>(ferry_kvm_vcpu_record);
		vcpu.record.id = id;
		vcpu.state = golden(version >= 2 ? "kvm-vcpu-v2.bin" : "kvm-vcpu-v1.bin");
		carried.vcpus.push_back(vcpu);
	}
	CarriedVm::Gmem gmem;
	gmem.record = {gmem_pages * 4096, 3};
	gmem.runs = {{fake::first_folio + 64, 0, 3, 0, 0}, {fake::first_folio + 128, 100, 2, 0, 0}};
	gmem.slots = golden("kvm-slots-v1.bin");
	carried.gmems = {gmem};
	carried.save_memfd = [](ferry_writer *writer) {
		thing saved{};
		std::strncpy(saved.name, "ram", sizeof(saved.name) - 1);
		return ferry_put(writer, &thing_record, &saved);
	};
	return carried;
}

class KvmGolden : public KvmTest {
    protected:
	void TearDown() override
	{
		end_process();
		KvmTest::TearDown();
	}

	static Data state(unsigned int kind)
	{
		Data data(4 + kind % 3 * 4);
		for (std::size_t i = 0; i < data.size(); ++i)
			data[i] = static_cast<unsigned char>(kind + i);
		return data;
	}

	void make_golden_machine()
	{
		make_machine();
		for (unsigned int kind = FERRY_KVM_PIC_MASTER; kind < FERRY_KVM_SLOT; ++kind)
			the_vm().states[kind] = state(kind);
		for (std::size_t nr : {0, 1}) {
			for (unsigned int kind = FERRY_KVM_REGS; kind < FERRY_KVM_MSRS; ++kind)
				the_vcpu(nr).states[kind] = state(kind);
			the_vcpu(nr).states[FERRY_KVM_ONE_REGS] = state(FERRY_KVM_ONE_REGS);
			the_vcpu(nr).msrs[0x174] = 0x0102030405060708;
			the_vcpu(nr).msrs[0x6e0] = 77;
		}
	}

	// The blob on the way whose first section is of this kind; it fits a page.
	static Data blob(const fake::Handover &handover, unsigned int kind)
	{
		for (auto &[pfn, page] : handover.pages) {
			ferry_kvm_section head;
			std::memcpy(&head, page.data(), sizeof(head));
			if (head.kind != kind || head.bytes > 64)
				continue;
			std::size_t size = 0;
			while (size < page.size()) {
				std::memcpy(&head, page.data() + size, sizeof(head));
				if (!head.kind)
					break;
				size += sizeof(head) + ((head.bytes + 7) & ~7u);
			}
			return {page.begin(), page.begin() + static_cast<long>(size)};
		}
		ADD_FAILURE() << "no blob begins with the kind " << kind;
		return {};
	}
};

TEST_F(KvmGolden, Blobs)
{
	make_golden_machine();
	preserve_machine();
	fake::Handover handover = freeze_machine();
	expect_golden("kvm-vm-v1.bin", blob(handover, FERRY_KVM_PIC_MASTER));
	expect_golden("kvm-vcpu-v2.bin", blob(handover, FERRY_KVM_MP_STATE));
	expect_golden("kvm-slots-v1.bin", blob(handover, FERRY_KVM_SLOT));
}

TEST_F(KvmGolden, Tree)
{
	unload_kvm();
	unload();
	fake::Handover unused;
	CarriedVm carried = golden_vm(2);
	expect_golden("kvm-tree-v2.bin", carried.tree(carried.place_all(unused)));
}

class KvmGoldenVersions : public KvmGolden, public testing::WithParamInterface<unsigned int> {};

INSTANTIATE_TEST_SUITE_P(All, KvmGoldenVersions, testing::Values(1u, 2u));

TEST_P(KvmGoldenVersions, AreRead)
{
	const CarriedVm carried = golden_vm(GetParam());
	const Data tree = golden(GetParam() >= 2 ? "kvm-tree-v2.bin" : "kvm-tree-v1.bin");
	fake::Handover handover;
	carried.place_all(handover);
	fake::carry_root(handover, fake::first_pfn + 1,
			 fake::carry_blob(handover, fake::first_pfn + 2, tree),
			 ferry_crc32c(~0u, tree.data(), tree.size()));
	boot_with(handover);
	session = retrieve_session("vm");
	ASSERT_EQ(retrieve_files(all()), 0) << fake::log_text();
	map_ram();
	map_gmem();
	ASSERT_EQ(set_memory(ram_slots()), 0) << fake::log_text();

	// What they say is what there is.
	const fake::Vm &is = the_vm();
	EXPECT_EQ(std::memcmp(&is.is, &carried.vm, offsetof(ferry_kvm_vm, vcpus)), 0);
	EXPECT_EQ(is.is.pit_no_reinject, carried.vm.pit_no_reinject);
	EXPECT_GT(is.clock, 1'000'000u);
	EXPECT_LT(is.clock, 2'000'000u);
	for (unsigned int kind = FERRY_KVM_PIC_MASTER; kind < FERRY_KVM_SLOT; ++kind)
		EXPECT_EQ(is.states.at(kind), state(kind)) << kind;
	for (unsigned int number : {0, 1, 2}) {
		ferry_kvm_slot slot = slot_of(number);
		const fake::Slot &has = is.slots.at(number);
		// KVM is not told where in a memfd it is.
		slot.first = number == 1 ? slot.first : 0;
		EXPECT_EQ(std::memcmp(&has.is, &slot, sizeof(slot)), 0) << number;
	}
	EXPECT_EQ(is.slots.at(2).dirty, std::vector<unsigned long long>{0x8000000f});
	for (std::size_t nr : {0, 1}) {
		const fake::Vcpu &its = the_vcpu(nr);
		EXPECT_EQ(its.id, carried.vcpus[nr].record.id);
		ferry_kvm_vcpu record = carried.vcpus[nr].record;
		record.id = 0;
		record.tsc = 0;
		EXPECT_EQ(std::memcmp(&its.is, &record, sizeof(record)), 0);
		for (unsigned int kind = FERRY_KVM_REGS; kind < FERRY_KVM_MSRS; ++kind)
			EXPECT_EQ(its.states.at(kind), state(kind)) << kind;
		EXPECT_EQ(its.states.count(FERRY_KVM_ONE_REGS), GetParam() >= 2);
		EXPECT_EQ(its.msrs.at(0x174), 0x0102030405060708u);
		EXPECT_EQ(its.msrs.at(0x6e0), 77u);
	}
	EXPECT_EQ(the_gmem().pages.at(101), fake::first_folio + 129);
	EXPECT_EQ(finish(session), 0);
}

} // namespace
