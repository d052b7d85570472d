// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

int lu_sys_open(int shared)
{
	int saved = errno, fd, error;

	fd = open("/dev/liveupdate", O_RDWR | O_CLOEXEC | (shared ? O_NONBLOCK : 0));
	error = errno;

	errno = saved;
	return fd < 0 ? -error : fd;
}

int lu_sys_ioctl(int fd, unsigned long request, void *arg)
{
	int saved = errno, result = ioctl(fd, request, arg), error = errno;

	errno = saved;
	return result < 0 ? -error : 0;
}

int lu_sys_has_module(const char *name)
{
	int saved = errno, found;
	char path[64];

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	found = access(path, F_OK) == 0;
	errno = saved;
	return found;
}

void lu_sys_sleep(unsigned int ms)
{
	struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
	int saved = errno;

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
	errno = saved;
}
