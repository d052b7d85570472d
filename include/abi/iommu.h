/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An iommufd, version 1. The node has a child "hwpt@N" for each of its page
 * tables, from 0, and that has a child "tables", a bulk record: the pages of the
 * page table, each a run or part of one, of order 0; index is of no meaning.
 *
 * What is mapped is in the page tables themselves; the files behind it are the
 * dependencies of the iommufd. Which devices use a page table is in the kernel's
 * own record (<linux/kho/abi/iommu.h> of the patches), by its top page.
 */
#ifndef FERRY_ABI_IOMMU_H
#define FERRY_ABI_IOMMU_H

#include <ferry/record.h>

#define FERRY_IOMMUFD_COMPATIBLE	"iommufd-v1"

/* Formats of page tables. */
#define FERRY_HWPT_VTD_SECOND_STAGE	1

/* hwpts: that follow */
#define FERRY_IOMMUFD_FIELDS(F, T)				\
	F(T, U32, hwpts, 1, 0, 1024, 0)
FERRY_RECORD(ferry_iommufd, "iommufd", 1, 1, FERRY_IOMMUFD_FIELDS);

/*
 * top:    physical address of the first page of the page table
 * levels: of the page table
 * format: FERRY_HWPT_*
 * ioas:   id that the IOAS had, for messages
 */
#define FERRY_HWPT_FIELDS(F, T)					\
	F(T, U64, top, 1, 4096, 0xffffffffff000ull, 0)		\
	F(T, U32, levels, 1, 3, 5, 0)				\
	F(T, U32, format, 1, 1, 1, 0)				\
	F(T, U32, ioas, 1, 0, 0xffffffff, 0)
FERRY_RECORD(ferry_hwpt, "hwpt", 1, 1, FERRY_HWPT_FIELDS);

#endif
