/* SPDX-License-Identifier: GPL-2.0 */
/* What the C files of luo_kvm.ko share; with the kernel's headers in sight. */
#ifndef FERRY_KVM_INTERNAL_H
#define FERRY_KVM_INTERNAL_H

#include <linux/kvm_host.h>

#include "linux.h"

static inline struct kvm_vcpu *vcpu_of(struct file *file)
{
	return file->private_data;
}

/* A kernel without CONFIG_KVM_IOAPIC has neither. */
static inline bool has_full_irqchip(struct kvm *kvm)
{
#ifdef CONFIG_KVM_IOAPIC
	return kvm->arch.irqchip_mode == KVM_IRQCHIP_KERNEL;
#else
	return false;
#endif
}

static inline bool has_pit(struct kvm *kvm)
{
#ifdef CONFIG_KVM_IOAPIC
	return kvm->arch.vpit;
#else
	return false;
#endif
}

/* ---- linux_ioctl.c: calling ioctls ---- */

/* The worker's address space. */
int linux_ioctl_init(void);
void linux_ioctl_exit(void);

/* Calls an ioctl of a VM that is frozen or parked, with an argument as it is. */
long linux_ioctl(struct file *file, unsigned int request, unsigned long arg);

/* ... with an argument in scratch memory, of which @in bytes are read, and @out written. */
long linux_ioctl_with(unsigned long scratch, struct file *file, unsigned int request, void *data,
		      size_t in, size_t out);

int linux_scratch_put(unsigned long scratch, const void *data, size_t bytes);
int linux_scratch_take(void *data, unsigned long scratch, size_t bytes);

#endif
