/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What fdbox.ko needs of the kernel besides <ferry/kernel.h>.
 *
 * linux.c implements it with the kernel's own headers in sight; on the host
 * selftests/unit/fake/fdbox.cc and fake/luo.cc do. All functions run in process context.
 */
#ifndef FERRY_FDBOX_LINUX_H
#define FERRY_FDBOX_LINUX_H

#include <ferry/kernel.h>

#ifdef __cplusplus
extern "C" {
#endif

struct file;
struct fdbox_handle;		/* a box, for C */
struct fdbox_opener;		/* somebody who has it open */
struct linux_box_device;

/* ---- files and user space: as in luo/linux.h ---- */

struct file *(linux_file_of)(int fd);
void (linux_file_get)(struct file *file);
void (linux_file_put)(struct file *file);
/* close_fd(). */
void (linux_fd_close)(int fd);
/* Is it one of our own devices? */
bool (linux_is_box)(struct file *file);
/* Who has a box open by this file; NULL: it is no box's. */
struct fdbox_opener *(linux_opener_of)(struct file *file);

int (linux_fd_reserve)(void);
void (linux_fd_install)(int fd, struct file *file);
void (linux_fd_abandon)(int fd);

int (linux_user_size)(const void *user, unsigned int *size);
int (linux_user_read)(void *to, ferry_size size, const void *user, ferry_size user_size);
int (linux_user_write)(void *user, const void *from, ferry_size size);
/* memzero_explicit(). */
void (linux_wipe)(void *at, ferry_size size);

/* The effective user of the caller, in the first user namespace. */
unsigned int (linux_caller)(void);
/* capable(CAP_SYS_ADMIN). */
bool (linux_privileged)(void);

/* ---- /dev/fdbox/NAME ---- */

/**
 * linux_box_add - make the device of a box
 *
 * fdbox_open() is called for each open of it, until linux_box_remove() is back.
 *
 * Return: 0, -ENOMEM, or what misc_register() says.
 */
int (linux_box_add)(struct fdbox_handle *box, const char *name, struct linux_box_device **device);
void (linux_box_remove)(struct linux_box_device *device);

struct module *(linux_this_module)(void);

/* ---- what linux.c calls ---- */

/* What can fail of it: nobody may have anything of a module open whose init fails. */
int (fdbox_module_init)(void);
/* After it, and when /dev/fdbox/fdbox is there: the boxes of the last kernel come. */
void (fdbox_module_start)(void);
void (fdbox_module_exit)(void);

long (fdbox_manager_ioctl)(unsigned int command, void *user);

/* Under the lock of all misc devices: takes no lock of ours. -EACCES, -ENOMEM. */
int (fdbox_open)(struct fdbox_handle *box, struct fdbox_opener **opener);
void (fdbox_release)(struct fdbox_opener *opener);
long (fdbox_ioctl)(struct fdbox_opener *opener, unsigned int command, void *user);

#ifdef __cplusplus
}
#endif
#endif
