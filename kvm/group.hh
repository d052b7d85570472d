// SPDX-License-Identifier: GPL-2.0
// The files of one VM that are preserved, in the kernel that preserves them.
#pragma once

#include <ferry/list.hh>
#include <ferry/luo.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include "kvm/backing.hh"
#include "kvm/linux.h"
#include "kvm/slots.hh"
#include "kvm/state.hh"

namespace virt {

class Group;
class Vm;
class Vcpu;
class Gmem;

/*
 * A VM is stopped as a whole: with the first of its files that is frozen, all of
 * its vCPUs leave the guest, each unfinished exit to userspace is finished, and
 * from then on its ioctls fail, and interrupts wait. It goes on with the last one
 * that is unfrozen.
 *
 * All states are read at that moment, those of the VM before any of its vCPUs: an
 * interrupt goes from an irqchip to a LAPIC, and never back.
 *
 * Locks, outermost first:
 *
 *	the mutex of the session	luo's; held around every operation
 *	kvm.groups			the list of groups, what is in them, the counts
 *	KVM's own, and others		in linux.c; none that waits for userspace. And
 *					KHO's, of a blob that is saved or dropped: the
 *					worker does that with kvm.groups held
 *
 * Files of one VM in different sessions would meet in their group only.
 */
class Group : public ferry::Linked<Group> {
    public:
	explicit Group(struct kvm *kvm) : kvm_{kvm}
	{
	}

	// The group of a file's VM, made if it is not there.
	static ferry::Result<Group *> join(file *of);
	// Of a file that joined it.
	void leave();

	// Errno::Busy: a vCPU does not come to a clean point, or an ioctl to an end.
	ferry::Result<void> freeze();
	void unfreeze();
	// While it is frozen: its slots, and the state of the VM itself.
	const Slots &slots() const
	{
		return slots_;
	}
	const Sections &state() const
	{
		return state_;
	}
	// The same: kvmclock, and the host's counter at that time.
	void tell_clock(ferry_kvm_vm &record) const
	{
		record.clock = clock_;
		record.tsc = tsc_;
	}

	struct kvm *kvm() const
	{
		return kvm_;
	}

	// Of the VM's own file: null when it is not preserved.
	file *vm();
	void set_vm(file *vm);

	void add(Vcpu &vcpu);
	void remove(Vcpu &vcpu);
	void add(Gmem &gmem);
	void remove(Gmem &gmem);
	bool has_vcpu(unsigned int number);
	bool has_gmem(file *gmem);

    private:
	ferry::Result<void> stop();
	ferry::Result<void> read();
	void drop_vcpus();
	linux_kvm_vcpus settle(unsigned int &waited, unsigned int &vcpu);

	struct kvm *kvm_;
	unsigned int members_ = 0;
	unsigned int frozen_ = 0;
	file *vm_ = nullptr;
	ferry::List<Vcpu> vcpus_;
	ferry::List<Gmem> gmems_;
	Slots slots_;
	Sections state_;
	unsigned long long clock_ = 0;
	unsigned long long tsc_ = 0;
};

// Of the module's init and exit: all groups.
ferry::Result<void> groups_create();
void groups_destroy();

// Who joined a group, and leaves it again.
class Membership {
    public:
	Membership() = default;
	explicit Membership(Group *group) : group_{group}
	{
	}
	Membership(Membership &&other) noexcept : group_{std::exchange(other.group_, nullptr)}
	{
	}
	Membership &operator=(Membership &&other) noexcept
	{
		std::swap(group_, other.group_);
		return *this;
	}
	~Membership()
	{
		if (group_)
			group_->leave();
	}
	Group *operator->() const
	{
		return group_;
	}

    private:
	Group *group_ = nullptr;
};

// A blob that is preserved while its owner is frozen.
class PreservedBlob {
    public:
	PreservedBlob() = default;
	PreservedBlob(const PreservedBlob &) = delete;
	PreservedBlob &operator=(const PreservedBlob &) = delete;
	~PreservedBlob()
	{
		drop();
	}
	ferry::Result<void> save(ferry_owner *owner, Bytes bytes);
	void drop();
	// As all that the file preserves.
	void tell_usage(ferry_luo_file *self) const;
	// Writes a child that leads to it.
	ferry::Result<void> put(ferry_writer *writer, const char *child) const;

    private:
	ferry_blob *blob_ = nullptr;
	ferry_bulk ref_{};
};

// A vCPU's file.
class Vcpu : public ferry::Linked<Vcpu> {
    public:
	static ferry::Result<ferry::Owned<Vcpu>> preserve(ferry_luo_args &args, ferry_owner *owner);
	Vcpu(file *its_file, Membership group, ferry_owner *owner);
	~Vcpu();

	ferry::Result<void> freeze(ferry_luo_file *self);
	void unfreeze();
	ferry::Result<void> save(ferry_writer *writer);

	// Its group's: reads its state, and preserves it; in a worker. What is in the buffer
	// is of no use to anybody.
	ferry::Result<void> read(unsigned long scratch, Sections &buffer);
	void drop()
	{
		state_.drop();
	}

	unsigned int number() const
	{
		return record_.id;
	}

    private:
	file *file_;
	Membership group_;
	ferry_owner *owner_;
	ferry_kvm_vcpu record_{};
	PreservedBlob state_;
	bool frozen_ = false;
};

// The VM's own file.
class Vm {
    public:
	static ferry::Result<ferry::Owned<Vm>> preserve(ferry_luo_args &args, ferry_owner *owner);
	Vm(file *its_file, Membership group, ferry_owner *owner);
	~Vm();

	ferry::Result<void> freeze(ferry_luo_file *self);
	void unfreeze();
	ferry::Result<void> save(ferry_writer *writer);

    private:
	ferry::Result<void> look();
	ferry::Result<void> take_slots(Slots now);
	ferry::Result<void> find_backing(ferry_kvm_slot &slot, Patience &patience);
	ferry::Result<unsigned int> backing_index(file *found);
	bool known_backing(ferry_kvm_slot &slot) const;
	ferry::Result<void> depend(ferry_luo_file *self);
	ferry::Result<void> check_members();
	ferry::Result<void> read();
	ferry::Result<void> read_vcpus(Sections &sections);
	ferry::Result<void> read_slots(Sections &sections);
	ferry::Result<void> check_dirty_logs() const;

	// As many as luo takes for one file.
	static constexpr unsigned int max_backings = 1024;

	file *file_;
	Membership group_;
	ferry_owner *owner_;
	ferry_kvm_vm record_{};
	Slots slots_;
	// Files behind slots, in the order in which luo was told; with references.
	file **backing_ = nullptr;
	unsigned int nr_backings_ = 0;
	unsigned int last_backing_ = 0;
	PreservedBlob state_;
	bool frozen_ = false;
};

} // namespace virt
