// SPDX-License-Identifier: GPL-2.0
/* luo_memfd.ko's edge to the kernel: memfd/linux.h on the kernel's own functions. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/hugetlb.h>
#include <linux/memfd.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/rcupdate_wait.h>
#include <linux/sched.h>
#include <linux/shmem_fs.h>
#include <linux/string.h>
#include <linux/swap.h>
#include <linux/xarray.h>
#include <uapi/linux/memfd.h>

#include <abi/memfd.h>
#include "linux.h"

static_assert(PAGE_SHIFT == 12);

/* ---- any file ---- */

bool linux_shmem_is(struct file *file)
{
	return shmem_file(file) && !file_inode(file)->i_nlink;
}

#ifdef CONFIG_HUGETLBFS
bool linux_hugetlb_is(struct file *file)
{
	struct inode *inode = file_inode(file);

	return is_file_hugepages(file) && !inode->i_nlink && !HUGETLBFS_SB(inode->i_sb)->spool;
}

static unsigned int *seals_of(struct file *file)
{
	struct inode *inode = file_inode(file);

	return is_file_hugepages(file) ? &HUGETLBFS_I(inode)->seals : &SHMEM_I(inode)->seals;
}
#else
bool linux_hugetlb_is(struct file *file)
{
	return false;
}

static unsigned int *seals_of(struct file *file)
{
	return &SHMEM_I(file_inode(file))->seals;
}

/* Without hugetlb there is no file to call these for. */
static inline void hugetlb_freeze(struct inode *inode, bool freeze)
{
}

static inline void hugetlb_hold(struct inode *inode, bool hold)
{
}
#endif

unsigned long linux_shmem_id(struct file *file)
{
	return (unsigned long)file_inode(file);
}

void linux_shmem_look(struct file *file, struct linux_shmem_attrs *attrs)
{
	struct inode *inode = file_inode(file);

	attrs->size = i_size_read(inode);
	attrs->pos = READ_ONCE(file->f_pos);
	attrs->seals = READ_ONCE(*seals_of(file));
	attrs->mode = READ_ONCE(inode->i_mode) & S_IALLUGO;
}

/* ---- any file, in the kernel that preserves ---- */

void linux_shmem_freeze(struct file *file, bool freeze)
{
	struct inode *inode = file_inode(file);

	inode_lock(inode);
	if (is_file_hugepages(file))
		hugetlb_freeze(inode, freeze);
	else
		shmem_freeze(inode, freeze);
	inode_unlock(inode);
}

void linux_shmem_hold(struct file *file, bool hold)
{
	if (is_file_hugepages(file))
		hugetlb_hold(file_inode(file), hold);
	else
		shmem_hold(file_inode(file), hold);
}

unsigned long long linux_shmem_pages(struct file *file)
{
	struct inode *inode = file_inode(file);
	struct shmem_inode_info *info = SHMEM_I(inode);
	unsigned long long pages;

	if (is_file_hugepages(file))
		return READ_ONCE(inode->i_mapping->nrpages);
	/*
	 * shmem raises swapped before it lowers nrpages, and the other way round
	 * on the way in. Under the lock of swapped, then, a page may be seen
	 * twice, but is never missed.
	 */
	spin_lock(&info->lock);
	pages = info->swapped + READ_ONCE(inode->i_mapping->nrpages);
	spin_unlock(&info->lock);
	return pages;
}

/* As linux_shmem_extents(), of no more than so many entries of the page cache. */
static unsigned int extents(struct file *file, unsigned long long first, unsigned long long end,
			    struct linux_extent *extent, unsigned int max, unsigned long entries)
{
	XA_STATE(xas, &file->f_mapping->i_pages, first);
	unsigned long long at, pages;
	unsigned int nr = 0;
	void *entry;

	rcu_read_lock();
	xas_for_each(&xas, entry, end - 1) {
		if (xas_retry(&xas, entry))
			continue;

		pages = 1ull << xas_get_order(&xas);
		at = round_down((unsigned long long)xas.xa_index, pages);
		if (nr && extent[nr - 1].end == at) {
			extent[nr - 1].end += pages;
		} else {
			if (nr == max)
				break;
			extent[nr].first = at;
			extent[nr++].end = at + pages;
		}
		if (at + pages >= end || !--entries)
			break;

		if (need_resched()) {
			xas_pause(&xas);
			cond_resched_rcu();
		}
	}
	rcu_read_unlock();
	return nr;
}

unsigned int linux_shmem_extents(struct file *file, unsigned long long first,
				 unsigned long long end, struct linux_extent *extent,
				 unsigned int max)
{
	return extents(file, first, end, extent, max, ULONG_MAX);
}

void linux_shmem_keep(struct file *file, unsigned long long first, unsigned long long end)
{
	unsigned long long index = first;
	struct folio *folio;

	while (index < end) {
		folio = filemap_get_folio(file->f_mapping, index);
		if (IS_ERR(folio)) {
			index++;
		} else {
			/* The reference alone keeps reclaim from dropping it. */
			folio_mark_dirty(folio);
			index = folio_next_index(folio);
			folio_put(folio);
		}
		cond_resched();
	}
}

/* Where the next folio of a batch goes. */
struct cursor {
	struct linux_shmem_stretch *last;	/* stretch, or NULL */
	unsigned int stretches;
	unsigned int folios;
	pgoff_t next;				/* index behind the last folio */
};

static __always_inline void add_folio(struct linux_shmem_batch *batch, struct cursor *at,
				      struct folio *folio, unsigned short order,
				      unsigned short flags)
{
	pgoff_t index = folio->index;

	if (!at->last || index != at->next || at->last->order != order ||
	    at->last->flags != flags) {
		at->last = &batch->stretch[at->stretches++];
		at->last->index = index;
		at->last->nr = 0;
		at->last->order = order;
		at->last->flags = flags;
	}
	at->last->nr++;
	at->next = index + (1ul << order);
	batch->pfn[at->folios++] = folio_pfn(folio);
}

/*
 * Whether a folio of the page cache can stay as it is. Who has it locked may be on
 * the way to replace it, and has not looked for pins since.
 *
 * @block is the last pageblock of which folios may stay: one answer for all of it.
 */
static __always_inline bool stays(struct folio *folio, unsigned long *block)
{
	unsigned long mine = folio_pfn(folio) >> pageblock_order;

	if (folio_test_locked(folio) || !folio_test_uptodate(folio) ||
	    folio_contain_hwpoisoned_page(folio))
		return false;
	if (mine != *block && !folio_is_longterm_pinnable(folio))
		return false;
	*block = mine;
	return true;
}

/* What try_grab_folio() does with FOLL_PIN; the caller counts them. */
static __always_inline void pin(struct folio *folio, unsigned short order)
{
	if (order) {
		folio_ref_inc(folio);
		atomic_inc(&folio->_pincount);
	} else {
		folio_ref_add(folio, GUP_PIN_COUNTING_BIAS);
	}
}

/*
 * Pins the folios that are there from @first on, in their place, up to the first
 * one for which that is not enough; @stop is its index then, and else @end.
 *
 * With the lock of the page cache's tree held, no folio comes or goes. It is held
 * for a batch of folios. Reclaim and migration look for pins with it held, too, after
 * they have locked the folio.
 *
 * Returns the number of stretches.
 */
static unsigned int pin_in_place(struct address_space *mapping, unsigned long long first,
				 unsigned long long end, struct linux_shmem_batch *batch,
				 unsigned long long *stop)
{
	XA_STATE(xas, &mapping->i_pages, first);
	unsigned long block = ULONG_MAX;
	struct cursor at = {};
	int nid = NUMA_NO_NODE;
	unsigned int pins = 0;
	unsigned short order;
	struct folio *folio;

	*stop = end;
	xas_lock_irq(&xas);
	xas_for_each(&xas, folio, end - 1) {
		if (at.folios == LINUX_SHMEM_BATCH || xa_is_value(folio) ||
		    !stays(folio, &block)) {
			*stop = xas.xa_index;
			break;
		}
		order = folio_order(folio);
		pin(folio, order);
		if (folio_nid(folio) != nid) {
			if (pins)
				mod_node_page_state(NODE_DATA(nid), NR_FOLL_PIN_ACQUIRED, pins);
			nid = folio_nid(folio);
			pins = 0;
		}
		pins++;
		add_folio(batch, &at, folio, order, 0);
	}
	xas_unlock_irq(&xas);
	/* Whoever looks at a folio after this sees its pin. */
	smp_mb();
	if (pins)
		mod_node_page_state(NODE_DATA(nid), NR_FOLL_PIN_ACQUIRED, pins);
	cond_resched();
	return at.stretches;
}

/* Waits for whoever is at work on a folio, and makes it up to date. */
static bool settle(struct address_space *mapping, struct folio *folio, unsigned short *flags)
{
	bool in_place;

	*flags = 0;
	folio_lock(folio);
	in_place = folio->mapping == mapping;
	if (unlikely(in_place && !folio_test_uptodate(folio))) {
		folio_zero_range(folio, 0, folio_size(folio));
		*flags = FERRY_MEMFD_UNWRITTEN;
	}
	folio_unlock(folio);
	return in_place;
}

static int pin_anew(struct file *file, unsigned long long first, loff_t last,
		    struct linux_shmem_batch *batch)
{
	struct cursor at = {};
	unsigned short flags;
	long folios, i;
	pgoff_t offset;

	folios = memfd_pin_folios(file, first << PAGE_SHIFT, last, batch->folio,
				  LINUX_SHMEM_BATCH, &offset);
	for (i = 0; i < folios; i++) {
		if (folio_contain_hwpoisoned_page(batch->folio[i])) {
			unpin_folios(batch->folio, folios);
			return -EHWPOISON;
		}
		if (!settle(file->f_mapping, batch->folio[i], &flags)) {
			unpin_folios(batch->folio + i, folios - i);
			break;
		}
		add_folio(batch, &at, batch->folio[i], folio_order(batch->folio[i]), flags);
	}
	cond_resched();
	return folios < 0 ? folios : at.stretches;
}

int linux_shmem_pin(struct file *file, unsigned long long first, unsigned long long end,
		    struct linux_shmem_batch *batch)
{
	unsigned long long bytes = min_t(u64, end << PAGE_SHIFT, i_size_read(file_inode(file)));
	struct linux_extent extent;
	int nr;

	end = DIV_ROUND_UP(bytes, PAGE_SIZE);
	while (first < end) {
		nr = pin_in_place(file->f_mapping, first, end, batch, &first);
		if (nr)
			return nr;
		/* What follows without a hole, which memfd_pin_folios() would fill; a batch of it. */
		if (!extents(file, first, end, &extent, 1, LINUX_SHMEM_BATCH))
			break;
		first = max(first, extent.first);
		nr = pin_anew(file, first, min(extent.end << PAGE_SHIFT, bytes) - 1, batch);
		if (nr)
			return nr;
	}
	return 0;
}

void linux_shmem_unpin(const unsigned long long *pfn, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		unpin_folio(pfn_folio(pfn[i]));
}

unsigned long long linux_shmem_unpin_range(struct file *file, unsigned long long first,
					   unsigned long long end)
{
	unsigned long long unpinned = 0;
	pgoff_t next = first;
	struct folio_batch batch;
	struct folio *folio;
	unsigned int i;

	folio_batch_init(&batch);
	while (next < end && filemap_get_folios(file->f_mapping, &next, end - 1, &batch)) {
		for (i = 0; i < folio_batch_count(&batch); i++) {
			folio = batch.folios[i];
			if (!folio_maybe_dma_pinned(folio))
				continue;
			unpinned += min(folio_next_index(folio), end) - max(folio->index, first);
			unpin_folio(folio);
		}
		folio_batch_release(&batch);
		cond_resched();
	}
	return end - first - unpinned;
}

/*
 * It takes a look-up for each folio, in the blackout. KHO's own debug option, which
 * checks each page that is preserved, is where this is worth it.
 */
static bool check = IS_ENABLED(CONFIG_KEXEC_HANDOVER_DEBUG);
module_param(check, bool, 0644);
MODULE_PARM_DESC(check, "at a freeze, look whether each preserved page is still what it was");

bool linux_shmem_checks(void)
{
	return READ_ONCE(check);
}

static const char *fault_of(struct folio *folio, unsigned long pfn, unsigned int order)
{
	if (folio_order(folio) != order)
		return "was split, or became part of another one";
	if (folio_pfn(folio) != pfn)
		return "was replaced by another one";
	if (!folio_maybe_dma_pinned(folio))
		return "is not pinned any more";
	/* KHO's scratch area is of CMA. */
	if (is_migrate_cma_folio(folio, pfn))
		return "lies in memory that the next kernel may overwrite";
	return NULL;
}

const char *linux_shmem_astray(struct file *file, const struct ferry_run *run,
			       unsigned long long *index)
{
	const char *fault = NULL;
	struct folio *folio;
	unsigned int i;

	for (i = 0; i < run->count && !fault; i++) {
		*index = run->index + ((unsigned long long)i << run->order);
		folio = filemap_get_folio(file->f_mapping, *index);
		if (IS_ERR(folio))
			return "is not in the file any more";
		fault = fault_of(folio, ferry_run_pfn(run, i), run->order);
		folio_put(folio);
		cond_resched();
	}
	return fault;
}

const char *linux_shmem_name(struct file *file)
{
	return file_dentry(file)->d_name.name;
}

/* ---- hugetlb, in the kernel that preserves ---- */

#ifdef CONFIG_HUGETLBFS
unsigned int linux_hugetlb_order(struct file *file)
{
	return huge_page_order(hstate_file(file));
}

static_assert(sizeof(struct linux_extent) == sizeof(struct hugetlb_range));

unsigned long linux_hugetlb_reserved(struct file *file, struct linux_extent *extent,
				     unsigned long max)
{
	unsigned int order = linux_hugetlb_order(file);
	struct hugetlb_range *range = (struct hugetlb_range *)extent;
	unsigned long nr, i;

	nr = hugetlb_reserved(file_inode(file), range, max);
	for (i = 0; i < min(nr, max); i++) {
		range[i].first <<= order;
		range[i].end <<= order;
	}
	return nr;
}

int linux_hugetlb_tell(const struct ferry_run *run, bool come)
{
	long count = run->count;

	return hugetlb_tell_carried(run->order, page_to_nid(pfn_to_page(run->pfn)),
				    come ? count : -count);
}
#else
unsigned int linux_hugetlb_order(struct file *file)
{
	return 0;
}

unsigned long linux_hugetlb_reserved(struct file *file, struct linux_extent *extent,
				     unsigned long max)
{
	return 0;
}

int linux_hugetlb_tell(const struct ferry_run *run, bool come)
{
	return 0;
}
#endif

/* ---- shmem, in the kernel that gets them ---- */

unsigned int linux_shmem_max_order(void)
{
	return IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) ? MAX_PAGECACHE_ORDER : 0;
}

static int create(const struct linux_shmem_attrs *attrs, unsigned int flags,
		  struct file **made)
{
	struct inode *inode;
	struct file *file;
	int err;

	file = memfd_alloc_file("", MFD_ALLOW_SEALING | flags);
	/* Their own mounts have no limit: what lacked was memory for an inode. */
	if (IS_ERR(file))
		return PTR_ERR(file) == -ENOSPC ? -ENOMEM : PTR_ERR(file);

	inode = file_inode(file);
	inode->i_mode = (inode->i_mode & ~S_IALLUGO) | (attrs->mode & S_IALLUGO);
	err = memfd_add_seals(file, attrs->seals);
	if (err) {
		fput(file);
		return err;
	}
	i_size_write(inode, attrs->size);
	vfs_setpos(file, attrs->pos, MAX_LFS_FILESIZE);
	*made = file;
	return 0;
}

int linux_shmem_create(const struct linux_shmem_attrs *attrs, struct file **made)
{
	return create(attrs, 0, made);
}

int linux_shmem_reserve(struct file *file, unsigned long long pages,
			struct linux_shmem_room *room)
{
	room->runs = kvmalloc_objs(*room->runs, LINUX_SHMEM_RUNS);
	if (!room->runs)
		return -ENOMEM;
	/* More than may be committed to is as bad as more than there is. */
	if (shmem_reserve_room(file_inode(file), pages, &room->memcg)) {
		kvfree(room->runs);
		return -ENOMEM;
	}
	room->pages = pages;
	room->total = pages;
	return 0;
}

void linux_shmem_settle(struct file *file, struct linux_shmem_room *room)
{
	shmem_settle_room(file_inode(file), room->total, room->pages, room->memcg);
	kvfree(room->runs);
}

static bool written(const struct ferry_run *run)
{
	return !(run->flags & FERRY_MEMFD_UNWRITTEN) ||
	       memchr_inv(pfn_to_kaddr(run->pfn), 0, PAGE_SIZE << run->order);
}

/* Frees the folios of a run from the one at place @at in the file on. */
static void free_from(const struct ferry_run *run, unsigned int at)
{
	struct ferry_run rest = *run;

	rest.count -= at;
	if (!(run->flags & FERRY_RUN_DESCENDING))
		rest.pfn += (unsigned long)at << run->order;
	linux_shmem_free(&rest);
}

static int insert(struct file *file, const struct shmem_run *runs, const struct ferry_run *run,
		  unsigned int nr, struct linux_shmem_room *room)
{
	unsigned long added;
	unsigned int i;
	int err;

	err = shmem_add_runs(file_inode(file), runs, nr, room->memcg, &added);
	for (i = 0; i < nr; i++) {
		unsigned int mine = min(added, run[i].count);

		room->pages -= (unsigned long)mine << run[i].order;
		added -= mine;
		if (mine < run[i].count)
			free_from(&run[i], mine);
	}
	return err;
}

/* Folios that were never written are looked at one by one. */
static int insert_unwritten(struct file *file, const struct ferry_run *run,
			    struct linux_shmem_room *room)
{
	unsigned int i;
	int err = 0;

	for (i = 0; i < run->count && !err; i++) {
		struct ferry_run folio = {
			.pfn = ferry_run_pfn(run, i),
			.index = run->index + ((unsigned long)i << run->order),
			.count = 1,
			.order = run->order,
			.flags = run->flags,
		};
		struct shmem_run one = {
			.pfn = folio.pfn,
			.index = folio.index,
			.count = 1,
			.order = folio.order,
			.uptodate = written(&folio),
		};

		err = insert(file, &one, &folio, 1, room);
		cond_resched();
	}
	if (i < run->count)
		free_from(run, i);
	return err;
}

int linux_shmem_insert(struct file *file, const struct ferry_run *run, unsigned int nr,
		       struct linux_shmem_room *room)
{
	struct shmem_run *runs = room->runs;
	unsigned int i, first = 0;
	int err = 0;

	for (i = 0; i <= nr; i++) {
		if (i == nr || run[i].flags & FERRY_MEMFD_UNWRITTEN) {
			if (i > first && !err)
				err = insert(file, runs + first, run + first, i - first, room);
			else
				while (first < i)
					linux_shmem_free(&run[first++]);
			if (i < nr && !err)
				err = insert_unwritten(file, &run[i], room);
			else if (i < nr)
				linux_shmem_free(&run[i]);
			first = i + 1;
			continue;
		}
		runs[i].pfn = run[i].pfn;
		runs[i].index = run[i].index;
		runs[i].count = run[i].count;
		runs[i].order = run[i].order;
		runs[i].descending = run[i].flags & FERRY_RUN_DESCENDING;
		runs[i].uptodate = true;
	}
	return err;
}

void linux_shmem_free(const struct ferry_run *run)
{
	unsigned int i;

	/* A folio of hugetlb, where damaged data says that it is a shmem file's. */
	if (run->order > MAX_PAGE_ORDER) {
		i = linux_hugetlb_free(run);
		if (i)
			pr_err_ratelimited("there is no pool for %u pages of order %u\n", i,
					   run->order);
		return;
	}
	for (i = 0; i < run->count; i++) {
		folio_put(pfn_folio(run->pfn + ((unsigned long)i << run->order)));
		cond_resched();
	}
}

/* ---- hugetlb, in the kernel that gets them ---- */

#ifdef CONFIG_HUGETLBFS
int linux_hugetlb_create(const struct linux_shmem_attrs *attrs, unsigned int order,
			 struct file **made)
{
	return create(attrs, MFD_HUGETLB | (order + PAGE_SHIFT) << MFD_HUGE_SHIFT, made);
}

int linux_hugetlb_insert(struct file *file, const struct ferry_run *run)
{
	struct folio *folio;
	unsigned int i;
	int err = 0;

	for (i = 0; i < run->count; i++) {
		folio = pfn_folio(ferry_run_pfn(run, i));
		if (!hugetlb_adopt_folio(folio)) {
			/* No pool for it, or somebody looks at the page right now. */
			if (run->order <= MAX_PAGE_ORDER)
				folio_put(folio);
			err = err ?: -EIO;
		} else if (err)
			folio_put(folio);
		else
			err = hugetlb_adopt_to_file(file_inode(file), folio,
						    run->index + ((pgoff_t)i << run->order));
		cond_resched();
	}
	return err;
}

int linux_hugetlb_reserve(struct file *file, unsigned long long first, unsigned long long end)
{
	unsigned int order = linux_hugetlb_order(file);
	long nr = hugetlb_reserve_pages(file_inode(file), first >> order, end >> order, NULL,
					EMPTY_VMA_FLAGS);

	return nr < 0 ? nr : 0;
}

unsigned int linux_hugetlb_free(const struct ferry_run *run)
{
	unsigned int i, lost = 0;
	struct folio *folio;

	for (i = 0; i < run->count; i++) {
		folio = pfn_folio(ferry_run_pfn(run, i));
		if (!hugetlb_adopt_folio(folio)) {
			lost++;
			if (run->order > MAX_PAGE_ORDER)
				continue;
		}
		folio_put(folio);
		cond_resched();
	}
	return lost;
}
#else
int linux_hugetlb_create(const struct linux_shmem_attrs *attrs, unsigned int order,
			 struct file **made)
{
	return -ENODEV;
}

int linux_hugetlb_insert(struct file *file, const struct ferry_run *run)
{
	return -ENODEV;
}

int linux_hugetlb_reserve(struct file *file, unsigned long long first, unsigned long long end)
{
	return -ENODEV;
}

unsigned int linux_hugetlb_free(const struct ferry_run *run)
{
	if (run->order <= MAX_PAGE_ORDER)
		linux_shmem_free(run);
	return run->count;
}
#endif

/* ---- any file, in the kernel that gets it ---- */

void linux_shmem_put(struct file *file)
{
	fput(file);
}

/* ---- the module ---- */

struct module *linux_this_module(void)
{
	return THIS_MODULE;
}

static int __init linux_init(void)
{
	return memfd_module_init();
}

static void __exit linux_exit(void)
{
	memfd_module_exit();
}

module_init(linux_init);
module_exit(linux_exit);
MODULE_DESCRIPTION("Ferry: memfds over a kexec");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("FERRY");
