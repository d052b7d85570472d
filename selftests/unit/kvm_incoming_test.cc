// SPDX-License-Identifier: GPL-2.0
// kvm/incoming.cc: a virtual machine in the kernel that gets it.
#include "kvm_testing.hh"

namespace {

using fake::CarriedVm;
using fake::Data;
using fake::put_section;

class KvmIncoming : public KvmTest {
    protected:
	void TearDown() override
	{
		end_process();
		KvmTest::TearDown();
		EXPECT_EQ(fake::waiting(), 0u);
	}

	// A machine with states that differ from those of a new one.
	void make_used_machine()
	{
		make_machine();
		fake::Vm &is = the_vm();
		is.is.irqchip = 1;
		is.is.pit = 2;
		is.is.disabled_exits = 5;
		is.is.exception_payload = 1;
		is.clock = 123'000'000;
		is.states[FERRY_KVM_IOAPIC] = Data(520, 6);
		is.states[FERRY_KVM_PIT] = Data(112, 7);
		is.states[FERRY_KVM_ROUTING] = Data(48, 8);
		is.states[FERRY_KVM_MSR_FILTER] = Data(16, 9);
		for (std::size_t nr : {0, 1}) {
			fake::Vcpu &vcpu = the_vcpu(nr);
			for (auto &[kind, data] : vcpu.states)
				data.assign(16, static_cast<unsigned char>(kind + 16 * nr));
			vcpu.msrs[0x174] = 0x1000 + nr;
			vcpu.msrs[0x6e0] = 0x2000 + nr;
			vcpu.is.tsc_offset = 0 - nr;
			vcpu.is.features = FERRY_KVM_SYNIC2;
		}
	}

	// Everything up to and including the session of the next kernel.
	void carry(const std::function<void(fake::Handover &)> &damage = {})
	{
		make_used_machine();
		preserve_machine();
		jump(damage);
	}

	// All files retrieved and mapped where they were.
	void carry_all()
	{
		carry();
		ASSERT_EQ(retrieve_files(all()), 0) << fake::log_text();
		map_ram();
		map_gmem();
	}

	void expect_machine() const
	{
		const fake::Vm &is = the_vm();
		EXPECT_FALSE(is.parked);
		EXPECT_EQ(is.is.irqchip, 1u);
		EXPECT_EQ(is.is.pit, 2u);
		EXPECT_EQ(is.is.disabled_exits, 5u);
		EXPECT_EQ(is.is.exception_payload, 1u);
		EXPECT_EQ(is.is.halt_poll_ns, ~0ull);
		EXPECT_GT(is.clock, 123'000'000u);
		EXPECT_LT(is.clock, 124'000'000u);
		EXPECT_EQ(is.states.at(FERRY_KVM_IOAPIC), Data(520, 6));
		EXPECT_EQ(is.states.at(FERRY_KVM_PIT), Data(112, 7));
		EXPECT_EQ(is.states.at(FERRY_KVM_ROUTING), Data(48, 8));
		EXPECT_EQ(is.states.at(FERRY_KVM_MSR_FILTER), Data(16, 9));
		ASSERT_EQ(is.vcpus.size(), 2u);
		for (int fd : vcpu) {
			const fake::Vcpu &its = fake::vcpu_of(fake::file_of(fd));
			const unsigned int nr = its.id == 5;
			EXPECT_EQ(its.id, nr ? 5u : 0u);
			for (auto &[kind, data] : its.states)
				EXPECT_EQ(data,
					  Data(16, static_cast<unsigned char>(kind + 16 * nr)));
			EXPECT_EQ(its.msrs.at(0x174), 0x1000 + nr);
			EXPECT_EQ(its.msrs.at(0x6e0), 0x2000 + nr);
			EXPECT_EQ(its.is.tsc_offset, 0ull - nr);
			EXPECT_EQ(its.is.features, 1u * FERRY_KVM_SYNIC2);
			EXPECT_EQ(fake::run(fake::file_of(fd)), 0);
		}
		ASSERT_EQ(is.slots.size(), 3u);
		EXPECT_EQ(is.slots.at(2).dirty, std::vector<unsigned long long>{0x8000000f});
		EXPECT_EQ(is.slots.at(1).gmem, &the_gmem());
		std::vector<fake::Page> pages;
		for (auto &[page, pfn] : the_gmem().pages)
			pages.push_back(page);
		EXPECT_EQ(pages, (std::vector<fake::Page>{0, 1, 2, 100, 101}));
	}

	// From the first file that is retrieved on to the end of the session.
	void walk_failures(const std::vector<std::vector<unsigned long long>> &orders)
	{
		make_used_machine();
		preserve_machine();
		fake::Handover handover = freeze_machine();
		auto prepare = [&] {
			boot_with(handover);
			session = retrieve_session("vm");
		};
		auto clean_up = [&] {
			end_process();
			EXPECT_EQ(fake::waiting(), 0u) << "pages are lost";
			unload_kvm();
			unload();
			fake::power_off();
		};
		unload_kvm();
		unload();
		for (auto &tokens : orders) {
			for_each_failure(
				prepare,
				[&] {
					int err = retrieve_files(tokens);
					if (!err) {
						map_ram();
						map_gmem();
					}
					std::vector<liveupdate_kvm_slot> slots(3);
					err = err ? err : get_memory(slots);
					err = err ? err : set_memory(ram_slots());
					if (!err)
						expect_machine();
					return err ? err : finish(session);
				},
				clean_up);
		}
	}

	// A change of the blob that begins with a section of this kind, of this size.
	static void damage_blob(fake::Handover &handover, unsigned int kind, unsigned int bytes,
				const std::function<void(unsigned char *)> &change)
	{
		const ferry_kvm_section head{kind, bytes};
		auto pages = handover.find(&head, sizeof(head));
		ASSERT_FALSE(pages.empty()) << kind;
		for (fake::Pfn pfn : pages)
			change(handover.pages.at(pfn).data());
	}
};

// ---- all is well ----

TEST_F(KvmIncoming, GivesBackWhatItWasGiven)
{
	carry_all();
	EXPECT_EQ(fake::run(fake::file_of(vcpu[0])), -EBUSY) << "it has no memory yet";
	EXPECT_EQ(writes(), "set 68, set 69, slot 1");
	host.trace.clear();
	EXPECT_EQ(set_memory(ram_slots()), 0) << fake::log_text();
	EXPECT_EQ(writes({"set", "msrs"}),
		  "slot 0, slot 2, clock, configure vcpu 0, tsc, configure vcpu 5, tsc, dirty 2, "
		  "clock, unpark");
	expect_machine();
	EXPECT_EQ(set_memory({}), -EALREADY);
	EXPECT_EQ(set_memory(ram_slots()), -EALREADY);
	EXPECT_EQ(finish(session), 0);
	EXPECT_EQ(set_memory({}), -ENOENT);
	EXPECT_FALSE(fake::logged(FERRY_WARN, "")) << fake::log_text();
	EXPECT_FALSE(fake::logged(FERRY_ERR, "")) << fake::log_text();
	expect_machine();
}

// vCPUs first, with their memory there; then what reaches them.
TEST_F(KvmIncoming, LoadsVcpusBeforeIrqchipsAndTheClockLast)
{
	carry_all();
	host.trace.clear();
	ASSERT_EQ(set_memory(ram_slots()), 0);
	std::vector<std::string> trace = host.trace;
	auto place = [&](const std::string &line) {
		return std::find(trace.begin(), trace.end(), line) - trace.begin();
	};
	EXPECT_LT(place("slot 2"), place("configure vcpu 0"));
	EXPECT_LT(place("configure vcpu 5"), place("set 66"));
	EXPECT_LT(place("set 66"), place("set 67"));
	EXPECT_LT(place("set 67"), place("dirty 2"));
	// The clock is set twice: a wall clock that a vCPU's MSR writes goes by it.
	EXPECT_LT(place("clock"), place("configure vcpu 0"));
	trace.erase(trace.begin(), trace.begin() + place("dirty 2"));
	EXPECT_EQ(trace, (std::vector<std::string>{"dirty 2", "clock", "unpark"}));
}

TEST_F(KvmIncoming, IsRetrievedInAnyOrder)
{
	make_used_machine();
	preserve_machine();
	fake::Handover handover = freeze_machine();
	std::vector<unsigned long long> tokens = all();
	std::sort(tokens.begin(), tokens.end());
	do {
		SCOPED_TRACE(testing::PrintToString(tokens));
		boot_with(handover);
		session = retrieve_session("vm");
		ASSERT_EQ(retrieve_files(tokens), 0) << fake::log_text();
		map_ram();
		map_gmem();
		EXPECT_EQ(set_memory(ram_slots()), 0) << fake::log_text();
		expect_machine();
		EXPECT_EQ(finish(session), 0);
		end_process();
	} while (std::next_permutation(tokens.begin(), tokens.end()) && !HasFailure());
}

// ---- what is made ahead ----

TEST_F(KvmIncoming, IsMadeAheadWithItsVcpus)
{
	work_ahead = true;
	carry();
	EXPECT_GT(fake::background_asked, 0u);
	// Of the vCPUs what leads to no memory: all but some MSRs.
	const std::string ahead = "set 68, set 69, "
				  "set 9, configure vcpu 0, set 2, msrs 174=1000, tsc, set 4, set "
				  "3, set 5, set 6, set 1, "
				  "set 10, set 6, set 7, set 8, msrs 6e0=2000, "
				  "set 9, configure vcpu 5, set 2, msrs 174=1001, tsc, set 4, set "
				  "3, set 5, set 6, set 1, "
				  "set 10, set 6, set 7, set 8, msrs 6e0=2001";
	EXPECT_EQ(writes(), ahead);
	auto before = fake::counters();
	EXPECT_EQ(before["VMs"], 1);
	ASSERT_EQ(retrieve_files(all()), 0) << fake::log_text();
	EXPECT_EQ(fake::counters()["VMs"], 1) << "it is the one that was made ahead";
	EXPECT_EQ(the_vm().vcpus.size(), 2u);
	EXPECT_EQ(writes(), ahead + ", slot 1");
	map_ram();
	map_gmem();
	host.trace.clear();
	EXPECT_EQ(set_memory(ram_slots()), 0) << fake::log_text();
	EXPECT_EQ(writes(), "slot 0, slot 2, clock, set 66, set 67, dirty 2, clock, unpark")
		<< "nothing of a vCPU once more";
	expect_machine();
	EXPECT_EQ(finish(session), 0);
}

TEST_F(KvmIncoming, IsMadeWhenItCouldNotBeMadeAhead)
{
	make_used_machine();
	preserve_machine();
	fake::Handover handover = freeze_machine();
	for (bool lasting : {false, true}) {
		for (unsigned long nth = 1;; ++nth) {
			SCOPED_TRACE(nth);
			boot_with(handover);
			fake::arm(nth, lasting);
			background();
			bool failed = fake::disarm();
			session = retrieve_session("vm");
			EXPECT_EQ(retrieve_files(all()), 0) << fake::log_text();
			if (HasFailure())
				return;
			EXPECT_EQ(fake::counters()["VMs"], 1);
			map_ram();
			map_gmem();
			EXPECT_EQ(set_memory(ram_slots()), 0) << fake::log_text();
			expect_machine();
			EXPECT_EQ(finish(session), 0);
			end_process();
			EXPECT_EQ(fake::waiting(), 0u);
			if (!failed || HasFailure())
				break;
		}
	}
}

TEST_F(KvmIncoming, IsMadeAheadAndThrownAway)
{
	make_used_machine();
	preserve_machine();
	fake::Handover handover = freeze_machine();
	work_ahead = true;
	for (const std::vector<unsigned long long> &tokens :
	     std::vector<std::vector<unsigned long long>>{{}, {VM}, {VM, VCPU + 1}, {MEMFD}}) {
		boot_with(handover);
		session = retrieve_session("vm");
		EXPECT_EQ(retrieve_files(tokens), 0);
		EXPECT_EQ(finish(session), 0);
		end_process();
		EXPECT_EQ(fake::waiting(), 0u);
		EXPECT_EQ(fake::counters()["VMs"], 0);
		EXPECT_FALSE(fake::logged(FERRY_ERR, "")) << fake::log_text();
	}
}

TEST_F(KvmIncoming, IsCarriedTwice)
{
	carry_all();
	ASSERT_EQ(set_memory(ram_slots()), 0);
	ASSERT_EQ(finish(session), 0);
	// A new session of this kernel; the files are those of the last one.
	fake::close(session);
	the_gmem().add(7);
	preserve_machine();
	jump();
	ASSERT_EQ(retrieve_files(all()), 0) << fake::log_text();
	map_ram(0x70000000);
	map_gmem();
	EXPECT_EQ(set_memory(ram_slots(0x70000000)), 0) << fake::log_text();
	EXPECT_TRUE(the_gmem().pages.count(7));
	the_gmem().punch(7);
	expect_machine();
}

TEST_F(KvmIncoming, CarriesAMachineWithoutMemory)
{
	vm = fake::install(fake::new_vm());
	session = create("vm");
	ASSERT_EQ(preserve(session, vm, VM), 0);
	jump();
	ASSERT_EQ(retrieve_files({VM}), 0);
	EXPECT_TRUE(the_vm().parked);
	std::vector<liveupdate_kvm_slot> slots;
	EXPECT_EQ(get_memory(slots), 0);
	EXPECT_EQ(slots.size(), 0u);
	EXPECT_EQ(set_memory({}), 0) << fake::log_text();
	EXPECT_FALSE(the_vm().parked);
}

TEST_F(KvmIncoming, CarriesAGuestMemfdWithoutASlot)
{
	make_used_machine();
	the_vm().slots.erase(1);
	preserve_machine();
	jump();
	ASSERT_EQ(retrieve_files(all()), 0) << fake::log_text();
	map_ram();
	EXPECT_EQ(set_memory(ram_slots()), 0) << fake::log_text();
	EXPECT_EQ(the_gmem().pages.size(), 5u);
	EXPECT_EQ(finish(session), 0);
}

TEST_F(KvmIncoming, KeepsTwoMachinesApart)
{
	make_used_machine();
	preserve_machine();
	int second = fake::install(fake::new_vm());
	int its_vcpu = fake::install(fake::new_vcpu(fake::file_of(second), 0));
	fake::vcpu_of(fake::file_of(its_vcpu)).states[FERRY_KVM_REGS] = Data(8, 99);
	ASSERT_EQ(preserve(session, second, 100), 0);
	ASSERT_EQ(preserve(session, its_vcpu, 101), 0);
	EXPECT_EQ(luo_prepare(true), 0) << fake::log_text();
	fake::Handover handover = fake::handover();
	luo_abort();
	end_process();
	boot_with(handover);
	session = retrieve_session("vm");
	its_vcpu = retrieve(session, 101);
	ASSERT_EQ(retrieve_files(all()), 0) << fake::log_text();
	second = retrieve(session, 100);
	map_ram();
	map_gmem();
	EXPECT_EQ(set_memory(ram_slots()), 0) << fake::log_text();
	expect_machine();
	EXPECT_TRUE(fake::vm_of(fake::file_of(second)).parked);
	vm = second;
	EXPECT_EQ(set_memory(ram_slots()), -EINVAL) << "it has no slots";
	EXPECT_EQ(set_memory({}), 0) << fake::log_text();
	EXPECT_EQ(fake::vcpu_of(fake::file_of(its_vcpu)).states[FERRY_KVM_REGS], Data(8, 99));
	EXPECT_EQ(finish(session), 0);
}

// ---- GET_MEMORY ----

TEST_F(KvmIncoming, ListsTheSlots)
{
	carry();
	ASSERT_EQ(retrieve_files({GMEM, MEMFD, VM}), 0);
	std::vector<liveupdate_kvm_slot> slots;
	EXPECT_EQ(get_memory(slots), -ENOSPC);
	ASSERT_EQ(slots.size(), 3u);
	EXPECT_EQ(slots[0].memory_size, 0u) << "nothing was written";
	slots.resize(2);
	EXPECT_EQ(get_memory(slots), -ENOSPC);
	slots.resize(5);
	ASSERT_EQ(get_memory(slots), 0);
	ASSERT_EQ(slots.size(), 3u);
	const liveupdate_kvm_slot expected[] = {
		{0, 0, 0, 32 * 4096, ram_at, 0, MEMFD, LIVEUPDATE_KVM_MEMFD, 0},
		{1, flag_gmem, 0x1000 * 4096, gmem_pages * 4096, gmem_at, 0, GMEM,
		 LIVEUPDATE_KVM_GUEST_MEMFD, 1},
		{2, flag_log, 0x100 * 4096, 32 * 4096, ram_at + 32 * 4096, 32 * 4096, MEMFD,
		 LIVEUPDATE_KVM_MEMFD, 0},
	};
	for (unsigned int i = 0; i < 3; ++i)
		EXPECT_EQ(std::memcmp(&slots[i], &expected[i], sizeof(slots[i])), 0)
			<< i << ": is slot " << slots[i].slot;
	map_ram();
	EXPECT_EQ(set_memory({at(2, ram_at + 32 * 4096)}), -EAGAIN);
	ASSERT_EQ(get_memory(slots), 0);
	EXPECT_EQ(slots[0].present, 0u);
	EXPECT_EQ(slots[2].present, 1u);
}

TEST_F(KvmIncoming, ListsTheSlotsByNumberInWhateverOrderTheyCame)
{
	make_machine();
	fake::add_slot(fake::file_of(vm), {0x10001, 0, 0, 4, ram_at, 0, 0, 0});
	int second = fake::install(fake::new_gmem(fake::file_of(vm), 64 * 4096));
	for (unsigned int number : {40, 30, 50, 10})
		fake::add_slot(fake::file_of(vm),
			       {number, flag_gmem, 0x8000 + number, 1, 0x30000000, number, 0, 0},
			       fake::file_of(number == 10 ? gmem : second));
	preserve_machine();
	ASSERT_EQ(preserve(session, second, 77), 0);
	EXPECT_EQ(luo_prepare(true), 0);
	fake::Handover handover = fake::handover();
	luo_abort();
	end_process();
	boot_with(handover);
	session = retrieve_session("vm");
	int again = retrieve(session, 77);
	ASSERT_GE(again, 0);
	ASSERT_EQ(retrieve_files(all()), 0);
	std::vector<liveupdate_kvm_slot> slots(20);
	ASSERT_EQ(get_memory(slots), 0);
	std::vector<unsigned int> numbers;
	for (const liveupdate_kvm_slot &slot : slots)
		numbers.push_back(slot.slot);
	EXPECT_EQ(numbers, (std::vector<unsigned int>{0, 1, 2, 10, 30, 40, 50, 0x10001}));
}

// ---- errors of both calls ----

TEST_F(KvmIncoming, RefusesBadArguments)
{
	carry_all();
	int plain = open("plain"), fresh = fake::install(fake::new_vm());
	struct {
		const char *what;
		std::function<void(liveupdate_kvm_memory &)> change;
		int error;
	} const cases[] = {
		{"a smaller size", [](auto &arg) { arg.size -= 8; }, -EINVAL},
		{"a larger size", [](auto &arg) { arg.size += 8; }, -EINVAL},
		{"not zero", [](auto &arg) { arg.reserved = 1; }, -EINVAL},
		{"a descriptor that is not open", [](auto &arg) { arg.vm = 999; }, -EBADF},
		{"no descriptor", [](auto &arg) { arg.vm = -1; }, -EBADF},
		{"a file of another kind", [&](auto &arg) { arg.vm = plain; }, -EBADF},
		{"a vCPU", [&](auto &arg) { arg.vm = vcpu[0]; }, -EBADF},
		{"a guest_memfd", [&](auto &arg) { arg.vm = gmem; }, -EBADF},
		{"a VM of this kernel", [&](auto &arg) { arg.vm = fresh; }, -ENOENT},
		{"slots that are not mapped", [](auto &arg) { arg.slots = 8; }, -EFAULT},
		{"more slots than are mapped", [](auto &arg) { arg.nr_slots = 4; }, -EFAULT},
	};
	for (unsigned int request : {LIVEUPDATE_KVM_GET_MEMORY, LIVEUPDATE_KVM_SET_MEMORY}) {
		for (auto &[what, change, error] : cases) {
			std::vector<liveupdate_kvm_slot> slots(3);
			slots[0] = slots[1] = slots[2] = at(0, ram_at);
			liveupdate_kvm_memory arg{sizeof(arg), vm, 3, 0, 0};
			arg.slots = reinterpret_cast<unsigned long long>(slots.data());
			change(arg);
			fake::user_memory(slots.data(), slots.size() * sizeof(slots[0]));
			int result = call(arg, [request](void *user) {
				return kvm_device_ioctl(request,
							reinterpret_cast<unsigned long>(user));
			});
			fake::user_memory_gone(slots.data());
			// To get, there are three, and all fit.
			if (request == LIVEUPDATE_KVM_GET_MEMORY && arg.nr_slots == 3 &&
			    error == -EFAULT && arg.slots != 8)
				EXPECT_EQ(result, 0) << what;
			else
				EXPECT_EQ(result, error) << what;
		}
	}
	EXPECT_EQ(kvm_device_ioctl(LIVEUPDATE_KVM_SET_MEMORY, 8), -EFAULT);
	EXPECT_EQ(kvm_device_ioctl(0x1234, 0), -ENOTTY);
	fake::user_read_only = true;
	std::vector<liveupdate_kvm_slot> slots(3);
	EXPECT_EQ(get_memory(slots), -EFAULT);
	fake::user_read_only = false;
	EXPECT_TRUE(the_vm().parked);
}

TEST_F(KvmIncoming, RefusesMappingsThatAreNotTheRightOnes)
{
	carry();
	ASSERT_EQ(retrieve_files(all()), 0);
	int other = open("other");
	constexpr unsigned long long at0 = 0x40000000;
	struct {
		const char *what;
		unsigned long long hva;
		std::function<void()> map;
	} const cases[] = {
		{"nothing", at0, [] {}},
		{"another file", at0, [&] { fake::map(at0, fake::file_of(other), 0, 64); }},
		{"the guest_memfd", at0, [&] { fake::map(at0, fake::file_of(gmem), 0, 64); }},
		{"another offset", at0, [&] { fake::map(at0, fake::file_of(memfd), 1, 64); }},
		{"too short", at0, [&] { fake::map(at0, fake::file_of(memfd), 0, 31); }},
		{"private", at0, [&] { fake::map(at0, fake::file_of(memfd), 0, 64, false); }},
		{"the end of all addresses", ~0ull << 12, [] {}},
		{"the last page", (~0ull << 12) - 31 * 4096, [] {}},
	};
	for (auto &[what, hva, map] : cases) {
		map();
		fake::clear_log();
		EXPECT_EQ(set_memory({at(0, hva)}), -EINVAL) << what;
		EXPECT_TRUE(fake::logged(FERRY_ERR, "memory slot 0: what is mapped at"));
		EXPECT_TRUE(fake::logged(FERRY_ERR, "page 0 of the file of token 0x30"));
		fake::unmap_all();
	}
	fake::clear_log();
	EXPECT_EQ(set_memory({at(9, ram_at)}), -EINVAL);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "slot 0x9: the VM had no such slot"));
	// Entries are taken in order, up to the first error.
	map_ram();
	map_gmem();
	EXPECT_EQ(set_memory({at(2, ram_at + 32 * 4096), at(9, 0), at(0, ram_at)}), -EINVAL);
	EXPECT_EQ(the_vm().slots.count(2), 1u);
	EXPECT_EQ(the_vm().slots.count(0), 0u);
	// An address that is not that of a page is KVM's to refuse.
	EXPECT_EQ(set_memory({at(0, ram_at + 8)}), -EINVAL);
	EXPECT_EQ(set_memory({at(0, ram_at)}), 0) << fake::log_text();
	expect_machine();
}

TEST_F(KvmIncoming, WaitsForTheMmapLock)
{
	carry_all();
	fake::mmap_lock_taken = 30;
	EXPECT_EQ(set_memory(ram_slots()), 0) << fake::log_text();
	EXPECT_EQ(host.slept, 30u);
}

TEST_F(KvmIncoming, MovesASlot)
{
	carry_all();
	EXPECT_EQ(set_memory({at(0, ram_at)}), -EAGAIN);
	map_ram(0x70000000);
	host.trace.clear();
	EXPECT_EQ(set_memory({at(0, 0x70000000), at(0, 0x70000000)}), -EAGAIN);
	EXPECT_EQ(writes(), "no slot 0, slot 0, no slot 0, slot 0");
	EXPECT_EQ(the_vm().slots.at(0).is.hva, 0x70000000u);
	// The guest_memfd as well.
	map_gmem(0x80000000);
	EXPECT_EQ(set_memory({at(1, 0x80000000), at(2, ram_at + 32 * 4096)}), 0)
		<< fake::log_text();
	EXPECT_EQ(the_vm().slots.at(1).is.hva, 0x80000000u);
	expect_machine();
}

// Its mapping may have gone since the slot was created.
TEST_F(KvmIncoming, LooksAtAllMappingsBeforeItLoads)
{
	carry();
	ASSERT_EQ(retrieve_files(all()), 0);
	map_ram();
	EXPECT_EQ(set_memory(ram_slots()), -EINVAL) << "the guest_memfd is not mapped";
	EXPECT_TRUE(fake::logged(FERRY_ERR, "memory slot 0x1: what is mapped at 0x20000000"));
	fake::unmap_all();
	map_gmem();
	EXPECT_EQ(set_memory({}), -EINVAL);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "memory slot 0: what is mapped at"));
	EXPECT_TRUE(the_vm().parked);
	EXPECT_EQ(writes({"slot"}), "set 68, set 69") << "nothing was loaded";
	map_ram();
	EXPECT_EQ(set_memory({}), 0);
	expect_machine();
}

TEST_F(KvmIncoming, SaysWhatIsMissing)
{
	carry();
	ASSERT_EQ(retrieve_files({VM}), 0);
	EXPECT_EQ(set_memory({}), -EAGAIN);
	EXPECT_TRUE(fake::logged(FERRY_INFO, "0 of its 2 vCPUs are retrieved"));
	ASSERT_EQ(retrieve_files({VCPU + 1}), 0);
	EXPECT_EQ(set_memory({}), -EAGAIN);
	EXPECT_TRUE(fake::logged(FERRY_INFO, "1 of its 2 vCPUs are retrieved"));
	ASSERT_EQ(retrieve_files({VCPU}), 0);
	EXPECT_EQ(set_memory({}), -EAGAIN);
	EXPECT_TRUE(fake::logged(FERRY_INFO, "2 of its 3 memory slots are known"));
	ASSERT_EQ(retrieve_files({GMEM, MEMFD}), 0);
	EXPECT_EQ(set_memory({}), -EAGAIN);
	EXPECT_TRUE(fake::logged(FERRY_INFO, "memory slot 0 is not there"));
	map_ram();
	map_gmem();
	EXPECT_EQ(set_memory(ram_slots()), 0) << fake::log_text();
	expect_machine();
}

// The guest_memfd comes last, and with it the machine is complete.
TEST_F(KvmIncoming, WaitsForAnAddressOfASlot)
{
	make_used_machine();
	preserve_machine();
	// Of the same place in the guest as the other one: KVM takes one only.
	fake::Handover handover = freeze_machine();
	damage_blob(handover, FERRY_KVM_SLOT, sizeof(ferry_kvm_slot), [](unsigned char *blob) {
		auto slot = reinterpret_cast<ferry_kvm_slot *>(blob + sizeof(ferry_kvm_section));
		if (slot->slot == 1)
			slot->hva += 8;
	});
	boot_with(handover);
	session = retrieve_session("vm");
	ASSERT_EQ(retrieve_files(all()), 0);
	EXPECT_TRUE(fake::logged(FERRY_INFO, "memory slot 0x1 waits for an address"));
	map_ram();
	map_gmem();
	EXPECT_EQ(set_memory(ram_slots()), -EAGAIN);
	EXPECT_EQ(set_memory({at(1, gmem_at)}), 0) << fake::log_text();
	expect_machine();
}

// ---- what fails, and what can be tried again ----

TEST_F(KvmIncoming, FailsWithoutATrace)
{
	walk_failures({all(), {GMEM, VCPU + 1, MEMFD, VCPU, VM}});
}

TEST_F(KvmIncoming, FailsWithoutATraceWhenItWasMadeAhead)
{
	work_ahead = true;
	walk_failures({all()});
}

// In a session that goes on: what failed for want of memory is asked for again.
TEST_F(KvmIncoming, RepeatsWhatFailed)
{
	make_used_machine();
	preserve_machine();
	fake::Handover handover = freeze_machine();
	unsigned int repeated = 0;
	for (unsigned long nth = 1;; ++nth) {
		SCOPED_TRACE(nth);
		boot_with(handover);
		session = retrieve_session("vm");
		fake::arm(nth);
		std::vector<unsigned long long> again;
		for (unsigned long long token : all()) {
			if (retrieve_files({token}))
				again.push_back(token);
		}
		bool failed = fake::disarm();
		// Where nothing was taken yet, it is there after all.
		if (!again.empty() && !retrieve_files(again)) {
			++repeated;
			again.clear();
		}
		if (again.empty()) {
			map_ram();
			map_gmem();
			// One slot may wait for an address.
			auto slots = ram_slots();
			slots.push_back(at(1, gmem_at));
			EXPECT_EQ(set_memory(slots), 0) << fake::log_text();
			expect_machine();
		}
		EXPECT_EQ(finish(session), 0);
		end_process();
		EXPECT_EQ(fake::waiting(), 0u);
		if (!failed || HasFailure())
			break;
	}
	EXPECT_GT(repeated, 5u);
}

TEST_F(KvmIncoming, CompletesAMachineAfterACallThatFailed)
{
	for (unsigned long nth = 1;; ++nth) {
		SCOPED_TRACE(nth);
		carry_all();
		fake::arm(nth);
		int err = set_memory(ram_slots());
		bool failed = fake::disarm();
		EXPECT_EQ(failed, err != 0);
		if (err) {
			EXPECT_EQ(fake::run(fake::file_of(vcpu[0])), -EBUSY);
			EXPECT_EQ(set_memory(ram_slots()), 0) << fake::log_text();
		}
		expect_machine();
		end_process();
		if (!failed || HasFailure())
			break;
	}
}

// ---- whose it is ----

// KVM's own slots have their memory where they are made: that must be where it runs.
TEST_F(KvmIncoming, BringsAlongWhatKvmHasMappedItself)
{
	host.own_slots = 2;
	make_used_machine();
	preserve_machine();
	fake::Handover handover = freeze_machine();
	for (bool ahead : {false, true}) {
		for (unsigned long nth = 1;; ++nth) {
			SCOPED_TRACE(nth);
			work_ahead = ahead;
			boot_with(handover);
			session = retrieve_session("vm");
			ASSERT_EQ(retrieve_files(all()), 0) << fake::log_text();
			map_ram();
			map_gmem();
			EXPECT_EQ(the_vm().own_slots.size(), 2u);
			EXPECT_EQ(the_vm().own_slots[0].second, 0) << "the worker";
			fake::arm(nth);
			int err = set_memory(ram_slots());
			bool failed = fake::disarm();
			EXPECT_EQ(failed, err != 0);
			if (err)
				EXPECT_EQ(set_memory(ram_slots()), 0) << fake::log_text();
			ASSERT_EQ(the_vm().own_slots.size(), 2u);
			for (auto &[slot, of] : the_vm().own_slots)
				EXPECT_EQ(of, 1);
			expect_machine();
			EXPECT_EQ(finish(session), 0);
			end_process();
			if (!failed || HasFailure())
				break;
		}
	}
	work_ahead = false;
}

TEST_F(KvmIncoming, LeavesNothingMappedInTheWorker)
{
	host.own_slots = 1;
	carry();
	ASSERT_EQ(retrieve_files({VM, VCPU}), 0);
	file *kept = fake::file_of(vm);
	fake::Vm &its = fake::vm_of(kept);
	linux_kvm_share(kept);
	EXPECT_EQ(finish(session), 0);
	EXPECT_TRUE(its.own_slots.empty());
	linux_kvm_fput(kept);
}

TEST_F(KvmIncoming, GoesToWhoeverCompletesIt)
{
	carry();
	ASSERT_EQ(retrieve_files({VM, GMEM, MEMFD, VCPU}), 0);
	map_ram();
	map_gmem();
	EXPECT_EQ(the_vm().process, 0) << "nobody's yet";
	EXPECT_EQ(set_memory(ram_slots()), -EAGAIN);
	EXPECT_EQ(the_vm().process, 1);
	ASSERT_EQ(retrieve_files({VCPU + 1}), 0);
	fake::process = 2;
	EXPECT_EQ(set_memory({}), 0) << fake::log_text();
	EXPECT_EQ(the_vm().process, 2);
	fake::process = 1;
	expect_machine();
}

// Registers, and what they point to, may be known to KVM by then.
TEST_F(KvmIncoming, StaysWithTheProcessThatBeganToLoad)
{
	carry_all();
	host.refused = {FERRY_KVM_LAPIC};
	EXPECT_EQ(set_memory(ram_slots()), -EINVAL);
	host.refused.clear();
	fake::process = 2;
	EXPECT_EQ(set_memory(ram_slots()), -EBUSY);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "has to stay with the process"));
	fake::process = 1;
	EXPECT_EQ(set_memory(ram_slots()), 0) << fake::log_text();
	expect_machine();
}

TEST_F(KvmIncoming, TakesNoMoreEntriesThanThereCanBe)
{
	carry_all();
	std::vector<liveupdate_kvm_slot> slots(4 * 32768 + 1, at(0, ram_at));
	EXPECT_EQ(set_memory(slots), -E2BIG);
	slots.resize(3);
	slots.push_back(at(2, ram_at + 32 * 4096));
	EXPECT_EQ(set_memory(slots), 0) << fake::log_text();
	expect_machine();
}

TEST_F(KvmIncoming, SaysWhatThisKernelCannotGiveAVm)
{
	make_used_machine();
	preserve_machine();
	fake::Handover handover = freeze_machine();
	for (const char *field : {"irqchip", "pit", "disabled_exits", "exception_payload"}) {
		boot_with(handover);
		host.unknown = {field};
		session = retrieve_session("vm");
		EXPECT_EQ(retrieve_files({VM}), -EOPNOTSUPP);
		EXPECT_TRUE(fake::logged(FERRY_ERR, std::string("the same '") + field + "'"))
			<< fake::log_text();
		EXPECT_EQ(retrieve_files({VM}), -EOPNOTSUPP) << "for good";
		EXPECT_EQ(retrieve_files({VCPU}), -EOPNOTSUPP) << "which needs it";
		EXPECT_EQ(finish(session), 0);
		end_process();
		EXPECT_EQ(fake::waiting(), 0u);
	}
}

TEST_F(KvmIncoming, SaysWhichStateIsRefused)
{
	make_used_machine();
	preserve_machine();
	fake::Handover handover = freeze_machine();
	for (unsigned int kind : {FERRY_KVM_MSR_FILTER, FERRY_KVM_LAPIC, FERRY_KVM_IOAPIC}) {
		boot_with(handover);
		session = retrieve_session("vm");
		host.refused = {kind};
		int err = retrieve_files(all());
		EXPECT_EQ(err, kind == FERRY_KVM_MSR_FILTER ? -EINVAL : 0);
		if (!err) {
			map_ram();
			map_gmem();
			EXPECT_EQ(set_memory(ram_slots()), -EINVAL);
			EXPECT_TRUE(the_vm().parked);
			EXPECT_EQ(fake::logged(FERRY_ERR, "vCPU 0 cannot be given its state"),
				  kind == FERRY_KVM_LAPIC);
		}
		EXPECT_TRUE(fake::logged(FERRY_ERR,
					 "kind " + std::to_string(kind) + " cannot be set (-22)"));
		end_process();
	}
}

// ---- finish ----

TEST_F(KvmIncoming, IsFinishedInEveryState)
{
	make_used_machine();
	preserve_machine();
	fake::Handover handover = freeze_machine();
	const std::vector<unsigned long long> tokens = all();
	for (unsigned int which = 0; which < 1u << tokens.size(); ++which) {
		for (bool by_call : {false, true}) {
			SCOPED_TRACE(which);
			boot_with(handover);
			session = retrieve_session("vm");
			for (unsigned int i = 0; i < tokens.size(); ++i) {
				if (which & 1u << i)
					EXPECT_EQ(retrieve_files({tokens[i]}), 0);
			}
			EXPECT_EQ(fake::logged(FERRY_WARN, "cannot run"), false);
			if (by_call)
				EXPECT_EQ(finish(session), 0);
			// Closing it is not finishing it; but the process is gone.
			fake::close(std::exchange(session, -1));
			if (!by_call) {
				session = retrieve_session("vm");
				ASSERT_EQ(session < 0 ? 0 : finish(session), 0);
			}
			// All but the memfds needs the VM.
			EXPECT_EQ(fake::logged(FERRY_WARN, "cannot run"), bool(which & 0xf));
			end_process();
			EXPECT_EQ(fake::waiting(), 0u);
			EXPECT_FALSE(fake::logged(FERRY_ERR, "")) << fake::log_text();
			if (HasFailure())
				return;
		}
	}
}

// The files are open still: they live on, and nothing refers to them.
TEST_F(KvmIncoming, LeavesTheFilesToWhoHasThem)
{
	carry();
	ASSERT_EQ(retrieve_files(all()), 0);
	EXPECT_EQ(finish(session), 0);
	EXPECT_TRUE(fake::logged(FERRY_WARN, "finished before it was complete"));
	map_ram();
	EXPECT_EQ(set_memory(ram_slots()), -ENOENT);
	std::vector<liveupdate_kvm_slot> slots(3);
	EXPECT_EQ(get_memory(slots), -ENOENT);
	EXPECT_EQ(fake::run(fake::file_of(vcpu[0])), -EBUSY);
	fake::close(std::exchange(gmem, -1));
}

// What nobody can use is freed all the same.
TEST_F(KvmIncoming, SaysWhenStateIsLost)
{
	make_used_machine();
	preserve_machine();
	fake::Handover handover = freeze_machine();
	boot_with(handover);
	session = retrieve_session("vm");
	fake::arm(1, true);
	finish(session);
	fake::disarm();
	EXPECT_TRUE(fake::logged(FERRY_ERR, "its state is lost")) << fake::log_text();
	EXPECT_TRUE(fake::logged(FERRY_ERR, "that nobody retrieved are lost"));
	end_process();
	fake::power_off();
}

// ---- damage ----

class KvmDamage : public KvmIncoming {
    protected:
	KvmDamage()
	{
		// A machine that is right: of one vCPU, two slots and a guest_memfd.
		carried.vm = host.new_vm;
		carried.vm.vcpus = 1;
		carried.vm.slots = 2;
		carried.vm.tsc_khz = 2'000'000;
		slot(carried.vm_state, {0, 0, 0, 32, ram_at, 0, 0, 0});
		CarriedVm::Vcpu vcpu;
		vcpu.record.id = 3;
		for (unsigned int kind = FERRY_KVM_REGS; kind < FERRY_KVM_MSRS; ++kind)
			put_section(vcpu.state, kind, Data(8, 1));
		carried.vcpus = {vcpu};
		CarriedVm::Gmem gmem;
		gmem.record = {gmem_pages * 4096, 3};
		gmem.runs = {{fake::first_folio + 64, 0, 3, 0, 0},
			     {fake::first_folio + 128, 100, 2, 0, FERRY_RUN_DESCENDING}};
		slot(gmem.slots, {1, flag_gmem, 0x1000, gmem_pages, gmem_at, 0, 0, 0});
		carried.gmems = {gmem};
		carried.save_memfd = [](ferry_writer *writer) {
			thing saved{};
			std::strncpy(saved.name, "ram", sizeof(saved.name) - 1);
			return ferry_put(writer, &thing_record, &saved);
		};
	}

	static void slot(Data &blob, const ferry_kvm_slot &slot)
	{
		put_section(blob, FERRY_KVM_SLOT, &slot, sizeof(slot));
	}

	void boot_carried()
	{
		end_process();
		unload_kvm();
		unload();
		boot_with(carried.carry());
		session = retrieve_session("vm");
		ASSERT_GE(session, 0) << fake::log_text();
	}

	// The error of the first file, of these, that cannot be retrieved.
	int retrieve_carried(const std::vector<unsigned long long> &tokens = {VM, VCPU, GMEM,
									      MEMFD})
	{
		boot_carried();
		return retrieve_files(tokens);
	}

	// Finishes the session: what is left of the pages is freed.
	void finish_carried()
	{
		EXPECT_EQ(finish(session), 0);
		end_process();
		EXPECT_EQ(fake::waiting(), 0u) << fake::log_text();
	}

	CarriedVm carried;
};

TEST_F(KvmDamage, IsNotThereAtFirst)
{
	ASSERT_EQ(retrieve_carried(), 0) << fake::log_text();
	map_ram();
	map_gmem();
	EXPECT_EQ(set_memory({at(0, ram_at)}), 0) << fake::log_text();
	EXPECT_EQ(the_gmem().pages,
		  (std::map<fake::Page, unsigned long long>{{0, fake::first_folio + 64},
							    {1, fake::first_folio + 65},
							    {2, fake::first_folio + 66},
							    {100, fake::first_folio + 129},
							    {101, fake::first_folio + 128}}));
	finish_carried();
}

TEST_F(KvmDamage, RefusesBadBlobsOfAVm)
{
	const Data good = carried.vm_state;
	ferry_kvm_slot same{0, 0, 0x100, 1, ram_at, 0, 0, 0};
	struct {
		const char *what;
		std::function<void(Data &)> damage;
		int error;
	} const cases[] = {
		{"cut off", [](Data &blob) { blob.pop_back(); }, -EBADMSG},
		{"a header", [](Data &blob) { blob.erase(blob.begin() + 4, blob.end()); },
		 -EBADMSG},
		{"an unknown kind", [](Data &blob) { put_section(blob, 74, Data(8)); }, -EBADMSG},
		{"one of a vCPU", [](Data &blob) { put_section(blob, 1, Data(8)); }, -EBADMSG},
		{"a slot twice", [&](Data &blob) { slot(blob, same); }, -EBADMSG},
		{"a slot that is short",
		 [](Data &blob) { put_section(blob, FERRY_KVM_SLOT, Data(40)); }, -EBADMSG},
		{"a slot that is long",
		 [](Data &blob) { put_section(blob, FERRY_KVM_SLOT, Data(56)); }, -EBADMSG},
		{"no pages", [](Data &blob) { slot(blob, {4, 0, 0x200, 0, 0, 0, 0, 0}); },
		 -EBADMSG},
		{"too many pages",
		 [](Data &blob) { slot(blob, {4, 0, 0x200, (1ull << 34) + 1, 0, 0, 0, 0}); },
		 -EBADMSG},
		{"more pages than there are numbers",
		 [](Data &blob) { slot(blob, {4, 0, 0x200, ~0ull, 0, 0, 0, 0}); }, -EBADMSG},
		{"a place beyond all memory",
		 [](Data &blob) { slot(blob, {4, 0, ~0ull, 1, 0, 0, 0, 0}); }, -EBADMSG},
		{"a page beyond all files",
		 [](Data &blob) { slot(blob, {4, 0, 0x200, 1, 0, ~0ull, 0, 0}); }, -EBADMSG},
		{"a file that it does not need",
		 [](Data &blob) { slot(blob, {4, 0, 0x200, 1, 0, 0, 1, 0}); }, -ERANGE},
		{"no file at all", [](Data &blob) { slot(blob, {4, 0, 0x200, 1, 0, 0, ~0u, 0}); },
		 -ERANGE},
	};
	for (auto &[what, damage, error] : cases) {
		SCOPED_TRACE(what);
		carried.vm_state = good;
		damage(carried.vm_state);
		EXPECT_EQ(retrieve_carried({VM}), error);
		EXPECT_EQ(retrieve_files({VCPU}), error);
		EXPECT_EQ(retrieve_files({GMEM}), error);
		EXPECT_EQ(retrieve_files({MEMFD}), 0);
		finish_carried();
	}
}

TEST_F(KvmDamage, RefusesABadBlobOfAVcpu)
{
	for (unsigned int kind : {FERRY_KVM_REGS, FERRY_KVM_PIC_MASTER, FERRY_KVM_SLOT}) {
		Data good = carried.vcpus[0].state;
		put_section(carried.vcpus[0].state, kind, Data(8));
		EXPECT_EQ(retrieve_carried({VM, VCPU}), -EBADMSG);
		EXPECT_EQ(retrieve_files({VCPU}), -EBADMSG) << "for good";
		EXPECT_EQ(retrieve_files({GMEM, MEMFD}), 0);
		map_ram();
		map_gmem();
		EXPECT_EQ(set_memory({at(0, ram_at)}), -EAGAIN) << "without a vCPU";
		finish_carried();
		carried.vcpus[0].state = good;
	}
	// Bad MSRs are found when they are loaded.
	put_section(carried.vcpus[0].state, FERRY_KVM_MSRS, Data(17));
	ASSERT_EQ(retrieve_carried(), 0);
	map_ram();
	map_gmem();
	EXPECT_EQ(set_memory({at(0, ram_at)}), -EBADMSG);
	EXPECT_TRUE(the_vm().parked);
	finish_carried();
}

// vCPUs are made ahead by a list of their numbers, which is only a hint.
TEST_F(KvmDamage, TakesAnyListOfVcpus)
{
	const Data good = carried.vm_state;
	const std::vector<unsigned int> lists[] = {{3}, {}, {4}, {3, 3}, {4, 3}, {3, 4}, {~0u}};
	for (auto &list : lists) {
		SCOPED_TRACE(testing::PrintToString(list));
		for (std::size_t extra : {0, 1, 3}) {
			Data section(list.size() * 4 + extra, 0xff);
			if (!list.empty())
				std::memcpy(section.data(), list.data(), list.size() * 4);
			carried.vm_state = good;
			put_section(carried.vm_state, FERRY_KVM_VCPUS, section);
			work_ahead = true;
			ASSERT_EQ(retrieve_carried(), 0) << fake::log_text();
			EXPECT_EQ(fake::counters()["VMs"], 1);
			map_ram();
			map_gmem();
			EXPECT_EQ(set_memory({at(0, ram_at)}), 0) << fake::log_text();
			finish_carried();
		}
	}
	put_section(carried.vm_state, FERRY_KVM_VCPUS, Data(4));
	for (bool ahead : {false, true}) {
		work_ahead = ahead;
		EXPECT_EQ(retrieve_carried({VM}), -EBADMSG) << "two lists";
		finish_carried();
	}
}

TEST_F(KvmDamage, IsRefusedAlsoAhead)
{
	work_ahead = true;
	const Data good = carried.vm_state;
	put_section(carried.vm_state, 74, Data(8));
	EXPECT_EQ(retrieve_carried({VM}), -EBADMSG);
	finish_carried();
	carried.vm_state = good;
	slot(carried.vm_state, {4, 0, 0x200, 0, 0, 0, 0, 0});
	EXPECT_EQ(retrieve_carried({VM}), -EBADMSG);
	EXPECT_EQ(fake::counters()["VMs"], 1) << "until it is finished";
	finish_carried();
	carried.vm_state = good;
	carried.vm_needs = {};
	EXPECT_EQ(retrieve_carried({VM}), -ERANGE);
	finish_carried();
}

TEST_F(KvmDamage, RefusesBadDirtyLogs)
{
	carried.vm_state.clear();
	slot(carried.vm_state, {0, flag_log, 0, 130, ram_at, 0, 0, 0});
	const Data good = carried.vm_state;
	struct {
		Data section;
		int error;
	} const cases[] = {
		{Data(8 + 24), 0},	    {Data{}, -EBADMSG},	     {Data(7), -EBADMSG},
		{Data(8), -EINVAL},	    {Data(8 + 16), -EINVAL}, {Data(8 + 32), -EINVAL},
		{Data(8 + 24, 1), -ENOENT}, {Data(8 + 23), -EINVAL},
	};
	for (auto &[section, error] : cases) {
		SCOPED_TRACE(section.size());
		carried.vm_state = good;
		put_section(carried.vm_state, FERRY_KVM_DIRTY, section);
		ASSERT_EQ(retrieve_carried(), 0) << fake::log_text();
		fake::map(ram_at, fake::file_of(memfd), 0, 130);
		map_gmem();
		EXPECT_EQ(set_memory({at(0, ram_at)}), error);
		finish_carried();
	}
}

TEST_F(KvmDamage, RefusesBadSlotsOfAGuestMemfd)
{
	const Data good = carried.gmems[0].slots;
	struct {
		const char *what;
		std::function<void(Data &)> damage;
	} const cases[] = {
		{"cut off", [](Data &blob) { blob.erase(blob.end() - 8, blob.end()); }},
		{"another kind", [](Data &blob) { put_section(blob, FERRY_KVM_DIRTY, Data(8)); }},
		{"one of a vCPU", [](Data &blob) { put_section(blob, 1, Data(8)); }},
		{"short", [](Data &blob) { put_section(blob, FERRY_KVM_SLOT, Data(8)); }},
		{"twice", [](Data &blob) { slot(blob, {1, flag_gmem, 0x3000, 1, 0, 0, 0, 0}); }},
		{"one of the VM",
		 [](Data &blob) { slot(blob, {0, flag_gmem, 0x3000, 1, 0, 0, 0, 0}); }},
		{"no pages", [](Data &blob) { slot(blob, {4, flag_gmem, 0x3000, 0, 0, 0, 0, 0}); }},
	};
	for (auto &[what, damage] : cases) {
		SCOPED_TRACE(what);
		carried.gmems[0].slots = good;
		damage(carried.gmems[0].slots);
		EXPECT_EQ(retrieve_carried({VM, VCPU, MEMFD, GMEM}), -EBADMSG);
		map_ram();
		EXPECT_EQ(set_memory({at(0, ram_at)}), -EAGAIN);
		// None of its slots is left, those that were right neither.
		std::vector<liveupdate_kvm_slot> slots(5);
		ASSERT_EQ(get_memory(slots), 0);
		EXPECT_EQ(slots.size(), 1u);
		finish_carried();
	}
	// What KVM refuses waits for another address, and for ever.
	for (const ferry_kvm_slot &bad :
	     {ferry_kvm_slot{4, flag_gmem, 0x3000, 129, 0, 0, 0, 0},
	      ferry_kvm_slot{4, flag_gmem, 0x3000, 1, 0, 128, 0, 0},
	      ferry_kvm_slot{4, 0, 0x3000, 1, 0, 0, 0, 0},
	      ferry_kvm_slot{4, flag_gmem, 0x1001, 1, 0, 0, 0, 0},
	      ferry_kvm_slot{32764, flag_gmem, 0x3000, 1, 0, 0, 0, 0},
	      ferry_kvm_slot{4, flag_gmem | 8, 0x3000, 1, 0, 0, 0, 0}}) {
		carried.gmems[0].slots = good;
		carried.vm.slots = 3;
		slot(carried.gmems[0].slots, bad);
		ASSERT_EQ(retrieve_carried(), 0);
		map_ram();
		map_gmem();
		EXPECT_EQ(set_memory({at(0, ram_at)}), -EAGAIN);
		EXPECT_NE(set_memory({at(bad.slot, gmem_at)}), 0);
		finish_carried();
	}
}

TEST_F(KvmDamage, RefusesRunsThatAGuestMemfdCannotTake)
{
	const auto good = carried.gmems[0].runs;
	struct {
		const char *what;
		ferry_run run;
		int error;
	} const cases[] = {
		{"behind the end", {fake::first_folio + 256, gmem_pages, 1, 0, 0}, -EBADMSG},
		{"over the end", {fake::first_folio + 256, gmem_pages - 1, 2, 0, 0}, -EBADMSG},
		{"far", {fake::first_folio + 256, (1ull << 40) - 1, 1, 0, 0}, -EBADMSG},
		{"a large folio", {fake::first_folio + 512, 16, 1, 2, 0}, -EBADMSG},
		{"flags", {fake::first_folio + 256, 16, 1, 0, 1}, -EBADMSG},
		{"a page twice", {fake::first_folio + 256, 101, 3, 0, 0}, -EEXIST},
	};
	for (auto &[what, run, error] : cases) {
		SCOPED_TRACE(what);
		carried.gmems[0].runs = good;
		carried.gmems[0].runs.push_back(run);
		EXPECT_EQ(retrieve_carried({VM, GMEM}), error) << fake::log_text();
		EXPECT_TRUE(fake::logged(FERRY_ERR, "a guest_memfd of 524288 bytes: the run of"));
		finish_carried();
	}
	// What was taken along with it is freed, whatever that is.
	carried.gmems[0].runs = {{fake::first_folio + 512, 16, 1, 2, 0},
				 {fake::first_folio + 256, 5, 3, 0, 0},
				 {fake::first_folio + 520, 20, 2, 2, 0}};
	for (unsigned int i = 0; i < 40; ++i)
		carried.gmems[0].runs.push_back({fake::first_folio + 300 + 2 * i, 30 + i, 1, 0, 0});
	EXPECT_EQ(retrieve_carried({VM, GMEM}), -EBADMSG) << fake::log_text();
	finish_carried();
}

TEST_F(KvmDamage, RefusesRecordsThatKvmDoes)
{
	for (ferry_kvm_gmem record :
	     {ferry_kvm_gmem{gmem_pages * 4096, 7}, ferry_kvm_gmem{gmem_pages * 4096 + 1, 3}}) {
		carried.gmems[0].record = record;
		EXPECT_EQ(retrieve_carried({VM, GMEM}), -EINVAL);
		finish_carried();
	}
	carried.gmems[0].record = {gmem_pages * 4096, 3};
	carried.vcpus.push_back(carried.vcpus[0]);
	EXPECT_EQ(retrieve_carried({VM, VCPU, VCPU + 1}), -EEXIST);
	finish_carried();
}

TEST_F(KvmDamage, RefusesWhatIsNotThere)
{
	carried.without = "pages";
	EXPECT_NE(retrieve_carried({VM, GMEM}), 0);
	EXPECT_EQ(finish(session), 0);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "the pages of a guest_memfd that nobody retrieved"));
	end_process();
	fake::power_off();

	carried.without = "slots";
	ASSERT_EQ(retrieve_carried(), 0);
	map_ram();
	map_gmem();
	EXPECT_EQ(set_memory({at(0, ram_at)}), -EAGAIN);
	EXPECT_TRUE(fake::logged(FERRY_INFO, "1 of its 2 memory slots are known"));
	EXPECT_EQ(finish(session), 0);
	end_process();
	fake::power_off();

	carried.without = "state";
	ASSERT_EQ(retrieve_carried({VM}), 0);
	EXPECT_EQ(retrieve_files({VCPU}), -EBADMSG);
	EXPECT_EQ(set_memory({}), -EAGAIN);
	EXPECT_EQ(finish(session), 0);
	end_process();
	fake::power_off();
}

TEST_F(KvmDamage, RefusesNeedsOfTheWrongKind)
{
	for (const std::vector<unsigned long long> &needs :
	     {std::vector<unsigned long long>{}, {MEMFD}}) {
		carried.vcpus[0].needs = carried.gmems[0].needs = needs;
		int error = needs.empty() ? -ERANGE : -EBADMSG;
		EXPECT_EQ(retrieve_carried({VM, VCPU}), error);
		EXPECT_EQ(retrieve_files({GMEM}), error);
		finish_carried();
	}
	// A vCPU that needs a vCPU.
	carried.vcpus.push_back(carried.vcpus[0]);
	carried.vcpus[0].needs = {VM};
	carried.vcpus[1].needs = {VCPU};
	EXPECT_EQ(retrieve_carried({VM, VCPU, VCPU + 1}), -EBADMSG);
	finish_carried();
}

TEST_F(KvmDamage, TakesNoMoreThanTheRecordSays)
{
	// More slots, or more vCPUs, than there were.
	carried.vm.slots = 1;
	ASSERT_EQ(retrieve_carried(), 0);
	map_ram();
	map_gmem();
	EXPECT_EQ(set_memory({at(0, ram_at)}), -EAGAIN);
	finish_carried();
	carried.vm.slots = 2;
	carried.vm.vcpus = 0;
	ASSERT_EQ(retrieve_carried(), 0);
	map_ram();
	map_gmem();
	EXPECT_EQ(set_memory({at(0, ram_at)}), -EAGAIN);
	EXPECT_TRUE(fake::logged(FERRY_INFO, "1 of its 0 vCPUs"));
	finish_carried();
}

// One file of the session needs another one that is damaged, and was left out:
// luo then has no order in which to finish them.
TEST_F(KvmDamage, IsFinishedInAnyOrder)
{
	// Files are finished from the last one on; so the VM has to be behind.
	CarriedVm::Vcpu more = carried.vcpus[0];
	more.record.id = 7;
	more.needs = {VM, 0x999};
	carried.vcpus.push_back(more);
	EXPECT_EQ(retrieve_carried(), 0) << fake::log_text();
	EXPECT_EQ(retrieve_files({VCPU + 1}), -ENOENT);
	finish_carried();
	// The other way around.
	carried.vm_last = true;
	EXPECT_EQ(retrieve_carried(), 0) << fake::log_text();
	finish_carried();
}

TEST_F(KvmDamage, ClocksGoOnWhateverTheRecordSays)
{
	carried.vm.tsc = ~0ull;
	carried.vm.clock = 77;
	ASSERT_EQ(retrieve_carried(), 0);
	map_ram();
	map_gmem();
	ASSERT_EQ(set_memory({at(0, ram_at)}), 0) << fake::log_text();
	EXPECT_EQ(the_vm().clock, 77u);
	finish_carried();
}

} // namespace
