/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/liveupdate: what Ferry has beyond <linux/liveupdate.h>.
 *
 * Linux's own calls mean the same with and without this header. What is here adds
 * keys, policies, openers side by side, sessions that are carried again and again,
 * and calls that show what is going on.
 *
 * Is it Ferry's? LIVEUPDATE_FERRY_GET_INFO succeeds. Linux's own orchestrator
 * answers EINVAL to every call of this header.
 *
 * Openers
 *
 * Linux lets one program at a time open the device: a second open(2) fails with
 * EBUSY. So it is here for programs that do not ask for more. With O_NONBLOCK in
 * the flags of open(2) the opener is one of several: it never gets EBUSY, and
 * nobody gets EBUSY because of it. It needs CAP_SYS_ADMIN in the first user
 * namespace (EPERM), besides the permission of the file. Linux ignores the flag.
 *
 * All calls
 *
 * The argument is a pointer to the structure of the call, which begins with its
 * size, as in <linux/liveupdate.h>: a later version may add fields at the end, where zero
 * means "as before". Errors of every call: those named there (EINVAL, E2BIG,
 * ENOTTY, EOPNOTSUPP, EFAULT, ENOMEM), and those named below.
 *
 * Times in nanoseconds ("_ns") are durations, or, where it says so, readings of
 * CLOCK_BOOTTIME. Texts end with a NUL.
 */
#ifndef _UAPI_LINUX_LIVEUPDATE_FERRY_H
#define _UAPI_LINUX_LIVEUPDATE_FERRY_H

/* In the same folder, installed or not. */
#include "liveupdate.h"

/* Of a key, in bytes. Take them from getrandom(2). */
#define LIVEUPDATE_FERRY_KEY_SIZE	32
/* Room for the name of a handler, "memfd-v1"; the NUL counts. */
#define LIVEUPDATE_FERRY_HANDLER_SIZE	48

/* Numbers of the calls on the device. */
enum {
	LIVEUPDATE_FERRY_CMD_BASE = 0x20,
	LIVEUPDATE_FERRY_CMD_GET_INFO = LIVEUPDATE_FERRY_CMD_BASE,
	LIVEUPDATE_FERRY_CMD_CREATE_SESSION = 0x21,
	LIVEUPDATE_FERRY_CMD_RETRIEVE_SESSION = 0x22,
	LIVEUPDATE_FERRY_CMD_DISCARD_SESSION = 0x23,
	LIVEUPDATE_FERRY_CMD_LIST_SESSIONS = 0x24,
	LIVEUPDATE_FERRY_CMD_LIST_FILES = 0x25,
	LIVEUPDATE_FERRY_CMD_GET_UPDATE = 0x26,
	LIVEUPDATE_FERRY_CMD_GET_FAILURE = 0x27,
};

/* Numbers of the calls on a session. */
enum {
	LIVEUPDATE_FERRY_CMD_SESSION_BASE = 0x60,
	LIVEUPDATE_FERRY_CMD_SESSION_GET_INFO = LIVEUPDATE_FERRY_CMD_SESSION_BASE,
	LIVEUPDATE_FERRY_CMD_SESSION_SET_POLICY = 0x61,
	LIVEUPDATE_FERRY_CMD_SESSION_RENEW = 0x62,
};

/**
 * enum liveupdate_ferry_policy - what becomes of what nobody takes
 * @LIVEUPDATE_FERRY_POLICY_FINISH:   as in Linux: the last close of the retrieved
 *	session finishes it, and so releases what was not retrieved. A session that
 *	nobody retrieves waits until the next kexec, and is lost with it.
 * @LIVEUPDATE_FERRY_POLICY_DEADLINE: only FINISH finishes it. When its last
 *	descriptor is closed without that (its owner died), it waits again. What
 *	waits for longer than the deadline is released; the clock starts when luo.ko
 *	is loaded, and again with each such close.
 * @LIVEUPDATE_FERRY_POLICY_KEEP:     only FINISH finishes it, or DISCARD_SESSION.
 *	While it is not finished, a kexec is refused with EBUSY, as it would lose
 *	the session: from the moment on that luo.ko is loaded, or the policy is set,
 *	whether somebody has the session or not.
 *
 * The policy counts after the kexec. Before it, closing a session undoes it, as in
 * Linux. What is released is released in reverse order of need: a file before
 * those that it needs.
 */
enum liveupdate_ferry_policy {
	LIVEUPDATE_FERRY_POLICY_FINISH = 0,
	LIVEUPDATE_FERRY_POLICY_DEADLINE = 1,
	LIVEUPDATE_FERRY_POLICY_KEEP = 2,
};

/**
 * enum liveupdate_ferry_session_state - where a session is
 * @LIVEUPDATE_FERRY_SESSION_OPEN:      for the next kernel: takes files
 * @LIVEUPDATE_FERRY_SESSION_FROZEN:    for the next kernel: a kexec is under way
 * @LIVEUPDATE_FERRY_SESSION_WAITING:   of the last kernel: nobody has it
 * @LIVEUPDATE_FERRY_SESSION_RETRIEVED: of the last kernel: somebody has it
 * @LIVEUPDATE_FERRY_SESSION_FINISHED:  of the last kernel: finished, and not closed yet
 */
enum liveupdate_ferry_session_state {
	LIVEUPDATE_FERRY_SESSION_OPEN = 0,
	LIVEUPDATE_FERRY_SESSION_FROZEN = 1,
	LIVEUPDATE_FERRY_SESSION_WAITING = 2,
	LIVEUPDATE_FERRY_SESSION_RETRIEVED = 3,
	LIVEUPDATE_FERRY_SESSION_FINISHED = 4,
};

/**
 * enum liveupdate_ferry_file_state - where a file of a session is
 * @LIVEUPDATE_FERRY_FILE_PRESERVED: for the next kernel
 * @LIVEUPDATE_FERRY_FILE_FROZEN:    for the next kernel: a kexec is under way
 * @LIVEUPDATE_FERRY_FILE_WAITING:   of the last kernel: not retrieved
 * @LIVEUPDATE_FERRY_FILE_RETRIEVED: of the last kernel: retrieved
 * @LIVEUPDATE_FERRY_FILE_FAILED:    of the last kernel: could not be retrieved
 */
enum liveupdate_ferry_file_state {
	LIVEUPDATE_FERRY_FILE_PRESERVED = 0,
	LIVEUPDATE_FERRY_FILE_FROZEN = 1,
	LIVEUPDATE_FERRY_FILE_WAITING = 2,
	LIVEUPDATE_FERRY_FILE_RETRIEVED = 3,
	LIVEUPDATE_FERRY_FILE_FAILED = 4,
};

/**
 * enum liveupdate_ferry_operation - what is being done, or failed
 * @LIVEUPDATE_FERRY_OP_NONE:       nothing
 * @LIVEUPDATE_FERRY_OP_PRESERVE:   PRESERVE_FD, or RENEW
 * @LIVEUPDATE_FERRY_OP_FREEZE:     reboot(2): stop changes
 * @LIVEUPDATE_FERRY_OP_SAVE:       reboot(2): write the state
 * @LIVEUPDATE_FERRY_OP_UNPRESERVE: a session for the next kernel is closed
 * @LIVEUPDATE_FERRY_OP_PREPARE:    working ahead, before somebody asks for the file
 * @LIVEUPDATE_FERRY_OP_RETRIEVE:   RETRIEVE_FD
 * @LIVEUPDATE_FERRY_OP_FINISH:     FINISH, a close, a deadline or DISCARD_SESSION
 * @LIVEUPDATE_FERRY_OP_KEXEC:      reboot(2), where no file is to blame
 */
enum liveupdate_ferry_operation {
	LIVEUPDATE_FERRY_OP_NONE = 0,
	LIVEUPDATE_FERRY_OP_PRESERVE = 1,
	LIVEUPDATE_FERRY_OP_FREEZE = 2,
	LIVEUPDATE_FERRY_OP_SAVE = 3,
	LIVEUPDATE_FERRY_OP_UNPRESERVE = 4,
	LIVEUPDATE_FERRY_OP_PREPARE = 5,
	LIVEUPDATE_FERRY_OP_RETRIEVE = 6,
	LIVEUPDATE_FERRY_OP_FINISH = 7,
	LIVEUPDATE_FERRY_OP_KEXEC = 8,
};

/* ---- on the device ---- */

/* Bits of @features: a bit for what an older Ferry may lack. */
#define LIVEUPDATE_FERRY_FEATURE_KEYS		(1ull << 0)
#define LIVEUPDATE_FERRY_FEATURE_SHARED_OPEN	(1ull << 1)
#define LIVEUPDATE_FERRY_FEATURE_POLICIES	(1ull << 2)
#define LIVEUPDATE_FERRY_FEATURE_RENEW		(1ull << 3)
#define LIVEUPDATE_FERRY_FEATURE_STATISTICS	(1ull << 4)

/**
 * struct liveupdate_ferry_info - what is this, and how does it stand?
 * @size:     in: of this structure
 * @frozen:   out: 1 from the end of a freeze until the jump
 * @features: out: LIVEUPDATE_FERRY_FEATURE_*
 * @update:   out: updates since the last cold boot; 0: none led here
 * @failures: out: operations that failed since this kernel started
 * @outgoing: out: sessions for the next kernel
 * @incoming: out: sessions of the last kernel that are not closed yet
 * @waiting:  out: those of them that nobody has
 * @openers:  out: who has the device open now, this one included
 */
struct liveupdate_ferry_info {
	__u32 size;
	__u32 frozen;
	__aligned_u64 features;
	__aligned_u64 update;
	__aligned_u64 failures;
	__u32 outgoing;
	__u32 incoming;
	__u32 waiting;
	__u32 openers;
};

#define LIVEUPDATE_FERRY_GET_INFO \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_FERRY_CMD_GET_INFO)

/* Bits of @flags: @key counts. */
#define LIVEUPDATE_FERRY_KEY	(1u << 0)

/**
 * struct liveupdate_ferry_create_session - begin a session for the next kernel
 * @size:        in: of this structure
 * @fd:          out: the session, close-on-exec
 * @name:        in: 1 to 63 bytes other than NUL, and a NUL
 * @flags:       in: LIVEUPDATE_FERRY_KEY or 0
 * @policy:      in: enum liveupdate_ferry_policy
 * @deadline_ms: in: for POLICY_DEADLINE: 1 to 2^40; else 0
 * @key:         in: with LIVEUPDATE_FERRY_KEY: the next kernel gives the session to
 *               nobody without it, whoever asks. Without: zeros
 *
 * The key does not cross the kexec, nor can the kernel tell it: it keeps a salted
 * hash. Who loses the key has lost the session.
 *
 * Errors: EINVAL (the name is empty or has no NUL; the deadline does not fit the policy;
 * @key is not zero and not asked for), EOPNOTSUPP (unknown flag or policy), EEXIST (there is a
 * session of that name for the next kernel), EMFILE.
 */
struct liveupdate_ferry_create_session {
	__u32 size;
	__s32 fd;
	__u8 name[LIVEUPDATE_SESSION_NAME_LENGTH];
	__u32 flags;
	__u32 policy;
	__aligned_u64 deadline_ms;
	__u8 key[LIVEUPDATE_FERRY_KEY_SIZE];
};

#define LIVEUPDATE_FERRY_CREATE_SESSION \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_FERRY_CMD_CREATE_SESSION)

/**
 * struct liveupdate_ferry_retrieve_session - take a session of the last kernel
 * @size:     in: of this structure
 * @fd:       out: the session, close-on-exec
 * @name:     in: as it was created
 * @flags:    in: LIVEUPDATE_FERRY_KEY or 0
 * @reserved: in: 0
 * @key:      in: with LIVEUPDATE_FERRY_KEY: of the session; without: zeros
 *
 * A key for a session that has none is passed over. LIVEUPDATE_IOCTL_RETRIEVE_SESSION
 * cannot give a key, and so fails with EPERM where one is needed.
 *
 * Errors: ENOENT (no such session), EPERM (the session has a key, and this is not it;
 * the attempt is counted, and logged: at most ten lines in five seconds), EINVAL (somebody has it already), EOPNOTSUPP
 * (unknown flag), EMFILE.
 */
struct liveupdate_ferry_retrieve_session {
	__u32 size;
	__s32 fd;
	__u8 name[LIVEUPDATE_SESSION_NAME_LENGTH];
	__u32 flags;
	__u32 reserved;
	__u8 key[LIVEUPDATE_FERRY_KEY_SIZE];
};

#define LIVEUPDATE_FERRY_RETRIEVE_SESSION \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_FERRY_CMD_RETRIEVE_SESSION)

/**
 * struct liveupdate_ferry_discard_session - release a session that nobody takes
 * @size:     in: of this structure
 * @reserved: in: 0
 * @name:     in: as it was created
 *
 * What it had is released, and given to nobody: so this needs no key.
 *
 * Errors: ENOENT (no such session of the last kernel), EBUSY (somebody has it; or a
 * file is not ready to be finished), EPERM (the caller lacks CAP_SYS_ADMIN), and
 * those of LIVEUPDATE_SESSION_FINISH; then nothing has changed.
 */
struct liveupdate_ferry_discard_session {
	__u32 size;
	__u32 reserved;
	__u8 name[LIVEUPDATE_SESSION_NAME_LENGTH];
};

#define LIVEUPDATE_FERRY_DISCARD_SESSION \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_FERRY_CMD_DISCARD_SESSION)

/* Bits of @flags of a session. */
#define LIVEUPDATE_FERRY_INCOMING	(1u << 0)	/* of the last kernel */
#define LIVEUPDATE_FERRY_KEYED		(1u << 1)	/* has a key */
#define LIVEUPDATE_FERRY_OF_MODULE	(1u << 2)	/* a module has it: a box, "fdbox:NAME" */

/* No end is set. */
#define LIVEUPDATE_FERRY_NO_DEADLINE	(~0ull)

/**
 * struct liveupdate_ferry_session - one session
 * @name:        with its NUL
 * @state:       enum liveupdate_ferry_session_state
 * @flags:       LIVEUPDATE_FERRY_INCOMING, LIVEUPDATE_FERRY_KEYED,
 *               LIVEUPDATE_FERRY_OF_MODULE
 * @policy:      enum liveupdate_ferry_policy
 * @refused:     attempts to retrieve it without its key, in this kernel
 * @deadline_ms: as it was set; 0: none
 * @left_ms:     until it is released, where it waits with a deadline;
 *               else LIVEUPDATE_FERRY_NO_DEADLINE
 * @files:       in it
 * @bytes:       of memory that its handlers said they preserved
 * @runs:        that describe this memory
 * @metadata:    bytes of these descriptions
 * @preserve_ns: that its preserve calls took; of the last kernel, for one of it
 * @freeze_ns:   that its last freeze took; likewise
 * @retrieve_ns: that its retrieve calls took
 * @operation:   enum liveupdate_ferry_operation, what is being done right now
 * @reserved:    0
 * @token:       of the file that this is done to
 * @done:        of @total, as far as the handler says; both 0 when it says nothing
 * @total:       bytes that there are to be done, as far as is known now
 * @since_ns:    CLOCK_BOOTTIME when it began
 * @handler:     of that file, with its NUL
 */
struct liveupdate_ferry_session {
	__u8 name[LIVEUPDATE_SESSION_NAME_LENGTH];
	__u32 state;
	__u32 flags;
	__u32 policy;
	__u32 refused;
	__aligned_u64 deadline_ms;
	__aligned_u64 left_ms;
	__aligned_u64 files;
	__aligned_u64 bytes;
	__aligned_u64 runs;
	__aligned_u64 metadata;
	__aligned_u64 preserve_ns;
	__aligned_u64 freeze_ns;
	__aligned_u64 retrieve_ns;
	__u32 operation;
	__u32 reserved;
	__aligned_u64 token;
	__aligned_u64 done;
	__aligned_u64 total;
	__aligned_u64 since_ns;
	__u8 handler[LIVEUPDATE_FERRY_HANDLER_SIZE];
};

/**
 * struct liveupdate_ferry_list_sessions - all sessions
 * @size:       in: of this structure
 * @entry_size: in: sizeof(struct liveupdate_ferry_session), as the program knows it
 * @nr:         in: room at @entries, in entries; out: sessions that there are
 * @reserved:   in: 0
 * @entries:    in: address; struct liveupdate_ferry_session[], those for the next kernel
 *              first, each kind in the order in which they were made
 *
 * Does not wait for a preserve or retrieve that runs: so it shows their progress.
 * It waits while a freeze runs.
 *
 * Of an entry the kernel writes what both know; what only the program knows it
 * fills with zeros.
 *
 * Errors: ENOSPC (there are more than fit; nothing but @nr was written, and it can
 * be called again), EINVAL (@entry_size is smaller than in the first version).
 */
struct liveupdate_ferry_list_sessions {
	__u32 size;
	__u32 entry_size;
	__u32 nr;
	__u32 reserved;
	__aligned_u64 entries;
};

#define LIVEUPDATE_FERRY_LIST_SESSIONS \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_FERRY_CMD_LIST_SESSIONS)

/**
 * struct liveupdate_ferry_file - one file of a session
 * @token:       as in PRESERVE_FD
 * @state:       enum liveupdate_ferry_file_state
 * @error:       with FILE_FAILED: the errno, positive; else 0
 * @bytes:       of memory that its handler said it preserved; here, and of @runs and
 *               @metadata, 0 where the handler says nothing
 * @runs:        that describe this memory
 * @metadata:    bytes of these descriptions
 * @preserve_ns: that its preserve took; of the last kernel, for a file of it
 * @freeze_ns:   that its last freeze took; likewise
 * @retrieve_ns: that its retrieve took
 * @needs:       files that it needs
 * @reserved:    0
 * @handler:     with its NUL
 * @label:       its name in a box (<linux/fdbox.h>), with its NUL; else empty
 */
struct liveupdate_ferry_file {
	__aligned_u64 token;
	__u32 state;
	__u32 error;
	__aligned_u64 bytes;
	__aligned_u64 runs;
	__aligned_u64 metadata;
	__aligned_u64 preserve_ns;
	__aligned_u64 freeze_ns;
	__aligned_u64 retrieve_ns;
	__u32 needs;
	__u32 reserved;
	__u8 handler[LIVEUPDATE_FERRY_HANDLER_SIZE];
	__u8 label[LIVEUPDATE_SESSION_NAME_LENGTH];
};

/**
 * struct liveupdate_ferry_list_files - the files of a session
 * @size:       in: of this structure
 * @entry_size: in: sizeof(struct liveupdate_ferry_file), as the program knows it
 * @nr:         in: room at @entries, in entries; out: files that there are
 * @flags:      in: LIVEUPDATE_FERRY_INCOMING: a session of the last kernel; 0: for the
 *              next. There may be one of each kind with the same name
 * @entries:    in: address; struct liveupdate_ferry_file[], in the order of preserving
 * @name:       in: of the session
 *
 * A file that is being preserved right now is not among them yet. Otherwise as
 * LIVEUPDATE_FERRY_LIST_SESSIONS.
 *
 * Errors: ENOENT (no such session), ENOSPC, EINVAL, EOPNOTSUPP (unknown flag).
 */
struct liveupdate_ferry_list_files {
	__u32 size;
	__u32 entry_size;
	__u32 nr;
	__u32 flags;
	__aligned_u64 entries;
	__u8 name[LIVEUPDATE_SESSION_NAME_LENGTH];
};

#define LIVEUPDATE_FERRY_LIST_FILES \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_FERRY_CMD_LIST_FILES)

/* Room for the release of a kernel, as in uname(2). */
#define LIVEUPDATE_FERRY_RELEASE_SIZE	64

/**
 * struct liveupdate_ferry_update - the update that led to this kernel
 * @size:              in: of this structure
 * @reserved:          in: 0
 * @number:            out: of this update since the last cold boot, from 1
 * @sessions:          out: that were carried
 * @files:             out: in all sessions
 * @pages:             out: preserved, of 4 KiB
 * @runs:              out: that describe these pages
 * @metadata:          out: bytes of preserved memory that only describes
 * @refusals:          out: kexecs that the last kernel refused before this one
 * @frozen_at:         out: when the freeze ended, as the last kernel saw it:
 *                     CLOCK_REALTIME in nanoseconds; 0: not known
 * @preserve_ns:       out: that the preserve calls took; everybody ran meanwhile
 * @freeze_ns:         out: that the freeze took
 * @jump_ns:           out: from there to the start of this kernel's clock
 * @boot_ns:           out: from there until luo.ko was loaded
 * @first_retrieve_ns: out: CLOCK_BOOTTIME of the first RETRIEVE_FD; 0: none yet
 * @retrieve_ns:       out: that the retrieve calls took
 * @finish_ns:         out: that finishing took
 * @finished_ns:       out: CLOCK_BOOTTIME when the last session was finished; 0: not yet
 * @retrieved:         out: files that were retrieved
 * @released:          out: files that nobody retrieved, and that were released
 * @failed:            out: files that could not be retrieved
 * @from:              out: release of the last kernel, with its NUL; empty: not known
 * @to:                out: release of this one
 *
 * What was not known to the last kernel, as it is older, is 0. The parts of the
 * blackout are @freeze_ns, @jump_ns and @boot_ns, and what user space takes from there.
 *
 * Errors: ENOENT (no update led to this kernel).
 */
struct liveupdate_ferry_update {
	__u32 size;
	__u32 reserved;
	__aligned_u64 number;
	__aligned_u64 sessions;
	__aligned_u64 files;
	__aligned_u64 pages;
	__aligned_u64 runs;
	__aligned_u64 metadata;
	__aligned_u64 refusals;
	__aligned_u64 frozen_at;
	__aligned_u64 preserve_ns;
	__aligned_u64 freeze_ns;
	__aligned_u64 jump_ns;
	__aligned_u64 boot_ns;
	__aligned_u64 first_retrieve_ns;
	__aligned_u64 retrieve_ns;
	__aligned_u64 finish_ns;
	__aligned_u64 finished_ns;
	__aligned_u64 retrieved;
	__aligned_u64 released;
	__aligned_u64 failed;
	__u8 from[LIVEUPDATE_FERRY_RELEASE_SIZE];
	__u8 to[LIVEUPDATE_FERRY_RELEASE_SIZE];
};

#define LIVEUPDATE_FERRY_GET_UPDATE \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_FERRY_CMD_GET_UPDATE)

/**
 * struct liveupdate_ferry_failure - what went wrong last, and who said so
 * @size:      in: of this structure
 * @error:     out: the errno, positive
 * @number:    out: failures since this kernel started; another number is another
 *             failure
 * @when_ns:   out: CLOCK_BOOTTIME
 * @operation: out: enum liveupdate_ferry_operation
 * @reserved:  in: 0
 * @token:     out: of the file, where @handler is not empty
 * @session:   out: name of the session, with its NUL; empty: none is to blame
 * @handler:   out: who refused, with its NUL; empty: no handler did
 *
 * Of this kernel. A program's own mistakes (a bad argument, an unknown token) do
 * not count.
 *
 * Errors: ENOENT (nothing has failed).
 */
struct liveupdate_ferry_failure {
	__u32 size;
	__u32 error;
	__aligned_u64 number;
	__aligned_u64 when_ns;
	__u32 operation;
	__u32 reserved;
	__aligned_u64 token;
	__u8 session[LIVEUPDATE_SESSION_NAME_LENGTH];
	__u8 handler[LIVEUPDATE_FERRY_HANDLER_SIZE];
};

#define LIVEUPDATE_FERRY_GET_FAILURE \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_FERRY_CMD_GET_FAILURE)

/* ---- on a session ---- */

/**
 * struct liveupdate_ferry_session_get_info - how does this session stand?
 * @size:     in: of this structure
 * @reserved: in: 0
 * @session:  out: as in LIVEUPDATE_FERRY_LIST_SESSIONS
 *
 * For all sessions, whatever is being done to them. For a session that came over
 * a socket or from a service manager: no device is needed.
 */
struct liveupdate_ferry_session_get_info {
	__u32 size;
	__u32 reserved;
	struct liveupdate_ferry_session session;
};

#define LIVEUPDATE_FERRY_SESSION_GET_INFO \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_FERRY_CMD_SESSION_GET_INFO)

/**
 * struct liveupdate_ferry_session_set_policy - what becomes of what nobody takes
 * @size:        in: of this structure
 * @policy:      in: enum liveupdate_ferry_policy
 * @deadline_ms: in: for POLICY_DEADLINE: 1 to 2^40; else 0
 *
 * For all sessions, also those that LIVEUPDATE_IOCTL_CREATE_SESSION made. For one of
 * the last kernel it counts from the next close on; but with KEEP a kexec is refused at once.
 *
 * Errors: EINVAL (the deadline does not fit the policy), EOPNOTSUPP (unknown policy).
 */
struct liveupdate_ferry_session_set_policy {
	__u32 size;
	__u32 policy;
	__aligned_u64 deadline_ms;
};

#define LIVEUPDATE_FERRY_SESSION_SET_POLICY \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_FERRY_CMD_SESSION_SET_POLICY)

/* Bits of @flags: preserve again, under their tokens, all files that were retrieved. */
#define LIVEUPDATE_FERRY_RENEW_FILES	(1u << 0)

/**
 * struct liveupdate_ferry_session_renew - have a retrieved session carried again
 * @size:  in: of this structure
 * @flags: in: LIVEUPDATE_FERRY_RENEW_FILES or 0
 *
 * For a session that was retrieved. Finishes it, where that was not done yet, and
 * makes it one for the next kernel: the same descriptor, name, key and policy. What
 * was not retrieved is released, as by LIVEUPDATE_SESSION_FINISH. With
 * LIVEUPDATE_FERRY_RENEW_FILES it has the files that were retrieved; without, none, and
 * PRESERVE_FD fills it.
 *
 * Errors: EEXIST (there is a session of that name for the next kernel), EOPNOTSUPP
 * (unknown flag), those of LIVEUPDATE_SESSION_FINISH: nothing has changed then. Those
 * of LIVEUPDATE_SESSION_PRESERVE_FD: the session is still one of the last kernel, and
 * has what was retrieved, so that it can be tried again, or finished.
 */
struct liveupdate_ferry_session_renew {
	__u32 size;
	__u32 flags;
};

#define LIVEUPDATE_FERRY_SESSION_RENEW \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_FERRY_CMD_SESSION_RENEW)

#endif
