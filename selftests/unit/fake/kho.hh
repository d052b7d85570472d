// SPDX-License-Identifier: GPL-2.0
// How tests look into and steer the physical memory and the KHO that
// fake/kho.cc pretends to have. It is as strict as the kernel with all of its
// debugging options: whatever would be a warning there is a fake::bug() here.
#pragma once

#include "fake.hh"

#include <array>
#include <map>
#include <set>
#include <string>

namespace fake {

using Pfn = unsigned long long;

// The memory of the machine, in page frames. linux_page_alloc() gives pages of
// the first part; those that are not allocated are poisoned for ASan. What
// tests preserve as the pages of somebody's file is from the second part, and
// need not be allocated.
constexpr Pfn first_pfn = 1 << 20;
constexpr Pfn first_folio = first_pfn + (1 << 18);
constexpr Pfn end_pfn = first_pfn + (1 << 21);

// Where the memory of NUMA node 1 begins, and how many pages each node from there
// on has; by default there is no such node.
extern Pfn node_boundary, node_width;
// linux_page_alloc() gives pages of which no two are neighbours.
extern bool scatter;
// linux_restore() is among the calls that inject() lets fail.
extern bool fail_restore;

module &kho_module();

// What a kexec carries over: KHO's keys, the content of the pages (of the first
// part of the memory), and the subtrees. Tests damage it as they like.
struct Handover {
	struct Subtree {
		unsigned long long phys;
		unsigned long long size;
	};
	using Page = std::array<unsigned char, 4096>;

	// Order of each preservation, by its first page.
	std::map<Pfn, unsigned int> keys;
	std::map<Pfn, Page> pages;
	std::map<std::string, Subtree> subtrees;

	void preserve(Pfn pfn, const Page &page);
	// The preserved pages that begin with these bytes.
	std::vector<Pfn> find(const void *magic, std::size_t size) const;
};

// What a kexec at this moment would carry.
Handover handover();

// A new kernel, with what the last one left to it. The last one must have let
// go of everything (in reality it does not have to).
void boot(const Handover &handover);

// Forgets what was handed over, and what was restored of it.
void power_off();

// Folios that linux_restore() gave back and nobody released.
bool owns(Pfn pfn);
// Preservations by the last kernel that were not restored.
std::size_t waiting();
// In this kernel, for the next one.
bool preserved(Pfn pfn);

// Content of a page of memory.
void *page_at(Pfn pfn);

} // namespace fake
