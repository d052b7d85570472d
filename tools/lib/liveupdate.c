// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/* The calls of /dev/liveupdate that Linux's own live update and Ferry's share. */
#include "liveupdate.h"

#include <errno.h>
#include <string.h>

#include "message.h"
#include "sys.h"

_Static_assert(LU_NAME_SIZE == LIVEUPDATE_SESSION_NAME_LENGTH, "the library's names are the kernel's");

/* What may help, by what the kernel said. */
struct hint {
	int error;
	const char *text;
};

static const char *hint_for(const struct hint *hints, int error)
{
	for (; hints->error; hints++) {
		if (hints->error == -error)
			return hints->text;
	}
	return NULL;
}

static const struct hint open_hints[] = {
	{ EBUSY, "another program has it open (fuser /dev/liveupdate shows which)" },
	{ ENOENT, "is luo loaded, or the kernel booted with liveupdate=on?" },
	{ ENODEV, "is luo loaded, or the kernel booted with liveupdate=on?" },
	{ ENXIO, "is luo loaded, or the kernel booted with liveupdate=on?" },
	{ EACCES, "it is for root" },
	{}
};

/* How often somebody who has the device is asked again. */
#define RETRY_MS 20u

int lu_open(unsigned int wait_ms)
{
	int fd, shared = 1;

	if (wait_ms > LU_WAIT_MAX)
		return lu_fail(-EINVAL, NULL, "open /dev/liveupdate, waiting for %u ms", wait_ms);
	for (;;) {
		fd = lu_sys_open(shared);
		if (fd == -EPERM && shared) {
			/* Ferry's has that for CAP_SYS_ADMIN only; Linux passes over it. */
			shared = 0;
			continue;
		}
		if (fd != -EBUSY || !wait_ms)
			break;
		unsigned int ms = wait_ms < RETRY_MS ? wait_ms : RETRY_MS;

		lu_sys_sleep(ms);
		wait_ms -= ms;
	}
	if (fd < 0)
		return lu_fail(fd, hint_for(open_hints, fd), "open /dev/liveupdate");
	return fd;
}

/* Its length; 0 for a name that no session can have. */
static size_t name_length(const char *name)
{
	size_t length = name ? strnlen(name, LU_NAME_SIZE) : 0;

	return length < LU_NAME_SIZE ? length : 0;
}

static const struct hint create_hints[] = {
	{ EEXIST, "there is one of this name for the next kernel" },
	{ EBADF, "the device is not open" },
	{ ENOTTY, "this is not /dev/liveupdate" },
	{}
};

int lu_create_session(int device, const char *name)
{
	struct liveupdate_ioctl_create_session arg = {.size = sizeof(arg), .fd = -1};
	size_t length = name_length(name);
	int error;

	if (!length)
		return lu_fail(-EINVAL, "a name has 1 to 63 bytes", "create session '%.70s'", name ? name : "");
	memcpy(arg.name, name, length);
	error = lu_sys_ioctl(device, LIVEUPDATE_IOCTL_CREATE_SESSION, &arg);
	if (error)
		return lu_fail(error, hint_for(create_hints, error), "create session '%s'", name);
	return arg.fd;
}

static const struct hint retrieve_session_hints[] = {
	{ ENOENT, "the last kernel handed over none of this name, or it is finished" },
	{ EPERM, "it has a key, and was asked for without" },
	{ EBADF, "the device is not open" },
	{ ENOTTY, "this is not /dev/liveupdate" },
	{}
};

const char *lu_hint_for_taken(const char *name)
{
	return strncmp(name, "fdbox:", 6) ? "another program has it" :
	       "another program has it, or it is a box, which /dev/fdbox gives back";
}

int lu_retrieve_session(int device, const char *name)
{
	struct liveupdate_ioctl_retrieve_session arg = {.size = sizeof(arg), .fd = -1};
	size_t length = name_length(name);
	int error;

	if (!length)
		return lu_fail(-EINVAL, "a name has 1 to 63 bytes", "retrieve session '%.70s'", name ? name : "");
	memcpy(arg.name, name, length);
	error = lu_sys_ioctl(device, LIVEUPDATE_IOCTL_RETRIEVE_SESSION, &arg);
	/* The argument is right, so that means: retrieved before. */
	if (error == -EINVAL)
		error = -EBUSY;
	if (error)
		return lu_fail(error, error == -EBUSY ? lu_hint_for_taken(name) : hint_for(retrieve_session_hints, error),
			       "retrieve session '%s'", name);
	return arg.fd;
}

static const struct hint preserve_hints[] = {
	{ EEXIST, "the session has a file of this token" },
	{ ENOENT, "nothing that is loaded carries files of this kind" },
	{ EBUSY, "it is preserved already, here or in another session" },
	{ EINVAL, "only a session that was created takes files" },
	{ EBADF, "it is not open, or only as a path" },
	{ ENOTTY, "this is not a session" },
	{}
};

int lu_preserve_fd(int session, int fd, uint64_t token)
{
	struct liveupdate_session_preserve_fd arg = {.size = sizeof(arg), .fd = fd, .token = token};
	int error = lu_sys_ioctl(session, LIVEUPDATE_SESSION_PRESERVE_FD, &arg);

	if (error)
		return lu_fail(error, hint_for(preserve_hints, error), "preserve file %d as token %llu", fd,
			       (unsigned long long)token);
	return 0;
}

static const struct hint retrieve_hints[] = {
	{ ENOENT, "no such token, or what carries its kind of file is not loaded" },
	{ EINVAL, "only a session that was retrieved gives files" },
	{ ENOTTY, "this is not a session" },
	{}
};

int lu_retrieve_fd(int session, uint64_t token)
{
	struct liveupdate_session_retrieve_fd arg = {.size = sizeof(arg), .fd = -1, .token = token};
	int error = lu_sys_ioctl(session, LIVEUPDATE_SESSION_RETRIEVE_FD, &arg);

	if (error)
		return lu_fail(error, hint_for(retrieve_hints, error), "retrieve token %llu",
			       (unsigned long long)token);
	return arg.fd;
}

static const struct hint finish_hints[] = {
	{ EBUSY, "a file of it is not ready" },
	{ EINVAL, "only a session that was retrieved can be finished" },
	{ ENOENT, "what carries one of its files is not loaded" },
	{ ENOTTY, "this is not a session" },
	{}
};

int lu_finish(int session)
{
	struct liveupdate_session_finish arg = {.size = sizeof(arg)};
	int error = lu_sys_ioctl(session, LIVEUPDATE_SESSION_FINISH, &arg);

	return error ? lu_fail(error, hint_for(finish_hints, error), "finish the session") : 0;
}

int lu_get_name(int session, char *name, size_t size)
{
	struct liveupdate_session_get_name arg = {.size = sizeof(arg)};
	int error = lu_sys_ioctl(session, LIVEUPDATE_SESSION_GET_NAME, &arg);
	size_t length;

	if (error)
		return lu_fail(error, error == -ENOTTY ? "this is not a session" : NULL,
			       "get the name of the session");
	length = strnlen((const char *)arg.name, sizeof(arg.name) - 1);
	if (!name || length >= size)
		return lu_fail(-ENOSPC, NULL, "get the name of the session into %zu bytes", size);
	memcpy(name, arg.name, length);
	name[length] = '\0';
	return 0;
}
