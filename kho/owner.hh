// SPDX-License-Identifier: GPL-2.0
// Who preserves what, in figures.
#pragma once

#include <ferry/kho.h>
#include <ferry/list.hh>
#include <ferry/own.hh>

#include <atomic>

struct ferry_owner : ferry::Linked<ferry_owner> {
	explicit ferry_owner(const char *its_name) : name{its_name}
	{
	}

	const char *const name;
	// Each is a sum over everything of this owner; atomic because lists of
	// different sessions change them at the same time.
	std::atomic<unsigned long long> pages{0};
	std::atomic<unsigned long long> runs{0};
	std::atomic<unsigned long long> metadata{0};
	std::atomic<unsigned long long> blobs{0};

	ferry_usage usage() const
	{
		return {pages.load(std::memory_order_relaxed), runs.load(std::memory_order_relaxed),
			metadata.load(std::memory_order_relaxed),
			blobs.load(std::memory_order_relaxed)};
	}
};
