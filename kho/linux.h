/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What kho.ko needs of the kernel besides <ferry/kernel.h>.
 *
 * linux.c implements it with the kernel's own headers in sight; on the host
 * selftests/unit/fake/kho.cc does. All functions may sleep.
 */
#ifndef FERRY_KHO_LINUX_H
#define FERRY_KHO_LINUX_H

#include <ferry/kernel.h>
#include <abi/runs.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LINUX_PAGE_SIZE		4096
/* Greatest order of a folio: 1 GiB, of hugetlb. */
#define LINUX_MAX_ORDER		18

/* ---- pages, in the kernel that preserves ---- */

/* A zeroed page of LINUX_PAGE_SIZE, not preserved. NULL when out of memory. */
void *(linux_page_alloc)(void);
void (linux_page_free)(void *page);
/* Physical address of a page of linux_page_alloc(), and back. */
unsigned long long (linux_page_phys)(const void *page);
void *(linux_page_at)(unsigned long long phys);

/* NUMA node of a page frame that exists. */
int (linux_node)(unsigned long long pfn);

/* How many runs the functions that take several take in one call. */
#define LINUX_MAX_RUNS		32

/**
 * linux_preserve - preserve the folios of some runs, each of one NUMA node
 * Return: 0 or what kho_preserve_runs() says; then nothing is preserved.
 */
int (linux_preserve)(const struct ferry_run *run, unsigned int nr);
/* The very runs of linux_preserve(), in any order and number. */
void (linux_unpreserve)(const struct ferry_run *run, unsigned int nr);

/**
 * linux_preserve_list - linux_preserve() for single folios that lie anywhere
 * @pfn:   what the places count from, a multiple of a folio's size
 * @place: of each folio, in folios from @pfn on
 */
int (linux_preserve_list)(unsigned long long pfn, unsigned int order, const unsigned int *place,
			  unsigned int nr);
/* The very list of linux_preserve_list(). */
void (linux_unpreserve_list)(unsigned long long pfn, unsigned int order,
			     const unsigned int *place, unsigned int nr);

/* ---- pages, in the kernel that gets them ---- */

/*
 * kho_count_preserved(): how many runs, from the first one on, were preserved so
 * by linux_preserve(), and have no folio that is restored already? They need not
 * be memory.
 */
unsigned int (linux_count_preserved)(const struct ferry_run *run, unsigned int nr);

/**
 * linux_restore - get runs of linux_preserve() back
 *
 * Each folio has one reference afterwards.
 *
 * Return: how many are restored, from the first one on. For the next one
 * linux_count_preserved() does not count, or not any more; of it nothing has
 * changed.
 */
unsigned int (linux_restore)(const struct ferry_run *run, unsigned int nr);

/* The same for folios of linux_preserve_list(). */
unsigned int (linux_count_preserved_list)(unsigned long long pfn, unsigned int order,
					  const unsigned int *place, unsigned int nr);
unsigned int (linux_restore_list)(unsigned long long pfn, unsigned int order,
				  const unsigned int *place, unsigned int nr);

/* Drops the reference that linux_restore() or linux_restore_list() gave for each folio. May sleep. */
void (linux_release)(unsigned long long pfn, unsigned int count, unsigned int order);

/* ---- the one page that the kernel's KHO knows ---- */

/* kho_add_subtree(): @page is preserved. Return: 0 or a negative errno. */
int (linux_publish)(const char *name, void *page, ferry_size size);
void (linux_withdraw)(void *page);
/* kho_retrieve_subtree(). Return: 0, -ENOENT, -EINVAL. */
int (linux_handed_over)(const char *name, unsigned long long *phys, ferry_size *size);
/* kho_forget_subtree(): its memory is about to be somebody else's. */
void (linux_forget)(unsigned long long phys);

/* This module. */
struct module *(linux_this_module)(void);

/* ---- libfdt: writing a tree from front to back, and reading one ---- */

int (fdt_create)(void *buf, int bufsize);
int (fdt_resize)(void *fdt, void *buf, int bufsize);
int (fdt_finish_reservemap)(void *fdt);
int (fdt_begin_node)(void *fdt, const char *name);
int (fdt_property)(void *fdt, const char *name, const void *val, int len);
int (fdt_end_node)(void *fdt);
int (fdt_finish)(void *fdt);
int (fdt_check_header)(const void *fdt);
unsigned int (fdt_next_tag)(const void *fdt, int offset, int *nextoffset);
int (fdt_first_subnode)(const void *fdt, int offset);
int (fdt_next_subnode)(const void *fdt, int offset);
int (fdt_subnode_offset)(const void *fdt, int parentoffset, const char *name);
const char *(fdt_get_name)(const void *fdt, int nodeoffset, int *lenp);
const void *(fdt_getprop)(const void *fdt, int nodeoffset, const char *name, int *lenp);
int (fdt_first_property_offset)(const void *fdt, int nodeoffset);
int (fdt_next_property_offset)(const void *fdt, int offset);
const void *(fdt_getprop_by_offset)(const void *fdt, int offset, const char **namep, int *lenp);

/* ---- what linux.c calls ---- */

int (kho_module_init)(void);
void (kho_module_exit)(void);

struct seq_file;
void (kho_show_dump)(struct seq_file *file, bool incoming);
void (kho_show_formats)(struct seq_file *file);
void (kho_show_owners)(struct seq_file *file);

/**
 * kho_tree_copy - a copy of a tree, for a reader of debugfs
 * @data: to be freed with ferry_free()
 * Return: its size in bytes (0: there is none), or a negative errno.
 */
long (kho_tree_copy)(bool incoming, void **data);

#ifdef __cplusplus
}
#endif
#endif
