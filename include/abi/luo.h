/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The orchestrator's part of the tree. Updates and files are of version 2, sessions of
 * version 3; what these added is marked so. Older ones are read, and have zeros there.
 *
 *	luo				ferry_update
 *	  session@N			ferry_session
 *	    file@N			ferry_file
 *	      needs@N			ferry_need, in the order of the handler's calls
 *	      state			the handler's
 */
#ifndef FERRY_ABI_LUO_H
#define FERRY_ABI_LUO_H

#include <ferry/record.h>

/*
 * number:      of this update since the last cold boot, from 1
 * sessions:    that follow
 * files:       in all sessions
 * pages:       preserved for them, of 4 KiB
 * runs:        that describe these pages
 * metadata:    bytes of preserved memory that only describe
 * preserve_ns: that the preserve calls of these files took
 * freeze_ns:   that the freeze took, up to the writing of this record
 * tsc:         time-stamp counter at the end of the freeze
 * tsc_khz:     its rate
 * refusals:    (2) kexecs that were refused before this one, in that kernel
 * frozen_at:   (2) CLOCK_REALTIME in nanoseconds at the end of the freeze
 * from:        (2) release of the kernel that wrote this
 */
#define FERRY_UPDATE_FIELDS(F, T)			\
	F(T, U64, number, 1, 1, 1ull << 48, 0)		\
	F(T, U64, sessions, 1, 0, 1ull << 32, 0)	\
	F(T, U64, files, 1, 0, 1ull << 32, 0)		\
	F(T, U64, pages, 1, 0, ~0ull, 0)		\
	F(T, U64, runs, 1, 0, ~0ull, 0)			\
	F(T, U64, metadata, 1, 0, ~0ull, 0)		\
	F(T, U64, preserve_ns, 1, 0, ~0ull, 0)		\
	F(T, U64, freeze_ns, 1, 0, ~0ull, 0)		\
	F(T, U64, tsc, 1, 0, ~0ull, 0)			\
	F(T, U32, tsc_khz, 1, 0, ~0u, 0)		\
	F(T, U64, refusals, 2, 0, ~0ull, 0)		\
	F(T, U64, frozen_at, 2, 0, ~0ull, 0)		\
	F(T, STR, from, 2, 0, 63, 64)
FERRY_RECORD(ferry_update, "update", 2, 1, FERRY_UPDATE_FIELDS);

/*
 * session_name: as in LIVEUPDATE_IOCTL_CREATE_SESSION. A property "name" would
 * mean the name of the node to dtc.
 * policy:      (2) enum liveupdate_ferry_policy
 * deadline_ms: (2) of that policy
 * keyed:       (2) 1: it has a key
 * salt:        (2) random bytes
 * key_hash:    (2) HMAC-SHA-256 of the salt, with the session's key as the key
 *
 * maker:       (2) the module that made it, and that alone gets it; empty: a program
 * uid:         (2) of the maker's
 * tag:         (3) of the maker's; fdbox: which boxes were sealed together, 0: alone
 *
 * Without a key salt and key_hash are zeros.
 */
#define FERRY_MAX_DEADLINE_MS	(1ull << 40)
#define FERRY_SESSION_FIELDS(F, T)			\
	F(T, STR, session_name, 1, 1, 63, 64)		\
	F(T, U32, policy, 2, 0, 2, 0)			\
	F(T, U64, deadline_ms, 2, 0, FERRY_MAX_DEADLINE_MS, 0) \
	F(T, U32, keyed, 2, 0, 1, 0)			\
	F(T, BYTES, salt, 2, 0, 16, 16)		\
	F(T, BYTES, key_hash, 2, 0, 32, 32)		\
	F(T, STR, maker, 2, 0, 15, 16)			\
	F(T, U32, uid, 2, 0, ~0u, 0)			\
	F(T, U64, tag, 3, 0, ~0ull, 0)
FERRY_RECORD(ferry_session, "session", 3, 1, FERRY_SESSION_FIELDS);

/*
 * token:   as in LIVEUPDATE_SESSION_PRESERVE_FD
 * handler: compatible string of the handler
 *
 * Figures, for people; what the handler does not tell is 0:
 * pages:       (2) preserved, of 4 KiB
 * runs:        (2) that describe these pages
 * metadata:    (2) bytes of preserved memory that only describe
 * preserve_ns: (2) that its preserve call took
 * freeze_ns:   (2) that its freeze call took
 * label:       (2) its name, where its session's maker gave it one
 */
#define FERRY_FILE_FIELDS(F, T)				\
	F(T, U64, token, 1, 0, ~0ull, 0)		\
	F(T, STR, handler, 1, 1, 47, 48)		\
	F(T, U64, pages, 2, 0, ~0ull, 0)		\
	F(T, U64, runs, 2, 0, ~0ull, 0)			\
	F(T, U64, metadata, 2, 0, ~0ull, 0)		\
	F(T, U64, preserve_ns, 2, 0, ~0ull, 0)		\
	F(T, U64, freeze_ns, 2, 0, ~0ull, 0)		\
	F(T, STR, label, 2, 0, 63, 64)
FERRY_RECORD(ferry_file, "file", 2, 1, FERRY_FILE_FIELDS);

/* token: of the other file, in the same session */
#define FERRY_NEED_FIELDS(F, T)				\
	F(T, U64, token, 1, 0, ~0ull, 0)
FERRY_RECORD(ferry_need, "need", 1, 1, FERRY_NEED_FIELDS);

#endif
