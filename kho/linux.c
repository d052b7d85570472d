// SPDX-License-Identifier: GPL-2.0
/* kho.ko's edge to the kernel: kho/linux.h on the kernel's own functions. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/libfdt.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/seq_file.h>

#include <ferry/kho.h>
#include "linux.h"

static_assert(PAGE_SIZE == LINUX_PAGE_SIZE);

void *linux_page_alloc(void)
{
	return (void *)get_zeroed_page(GFP_KERNEL | __GFP_NOWARN);
}

void linux_page_free(void *page)
{
	free_page((unsigned long)page);
}

unsigned long long linux_page_phys(const void *page)
{
	return virt_to_phys((void *)page);
}

void *linux_page_at(unsigned long long phys)
{
	return phys_to_virt(phys);
}

int linux_node(unsigned long long pfn)
{
	return page_to_nid(pfn_to_page(pfn));
}

static void to_kho(struct kho_run *to, const struct ferry_run *run, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		to[i].pfn = run[i].pfn;
		to[i].count = run[i].count;
		to[i].order = run[i].order;
	}
}

int linux_preserve(const struct ferry_run *run, unsigned int nr)
{
	struct kho_run runs[LINUX_MAX_RUNS];

	to_kho(runs, run, nr);
	return kho_preserve_runs(runs, nr);
}

void linux_unpreserve(const struct ferry_run *run, unsigned int nr)
{
	struct kho_run runs[LINUX_MAX_RUNS];

	to_kho(runs, run, nr);
	kho_unpreserve_runs(runs, nr);
}

int linux_preserve_list(unsigned long long pfn, unsigned int order, const unsigned int *place,
			unsigned int nr)
{
	return kho_preserve_list(pfn, order, place, nr);
}

void linux_unpreserve_list(unsigned long long pfn, unsigned int order, const unsigned int *place,
			   unsigned int nr)
{
	kho_unpreserve_list(pfn, order, place, nr);
}

unsigned int linux_count_preserved(const struct ferry_run *run, unsigned int nr)
{
	struct kho_run runs[LINUX_MAX_RUNS];

	to_kho(runs, run, nr);
	return kho_count_preserved(runs, nr);
}

unsigned int linux_restore(const struct ferry_run *run, unsigned int nr)
{
	struct kho_run runs[LINUX_MAX_RUNS];

	to_kho(runs, run, nr);
	return kho_restore_runs(runs, nr);
}

unsigned int linux_count_preserved_list(unsigned long long pfn, unsigned int order,
					const unsigned int *place, unsigned int nr)
{
	return kho_count_preserved_list(pfn, order, place, nr);
}

unsigned int linux_restore_list(unsigned long long pfn, unsigned int order,
				const unsigned int *place, unsigned int nr)
{
	return kho_restore_list(pfn, order, place, nr);
}

void linux_release(unsigned long long pfn, unsigned int count, unsigned int order)
{
	unsigned int i;

	/* Only hugetlb knows how to free such a folio; its handler does. */
	if (order > MAX_PAGE_ORDER) {
		pr_err_ratelimited("%u folios of order %u are lost: nobody here can free them\n",
				   count, order);
		return;
	}
	for (i = 0; i < count; i++) {
		folio_put(pfn_folio(pfn + ((unsigned long)i << order)));
		cond_resched();
	}
}

int linux_publish(const char *name, void *page, size_t size)
{
	return kho_add_subtree(name, page, size);
}

void linux_forget(unsigned long long phys)
{
	kho_forget_subtree(phys_to_virt(phys));
}

void linux_withdraw(void *page)
{
	kho_remove_subtree(page);
}

int linux_handed_over(const char *name, unsigned long long *phys, size_t *size)
{
	phys_addr_t at;
	int err;

	err = kho_retrieve_subtree(name, &at, size);
	if (!err)
		*phys = at;
	return err;
}

struct module *linux_this_module(void)
{
	return THIS_MODULE;
}

/* ---- debugfs ---- */

static struct dentry *debugfs;

struct dentry *ferry_debugfs(void)
{
	return debugfs;
}
EXPORT_SYMBOL_NS_GPL(ferry_debugfs, "FERRY");

static bool incoming(const void *file_data)
{
	return file_data != NULL;
}

static int dump_show(struct seq_file *file, void *unused)
{
	kho_show_dump(file, incoming(file->private));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(dump);

static int formats_show(struct seq_file *file, void *unused)
{
	kho_show_formats(file);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(formats);

static int owners_show(struct seq_file *file, void *unused)
{
	kho_show_owners(file);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(owners);

struct tree_reader {
	void *data;
	long size;
};

static int tree_open(struct inode *inode, struct file *file)
{
	struct tree_reader *reader;

	reader = ferry_alloc(sizeof(*reader));
	if (!reader)
		return -ENOMEM;
	reader->size = kho_tree_copy(incoming(inode->i_private), &reader->data);
	if (reader->size < 0) {
		int err = reader->size;

		ferry_free(reader);
		return err;
	}
	file->private_data = reader;
	return 0;
}

static ssize_t tree_read(struct file *file, char __user *to, size_t count, loff_t *pos)
{
	struct tree_reader *reader = file->private_data;

	return simple_read_from_buffer(to, count, pos, reader->data, reader->size);
}

static int tree_release(struct inode *inode, struct file *file)
{
	struct tree_reader *reader = file->private_data;

	ferry_free(reader->data);
	ferry_free(reader);
	return 0;
}

static const struct file_operations tree_fops = {
	.owner = THIS_MODULE,
	.open = tree_open,
	.read = tree_read,
	.llseek = default_llseek,
	.release = tree_release,
};

static void debugfs_create(void)
{
	struct dentry *in, *out;

	debugfs = debugfs_create_dir("ferry", NULL);
	in = debugfs_create_dir("in", debugfs);
	out = debugfs_create_dir("out", debugfs);
	debugfs_create_file("fdt", 0400, in, (void *)1, &tree_fops);
	debugfs_create_file("dump", 0400, in, (void *)1, &dump_fops);
	debugfs_create_file("fdt", 0400, out, NULL, &tree_fops);
	debugfs_create_file("dump", 0400, out, NULL, &dump_fops);
	debugfs_create_file("formats", 0400, debugfs, NULL, &formats_fops);
	debugfs_create_file("owners", 0400, debugfs, NULL, &owners_fops);
}

static int __init linux_init(void)
{
	int err;

	if (!kho_is_enabled()) {
		pr_err("the kernel was booted without KHO: add kho=on to its command line\n");
		return -EOPNOTSUPP;
	}
	err = kho_module_init();
	if (err)
		return err;
	debugfs_create();
	return 0;
}

static void __exit linux_exit(void)
{
	debugfs_remove(debugfs);
	kho_module_exit();
}

module_init(linux_init);
module_exit(linux_exit);
MODULE_DESCRIPTION("Ferry: memory and records that the next kernel gets");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("FERRY");
