// SPDX-License-Identifier: GPL-2.0
// What a fuzzer's input is: the pages that the last kernel handed over.
//
//	flags	one byte: 1: make the checksum of the root right
//			  2: make those of the blocks of runs right
//	ref	a struct ferry_bulk
//	pages	each: a length of two bytes, and that many bytes; zeros after them
#pragma once

#include "fake/carry.hh"

#include <cstring>
#include <span>
#include <vector>

namespace fuzz {

constexpr fake::Pfn first = fake::first_pfn + 16;
constexpr unsigned int max_pages = 16;
constexpr unsigned char fix_root = 1, fix_blocks = 2;

using Bytes = std::span<const unsigned char>;

// Some bytes off the front; zeros where there are no more.
template <class T> T take(Bytes &input)
{
	T value{};
	std::size_t size = std::min(sizeof(T), input.size());
	std::memcpy(&value, input.data(), size);
	input = input.subspan(size);
	return value;
}

inline fake::Handover pages(Bytes input, unsigned char flags)
{
	fake::Handover handover;
	for (fake::Pfn pfn = first; !input.empty() && pfn < first + max_pages; ++pfn) {
		std::size_t size = take<unsigned short>(input);
		size = std::min({size, input.size(), sizeof(fake::Handover::Page)});
		fake::Handover::Page page{};
		std::copy_n(input.begin(), size, page.begin());
		input = input.subspan(size);
		unsigned int magic;
		std::memcpy(&magic, page.data(), sizeof(magic));
		if (pfn == first && flags & fix_root)
			fake::fix_root(page);
		if (magic == FERRY_RUNS_MAGIC && flags & fix_blocks)
			fake::fix_block(page);
		handover.preserve(pfn, page);
	}
	if (!handover.pages.empty())
		handover.subtrees[FERRY_ROOT_SUBTREE] = {first * 4096, sizeof(ferry_root)};
	// Folios of a file, for runs that are right.
	fake::preserve_pages(handover, fake::first_folio + 1, 63);
	for (fake::Pfn pfn = 512; pfn < 4096; pfn += 512)
		handover.keys[fake::first_folio + pfn] = 9;
	for (fake::Pfn pfn = 4096; pfn < 4160; pfn += 4)
		handover.keys[fake::first_folio + pfn] = 2;
	return handover;
}

// The input that makes these pages.
inline std::vector<unsigned char> input(unsigned char flags, const ferry_bulk &ref,
					const std::vector<std::vector<unsigned char>> &pages)
{
	std::vector<unsigned char> bytes{flags};
	auto append = [&](const void *at, std::size_t size) {
		auto from = static_cast<const unsigned char *>(at);
		bytes.insert(bytes.end(), from, from + size);
	};
	append(&ref, sizeof(ref));
	for (auto page : pages) {
		while (!page.empty() && !page.back())
			page.pop_back();
		auto size = static_cast<unsigned short>(page.size());
		append(&size, sizeof(size));
		append(page.data(), page.size());
	}
	return bytes;
}

// Nothing may be left of a run, whatever it was given.
inline void check_nothing_left(const fake::Counters &before)
{
	for (auto &[name, value] : fake::counters()) {
		if (name != "folios not restored" && value != before.at(name))
			fake::bug("%s: %ld before, %ld after", name.c_str(), before.at(name),
				  value);
	}
}

} // namespace fuzz
