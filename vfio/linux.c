// SPDX-License-Identifier: GPL-2.0
/* luo_vfio.ko's edge to the kernel: vfio/linux.h on the kernel's own functions. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/iommu-liveupdate.h>
#include <linux/iommufd.h>
#include <linux/kmod.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

#include <ferry/iommu.h>
#include <uapi/linux/liveupdate_vfio.h>

#include "linux.h"

static_assert(sizeof(struct liveupdate_vfio_interrupts) == 16);
static_assert(FERRY_VFIO_VECTORS_SIZE * 8 == VFIO_PCI_MAX_VECTORS);

/* ---- any device ---- */

static bool has_vfio_pci(struct pci_dev *pdev)
{
	return pdev->driver && !strcmp(pdev->driver->name, "vfio-pci");
}

/* Where the control word of MSI or MSI-X is, and the bit that turns it on; or false. */
static bool find_messages(struct pci_dev *pdev, bool msix, int *at, u16 *enable)
{
	*at = msix ? pdev->msix_cap + PCI_MSIX_FLAGS : pdev->msi_cap + PCI_MSI_FLAGS;
	*enable = msix ? PCI_MSIX_FLAGS_ENABLE : PCI_MSI_FLAGS_ENABLE;
	return msix ? pdev->msix_cap : pdev->msi_cap;
}

static bool has_messages_on(struct pci_dev *pdev, bool msix)
{
	u16 enable, control;
	int at;

	if (!find_messages(pdev, msix, &at, &enable))
		return false;
	pci_read_config_word(pdev, at, &control);
	return control & enable;
}

static void turn_messages(struct pci_dev *pdev, bool msix, bool on)
{
	u16 enable, control;
	int at;

	if (!find_messages(pdev, msix, &at, &enable))
		return;
	pci_read_config_word(pdev, at, &control);
	pci_write_config_word(pdev, at, on ? control | enable : control & ~enable);
}

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
	if (!has_vfio_pci(pdev))
		device->traits |= LINUX_VFIO_OTHER_DRIVER;
	if (pdev->current_state != PCI_D0)
		device->traits |= LINUX_VFIO_LOW_POWER;
	if (has_messages_on(pdev, false) || has_messages_on(pdev, true))
		device->traits |= LINUX_VFIO_MESSAGES;
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

/* Context: igate is held. */
static void list_interrupts(struct vfio_pci_core_device *core,
			    struct linux_vfio_interrupts *are)
{
	unsigned long vector;
	void *ctx;

	memset(are, 0, sizeof(*are));
	switch (core->irq_type) {
	case VFIO_PCI_INTX_IRQ_INDEX:
		are->kind = FERRY_VFIO_INTX;
		break;
	case VFIO_PCI_MSI_IRQ_INDEX:
		are->kind = FERRY_VFIO_MSI;
		break;
	case VFIO_PCI_MSIX_IRQ_INDEX:
		are->kind = FERRY_VFIO_MSIX;
		break;
	}
	/* Vectors of MSI without an eventfd are not there. */
	xa_for_each(&core->ctx, vector, ctx)
		are->vectors[vector / 8] |= 1 << vector % 8;
}

static bool are_messages(const struct linux_vfio_interrupts *are)
{
	return are->kind == FERRY_VFIO_MSI || are->kind == FERRY_VFIO_MSIX;
}

int linux_vfio_freeze(struct file *file, bool force, struct linux_vfio_interrupts *were)
{
	struct vfio_pci_core_device *core = core_of(file);
	int ret;

	guard(mutex)(&core->vdev.dev_set->lock);
	scoped_guard(mutex, &core->igate) {
		list_interrupts(core, were);
		if (were->kind != FERRY_VFIO_NONE && !force)
			return -EBUSY;
		/* A reset that has begun is over, and who may let it sleep is not there. */
		scoped_guard(rwsem_write, &core->memory_lock)
			core->liveupdate_frozen = !core->pm_runtime_engaged;
		if (!core->liveupdate_frozen)
			return -EAGAIN;
		ret = ferry_iommu_save(&core->pdev->dev);
		if (ret) {
			core->liveupdate_frozen = false;
			return ret;
		}
		if (are_messages(were))
			turn_messages(core->pdev, were->kind == FERRY_VFIO_MSIX, false);
		/* Who unmasks it from now on does not get through; who has begun is over. */
		scoped_guard(spinlock_irq, &core->irqlock)
			pci_intx(core->pdev, 0);
	}
	return 0;
}

/* Besides those that are due already. Context: igate is held. */
static void add_due(struct vfio_pci_core_device *core, const unsigned char *due)
{
	unsigned int vector;

	for (vector = 0; vector < VFIO_PCI_MAX_VECTORS; vector++)
		if (due[vector / 8] & 1 << vector % 8)
			__set_bit(vector, core->liveupdate_due);
}

/* INTx that was not set up stays off: it is switched on with the first VFIO_DEVICE_SET_IRQS for it. */
void linux_vfio_unfreeze(struct file *file, const struct linux_vfio_interrupts *were)
{
	struct vfio_pci_core_device *core = core_of(file);

	guard(mutex)(&core->igate);
	core->liveupdate_frozen = false;
	ferry_iommu_unsave(&core->pdev->dev);
	if (are_messages(were))
		turn_messages(core->pdev, were->kind == FERRY_VFIO_MSIX, true);
	/* Where it is not what masks INTx, nobody else switches it on. */
	if (were->kind == FERRY_VFIO_INTX && !core->pci_2_3)
		pci_intx(core->pdev, 1);
	add_due(core, were->vectors);
	vfio_pci_liveupdate_trigger(core);
}

/* ---- in the kernel that gets it ---- */

enum linux_vfio_state linux_vfio_state(unsigned int segment, unsigned int rid)
{
	const struct iommu_liveupdate_in *in;
	unsigned int i;

	for (i = 0; (in = iommu_liveupdate_get(i)); i++)
		if (in->rec.segment == segment && in->rec.rid == rid)
			break;
	switch (in ? READ_ONCE(in->state) : IOMMU_LIVEUPDATE_REFUSED) {
	case IOMMU_LIVEUPDATE_ADOPTED:
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

int linux_vfio_open(unsigned int segment, unsigned int rid, const unsigned char *due,
		    struct file **file)
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
	/* Its driver stays for now. */
	scoped_guard(device, &pdev->dev) {
		struct vfio_pci_core_device *core = dev_get_drvdata(&pdev->dev);

		*file = has_vfio_pci(pdev) ? vfio_cdev_open_held(&core->vdev) : ERR_PTR(-ENODEV);
	}
	ret = PTR_ERR_OR_ZERO(*file);
	if (!ret) {
		guard(mutex)(&core_of(*file)->igate);
		add_due(core_of(*file), due);
	}
put:
	pci_dev_put(pdev);
	return ret;
}

void linux_vfio_release(unsigned int segment, unsigned int rid)
{
	struct pci_dev *pdev;

	iommu_liveupdate_release(segment, rid);
	/* Of a device that is not there what was adopted stays, and the memory of its tables. */
	if (linux_vfio_state(segment, rid) == LINUX_VFIO_ADOPTED)
		return;
	pdev = get_pdev(segment, rid);
	if (pdev) {
		/* One that has no reset is as quiet as it can be. */
		pci_try_reset_function(pdev);
		pci_dev_put(pdev);
	}
}

/* ---- the caller of an ioctl ---- */

struct file *linux_file_of(int fd)
{
	return fget(fd);
}

void linux_file_get(struct file *file)
{
	get_file(file);
}

void linux_file_put(struct file *file)
{
	fput(file);
}

int linux_user_size(const void *user, unsigned int *size)
{
	return get_user(*size, (const u32 __user *)user);
}

int linux_user_read(void *to, size_t size, const void *user, size_t user_size)
{
	return copy_struct_from_user(to, size, (const void __user *)user, user_size);
}

/* ---- the device, and the module ---- */

static long device_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	return vfio_device_ioctl(command, (void *)arg);
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = device_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/* For everybody: the descriptor of the device is what gives the right. */
static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "liveupdate_vfio",
	.mode = 0666,
	.fops = &device_fops,
};

struct module *linux_this_module(void)
{
	return THIS_MODULE;
}

static int __init linux_init(void)
{
	int err = vfio_module_init();

	if (err)
		return err;
	err = misc_register(&device);
	if (err)
		vfio_module_exit();
	return err;
}

static void __exit linux_exit(void)
{
	misc_deregister(&device);
	vfio_module_exit();
}

module_init(linux_init);
module_exit(linux_exit);
MODULE_DESCRIPTION("Ferry: PCI devices of VFIO over a kexec");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("FERRY");
MODULE_IMPORT_NS("IOMMUFD");
