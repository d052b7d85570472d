/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A memfd, version 1. The node has a child "pages", a bulk record.
 *
 * The flags of a run are FERRY_MEMFD_*; the index of a run counts pages of
 * 4 KiB from the start of the file.
 */
#ifndef FERRY_ABI_MEMFD_H
#define FERRY_ABI_MEMFD_H

#include <ferry/record.h>

#define FERRY_MEMFD_COMPATIBLE	"memfd-v1"

/*
 * Allocated and never written when it was preserved, and zeroed then: a folio
 * that is all zeros is given back as one that was never written, and another
 * one as written. So the data that came later is there, and SEEK_DATA skips
 * what it skipped before.
 */
#define FERRY_MEMFD_UNWRITTEN	1

/*
 * size:  of the file, in bytes
 * pos:   of the file description, in bytes
 * seals: F_SEAL_*
 * mode:  permission bits of the inode
 */
#define FERRY_MEMFD_FIELDS(F, T)				\
	F(T, U64, size, 1, 0, 0x7fffffffffffffffull, 0)		\
	F(T, U64, pos, 1, 0, 0x7fffffffffffffffull, 0)		\
	F(T, U32, seals, 1, 0, 0x3f, 0)				\
	F(T, U32, mode, 1, 0, 07777, 0)
FERRY_RECORD(ferry_memfd, "memfd", 1, 1, FERRY_MEMFD_FIELDS);

#endif
