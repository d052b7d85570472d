/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What luo_iommu.ko needs of the kernel besides <ferry/kernel.h>.
 *
 * linux.c implements it with the kernel's own headers in sight; on the host
 * selftests/unit/fake/iommu.cc does. All functions may sleep unless they say
 * otherwise. Errors are negative errnos; addresses and lengths are in bytes.
 */
#ifndef FERRY_IOMMU_LINUX_H
#define FERRY_IOMMU_LINUX_H

#include <ferry/kernel.h>
#include <abi/jump.h>
#include <abi/runs.h>

#ifdef __cplusplus
extern "C" {
#endif

struct device;
struct file;

#define LINUX_PAGE_SIZE	4096

/* ---- iommufds ---- */

bool linux_iommufd_is(struct file *file);
/* Tells iommufds from each other. */
unsigned long linux_iommufd_id(struct file *file);

/**
 * linux_iommufd_freeze - let nobody change an iommufd any more
 *
 * iommufd_liveupdate_freeze(): all of its ioctls fail with EBUSY. Devices can
 * still be attached and detached: see vfio/.
 *
 * Return: 0, -EBUSY (it is frozen), -EOPNOTSUPP (it has objects besides devices,
 * IOASs and paging HWPTs).
 */
int (linux_iommufd_freeze)(struct file *file);
void (linux_iommufd_thaw)(struct file *file);

/**
 * struct linux_mapping - a piece of a mapping, in one file
 * @ioas:   id of the IOAS
 * @iova:   where it is
 * @length: of it
 * @file:   behind it; NULL: there is none
 * @start:  where it begins in the file
 */
struct linux_mapping {
	unsigned int ioas;
	unsigned long long iova;
	unsigned long long length;
	struct file *file;
	unsigned long long start;
};

/**
 * linux_iommufd_mappings - call for each piece of all mappings
 * @visit: called in the order of the IOAS's id and then of @iova; a result other
 *         than 0 ends the walk. The file is held for the call only
 *
 * The iommufd is frozen. What was mapped by its address is looked up in the
 * address space of who mapped it, as that is now: its mmap lock is taken.
 *
 * Return: the last result of @visit.
 */
int (linux_iommufd_mappings)(struct file *file,
			     int (*visit)(void *ctx, const struct linux_mapping *mapping),
			     void *ctx);

/* A page table in the format of VT-d's second stage. */
struct linux_table {
	unsigned long long top;
	unsigned int levels;
};

/**
 * linux_iommufd_tables - call for the page table of each HWPT
 * Return: the last result of @visit; -EOPNOTSUPP for another format. Does not
 * take a mmap lock.
 */
int (linux_iommufd_tables)(struct file *file,
			   int (*visit)(void *ctx, unsigned int ioas,
					const struct linux_table *table),
			   void *ctx);

/* An empty iommufd, with one reference. Return: 0, -ENOMEM, -ENFILE. */
int (linux_iommufd_create)(struct file **file);
void (linux_iommufd_put)(struct file *file);

/* ---- page tables ---- */

#define LINUX_TABLE_ENTRIES	512

/*
 * The 512 entries of a page of a page table, at the physical address of memory
 * that the kernel maps. Hardware may set bits in them at any time.
 */
const unsigned long long *(linux_table_page)(unsigned long long phys);

/**
 * linux_file_page - find a page of a file, if it has that in memory
 * @index: of the page, in pages
 * @pfn:   its page frame
 * @count: pages from there on that follow each other in both
 *
 * Takes no lock, and brings nothing into memory.
 *
 * Return: 0, -ENOENT (a hole, swapped out, or beyond the end), -EOPNOTSUPP (not
 * a file whose page cache counts in pages of 4 KiB).
 */
int (linux_file_page)(struct file *file, unsigned long long index, unsigned long long *pfn,
		      unsigned long long *count);

/* ---- devices, on the way out ---- */

#define LINUX_PASID_WORDS	8

/**
 * linux_device_look - what the hardware has for a device
 * @dev:   of PCI
 * @is:    all but @root; zeroed before
 * @pasid: in scalable mode: the PASID entry of its requests without a PASID
 *
 * Context: takes no mutex.
 * Return: 0, -EOPNOTSUPP (the IOMMU's driver cannot have it go on).
 */
int (linux_device_look)(struct device *dev, struct ferry_jump_device *is,
			unsigned long long *pasid);
/* The root table that the device's IOMMU uses from the shutdown on; NULL: none, it is turned off. */
void (linux_device_leave)(struct device *dev, void *root);
/* How many more want the shutdown to spare the device, and the bridges above it: 1 or -1. */
void (linux_device_spare)(struct device *dev, int more);

/* A page of zeros that is preserved, with its end; NULL: out of memory. */
void *(linux_keep_page)(void);
void (linux_keep_end)(void *page);
/* Where such a page is in memory, and the other way round. */
unsigned long long (linux_kept_phys)(const void *page);
void *(linux_kept)(unsigned long long phys);
/* Hardware that does not look into the caches sees what was written. */
void (linux_kept_flush)(const void *page);

/* Hands such a page over as the kernel's record of devices. Return: 0, or a negative errno. */
int (linux_record_publish)(void *page);
void (linux_record_withdraw)(void *page);

/* ---- adopted devices ---- */

/* What this kernel has made of a device that the last one handed over. */
enum linux_adoption {
	LINUX_DEVICE_REFUSED,	/* or nobody has looked at it */
	LINUX_DEVICE_ADOPTED,	/* it goes by the page table of the last kernel */
	LINUX_DEVICE_DONE,	/* it goes by another one, or was released */
};
/* Those devices, from 0, as the record had them; NULL after the last one. */
const struct ferry_jump_device *(linux_incoming_device)(unsigned int nr,
							enum linux_adoption *how);
/* Is this page one that the last kernel preserved by itself, and nobody has freed yet? */
bool (linux_came)(unsigned long long phys);
void (linux_came_free)(unsigned long long phys);

/* Have the kernel ask iommu_compare() before it swaps a page table. */
void (linux_verify)(bool on);

/* This module. */
struct module *(linux_this_module)(void);

/* ---- what linux.c calls ---- */

int iommu_module_init(void);
void iommu_module_exit(void);

/*
 * Does @now translate as @old does, a page table of the last kernel? Called with
 * the mutex of an IOMMU group held; @now does not change meanwhile.
 */
int iommu_compare(const struct linux_table *old, const struct linux_table *now);

#ifdef __cplusplus
}
#endif
#endif
