// SPDX-License-Identifier: GPL-2.0
/*
 * What can go wrong with devices on the way into the next kernel, on demand: for
 * the self-tests. Parameters, which take effect at the end of reboot(2):
 *
 *	stuck=SSSS:BB:DD.F	the device's bus mastering is not turned off
 *	damage=WHAT		the kernel's record of devices is damaged: "crc";
 *				or wrong, with a good checksum: "version", "nr",
 *				"root", "context", "device", "did", "levels";
 *				or not handed over at all: "absent"
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/crc32c.h>
#include <linux/highmem.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/iommu.h>
#include <linux/memblock.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/reboot.h>

static char *stuck = "";
module_param(stuck, charp, 0600);
static char *damage = "";
module_param(damage, charp, 0600);

static void let_stick(void)
{
	unsigned int segment, bus, slot, function;
	struct pci_dev *pdev;

	if (sscanf(stuck, "%x:%x:%x.%x", &segment, &bus, &slot, &function) != 4)
		return;
	pdev = pci_get_domain_bus_and_slot(segment, bus, PCI_DEVFN(slot, function));
	if (!pdev)
		return;
	/* pci_device_shutdown() does not touch a device in this state. */
	pdev->current_state = PCI_UNKNOWN;
	pci_dev_put(pdev);
}

static u32 crc_of(struct iommu_liveupdate_record *record)
{
	u32 was = record->crc, is;

	record->crc = 0;
	is = crc32c(~0, record, PAGE_SIZE);
	record->crc = was;
	return is;
}

/*
 * Nobody tells modules where it is. It is the one page that begins like that; one
 * that the last kernel's module has damaged may still lie about.
 */
static struct iommu_liveupdate_record *find_record(void)
{
	unsigned long pfn;

	for (pfn = 0; pfn < totalram_pages() * 2; pfn++) {
		struct page *page = pfn_to_online_page(pfn);
		struct iommu_liveupdate_record *record;

		if (!page || PageReserved(page) || !page_count(page) || PageSlab(page))
			continue;
		record = page_address(page);
		if (READ_ONCE_NOCHECK(record->magic) == IOMMU_LIVEUPDATE_MAGIC &&
		    record->crc == crc_of(record))
			return record;
	}
	return NULL;
}

static void do_damage(void)
{
	struct iommu_liveupdate_record *record = find_record();

	if (!record) {
		pr_err("there is no record to damage\n");
		return;
	}
	if (!strcmp(damage, "absent")) {
		kho_remove_subtree(record);
		pr_info("the record is not handed over\n");
		return;
	}
	if (!strcmp(damage, "version"))
		record->version++;
	else if (!strcmp(damage, "nr"))
		record->nr = IOMMU_LIVEUPDATE_MAX + 1;
	else if (!strcmp(damage, "root"))
		record->device[0].root ^= PAGE_SIZE;
	else if (!strcmp(damage, "context"))
		record->device[0].context[0] ^= PAGE_SIZE;
	else if (!strcmp(damage, "device"))
		record->device[0].device++;
	else if (!strcmp(damage, "did"))
		record->device[0].did = 0;
	else if (!strcmp(damage, "levels"))
		record->device[0].levels = 9;
	else
		record->device[0].rid++;
	if (strcmp(damage, "crc"))
		record->crc = crc_of(record);
	pr_info("the record is damaged: %s\n", damage);
}

static int reboot(struct notifier_block *nb, unsigned long action, void *data)
{
	if (action != SYS_RESTART)
		return NOTIFY_DONE;
	if (*stuck)
		let_stick();
	if (*damage)
		do_damage();
	return NOTIFY_DONE;
}

static struct notifier_block notifier = { .notifier_call = reboot };

static int __init ferry_dma_init(void)
{
	return register_reboot_notifier(&notifier);
}

static void __exit ferry_dma_exit(void)
{
	unregister_reboot_notifier(&notifier);
}

module_init(ferry_dma_init);
module_exit(ferry_dma_exit);
MODULE_DESCRIPTION("Ferry: devices that misbehave, for the self-tests");
MODULE_LICENSE("GPL");
