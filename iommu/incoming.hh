// SPDX-License-Identifier: GPL-2.0
// Page tables of the last kernel, in the kernel that gets them.
#pragma once

#include <ferry/kho.h>
#include <ferry/list.hh>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <abi/iommu.h>

#include "iommu/table.hh"

namespace iommu {

// A set of pages that belong to us, of which a page table of the last kernel is
// made. It may lead to no other pages, and to each of them once: so a damaged one
// is not followed out of memory, nor for ever.
class OldPages {
    public:
	OldPages() = default;
	OldPages(const OldPages &) = delete;
	OldPages &operator=(const OldPages &) = delete;
	// Frees them.
	~OldPages();

	// Takes all of a list, of at most that many runs. Errno::BadMsg: not the pages
	// of a page table; those that were taken up to there are ours.
	ferry::Result<void> take(ferry_runs_in *list, unsigned long long runs);
	// Leaves them to whoever still uses them.
	void abandon()
	{
		abandoned_ = true;
	}

	// For Leaves; begin() before each walk.
	void begin()
	{
		left_ = nr_pages_;
	}
	ferry::Result<const unsigned long long *> page(unsigned long long phys);

    private:
	bool has(unsigned long long pfn) const;

	// Of order 0, and in ascending order once all are there.
	ferry_run *runs_ = nullptr;
	unsigned long long nr_runs_ = 0;
	unsigned long long nr_pages_ = 0;
	unsigned long long left_ = 0;
	bool abandoned_ = false;
};

struct OfIommufd;
struct OfAll;

// A page table that devices may still go by.
struct OldTable : ferry::Linked<OldTable, OfIommufd>, ferry::Linked<OldTable, OfAll> {
	linux_table where;
	OldPages pages;
};

// Those of one iommufd, known to compare() as long as this is there.
class OldTables {
    public:
	OldTables() = default;
	OldTables(const OldTables &) = delete;
	OldTables &operator=(const OldTables &) = delete;
	~OldTables();

	// `taken`: some of the pages are no longer those of the last kernel.
	static ferry::Result<ferry::Owned<OldTables>> take(ferry_node state, bool &taken);

    private:
	ferry::Result<void> add(ferry_node node, bool &taken);

	ferry::List<OldTable, OfIommufd> tables_;
};

// Frees the page tables of an iommufd that nobody retrieved, as far as they can be
// found.
void drop_tables(ferry_node state);

// See iommu_compare().
ferry::Result<void> compare(const linux_table &old, const linux_table &now);

// All page tables that are taken: made with the module, and gone with it.
ferry::Result<void> incoming_create();
void incoming_destroy();

} // namespace iommu
