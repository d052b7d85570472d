// SPDX-License-Identifier: GPL-2.0
/* luo_iommu.ko's edge to the kernel: iommu/linux.h on the kernel's own functions. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/io.h>
#include <linux/iommu-liveupdate.h>
#include <linux/iommu.h>
#include <linux/iommufd.h>
#include <linux/kexec_handover.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/pci.h>

#include <asm/cacheflush.h>

#include <ferry/iommu.h>

#include "linux.h"

static_assert(PAGE_SIZE == LINUX_PAGE_SIZE);

/* include/abi/jump.h is <linux/kho/abi/iommu.h>. */
#define SAME(ours, theirs, field)					\
	static_assert(offsetof(struct ours, field) == offsetof(struct theirs, field) &&	\
		      sizeof_field(struct ours, field) == sizeof_field(struct theirs, field))
#define SAME_IN_DEVICE(field) SAME(ferry_jump_device, iommu_liveupdate_device, field)
SAME_IN_DEVICE(unit);
SAME_IN_DEVICE(root);
SAME_IN_DEVICE(context);
SAME_IN_DEVICE(table);
SAME_IN_DEVICE(segment);
SAME_IN_DEVICE(rid);
SAME_IN_DEVICE(vendor);
SAME_IN_DEVICE(device);
SAME_IN_DEVICE(did);
SAME_IN_DEVICE(levels);
SAME_IN_DEVICE(scalable);
static_assert(sizeof(struct ferry_jump_device) == sizeof(struct iommu_liveupdate_device));
#define SAME_IN_PAGE(field) SAME(ferry_jump, iommu_liveupdate_record, field)
SAME_IN_PAGE(magic);
SAME_IN_PAGE(version);
SAME_IN_PAGE(crc);
SAME_IN_PAGE(nr);
static_assert(offsetof(struct ferry_jump, device) ==
	      offsetof(struct iommu_liveupdate_record, device));
static_assert(FERRY_JUMP_MAX == IOMMU_LIVEUPDATE_MAX);
static_assert(FERRY_JUMP_MAGIC == IOMMU_LIVEUPDATE_MAGIC);
static_assert(FERRY_JUMP_VERSION == IOMMU_LIVEUPDATE_VERSION);

/* ---- iommufds ---- */

/* The context of a file that is one's, which lives as long as the file does. */
static struct iommufd_ctx *ctx_of(struct file *file)
{
	struct iommufd_ctx *ictx = iommufd_ctx_from_file(file);

	if (IS_ERR(ictx))
		return NULL;
	iommufd_ctx_put(ictx);
	return ictx;
}

bool linux_iommufd_is(struct file *file)
{
	return ctx_of(file);
}

unsigned long linux_iommufd_id(struct file *file)
{
	return (unsigned long)ctx_of(file);
}

int linux_iommufd_freeze(struct file *file)
{
	int ret = iommufd_liveupdate_freeze(ctx_of(file), true);

	if (ret)
		return ret;
	/* Has it nothing but what is walked? */
	ret = iommufd_liveupdate_walk(ctx_of(file), NULL, NULL, NULL);
	if (ret)
		linux_iommufd_thaw(file);
	return ret;
}

void linux_iommufd_thaw(struct file *file)
{
	iommufd_liveupdate_freeze(ctx_of(file), false);
}

struct mappings {
	int (*visit)(void *ctx, const struct linux_mapping *mapping);
	void *ctx;
};

/* Each vma that is mapped there; holes, and what has no file, without a file. */
static int visit_mm(const struct mappings *to, const struct iommufd_liveupdate_mapping *map)
{
	struct linux_mapping piece = { .ioas = map->ioas_id };
	u64 at = map->start, end = map->start + map->length, next;
	struct vm_area_struct *vma;
	int ret = 0;

	mmap_read_lock(map->mm);
	for (; !ret && at < end; at = next) {
		vma = find_vma(map->mm, at);
		piece.iova = map->iova + (at - map->start);
		piece.file = NULL;
		if (vma && vma->vm_start <= at) {
			next = min(end, vma->vm_end);
			piece.start = ((u64)vma->vm_pgoff << PAGE_SHIFT) + (at - vma->vm_start);
			if (vma->vm_flags & VM_SHARED)
				piece.file = vma->vm_file;
		} else {
			next = vma ? min(end, vma->vm_start) : end;
		}
		piece.length = next - at;
		ret = to->visit(to->ctx, &piece);
	}
	mmap_read_unlock(map->mm);
	return ret;
}

static int visit_mapping(void *data, const struct iommufd_liveupdate_mapping *map)
{
	const struct mappings *to = data;
	struct linux_mapping piece = {
		.ioas = map->ioas_id,
		.iova = map->iova,
		.length = map->length,
		.file = map->file,
		.start = map->start,
	};

	return map->mm ? visit_mm(to, map) : to->visit(to->ctx, &piece);
}

int linux_iommufd_mappings(struct file *file,
			   int (*visit)(void *ctx, const struct linux_mapping *mapping), void *ctx)
{
	struct mappings to = { visit, ctx };

	return iommufd_liveupdate_walk(ctx_of(file), visit_mapping, NULL, &to);
}

struct tables {
	int (*visit)(void *ctx, unsigned int ioas, const struct linux_table *table);
	void *ctx;
};

static int visit_domain(void *data, u32 ioas, struct iommu_domain *domain)
{
	struct iommu_liveupdate_device is;
	const struct tables *to = data;
	struct linux_table table;
	int ret;

	if (!domain->owner || !domain->owner->liveupdate)
		return -EOPNOTSUPP;
	ret = domain->owner->liveupdate->table(domain, &is);
	if (ret)
		return ret;
	table.top = is.table;
	table.levels = is.levels;
	return to->visit(to->ctx, ioas, &table);
}

int linux_iommufd_tables(struct file *file,
			 int (*visit)(void *ctx, unsigned int ioas, const struct linux_table *table),
			 void *ctx)
{
	struct tables to = { visit, ctx };

	return iommufd_liveupdate_walk(ctx_of(file), NULL, visit_domain, &to);
}

int linux_iommufd_create(struct file **file)
{
	*file = iommufd_create_file();
	return PTR_ERR_OR_ZERO(*file);
}

void linux_iommufd_put(struct file *file)
{
	fput(file);
}

/* ---- page tables ---- */

const unsigned long long *linux_table_page(unsigned long long phys)
{
	return phys_to_virt(phys);
}

int linux_file_page(struct file *file, unsigned long long index, unsigned long long *pfn,
		    unsigned long long *count)
{
	struct folio *folio;

	if (is_file_hugepages(file))
		return -EOPNOTSUPP;
	if (index >= DIV_ROUND_UP_ULL(i_size_read(file_inode(file)), PAGE_SIZE))
		return -ENOENT;
	folio = filemap_get_folio(file->f_mapping, index);
	if (IS_ERR(folio))
		return -ENOENT;
	*pfn = folio_pfn(folio) + (index - folio->index);
	*count = folio_next_index(folio) - index;
	folio_put(folio);
	return 0;
}

/* ---- devices, on the way out ---- */

/* Of the driver of its IOMMU; NULL: there is none that can. */
static const struct iommu_liveupdate_ops *ops_of(struct device *dev)
{
	return dev->iommu ? dev->iommu->iommu_dev->ops->liveupdate : NULL;
}

int linux_device_look(struct device *dev, struct ferry_jump_device *is,
		      unsigned long long *pasid)
{
	struct pci_dev *pdev = to_pci_dev(dev);

	if (!ops_of(dev))
		return -EOPNOTSUPP;
	is->segment = pci_domain_nr(pdev->bus);
	is->rid = pci_dev_id(pdev);
	is->vendor = pdev->vendor;
	is->device = pdev->device;
	return ops_of(dev)->look(dev, (struct iommu_liveupdate_device *)is, pasid);
}

void linux_device_leave(struct device *dev, void *root)
{
	ops_of(dev)->leave(dev, root);
}

void linux_device_spare(struct device *dev, int more)
{
	struct pci_dev *pdev;

	for (pdev = to_pci_dev(dev); pdev; pdev = pci_upstream_bridge(pdev))
		pdev->liveupdate_spare += more;
}

void *linux_keep_page(void)
{
	void *page = kho_alloc_preserve(PAGE_SIZE);

	return IS_ERR(page) ? NULL : page;
}

void linux_keep_end(void *page)
{
	kho_unpreserve_free(page);
}

unsigned long long linux_kept_phys(const void *page)
{
	return virt_to_phys((void *)page);
}

void *linux_kept(unsigned long long phys)
{
	return phys_to_virt(phys);
}

void linux_kept_flush(const void *page)
{
	clflush_cache_range((void *)page, PAGE_SIZE);
}

int linux_record_publish(void *page)
{
	return kho_add_subtree(IOMMU_LIVEUPDATE_SUBTREE, page, PAGE_SIZE);
}

void linux_record_withdraw(void *page)
{
	kho_remove_subtree(page);
}

EXPORT_SYMBOL_NS_GPL(ferry_iommu_save, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_iommu_unsave, "FERRY");

/* ---- adopted devices ---- */

const struct ferry_jump_device *linux_incoming_device(unsigned int nr, enum linux_adoption *how)
{
	const struct iommu_liveupdate_in *in = iommu_liveupdate_get(nr);
	enum iommu_liveupdate_state state;

	if (!in)
		return NULL;
	state = READ_ONCE(in->state);
	*how = state == IOMMU_LIVEUPDATE_ADOPTED ? LINUX_DEVICE_ADOPTED :
	       state == IOMMU_LIVEUPDATE_DONE ? LINUX_DEVICE_DONE : LINUX_DEVICE_REFUSED;
	return (const struct ferry_jump_device *)&in->rec;
}

bool linux_came(unsigned long long phys)
{
	const struct kho_run run = { .pfn = PHYS_PFN(phys), .count = 1 };

	return kho_is_preserved(&run);
}

void linux_came_free(unsigned long long phys)
{
	kho_restore_free(phys_to_virt(phys));
}

static int verify(const struct iommu_liveupdate_device *old,
		  const struct iommu_liveupdate_device *now)
{
	struct linux_table was = { old->table, old->levels }, is = { now->table, now->levels };

	return iommu_compare(&was, &is);
}

void linux_verify(bool on)
{
	iommu_liveupdate_set_verifier(on ? verify : NULL);
}

/* ---- the module ---- */

struct module *linux_this_module(void)
{
	return THIS_MODULE;
}

static int __init linux_init(void)
{
	return iommu_module_init();
}

static void __exit linux_exit(void)
{
	iommu_module_exit();
}

module_init(linux_init);
module_exit(linux_exit);
MODULE_DESCRIPTION("Ferry: iommufds over a kexec");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("FERRY");
MODULE_IMPORT_NS("IOMMUFD");
