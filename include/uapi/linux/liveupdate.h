/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/liveupdate: carry open files over a kexec.
 *
 * Before the kexec a program opens the device, creates a session with a name,
 * and preserves files in it, each under a number of its choice (token). After
 * the kexec it opens the device, retrieves the session by its name, the files
 * by their tokens, and finishes the session. Between the two, reboot(2) with
 * LINUX_REBOOT_CMD_KEXEC: if a file cannot be carried, that call fails with
 * the reason, and everything goes on as before.
 *
 * A session lives as long as its file descriptor: closing it before the kexec
 * lets go of what it preserved. The device can be closed in between.
 *
 * The same interface as that of Linux's own orchestrator, bit for bit.
 */
#ifndef _UAPI_LIVEUPDATE_H
#define _UAPI_LIVEUPDATE_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * All calls
 *
 * The argument is a pointer to the structure of the call. Its first word, size,
 * is sizeof() of that structure as the program knows it: a later version may
 * add fields at the end, where zero means "as before".
 *
 * Errors of every call:
 *   EINVAL      the number of the call is unknown; the structure is smaller
 *               than its first version; a reserved field is not zero; or the
 *               call is not for this kind of session
 *   E2BIG       the structure is larger than this kernel's, and what this
 *               kernel does not know is not zero
 *   ENOTTY      the number is known, but not with this direction or size
 *   EOPNOTSUPP  a field has a value that this kernel does not know
 *   EFAULT      the structure cannot be read or written
 *   ENOMEM      out of memory
 */

#define LIVEUPDATE_IOCTL_TYPE		0xBA

/* Room for the name of a session; the NUL counts. */
#define LIVEUPDATE_SESSION_NAME_LENGTH	64

/* Numbers of the calls on the device. */
enum {
	LIVEUPDATE_CMD_BASE = 0x00,
	LIVEUPDATE_CMD_CREATE_SESSION = LIVEUPDATE_CMD_BASE,
	LIVEUPDATE_CMD_RETRIEVE_SESSION = 0x01,
};

/* Numbers of the calls on a session. */
enum {
	LIVEUPDATE_CMD_SESSION_BASE = 0x40,
	LIVEUPDATE_CMD_SESSION_PRESERVE_FD = LIVEUPDATE_CMD_SESSION_BASE,
	LIVEUPDATE_CMD_SESSION_RETRIEVE_FD = 0x41,
	LIVEUPDATE_CMD_SESSION_FINISH = 0x42,
	LIVEUPDATE_CMD_SESSION_GET_NAME = 0x43,
};

/* ---- on the device: open(2) fails with EBUSY while somebody has it open ---- */

/**
 * struct liveupdate_ioctl_create_session - begin a session for the next kernel
 * @size: in: of this structure
 * @fd:   out: the session, close-on-exec
 * @name: in: 1 to 63 bytes other than NUL, and a NUL
 *
 * Errors: EINVAL (the name is empty, or has no NUL), EEXIST (there is a session
 * of that name for the next kernel), EMFILE.
 */
struct liveupdate_ioctl_create_session {
	__u32 size;
	__s32 fd;
	__u8 name[LIVEUPDATE_SESSION_NAME_LENGTH];
};

#define LIVEUPDATE_IOCTL_CREATE_SESSION \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_CREATE_SESSION)

/**
 * struct liveupdate_ioctl_retrieve_session - take a session of the last kernel
 * @size: in: of this structure
 * @fd:   out: the session, close-on-exec
 * @name: in: as it was created
 *
 * Errors: ENOENT (the last kernel handed over no such session, or it was closed
 * since), EINVAL (somebody has it already), EMFILE.
 */
struct liveupdate_ioctl_retrieve_session {
	__u32 size;
	__s32 fd;
	__u8 name[LIVEUPDATE_SESSION_NAME_LENGTH];
};

#define LIVEUPDATE_IOCTL_RETRIEVE_SESSION \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_RETRIEVE_SESSION)

/* ---- on a session ---- */

/**
 * struct liveupdate_session_preserve_fd - have a file carried over
 * @size:  in: of this structure
 * @fd:    in: the file; it can be closed afterwards
 * @token: in: any number, once in a session
 *
 * For a session that was created. The file stays usable, though what would move
 * its memory may fail meanwhile (a memfd cannot grow or shrink: EPERM).
 *
 * Errors: EEXIST (the token is taken), EBADF, ENOENT (no handler takes files of
 * this kind), EBUSY (the file is preserved already, here or in another
 * session), and those of the kind of file.
 */
struct liveupdate_session_preserve_fd {
	__u32 size;
	__s32 fd;
	__aligned_u64 token;
};

#define LIVEUPDATE_SESSION_PRESERVE_FD \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_SESSION_PRESERVE_FD)

/**
 * struct liveupdate_session_retrieve_fd - get a file back
 * @size:  in: of this structure
 * @fd:    out: the file, close-on-exec
 * @token: in: as it was preserved
 *
 * For a session that was retrieved; in any order. A second call for the same
 * token gives a second descriptor of the same file, or the same error.
 *
 * Errors: ENOENT (no such token), EMFILE, and those of the kind of file.
 */
struct liveupdate_session_retrieve_fd {
	__u32 size;
	__s32 fd;
	__aligned_u64 token;
};

#define LIVEUPDATE_SESSION_RETRIEVE_FD \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_SESSION_RETRIEVE_FD)

/**
 * struct liveupdate_session_finish - that was all
 * @size:     in: of this structure
 * @reserved: in: 0
 *
 * For a session that was retrieved. Frees what was not retrieved. close(2) of
 * the session does the same, but cannot tell when it fails.
 *
 * Errors: EBUSY (a file is not ready for it), and those of the kinds of files;
 * then nothing has changed, and it can be tried again.
 */
struct liveupdate_session_finish {
	__u32 size;
	__u32 reserved;
};

#define LIVEUPDATE_SESSION_FINISH \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_SESSION_FINISH)

/**
 * struct liveupdate_session_get_name - what is this session called?
 * @size:     in: of this structure
 * @reserved: in: 0
 * @name:     out: with its NUL
 *
 * For all sessions.
 */
struct liveupdate_session_get_name {
	__u32 size;
	__u32 reserved;
	__u8 name[LIVEUPDATE_SESSION_NAME_LENGTH];
};

#define LIVEUPDATE_SESSION_GET_NAME \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_SESSION_GET_NAME)

#endif
