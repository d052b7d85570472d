// SPDX-License-Identifier: GPL-2.0
/* luo_memfd.ko's edge to the kernel: memfd/linux.h on the kernel's own functions. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/memcontrol.h>
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

/*
 * Reclaim leaves pinned folios alone, but may have looked at this one before it
 * was pinned, and be on its way to replace it by a swap entry. It holds the lock
 * of the folio for that: false if it was so, and never again after this.
 */
static bool settle(struct address_space *mapping, struct folio *folio, struct ferry_run *run)
{
	bool in_place;

	run->pfn = folio_pfn(folio);
	run->count = 1;
	run->order = folio_order(folio);
	run->flags = 0;

	folio_lock(folio);
	in_place = folio->mapping == mapping;
	run->index = folio->index;
	if (unlikely(in_place && !folio_test_uptodate(folio))) {
		folio_zero_range(folio, 0, folio_size(folio));
		run->flags = FERRY_MEMFD_UNWRITTEN;
	}
	folio_unlock(folio);
	return in_place;
}

int linux_shmem_pin(struct file *file, unsigned long long first, unsigned long long end,
		    struct linux_shmem_batch *batch)
{
	loff_t last = min_t(u64, end << PAGE_SHIFT, i_size_read(file_inode(file))) - 1;
	pgoff_t offset;
	long nr, i;

	do {
		nr = memfd_pin_folios(file, first << PAGE_SHIFT, last, batch->folio,
				      LINUX_SHMEM_BATCH, &offset);
		for (i = 0; i < nr; i++) {
			if (folio_contain_hwpoisoned_page(batch->folio[i])) {
				unpin_folios(batch->folio, nr);
				return -EHWPOISON;
			}
			if (!settle(file->f_mapping, batch->folio[i], &batch->run[i])) {
				unpin_folios(batch->folio + i, nr - i);
				nr = i;
			}
		}
		cond_resched();
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

static bool written(struct folio *folio, unsigned int flags)
{
	return !(flags & FERRY_MEMFD_UNWRITTEN) ||
	       memchr_inv(folio_address(folio), 0, folio_size(folio));
}

static int insert(struct address_space *mapping, struct folio *folio, pgoff_t index,
		  unsigned int flags)
{
	gfp_t gfp = mapping_gfp_mask(mapping);
	int err;

	__folio_set_locked(folio);
	__folio_set_swapbacked(folio);
	/* As for every large folio that the page cache allocates. */
	if (folio_test_large(folio))
		folio_set_large_rmappable(folio);
	if (written(folio, flags))
		__folio_mark_uptodate(folio);
	/* What dirty_folio() of shmem does, once it is in the page cache. */
	folio_set_dirty(folio);

	err = mem_cgroup_charge(folio, NULL, gfp);
	if (!err)
		err = shmem_add_to_page_cache(folio, mapping, index, NULL, gfp);
	if (!err)
		folio_add_lru(folio);
	folio_unlock(folio);
	folio_put(folio);
	return err;
}

int linux_shmem_insert(struct file *file, const struct ferry_run *run)
{
	struct inode *inode = file_inode(file);
	long pages = (long)run->count << run->order;
	unsigned int i;
	int err;

	err = shmem_inode_acct_blocks(inode, pages);
	if (err) {
		linux_shmem_free(run);
		return err;
	}

	for (i = 0; i < run->count; i++) {
		unsigned int at = run->flags & FERRY_RUN_DESCENDING ? run->count - 1 - i : i;
		struct folio *folio = pfn_folio(run->pfn + ((unsigned long)at << run->order));

		if (err)
			folio_put(folio);
		else
			err = insert(inode->i_mapping, folio,
				     run->index + ((unsigned long)i << run->order), run->flags);
		cond_resched();
	}

	/* Gives back what was accounted for folios that are not in the file. */
	shmem_recalc_inode(inode, pages, 0);
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
