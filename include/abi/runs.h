/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Bulk: runs of pages, version 2, which has lists; without one it is version 1.
 *
 * A list of runs is a chain of preserved pages ("blocks"), each with a header
 * and up to FERRY_RUNS_PER_BLOCK entries. A record points to the first block.
 * Holes cost nothing, a contiguous GiB is one entry, and pages that lie apart from
 * each other are four bytes each.
 *
 * All numbers are little-endian. Golden files: selftests/unit/golden/runs-v*.
 */
#ifndef FERRY_ABI_RUNS_H
#define FERRY_ABI_RUNS_H

#include <ferry/record.h>

#define FERRY_RUNS_MAGIC	0x534e5552u	/* "RUNS" */
#define FERRY_RUNS_VERSION	2
/* A block without a list says this, for kernels that do not know of lists. */
#define FERRY_RUNS_OLDEST	1

/**
 * struct ferry_run - folios that are contiguous in memory and in the file
 * @pfn:   first page frame
 * @index: place of the first page in the file, in pages
 * @count: folios
 * @order: of each folio
 * @flags: 9 bits of the owner's, and FERRY_RUN_DESCENDING
 */
struct ferry_run {
	unsigned long long pfn;
	unsigned long long index;
	unsigned int count;
	unsigned short order;
	unsigned short flags;
};

/*
 * The first folio in memory is the last one in the file, and so on. Memory that was free before is often handed out in this order:
 * what was freed last comes first.
 */
#define FERRY_RUN_DESCENDING	(1 << 9)

/* First page frame of the folio at a place in the file, counted in folios from @index on. */
static inline unsigned long long ferry_run_pfn(const struct ferry_run *run, unsigned int place)
{
	if (run->flags & FERRY_RUN_DESCENDING)
		place = run->count - 1 - place;
	return run->pfn + ((unsigned long long)place << run->order);
}

/*
 * On the way a run is two words:
 *	where: pfn (48 bits) | order (6) | flags (10)
 *	what:  index (40 bits) | count (24)
 */
#define FERRY_RUN_PFN_BITS	48
#define FERRY_RUN_ORDER_BITS	6
#define FERRY_RUN_FLAGS_BITS	10
#define FERRY_RUN_INDEX_BITS	40
#define FERRY_RUN_COUNT_BITS	24

struct ferry_run_entry {
	unsigned long long where;
	unsigned long long what;
};

/*
 * Since version 2 an entry may be the head of a list: folios that follow each
 * other in the file, and lie anywhere in memory, each of them a run of its own. A
 * head has this bit in its order, and no FERRY_RUN_DESCENDING. The entries behind
 * it are @count places of 32 bits, filled up with zeros: page frame @pfn + (place <<
 * order) is the first one of a folio.
 */
#define FERRY_RUN_LIST		(1u << 5)

/* Entries of a list: its head, and the places of so many folios. */
#define FERRY_RUN_LIST_ENTRIES(folios)	(1 + ((folios) + 3) / 4)

/**
 * struct ferry_runs_block - header of a block
 * @magic:   FERRY_RUNS_MAGIC
 * @crc:     CRC-32C (seed ~0, not inverted) of the whole block with this as 0
 * @version: FERRY_RUNS_OLDEST to FERRY_RUNS_VERSION
 * @nr:      entries in this block, the places of lists included
 * @seq:     number of this block in its chain, from 0
 * @next:    physical address of the next block, or 0
 * @entry:   the runs
 */
struct ferry_runs_block {
	unsigned int magic;
	unsigned int crc;
	unsigned short version;
	unsigned short nr;
	unsigned int seq;
	unsigned long long next;
	unsigned long long reserved;
	struct ferry_run_entry entry[];
};

#define FERRY_RUNS_BLOCK_SIZE	4096
#define FERRY_RUNS_PER_BLOCK	\
	((FERRY_RUNS_BLOCK_SIZE - sizeof(struct ferry_runs_block)) / sizeof(struct ferry_run_entry))

/**
 * struct ferry_bulk - what a record keeps of a list of runs
 * @first:  physical address of the first block; 0 when there are no runs
 * @blocks: in the chain
 * @runs:   in all blocks
 * @pages:  in all runs
 * @bytes:  that count, for a blob; 0 for other lists
 *
 * In a tree it is a record of its own, in a node of its own.
 */
#define FERRY_BULK_FIELDS(F, T)				\
	F(T, U64, first, 1, 0, ~0ull, 0)		\
	F(T, U64, blocks, 1, 0, ~0ull, 0)		\
	F(T, U64, runs, 1, 0, ~0ull, 0)			\
	F(T, U64, pages, 1, 0, 1ull << 40, 0)		\
	F(T, U64, bytes, 1, 0, 1ull << 52, 0)
FERRY_RECORD(ferry_bulk, "bulk", 1, 1, FERRY_BULK_FIELDS);

#endif
