// SPDX-License-Identifier: GPL-2.0
// The one page that the kernel's KHO hands over for us. Format: abi/root.h.
#pragma once

#include <abi/root.h>
#include <ferry/kho.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

namespace kho {

// A tree, as the root page has it. No tree: all zeros.
struct TreeRef {
	ferry_bulk bulk;
	unsigned int crc;
};

// Checks what the last kernel says of its tree.
ferry::Result<TreeRef> read_root(const ferry_root &root);

// The page, in the kernel that preserves. Empty until a tree is set.
class RootPage {
    public:
	static ferry::Result<ferry::Owned<RootPage>> create();

	explicit RootPage(ferry_root *page) : page_{page}
	{
	}
	~RootPage();
	RootPage(const RootPage &) = delete;
	RootPage &operator=(const RootPage &) = delete;

	void set(const TreeRef &tree);

    private:
	ferry_root *page_;
};

} // namespace kho
