// SPDX-License-Identifier: GPL-2.0
// A set of pages of a file, as ranges.
#pragma once

#include <ferry/own.hh>
#include <ferry/result.hh>

#include <algorithm>

namespace ferry {

// [first, end)
struct Extent {
	unsigned long long first;
	unsigned long long end;
};

// Ranges are added in ascending order and become part of the set all at once,
// with settle(): so that the set can be walked meanwhile.
class Extents {
    public:
	Extents() = default;
	Extents(const Extents &) = delete;
	Extents &operator=(const Extents &) = delete;
	~Extents()
	{
		ferry_free(extent_);
	}

	// Makes sure that the next add(), or so many of them, have room.
	ferry::Result<void> reserve(std::size_t more = 1)
	{
		if (more <= room_ - nr_)
			return {};
		std::size_t room = std::max<std::size_t>(room_ ? 2 * room_ : 32, nr_ + more);
		auto *extent = static_cast<Extent *>(ferry_alloc(room * sizeof(Extent)));
		if (!extent)
			return ferry::fail(ferry::Errno::NoMem);
		std::copy(extent_, extent_ + nr_, extent);
		ferry_free(extent_);
		extent_ = extent;
		room_ = room;
		return {};
	}

	void add(const Extent &extent)
	{
		if (nr_ > settled_ && extent_[nr_ - 1].end == extent.first)
			extent_[nr_ - 1].end = extent.end;
		else
			extent_[nr_++] = extent;
	}

	void settle()
	{
		if (nr_ > settled_ && settled_)
			merge();
		settled_ = nr_;
	}

	std::size_t size() const
	{
		return settled_;
	}
	const Extent &operator[](std::size_t at) const
	{
		return extent_[at];
	}

    private:
	void merge()
	{
		std::sort(extent_, extent_ + nr_,
			  [](const Extent &a, const Extent &b) { return a.first < b.first; });
		std::size_t last = 0;
		for (std::size_t at = 1; at < nr_; ++at) {
			if (extent_[at].first == extent_[last].end)
				extent_[last].end = extent_[at].end;
			else
				extent_[++last] = extent_[at];
		}
		nr_ = last + 1;
	}

	Extent *extent_ = nullptr;
	std::size_t nr_ = 0;
	std::size_t settled_ = 0;
	std::size_t room_ = 0;
};

// Takes ranges in ascending order, and gives what of them is not in a set.
class Remainder {
    public:
	explicit Remainder(const Extents &set) : set_{set}
	{
	}

	// The next piece of `range`, which is cut off from it; empty at its end.
	Extent next(Extent &range)
	{
		while (range.first < range.end) {
			while (at_ < set_.size() && set_[at_].end <= range.first)
				++at_;
			if (at_ == set_.size())
				return take(range, range.end);
			if (set_[at_].first > range.first)
				return take(range, std::min(range.end, set_[at_].first));
			range.first = set_[at_].end;
		}
		return {range.end, range.end};
	}

    private:
	static Extent take(Extent &range, unsigned long long end)
	{
		Extent piece{range.first, end};
		range.first = end;
		return piece;
	}

	const Extents &set_;
	std::size_t at_ = 0;
};

} // namespace ferry
