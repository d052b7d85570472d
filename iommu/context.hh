// SPDX-License-Identifier: GPL-2.0
// An iommufd that is preserved, in the kernel that preserves it.
#pragma once

#include <ferry/luo.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <abi/iommu.h>

#include "iommu/table.hh"

namespace iommu {

/*
 * From preserve() on nothing is mapped or unmapped, and no page table is made or
 * destroyed: their pages are preserved right then. The devices go on, and find
 * what they always found.
 *
 * What they can reach has to be preserved as well, or they would write into
 * memory of the next kernel. So each mapping needs its file, and freeze() sees
 * to it that each page that a page table leads to is that page of that file. A
 * file that is preserved keeps its pages from its preserve() to the jump. So where
 * all of them are preserved before the iommufd, its preserve() looks, and freeze(),
 * in which nobody runs, has nothing to do.
 *
 * Locks: the mutex of the session, luo's; in preserve() the iommufd's and mmap
 * locks, in linux.c; in freeze() none.
 */
class Context {
    public:
	explicit Context(struct file *file) : file_{file}
	{
	}
	Context(const Context &) = delete;
	Context &operator=(const Context &) = delete;
	// Ends the preservation, and lets the iommufd be changed again.
	~Context();

	static ferry::Result<ferry::Owned<Context>> preserve(const ferry_luo_args &args,
							     ferry_owner *owner);

	ferry::Result<void> freeze();
	ferry::Result<void> save(ferry_writer *writer);

    private:
	// A page table, and the list of its pages.
	struct Table {
		linux_table where;
		unsigned int ioas;
		ferry_runs *pages;
	};

	ferry::Result<void> find_mappings(ferry_luo_file *self);
	ferry::Result<void> add_mapping(const linux_mapping &mapping, ferry_luo_file *self);
	class Progress;
	ferry::Result<void> find_tables(ferry_owner *owner, ferry_luo_file *self);
	ferry::Result<void> keep_table(Table &table, ferry_owner *owner, Progress &progress);
	unsigned long long mapped() const;
	void tell_usage(ferry_luo_file *self) const;
	ferry::Result<void> check_tables() const;
	ferry::Result<void> check(const Table &table) const;

	struct file *file_;
	bool frozen_ = false;
	// As linux_iommufd_mappings() gives them. The files are held by luo, as
	// dependencies.
	linux_mapping *mappings_ = nullptr;
	unsigned int nr_mappings_ = 0, room_for_mappings_ = 0;
	// All of these files were preserved before.
	bool settled_ = true;
	Table *tables_ = nullptr;
	unsigned int nr_tables_ = 0, room_for_tables_ = 0;
};

} // namespace iommu
