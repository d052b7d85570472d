/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What luo_vfio.ko needs of the kernel besides <ferry/kernel.h>.
 *
 * linux.c implements it with the kernel's own headers in sight; on the host
 * selftests/unit/fake/vfio.cc does. All functions may sleep. Errors are negative
 * errnos. "The file" is one of which linux_vfio_is() was true.
 */
#ifndef FERRY_VFIO_LINUX_H
#define FERRY_VFIO_LINUX_H

#include <abi/vfio.h>
#include <ferry/kernel.h>

#ifdef __cplusplus
extern "C" {
#endif

struct file;

/* ---- any device ---- */

/* Why a device cannot be carried; see linux_vfio_look(). */
enum linux_vfio_trait {
	LINUX_VFIO_VIRTFN = 1,		/* a virtual function, or has some */
	LINUX_VFIO_ATS = 2,		/* translates by itself: ATS is on */
	LINUX_VFIO_PASID = 4,		/* has address spaces of its own: PASID or PRI is on */
	LINUX_VFIO_USB = 8,		/* a USB controller, which the next kernel resets early on */
	LINUX_VFIO_OTHER_DRIVER = 16,	/* the driver is not vfio-pci */
	LINUX_VFIO_LOW_POWER = 32,	/* not in D0 */
	LINUX_VFIO_MESSAGES = 64,	/* MSI or MSI-X is on */
};

#define LINUX_VFIO_CONFIG_SIZE	64

/**
 * struct linux_vfio_device - a device, as it is now
 * @segment: PCI segment
 * @rid:     bus number << 8 | devfn
 * @traits:  of LINUX_VFIO_*
 * @config:  the first bytes of its configuration space
 */
struct linux_vfio_device {
	unsigned int segment;
	unsigned int rid;
	unsigned int traits;
	unsigned char config[LINUX_VFIO_CONFIG_SIZE];
};

/* ---- in the kernel that preserves ---- */

/* An open file of the character device of a PCI device that a VFIO driver has. */
bool (linux_vfio_is)(struct file *file);
/* Tells devices from each other. */
unsigned long (linux_vfio_id)(struct file *file);
void (linux_vfio_look)(struct file *file, struct linux_vfio_device *device);

/* The iommufd that the file is bound to, which lives as long; NULL: none. */
struct file *(linux_vfio_iommufd)(struct file *file);

/**
 * linux_vfio_hold - keep a device attached to what it is attached to
 *
 * VFIO_DEVICE_ATTACH_IOMMUFD_PT and VFIO_DEVICE_DETACH_IOMMUFD_PT fail with EBUSY
 * from now on.
 *
 * Context: takes the lock of the device set.
 * Return: 0, -ENOENT (it is not attached), -EBUSY (it is held).
 */
int (linux_vfio_hold)(struct file *file);
void (linux_vfio_let_go)(struct file *file);

/**
 * struct linux_vfio_interrupts - what of a device's interrupts is set up
 * @kind:    FERRY_VFIO_*
 * @vectors: as in the record
 */
struct linux_vfio_interrupts {
	unsigned int kind;
	unsigned char vectors[FERRY_VFIO_VECTORS_SIZE];
};

/**
 * linux_vfio_freeze - have a device go on over the kexec
 * @force: turn interrupts off that are set up
 * @were:  what was set up; for linux_vfio_unfreeze() as well
 *
 * Its interrupts are off, and cannot be set up or turned on any more: neither
 * VFIO_DEVICE_SET_IRQS nor a write to the configuration space goes through, but
 * one that has begun may still end. INTx is disabled in the device. It cannot be
 * reset, nor put to sleep. ferry_iommu_save().
 *
 * Return: 0, -EBUSY (interrupts are set up, and not @force), -EAGAIN (its user lets it
 * enter a low-power state), -EOPNOTSUPP (the kernel cannot keep its translation),
 * -ENOSPC (too many devices), -ENOMEM. After an error everything is as it was.
 */
int (linux_vfio_freeze)(struct file *file, bool force, struct linux_vfio_interrupts *were);
/* What was turned off is on again, and each vector is signalled once; INTx if the device asserts it. */
void (linux_vfio_unfreeze)(struct file *file, const struct linux_vfio_interrupts *were);

/* ---- in the kernel that gets it ---- */

enum linux_vfio_state {
	LINUX_VFIO_GONE,	/* not adopted: was refused at boot, or is not there */
	LINUX_VFIO_ADOPTED,	/* goes by the page table of the last kernel */
	LINUX_VFIO_SWAPPED,	/* goes by another one, or was released */
};
enum linux_vfio_state (linux_vfio_state)(unsigned int segment, unsigned int rid);

/* What the device there is. Return: 0, or -ENODEV. */
int (linux_vfio_find)(unsigned int segment, unsigned int rid,
		      struct linux_vfio_device *device);

/**
 * linux_vfio_open - open an adopted device, which nobody else can
 * @due: vectors that are signalled once when they are set up, as in the record; INTx
 *       is signalled then if the device asserts it
 *
 * Loads vfio-pci if no driver has the device yet.
 *
 * Return: 0; -ENODEV (vfio-pci does not have it), -ENOENT (it is not adopted),
 * -ENOMEM, -ENFILE.
 */
int (linux_vfio_open)(unsigned int segment, unsigned int rid, const unsigned char *due,
		      struct file **file);

/**
 * linux_vfio_release - give up a device that was adopted
 *
 * Bus mastering off, then nothing is translated for it any more, then it is reset.
 * Nothing happens to one that is not adopted any more, or is not there.
 */
void (linux_vfio_release)(unsigned int segment, unsigned int rid);

/* ---- the caller of an ioctl ---- */

/* fget(), get_file(), fput(). NULL when @fd is not open, or opened with O_PATH. */
struct file *(linux_file_of)(int fd);
void (linux_file_get)(struct file *file);
void (linux_file_put)(struct file *file);
/* The size that starts every argument, in bytes. Return: 0 or -EFAULT. */
int (linux_user_size)(const void *user, unsigned int *size);
/* copy_struct_from_user(). Return: 0, -EFAULT, or -E2BIG. */
int (linux_user_read)(void *to, ferry_size size, const void *user, ferry_size user_size);

/* This module. */
struct module *(linux_this_module)(void);

/* ---- what linux.c calls ---- */

int vfio_module_init(void);
void vfio_module_exit(void);
/* Of /dev/liveupdate_vfio. @user: its argument. */
int vfio_device_ioctl(unsigned int command, void *user);

#ifdef __cplusplus
}
#endif
#endif
