// SPDX-License-Identifier: GPL-2.0
/* What a VM and a vCPU are, besides their state: read from the structures, and set by ioctls. */
#include <linux/kvm_host.h>
#include <linux/srcu.h>
#include <asm/msr.h>
#include <asm/tsc.h>

#include "linux_internal.h"

/* Of arch/x86/kvm/i8254.h: the port of KVM_PIT_SPEAKER_DUMMY. */
#define SPEAKER_PORT	0x61

/* ---- reading ---- */

static u32 pit_of(struct kvm *kvm)
{
	struct kvm_io_bus *bus;
	u32 pit = 0;
	int i, idx;

	if (!has_pit(kvm))
		return 0;
	pit = 1;
	idx = srcu_read_lock(&kvm->srcu);
	bus = srcu_dereference(kvm->buses[KVM_PIO_BUS], &kvm->srcu);
	for (i = 0; bus && i < bus->dev_count; i++) {
		if (bus->range[i].addr == SPEAKER_PORT)
			pit = 2;
	}
	srcu_read_unlock(&kvm->srcu, idx);
	return pit;
}

static u64 x2apic_api_of(struct kvm_arch *arch)
{
	u64 api = 0;

	if (arch->x2apic_format)
		api |= KVM_X2APIC_API_USE_32BIT_IDS;
	if (arch->x2apic_broadcast_quirk_disabled)
		api |= KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
	if (arch->suppress_eoi_broadcast_mode == KVM_SUPPRESS_EOI_BROADCAST_ENABLED)
		api |= KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST;
	if (arch->suppress_eoi_broadcast_mode == KVM_SUPPRESS_EOI_BROADCAST_DISABLED)
		api |= KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST;
	return api;
}

static u32 slots_of(struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	int as, bkt, idx;
	u32 nr = 0;

	idx = srcu_read_lock(&kvm->srcu);
	for (as = 0; as < kvm_arch_nr_memslot_as_ids(kvm); as++) {
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, as))
			nr += slot->id < KVM_USER_MEM_SLOTS;
	}
	srcu_read_unlock(&kvm->srcu, idx);
	return nr;
}

static const char *refusal_of(struct kvm *kvm)
{
	struct kvm_arch *arch = &kvm->arch;

	if (kvm->vm_dead || kvm->vm_bugged)
		return "it is dead";
	/* What it was is not in it yet. */
	if (test_bit(KVM_LIVEUPDATE_PARKED, &kvm->liveupdate))
		return "it came out of a live update, and is not complete yet";
	if (arch->vm_type != KVM_X86_DEFAULT_VM)
		return "it is of a protected type";
	if (arch->has_private_mem || arch->has_protected_state)
		return "it has private memory or protected state";
#ifdef CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES
	if (!xa_empty(&kvm->mem_attr_array))
		return "it has memory attributes";
#endif
#ifdef CONFIG_KVM_XEN
	if (arch->xen.hvm_config.flags || arch->xen.hvm_config.msr)
		return "it emulates Xen";
#endif
	if (arch->sgx_provisioning_allowed)
		return "it may use SGX's provisioning key";
	return NULL;
}

const char *linux_kvm_vm_look(struct kvm *kvm, struct ferry_kvm_vm *record)
{
	struct kvm_arch *arch = &kvm->arch;

	record->type = arch->vm_type;
	record->irqchip = arch->irqchip_mode == KVM_IRQCHIP_NONE ? 0 :
			  arch->irqchip_mode == KVM_IRQCHIP_SPLIT ? 2 : 1;
	record->split_pins = record->irqchip == 2 ? arch->nr_reserved_ioapic_pins : 0;
	record->pit = pit_of(kvm);
	record->boot_cpu = arch->bsp_vcpu_id;
	record->max_vcpu_id = arch->max_vcpu_ids;
	record->disabled_quirks = READ_ONCE(arch->disabled_quirks);
	record->disabled_exits = arch->disabled_exits;
	record->x2apic_api = x2apic_api_of(arch);
	record->user_space_msr = arch->user_space_msr_mask;
	record->exit_hypercall = arch->hypercall_exit_enabled;
	record->notify_vmexit = (u64)arch->notify_window << 32 | arch->notify_vmexit_flags;
	record->manual_dirty_log = kvm->manual_dirty_log_protect;
	record->apic_bus_cycles_ns = arch->apic_bus_cycle_ns;
	record->halt_poll_ns = kvm->override_halt_poll_ns ? kvm->max_halt_poll_ns : ~0ull;
	record->dirty_ring_bytes = kvm->dirty_ring_size;
	record->dirty_ring_bitmap = kvm->dirty_ring_with_bitmap;
	record->platform_info = arch->guest_can_read_msr_platform_info;
	record->exception_payload = arch->exception_payload_enabled;
	record->triple_fault_event = arch->triple_fault_event;
	record->bus_lock_exit = arch->bus_lock_detection_enabled;
	record->emulation_failure_exit = arch->exit_on_emulation_error;
	record->pmu = arch->enable_pmu;
	record->nx_huge_pages_off = arch->disable_nx_huge_pages;
	record->pit_no_reinject = has_pit(kvm) && !kvm_pit_reinjects(kvm);
	record->vcpus = atomic_read(&kvm->online_vcpus);
	record->slots = slots_of(kvm);
	return refusal_of(kvm);
}

static u32 features_of(struct kvm_vcpu *vcpu)
{
	u32 features = vcpu->arch.pv_cpuid.enforce ? FERRY_KVM_PV_ENFORCE : 0;
#ifdef CONFIG_KVM_HYPERV
	if (kvm_hv_cap_is_enabled(vcpu, KVM_CAP_HYPERV_SYNIC))
		features |= FERRY_KVM_SYNIC;
	if (kvm_hv_cap_is_enabled(vcpu, KVM_CAP_HYPERV_SYNIC2))
		features |= FERRY_KVM_SYNIC2;
	if (kvm_hv_cap_is_enabled(vcpu, KVM_CAP_HYPERV_ENFORCE_CPUID))
		features |= FERRY_KVM_HV_ENFORCE;
#endif
	return features;
}

/*
 * On a host that cannot scale, KVM leaves 0 in the field when it thinks that the
 * guest's counter should be slower than the host's, which a refined calibration of
 * the host's is enough for.
 */
static u64 tsc_ratio_of(struct kvm_vcpu_arch *arch)
{
	if (!kvm_caps.has_tsc_control ||
	    arch->l1_tsc_scaling_ratio == kvm_caps.default_tsc_scaling_ratio)
		return 0;
	return arch->l1_tsc_scaling_ratio;
}

void linux_kvm_vcpu_look(struct file *file, struct ferry_kvm_vcpu *record)
{
	struct kvm_vcpu *vcpu = vcpu_of(file);
	struct kvm_vcpu_arch *arch = &vcpu->arch;

	record->id = vcpu->vcpu_id;
	record->features = features_of(vcpu);
	record->mcg_cap = arch->mcg_cap;
	record->tsc = rdtsc();
	record->tsc_offset = arch->l1_tsc_offset;
	record->tsc_ratio = tsc_ratio_of(arch);
	record->tsc_khz = arch->virtual_tsc_khz;
	record->tsc_mult = arch->virtual_tsc_mult;
	record->tsc_shift = (u8)arch->virtual_tsc_shift;
	record->tsc_catchup = arch->tsc_catchup | arch->tsc_always_catchup << 1;
}

long linux_kvm_vcpu_number(struct kvm *kvm, unsigned int nth)
{
	struct kvm_vcpu *vcpu = kvm_get_vcpu(kvm, nth);

	return vcpu ? vcpu->vcpu_id : -ENOENT;
}

/* ---- setting ---- */

static int enable_cap(unsigned long scratch, struct file *file, u32 cap, u64 arg0)
{
	struct kvm_enable_cap enable = { .cap = cap, .args = { arg0 } };

	return linux_ioctl_with(scratch, file, KVM_ENABLE_CAP, &enable, sizeof(enable), 0);
}

/* Capabilities whose argument is a field of the record. */
static const struct {
	u32 cap;
	u16 offset;
	u16 bytes;
} caps[] = {
#define CAP(cap, field) { cap, offsetof(struct ferry_kvm_vm, field), \
			  sizeof_field(struct ferry_kvm_vm, field) }
	CAP(KVM_CAP_DISABLE_QUIRKS2, disabled_quirks),
	CAP(KVM_CAP_X86_DISABLE_EXITS, disabled_exits),
	CAP(KVM_CAP_X2APIC_API, x2apic_api),
	CAP(KVM_CAP_X86_USER_SPACE_MSR, user_space_msr),
	CAP(KVM_CAP_EXIT_HYPERCALL, exit_hypercall),
	CAP(KVM_CAP_X86_NOTIFY_VMEXIT, notify_vmexit),
	CAP(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual_dirty_log),
	CAP(KVM_CAP_X86_APIC_BUS_CYCLES_NS, apic_bus_cycles_ns),
	CAP(KVM_CAP_HALT_POLL, halt_poll_ns),
	CAP(KVM_CAP_DIRTY_LOG_RING_ACQ_REL, dirty_ring_bytes),
	CAP(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, dirty_ring_bitmap),
	CAP(KVM_CAP_MSR_PLATFORM_INFO, platform_info),
	CAP(KVM_CAP_EXCEPTION_PAYLOAD, exception_payload),
	CAP(KVM_CAP_X86_TRIPLE_FAULT_EVENT, triple_fault_event),
	CAP(KVM_CAP_EXIT_ON_EMULATION_FAILURE, emulation_failure_exit),
	CAP(KVM_CAP_MAX_VCPU_ID, max_vcpu_id),
#undef CAP
};

static u64 value_of(const struct ferry_kvm_vm *record, u16 offset, u16 bytes)
{
	const void *at = (const char *)record + offset;

	return bytes == sizeof(u64) ? *(const u64 *)at : *(const u32 *)at;
}

static int create_irqchip(unsigned long scratch, struct file *vm, const struct ferry_kvm_vm *want)
{
	if (want->irqchip == 1)
		return linux_ioctl(vm, KVM_CREATE_IRQCHIP, 0);
	return enable_cap(scratch, vm, KVM_CAP_SPLIT_IRQCHIP, want->split_pins);
}

static int create_pit(unsigned long scratch, struct file *vm, const struct ferry_kvm_vm *want)
{
	struct kvm_pit_config pit = {
		.flags = want->pit == 2 ? KVM_PIT_SPEAKER_DUMMY : 0,
	};

	return linux_ioctl_with(scratch, vm, KVM_CREATE_PIT2, &pit, sizeof(pit), 0);
}

static int set_reinject(unsigned long scratch, struct file *vm, const struct ferry_kvm_vm *want)
{
	struct kvm_reinject_control control = { .pit_reinject = !want->pit_no_reinject };

	return linux_ioctl_with(scratch, vm, KVM_REINJECT_CONTROL, &control, sizeof(control), 0);
}

int linux_kvm_set_field(unsigned long scratch, struct file *vm, const struct ferry_kvm_vm *want,
			unsigned int offset)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(caps); i++) {
		if (caps[i].offset == offset)
			return enable_cap(scratch, vm, caps[i].cap,
					  value_of(want, offset, caps[i].bytes));
	}
	/* Those whose argument is not what they set, and other calls. */
	switch (offset) {
	case offsetof(struct ferry_kvm_vm, irqchip):
		return create_irqchip(scratch, vm, want);
	case offsetof(struct ferry_kvm_vm, pit):
		return create_pit(scratch, vm, want);
	case offsetof(struct ferry_kvm_vm, pit_no_reinject):
		return set_reinject(scratch, vm, want);
	case offsetof(struct ferry_kvm_vm, boot_cpu):
		return linux_ioctl(vm, KVM_SET_BOOT_CPU_ID, want->boot_cpu);
	case offsetof(struct ferry_kvm_vm, bus_lock_exit):
		return enable_cap(scratch, vm, KVM_CAP_X86_BUS_LOCK_EXIT,
				  KVM_BUS_LOCK_DETECTION_EXIT);
	case offsetof(struct ferry_kvm_vm, pmu):
		return enable_cap(scratch, vm, KVM_CAP_PMU_CAPABILITY,
				  want->pmu ? 0 : KVM_PMU_CAP_DISABLE);
	case offsetof(struct ferry_kvm_vm, nx_huge_pages_off):
		return enable_cap(scratch, vm, KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 0);
	default:
		return 0;
	}
}

static int set_features(unsigned long scratch, struct file *vcpu, u32 features)
{
	int err = 0;

	if (features & FERRY_KVM_SYNIC)
		err = enable_cap(scratch, vcpu, KVM_CAP_HYPERV_SYNIC, 0);
	if (!err && features & FERRY_KVM_SYNIC2)
		err = enable_cap(scratch, vcpu, KVM_CAP_HYPERV_SYNIC2, 0);
	if (!err && features & FERRY_KVM_PV_ENFORCE)
		err = enable_cap(scratch, vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1);
	if (!err && features & FERRY_KVM_HV_ENFORCE)
		err = enable_cap(scratch, vcpu, KVM_CAP_HYPERV_ENFORCE_CPUID, 1);
	return err;
}

int linux_kvm_configure_vcpu(unsigned long scratch, struct file *vcpu,
			     const struct ferry_kvm_vcpu *want)
{
	u64 mcg_cap = want->mcg_cap;
	int err = set_features(scratch, vcpu, want->features);

	if (err || mcg_cap == vcpu_of(vcpu)->arch.mcg_cap)
		return err;
	return linux_ioctl_with(scratch, vcpu, KVM_X86_SETUP_MCE, &mcg_cap, sizeof(mcg_cap), 0);
}

static u64 scale_tsc(u64 tsc, u64 ratio)
{
	return mul_u64_u64_shr(tsc, ratio, kvm_caps.tsc_scaling_ratio_frac_bits);
}

/*
 * The counter that the guest sees is the host's, which a kexec does not reset,
 * times a ratio, plus an offset. Where the ratio is one, keep it and the offset:
 * KVM_SET_TSC_KHZ would compare the rate with what this kernel has measured, and
 * on a host that cannot scale let the guest's counter run by a clock of its own
 * if the two differ, be it only by the error of the measurement.
 */
int linux_kvm_set_tsc(unsigned long scratch, struct file *file, const struct ferry_kvm_vcpu *want)
{
	struct kvm_vcpu_arch *arch = &vcpu_of(file)->arch;
	struct {
		struct kvm_device_attr attr;
		u64 offset;
	} arg = {
		.attr = {
			.group = KVM_VCPU_TSC_CTRL,
			.attr = KVM_VCPU_TSC_OFFSET,
			.addr = scratch + sizeof(struct kvm_device_attr),
		},
		.offset = want->tsc_offset,
	};
	long err;

	if (want->tsc_ratio) {
		err = linux_ioctl(file, KVM_SET_TSC_KHZ, want->tsc_khz);
		if (err < 0)
			return err;
		/* The ratio may come out a little differently: go on from where it was. */
		arg.offset += scale_tsc(want->tsc, want->tsc_ratio) -
			      scale_tsc(want->tsc, arch->l1_tsc_scaling_ratio);
	} else {
		/* The creation of the vCPU may have made something else of it. */
		arch->l1_tsc_scaling_ratio = kvm_caps.default_tsc_scaling_ratio;
		arch->tsc_scaling_ratio = kvm_caps.default_tsc_scaling_ratio;
		arch->virtual_tsc_khz = want->tsc_khz;
		arch->virtual_tsc_mult = want->tsc_mult;
		arch->virtual_tsc_shift = (s8)want->tsc_shift;
		arch->tsc_catchup = want->tsc_catchup & 1;
		arch->tsc_always_catchup = want->tsc_catchup >> 1;
	}
	return linux_ioctl_with(scratch, file, KVM_SET_DEVICE_ATTR, &arg, sizeof(arg), 0);
}
