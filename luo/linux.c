// SPDX-License-Identifier: GPL-2.0
/* luo.ko's edge to the kernel: luo/linux.h on the kernel's own functions. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <crypto/sha2.h>
#include <crypto/utils.h>
#include <linux/anon_inodes.h>
#include <linux/capability.h>
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kexec.h>
#include <linux/liveupdate.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/random.h>
#include <linux/ratelimit.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/utsname.h>
#include <linux/workqueue.h>

#include <ferry/luo.h>
#include "linux.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* The C++ side has these from our own header of the same interface. */
static_assert(sizeof(struct liveupdate_ioctl_create_session) == 72);
static_assert(sizeof(struct liveupdate_ioctl_retrieve_session) == 72);
static_assert(sizeof(struct liveupdate_session_preserve_fd) == 16);
static_assert(sizeof(struct liveupdate_session_retrieve_fd) == 16);
static_assert(sizeof(struct liveupdate_session_finish) == 8);
static_assert(sizeof(struct liveupdate_session_get_name) == 72);

EXPORT_SYMBOL_NS_GPL(ferry_luo_register, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_register_all, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_unregister, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_depend, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_preserved, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_dependency, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_dependency_token, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_dependency_priv, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_lock_make, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_lock_open, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_enter, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_leave, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_session_create, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_session_undo, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_session_take, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_session_preserve, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_session_check, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_session_file, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_session_retrieve, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_session_finish, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_session_close, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_progress, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_luo_usage, "FERRY");

/* ---- files ---- */

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

static long session_ioctl(struct file *file, unsigned int command, unsigned long user)
{
	return luo_session_ioctl(file->private_data, command, (void *)user);
}

static int session_release(struct inode *inode, struct file *file)
{
	luo_session_release(file->private_data);
	return 0;
}

static const struct file_operations session_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = session_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.release = session_release,
};

int linux_session_file(struct luo_session *session, const char *name, struct file **file)
{
	char link[sizeof("[luo_session] ") + LIVEUPDATE_SESSION_NAME_LENGTH];

	snprintf(link, sizeof(link), "[luo_session] %s", name);
	*file = anon_inode_getfile(link, &session_fops, session, O_RDWR);
	return PTR_ERR_OR_ZERO(*file);
}

/* ---- memory of the caller of an ioctl ---- */

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

/* ---- for people ---- */

u64 linux_realtime(void)
{
	return ktime_get_real_ns();
}

const char *linux_kernel_release(void)
{
	return init_utsname()->release;
}

void linux_trace_file(int operation, const char *session, u64 token, const char *handler,
		      int error, u64 ns)
{
	trace_ferry_luo_file(operation, session, token, handler, error, ns);
}

void linux_trace_session(const char *event, const char *session, int error)
{
	trace_ferry_luo_session(event, session, error);
}

void linux_trace_update(const char *stage, int error, u64 ns)
{
	trace_ferry_luo_update(stage, error, ns);
}

struct module *linux_this_module(void)
{
	return THIS_MODULE;
}

/* ---- who asks, and with what key ---- */

static_assert(SHA256_DIGEST_SIZE == LINUX_KEY_SIZE);

bool linux_privileged(void)
{
	return capable(CAP_SYS_ADMIN);
}

void linux_random(void *to, size_t size)
{
	get_random_bytes(to, size);
}

void linux_key_hash(const unsigned char *key, const unsigned char *salt, unsigned char *hash)
{
	hmac_sha256_usingrawkey(key, LINUX_KEY_SIZE, salt, LINUX_SALT_SIZE, hash);
}

bool linux_differ(const void *a, const void *b, size_t size)
{
	return crypto_memneq(a, b, size);
}

void linux_wipe(void *at, size_t size)
{
	memzero_explicit(at, size);
}

bool linux_may_log(void)
{
	static DEFINE_RATELIMIT_STATE(state, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&state);
}

/* ---- /dev/liveupdate ---- */

/* The flag may change later: how it was opened is in private_data. */
static int device_open(struct inode *inode, struct file *file)
{
	bool shared = file->f_flags & O_NONBLOCK;

	file->private_data = (void *)shared;
	return luo_device_open(shared);
}

static int device_release(struct inode *inode, struct file *file)
{
	luo_device_release(file->private_data);
	return 0;
}

static long device_ioctl(struct file *file, unsigned int command, unsigned long user)
{
	return luo_device_ioctl(command, (void *)user);
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.open = device_open,
	.release = device_release,
	.unlocked_ioctl = device_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "liveupdate",
	.fops = &device_fops,
	.mode = 0600,
};

/* ---- reboot(2) ---- */

static int kexec_notify(struct notifier_block *block, unsigned long action, void *data)
{
	const struct kimage *image = data;

	switch (action) {
	case KEXEC_PREPARE:
		return notifier_from_errno(luo_prepare(image->kho.fdt));
	case KEXEC_ABORT:
		luo_abort();
		return NOTIFY_OK;
	}
	return NOTIFY_DONE;
}

static struct notifier_block kexec_block = {
	.notifier_call = kexec_notify,
};

/* ---- later ---- */

static void background(struct work_struct *work)
{
	luo_background();
}

static DECLARE_WORK(background_work, background);

void linux_background(void)
{
	queue_work(system_dfl_wq, &background_work);
}

static void deadline(struct work_struct *work)
{
	luo_deadline();
}

static DECLARE_DELAYED_WORK(deadline_work, deadline);

void linux_deadline(unsigned long long ms)
{
	/* One that is farther away than the clock of the timer reaches is looked at again. */
	mod_delayed_work(system_dfl_wq, &deadline_work,
			 msecs_to_jiffies(min_t(unsigned long long, ms, INT_MAX)));
}

/* ---- the module ---- */

static int update_show(struct seq_file *file, void *unused)
{
	luo_show_update(file);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(update);

static struct dentry *update_file;

static int __init linux_init(void)
{
	int err;

	if (liveupdate_enabled()) {
		pr_err("the kernel's own orchestrator is active: boot without liveupdate=on to use this one\n");
		return -EBUSY;
	}
	err = luo_module_init();
	if (err)
		return err;
	err = register_kexec_notifier(&kexec_block);
	if (err)
		goto exit;
	err = misc_register(&device);
	if (err)
		goto unregister;
	update_file = debugfs_create_file("update", 0400, ferry_debugfs(), NULL, &update_fops);
	return 0;

unregister:
	unregister_kexec_notifier(&kexec_block);
exit:
	cancel_delayed_work_sync(&deadline_work);
	luo_module_exit();
	return err;
}

static void __exit linux_exit(void)
{
	debugfs_remove(update_file);
	misc_deregister(&device);
	unregister_kexec_notifier(&kexec_block);
	cancel_work_sync(&background_work);
	cancel_delayed_work_sync(&deadline_work);
	luo_module_exit();
}

module_init(linux_init);
module_exit(linux_exit);
MODULE_DESCRIPTION("Ferry: live update orchestrator, /dev/liveupdate");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("FERRY");
