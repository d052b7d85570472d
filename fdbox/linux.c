// SPDX-License-Identifier: GPL-2.0
/* fdbox.ko's edge to the kernel: fdbox/linux.h on the kernel's own functions. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "linux.h"

/* ---- files and user space ---- */

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

void linux_fd_close(int fd)
{
	close_fd(fd);
}

int linux_fd_reserve(void)
{
	return get_unused_fd_flags(O_CLOEXEC);
}

void linux_fd_install(int fd, struct file *file)
{
	fd_install(fd, file);
}

void linux_fd_abandon(int fd)
{
	put_unused_fd(fd);
}

int linux_user_size(const void *user, unsigned int *size)
{
	return get_user(*size, (const u32 __user *)user);
}

int linux_user_read(void *to, size_t size, const void *user, size_t user_size)
{
	return copy_struct_from_user(to, size, (const void __user *)user, user_size);
}

int linux_user_write(void *user, const void *from, size_t size)
{
	return copy_to_user((void __user *)user, from, size) ? -EFAULT : 0;
}

void linux_wipe(void *at, size_t size)
{
	memzero_explicit(at, size);
}

unsigned int linux_caller(void)
{
	return from_kuid(&init_user_ns, current_euid());
}

bool linux_privileged(void)
{
	return capable(CAP_SYS_ADMIN);
}

struct module *linux_this_module(void)
{
	return THIS_MODULE;
}

/* ---- /dev/fdbox/NAME ---- */

struct linux_box_device {
	struct miscdevice misc;
	struct fdbox_handle *box;
	char name[80];
	char node[80];
};

/* The miscdevice may be gone before its files are: what they need is in private_data. */
static int box_open(struct inode *inode, struct file *file)
{
	struct linux_box_device *device =
		container_of(file->private_data, struct linux_box_device, misc);
	struct fdbox_opener *opener;
	int err;

	err = fdbox_open(device->box, &opener);
	if (!err)
		file->private_data = opener;
	return err;
}

static int box_release(struct inode *inode, struct file *file)
{
	fdbox_release(file->private_data);
	return 0;
}

static long box_ioctl(struct file *file, unsigned int command, unsigned long user)
{
	return fdbox_ioctl(file->private_data, command, (void *)user);
}

static const struct file_operations box_fops = {
	.owner = THIS_MODULE,
	.open = box_open,
	.release = box_release,
	.unlocked_ioctl = box_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

int linux_box_add(struct fdbox_handle *box, const char *name, struct linux_box_device **device)
{
	struct linux_box_device *made = kzalloc_obj(*made);
	int err;

	if (!made)
		return -ENOMEM;
	snprintf(made->name, sizeof(made->name), "fdbox-%s", name);
	snprintf(made->node, sizeof(made->node), "fdbox/%s", name);
	made->box = box;
	made->misc.minor = MISC_DYNAMIC_MINOR;
	made->misc.name = made->name;
	made->misc.nodename = made->node;
	made->misc.fops = &box_fops;
	/* Who may use it is up to fdbox_open(). */
	made->misc.mode = 0666;
	err = misc_register(&made->misc);
	if (err) {
		kfree(made);
		return err;
	}
	*device = made;
	return 0;
}

void linux_box_remove(struct linux_box_device *device)
{
	misc_deregister(&device->misc);
	kfree(device);
}

/* ---- /dev/fdbox/fdbox ---- */

static long manager_ioctl(struct file *file, unsigned int command, unsigned long user)
{
	return fdbox_manager_ioctl(command, (void *)user);
}

static const struct file_operations manager_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = manager_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice manager = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fdbox",
	.nodename = "fdbox/fdbox",
	.fops = &manager_fops,
	.mode = 0600,
};

bool linux_is_box(struct file *file)
{
	return file->f_op == &box_fops || file->f_op == &manager_fops;
}

struct fdbox_opener *linux_opener_of(struct file *file)
{
	return file->f_op == &box_fops ? file->private_data : NULL;
}

static int __init linux_init(void)
{
	int err = fdbox_module_init();

	if (err)
		return err;
	err = misc_register(&manager);
	if (err) {
		fdbox_module_exit();
		return err;
	}
	fdbox_module_start();
	return 0;
}

static void __exit linux_exit(void)
{
	misc_deregister(&manager);
	fdbox_module_exit();
}

module_init(linux_init);
module_exit(linux_exit);
MODULE_DESCRIPTION("Ferry: named boxes of files, /dev/fdbox");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("FERRY");
