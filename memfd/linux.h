/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What luo_memfd.ko needs of the kernel besides <ferry/kernel.h>.
 *
 * linux.c implements it with the kernel's own headers in sight; on the host
 * selftests/unit/fake/memfd.cc does. All functions may sleep.
 *
 * Places in a file are counted in pages of 4 KiB, and ranges of them are
 * [first, end), where nothing else is said. "The file" is a shmem file, of
 * which linux_shmem_is() was true; or, in the parts that are of any file, one of
 * hugetlb, of which linux_hugetlb_is() was. Errors are negative errnos.
 */
#ifndef FERRY_MEMFD_LINUX_H
#define FERRY_MEMFD_LINUX_H

#include <ferry/kernel.h>
#include <abi/runs.h>

#ifdef __cplusplus
extern "C" {
#endif

struct file;
struct folio;
struct mem_cgroup;

/* ---- any file ---- */

/* A shmem file without a name in any directory, as those of memfd_create(). */
bool (linux_shmem_is)(struct file *file);
/* The same of hugetlb, and not of a mount that has limits of its own. */
bool (linux_hugetlb_is)(struct file *file);
/* Tells files of the same contents (inode) from others. */
unsigned long (linux_shmem_id)(struct file *file);

/**
 * struct linux_shmem_attrs - what a file has besides its pages
 * @size:  in bytes
 * @pos:   of the file description, in bytes
 * @seals: F_SEAL_*
 * @mode:  permission bits of the inode, 07777
 */
struct linux_shmem_attrs {
	unsigned long long size;
	unsigned long long pos;
	unsigned int seals;
	unsigned int mode;
};
void (linux_shmem_look)(struct file *file, struct linux_shmem_attrs *attrs);

/* ---- any file, in the kernel that preserves ---- */

/**
 * linux_shmem_freeze - refuse whatever would take pages or size from the file
 *
 * shmem_freeze(), or hugetlb_freeze(): from now on ftruncate(), fallocate() in all of its modes, and
 * writes beyond the size fail with EPERM. Pages can still be added to holes
 * below the size, and written.
 *
 * Context: takes the inode lock; waits for those that are in the middle of it.
 */
void (linux_shmem_freeze)(struct file *file, bool freeze);

/**
 * linux_shmem_hold - hold back new pages
 *
 * shmem_hold(), or hugetlb_hold(): whoever would add a page to a hole waits until it is let go,
 * also those who hold the inode lock or a mmap lock. Pages that are there, or
 * swapped out, are not concerned.
 *
 * Context: takes the lock of the page cache's tree only, or hugetlb's mutexes of
 * faults, which nobody holds who waits for this; after hold and before release nobody may take the inode
 * lock or a mmap lock, or touch a hole.
 */
void (linux_shmem_hold)(struct file *file, bool hold);

/*
 * Pages that the file has now, also beyond its size, swapped out or in memory;
 * while some are swapped in or out it may be more, but never less.
 */
unsigned long long (linux_shmem_pages)(struct file *file);

/* A range of pages. */
struct linux_extent {
	unsigned long long first;
	unsigned long long end;
};

/**
 * linux_shmem_extents - find what of a range is not a hole
 * @first:  first page to look at
 * @end:    page to stop at
 * @extent: the extents, ascending and not touching each other. The first and
 *          the last may reach over the range by a part of a large folio
 * @max:    length of @extent, at least 1
 *
 * A page counts that was ever written, read through a mapping, or allocated,
 * whether it is in memory or swapped out, and whether up to date or not: this
 * looks into the page cache itself (under RCU, with breaks), not at SEEK_DATA.
 *
 * Return: extents found. @max: there may be more, from the last one's end on.
 */
unsigned int (linux_shmem_extents)(struct file *file, unsigned long long first,
				   unsigned long long end, struct linux_extent *extent,
				   unsigned int max);

/**
 * linux_shmem_keep - make reclaim keep the pages of a range
 *
 * Reclaim may drop a page that was read and never written, so that a hole
 * appears where there was a page. Marked dirty, it can only be swapped out.
 */
void (linux_shmem_keep)(struct file *file, unsigned long long first, unsigned long long end);

#define LINUX_SHMEM_BATCH	512

/**
 * struct linux_shmem_stretch - folios of a batch that follow each other in the file
 * @index: place of the first one in the file
 * @nr:    folios; their page frames follow each other in the batch
 * @order: of each
 * @flags: FERRY_MEMFD_*
 */
struct linux_shmem_stretch {
	unsigned long long index;
	unsigned int nr;
	unsigned short order;
	unsigned short flags;
};

/**
 * struct linux_shmem_batch - folios that linux_shmem_pin() found
 * @pfn:     first page frame of each
 * @stretch: what they are
 * @folio:   for linux.c
 */
struct linux_shmem_batch {
	unsigned long long pfn[LINUX_SHMEM_BATCH];
	struct linux_shmem_stretch stretch[LINUX_SHMEM_BATCH];
	struct folio *folio[LINUX_SHMEM_BATCH];
};

/**
 * linux_shmem_pin - pin the next folios, in memory and in place
 * @end:   what lies beyond the size is left out
 * @batch: the folios, in the order of the file
 *
 * Folios that can stay where they are, which is nearly all of them, are pinned
 * on a walk through the page cache, which passes over holes. Where it meets another
 * one it stops, and memfd_pin_folios() does the next: swaps in, and moves folios
 * out of memory that must not be pinned for long (CMA, in which KHO's scratch area
 * lies, and movable zones). The first folio may begin before the range, and the
 * last one end behind it. A pinned folio stays in the page cache.
 *
 * A folio that is not up to date (allocated, and never written) is zeroed, and
 * has FERRY_MEMFD_UNWRITTEN.
 *
 * Return: stretches of folios pinned; 0: there are none in the range; -ENOMEM, -EIO (cannot be read from swap), -EHWPOISON, -EINTR.
 */
int (linux_shmem_pin)(struct file *file, unsigned long long first, unsigned long long end,
		      struct linux_shmem_batch *batch);

/* Unpins folios, which nobody preserves. */
void (linux_shmem_unpin)(const unsigned long long *pfn, unsigned int nr);

/*
 * Unpins each folio that lies in a range, all of which were pinned. Where they
 * were preserved this is the one to call: the preservation has to end first, and
 * then its runs are gone.
 *
 * A folio without a pin is left alone, as somebody else has dropped it, or put this
 * folio where the pinned one was; if others have pinned that one, it looks like ours.
 * A pinned folio that is not in the file any more stays so: it is lost, rather than
 * freed under whoever has it.
 *
 * Return: pages of the range that were not there, or not pinned.
 */
unsigned long long (linux_shmem_unpin_range)(struct file *file, unsigned long long first,
					     unsigned long long end);

/* Whether a freeze looks for pages that are astray: the module's parameter "check". */
bool (linux_shmem_checks)(void);

/**
 * linux_shmem_astray - find a folio that is not any more what was preserved
 * @run:   as it was pinned
 * @index: place in the file of the folio that is found
 *
 * A folio that is pinned is not replaced, split, moved or freed, and does not lie
 * in CMA, as KHO's scratch area does. This looks whether all that is true.
 *
 * Return: what is wrong with it, or NULL.
 */
const char *(linux_shmem_astray)(struct file *file, const struct ferry_run *run,
				 unsigned long long *index);

/* What the file is called, for messages: "memfd:NAME". As long as the file. */
const char *(linux_shmem_name)(struct file *file);

/* ---- hugetlb, in the kernel that preserves ---- */

/* Order of each folio of a file. */
unsigned int (linux_hugetlb_order)(struct file *file);

/**
 * linux_hugetlb_reserved - find what has pages, or a right to pages of the pool
 * @extent: the extents, ascending
 * @max:    length of @extent
 *
 * hugetlb_reserved().
 *
 * Return: how many there are. More than @max: @extent has the first ones only.
 */
unsigned long (linux_hugetlb_reserved)(struct file *file, struct linux_extent *extent,
				       unsigned long max);

/**
 * linux_hugetlb_tell - tell the next kernel's boot of folios that come, or do not
 *
 * hugetlb_tell_carried(): it leaves them room in the pool.
 *
 * Return: 0, -ENOMEM or -ENOSPC; where they do not come, always 0.
 */
int (linux_hugetlb_tell)(const struct ferry_run *run, bool come);

/* ---- shmem, in the kernel that gets them ---- */

/* Greatest order of a folio that the page cache of a shmem file takes. */
unsigned int (linux_shmem_max_order)(void);

/**
 * linux_shmem_create - make a memfd without pages
 *
 * memfd_alloc_file(). The mode is set before the seals: with F_SEAL_EXEC on a
 * file that is executable the kernel would add further seals. And the seals
 * before there are pages: F_SEAL_WRITE looks at each page for pins.
 *
 * Return: 0, -ENOMEM, -ENFILE, ..., and then there is no file.
 */
int (linux_shmem_create)(const struct linux_shmem_attrs *attrs, struct file **file);

/**
 * struct linux_shmem_room - what a file may take in, paid in advance
 * @pages: that are left, of 4 KiB
 * @total: that there were
 * @memcg: for linux.c, as is
 * @runs:  room for LINUX_SHMEM_RUNS of the kernel's
 */
struct linux_shmem_room {
	unsigned long long pages;
	unsigned long long total;
	struct mem_cgroup *memcg;
	struct shmem_run *runs;
};

/**
 * linux_shmem_reserve - make room for pages before the first one is taken
 * @pages: at most LINUX_SHMEM_MAX_PAGES
 *
 * They are charged to the memory cgroup of the caller, and accounted to the
 * file, at once: so that there is nothing to undo when there is no room.
 *
 * Return: 0, or -ENOMEM: then nothing has changed.
 */
int (linux_shmem_reserve)(struct file *file, unsigned long long pages,
			  struct linux_shmem_room *room);
#define LINUX_SHMEM_MAX_PAGES	(1ull << 40)

/* Gives back what is left of it. */
void (linux_shmem_settle)(struct file *file, struct linux_shmem_room *room);

/* As many folios as are added with one lock, if each is a run. */
#define LINUX_SHMEM_RUNS	512

/**
 * linux_shmem_insert - give runs of folios to a file
 * @run:  of ferry_runs_next(): each folio with one reference, which is taken in
 *        any case, and FERRY_MEMFD_* flags. Its order is at most
 *        linux_shmem_max_order(), and its index a multiple of the folio's size
 * @nr:   number of runs, at most LINUX_SHMEM_RUNS
 * @room: has as many pages as the runs
 *
 * The pages are up to date (but for those that were not written) and dirty:
 * else reclaim might drop them, and what they were written with through a
 * mapping that the last kernel had not looked at yet. Memory for the page
 * cache's own needs is waited for: half a file would be no file.
 *
 * Return: 0, or -EEXIST (the file has such a page already); the file then has
 * the folios up to there, and the others are free.
 */
int (linux_shmem_insert)(struct file *file, const struct ferry_run *run, unsigned int nr,
			 struct linux_shmem_room *room);

/* Frees each folio of a run of ferry_runs_next(). */
void (linux_shmem_free)(const struct ferry_run *run);

/* ---- hugetlb, in the kernel that gets them ---- */

/**
 * linux_hugetlb_create - make a memfd without pages
 * @order: of its folios
 * Return: as linux_shmem_create(); -ENODEV when there are no pages of this size.
 */
int (linux_hugetlb_create)(const struct linux_shmem_attrs *attrs, unsigned int order,
			   struct file **file);

/**
 * linux_hugetlb_insert - give a run of folios to the pool, and to a file
 * @run: of ferry_runs_next(), of the file's order: each folio with one reference,
 *       which is taken in any case
 *
 * Memory is waited for: half a file would be no file.
 *
 * Return: 0, or -EEXIST (the file has such a page already); the file then has
 * the folios up to there, and the others are free pages of the pool. -EIO: the pool
 * could not take one, which is free, or lost where it is larger than the buddy's.
 */
int (linux_hugetlb_insert)(struct file *file, const struct ferry_run *run);

/* Reserves pages of the pool for what of a range has none. Return: 0, -ENOMEM. */
int (linux_hugetlb_reserve)(struct file *file, unsigned long long first, unsigned long long end);

/*
 * Gives each folio of a run of ferry_runs_next() to the pool, as a free page.
 * Return: how many there is no pool for: smaller ones are freed, and those of 1 GiB
 * are lost.
 */
unsigned int (linux_hugetlb_free)(const struct ferry_run *run);

/* ---- any file, in the kernel that gets it ---- */

/* fput(): nobody else knows the file yet. */
void (linux_shmem_put)(struct file *file);

/* This module. */
struct module *(linux_this_module)(void);

/* ---- what linux.c calls ---- */

int (memfd_module_init)(void);
void (memfd_module_exit)(void);

#ifdef __cplusplus
}
#endif
#endif
