// SPDX-License-Identifier: GPL-2.0
// What a kernel hands over, made by hand from include/abi alone: for data that
// kho.ko itself would never write.
#pragma once

#include "kho.hh"

#include <abi/root.h>
#include <abi/runs.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>

namespace fake {

inline unsigned int crc_with_zero_at(std::span<const unsigned char> bytes, std::size_t at)
{
	static constexpr unsigned char zeros[4] = {};
	unsigned int crc = ferry_crc32c(~0u, bytes.data(), at);
	crc = ferry_crc32c(crc, zeros, sizeof(zeros));
	return ferry_crc32c(crc, bytes.data() + at + 4, bytes.size() - at - 4);
}

// Makes the checksum of a block of runs right.
inline void fix_block(Handover::Page &page)
{
	constexpr std::size_t at = offsetof(ferry_runs_block, crc);
	unsigned int crc = crc_with_zero_at(page, at);
	std::memcpy(page.data() + at, &crc, sizeof(crc));
}

// Makes the checksum of a root page right.
inline void fix_root(Handover::Page &page)
{
	constexpr std::size_t at = offsetof(ferry_root, crc);
	unsigned int crc = crc_with_zero_at(std::span{page}.first(sizeof(ferry_root)), at);
	std::memcpy(page.data() + at, &crc, sizeof(crc));
}

// Preserves single pages as KHO does: in aligned pieces.
inline void preserve_pages(Handover &handover, Pfn pfn, Pfn count)
{
	for (Pfn end = pfn + count; pfn < end;) {
		unsigned int order = std::min<unsigned int>(std::countr_zero(pfn),
							    std::bit_width(end - pfn) - 1);
		handover.keys[pfn] = order;
		pfn += 1ull << order;
	}
}

// A chain of one block with these runs, as it should be.
inline ferry_bulk carry_runs(Handover &handover, Pfn at, std::span<const ferry_run> runs)
{
	Handover::Page page{};
	ferry_runs_block header{};
	header.magic = FERRY_RUNS_MAGIC;
	header.version = FERRY_RUNS_VERSION;
	header.nr = static_cast<unsigned short>(runs.size());
	std::memcpy(page.data(), &header, sizeof(header));
	ferry_bulk ref{
		.first = at * 4096, .blocks = 1, .runs = runs.size(), .pages = 0, .bytes = 0};
	std::size_t offset = sizeof(header);
	for (const ferry_run &run : runs) {
		ferry_run_entry entry{
			.where = run.pfn | static_cast<unsigned long long>(run.order) << 48 |
				 static_cast<unsigned long long>(run.flags) << 54,
			.what = run.index | static_cast<unsigned long long>(run.count) << 40,
		};
		std::memcpy(page.data() + offset, &entry, sizeof(entry));
		offset += sizeof(entry);
		ref.pages += static_cast<unsigned long long>(run.count) << run.order;
	}
	fix_block(page);
	handover.preserve(at, page);
	return ref;
}

// A blob, with its block of runs at `at` and its pages after that.
inline ferry_bulk carry_blob(Handover &handover, Pfn at, std::span<const unsigned char> bytes)
{
	Pfn count = (bytes.size() + 4095) / 4096;
	ferry_run run{at + 1, 0, static_cast<unsigned int>(count), 0, 0};
	ferry_bulk ref = carry_runs(handover, at, std::span{&run, count ? 1u : 0u});
	ref.bytes = bytes.size();
	for (Pfn i = 0; i < count; ++i) {
		auto piece = bytes.subspan(i * 4096,
					   std::min<std::size_t>(4096, bytes.size() - i * 4096));
		Handover::Page page{};
		std::copy(piece.begin(), piece.end(), page.begin());
		handover.pages[at + 1 + i] = page;
	}
	preserve_pages(handover, at + 1, count);
	return ref;
}

inline void carry_root(Handover &handover, Pfn at, const ferry_bulk &tree, unsigned int crc)
{
	ferry_root root{
		.magic = FERRY_ROOT_MAGIC,
		.version = FERRY_ROOT_VERSION,
		.crc = 0,
		.first = tree.first,
		.blocks = tree.blocks,
		.runs = tree.runs,
		.pages = tree.pages,
		.bytes = tree.bytes,
		.tree = crc,
		.reserved = 0,
	};
	Handover::Page page{};
	std::memcpy(page.data(), &root, sizeof(root));
	fix_root(page);
	handover.preserve(at, page);
	handover.subtrees[FERRY_ROOT_SUBTREE] = {at * 4096, sizeof(root)};
}

// A whole tree, with its root page.
inline Handover carry_tree(std::span<const unsigned char> tree)
{
	Handover handover;
	carry_root(handover, first_pfn + 1, carry_blob(handover, first_pfn + 2, tree),
		   ferry_crc32c(~0u, tree.data(), tree.size()));
	return handover;
}

} // namespace fake
