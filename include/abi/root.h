/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The root, version 1: the one page whose address the kernel's KHO hands over,
 * as its subtree "ferry".
 *
 * It points to the flattened device tree, a blob. All numbers are
 * little-endian. Golden files: selftests/unit/golden/root-v1*.
 */
#ifndef FERRY_ABI_ROOT_H
#define FERRY_ABI_ROOT_H

#define FERRY_ROOT_SUBTREE	"ferry"
#define FERRY_ROOT_MAGIC	0x5952524546ull	/* "FERRY" */
#define FERRY_ROOT_VERSION	1
/* Of the tree that it leads to. */
#define FERRY_TREE_VERSION	1

/**
 * struct ferry_root - the root
 * @magic:   FERRY_ROOT_MAGIC
 * @version: FERRY_ROOT_VERSION
 * @crc:     CRC-32C (seed ~0, not inverted) of the structure with this as 0
 * @first:   of the blob of the tree, as in struct ferry_bulk; 0: there is none
 * @blocks:  of the blob
 * @runs:    of the blob
 * @pages:   of the blob
 * @bytes:   of the tree
 * @tree:    CRC-32C (seed ~0, not inverted) of the tree
 */
struct ferry_root {
	unsigned long long magic;
	unsigned int version;
	unsigned int crc;
	unsigned long long first;
	unsigned long long blocks;
	unsigned long long runs;
	unsigned long long pages;
	unsigned long long bytes;
	unsigned int tree;
	unsigned int reserved;
};

#endif
