// SPDX-License-Identifier: GPL-2.0
// kvm/linux.h on the host: VMs, vCPUs and guest_memfds as plain objects behind
// files of fake/luo.hh, and one process that has mapped memory. As strict as
// fake/kho.cc: what would hang, warn or lose something is a fake::bug() here.
#pragma once

#include "luo.hh"

#include <kvm/linux.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace fake {

enum { KIND_VM = 100, KIND_VCPU, KIND_GMEM };

using Data = std::vector<unsigned char>;
// By enum ferry_kvm_kind. What is not there, the VM or vCPU does not have.
using States = std::map<unsigned int, Data>;

struct Gmem;

struct Slot {
	ferry_kvm_slot is{};
	Gmem *gmem = nullptr;
	// Words of the log; none without KVM_MEM_LOG_DIRTY_PAGES.
	std::vector<unsigned long long> dirty;
};

struct Vcpu {
	unsigned int id = 0;
	// All fields but the id and the tsc.
	ferry_kvm_vcpu is{};
	States states;
	// Those that the guest has, and those of them that it cannot be given.
	std::map<unsigned int, unsigned long long> msrs;
	std::set<unsigned int> refused_msrs;
	// Appear only with the first write.
	std::set<unsigned int> hidden_msrs;
	bool in_ioctl = false;
	bool unfinished_exit = false;
	// An interrupt of the LAPIC's timer that no state has yet: linux_kvm_flush_timer()
	// makes it the last byte of the LAPIC.
	bool timer_due = false;
};

// What struct kvm is.
struct Vm {
	~Vm();

	operator struct kvm *()
	{
		return reinterpret_cast<struct kvm *>(this);
	}

	// All fields but those about its state.
	ferry_kvm_vm is{};
	const char *refusal = nullptr;
	States states;
	unsigned long long clock = 0;
	// In the order of their creation.
	std::vector<std::unique_ptr<Vcpu>> vcpus;
	std::map<unsigned int, Slot> slots;
	bool stopped = false;
	bool frozen = false;
	bool parked = false;
	// That of the VM or a device, under way.
	bool in_ioctl = false;
	// The process that it belongs to; 0 is the worker, and there is `nobody`.
	int process = 1;
	// Slots of KVM's own, and the process in which each has its memory.
	std::vector<std::pair<linux_kvm_own_slot, int>> own_slots;
	// Its process is gone, and with it what it had mapped.
	bool orphaned = false;
	// Called in linux_kvm_freeze(): what happens just before it.
	std::function<void(Vm &)> before_freeze;
};

using Page = unsigned long long;

struct Gmem {
	~Gmem();

	file *its_file = nullptr;
	std::shared_ptr<Vm> vm;
	unsigned long long bytes = 0;
	unsigned long long flags = 0;
	linux_gmem_state state = LINUX_GMEM_THAWED;
	std::map<Page, unsigned long long> pages; // to their page frames

	// Pages in a row, from the next free page frames on if none is given. What a
	// fault or fallocate() does: false when the file is frozen.
	bool add(Page first, unsigned int count = 1, unsigned long long pfn = 0);
	// fallocate(FALLOC_FL_PUNCH_HOLE): false when they have to stay.
	bool punch(Page first, Page count = 1);
};

// Each with one reference.
file *new_vm();
file *new_vcpu(file *vm, unsigned int id);
file *new_gmem(file *vm, unsigned long long bytes, unsigned long long flags = 3);
Vm &vm_of(file *file); // of any of the three kinds
Vcpu &vcpu_of(file *file);
Gmem &gmem_of(file *file);
// KVM_SET_USER_MEMORY_REGION2.
Slot &add_slot(file *vm, const ferry_kvm_slot &slot, file *gmem = nullptr);

// KVM_RUN: 0 when the guest runs, -EINTR when it was only to finish an exit.
int run(file *vcpu);

// Who calls from now on: from 1. All of them have mapped the same.
extern int process;
// Of a kernel thread: it has no memory of its own.
inline constexpr int nobody = -1;

// A mapping of the process; keeps the file.
void map(unsigned long long hva, file *file, Page first, Page pages, bool shared = true);
void unmap_all();
// So many calls find the mmap lock taken.
extern unsigned int mmap_lock_taken;

// ---- how KVM behaves ----

struct Host {
	// What this host lists, of KVM_GET_MSR_INDEX_LIST.
	std::vector<unsigned int> msr_list;
	// Slots of its own that KVM makes with the first vCPU.
	unsigned int own_slots = 0;
	// What a new VM and a new vCPU are.
	ferry_kvm_vm new_vm{};
	States new_vm_states;
	Vcpu new_vcpu;
	// Fields of ferry_kvm_vm that this kernel cannot give a VM.
	std::set<std::string> unknown;
	// Kinds of states that it neither reads nor takes.
	std::set<unsigned int> refused;
	// Writes, in their order: "set 2", "msrs 10=5 11=6", "slot 1", ...
	std::vector<std::string> trace;
	// The kinds of states that were read, in their order.
	std::vector<unsigned int> reads;
	// The ioctls that were called for MSRs.
	unsigned int msr_reads = 0;
	// Milliseconds that were waited, and what happens after each.
	unsigned int slept = 0;
	std::function<void()> after_sleep;
	// linux_kvm_backing() that found nothing.
	unsigned int not_backed = 0;
};
extern Host host;

} // namespace fake
