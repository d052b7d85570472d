/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/liveupdate_kvm: giving a retrieved virtual machine its memory.
 *
 * A VM, its vCPUs and its guest_memfds are preserved and retrieved with the
 * calls of <linux/liveupdate.h>. What these cannot know is where, in the address
 * space of the VMM, the guest's memory is mapped now. So after the kexec, with
 * the VM's file in hand (from RETRIEVE_FD, or over a socket), a VMM
 *
 *  1. asks with LIVEUPDATE_KVM_GET_MEMORY for the memory slots that the VM had;
 *  2. maps the file behind each, by its token. A slot on a guest_memfd is there
 *     already, with the address that it had: the file is to be mapped right there
 *     (MAP_FIXED_NOREPLACE), or the slot given another address in step 3;
 *  3. when all vCPUs are retrieved, creates the slots with
 *     LIVEUPDATE_KVM_SET_MEMORY. The call that completes the VM also gives it, and
 *     its vCPUs, the state that they had.
 *
 * Before that, all ioctls of the VM and of its vCPUs fail with EBUSY, and it belongs
 * to nobody: an agent can retrieve it and pass its files on. After it, it belongs
 * to the process that made the call. A VM without memory needs the call as well.
 *
 * Errors, besides those named below: EFAULT, EINVAL (size, unknown flags, not
 * zero where it must be), EBADF (@vm is no VM), ENOENT (the VM was not
 * retrieved, or its session is finished).
 */
#ifndef _UAPI_LINUX_LIVEUPDATE_KVM_H
#define _UAPI_LINUX_LIVEUPDATE_KVM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define LIVEUPDATE_KVM_IOCTL_TYPE	0xBA

/* What is behind a slot, in struct liveupdate_kvm_slot. */
enum {
	LIVEUPDATE_KVM_MEMFD = 0,
	LIVEUPDATE_KVM_GUEST_MEMFD = 1,
};

/**
 * struct liveupdate_kvm_slot - a memory slot
 * @slot:           its number; bits 16 to 31 are the address space, as in
 *                  KVM_SET_USER_MEMORY_REGION2
 * @flags:          KVM_MEM_*
 * @guest_phys_addr: where the guest sees it
 * @memory_size:    in bytes
 * @userspace_addr: where the VMM maps it; what GET gives is where it was mapped
 * @offset:         in the file behind it, in bytes
 * @token:          of that file, in the session
 * @backing:        LIVEUPDATE_KVM_MEMFD or LIVEUPDATE_KVM_GUEST_MEMFD
 * @present:        1: the slot was created
 */
struct liveupdate_kvm_slot {
	__u32 slot;
	__u32 flags;
	__aligned_u64 guest_phys_addr;
	__aligned_u64 memory_size;
	__aligned_u64 userspace_addr;
	__aligned_u64 offset;
	__aligned_u64 token;
	__u32 backing;
	__u32 present;
};

/**
 * struct liveupdate_kvm_memory - argument of both calls
 * @size:     of this structure
 * @vm:       file descriptor of the VM
 * @nr_slots: length of @slots; GET sets it to the number of slots that there are
 * @reserved: zero
 * @slots:    struct liveupdate_kvm_slot[]
 */
struct liveupdate_kvm_memory {
	__u32 size;
	__s32 vm;
	__u32 nr_slots;
	__u32 reserved;
	__aligned_u64 slots;
};

/*
 * GET: fills @slots, in the order of their numbers. ENOSPC: there are more than
 * fit; nothing but @nr_slots was written, so that it can be called again.
 */
#define LIVEUPDATE_KVM_GET_MEMORY \
	_IOWR(LIVEUPDATE_KVM_IOCTL_TYPE, 0x80, struct liveupdate_kvm_memory)

/*
 * SET: creates slots, and completes the VM. Of each entry only @slot and
 * @userspace_addr count, all else comes from the record. The address has to map
 * the file behind the slot, shared, at its offset, over its whole size (EINVAL if
 * not). A slot that is there already moves. Entries are taken in order, up to the
 * first error.
 *
 * EAGAIN: everything given was done, but slots or vCPUs are still missing; the
 * kernel's log names one. The call is made again, for what is missing only, or
 * with no slots. EALREADY: the VM is complete. E2BIG: more entries than there can
 * be slots. Of calls by several processes the last one counts; but where a call
 * failed while it loaded states, the VM stays with its process, and those of others
 * fail with EBUSY. EINTR: a signal came before anything was done.
 */
#define LIVEUPDATE_KVM_SET_MEMORY \
	_IOW(LIVEUPDATE_KVM_IOCTL_TYPE, 0x81, struct liveupdate_kvm_memory)

#endif
