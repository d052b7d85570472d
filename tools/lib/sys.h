/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * What the library asks of the system. Tests put a kernel of their own in the
 * place of sys.c.
 */
#ifndef LIBLIVEUPDATE_SYS_H
#define LIBLIVEUPDATE_SYS_H

#ifdef __cplusplus
extern "C" {
#endif

/* The device, close-on-exec, with O_NONBLOCK if it is to be shared; or a negative errno. */
int lu_sys_open(int shared);

/* ioctl(2); 0 or a negative errno. */
int lu_sys_ioctl(int fd, unsigned long request, void *arg);

/* Is a module of this name loaded? */
int lu_sys_has_module(const char *name);

/* Let some milliseconds pass. */
void lu_sys_sleep(unsigned int ms);

#ifdef __cplusplus
}
#endif

#endif
