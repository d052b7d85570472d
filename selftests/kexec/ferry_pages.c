// SPDX-License-Identifier: GPL-2.0
/*
 * What nobody may do to a page that is preserved, on demand: for the self-tests.
 * /sys/module/ferry_pages/parameters/wrong takes one command:
 *
 *	unpin FD PAGE	drop a pin of the folio that has this page
 *	move FD PAGE	let the kernel migrate it to other page frames
 *	free FD PAGE	punch a hole where it is, as if the file were not frozen,
 *			and drop the pin
 *	take FD PAGE	the same, but the folio is not free before "mend": so that
 *			another one comes into the hole
 *	scratch FD PAGE	count the block of memory that it fills to CMA, of which KHO's
 *			scratch area is. It has to stay there until "mend"
 *	settle FD PAGE	put a page of KHO's scratch area there, instead of the small one
 *			that is there, and drop the pin if it has one
 *	mend		undo what is left of "take" and "scratch"
 *
 * FD is of a memfd, and PAGE a place in it, in pages of 4 KiB. Errors: EINVAL for
 * a folio without a pin, or one that does not fill its block, ENOENT for a hole,
 * EBUSY for a folio that is not to be moved, and what else the kernel says.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/falloc.h>
#include <linux/gfp.h>
#include <linux/hugetlb.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/module.h>
#include <linux/pageblock-flags.h>
#include <linux/pagemap.h>
#include <linux/shmem_fs.h>
#include <linux/string.h>
#include <linux/swap.h>

static int unpin(struct folio *folio)
{
	if (!folio_maybe_dma_pinned(folio))
		return -EINVAL;
	unpin_folio(folio);
	return 0;
}

static int move(unsigned long pfn, unsigned long nr)
{
	int err = alloc_contig_range(pfn, pfn + nr, ACR_FLAGS_NONE, GFP_KERNEL | __GFP_NOWARN);

	if (!err)
		free_contig_range(pfn, nr);
	return err;
}

static void set_frozen(struct file *file, bool frozen)
{
	struct inode *inode = file_inode(file);

	inode_lock(inode);
#ifdef CONFIG_HUGETLBFS
	if (is_file_hugepages(file))
		HUGETLBFS_I(inode)->frozen = frozen;
	else
		shmem_freeze(inode, frozen);
#else
	shmem_freeze(inode, frozen);
#endif
	inode_unlock(inode);
}

static int punch(struct file *file, struct folio *folio)
{
	int err;

	if (!folio_maybe_dma_pinned(folio))
		return -EINVAL;
	set_frozen(file, false);
	err = vfs_fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, folio_pos(folio),
			    folio_size(folio));
	set_frozen(file, true);
	if (!err)
		unpin_folio(folio);
	return err;
}

static struct folio *taken;

static int take(struct file *file, struct folio *folio)
{
	int err = taken ? -EBUSY : punch(file, folio);

	if (err)
		return err;
	folio_get(folio);
	taken = folio;
	return 0;
}

/* The block that is made out to be of CMA, by its first page frame, and what it was. */
static unsigned long scratch_pfn;
static unsigned long scratch_was;

/* The bits of a block begin in the word that is returned, at @shift. */
static unsigned long *block_bits(unsigned long pfn, unsigned int *shift)
{
	unsigned long at = ((pfn & (PAGES_PER_SECTION - 1)) >> pageblock_order) * NR_PAGEBLOCK_BITS;

	*shift = at % BITS_PER_LONG;
	return section_to_usemap(__pfn_to_section(pfn)) + at / BITS_PER_LONG;
}

/* get_pageblock_migratetype() and set_pageblock_migratetype(), which are not for all modules. */
static unsigned long migratetype(unsigned long pfn)
{
	unsigned int shift;
	unsigned long *bits = block_bits(pfn, &shift);

	return (READ_ONCE(*bits) >> shift) & PAGEBLOCK_MIGRATETYPE_MASK;
}

/* Returns what was. */
static unsigned long set_migratetype(unsigned long pfn, unsigned long type)
{
	unsigned int shift;
	unsigned long *bits = block_bits(pfn, &shift);
	unsigned long was = READ_ONCE(*bits), is;

	do {
		is = (was & ~(PAGEBLOCK_MIGRATETYPE_MASK << shift)) | type << shift;
	} while (!try_cmpxchg(bits, &was, is));
	return (was >> shift) & PAGEBLOCK_MIGRATETYPE_MASK;
}

/* Of any block that the buddy allocator lends out of the area. */
static struct folio *alloc_in_scratch(void)
{
	unsigned long end = pgdat_end_pfn(NODE_DATA(numa_mem_id())), pfn;

	for (pfn = 0; pfn < end; pfn += pageblock_nr_pages) {
		if (!pfn_to_online_page(pfn) || migratetype(pfn) != MIGRATE_CMA)
			continue;
		if (!alloc_contig_range(pfn, pfn + 1, ACR_FLAGS_CMA, GFP_KERNEL | __GFP_NOWARN))
			return pfn_folio(pfn);
	}
	return NULL;
}

static int settle(struct address_space *mapping, pgoff_t index)
{
	struct folio *old, *new;
	int err = 0;

	new = alloc_in_scratch();
	if (!new)
		return -ENOMEM;
	old = filemap_lock_folio(mapping, index);
	if (IS_ERR(old)) {
		folio_put(new);
		return PTR_ERR(old);
	}
	if (folio_test_large(old)) {
		err = -EINVAL;
		goto unlock;
	}
	folio_copy(new, old);
	__folio_set_swapbacked(new);
	folio_mark_uptodate(new);
	__folio_set_locked(new);
	replace_page_cache_folio(old, new);
	folio_mark_dirty(new);
	folio_unlock(new);
	folio_add_lru(new);
	unpin(old);
unlock:
	folio_unlock(old);
	folio_put(old);
	folio_put(new);
	return err;
}

static int mend(void)
{
	if (scratch_pfn)
		set_migratetype(scratch_pfn, scratch_was);
	scratch_pfn = 0;
	if (taken)
		folio_put(taken);
	taken = NULL;
	return 0;
}

/*
 * The buddy allocator reads the type of a block where it frees or allocates a page of it,
 * which does not happen to a block with one folio in it that is in use.
 */
static int scratch(struct folio *folio)
{
	if (folio_order(folio) != pageblock_order || scratch_pfn)
		return -EINVAL;
	scratch_pfn = folio_pfn(folio);
	scratch_was = set_migratetype(scratch_pfn, MIGRATE_CMA);
	return 0;
}

static int do_wrong(const char *what, struct file *file, pgoff_t index)
{
	struct folio *folio = filemap_get_folio(file->f_mapping, index);
	unsigned long pfn, nr;
	int err = -EINVAL;

	if (IS_ERR(folio))
		return PTR_ERR(folio);
	pfn = folio_pfn(folio);
	nr = folio_nr_pages(folio);
	if (!strcmp(what, "unpin"))
		err = unpin(folio);
	else if (!strcmp(what, "free"))
		err = punch(file, folio);
	else if (!strcmp(what, "take"))
		err = take(file, folio);
	else if (!strcmp(what, "scratch"))
		err = scratch(folio);
	folio_put(folio);
	/* With a reference of ours it would not be moved or replaced. */
	if (!strcmp(what, "move"))
		err = move(pfn, nr);
	else if (!strcmp(what, "settle"))
		err = settle(file->f_mapping, index);
	return err;
}

static int wrong_set(const char *text, const struct kernel_param *kp)
{
	unsigned int fd, index;
	struct file *file;
	char what[16];
	int err = -EINVAL;

	if (sysfs_streq(text, "mend"))
		return mend();
	if (sscanf(text, "%15s %u %u", what, &fd, &index) != 3)
		return -EINVAL;
	file = fget(fd);
	if (!file)
		return -EBADF;
	if (shmem_file(file) || is_file_hugepages(file))
		err = do_wrong(what, file, index);
	fput(file);
	return err;
}

static const struct kernel_param_ops wrong_ops = { .set = wrong_set };
module_param_cb(wrong, &wrong_ops, NULL, 0200);

static int __init ferry_pages_init(void)
{
	return 0;
}

static void __exit ferry_pages_exit(void)
{
	mend();
}

module_init(ferry_pages_init);
module_exit(ferry_pages_exit);
MODULE_DESCRIPTION("Ferry: pages that do not stay where they are, for the self-tests");
MODULE_LICENSE("GPL");
