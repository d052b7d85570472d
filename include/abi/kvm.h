/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Virtual machines: a VM and its vCPUs, version 2 each, and its guest_memfds,
 * version 1.
 *
 * What KVM itself reads and writes as structures of <linux/kvm.h> goes into a
 * blob of sections, in the layout of x86-64, which is an ABI already. The node
 * of a VM, and that of a vCPU, has a child "state", a bulk record that leads to
 * its blob; that of a guest_memfd has a child "pages", a bulk record as well
 * (the index of a run counts pages of 4 KiB; its flags are zero), and a child
 * "slots", which leads to a blob of FERRY_KVM_SLOT sections.
 *
 * A VM with anything that is not said here, or with a value that the reader
 * cannot give back, is refused as a whole.
 */
#ifndef FERRY_ABI_KVM_H
#define FERRY_ABI_KVM_H

#include <ferry/record.h>

#define FERRY_KVM_VM_COMPATIBLE		"kvm-vm-v1"
#define FERRY_KVM_VCPU_COMPATIBLE	"kvm-vcpu-v1"
#define FERRY_KVM_GMEM_COMPATIBLE	"guest-memfd-v1"

/* ---- blobs of sections ---- */

/*
 * Of one blob, in bytes, on both sides: a VM with 32,764 slots and the dirty log
 * of a TiB fits.
 */
#define FERRY_KVM_BLOB_MAX	(64ull << 20)

/* A section: this header, and @bytes of data, filled up with zeros to 8. */
struct ferry_kvm_section {
	unsigned int kind;
	unsigned int bytes;
};

/*
 * Kinds of sections, of a vCPU from 1, of a VM from 64. Each is there once at
 * the most, but for those marked (n).
 */
enum ferry_kvm_kind {
	FERRY_KVM_REGS = 1,		/* struct kvm_regs */
	FERRY_KVM_SREGS = 2,		/* struct kvm_sregs2 */
	FERRY_KVM_XSAVE = 3,		/* struct kvm_xsave, of KVM_CAP_XSAVE2 bytes */
	FERRY_KVM_XCRS = 4,		/* struct kvm_xcrs */
	FERRY_KVM_LAPIC = 5,		/* struct kvm_lapic_state */
	FERRY_KVM_EVENTS = 6,		/* struct kvm_vcpu_events */
	FERRY_KVM_DEBUGREGS = 7,	/* struct kvm_debugregs */
	FERRY_KVM_MP_STATE = 8,		/* struct kvm_mp_state */
	FERRY_KVM_CPUID = 9,		/* struct kvm_cpuid2 */
	FERRY_KVM_NESTED = 10,		/* struct kvm_nested_state */
	FERRY_KVM_MSRS = 11,		/* struct ferry_kvm_msr[] */
	FERRY_KVM_ONE_REGS = 12,	/* struct ferry_kvm_one_reg[]; since version 2 */

	FERRY_KVM_PIC_MASTER = 64,	/* struct kvm_irqchip */
	FERRY_KVM_PIC_SLAVE = 65,	/* struct kvm_irqchip */
	FERRY_KVM_IOAPIC = 66,		/* struct kvm_irqchip */
	FERRY_KVM_PIT = 67,		/* struct kvm_pit_state2 */
	FERRY_KVM_ROUTING = 68,		/* struct kvm_irq_routing */
	FERRY_KVM_MSR_FILTER = 69,	/* struct ferry_kvm_msr_filter, ranges, bitmaps */
	FERRY_KVM_PMU_FILTER = 70,	/* struct kvm_pmu_event_filter */
	FERRY_KVM_SLOT = 71,		/* (n) struct ferry_kvm_slot */
	FERRY_KVM_DIRTY = 72,		/* (n) struct ferry_kvm_dirty, bitmap */
	FERRY_KVM_VCPUS = 73,		/* unsigned int[]: numbers, in the order of creation */
};

/* The layout of struct kvm_msr_entry. */
struct ferry_kvm_msr {
	unsigned int index;
	unsigned int reserved;
	unsigned long long value;
};

/* A register of KVM_GET_REG_LIST, which all have 8 bytes. */
struct ferry_kvm_one_reg {
	unsigned long long id;
	unsigned long long value;
};

/**
 * struct ferry_kvm_slot - a memory slot
 * @slot:  number; bits 16 to 31 are the address space
 * @flags: KVM_MEM_*
 * @gfn:   first page of the guest, of 4 KiB
 * @pages: length, in pages of 4 KiB
 * @hva:   where the VMM mapped it, in bytes
 * @first: page of the file behind it
 * @need:  which of the files that the VM needs is behind it; of a guest_memfd, 0
 */
struct ferry_kvm_slot {
	unsigned int slot;
	unsigned int flags;
	unsigned long long gfn;
	unsigned long long pages;
	unsigned long long hva;
	unsigned long long first;
	unsigned int need;
	unsigned int reserved;
};

/* Pages of a slot that were written since the VMM last asked: a bit for each. */
struct ferry_kvm_dirty {
	unsigned int slot;
	unsigned int reserved;
};

/* The MSR filter: @ranges of struct ferry_kvm_msr_range, then their bitmaps. */
struct ferry_kvm_msr_filter {
	unsigned int ranges;
	unsigned int deny_by_default;
};

/* A bitmap of @msrs bits, in words of 8 bytes: 1 allows. */
struct ferry_kvm_msr_range {
	unsigned int flags;
	unsigned int base;
	unsigned int msrs;
	unsigned int reserved;
};

/* ---- a VM ---- */

/*
 * What KVM_ENABLE_CAP and other calls set and no call reads; the names are those
 * of the capabilities, the values their arguments, unless said otherwise.
 *
 * irqchip:        0 none, 1 in the kernel, 2 split
 * pit:            0 none, 1 there, 2 with the speaker port as well
 * boot_cpu:       KVM_SET_BOOT_CPU_ID
 * halt_poll_ns:   of the VM; ~0 means that of the module
 * vcpus, slots:   how many there are, of guest_memfd as well
 * clock:          kvmclock, in ns, when ...
 * tsc:            ... the host's time-stamp counter was this
 * tsc_khz:        of the host, as the last kernel measured it
 * pit_no_reinject: KVM_REINJECT_CONTROL with 0
 */
#define FERRY_KVM_VM_FIELDS(F, T)						\
	F(T, U32, type, 1, 0, 0, 0)						\
	F(T, U32, irqchip, 1, 0, 2, 0)						\
	F(T, U32, split_pins, 1, 0, 4096, 0)					\
	F(T, U32, pit, 1, 0, 2, 0)						\
	F(T, U32, boot_cpu, 1, 0, 0xffffffffull, 0)				\
	F(T, U32, max_vcpu_id, 1, 0, 0xffffffffull, 0)				\
	F(T, U64, disabled_quirks, 1, 0, ~0ull, 0)				\
	F(T, U64, disabled_exits, 1, 0, ~0ull, 0)				\
	F(T, U64, x2apic_api, 1, 0, ~0ull, 0)					\
	F(T, U64, user_space_msr, 1, 0, ~0ull, 0)				\
	F(T, U64, exit_hypercall, 1, 0, ~0ull, 0)				\
	F(T, U64, notify_vmexit, 1, 0, ~0ull, 0)				\
	F(T, U64, manual_dirty_log, 1, 0, ~0ull, 0)				\
	F(T, U64, apic_bus_cycles_ns, 1, 0, ~0ull, 0)				\
	F(T, U64, halt_poll_ns, 1, 0, ~0ull, 0)					\
	F(T, U32, dirty_ring_bytes, 1, 0, 0xffffffffull, 0)			\
	F(T, U32, dirty_ring_bitmap, 1, 0, 1, 0)				\
	F(T, U32, platform_info, 1, 0, 1, 0)					\
	F(T, U32, exception_payload, 1, 0, 1, 0)				\
	F(T, U32, triple_fault_event, 1, 0, 1, 0)				\
	F(T, U32, bus_lock_exit, 1, 0, 1, 0)					\
	F(T, U32, emulation_failure_exit, 1, 0, 1, 0)				\
	F(T, U32, pmu, 1, 0, 1, 0)						\
	F(T, U32, nx_huge_pages_off, 1, 0, 1, 0)				\
	F(T, U32, vcpus, 1, 0, 65536, 0)					\
	F(T, U32, slots, 1, 0, 65536, 0)					\
	F(T, U64, clock, 1, 0, ~0ull, 0)					\
	F(T, U64, tsc, 1, 0, ~0ull, 0)						\
	F(T, U32, tsc_khz, 1, 1, 0xffffffffull, 0)				\
	F(T, U32, pit_no_reinject, 2, 0, 1, 0)
FERRY_RECORD(ferry_kvm_vm, "kvm-vm", 2, 1, FERRY_KVM_VM_FIELDS);

/* ---- a vCPU ---- */

/* Bits of "features". */
#define FERRY_KVM_SYNIC			1	/* KVM_CAP_HYPERV_SYNIC */
#define FERRY_KVM_SYNIC2		2	/* KVM_CAP_HYPERV_SYNIC2 */
#define FERRY_KVM_PV_ENFORCE		4	/* KVM_CAP_ENFORCE_PV_FEATURE_CPUID */
#define FERRY_KVM_HV_ENFORCE		8	/* KVM_CAP_HYPERV_ENFORCE_CPUID */

/*
 * id:          KVM_CREATE_VCPU
 * features:    FERRY_KVM_*
 * mcg_cap:     KVM_X86_SETUP_MCE
 * tsc:         the host's time-stamp counter, which runs on through a kexec, at
 *              some time in the freeze
 * tsc_offset:  guest's counter less the host's
 * tsc_ratio:   of the counters' rates, in the hardware's format; 0: they are one
 * tsc_khz, tsc_mult, tsc_shift, tsc_catchup: what KVM_SET_TSC_KHZ made of the
 *              rate; the next kernel may measure the host's a little differently,
 *              and would make something else of it
 */
#define FERRY_KVM_VCPU_FIELDS(F, T)						\
	F(T, U32, id, 1, 0, 0xffffff, 0)					\
	F(T, U32, features, 1, 0, 15, 0)					\
	F(T, U64, mcg_cap, 1, 0, ~0ull, 0)					\
	F(T, U64, tsc, 1, 0, ~0ull, 0)						\
	F(T, U64, tsc_offset, 1, 0, ~0ull, 0)					\
	F(T, U64, tsc_ratio, 1, 0, ~0ull, 0)					\
	F(T, U32, tsc_khz, 1, 0, 0xffffffffull, 0)				\
	F(T, U32, tsc_mult, 1, 0, 0xffffffffull, 0)				\
	F(T, U32, tsc_shift, 1, 0, 255, 0)					\
	F(T, U32, tsc_catchup, 1, 0, 3, 0)
FERRY_RECORD(ferry_kvm_vcpu, "kvm-vcpu", 2, 1, FERRY_KVM_VCPU_FIELDS);

/* ---- a guest_memfd ---- */

/*
 * bytes: length
 * flags: GUEST_MEMFD_FLAG_*; one with private pages has no
 *        GUEST_MEMFD_FLAG_INIT_SHARED, and is not carried yet
 */
#define FERRY_KVM_GMEM_FIELDS(F, T)						\
	F(T, U64, bytes, 1, 4096, 0x7ffffffffffff000ull, 0)			\
	F(T, U64, flags, 1, 0, ~0ull, 0)
FERRY_RECORD(ferry_kvm_gmem, "guest-memfd", 1, 1, FERRY_KVM_GMEM_FIELDS);

#endif
