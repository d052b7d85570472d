// SPDX-License-Identifier: GPL-2.0
// What tests of luo_kvm.ko share: kho.ko, luo.ko and luo_kvm.ko, loaded, and a
// virtual machine. A memfd is a file of luo_testing.hh's kind MEMORY.
#pragma once

#include "fake/kvm.hh"
#include "fake/kvm_carry.hh"
#include "luo_testing.hh"

#include <uapi/linux/liveupdate_kvm.h>

using fake::host;

inline constexpr unsigned long long ram_at = 0x10000000, gmem_at = 0x20000000;
inline constexpr unsigned int flag_log = 1, flag_gmem = 4;
inline constexpr fake::Page ram_pages = 64, gmem_pages = 128;

// The trace of writes as text, those that begin with one of these words left out.
inline std::string writes(const std::set<std::string> &without = {})
{
	std::string text;
	for (const std::string &line : host.trace) {
		if (!without.count(line.substr(0, line.find(' '))))
			text += (text.empty() ? "" : ", ") + line;
	}
	return text;
}

class KvmTest : public Luo {
    protected:
	enum : unsigned long long {
		VM = fake::CarriedVm::VM,
		VCPU = fake::CarriedVm::VCPU,
		GMEM = fake::CarriedVm::GMEM,
		MEMFD = fake::CarriedVm::MEMFD,
	};

	void SetUp() override
	{
		Luo::SetUp();
		load_kvm();
	}

	void TearDown() override
	{
		fake::unmap_all();
		unload_kvm();
		Luo::TearDown();
	}

	void load_kvm()
	{
		ASSERT_EQ(kvm_module_init(), 0);
		kvm_loaded_ = true;
	}

	void unload_kvm()
	{
		if (std::exchange(kvm_loaded_, false))
			kvm_module_exit();
	}

	// A machine with two vCPUs, a memfd behind the slots 0 and 2 (with a dirty
	// log), and a guest_memfd behind slot 1.
	void make_machine()
	{
		vm = fake::install(fake::new_vm());
		for (unsigned int id : {0, 5})
			vcpu.push_back(fake::install(fake::new_vcpu(fake::file_of(vm), id)));
		memfd = open("ram");
		gmem = fake::install(fake::new_gmem(fake::file_of(vm), gmem_pages * 4096));
		fake::map(ram_at, fake::file_of(memfd), 0, ram_pages);
		fake::map(gmem_at, fake::file_of(gmem), 0, gmem_pages);
		fake::add_slot(fake::file_of(vm), slot_of(0));
		fake::add_slot(fake::file_of(vm), slot_of(1), fake::file_of(gmem));
		fake::add_slot(fake::file_of(vm), slot_of(2)).dirty = {0x8000000f};
		the_gmem().add(0, 3);
		the_gmem().add(100, 2);
	}

	static ferry_kvm_slot slot_of(unsigned int number)
	{
		switch (number) {
		case 0:
			return {0, 0, 0, 32, ram_at, 0, 0, 0};
		case 1:
			return {1, flag_gmem, 0x1000, gmem_pages, gmem_at, 0, 0, 0};
		default:
			return {2, flag_log, 0x100, 32, ram_at + 32 * 4096, 32, 0, 0};
		}
	}

	fake::Vm &the_vm() const
	{
		return fake::vm_of(fake::file_of(vm));
	}
	fake::Vcpu &the_vcpu(std::size_t nr = 0) const
	{
		return fake::vcpu_of(fake::file_of(vcpu.at(nr)));
	}
	fake::Gmem &the_gmem() const
	{
		return fake::gmem_of(fake::file_of(gmem));
	}

	// The fd of each token of the machine.
	int fd_of(unsigned long long token) const
	{
		switch (token) {
		case VM:
			return vm;
		case GMEM:
			return gmem;
		case MEMFD:
			return memfd;
		default:
			return vcpu.at(token - VCPU);
		}
	}

	static std::vector<unsigned long long> all()
	{
		return {VM, VCPU, VCPU + 1, GMEM, MEMFD};
	}

	// Preserves these files in this order; up to the first error.
	int preserve_files(const std::vector<unsigned long long> &tokens)
	{
		for (unsigned long long token : tokens) {
			if (int err = preserve(session, fd_of(token), token))
				return err;
		}
		return 0;
	}

	// A new session with all of the machine.
	void preserve_machine(const std::vector<unsigned long long> &tokens = all())
	{
		session = create("vm");
		ASSERT_GE(session, 0);
		ASSERT_EQ(preserve_files(tokens), 0) << fake::log_text();
	}

	void close_machine()
	{
		for (int *fd : {&session, &vm, &memfd, &gmem}) {
			if (*fd >= 0)
				fake::close(std::exchange(*fd, -1));
		}
		for (int fd : vcpu)
			fake::close(fd);
		vcpu.clear();
		fake::unmap_all();
	}

	// Closes all that is open, as the end of its process would.
	void end_process()
	{
		for (int fd = 3; fd < 64; ++fd) {
			if (fake::file_of(fd))
				fake::close(fd);
		}
		session = vm = memfd = gmem = -1;
		vcpu.clear();
		fake::unmap_all();
	}

	// Up to the jump; the machine of this kernel is gone then.
	fake::Handover freeze_machine()
	{
		EXPECT_EQ(luo_prepare(true), 0) << fake::log_text();
		fake::Handover handover = fake::handover();
		luo_abort();
		close_machine();
		return handover;
	}

	void boot_with(const fake::Handover &handover)
	{
		unload_kvm();
		unload();
		fake::boot(handover);
		host.trace.clear();
		fake::clear_log();
		load();
		load_kvm();
		if (work_ahead)
			background();
	}

	static void background()
	{
		fake::process = fake::nobody;
		luo_background();
		fake::process = 1;
	}

	// The next kernel, in which the session is retrieved, and nothing else.
	void jump(const std::function<void(fake::Handover &)> &damage = {})
	{
		fake::Handover handover = freeze_machine();
		if (damage)
			damage(handover);
		boot_with(handover);
		session = retrieve_session("vm");
		ASSERT_GE(session, 0);
	}

	// Retrieves files of the machine; up to the first error.
	int retrieve_files(const std::vector<unsigned long long> &tokens)
	{
		for (unsigned long long token : tokens) {
			int fd = retrieve(session, token);
			if (fd < 0)
				return fd;
			if (token == VM)
				vm = fd;
			else if (token == GMEM)
				gmem = fd;
			else if (token == MEMFD)
				memfd = fd;
			else
				vcpu.push_back(fd);
		}
		return 0;
	}

	void map_ram(unsigned long long at = ram_at) const
	{
		fake::map(at, fake::file_of(memfd), 0, ram_pages);
	}
	void map_gmem(unsigned long long at = gmem_at) const
	{
		fake::map(at, fake::file_of(gmem), 0, gmem_pages);
	}

	// A call of the device, with the slots in user memory.
	static int memory_call(unsigned int request, liveupdate_kvm_memory &arg,
			       std::vector<liveupdate_kvm_slot> &slots)
	{
		if (!slots.empty()) {
			arg.slots = reinterpret_cast<unsigned long long>(slots.data());
			fake::user_memory(slots.data(), slots.size() * sizeof(slots[0]));
		}
		int result = call(arg, [request](void *user) {
			return kvm_device_ioctl(request, reinterpret_cast<unsigned long>(user));
		});
		if (!slots.empty())
			fake::user_memory_gone(slots.data());
		return result;
	}

	int set_memory(std::vector<liveupdate_kvm_slot> slots)
	{
		liveupdate_kvm_memory arg{};
		arg.size = sizeof(arg);
		arg.vm = vm;
		arg.nr_slots = static_cast<unsigned int>(slots.size());
		return memory_call(LIVEUPDATE_KVM_SET_MEMORY, arg, slots);
	}

	int get_memory(std::vector<liveupdate_kvm_slot> &slots)
	{
		liveupdate_kvm_memory arg{};
		arg.size = sizeof(arg);
		arg.vm = vm;
		arg.nr_slots = static_cast<unsigned int>(slots.size());
		int result = memory_call(LIVEUPDATE_KVM_GET_MEMORY, arg, slots);
		if (!result || result == -ENOSPC)
			slots.resize(arg.nr_slots);
		return result;
	}

	// Of SET: nothing else counts.
	static liveupdate_kvm_slot at(unsigned int slot, unsigned long long hva)
	{
		liveupdate_kvm_slot is{};
		is.slot = slot;
		is.userspace_addr = hva;
		return is;
	}
	static std::vector<liveupdate_kvm_slot> ram_slots(unsigned long long hva = ram_at)
	{
		return {at(0, hva), at(2, hva + 32 * 4096)};
	}

	int session = -1, vm = -1, memfd = -1, gmem = -1;
	std::vector<int> vcpu;
	// After a jump, before anything is retrieved.
	bool work_ahead = false;

    private:
	bool kvm_loaded_ = false;
};
