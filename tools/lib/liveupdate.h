/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * libliveupdate: carry open files over a kexec, through /dev/liveupdate.
 *
 * The same calls work with Linux's own live update and with Ferry's;
 * lu_get_implementation() says which one this kernel has.
 *
 *	int device = lu_open(0);
 *	int session = lu_create_session(device, "my-vm");
 *	lu_preserve_fd(session, memfd, 1);
 *	close(device);		the session stays; closing *it* undoes everything
 *
 * and in the next kernel
 *
 *	int device = lu_open(0);
 *	int session = lu_retrieve_session(device, "my-vm");
 *	int memfd = lu_retrieve_fd(session, 1);
 *	lu_finish(session);
 *	close(session);
 *
 * Devices and sessions are file descriptors, all of them close-on-exec: they can
 * be passed over sockets, kept by a service manager, and are closed with
 * close(2).
 *
 * Every function that can fail returns a negative errno then, changes neither
 * errno nor what it was given, and leaves a sentence for lu_message(). All
 * functions can be called by several threads at a time.
 */
#ifndef LIVEUPDATE_H
#define LIVEUPDATE_H

#include <stddef.h>
#include <stdint.h>

#include <linux/liveupdate_ferry.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Room for the name of a session; the NUL counts. */
#define LU_NAME_SIZE	64

/* ---- errors ---- */

/*
 * What went wrong in the last call of this thread that failed, in one line for
 * a person: what was tried, why it failed, and what may help. Empty before the
 * first failure; valid until the next one of this thread.
 */
const char *lu_message(void);

/* ---- the device ---- */

/*
 * How long lu_open() waits, at most, while another program has the device open,
 * in milliseconds: 0 to LU_WAIT_MAX.
 */
#define LU_WAIT_MAX	60000u

/*
 * Open /dev/liveupdate. Linux lets one program at a time have it: so keep it open
 * only for as long as sessions are created or retrieved, which do not need it
 * afterwards. With Ferry's, openers with CAP_SYS_ADMIN are in nobody's way.
 *
 * Returns the descriptor, or
 *   -EBUSY            somebody else still has it open
 *   -ENOENT, -ENODEV, -ENXIO
 *                     this kernel has no live update, or its modules are not loaded
 *   -EACCES, -EPERM   it is not for this user
 *   -EINVAL           wait_ms is too large
 */
int lu_open(unsigned int wait_ms);

enum lu_implementation {
	LU_MAINLINE = 1,	/* Linux's own */
	LU_FERRY = 2,		/* Ferry's, with the calls of <linux/liveupdate_ferry.h> */
	LU_FERRY_BASIC = 3,	/* Ferry's from before these calls */
};

/*
 * Which live update is this? Returns an enum lu_implementation, or -ENOTTY (not
 * the device), -EBADF.
 */
int lu_get_implementation(int device);

/* "Linux", "Ferry", "Ferry without extensions", or "unknown". */
const char *lu_implementation_name(int implementation);

/* ---- sessions ---- */

/*
 * Begin a session for the next kernel. Its name has 1 to 63 bytes.
 *
 * Returns the descriptor, or -EINVAL (the name is empty or too long), -EEXIST
 * (there is a session of that name for the next kernel), -EMFILE, -ENFILE,
 * -ENOMEM.
 */
int lu_create_session(int device, const char *name);

/*
 * Take a session that the last kernel handed over.
 *
 * Returns the descriptor, or -ENOENT (there is none of that name, or it was
 * finished), -EBUSY (somebody has it; the kernel says EINVAL), -EINVAL (the
 * name is empty or too long), -EMFILE, -ENFILE, -ENOMEM.
 */
int lu_retrieve_session(int device, const char *name);

/*
 * Have a file carried over; it can be closed afterwards. The session is one
 * that was created, and token a number that it does not have yet.
 *
 * Returns 0, or -EEXIST (the token is taken), -EBADF (no such file), -ENOENT
 * (files of this kind cannot be carried: nothing that is loaded takes them),
 * -EBUSY (the file is preserved already), -EINVAL (the session was not created
 * but retrieved), -EINTR (a signal came; nothing was preserved), and the errors
 * of the kind of file.
 */
int lu_preserve_fd(int session, int fd, uint64_t token);

/*
 * Get a file back from a session that was retrieved, in any order.
 *
 * Returns the descriptor, or -ENOENT (no such token, or what carries its kind
 * of file is not loaded yet), -EINVAL (the session was not retrieved), -EMFILE,
 * -ENFILE, -ENOMEM, and the errors of the kind of file.
 */
int lu_retrieve_fd(int session, uint64_t token);

/*
 * The kernel lets go of a session that was retrieved, and of its files that
 * were not. After an error nothing has changed, and it can be tried again.
 *
 * Returns 0, or -EBUSY (a file is not ready for it), -EINVAL (the session was
 * not retrieved), and the errors of the kinds of files.
 */
int lu_finish(int session);

/*
 * The name of a session; also tells whether a descriptor is one.
 *
 * Returns 0, or -ENOTTY (it is not), -EBADF, -ENOSPC (size is less than that of
 * the name with its NUL; LU_NAME_SIZE always does).
 */
int lu_get_name(int session, char *name, size_t size);

/* ---- what only Ferry's has ---- */

/*
 * These calls and their structures are described in <linux/liveupdate_ferry.h>.
 * Set the size of a structure before the call; its reserved fields are zero. All of
 * them fail with -EOPNOTSUPP where this is not Ferry's, besides the errors named there.
 */

/* LIVEUPDATE_FERRY_GET_INFO: features, and how many sessions and openers there are. */
int lu_get_info(int device, struct liveupdate_ferry_info *info);

/**
 * struct lu_session_options - how a session differs from one of lu_create_session()
 * @size:        sizeof(struct lu_session_options); a later version of the library has
 *               more fields at the end, for which zero means "as before"
 * @policy:      enum liveupdate_ferry_policy
 * @deadline_ms: for LIVEUPDATE_FERRY_POLICY_DEADLINE, else 0
 * @key:         LIVEUPDATE_FERRY_KEY_SIZE bytes, or NULL for none
 */
struct lu_session_options {
	uint32_t size;
	uint32_t policy;
	uint64_t deadline_ms;
	const uint8_t *key;
};

/* LIVEUPDATE_FERRY_CREATE_SESSION. Returns the descriptor. */
int lu_create_session_with(int device, const char *name, const struct lu_session_options *options);

/* LIVEUPDATE_FERRY_RETRIEVE_SESSION. Returns the descriptor; -EPERM: it is another key. */
int lu_retrieve_session_with_key(int device, const char *name, const uint8_t *key);

/* LIVEUPDATE_FERRY_DISCARD_SESSION: release a session that nobody takes. */
int lu_discard_session(int device, const char *name);

/*
 * LIVEUPDATE_FERRY_LIST_SESSIONS. *nr is the room at entries, each of entry_size bytes,
 * before the call, and how many there are after it; -ENOSPC: more than there is room for.
 */
int lu_list_sessions(int device, struct liveupdate_ferry_session *entries, size_t entry_size,
		     unsigned int *nr);

/* LIVEUPDATE_FERRY_LIST_FILES, likewise; flags: LIVEUPDATE_FERRY_INCOMING or 0. */
int lu_list_files(int device, const char *name, uint32_t flags, struct liveupdate_ferry_file *entries,
		  size_t entry_size, unsigned int *nr);

/* LIVEUPDATE_FERRY_GET_UPDATE: the update that led to this kernel; -ENOENT: none did. */
int lu_get_update(int device, struct liveupdate_ferry_update *update);

/* LIVEUPDATE_FERRY_GET_FAILURE: what went wrong last; -ENOENT: nothing did. */
int lu_get_failure(int device, struct liveupdate_ferry_failure *failure);

/* LIVEUPDATE_FERRY_SESSION_GET_INFO: of this session, also while something is done to it. */
int lu_session_get_info(int session, struct liveupdate_ferry_session_get_info *info);

/* LIVEUPDATE_FERRY_SESSION_SET_POLICY */
int lu_set_policy(int session, uint32_t policy, uint64_t deadline_ms);

/*
 * LIVEUPDATE_FERRY_SESSION_RENEW: a session that was retrieved becomes one for the next
 * kernel; flags: LIVEUPDATE_FERRY_RENEW_FILES or 0.
 */
int lu_renew(int session, uint32_t flags);

#ifdef __cplusplus
}
#endif

#endif
