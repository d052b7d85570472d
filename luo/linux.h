/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What luo.ko needs of the kernel besides <ferry/kernel.h>.
 *
 * linux.c implements it with the kernel's own headers in sight; on the host
 * selftests/unit/fake/luo.cc does. All functions run in process context.
 */
#ifndef FERRY_LUO_LINUX_H
#define FERRY_LUO_LINUX_H

#include <ferry/kernel.h>

#ifdef __cplusplus
extern "C" {
#endif

struct file;
struct seq_file;
struct luo_session;

/* ---- files ---- */

/* fget(), get_file(), fput(). NULL when @fd is not open, or opened with O_PATH. */
struct file *(linux_file_of)(int fd);
void (linux_file_get)(struct file *file);
void (linux_file_put)(struct file *file);

/* get_unused_fd_flags(O_CLOEXEC). Return: the descriptor, or a negative errno. */
int (linux_fd_reserve)(void);
/* Gives the reference to the file to the descriptor table. */
void (linux_fd_install)(int fd, struct file *file);
void (linux_fd_abandon)(int fd);

/**
 * linux_session_file - a file that stands for a session
 * @name: for /proc: "anon_inode:[luo_session] NAME"
 *
 * luo_session_ioctl() and luo_session_release() are called for it.
 *
 * Return: 0, or what anon_inode_getfile() says.
 */
int (linux_session_file)(struct luo_session *session, const char *name, struct file **file);

/* ---- memory of the caller of an ioctl ---- */

/* The size that starts every argument, in bytes. Return: 0 or -EFAULT. */
int (linux_user_size)(const void *user, unsigned int *size);
/* copy_struct_from_user(). Return: 0, -EFAULT, or -E2BIG. */
int (linux_user_read)(void *to, ferry_size size, const void *user, ferry_size user_size);
/* copy_to_user(). Return: 0 or -EFAULT. */
int (linux_user_write)(void *user, const void *from, ferry_size size);

/* ---- who asks, and with what key ---- */

/* capable(CAP_SYS_ADMIN). */
bool (linux_privileged)(void);

#define LINUX_KEY_SIZE	32
#define LINUX_SALT_SIZE	16

/* get_random_bytes(). */
void (linux_random)(void *to, ferry_size size);
/*
 * HMAC-SHA-256 of the salt, with the key as its key: hmac_sha256_usingrawkey().
 * The hash has LINUX_KEY_SIZE bytes.
 */
void (linux_key_hash)(const unsigned char *key, const unsigned char *salt, unsigned char *hash);
/* crypto_memneq(): in a time that does not tell where they differ. */
bool (linux_differ)(const void *a, const void *b, ferry_size size);
/* memzero_explicit(). */
void (linux_wipe)(void *at, ferry_size size);
/* Whether one more line about a wrong key may go to the log: a few in some seconds. */
bool (linux_may_log)(void);

/* ---- later ---- */

/* Has luo_background() called, soon, in a kernel thread. */
void (linux_background)(void);
/*
 * Has luo_deadline() called in so many milliseconds, in a kernel thread: once, at
 * the time of the last call.
 */
void (linux_deadline)(unsigned long long ms);

/* ---- for people ---- */

/* CLOCK_REALTIME, in nanoseconds. */
unsigned long long (linux_realtime)(void);
/* The release of this kernel, as in uname(2). */
const char *(linux_kernel_release)(void);

/*
 * Tracepoints of the system ferry_luo. @operation: enum liveupdate_ferry_operation;
 * @error: 0 or a negative errno; @ns: that it took.
 */
void (linux_trace_file)(int operation, const char *session, unsigned long long token,
			const char *handler, int error, unsigned long long ns);
void (linux_trace_session)(const char *event, const char *session, int error);
void (linux_trace_update)(const char *stage, int error, unsigned long long ns);

/* This module. */
struct module *(linux_this_module)(void);

/* ---- what linux.c calls ---- */

int (luo_module_init)(void);
void (luo_module_exit)(void);

/*
 * @shared: opened with O_NONBLOCK; else -EBUSY while another one that is not has it
 * open, as in mainline. -EPERM: not privileged enough to share it.
 */
int (luo_device_open)(bool shared);
void (luo_device_release)(bool shared);
/* Return: 0 or a negative errno; -ENOTTY for a command that is not ours. */
long (luo_device_ioctl)(unsigned int command, void *user);
long (luo_session_ioctl)(struct luo_session *session, unsigned int command, void *user);
void (luo_session_release)(struct luo_session *session);

/**
 * luo_prepare - freeze everything, and hand it to the next kernel
 *
 * @kho: the kernel that was loaded gets what KHO hands over
 *
 * In reboot(2), before the point of no return. On success luo stays shut until
 * the kexec, or until luo_abort() by the same task.
 *
 * Return: 0, or the errno of who refused; then everything is as before. -EINVAL:
 * there are sessions, and without @kho they would be lost.
 */
int (luo_prepare)(bool kho);
void (luo_abort)(void);

/* What linux_background() and linux_deadline() asked for; not after luo_module_exit(). */
void (luo_background)(void);
void (luo_deadline)(void);

/* The last update, a line each: "key value". */
void (luo_show_update)(struct seq_file *file);

#ifdef __cplusplus
}
#endif
#endif
