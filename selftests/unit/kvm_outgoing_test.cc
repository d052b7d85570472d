// SPDX-License-Identifier: GPL-2.0
// kvm/group.cc, kvm/gmem.cc: a virtual machine in the kernel that preserves it.
#include "kvm_testing.hh"

namespace {

class KvmOutgoing : public KvmTest {
    protected:
	void TearDown() override
	{
		close_machine();
		KvmTest::TearDown();
	}

	// A freeze, which is called off.
	static int prepare()
	{
		int err = luo_prepare(true);
		if (!err)
			luo_abort();
		return err;
	}

	void expect_running() const
	{
		for (int fd : vcpu)
			EXPECT_EQ(fake::run(fake::file_of(fd)), 0);
		EXPECT_NE(the_gmem().state, LINUX_GMEM_FROZEN);
	}

	static std::string name_of(const std::vector<unsigned long long> &tokens)
	{
		std::string name;
		for (unsigned long long token : tokens)
			name += " " + std::to_string(token);
		return name;
	}
};

// ---- preserve ----

TEST_F(KvmOutgoing, FreezesAndGoesOn)
{
	make_machine();
	preserve_machine();
	EXPECT_EQ(the_gmem().state, LINUX_GMEM_PRESERVED);
	ASSERT_EQ(luo_prepare(true), 0) << fake::log_text();
	EXPECT_TRUE(the_vm().frozen && the_vm().stopped);
	EXPECT_EQ(the_gmem().state, LINUX_GMEM_FROZEN);
	EXPECT_EQ(fake::run(fake::file_of(vcpu[0])), -EBUSY);
	luo_abort();
	expect_running();
	EXPECT_EQ(host.slept, 0u);
	EXPECT_EQ(writes(), "") << "nothing is written in this kernel";
	// And again.
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	expect_running();
}

// What people see: pages of a guest_memfd, and the states, once they are read.
TEST_F(KvmOutgoing, TellsWhatItPreserves)
{
	make_machine();
	preserve_machine();
	auto file = [](unsigned long long token) {
		std::vector<liveupdate_ferry_file> all(8);
		liveupdate_ferry_list_files arg{};
		arg.size = sizeof(arg);
		arg.entry_size = sizeof(all[0]);
		arg.nr = static_cast<unsigned int>(all.size());
		arg.entries = reinterpret_cast<unsigned long long>(all.data());
		std::strcpy(reinterpret_cast<char *>(arg.name), "vm");
		fake::user_memory(all.data(), all.size() * sizeof(all[0]));
		EXPECT_EQ(device_call(LIVEUPDATE_FERRY_LIST_FILES, arg), 0);
		fake::user_memory_gone(all.data());
		for (auto &each : all) {
			if (each.token == token)
				return each;
		}
		ADD_FAILURE() << "no file " << token;
		return liveupdate_ferry_file{};
	};
	const auto pages = the_gmem().pages.size();
	EXPECT_EQ(file(GMEM).bytes, pages * 4096);
	EXPECT_GT(file(GMEM).runs, 0u);
	EXPECT_EQ(file(VM).metadata, 0u);
	ASSERT_EQ(luo_prepare(true), 0) << fake::log_text();
	EXPECT_EQ(file(VM).bytes, 0u);
	EXPECT_GT(file(VM).metadata, 0u);
	EXPECT_GT(file(VCPU).metadata, 0u);
	luo_abort();
}

TEST_F(KvmOutgoing, TakesFilesInAnyOrder)
{
	std::vector<unsigned long long> tokens = all();
	std::sort(tokens.begin(), tokens.end());
	unsigned int orders = 0;
	do {
		SCOPED_TRACE(name_of(tokens));
		make_machine();
		preserve_machine(tokens);
		EXPECT_EQ(prepare(), 0) << fake::log_text();
		expect_running();
		close_machine();
		++orders;
	} while (std::next_permutation(tokens.begin(), tokens.end()) && !HasFailure());
	EXPECT_EQ(orders, 120u);
}

TEST_F(KvmOutgoing, TakesEachFileOnce)
{
	make_machine();
	preserve_machine();
	for (unsigned long long token : {VM, VCPU, GMEM})
		EXPECT_EQ(preserve(session, fd_of(token), 99), -EBUSY) << token;
	int other = create("other");
	EXPECT_EQ(preserve(other, vm, 1), -EBUSY);
	fake::close(other);
}

TEST_F(KvmOutgoing, LetsGoWhenTheSessionIsClosed)
{
	make_machine();
	preserve_machine();
	EXPECT_FALSE(the_gmem().punch(0));
	fake::close(std::exchange(session, -1));
	EXPECT_EQ(the_gmem().state, LINUX_GMEM_THAWED);
	EXPECT_TRUE(the_gmem().punch(0));
	the_gmem().add(0);
	preserve_machine();
	EXPECT_EQ(prepare(), 0);
}

TEST_F(KvmOutgoing, TakesSeveralMachines)
{
	make_machine();
	preserve_machine();
	int second = fake::install(fake::new_vm());
	int its_vcpu = fake::install(fake::new_vcpu(fake::file_of(second), 0));
	EXPECT_EQ(preserve(session, second, 100), 0);
	EXPECT_EQ(preserve(session, its_vcpu, 101), 0);
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	fake::vcpu_of(fake::file_of(its_vcpu)).unfinished_exit = true;
	EXPECT_EQ(prepare(), -EBUSY);
	expect_running();
	EXPECT_EQ(fake::run(fake::file_of(its_vcpu)), 0);
	fake::close(second);
	fake::close(its_vcpu);
}

TEST_F(KvmOutgoing, TakesAMachineWithoutMemoryOrVcpus)
{
	vm = fake::install(fake::new_vm());
	session = create("vm");
	EXPECT_EQ(preserve(session, vm, VM), 0);
	EXPECT_EQ(prepare(), 0) << fake::log_text();
}

TEST_F(KvmOutgoing, FailsWithoutATrace)
{
	for (auto &tokens : {all(), {MEMFD, GMEM, VCPU + 1, VCPU, VM}}) {
		for_each_failure([&] {
			make_machine();
			host.not_backed = 0;
			session = create("vm");
			int err = session < 0 ? session : preserve_files(tokens);
			if (session >= 0 && !err) {
				// A fault and a new page, since then.
				the_gmem().add(50, 3);
				err = prepare();
			}
			expect_running();
			close_machine();
			// Where a slot was known already, the freeze does without.
			return !err && host.not_backed ? -EFAULT : err;
		});
	}
}

// ---- what cannot be carried ----

TEST_F(KvmOutgoing, RefusesAVmThatItCannotCarry)
{
	make_machine();
	session = create("vm");
	the_vm().refusal = "it is of a protected type";
	EXPECT_EQ(preserve(session, vm, VM), -EOPNOTSUPP);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "cannot be carried: it is of a protected type"));
	the_vm().refusal = nullptr;
	EXPECT_EQ(preserve_files(all()), 0);
	// What came up meanwhile calls the kexec off.
	the_vm().refusal = "it has memory attributes";
	EXPECT_EQ(prepare(), -EOPNOTSUPP);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "it has memory attributes"));
	expect_running();
	the_vm().refusal = nullptr;
	EXPECT_EQ(prepare(), 0);
}

TEST_F(KvmOutgoing, RefusesPrivatePages)
{
	make_machine();
	session = create("vm");
	for (unsigned long long flags : {0, 1, 2}) {
		int fd = fake::install(fake::new_gmem(fake::file_of(vm), 4096, flags));
		EXPECT_EQ(preserve(session, fd, 99), -EOPNOTSUPP);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "INIT_SHARED"));
		fake::close(fd);
	}
}

TEST_F(KvmOutgoing, RefusesMemoryThatIsNoSharedMappingOfOneFile)
{
	constexpr unsigned long long at = 0x50000000;
	struct {
		const char *what;
		std::function<void()> map;
		int error;
		const char *message;
	} const cases[] = {
		{"nothing", [] {}, -EFAULT, "not to be found (-14)"},
		{"private", [&] { fake::map(at, fake::file_of(memfd), 0, 4, false); }, -EOPNOTSUPP,
		 "not a shared mapping of one file"},
		{"too short", [&] { fake::map(at, fake::file_of(memfd), 0, 3); }, -EFAULT,
		 "not to be found"},
		{"late", [&] { fake::map(at + 4096, fake::file_of(memfd), 0, 4); }, -EFAULT,
		 "not to be found"},
		{"in two pieces",
		 [&] {
			 fake::map(at, fake::file_of(memfd), 0, 2);
			 fake::map(at + 2 * 4096, fake::file_of(memfd), 7, 2);
		 },
		 -EOPNOTSUPP, "not a shared mapping of one file"},
		{"of two files",
		 [&] {
			 fake::map(at, fake::file_of(memfd), 0, 2);
			 fake::map(at + 2 * 4096, fake::file_of(gmem), 2, 2);
		 },
		 -EOPNOTSUPP, "not a shared mapping of one file"},
		{"with a hole",
		 [&] {
			 fake::map(at, fake::file_of(memfd), 0, 2);
			 fake::map(at + 3 * 4096, fake::file_of(memfd), 3, 2);
		 },
		 -EFAULT, "not to be found"},
	};
	for (auto &[what, map, error, message] : cases) {
		SCOPED_TRACE(what);
		make_machine();
		fake::add_slot(fake::file_of(vm), {7, 0, 0x9000, 4, at, 0, 0, 0});
		map();
		fake::clear_log();
		session = create("vm");
		EXPECT_EQ(preserve(session, vm, VM), error);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "slot 0x7 of a VM, 4 pages at 0x50000000"));
		EXPECT_TRUE(fake::logged(FERRY_ERR, message)) << fake::log_text();
		close_machine();
	}
}

TEST_F(KvmOutgoing, RefusesASlotThatReachesOverTheEndOfAllAddresses)
{
	make_machine();
	fake::add_slot(fake::file_of(vm), {7, 0, 0x9000, 4, ~0ull << 12, 0, 0, 0});
	session = create("vm");
	EXPECT_EQ(preserve(session, vm, VM), -EFAULT);
}

TEST_F(KvmOutgoing, TakesAMappingInPiecesThatFollowEachOther)
{
	make_machine();
	constexpr unsigned long long at = 0x50000000;
	fake::map(at, fake::file_of(memfd), 5, 2);
	fake::map(at + 2 * 4096, fake::file_of(memfd), 7, 2);
	fake::add_slot(fake::file_of(vm), {7, 0, 0x9000, 3, at + 4096, 0, 0, 0});
	preserve_machine();
	EXPECT_EQ(prepare(), 0) << fake::log_text();
}

TEST_F(KvmOutgoing, TakesAsManyFilesBehindSlotsAsLuoDoes)
{
	vm = fake::install(fake::new_vm());
	std::vector<int> fds;
	auto add = [&](unsigned int nr) {
		fds.push_back(open("ram" + std::to_string(nr)));
		unsigned long long hva = ram_at + nr * 8192ull;
		fake::map(hva, fake::file_of(fds.back()), 0, 1);
		fake::add_slot(fake::file_of(vm), {nr, 0, nr, 1, hva, 0, 0, 0});
	};
	for (unsigned int nr = 0; nr < 1024; ++nr)
		add(nr);
	session = create("vm");
	ASSERT_EQ(preserve(session, vm, VM), 0) << fake::log_text();
	fake::close(session);
	add(1024);
	session = create("vm");
	EXPECT_EQ(preserve(session, vm, VM), -E2BIG);
	close_machine();
	for (int fd : fds)
		fake::close(fd);
}

TEST_F(KvmOutgoing, WaitsForTheMmapLockForAWhile)
{
	make_machine();
	fake::mmap_lock_taken = 100;
	preserve_machine();
	EXPECT_EQ(host.slept, 100u);
	host.slept = 0;
	fake::mmap_lock_taken = ~0u;
	// What is known already needs no lock; two slots wait as long as one.
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	EXPECT_EQ(host.slept, 5000u);
	fake::close(session);
	session = create("vm");
	EXPECT_EQ(preserve(session, vm, VM), -EAGAIN);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "slot 0 of a VM"));
}

// ---- stopping it ----

TEST_F(KvmOutgoing, WaitsForAnExitToBeFinished)
{
	make_machine();
	preserve_machine();
	the_vcpu(1).unfinished_exit = true;
	host.after_sleep = [&] {
		if (host.slept == 20)
			EXPECT_EQ(fake::run(fake::file_of(vcpu[1])), -EINTR);
	};
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	EXPECT_EQ(host.slept, 20u);
	expect_running();
}

TEST_F(KvmOutgoing, GivesUpWhenAnExitIsNeverFinished)
{
	make_machine();
	preserve_machine();
	the_vcpu(1).unfinished_exit = true;
	EXPECT_EQ(prepare(), -EBUSY);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "vCPU 5 has an exit that its VMM has not finished"));
	EXPECT_EQ(host.slept, 5000u);
	expect_running();
	EXPECT_EQ(prepare(), 0);
}

TEST_F(KvmOutgoing, GivesUpWhenAVcpuStaysInAnIoctl)
{
	make_machine();
	preserve_machine();
	the_vcpu().in_ioctl = true;
	EXPECT_EQ(prepare(), -EBUSY);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "vCPU 0"));
	expect_running();
	the_vcpu().in_ioctl = false;
}

TEST_F(KvmOutgoing, WaitsForAnIoctlOfTheVm)
{
	make_machine();
	preserve_machine();
	the_vm().in_ioctl = true;
	host.after_sleep = [&] { the_vm().in_ioctl = host.slept < 7; };
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	EXPECT_EQ(host.slept, 7u);
	expect_running();
}

TEST_F(KvmOutgoing, GivesUpWhenAnIoctlOfTheVmDoesNotEnd)
{
	make_machine();
	preserve_machine();
	the_vm().in_ioctl = true;
	EXPECT_EQ(prepare(), -EBUSY);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "an ioctl of it does not come to an end"));
	expect_running();
	the_vm().in_ioctl = false;
}

// Between the look at the vCPUs and the freeze one more may have begun.
TEST_F(KvmOutgoing, LooksAgainAfterTheFreeze)
{
	make_machine();
	preserve_machine();
	unsigned int freezes = 0;
	the_vm().before_freeze = [&](fake::Vm &) { the_vcpu().unfinished_exit = ++freezes < 3; };
	host.after_sleep = [&] {
		EXPECT_FALSE(the_vm().frozen) << "the exit cannot be finished";
		the_vcpu().unfinished_exit = false;
	};
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	EXPECT_EQ(freezes, 3u);
	expect_running();
	the_vm().before_freeze = [&](fake::Vm &) { the_vcpu().unfinished_exit = true; };
	EXPECT_EQ(prepare(), -EBUSY);
	the_vm().before_freeze = nullptr;
	expect_running();
}

// An interrupt goes from an irqchip to a LAPIC, so these are read later.
TEST_F(KvmOutgoing, ReadsIrqchipsBeforeVcpus)
{
	std::vector<unsigned long long> tokens = all();
	std::sort(tokens.begin(), tokens.end());
	do {
		make_machine();
		the_vm().states[FERRY_KVM_IOAPIC] = fake::Data(520, 6);
		preserve_machine(tokens);
		host.reads.clear();
		EXPECT_EQ(prepare(), 0) << fake::log_text();
		// Whatever was frozen again in another order was read again as a whole.
		std::size_t last = host.reads.size();
		while (last && host.reads[last - 1] != FERRY_KVM_IOAPIC)
			--last;
		ASSERT_GT(last, 0u) << name_of(tokens);
		EXPECT_EQ(std::count(host.reads.begin() + static_cast<long>(last), host.reads.end(),
				     FERRY_KVM_LAPIC),
			  2);
		close_machine();
	} while (std::next_permutation(tokens.begin(), tokens.end()) && !HasFailure());
}

TEST_F(KvmOutgoing, RefusesDirtyLogsThatNoReaderWouldTake)
{
	make_machine();
	// 2 TiB of memory have a log of 64 MiB.
	fake::add_slot(fake::file_of(vm), {7, 0, 1 << 20, 1 << 29, gmem_at, 0, 0, 0},
		       fake::file_of(gmem));
	the_vm().slots.at(7).is.flags = flag_log | flag_gmem;
	session = create("vm");
	EXPECT_EQ(preserve(session, vm, VM), -E2BIG);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "the dirty logs of a VM")) << fake::log_text();
	the_vm().slots.at(7).is.flags = flag_gmem;
	EXPECT_EQ(preserve_files(all()), 0) << fake::log_text();
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	the_vm().slots.at(7).is.flags = flag_log | flag_gmem;
	EXPECT_EQ(prepare(), -E2BIG) << "logged since then";
	expect_running();
}

// ---- what is missing ----

TEST_F(KvmOutgoing, SaysWhatIsMissing)
{
	struct {
		std::vector<unsigned long long> tokens;
		const char *message;
	} const cases[] = {
		{{VCPU, VCPU + 1, GMEM, MEMFD}, "and its VM is not"},
		{{VCPU}, "vCPU 0 is preserved, and its VM is not"},
		{{GMEM}, "a guest_memfd is preserved, and its VM is not"},
		{{VM, VCPU, GMEM, MEMFD}, "a VM is preserved, and its vCPU 5 is not"},
		{{VM, VCPU + 1, GMEM, MEMFD}, "a VM is preserved, and its vCPU 0 is not"},
		{{VM, VCPU, VCPU + 1, MEMFD}, "and the guest_memfd of its memory slot 0x1 is not"},
		{{VM, VCPU, VCPU + 1, GMEM}, "needs a file that is not in the session"},
	};
	for (auto &[tokens, message] : cases) {
		SCOPED_TRACE(name_of(tokens));
		make_machine();
		preserve_machine(tokens);
		fake::clear_log();
		EXPECT_EQ(prepare(), -ENOENT);
		EXPECT_TRUE(fake::logged(FERRY_ERR, message)) << fake::log_text();
		expect_running();
		// When it is there, all is well.
		for (unsigned long long token : all()) {
			if (std::find(tokens.begin(), tokens.end(), token) == tokens.end())
				EXPECT_EQ(preserve(session, fd_of(token), token), 0);
		}
		EXPECT_EQ(prepare(), 0) << fake::log_text();
		expect_running();
		close_machine();
	}
}

TEST_F(KvmOutgoing, FindsWhatCameSinceThePreservation)
{
	make_machine();
	preserve_machine();
	// A vCPU.
	int late = fake::install(fake::new_vcpu(fake::file_of(vm), 9));
	EXPECT_EQ(prepare(), -ENOENT);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "its vCPU 9 is not"));
	EXPECT_EQ(preserve(session, late, 50), 0);
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	// A slot on another memfd.
	int more = open("more");
	fake::map(0x60000000, fake::file_of(more), 0, 8);
	fake::add_slot(fake::file_of(vm), {9, 0, 0x9000, 8, 0x60000000, 0, 0, 0});
	EXPECT_EQ(prepare(), -ENOENT);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "needs a file that is not in the session"));
	EXPECT_EQ(preserve(session, more, 51), 0);
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	// A slot that went.
	the_vm().slots.erase(0);
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	fake::close(late);
	fake::close(more);
}

// The guest_memfd that a VM has mapped as if it were a memfd.
TEST_F(KvmOutgoing, SaysThatFilesNeedEachOther)
{
	make_machine();
	fake::add_slot(fake::file_of(vm), {9, 0, 0x9000, 8, gmem_at, 0, 0, 0});
	preserve_machine();
	EXPECT_EQ(prepare(), -ELOOP);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "need each other"));
	expect_running();
}

TEST_F(KvmOutgoing, IsCarriedAlsoWhenItsVmmIsGone)
{
	make_machine();
	preserve_machine();
	the_vm().orphaned = true;
	EXPECT_EQ(prepare(), 0) << fake::log_text();
	fake::add_slot(fake::file_of(vm), {9, 0, 0x9000, 8, ram_at, 0, 0, 0});
	EXPECT_EQ(prepare(), -ESRCH);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "slot 0x9"));
}

// ---- a guest_memfd ----

TEST_F(KvmOutgoing, HoldsTheGuestMemfdStill)
{
	make_machine();
	preserve_machine();
	EXPECT_TRUE(the_gmem().add(10)) << "while the guest runs";
	EXPECT_FALSE(the_gmem().punch(10));
	ASSERT_EQ(luo_prepare(true), 0) << fake::log_text();
	EXPECT_FALSE(the_gmem().add(11));
	EXPECT_TRUE(fake::preserved(the_gmem().pages.at(10))) << "it was caught up with";
	luo_abort();
	EXPECT_TRUE(the_gmem().add(11));
	EXPECT_FALSE(the_gmem().punch(10));
	ASSERT_EQ(luo_prepare(true), 0);
	for (auto &[page, pfn] : the_gmem().pages)
		EXPECT_TRUE(fake::preserved(pfn)) << page;
	luo_abort();
}

TEST_F(KvmOutgoing, CatchesUpWithNewPagesAnywhere)
{
	make_machine();
	preserve_machine({VM, VCPU, VCPU + 1, MEMFD});
	the_gmem().punch(0, gmem_pages);
	for (unsigned int page = 1; page < gmem_pages; page += 2)
		the_gmem().add(page);
	EXPECT_EQ(preserve(session, gmem, GMEM), 0);
	for (unsigned int page : {0, 2, 64, 126}) {
		the_gmem().add(page);
		EXPECT_EQ(prepare(), 0) << fake::log_text();
	}
	for (unsigned int page = 30; page < 60; page += 2)
		the_gmem().add(page);
	ASSERT_EQ(luo_prepare(true), 0);
	for (auto &[page, pfn] : the_gmem().pages)
		EXPECT_TRUE(fake::preserved(pfn)) << page;
	luo_abort();
}

TEST_F(KvmOutgoing, TakesAGuestMemfdWithManyRuns)
{
	make_machine();
	the_gmem().punch(0, gmem_pages);
	// Memory that goes down while the file goes up: no page follows another.
	for (unsigned int page = 0; page < gmem_pages; ++page)
		the_gmem().add(page, 1, fake::first_folio + 2000 - 3 * page);
	preserve_machine();
	EXPECT_EQ(prepare(), 0) << fake::log_text();
}

TEST_F(KvmOutgoing, FreezesAGuestMemfdAfterAFreezeThatFailed)
{
	for (unsigned long nth = 1;; ++nth) {
		make_machine();
		preserve_machine();
		the_gmem().add(40, 3);
		fake::arm(nth);
		int err = prepare();
		bool failed = fake::disarm();
		EXPECT_TRUE(failed || !err) << nth;
		EXPECT_EQ(prepare(), 0) << nth << fake::log_text();
		expect_running();
		close_machine();
		if (!failed || HasFailure())
			break;
	}
}

// ---- dumps ----

// A dump before the freeze has what there is, and disturbs nobody.
TEST_F(KvmOutgoing, IsDumpedAtAnyTime)
{
	make_machine();
	preserve_machine();
	seq_file dump;
	kho_show_dump(&dump, false);
	for (const char *text : {"kvm-vm-v1", "kvm-vcpu-v1", "guest-memfd-v1"})
		EXPECT_NE(dump.text.find(text), std::string::npos) << dump.text;
	EXPECT_EQ(dump.text.find("\"slots\""), std::string::npos);
	EXPECT_FALSE(the_vm().stopped);
	EXPECT_FALSE(fake::logged(FERRY_ERR, "")) << fake::log_text();
	EXPECT_EQ(prepare(), 0);
	kho_show_dump(&dump, false);
	EXPECT_FALSE(fake::logged(FERRY_ERR, "")) << fake::log_text();
}

// ---- the module ----

class KvmModule : public Luo {};

TEST_F(KvmModule, FailsToLoadWithoutATrace)
{
	for_each_failure([] {
		int err = kvm_module_init();
		if (!err)
			kvm_module_exit();
		return err;
	});
}

TEST_F(KvmModule, CannotBeLoadedTwice)
{
	ASSERT_EQ(kvm_module_init(), 0);
	EXPECT_EQ(kvm_device_ioctl(0, 0), -ENOTTY);
	EXPECT_EQ(kvm_device_ioctl(LIVEUPDATE_KVM_GET_MEMORY, 0), -EFAULT);
	EXPECT_EQ(kvm_device_ioctl(LIVEUPDATE_KVM_SET_MEMORY, 0), -EFAULT);
	kvm_module_exit();
}

} // namespace
