/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What luo_kvm.ko needs of the kernel besides <ferry/kernel.h>.
 *
 * linux.c implements it with the kernel's own headers in sight; on the host
 * selftests/unit/fake/kvm.cc does. Everything may sleep, but for what looks at a
 * file only. Errors are negative errnos. Pages are of 4 KiB.
 *
 * A VM is known by its struct kvm, which its own file, those of its vCPUs and
 * those of its guest_memfds lead to, and each keeps.
 */
#ifndef FERRY_KVM_LINUX_H
#define FERRY_KVM_LINUX_H

#include <ferry/kernel.h>
#include <abi/kvm.h>
#include <abi/runs.h>

#ifdef __cplusplus
extern "C" {
#endif

struct file;
struct kvm;

/* ---- any file ---- */

bool (linux_kvm_is_vm)(struct file *file);
bool (linux_kvm_is_vcpu)(struct file *file);
bool (linux_kvm_is_gmem)(struct file *file);
/* The VM that a file of these kinds belongs to. */
struct kvm *(linux_kvm_of)(struct file *file);
/* Tells the VM, the vCPU, or the contents behind a file from others. */
unsigned long (linux_kvm_vm_id)(struct file *file);
unsigned long (linux_kvm_vcpu_id)(struct file *file);
unsigned long (linux_kvm_gmem_id)(struct file *file);
/* A reference for the caller; NULL: no such file descriptor. */
struct file *(linux_kvm_fget)(int fd);
/* A further reference. */
struct file *(linux_kvm_share)(struct file *file);
void (linux_kvm_fput)(struct file *file);

/* ---- what a VM and a vCPU are ---- */

/**
 * linux_kvm_vm_look - read what no ioctl tells
 * @record: all fields but clock, tsc, tsc_khz
 *
 * Source: struct kvm and struct kvm_arch, which the ioctls named in abi/kvm.h
 * write.
 *
 * Return: NULL, or why such a VM cannot be carried.
 */
const char *(linux_kvm_vm_look)(struct kvm *kvm, struct ferry_kvm_vm *record);

/* The same of a vCPU: all fields. */
void (linux_kvm_vcpu_look)(struct file *vcpu, struct ferry_kvm_vcpu *record);

/* Number of the nth vCPU of a VM; -ENOENT behind the last one. */
long (linux_kvm_vcpu_number)(struct kvm *kvm, unsigned int nth);

/* ---- stopping a VM ---- */

/* Makes its vCPUs leave the guest, and KVM_RUN finish exits only. At once. */
void (linux_kvm_stop)(struct kvm *kvm);

enum linux_kvm_vcpus {
	LINUX_KVM_SETTLED,
	LINUX_KVM_BUSY,		/* one is in an ioctl */
	LINUX_KVM_UNFINISHED,	/* its exit to userspace (port I/O, ...) is not finished */
};

/**
 * linux_kvm_settled - has each vCPU come to a clean point?
 * @vcpu: one that has not
 */
enum linux_kvm_vcpus (linux_kvm_settled)(struct kvm *kvm, unsigned int *vcpu);

/**
 * linux_kvm_freeze - let ioctls of the VM, its vCPUs and devices fail with EBUSY
 *
 * Interrupts that come by an irqfd or from the PIT wait from now on: nothing
 * changes the irqchips any more.
 *
 * Return: 0, or -EAGAIN: some ioctl of the VM is under way, and nothing is
 * frozen. One of a vCPU may be as well, until linux_kvm_settled().
 */
int (linux_kvm_freeze)(struct kvm *kvm);

/* Takes back linux_kvm_freeze(); */
void (linux_kvm_thaw)(struct kvm *kvm);
/* ... and linux_kvm_stop(), too. */
void (linux_kvm_resume)(struct kvm *kvm);

void (linux_kvm_sleep)(unsigned int milliseconds);

/* ---- state ---- */

/*
 * Memory of user space that the ioctls below take their arguments from: that of
 * a worker, or that of the current process. Most states fit into a part of it; a
 * table of routes may be larger (KVM_MAX_IRQ_ROUTES).
 */
#define LINUX_KVM_SCRATCH_BYTES	0x40000
/* CPUID has 10 KiB at the most, XSAVE with tiles 11, nested state of VMX 8. */
#define LINUX_KVM_STATE_BYTES	0x4000

/**
 * linux_kvm_in_worker - call in a kernel thread with an address space of its own
 * @work: what to call; gets the scratch memory
 *
 * There the states of any VM that is frozen can be read, whoever it belongs to,
 * and without a lock of a process; and a VM that was made there can be written.
 *
 * Return: what @work returned, or -ENOMEM.
 */
int (linux_kvm_in_worker)(int (*work)(void *ctx, unsigned long scratch), void *ctx);

/* Maps scratch memory into the current process. Takes its mmap lock. */
int (linux_kvm_scratch_map)(unsigned long *scratch);
void (linux_kvm_scratch_unmap)(unsigned long scratch);

/**
 * linux_kvm_get - read one kind of state
 * @file: a vCPU, or a VM, as the kind wants
 * @kind: enum ferry_kvm_kind, but for MSRS, SLOT, DIRTY and VCPUS
 * @data: in the format of the section
 * @room: of @data, in bytes; LINUX_KVM_STATE_BYTES is enough for nearly all,
 *        LINUX_KVM_SCRATCH_BYTES for ROUTING and MSR_FILTER
 *
 * Return: bytes, or 0: it has no such state; what KVM says.
 */
int (linux_kvm_get)(unsigned long scratch, struct file *file, unsigned int kind, void *data,
		    ferry_size room);

/*
 * Writes one kind of state of a VM that is parked, in the process it belongs to; what
 * leads to no memory, as all of a vCPU's, also in the worker, while it is nobody's.
 */
int (linux_kvm_set)(unsigned long scratch, struct file *file, unsigned int kind,
		    const void *data, ferry_size bytes);

/**
 * linux_kvm_msr_list - numbers of the MSRs that this host has for guests
 * @room: length of @index
 * Source: KVM_GET_MSR_INDEX_LIST.
 * Return: how many.
 */
int (linux_kvm_msr_list)(unsigned long scratch, unsigned int *index, unsigned int room);

/* KVM takes less than MAX_IO_MSRS, 256. */
#define LINUX_KVM_MSRS_AT_ONCE	255

/*
 * KVM_GET_MSRS and KVM_SET_MSRS, with LINUX_KVM_MSRS_AT_ONCE at the most.
 * Return: how many were done, up to the first one that could not be.
 */
int (linux_kvm_get_msrs)(unsigned long scratch, struct file *vcpu, struct ferry_kvm_msr *msr,
			 unsigned int nr);
int (linux_kvm_set_msrs)(unsigned long scratch, struct file *vcpu,
			 const struct ferry_kvm_msr *msr, unsigned int nr);

/* An interrupt of the LAPIC's timer that is due, and in no state yet. */
void (linux_kvm_flush_timer)(struct file *vcpu);

/* Of KVM_GET_CLOCK; @tsc is that of the host at the same time. */
int (linux_kvm_get_clock)(unsigned long scratch, struct file *vm, unsigned long long *clock,
			  unsigned long long *tsc);
int (linux_kvm_set_clock)(unsigned long scratch, struct file *vm, unsigned long long clock);

/* ---- memory slots ---- */

/**
 * struct linux_kvm_slot - a memory slot of a VM
 * @is:   what it is; @is.need is zero
 * @gmem: the guest_memfd behind it, or NULL; without a reference, so it is good
 *        for nothing but to be compared
 */
struct linux_kvm_slot {
	struct ferry_kvm_slot is;
	struct file *gmem;
};

/**
 * linux_kvm_slots - list the memory slots of a VM, in no order
 * @room: length of @slot
 * Return: how many there are, also beyond @room.
 */
int (linux_kvm_slots)(struct kvm *kvm, struct linux_kvm_slot *slot, unsigned int room);

/**
 * linux_kvm_backing - find the file that is mapped at an address
 * @kvm:   of whose process; NULL: the current one
 * @hva:   address, in bytes
 * @pages: length; all of it has to be mapped from one file, in one piece
 * @file:  with a reference for the caller
 * @first: page of the file
 *
 * Does not wait for the mmap lock.
 *
 * Return: 0; -EAGAIN (the lock is taken); -ESRCH (the process is gone); -EFAULT
 * (something is not mapped); -EOPNOTSUPP (anonymous, private, or no one file).
 */
int (linux_kvm_backing)(struct kvm *kvm, unsigned long long hva, unsigned long long pages,
			struct file **file, unsigned long long *first);

/* Do two files have the same contents (inode)? */
bool (linux_kvm_same_contents)(struct file *a, struct file *b);

/**
 * linux_kvm_dirty_get - copy the dirty log of a slot
 * @bytes: at most, a multiple of 8
 * Return: bytes that were copied: 0 if it has no log.
 */
long (linux_kvm_dirty_get)(struct kvm *kvm, unsigned int slot, void *bitmap, ferry_size bytes);
/* Adds to it. -ENOENT: no such slot, or no log; -EINVAL: not of its length. */
int (linux_kvm_dirty_add)(struct kvm *kvm, unsigned int slot, const void *bitmap,
			  ferry_size bytes);

/* ---- in the kernel that gets them ---- */

/**
 * linux_kvm_create_vm - make a VM
 *
 * It is parked: whatever is done with its files fails with EBUSY, but for what is
 * done with the functions here. It belongs to the current worker.
 *
 * Return: 0 and @vm, with a reference.
 */
int (linux_kvm_create_vm)(struct file **vm);
/* In a worker. */
int (linux_kvm_create_vcpu)(struct file *vm, unsigned int id, struct file **vcpu);
/* Charged, as far as it has no pages yet, to the caller. */
int (linux_kvm_create_gmem)(unsigned long scratch, struct file *vm, unsigned long long bytes,
			    unsigned long long flags, struct file **gmem);

/**
 * linux_kvm_set_field - give a new VM what one field of a record says
 * @want:   the record
 * @offset: of the field
 *
 * Source: KVM_ENABLE_CAP, KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2,
 * KVM_SET_BOOT_CPU_ID, KVM_REINJECT_CONTROL.
 *
 * Return: 0, also where nothing can be done: linux_kvm_vm_look() tells what was;
 * what KVM says.
 */
int (linux_kvm_set_field)(unsigned long scratch, struct file *vm, const struct ferry_kvm_vm *want,
			  unsigned int offset);

/**
 * linux_kvm_adopt - let a VM that is parked belong to the current process; in a
 *		     kernel thread, to nobody for now
 *
 * Not after a state was loaded that leads to memory: then it has to stay where that
 * was done.
 *
 * Return: 0; after -ENOMEM or -EINTR it can be tried again, by whoever.
 */
int (linux_kvm_adopt)(struct kvm *kvm);
/* Is that the current process? */
bool (linux_kvm_is_here)(struct kvm *kvm);

/*
 * Memory slots that KVM itself makes for a VM and its vCPUs (the APIC's page),
 * with memory that it maps into the process that makes them.
 */
#define LINUX_KVM_OWN_SLOTS	8
struct linux_kvm_own_slot {
	unsigned int number;
	unsigned int bytes;
	unsigned long long gpa;
};
/* Return: how many; @slot has room for all. */
unsigned int (linux_kvm_own_slots)(struct kvm *kvm, struct linux_kvm_own_slot *slot);
/* In the process, or worker, that made it. */
int (linux_kvm_drop_own_slot)(struct kvm *kvm, const struct linux_kvm_own_slot *slot);
int (linux_kvm_make_own_slot)(struct kvm *kvm, const struct linux_kvm_own_slot *slot);

/* Features and MCE banks of a vCPU, before its states. */
int (linux_kvm_configure_vcpu)(unsigned long scratch, struct file *vcpu,
			       const struct ferry_kvm_vcpu *want);
/* Its time-stamp counter, before those of its states that are deadlines; where states are. */
int (linux_kvm_set_tsc)(unsigned long scratch, struct file *vcpu,
			const struct ferry_kvm_vcpu *want);

/**
 * linux_kvm_set_slot - create a memory slot, move it, or delete it
 * @slot: what it is; with @slot.pages 0 it is deleted
 * @hva:  where it is mapped
 * @gmem: the guest_memfd behind it, or NULL
 */
int (linux_kvm_set_slot)(unsigned long scratch, struct file *vm,
			 const struct ferry_kvm_slot *slot, unsigned long long hva,
			 struct file *gmem);

/* From now on the VM is one like any other, of the process that it belongs to. */
void (linux_kvm_unpark)(struct kvm *kvm);

/* ---- guest_memfd ---- */

void (linux_gmem_look)(struct file *gmem, struct ferry_kvm_gmem *record);
/* Whether all of its pages are shared with the host, and can be mapped. */
bool (linux_gmem_is_shared)(struct file *gmem);

enum linux_gmem_state {
	LINUX_GMEM_THAWED,
	LINUX_GMEM_PRESERVED,	/* pages stay */
	LINUX_GMEM_FROZEN,	/* and none is added */
};
/* kvm_gmem_set_frozen(): EBUSY and SIGBUS for those who try. */
void (linux_gmem_set_state)(struct file *gmem, enum linux_gmem_state state);

unsigned long long (linux_gmem_pages)(struct file *gmem);

/**
 * linux_gmem_find - find pages
 * @first: from here on
 * @run:   what was found, ascending, of order 0, as long as pages follow each
 *         other in the file and in memory
 * @room:  length of @run
 *
 * A page that was never written is zeroed.
 *
 * Return: how many runs; 0 at the end.
 */
unsigned int (linux_gmem_find)(struct file *gmem, unsigned long long first,
			       struct ferry_run *run, unsigned int room);

/**
 * linux_gmem_insert - give a run of pages to a file
 * @run: of ferry_runs_next(), of order 0; its references are taken in any case
 *
 * Charged to the memory cgroup of the caller.
 *
 * Return: 0, -EEXIST, -ENOMEM; the file then has those up to there.
 */
int (linux_gmem_insert)(struct file *gmem, const struct ferry_run *run);

/* ---- the device ---- */

/* The argument of an ioctl; -EFAULT. */
int (linux_kvm_copy_in)(void *to, unsigned long long from, ferry_size bytes);
int (linux_kvm_copy_out)(unsigned long long to, const void *from, ferry_size bytes);

/* This module. */
struct module *(linux_this_module)(void);

/* ---- what linux.c calls ---- */

int (kvm_module_init)(void);
void (kvm_module_exit)(void);
/* @arg: struct liveupdate_kvm_memory of user space */
long (kvm_device_ioctl)(unsigned int request, unsigned long arg);

#ifdef __cplusplus
}
#endif
#endif
