// SPDX-License-Identifier: GPL-2.0
/* luo_iommu.ko's edge to the kernel: iommu/linux.h on the kernel's own functions. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/io.h>
#include <linux/iommu-liveupdate.h>
#include <linux/iommufd.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>

#include "linux.h"

static_assert(PAGE_SHIFT == 12);

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
	return iommufd_liveupdate_freeze(ctx_of(file));
}

void linux_iommufd_thaw(struct file *file)
{
	iommufd_liveupdate_thaw(ctx_of(file));
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

	return iommufd_liveupdate_mappings(ctx_of(file), visit_mapping, &to);
}

struct tables {
	int (*visit)(void *ctx, unsigned int ioas, const struct linux_table *table);
	void *ctx;
};

static int visit_domain(void *data, u32 ioas, struct iommu_domain *domain)
{
	struct iommu_liveupdate_table is;
	const struct tables *to = data;
	struct linux_table table;
	int ret;

	ret = iommu_liveupdate_domain_table(domain, &is);
	if (ret)
		return ret;
	table.top = is.top;
	table.levels = is.levels;
	return to->visit(to->ctx, ioas, &table);
}

int linux_iommufd_tables(struct file *file,
			 int (*visit)(void *ctx, unsigned int ioas, const struct linux_table *table),
			 void *ctx)
{
	struct tables to = { visit, ctx };

	return iommufd_liveupdate_domains(ctx_of(file), visit_domain, &to);
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

void linux_free_pages(const struct ferry_run *run)
{
	unsigned int i;

	for (i = 0; i < run->count; i++) {
		folio_put(pfn_folio(run->pfn + ((unsigned long)i << run->order)));
		cond_resched();
	}
}

/* ---- adopted devices ---- */

bool linux_table_in_use(unsigned long long top)
{
	return iommu_liveupdate_uses(top);
}

static int verify(const struct iommu_liveupdate_table *old,
		  const struct iommu_liveupdate_table *now)
{
	struct linux_table was = { old->top, old->levels }, is = { now->top, now->levels };

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
