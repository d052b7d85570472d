// SPDX-License-Identifier: GPL-2.0
/* luo_memfd.ko's edge to the kernel: memfd/linux.h on the kernel's own functions. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/highmem.h>
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

/* ---- any shmem file ---- */

bool linux_shmem_is(struct file *file)
{
	return shmem_file(file) && !file_inode(file)->i_nlink;
}

unsigned long linux_shmem_id(struct file *file)
{
	return (unsigned long)file_inode(file);
}

void linux_shmem_look(struct file *file, struct linux_shmem_attrs *attrs)
{
	struct inode *inode = file_inode(file);

	attrs->size = i_size_read(inode);
	attrs->pos = READ_ONCE(file->f_pos);
	attrs->seals = READ_ONCE(SHMEM_I(inode)->seals);
	attrs->mode = READ_ONCE(inode->i_mode) & S_IALLUGO;
}

/* ---- in the kernel that preserves ---- */

void linux_shmem_freeze(struct file *file, bool freeze)
{
	struct inode *inode = file_inode(file);

	inode_lock(inode);
	shmem_freeze(inode, freeze);
	inode_unlock(inode);
}

void linux_shmem_hold(struct file *file, bool hold)
{
	shmem_hold(file_inode(file), hold);
}

unsigned long long linux_shmem_pages(struct file *file)
{
	struct inode *inode = file_inode(file);
	struct shmem_inode_info *info = SHMEM_I(inode);
	unsigned long long pages;

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

unsigned int linux_shmem_extents(struct file *file, unsigned long long first,
				 unsigned long long end, struct linux_extent *extent,
				 unsigned int max)
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
		if (at + pages >= end)
			break;

		if (need_resched()) {
			xas_pause(&xas);
			cond_resched_rcu();
		}
	}
	rcu_read_unlock();
	return nr;
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

#define MAX_COUNT	((1u << FERRY_RUN_COUNT_BITS) - 1)

/* One more folio: part of the last run, or a run of its own. A run lies in one node. */
static unsigned int add_folio(struct linux_shmem_batch *batch, unsigned int nr,
			      struct folio *folio, pgoff_t index, unsigned short flags)
{
	unsigned short order = folio_order(folio);
	unsigned long pfn = folio_pfn(folio);
	struct ferry_run *run = nr ? &batch->run[nr - 1] : NULL;

	if (run && run->order == order && run->flags == flags && run->count < MAX_COUNT &&
	    folio_nid(folio) == page_to_nid(pfn_to_page(run->pfn)) &&
	    run->pfn + ((unsigned long)run->count << order) == pfn &&
	    run->index + ((unsigned long)run->count << order) == index) {
		run->count++;
		return nr;
	}
	run = &batch->run[nr];
	run->pfn = pfn;
	run->index = index;
	run->count = 1;
	run->order = order;
	run->flags = flags;
	return nr + 1;
}

/*
 * What try_grab_folio() does with FOLL_PIN, for a folio that may go away; the
 * caller counts them.
 */
static bool try_pin(struct folio *folio)
{
	if (folio_has_pincount(folio)) {
		if (!folio_try_get(folio))
			return false;
		atomic_inc(&folio->_pincount);
		/* Whoever looks at the folio after this sees the pin. */
		smp_mb__after_atomic();
	} else if (!folio_ref_try_add(folio, GUP_PIN_COUNTING_BIAS)) {
		return false;
	}
	return true;
}

/*
 * Whether a pinned folio needs nothing more to be done. Reclaim leaves pinned
 * folios alone, but may have looked at this one before it was pinned, and be on
 * its way to replace it by a swap entry: then it holds the lock. Whoever takes
 * the lock after this finds the pin.
 *
 * @block is the last pageblock of which folios may stay: one answer for all of it.
 */
static bool stays(struct address_space *mapping, struct folio *folio, unsigned long *block)
{
	unsigned long mine = folio_pfn(folio) >> pageblock_order;

	if (folio_test_locked(folio) || folio->mapping != mapping ||
	    !folio_test_uptodate(folio) || folio_contain_hwpoisoned_page(folio))
		return false;
	if (mine != *block && !folio_is_longterm_pinnable(folio))
		return false;
	*block = mine;
	return true;
}

/*
 * Pins folios in their place, up to the first one for which that is not enough.
 * Returns the number of runs.
 */
static unsigned int pin_in_place(struct address_space *mapping, unsigned long long first,
				 unsigned long long end, struct linux_shmem_batch *batch)
{
	XA_STATE(xas, &mapping->i_pages, first);
	unsigned long long index, next = first;
	struct pglist_data *node = NULL;
	unsigned long block = ULONG_MAX;
	struct folio *folio;
	unsigned int nr = 0;
	long pins = 0;

	rcu_read_lock();
	xas_for_each(&xas, folio, end - 1) {
		if (xas_retry(&xas, folio))
			continue;
		if (xa_is_value(folio) || !try_pin(folio))
			break;
		if (pins && node != folio_pgdat(folio)) {
			mod_node_page_state(node, NR_FOLL_PIN_ACQUIRED, pins);
			pins = 0;
		}
		node = folio_pgdat(folio);
		pins++;
		index = folio->index;
		/* A folio that is not it any more, or one behind a hole. */
		if (folio != xas_reload(&xas) || index > next || !stays(mapping, folio, &block)) {
			unpin_folio(folio);
			break;
		}
		nr = add_folio(batch, nr, folio, index, 0);
		next = index + folio_nr_pages(folio);
		if (nr == LINUX_SHMEM_BATCH || next >= end || need_resched())
			break;
	}
	rcu_read_unlock();
	if (pins)
		mod_node_page_state(node, NR_FOLL_PIN_ACQUIRED, pins);
	cond_resched();
	return nr;
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
	unsigned short flags;
	unsigned int nr = 0;
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
		nr = add_folio(batch, nr, batch->folio[i], batch->folio[i]->index, flags);
	}
	cond_resched();
	return folios < 0 ? folios : nr;
}

int linux_shmem_pin(struct file *file, unsigned long long first, unsigned long long end,
		    struct linux_shmem_batch *batch)
{
	unsigned long long bytes = min_t(u64, end << PAGE_SHIFT, i_size_read(file_inode(file)));
	int nr;

	do {
		nr = pin_in_place(file->f_mapping, first, DIV_ROUND_UP(bytes, PAGE_SIZE), batch);
		if (!nr)
			nr = pin_anew(file, first, bytes - 1, batch);
	} while (!nr);
	return nr;
}

void linux_shmem_unpin(const struct ferry_run *run)
{
	unsigned int i;

	for (i = 0; i < run->count; i++)
		unpin_folio(pfn_folio(run->pfn + ((unsigned long)i << run->order)));
}

void linux_shmem_unpin_range(struct file *file, unsigned long long first, unsigned long long end)
{
	pgoff_t next = first;
	struct folio_batch batch;
	unsigned int i;

	folio_batch_init(&batch);
	while (next < end && filemap_get_folios(file->f_mapping, &next, end - 1, &batch)) {
		for (i = 0; i < folio_batch_count(&batch); i++)
			unpin_folio(batch.folios[i]);
		folio_batch_release(&batch);
		cond_resched();
	}
}

/* ---- in the kernel that gets them ---- */

unsigned int linux_shmem_max_order(void)
{
	return IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) ? MAX_PAGECACHE_ORDER : 0;
}

int linux_shmem_create(const struct linux_shmem_attrs *attrs, struct file **made)
{
	struct inode *inode;
	struct file *file;
	int err;

	file = memfd_alloc_file("", MFD_ALLOW_SEALING);
	if (IS_ERR(file))
		return PTR_ERR(file);

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

int linux_shmem_reserve(struct file *file, unsigned long long pages,
			struct linux_shmem_room *room)
{
	/* More than may be committed to is as bad as more than there is. */
	if (shmem_reserve_room(file_inode(file), pages, &room->memcg))
		return -ENOMEM;
	room->pages = pages;
	room->total = pages;
	return 0;
}

void linux_shmem_settle(struct file *file, struct linux_shmem_room *room)
{
	shmem_settle_room(file_inode(file), room->total, room->pages, room->memcg);
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
		unsigned int at = run->flags & FERRY_RUN_DESCENDING ? run->count - 1 - i : i;
		struct ferry_run folio = {
			.pfn = run->pfn + ((unsigned long)at << run->order),
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
	struct shmem_run runs[LINUX_SHMEM_RUNS];
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

	for (i = 0; i < run->count; i++) {
		folio_put(pfn_folio(run->pfn + ((unsigned long)i << run->order)));
		cond_resched();
	}
}

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
