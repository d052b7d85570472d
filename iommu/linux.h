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
#include <abi/runs.h>

#ifdef __cplusplus
extern "C" {
#endif

struct file;

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

/* Frees folios that ferry_runs_next() gave, each with one reference; @run->index is not looked at. */
void (linux_free_pages)(const struct ferry_run *run);

/* ---- adopted devices ---- */

/* Does a device still go by the page table of the last kernel that begins there? */
bool (linux_table_in_use)(unsigned long long top);

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
