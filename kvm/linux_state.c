// SPDX-License-Identifier: GPL-2.0
/* The states of VMs and vCPUs, as KVM's ioctls read and write them. */
#include <linux/kvm_host.h>
#include <linux/srcu.h>
#include <linux/string.h>

#include "linux_internal.h"

static_assert(sizeof(struct ferry_kvm_msr) == sizeof(struct kvm_msr_entry));

/* Of arch/x86/kvm/irq.h, which modules of other trees cannot include. */
void kvm_inject_pending_timer_irqs(struct kvm_vcpu *vcpu);

/* ---- states that are one structure ---- */

struct plain {
	unsigned int get, set, bytes;
};

/* Indexed by enum ferry_kvm_kind. */
static const struct plain plain_states[] = {
	[FERRY_KVM_SREGS] = { KVM_GET_SREGS2, KVM_SET_SREGS2, sizeof(struct kvm_sregs2) },
	[FERRY_KVM_XCRS] = { KVM_GET_XCRS, KVM_SET_XCRS, sizeof(struct kvm_xcrs) },
	[FERRY_KVM_LAPIC] = { KVM_GET_LAPIC, KVM_SET_LAPIC, sizeof(struct kvm_lapic_state) },
	[FERRY_KVM_EVENTS] = { KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS,
			       sizeof(struct kvm_vcpu_events) },
	[FERRY_KVM_DEBUGREGS] = { KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS,
				  sizeof(struct kvm_debugregs) },
	[FERRY_KVM_REGS] = { KVM_GET_REGS, KVM_SET_REGS, sizeof(struct kvm_regs) },
	[FERRY_KVM_MP_STATE] = { KVM_GET_MP_STATE, KVM_SET_MP_STATE,
				 sizeof(struct kvm_mp_state) },
	[FERRY_KVM_PIT] = { KVM_GET_PIT2, KVM_SET_PIT2, sizeof(struct kvm_pit_state2) },
};

static const struct plain *plain_state(unsigned int kind)
{
	if (kind < ARRAY_SIZE(plain_states) && plain_states[kind].set)
		return &plain_states[kind];
	return NULL;
}

static int get_plain(unsigned long scratch, struct file *file, const struct plain *state,
		     void *data)
{
	long err = linux_ioctl_with(scratch, file, state->get, data, 0, state->bytes);

	return err < 0 ? err : state->bytes;
}

/*
 * Without KVM_CAP_EXCEPTION_PAYLOAD a pending exception is told as one that was
 * injected already, and without the other a triple fault is not told at all: so
 * both are on for the call, both ways. The VM is frozen, or parked.
 */
static long call_events(unsigned long scratch, struct file *file, unsigned int request,
			struct kvm_vcpu_events *events, size_t in, size_t out)
{
	struct kvm_arch *arch = &vcpu_of(file)->kvm->arch;
	bool payload = arch->exception_payload_enabled;
	bool triple_fault = arch->triple_fault_event;
	long ret;

	arch->exception_payload_enabled = true;
	arch->triple_fault_event = true;
	ret = linux_ioctl_with(scratch, file, request, events, in, out);
	arch->exception_payload_enabled = payload;
	arch->triple_fault_event = triple_fault;
	return ret;
}

/* ---- states with a length of their own ---- */

static int get_cpuid(unsigned long scratch, struct file *file, struct kvm_cpuid2 *cpuid,
		     size_t room)
{
	long err;

	cpuid->nent = KVM_MAX_CPUID_ENTRIES;
	cpuid->padding = 0;
	err = linux_ioctl_with(scratch, file, KVM_GET_CPUID2, cpuid, sizeof(*cpuid), sizeof(*cpuid));
	if (err < 0)
		return err;
	if (struct_size(cpuid, entries, cpuid->nent) > room)
		return -E2BIG;
	err = linux_scratch_take(cpuid, scratch, struct_size(cpuid, entries, cpuid->nent));
	return err ?: (int)struct_size(cpuid, entries, cpuid->nent);
}

static int get_nested(unsigned long scratch, struct file *file, struct kvm_nested_state *nested,
		      size_t room)
{
	long err;

	memset(nested, 0, sizeof(*nested));
	nested->size = LINUX_KVM_SCRATCH_BYTES;
	err = linux_ioctl_with(scratch, file, KVM_GET_NESTED_STATE, nested, sizeof(*nested),
			sizeof(*nested));
	/* No nesting on this host. */
	if (err == -EINVAL)
		return 0;
	if (err < 0)
		return err;
	if (nested->size > room)
		return -E2BIG;
	err = linux_scratch_take(nested, scratch, nested->size);
	return err ?: (int)nested->size;
}

static int get_xsave(unsigned long scratch, struct file *file, void *data, size_t room)
{
	size_t bytes = vcpu_of(file)->arch.guest_fpu.uabi_size;
	long err;

	if (bytes > room)
		return -E2BIG;
	err = linux_ioctl_with(scratch, file, KVM_GET_XSAVE2, data, 0, bytes);
	return err < 0 ? err : (int)bytes;
}

/* Where the value of a register is in scratch memory, behind the call's argument. */
#define ONE_REG_VALUE	64

static int call_one_reg(unsigned long scratch, struct file *file, unsigned int request,
			 const struct ferry_kvm_one_reg *reg)
{
	struct kvm_one_reg arg = { .id = reg->id, .addr = scratch + ONE_REG_VALUE };

	return linux_ioctl_with(scratch, file, request, &arg, sizeof(arg), 0);
}

/* Registers without an MSR; a vCPU without any has no list, either. */
static int get_one_regs(unsigned long scratch, struct file *file, struct ferry_kvm_one_reg *reg,
			size_t room)
{
	struct kvm_reg_list list = { .n = room / sizeof(*reg) };
	long err = linux_ioctl_with(scratch, file, KVM_GET_REG_LIST, &list, sizeof(list),
				    sizeof(list));
	u64 i;

	if (err < 0)
		return err == -EINVAL ? 0 : err;
	for (i = 0; i < list.n; i++) {
		err = linux_scratch_take(&reg[i].id, scratch + sizeof(list) + i * sizeof(u64),
					 sizeof(u64));
		if (err)
			return err;
	}
	for (i = 0; i < list.n; i++) {
		err = call_one_reg(scratch, file, KVM_GET_ONE_REG, &reg[i]);
		if (!err)
			err = linux_scratch_take(&reg[i].value, scratch + ONE_REG_VALUE,
						 sizeof(u64));
		if (err)
			return err;
	}
	return list.n * sizeof(*reg);
}

static int set_one_regs(unsigned long scratch, struct file *file,
			const struct ferry_kvm_one_reg *reg, size_t bytes)
{
	size_t i;

	if (bytes % sizeof(*reg))
		return -EBADMSG;
	for (i = 0; i < bytes / sizeof(*reg); i++) {
		int err = linux_scratch_put(scratch + ONE_REG_VALUE, &reg[i].value, sizeof(u64));

		err = err ?: call_one_reg(scratch, file, KVM_SET_ONE_REG, &reg[i]);
		if (err)
			return err;
	}
	return 0;
}

static int get_irqchip(unsigned long scratch, struct file *file, u32 chip, struct kvm_irqchip *data)
{
	long err;

	memset(data, 0, sizeof(*data));
	data->chip_id = chip;
	err = linux_ioctl_with(scratch, file, KVM_GET_IRQCHIP, data, sizeof(*data), sizeof(*data));
	return err < 0 ? err : (int)sizeof(*data);
}

/* ---- states that no ioctl reads ---- */

static int route_of(const struct kvm_kernel_irq_routing_entry *from,
		    struct kvm_irq_routing_entry *to)
{
	memset(to, 0, sizeof(*to));
	to->gsi = from->gsi;
	to->type = from->type;
	switch (from->type) {
	case KVM_IRQ_ROUTING_IRQCHIP:
		to->u.irqchip.irqchip = from->irqchip.irqchip;
		to->u.irqchip.pin = from->irqchip.pin;
		/* The kernel counts pins of both PICs on from one another. */
		if (from->irqchip.irqchip == KVM_IRQCHIP_PIC_SLAVE)
			to->u.irqchip.pin -= 8;
		return 0;
	case KVM_IRQ_ROUTING_MSI:
		to->u.msi.address_lo = from->msi.address_lo;
		to->u.msi.address_hi = from->msi.address_hi;
		to->u.msi.data = from->msi.data;
		to->u.msi.devid = from->msi.devid;
		to->flags = from->msi.flags;
		return 0;
	case KVM_IRQ_ROUTING_HV_SINT:
		to->u.hv_sint.vcpu = from->hv_sint.vcpu;
		to->u.hv_sint.sint = from->hv_sint.sint;
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static int get_routing(struct kvm *kvm, struct kvm_irq_routing *routing, size_t room)
{
	struct kvm_kernel_irq_routing_entry *entry;
	struct kvm_irq_routing_table *table;
	int idx, err = 0;
	u32 gsi;

	routing->nr = 0;
	routing->flags = 0;
	idx = srcu_read_lock(&kvm->irq_srcu);
	table = srcu_dereference(kvm->irq_routing, &kvm->irq_srcu);
	for (gsi = 0; table && gsi < table->nr_rt_entries && !err; gsi++) {
		hlist_for_each_entry(entry, &table->map[gsi], link) {
			if (struct_size(routing, entries, routing->nr + 1) > room)
				err = -E2BIG;
			else
				err = route_of(entry, &routing->entries[routing->nr]);
			if (err)
				break;
			routing->nr++;
		}
	}
	srcu_read_unlock(&kvm->irq_srcu, idx);
	if (err || !routing->nr)
		return err;
	return struct_size(routing, entries, routing->nr);
}

static int get_msr_filter(struct kvm *kvm, void *data, size_t room)
{
	struct ferry_kvm_msr_filter *head = data;
	struct ferry_kvm_msr_range *range = (void *)(head + 1);
	struct kvm_x86_msr_filter *filter;
	int bytes = 0, idx, i;
	char *bitmap;

	idx = srcu_read_lock(&kvm->srcu);
	filter = srcu_dereference(kvm->arch.msr_filter, &kvm->srcu);
	if (filter) {
		head->ranges = filter->count;
		head->deny_by_default = !filter->default_allow;
		bitmap = (char *)(range + filter->count);
		for (i = 0; i < filter->count && bytes >= 0; i++) {
			size_t size = BITS_TO_LONGS(filter->ranges[i].nmsrs) * sizeof(long);

			range[i] = (struct ferry_kvm_msr_range) {
				.flags = filter->ranges[i].flags,
				.base = filter->ranges[i].base,
				.msrs = filter->ranges[i].nmsrs,
			};
			if (bitmap + size > (char *)data + room) {
				bytes = -E2BIG;
				break;
			}
			memcpy(bitmap, filter->ranges[i].bitmap, size);
			bitmap += size;
		}
		if (!bytes)
			bytes = bitmap - (char *)data;
	}
	srcu_read_unlock(&kvm->srcu, idx);
	return bytes;
}

static int set_msr_filter(unsigned long scratch, struct file *file, const void *data, size_t bytes)
{
	const struct ferry_kvm_msr_filter *head = data;
	const struct ferry_kvm_msr_range *range = (const void *)(head + 1);
	struct kvm_msr_filter filter = { };
	/* The bitmaps come behind the structure, as they stand in the section. */
	unsigned long at = scratch + sizeof(filter);
	size_t done;
	int err;
	u32 i;

	if (bytes < sizeof(*head) || bytes > LINUX_KVM_SCRATCH_BYTES - sizeof(filter) ||
	    head->ranges > KVM_MSR_FILTER_MAX_RANGES ||
	    bytes < sizeof(*head) + head->ranges * sizeof(*range))
		return -EBADMSG;
	filter.flags = head->deny_by_default ? KVM_MSR_FILTER_DEFAULT_DENY : 0;
	done = sizeof(*head) + head->ranges * sizeof(*range);
	for (i = 0; i < head->ranges; i++) {
		size_t size = BITS_TO_LONGS((size_t)range[i].msrs) * sizeof(long);

		if (size > bytes - done)
			return -EBADMSG;
		filter.ranges[i].flags = range[i].flags;
		filter.ranges[i].base = range[i].base;
		filter.ranges[i].nmsrs = range[i].msrs;
		filter.ranges[i].bitmap = (void __force *)at;
		err = linux_scratch_put(at, data + done, size);
		if (err)
			return err;
		at += size;
		done += size;
	}
	return linux_ioctl_with(scratch, file, KVM_X86_SET_MSR_FILTER, &filter, sizeof(filter), 0);
}

static int get_pmu_filter(struct kvm *kvm, struct kvm_pmu_event_filter *data, size_t room)
{
	struct kvm_x86_pmu_event_filter *filter;
	int bytes = 0, idx;

	idx = srcu_read_lock(&kvm->srcu);
	filter = srcu_dereference(kvm->arch.pmu_event_filter, &kvm->srcu);
	if (filter && struct_size(data, events, filter->nevents) > room) {
		bytes = -E2BIG;
	} else if (filter) {
		memset(data, 0, sizeof(*data));
		data->action = filter->action;
		data->nevents = filter->nevents;
		data->fixed_counter_bitmap = filter->fixed_counter_bitmap;
		data->flags = filter->flags;
		memcpy(data->events, filter->events, filter->nevents * sizeof(u64));
		bytes = struct_size(data, events, filter->nevents);
	}
	srcu_read_unlock(&kvm->srcu, idx);
	return bytes;
}

/* ---- states ---- */

int linux_kvm_get(unsigned long scratch, struct file *file, unsigned int kind, void *data,
		  size_t room)
{
	const struct plain *state = plain_state(kind);
	struct kvm *kvm = linux_kvm_of(file);
	long err;

	if (room < (state ? state->bytes : sizeof(struct kvm_irqchip)))
		return -E2BIG;
	switch (kind) {
	case FERRY_KVM_EVENTS:
		err = call_events(scratch, file, KVM_GET_VCPU_EVENTS, data, 0,
				  sizeof(struct kvm_vcpu_events));
		return err < 0 ? err : (int)sizeof(struct kvm_vcpu_events);
	case FERRY_KVM_XCRS:
		if (!boot_cpu_has(X86_FEATURE_XSAVE))
			return 0;
		break;
	case FERRY_KVM_LAPIC:
		if (!vcpu_of(file)->arch.apic)
			return 0;
		break;
	case FERRY_KVM_PIT:
		if (!has_pit(kvm))
			return 0;
		break;
	case FERRY_KVM_CPUID:
		return get_cpuid(scratch, file, data, room);
	case FERRY_KVM_NESTED:
		return get_nested(scratch, file, data, room);
	case FERRY_KVM_XSAVE:
		return get_xsave(scratch, file, data, room);
	case FERRY_KVM_ONE_REGS:
		return get_one_regs(scratch, file, data, room);
	case FERRY_KVM_PIC_MASTER:
	case FERRY_KVM_PIC_SLAVE:
	case FERRY_KVM_IOAPIC:
		if (!has_full_irqchip(kvm))
			return 0;
		return get_irqchip(scratch, file, kind - FERRY_KVM_PIC_MASTER, data);
	case FERRY_KVM_ROUTING:
		return get_routing(kvm, data, room);
	case FERRY_KVM_MSR_FILTER:
		return get_msr_filter(kvm, data, room);
	case FERRY_KVM_PMU_FILTER:
		return get_pmu_filter(kvm, data, room);
	default:
		break;
	}
	return state ? get_plain(scratch, file, state, data) : -EINVAL;
}

static unsigned int request_of(unsigned int kind)
{
	switch (kind) {
	case FERRY_KVM_CPUID:
		return KVM_SET_CPUID2;
	case FERRY_KVM_NESTED:
		return KVM_SET_NESTED_STATE;
	case FERRY_KVM_XSAVE:
		return KVM_SET_XSAVE;
	case FERRY_KVM_PIC_MASTER:
	case FERRY_KVM_PIC_SLAVE:
	case FERRY_KVM_IOAPIC:
		return KVM_SET_IRQCHIP;
	case FERRY_KVM_ROUTING:
		return KVM_SET_GSI_ROUTING;
	case FERRY_KVM_PMU_FILTER:
		return KVM_SET_PMU_EVENT_FILTER;
	default:
		return 0;
	}
}

/* What the handler reads at least, whatever the length of the section. */
static size_t least_of(unsigned int kind, struct file *file, const void *data, size_t bytes)
{
	const struct plain *state = plain_state(kind);
	const struct kvm_pmu_event_filter *filter = data;
	const struct kvm_irq_routing *routing = data;
	const struct kvm_nested_state *nested = data;
	const struct kvm_cpuid2 *cpuid = data;

	if (state)
		return state->bytes;
	switch (kind) {
	case FERRY_KVM_CPUID:
		return bytes < sizeof(*cpuid) ? sizeof(*cpuid) :
						struct_size(cpuid, entries, cpuid->nent);
	case FERRY_KVM_NESTED:
		return bytes < sizeof(*nested) ? sizeof(*nested) : nested->size;
	case FERRY_KVM_XSAVE:
		return vcpu_of(file)->arch.guest_fpu.uabi_size;
	case FERRY_KVM_ROUTING:
		return bytes < sizeof(*routing) ? sizeof(*routing) :
						  struct_size(routing, entries, routing->nr);
	case FERRY_KVM_PMU_FILTER:
		return bytes < sizeof(*filter) ? sizeof(*filter) :
						 struct_size(filter, events, filter->nevents);
	default:
		return sizeof(struct kvm_irqchip);
	}
}

int linux_kvm_set(unsigned long scratch, struct file *file, unsigned int kind, const void *data,
		  size_t bytes)
{
	const struct plain *state = plain_state(kind);
	unsigned int request = state ? state->set : request_of(kind);
	/* KVM_SET_* only read. */
	void *arg = (void *)data;
	long err;

	if (kind == FERRY_KVM_MSR_FILTER)
		return set_msr_filter(scratch, file, data, bytes);
	if (kind == FERRY_KVM_ONE_REGS)
		return set_one_regs(scratch, file, data, bytes);
	if (!request)
		return -EINVAL;
	/* A shorter one would be read on into what was there before. */
	if (bytes < least_of(kind, file, data, bytes))
		return -EBADMSG;
	if (kind == FERRY_KVM_EVENTS)
		err = call_events(scratch, file, request, arg, bytes, 0);
	else
		err = linux_ioctl_with(scratch, file, request, arg, bytes, 0);
	return err < 0 ? err : 0;
}

int linux_kvm_msr_list(unsigned long scratch, unsigned int *index, unsigned int room)
{
	struct kvm_msr_list list = { .nmsrs = room };
	long err = linux_scratch_put(scratch, &list, sizeof(list));

	if (err < 0)
		return err;
	err = kvm_arch_dev_ioctl(NULL, KVM_GET_MSR_INDEX_LIST, scratch);
	if (err < 0)
		return err;
	err = linux_scratch_take(&list, scratch, sizeof(list));
	if (err)
		return err;
	if (list.nmsrs > room)
		return -E2BIG;
	err = linux_scratch_take(index, scratch + sizeof(list), list.nmsrs * sizeof(*index));
	return err ?: list.nmsrs;
}

static int call_msrs(unsigned long scratch, struct file *vcpu, unsigned int request,
		     const struct ferry_kvm_msr *msr, unsigned int nr)
{
	struct kvm_msrs head = { .nmsrs = nr };
	int err = linux_scratch_put(scratch, &head, sizeof(head));

	if (!err)
		err = linux_scratch_put(scratch + sizeof(head), msr, nr * sizeof(*msr));
	return err ?: (int)linux_ioctl(vcpu, request, scratch);
}

int linux_kvm_get_msrs(unsigned long scratch, struct file *vcpu, struct ferry_kvm_msr *msr,
		       unsigned int nr)
{
	int done = call_msrs(scratch, vcpu, KVM_GET_MSRS, msr, nr);
	int err;

	if (done < 0)
		return done;
	err = linux_scratch_take(msr, scratch + sizeof(struct kvm_msrs), done * sizeof(*msr));
	return err ?: done;
}

int linux_kvm_set_msrs(unsigned long scratch, struct file *vcpu, const struct ferry_kvm_msr *msr,
		       unsigned int nr)
{
	return call_msrs(scratch, vcpu, KVM_SET_MSRS, msr, nr);
}

void linux_kvm_flush_timer(struct file *file)
{
	struct kvm_vcpu *vcpu = vcpu_of(file);

	mutex_lock(&vcpu->mutex);
	kvm_inject_pending_timer_irqs(vcpu);
	mutex_unlock(&vcpu->mutex);
}

int linux_kvm_get_clock(unsigned long scratch, struct file *vm, unsigned long long *clock,
			unsigned long long *tsc)
{
	struct kvm_clock_data data = { };
	long err = linux_ioctl_with(scratch, vm, KVM_GET_CLOCK, &data, 0, sizeof(data));

	if (err < 0)
		return err;
	*clock = data.clock;
	*tsc = data.flags & KVM_CLOCK_HOST_TSC ? data.host_tsc : rdtsc();
	return 0;
}

int linux_kvm_set_clock(unsigned long scratch, struct file *vm, unsigned long long clock)
{
	struct kvm_clock_data data = { .clock = clock };

	return linux_ioctl_with(scratch, vm, KVM_SET_CLOCK, &data, sizeof(data), 0);
}
