// SPDX-License-Identifier: GPL-2.0
// The files of a VM that came out of the last kernel, until they are finished.
#pragma once

#include <ferry/list.hh>
#include <ferry/lock.hh>
#include <ferry/luo.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <atomic>
#include <span>

#include <uapi/linux/liveupdate_kvm.h>

#include "kvm/backing.hh"
#include "kvm/linux.h"
#include "kvm/slots.hh"
#include "kvm/state.hh"

namespace virt {

/*
 * A VM, its vCPUs and its guest_memfds are made anew as they are retrieved, and
 * get their state only when all of them are there, with the memory mapped by the
 * process that will run them: registers point into memory, and irqchips to
 * vCPUs. Until then the VM is parked: its files are there, and nobody but this
 * module can do anything with them. It belongs to the worker, and to the process
 * of a SET_MEMORY that could not complete it, until another one's; but from when
 * states are loaded, to the one that did.
 *
 * Locks, outermost first:
 *
 *	the mutex of the session	luo's; not held by the device's calls
 *	kvm.vm				of each VM: all of it. Held while memory of its
 *					process is touched, which may take for ever
 *	kvm.incoming			the list of VMs
 *	KVM's own, the mmap lock	in linux.c
 *
 * A VM is kept by the file that it came with, until that is finished, and by each
 * call that is under way.
 */

struct IncomingVcpu : ferry::Linked<IncomingVcpu> {
	ferry_kvm_vcpu record{};
	Blob state;
	file *vcpu = nullptr; // with a reference
	bool ahead = false; // load_vcpu_most() is done, and
	Blob rest; // what it left
	~IncomingVcpu();
};

// A vCPU that was made before anybody asked for it.
struct EarlyVcpu : ferry::Linked<EarlyVcpu> {
	unsigned int number = 0;
	file *vcpu = nullptr; // with a reference
	bool ahead = false; // as of an IncomingVcpu
	Blob rest;
	bool tried = false; // by load_ahead()
	~EarlyVcpu();
};

class IncomingVm : public ferry::Linked<IncomingVm>, public ferry::RefCounted<IncomingVm> {
    public:
	ferry::Mutex<"kvm.vm"> mutex;

	explicit IncomingVm(const ferry_kvm_vm &record) : record_{record}
	{
	}
	~IncomingVm();

	// The VM of a record and its blob, checked. `taken`: the blob is no longer
	// the last kernel's.
	static ferry::Result<ferry::Ref<IncomingVm>> read(ferry_node state, bool &taken);

	// Makes the VM and its vCPUs, if that goes well; in a kernel thread.
	void work_ahead();
	// Gives a vCPU that was made so what needs no memory, if that can be done long
	// before it runs.
	void load_ahead(const ferry_kvm_vcpu &record, Bytes state);
	// Makes the VM, if it is not there.
	ferry::Result<void> create();
	// Its slots refer to what the file needs.
	ferry::Result<void> load_slots(ferry_luo_file *self);
	// Makes it, if that was not done ahead.
	ferry::Result<void> create_vcpu(IncomingVcpu &vcpu);

	file *vm() const
	{
		return vm_;
	}
	void add(ferry::Owned<IncomingVcpu> vcpu)
	{
		vcpus_.push_back(*vcpu.release());
		++nr_vcpus_;
	}
	// A slot of the record; Errno::BadMsg where it makes no sense. Owns it, and
	// the reference to the file behind it, also after an error.
	ferry::Result<IncomingSlot *> add_slot(Bytes data, file *backing, unsigned long long token,
					       bool gmem);
	// The slots of a guest_memfd that nothing came of.
	void remove_slots(file *gmem)
	{
		slots_.remove_all_on(gmem);
	}
	ferry::Result<void> create_slot(unsigned long scratch, IncomingSlot &slot);

	// Lets it belong to the current process. Errno::Busy: it has to stay with
	// another one.
	ferry::Result<void> adopt();
	// Creates slots, or moves them, and completes the VM. Errno::Again: something
	// is missing still.
	ferry::Result<void> set_memory(unsigned long scratch,
				       std::span<const liveupdate_kvm_slot> slots);
	bool is_complete() const
	{
		return complete_;
	}

	unsigned int nr_slots() const
	{
		return slots_.size();
	}
	// All of them, in the order of their numbers.
	void describe(liveupdate_kvm_slot *to) const;

    private:
	ferry::Result<void> make(unsigned long scratch);
	ferry::Result<void> configure(unsigned long scratch);
	ferry::Result<void> create_vcpus();
	EarlyVcpu *find_early(unsigned int number);
	void drop();
	ferry::Result<void> set_slot(unsigned long scratch, const liveupdate_kvm_slot &want,
				     Patience &patience);
	ferry::Result<void> check_mapping(const IncomingSlot &slot, unsigned long long hva,
					  Patience &patience);
	ferry::Result<void> check_complete();
	ferry::Result<void> complete(unsigned long scratch, Patience &patience);
	ferry::Result<void> take_own_slots();
	ferry::Result<void> load(unsigned long scratch);
	ferry::Result<void> load_vcpu(unsigned long scratch, IncomingVcpu &vcpu);
	ferry::Result<void> load_dirty();

	ferry_kvm_vm record_;
	Blob state_;
	file *vm_ = nullptr; // with a reference
	ferry::List<EarlyVcpu> early_;
	ferry::List<IncomingVcpu> vcpus_;
	unsigned int nr_vcpus_ = 0;
	IncomingSlots slots_;
	// KVM's own, which were taken from the worker and are not here yet.
	linux_kvm_own_slot own_[LINUX_KVM_OWN_SLOTS]{};
	unsigned int nr_own_ = 0;
	bool loading_ = false;
	std::atomic<bool> complete_ = false;
};

ferry::Result<void> incoming_create();
void incoming_destroy();

// The handler of VMs.
const ferry_luo_handler &vm_handler();

// luo's operations. finish() of one that was not retrieved frees what it had.
void prepare_vm(ferry_luo_args *args);
int retrieve_vm(ferry_luo_args *args);
void finish_vm(ferry_luo_args *args);
void prepare_vcpu(ferry_luo_args *args);
int retrieve_vcpu(ferry_luo_args *args);
void finish_vcpu(ferry_luo_args *args);
int retrieve_gmem(ferry_luo_args *args);
void finish_gmem(ferry_luo_args *args);

// The device's calls; `arg` is in the memory of user space.
ferry::Result<void> get_memory(unsigned long arg);
ferry::Result<void> set_memory(unsigned long arg);

} // namespace virt
