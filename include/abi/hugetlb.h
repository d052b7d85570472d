/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A memfd of hugetlb pages, version 1. The node has a child "pages", a bulk
 * record, and, unless nothing is reserved, a child "reserved", a bulk record
 * that leads to a blob of struct ferry_hugetlb_range.
 *
 * The index of a run, and ranges, count pages of 4 KiB from the start of the
 * file. The folios of all runs are of one size; of their flags only
 * FERRY_RUN_DESCENDING may be set.
 */
#ifndef FERRY_ABI_HUGETLB_H
#define FERRY_ABI_HUGETLB_H

#include <ferry/record.h>

#define FERRY_HUGETLB_COMPATIBLE	"memfd-hugetlb-v1"

/*
 * size:  of the file, in bytes
 * pos:   of the file description, in bytes
 * seals: F_SEAL_*
 * mode:  permission bits of the inode
 * order: of a folio: 9 (2 MiB) or 18 (1 GiB) on x86-64
 */
#define FERRY_HUGETLB_FIELDS(F, T)				\
	F(T, U64, size, 1, 0, 0x7fffffffffffffffull, 0)		\
	F(T, U64, pos, 1, 0, 0x7fffffffffffffffull, 0)		\
	F(T, U32, seals, 1, 0, 0x3f, 0)				\
	F(T, U32, mode, 1, 0, 07777, 0)				\
	F(T, U32, order, 1, 1, 18, 0)
FERRY_RECORD(ferry_hugetlb, "hugetlb", 1, 1, FERRY_HUGETLB_FIELDS);

/**
 * struct ferry_hugetlb_range - what has pages of its own, or a right to them
 * @first: of the range, a multiple of the folio's size
 * @end:   its end, and so a multiple, too
 *
 * Ascending, and not touching each other. A page that is there lies in one.
 */
struct ferry_hugetlb_range {
	unsigned long long first;
	unsigned long long end;
};

#define FERRY_HUGETLB_MAX_RANGES	(1u << 20)

#endif
