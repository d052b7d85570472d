// SPDX-License-Identifier: GPL-2.0
// What a page table translates, range by range.
#pragma once

#include <ferry/result.hh>

#include "iommu/linux.h"

namespace iommu {

inline constexpr unsigned long long page_size = LINUX_PAGE_SIZE;

// What an entry of VT-d's second stage says (VT-d spec, 9.8). The rights of a
// page are those that all entries on the way to it have. Other bits (snooping,
// accessed, dirty) do not change where a page is or who may use it.
enum : unsigned long long {
	may_read = 1,
	may_write = 2,
	is_large = 0x80, // a page of 2 MiB or 1 GiB, not a further table
	address_bits = 0xffffffffff000, // up to bit 51
};

struct Range {
	unsigned long long iova;
	unsigned long long phys;
	unsigned long long length;
	unsigned long long rights;

	bool operator==(const Range &) const = default;
};

// The pages of a page table, as one of this kernel's: they are what they are.
struct Trusted {
	ferry::Result<const unsigned long long *> page(unsigned long long phys)
	{
		return linux_table_page(phys);
	}
};

// Walks the entries of a page table in the order of the IOVA. Each page of the
// table is asked for by Pages::page(), which may say no.
template <class Pages> class Leaves {
    public:
	Leaves(const linux_table &table, Pages &pages)
		: levels_{table.levels}, top_{table.top}, pages_{pages}
	{
	}

	// The next entry that translates; false at the end. A table that cannot be
	// one is Errno::BadMsg.
	ferry::Result<bool> next(Range &leaf)
	{
		if (!started_) {
			started_ = true;
			TRY(enter(0, top_, may_read | may_write));
		}
		for (;;) {
			Level &at = level_[depth_];
			if (at.index == LINUX_TABLE_ENTRIES) {
				if (!depth_)
					return false;
				++level_[--depth_].index;
				continue;
			}
			const unsigned long long entry = load(at.entries[at.index]);
			const unsigned long long rights = entry & at.rights;
			const unsigned int level = levels_ - depth_;
			if (!rights) {
				++at.index;
				continue;
			}
			if (level > 1 && !(entry & is_large)) {
				TRY(enter(depth_ + 1, entry & address_bits, rights));
				++depth_;
				continue;
			}
			const unsigned long long length = size_of(level);
			leaf = {iova(), entry & address_bits, length, rights};
			if (level > 3 || leaf.phys & (length - 1))
				return ferry::fail(ferry::Errno::BadMsg);
			++at.index;
			return true;
		}
	}

    private:
	static constexpr unsigned int max_levels = 5;

	struct Level {
		const unsigned long long *entries;
		unsigned int index;
		unsigned long long rights;
	};

	static unsigned long long load(const unsigned long long &entry)
	{
		return __atomic_load_n(&entry, __ATOMIC_RELAXED);
	}

	// Bytes that an entry of a level covers.
	static constexpr unsigned long long size_of(unsigned int level)
	{
		return page_size << 9 * (level - 1);
	}

	unsigned long long iova() const
	{
		unsigned long long sum = 0;
		for (unsigned int i = 0; i <= depth_; ++i)
			sum += level_[i].index * size_of(levels_ - i);
		return sum;
	}

	ferry::Result<void> enter(unsigned int depth, unsigned long long phys,
				  unsigned long long rights)
	{
		if (levels_ < 3 || levels_ > max_levels)
			return ferry::fail(ferry::Errno::BadMsg);
		level_[depth] = {TRY(pages_.page(phys)), 0, rights};
		return {};
	}

	unsigned int levels_;
	unsigned long long top_;
	Pages &pages_;
	bool started_ = false;
	unsigned int depth_ = 0;
	Level level_[max_levels] = {};
};

// The same, with entries that continue each other made one range: so that two
// page tables that translate alike give the same ranges, whatever the sizes of
// their pages.
template <class Pages> class Ranges {
    public:
	Ranges(const linux_table &table, Pages &pages) : leaves_{table, pages}
	{
	}

	ferry::Result<bool> next(Range &range)
	{
		if (!ahead_valid_ && !ended_)
			TRY(look_ahead());
		if (ended_)
			return false;
		range = ahead_;
		for (;;) {
			TRY(look_ahead());
			if (ended_ || ahead_.iova != range.iova + range.length ||
			    ahead_.phys != range.phys + range.length ||
			    ahead_.rights != range.rights)
				return true;
			range.length += ahead_.length;
		}
	}

    private:
	ferry::Result<void> look_ahead()
	{
		ahead_valid_ = TRY(leaves_.next(ahead_));
		ended_ = !ahead_valid_;
		return {};
	}

	Leaves<Pages> leaves_;
	Range ahead_{};
	bool ahead_valid_ = false;
	bool ended_ = false;
};

} // namespace iommu
