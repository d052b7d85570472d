// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/* The calls that only Ferry's /dev/liveupdate has: <linux/liveupdate_ferry.h>. */
#include "liveupdate.h"

#include <errno.h>
#include <string.h>

#include "message.h"
#include "sys.h"

int lu_get_implementation(int device)
{
	struct liveupdate_ferry_info info = {.size = sizeof(info)};
	int error = lu_sys_ioctl(device, LIVEUPDATE_FERRY_GET_INFO, &info);

	if (!error)
		return LU_FERRY;
	/* The answer of either to a number that it does not know. */
	if (error == -EINVAL)
		return lu_sys_has_module("luo") ? LU_FERRY_BASIC : LU_MAINLINE;
	return lu_fail(error, error == -ENOTTY ? "this is not /dev/liveupdate" : NULL,
		       "ask which live update this is");
}

const char *lu_implementation_name(int implementation)
{
	switch (implementation) {
	case LU_MAINLINE:
		return "Linux";
	case LU_FERRY:
		return "Ferry";
	case LU_FERRY_BASIC:
		return "Ferry without extensions";
	default:
		return "unknown";
	}
}

/* Of the device or a session: does it have calls of Ferry's at all? */
static int lacks_extensions(int fd, unsigned long probe)
{
	union {
		struct liveupdate_ferry_info info;
		struct liveupdate_ferry_session_get_info session;
	} arg = {};

	if (probe == LIVEUPDATE_FERRY_GET_INFO)
		arg.info.size = sizeof(arg.info);
	else
		arg.session.size = sizeof(arg.session);
	return lu_sys_ioctl(fd, probe, &arg) == -EINVAL;
}

/* A call of Ferry's; EINVAL is told apart from "there is no such call". */
static int call(int fd, unsigned long request, void *arg, unsigned long probe)
{
	int error = lu_sys_ioctl(fd, request, arg);

	return error == -EINVAL && lacks_extensions(fd, probe) ? -EOPNOTSUPP : error;
}

static int device_call(int device, unsigned long request, void *arg)
{
	return call(device, request, arg, LIVEUPDATE_FERRY_GET_INFO);
}

static int session_call(int session, unsigned long request, void *arg)
{
	return call(session, request, arg, LIVEUPDATE_FERRY_SESSION_GET_INFO);
}

static const char *hint(int error)
{
	switch (-error) {
	case EOPNOTSUPP:
		return "this kernel's live update does not have it";
	case EPERM:
		return "its key is another one, or this needs CAP_SYS_ADMIN";
	case ENOTTY:
		return "this is neither /dev/liveupdate nor a session of it";
	default:
		return NULL;
	}
}

int lu_get_info(int device, struct liveupdate_ferry_info *info)
{
	int error = device_call(device, LIVEUPDATE_FERRY_GET_INFO, info);

	return error ? lu_fail(error, hint(error), "get the state of live update") : 0;
}

/* Whether it was a name that a session can have; room is zeroed. */
static int put_name(uint8_t room[LU_NAME_SIZE], const char *name)
{
	size_t length = name ? strnlen(name, LU_NAME_SIZE) : 0;

	if (!length || length == LU_NAME_SIZE)
		return 0;
	memcpy(room, name, length);
	return 1;
}

static const char *name_hint = "a name has 1 to 63 bytes";

/* Of a later library than this one: only if it asks for nothing that this one does not know. */
static int known(const struct lu_session_options *options)
{
	const unsigned char *bytes = (const unsigned char *)options;

	if (options->size < sizeof(*options))
		return -EINVAL;
	for (size_t i = sizeof(*options); i < options->size; i++) {
		if (bytes[i])
			return -E2BIG;
	}
	return 0;
}

int lu_create_session_with(int device, const char *name, const struct lu_session_options *options)
{
	struct liveupdate_ferry_create_session arg = {.size = sizeof(arg), .fd = -1};
	int error = known(options);

	if (error)
		return lu_fail(error, NULL, "create a session with options of %u bytes", options->size);
	if (!put_name(arg.name, name))
		return lu_fail(-EINVAL, name_hint, "create session '%.70s'", name ? name : "");
	arg.policy = options->policy;
	arg.deadline_ms = options->deadline_ms;
	if (options->key) {
		arg.flags = LIVEUPDATE_FERRY_KEY;
		memcpy(arg.key, options->key, sizeof(arg.key));
	}
	error = device_call(device, LIVEUPDATE_FERRY_CREATE_SESSION, &arg);
	explicit_bzero(arg.key, sizeof(arg.key));
	if (error)
		return lu_fail(error, error == -EEXIST ? "there is one of this name for the next kernel" : hint(error),
			       "create session '%s'", name);
	return arg.fd;
}

int lu_retrieve_session_with_key(int device, const char *name, const uint8_t *key)
{
	struct liveupdate_ferry_retrieve_session arg = {.size = sizeof(arg), .fd = -1};
	const char *help;
	int error;

	if (!put_name(arg.name, name))
		return lu_fail(-EINVAL, name_hint, "retrieve session '%.70s'", name ? name : "");
	arg.flags = LIVEUPDATE_FERRY_KEY;
	memcpy(arg.key, key, sizeof(arg.key));
	error = device_call(device, LIVEUPDATE_FERRY_RETRIEVE_SESSION, &arg);
	explicit_bzero(arg.key, sizeof(arg.key));
	if (error == -EINVAL)
		error = -EBUSY;
	help = error == -ENOENT ? "the last kernel handed over none of this name, or it is finished" :
	       error == -EBUSY ? lu_hint_for_taken(name) : hint(error);
	return error ? lu_fail(error, help, "retrieve session '%s'", name) : arg.fd;
}

int lu_discard_session(int device, const char *name)
{
	struct liveupdate_ferry_discard_session arg = {.size = sizeof(arg)};
	const char *help;
	int error;

	if (!put_name(arg.name, name))
		return lu_fail(-EINVAL, name_hint, "discard session '%.70s'", name ? name : "");
	error = device_call(device, LIVEUPDATE_FERRY_DISCARD_SESSION, &arg);
	help = error == -EBUSY ? "somebody has it, or a file of it is not ready" :
	       error == -EPERM ? "this needs CAP_SYS_ADMIN" : hint(error);
	return error ? lu_fail(error, help, "discard session '%s'", name) : 0;
}

int lu_list_sessions(int device, struct liveupdate_ferry_session *entries, size_t entry_size,
		     unsigned int *nr)
{
	struct liveupdate_ferry_list_sessions arg = {
		.size = sizeof(arg), .entry_size = (uint32_t)entry_size, .nr = *nr, .entries = (uintptr_t)entries};
	int error = device_call(device, LIVEUPDATE_FERRY_LIST_SESSIONS, &arg);

	if (!error || error == -ENOSPC)
		*nr = arg.nr;
	return error ? lu_fail(error, hint(error), "list the sessions") : 0;
}

int lu_list_files(int device, const char *name, uint32_t flags, struct liveupdate_ferry_file *entries,
		  size_t entry_size, unsigned int *nr)
{
	struct liveupdate_ferry_list_files arg = {.size = sizeof(arg), .entry_size = (uint32_t)entry_size,
		.nr = *nr, .flags = flags, .entries = (uintptr_t)entries};
	int error;

	if (!put_name(arg.name, name))
		return lu_fail(-EINVAL, name_hint, "list the files of session '%.70s'", name ? name : "");
	error = device_call(device, LIVEUPDATE_FERRY_LIST_FILES, &arg);
	if (!error || error == -ENOSPC)
		*nr = arg.nr;
	return error ? lu_fail(error, error == -ENOENT ? "there is no such session" : hint(error),
			       "list the files of session '%s'", name) : 0;
}

int lu_get_update(int device, struct liveupdate_ferry_update *update)
{
	int error = device_call(device, LIVEUPDATE_FERRY_GET_UPDATE, update);

	return error ? lu_fail(error, error == -ENOENT ? "no update led to this kernel" : hint(error),
			       "get the last update") : 0;
}

int lu_get_failure(int device, struct liveupdate_ferry_failure *failure)
{
	int error = device_call(device, LIVEUPDATE_FERRY_GET_FAILURE, failure);

	return error ? lu_fail(error, error == -ENOENT ? "nothing has failed" : hint(error),
			       "get the last failure") : 0;
}

int lu_session_get_info(int session, struct liveupdate_ferry_session_get_info *info)
{
	int error = session_call(session, LIVEUPDATE_FERRY_SESSION_GET_INFO, info);

	return error ? lu_fail(error, hint(error), "get the state of the session") : 0;
}

int lu_set_policy(int session, uint32_t policy, uint64_t deadline_ms)
{
	struct liveupdate_ferry_session_set_policy arg = {
		.size = sizeof(arg), .policy = policy, .deadline_ms = deadline_ms};
	int error = session_call(session, LIVEUPDATE_FERRY_SESSION_SET_POLICY, &arg);

	return error ? lu_fail(error, hint(error), "set the policy of the session") : 0;
}

int lu_renew(int session, uint32_t flags)
{
	struct liveupdate_ferry_session_renew arg = {.size = sizeof(arg), .flags = flags};
	int error = session_call(session, LIVEUPDATE_FERRY_SESSION_RENEW, &arg);

	return error ? lu_fail(error, error == -EEXIST ? "there is one of this name for the next kernel" : hint(error),
			       "renew the session") : 0;
}
