// SPDX-License-Identifier: GPL-2.0
// The files of a VM that came out of the last kernel, until they are finished.
#pragma once

#include <ferry/list.hh>
#include <ferry/luo.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <uapi/linux/liveupdate_kvm.h>

#include "kvm/linux.h"
#include "kvm/state.hh"

namespace virt {

/*
 * A VM, its vCPUs and its guest_memfds are made anew as they are retrieved, and
 * get their state only when all of them are there, with the memory mapped by the
 * process that will run them: registers point into memory, and irqchips to
 * vCPUs. Until then the VM is parked.
 *
 * Locks, outermost first:
 *
 *	the mutex of the session	luo's; not held by the device's calls
 *	kvm.incoming			everything in this file
 *	KVM's own, the mmap lock	in linux.c
 */

// What one file of a VM leaves behind it; priv of the file.
struct IncomingVcpu : ferry::Linked<IncomingVcpu> {
	ferry_kvm_vcpu record{};
	Blob state;
	file *vcpu = nullptr; // with a reference
	~IncomingVcpu();
};

struct IncomingSlot : ferry::Linked<IncomingSlot> {
	ferry_kvm_slot slot{};
	unsigned long long token = 0;
	file *backing = nullptr; // with a reference
	bool gmem = false;
	bool present = false;
	~IncomingSlot();
};

// A vCPU that was made before anybody asked for it.
struct EarlyVcpu : ferry::Linked<EarlyVcpu> {
	unsigned int number = 0;
	file *vcpu = nullptr; // with a reference
	~EarlyVcpu();
};

class IncomingVm : public ferry::Linked<IncomingVm> {
    public:
	explicit IncomingVm(const ferry_kvm_vm &record) : record_{record}
	{
	}
	~IncomingVm();

	// The VM of a record and its blob, checked. `taken`: the blob is no longer
	// the last kernel's.
	static ferry::Result<ferry::Owned<IncomingVm>> read(ferry_node state, bool &taken);

	// In a kernel thread: makes the VM and its vCPUs, if that goes well.
	void work_ahead();
	// Makes the VM.
	ferry::Result<void> create(unsigned long scratch);
	// Its slots refer to what the file needs.
	ferry::Result<void> load_slots(ferry_luo_file *self);
	// A vCPU, made ahead or now; with a reference.
	ferry::Result<file *> create_vcpu(unsigned int number);

	file *vm() const
	{
		return vm_;
	}
	void add(IncomingVcpu &vcpu)
	{
		vcpus_.push_back(vcpu);
		++nr_vcpus_;
	}
	void remove(IncomingVcpu &vcpu)
	{
		ferry::List<IncomingVcpu>::remove(vcpu);
		--nr_vcpus_;
	}
	// A slot of the record; Errno::BadMsg where it makes no sense. Owns it, and
	// the reference to the file behind it, also after an error.
	ferry::Result<IncomingSlot *> add_slot(Bytes data, file *backing, unsigned long long token,
					       bool gmem);
	// The slots of a guest_memfd that is finished.
	void remove_slots(file *gmem);

	// Creates a slot, or moves it.
	ferry::Result<void> set_slot(unsigned long scratch, unsigned int number,
				     unsigned long long hva);
	ferry::Result<void> create_slot(unsigned long scratch, IncomingSlot &slot);
	// Errno::Again: something is missing still.
	ferry::Result<void> complete(unsigned long scratch);
	bool is_complete() const
	{
		return complete_;
	}

	unsigned int nr_slots();
	// Fills in nr_slots() of them, in the order of their numbers.
	ferry::Result<void> describe(unsigned long long to);

    private:
	ferry::Result<void> configure(unsigned long scratch);
	ferry::Result<void> create_vcpus();
	void drop();
	ferry::Result<void> check_mapping(const IncomingSlot &slot, unsigned long long hva);
	ferry::Result<void> check_complete();
	ferry::Result<void> load(unsigned long scratch);
	ferry::Result<void> load_dirty();
	void insert(IncomingSlot &slot);
	IncomingSlot *find_slot(unsigned int number);

	ferry_kvm_vm record_;
	Blob state_;
	file *vm_ = nullptr; // with a reference
	ferry::List<EarlyVcpu> early_;
	ferry::List<IncomingVcpu> vcpus_;
	unsigned int nr_vcpus_ = 0;
	ferry::List<IncomingSlot> slots_; // by number
	bool complete_ = false;
};

ferry::Result<void> incoming_create();
void incoming_destroy();

// luo's operations. finish() of one that was not retrieved frees what it had.
void prepare_vm(ferry_luo_args *args);
int retrieve_vm(ferry_luo_args *args);
void finish_vm(ferry_luo_args *args);
int retrieve_vcpu(ferry_luo_args *args);
void finish_vcpu(ferry_luo_args *args);
int retrieve_gmem(ferry_luo_args *args);
void finish_gmem(ferry_luo_args *args);

// The device's calls; `arg` is in the memory of user space.
ferry::Result<void> get_memory(unsigned long arg);
ferry::Result<void> set_memory(unsigned long arg);

} // namespace virt
