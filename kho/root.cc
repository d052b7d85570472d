// SPDX-License-Identifier: GPL-2.0
#include "kho/root.hh"

#include <ferry/log.hh>

#include "kho/linux.h"
#include "kho/runs.hh"

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace kho {
namespace {

unsigned int checksum(const ferry_root &root)
{
	ferry_root copy = root;
	copy.crc = 0;
	return ferry_crc32c(~0u, &copy, sizeof(copy));
}

} // namespace

Result<TreeRef> read_root(const ferry_root &root)
{
	if (root.magic != FERRY_ROOT_MAGIC) {
		log_err("the root page has a wrong magic number, %#llx", root.magic);
		return fail(Errno::BadMsg);
	}
	// Before the checksum: another version may well keep it elsewhere.
	if (root.version != FERRY_ROOT_VERSION) {
		log_err("the root page is of version %u, and this kernel reads %u", root.version,
			FERRY_ROOT_VERSION);
		return fail(Errno::ProtoNoSupport);
	}
	if (root.crc != checksum(root)) {
		log_err("the root page has a wrong checksum");
		return fail(Errno::BadMsg);
	}
	return TreeRef{
		.bulk =
			{
				.first = root.first,
				.blocks = root.blocks,
				.runs = root.runs,
				.pages = root.pages,
				.bytes = root.bytes,
			},
		.crc = root.tree,
	};
}

Result<ferry::Owned<RootPage>> RootPage::create()
{
	auto *page = static_cast<ferry_root *>(linux_page_alloc());
	if (!page)
		return fail(Errno::NoMem);
	if (int err = preserve_page(page)) {
		linux_page_free(page);
		return fail(Errno(-err));
	}
	auto root = ferry::make<RootPage>(page);
	if (!root.has_value()) {
		unpreserve_page(page);
		linux_page_free(page);
		return root;
	}
	(*root)->set({});
	if (int err = linux_publish(FERRY_ROOT_SUBTREE, page, sizeof(*page)))
		return fail(Errno(-err));
	return root;
}

RootPage::~RootPage()
{
	linux_withdraw(page_);
	unpreserve_page(page_);
	linux_page_free(page_);
}

void RootPage::set(const TreeRef &tree)
{
	ferry_root root{
		.magic = FERRY_ROOT_MAGIC,
		.version = FERRY_ROOT_VERSION,
		.crc = 0,
		.first = tree.bulk.first,
		.blocks = tree.bulk.blocks,
		.runs = tree.bulk.runs,
		.pages = tree.bulk.pages,
		.bytes = tree.bulk.bytes,
		.tree = tree.crc,
		.reserved = 0,
	};
	root.crc = checksum(root);
	*page_ = root;
}

} // namespace kho
