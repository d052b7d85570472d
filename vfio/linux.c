// SPDX-License-Identifier: GPL-2.0
/* luo_vfio.ko's edge to the kernel: vfio/linux.h on the kernel's own functions. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/iommu-liveupdate.h>
#include <linux/iommufd.h>
#include <linux/kmod.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

#include "linux.h"

/* ---- any device ---- */

static void look(struct pci_dev *pdev, struct linux_vfio_device *device)
{
	unsigned int i;

	device->segment = pci_domain_nr(pdev->bus);
	device->rid = pci_dev_id(pdev);
	for (i = 0; i < LINUX_VFIO_CONFIG_SIZE; i++)
		pci_read_config_byte(pdev, i, &device->config[i]);

	device->traits = 0;
	if (pdev->is_virtfn || pci_num_vf(pdev))
		device->traits |= LINUX_VFIO_VIRTFN;
	if (pdev->ats_enabled)
		device->traits |= LINUX_VFIO_ATS;
	if (pdev->pasid_enabled || pdev->pri_enabled)
		device->traits |= LINUX_VFIO_PASID;
	if (pdev->class >> 8 == PCI_CLASS_SERIAL_USB)
		device->traits |= LINUX_VFIO_USB;
	if (!pdev->driver || strcmp(pdev->driver->name, "vfio-pci"))
		device->traits |= LINUX_VFIO_OTHER_DRIVER;
	if (pdev->current_state != PCI_D0)
		device->traits |= LINUX_VFIO_LOW_POWER;
}

/* ---- in the kernel that preserves ---- */

static struct vfio_device *device_of(struct file *file)
{
	struct iommufd_ctx *ictx;

	return vfio_cdev_device(file, &ictx);
}

static struct pci_dev *pdev_of(struct file *file)
{
	return to_pci_dev(device_of(file)->dev);
}

/* Of a device of which LINUX_VFIO_OTHER_DRIVER is not true. */
static struct vfio_pci_core_device *core_of(struct file *file)
{
	return container_of(device_of(file), struct vfio_pci_core_device, vdev);
}

bool linux_vfio_is(struct file *file)
{
	struct vfio_device *device = device_of(file);

	return device && dev_is_pci(device->dev);
}

unsigned long linux_vfio_id(struct file *file)
{
	return (unsigned long)device_of(file);
}

void linux_vfio_look(struct file *file, struct linux_vfio_device *device)
{
	look(pdev_of(file), device);
}

struct file *linux_vfio_iommufd(struct file *file)
{
	struct iommufd_ctx *ictx;

	vfio_cdev_device(file, &ictx);
	return ictx ? iommufd_ctx_file(ictx) : NULL;
}

int linux_vfio_hold(struct file *file)
{
	struct vfio_device *device = device_of(file);

	guard(mutex)(&device->dev_set->lock);
	if (device->liveupdate)
		return -EBUSY;
	if (!device->iommufd_attached)
		return -ENOENT;
	device->liveupdate = true;
	return 0;
}

void linux_vfio_let_go(struct file *file)
{
	struct vfio_device *device = device_of(file);

	guard(mutex)(&device->dev_set->lock);
	device->liveupdate = false;
}

int linux_vfio_freeze(struct file *file)
{
	struct vfio_pci_core_device *core = core_of(file);
	int ret;

	guard(mutex)(&core->igate);
	if (core->irq_type != VFIO_PCI_NUM_IRQS)
		return -EBUSY;
	ret = iommu_liveupdate_save(&core->pdev->dev);
	if (ret)
		return ret;
	pci_intx(core->pdev, 0);
	core->liveupdate_frozen = true;
	return 0;
}

/* INTx stays off: it is switched on with the first VFIO_DEVICE_SET_IRQS for it. */
void linux_vfio_unfreeze(struct file *file)
{
	struct vfio_pci_core_device *core = core_of(file);

	guard(mutex)(&core->igate);
	core->liveupdate_frozen = false;
	iommu_liveupdate_unsave(&core->pdev->dev);
}

/* ---- in the kernel that gets it ---- */

enum linux_vfio_state linux_vfio_state(unsigned int segment, unsigned int rid)
{
	switch (iommu_liveupdate_state(segment, rid)) {
	case IOMMU_LIVEUPDATE_ADOPTED:
	case IOMMU_LIVEUPDATE_SWAPPING:
		return LINUX_VFIO_ADOPTED;
	case IOMMU_LIVEUPDATE_DONE:
		return LINUX_VFIO_SWAPPED;
	default:
		return LINUX_VFIO_GONE;
	}
}

static struct pci_dev *get_pdev(unsigned int segment, unsigned int rid)
{
	return pci_get_domain_bus_and_slot(segment, PCI_BUS_NUM(rid), rid & 0xff);
}

int linux_vfio_find(unsigned int segment, unsigned int rid, struct linux_vfio_device *device)
{
	struct pci_dev *pdev = get_pdev(segment, rid);

	if (!pdev)
		return -ENODEV;
	look(pdev, device);
	pci_dev_put(pdev);
	return 0;
}

int linux_vfio_open(unsigned int segment, unsigned int rid, struct file **file)
{
	struct pci_dev *pdev = get_pdev(segment, rid);
	int ret;

	if (!pdev)
		return -ENODEV;
	/* The kernel has set its driver_override, so this finds no other driver. */
	if (!pdev->dev.driver) {
		request_module("vfio-pci");
		ret = device_attach(&pdev->dev);
		if (ret < 0)
			goto put;
	}
	*file = vfio_cdev_open_held(&pdev->dev);
	ret = PTR_ERR_OR_ZERO(*file);
put:
	pci_dev_put(pdev);
	return ret;
}

int linux_vfio_release(unsigned int segment, unsigned int rid)
{
	struct pci_dev *pdev;
	int ret = iommu_liveupdate_release(segment, rid);

	if (ret)
		return ret;
	pdev = get_pdev(segment, rid);
	if (pdev) {
		/* One that has no reset is as quiet as it can be. */
		pci_try_reset_function(pdev);
		pci_dev_put(pdev);
	}
	return 0;
}

/* ---- the module ---- */

struct module *linux_this_module(void)
{
	return THIS_MODULE;
}

static int __init linux_init(void)
{
	return vfio_module_init();
}

static void __exit linux_exit(void)
{
	vfio_module_exit();
}

module_init(linux_init);
module_exit(linux_exit);
MODULE_DESCRIPTION("Ferry: PCI devices of VFIO over a kexec");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("FERRY");
MODULE_IMPORT_NS("IOMMUFD");
