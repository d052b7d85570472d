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

/* Has luo_background() called, soon, in a kernel thread. */
void (linux_background)(void);

/* This module. */
struct module *(linux_this_module)(void);

/* ---- what linux.c calls ---- */

int (luo_module_init)(void);
void (luo_module_exit)(void);

/* -EBUSY while somebody else has the device open, as in mainline. */
int (luo_device_open)(void);
void (luo_device_release)(void);
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

/* What linux_background() asked for; not after luo_module_exit(). */
void (luo_background)(void);

/* The last update, a line each: "key value". */
void (luo_show_update)(struct seq_file *file);

#ifdef __cplusplus
}
#endif
#endif
