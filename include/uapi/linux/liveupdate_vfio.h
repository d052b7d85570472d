/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/liveupdate_vfio: what becomes of a device's interrupts over a live update.
 *
 * A device is preserved and retrieved with the calls of <linux/liveupdate.h>, and its
 * DMA goes on. Its interrupts cannot: they are off from the freeze on, until the VMM
 * sets them up in the next kernel with VFIO_DEVICE_SET_IRQS. What came meanwhile is
 * lost, so each vector of MSI or MSI-X is signalled once when its eventfd is set there
 * for the first time, as if the device had interrupted: the guest's driver looks, and
 * finds what there is. INTx is unmasked, and signalled if the device asserts it. A
 * vector that the guest has masked is for the VMM to hold as pending, as always.
 *
 * Without the call below, a device whose interrupts are set up refuses the kexec, and
 * each vector is signalled as said.
 */
#ifndef _UAPI_LINUX_LIVEUPDATE_VFIO_H
#define _UAPI_LINUX_LIVEUPDATE_VFIO_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define LIVEUPDATE_VFIO_IOCTL_TYPE	0xBA

/*
 * Turn interrupts off in the device at the freeze, instead of refusing the kexec with
 * EBUSY. Where the kexec is called off, they are turned on again, and each vector that
 * is set up is signalled once. In the next kernel, vectors that were not set up at the
 * freeze are not signalled.
 */
#define LIVEUPDATE_VFIO_FORCE_OFF	(1u << 0)
/* In the next kernel, signal nothing: the VMM does it, or the guest's driver polls. */
#define LIVEUPDATE_VFIO_NO_TRIGGER	(1u << 1)

/**
 * struct liveupdate_vfio_interrupts - argument of the call
 * @size:     of this structure; a later version may add fields at the end, where zero
 *            means "as before"
 * @device:   file descriptor of the device, which is preserved
 * @flags:    LIVEUPDATE_VFIO_*; replaces what was set before
 * @reserved: zero
 */
struct liveupdate_vfio_interrupts {
	__u32 size;
	__s32 device;
	__u32 flags;
	__u32 reserved;
};

/*
 * Counts from the next freeze on, until the session is closed: it is to be made again
 * for a device that is preserved again. For everybody: the descriptor is what gives
 * the right.
 *
 * Errors: EBADF (@device is no device of VFIO on PCI), ENOENT (it is not preserved),
 * EOPNOTSUPP (unknown flag), EINVAL (size, @reserved), E2BIG (fields that this kernel
 * does not know, not zero), EFAULT, ENOTTY (another call).
 */
#define LIVEUPDATE_VFIO_SET_INTERRUPTS \
	_IO(LIVEUPDATE_VFIO_IOCTL_TYPE, 0x90)

#endif
