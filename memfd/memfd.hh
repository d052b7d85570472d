// SPDX-License-Identifier: GPL-2.0
// A memfd that is preserved, in the kernel that preserves it: on shmem, or, as a
// part of Hugetlb, of hugetlb pages.
#pragma once

#include <ferry/extents.hh>
#include <ferry/luo.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <abi/memfd.h>

#include "memfd/linux.h"

namespace memfd {

using ferry::Extent;

/*
 * The pages are found, pinned and described while the owner of the file still
 * runs. From then on they stay where they are: what is pinned cannot be
 * migrated, split, collapsed into a huge page, or swapped out; and a frozen file
 * cannot be truncated or punched. Their contents may change until the jump, as
 * they are not copied. What can come is a page in a hole: freeze() holds such
 * additions back for good, and catches up with those that there were.
 *
 * Locks, outermost first:
 *
 *	the mutex of the session	luo's; held around every operation
 *	the inode lock			linux_shmem_freeze() alone
 *	hugetlb's mutexes of faults	linux_shmem_hold() alone, one at a time
 *	folio locks			in linux.c, one at a time
 *	the lock of the page cache	in linux.c
 *
 * While new pages are held back, a writer may wait for us with the inode lock,
 * or somebody with a page fault and so a mmap lock: from hold to release nothing
 * here takes either. It need not: the size and the seals that matter are fixed
 * since linux_shmem_freeze(), which came back after the last one to change them.
 *
 * Where the module's parameter "check" says so, as it does on a kernel with
 * CONFIG_KEXEC_HANDOVER_DEBUG, freeze() looks at each page, and refuses a file with one
 * that did not stay. Such a file can be given back all the same.
 *
 * hugetlb_reserved() takes the spinlock of the file's reservations, and
 * hugetlb_tell_carried() a mutex of its own, under which KHO's locks are taken; both
 * are leaves here, with nothing of the above below them but the mutex of the session.
 *
 * A file with bad memory (hwpoison) is refused. Memory that goes bad later is
 * left for the next kernel to find out, as it is in a file that is not preserved.
 */
class Memfd {
    public:
	Memfd(struct file *file, ferry_luo_file *self) : file_{file}, self_{self}
	{
	}
	Memfd(const Memfd &) = delete;
	Memfd &operator=(const Memfd &) = delete;
	// Unpins the pages, and lets the file grow and shrink again.
	~Memfd();

	static ferry::Result<ferry::Owned<Memfd>> preserve(const ferry_luo_args &args,
							   ferry_owner *owner);

	ferry::Result<void> freeze();
	void unfreeze();
	ferry::Result<void> save(ferry_writer *writer);
	// The child "pages" alone.
	ferry::Result<void> save_pages(ferry_writer *writer);

	// Of the file, in bytes.
	unsigned long long size() const;
	// ferry_runs_walk() over what is recorded.
	int walk(int (*visit)(void *ctx, const ferry_run *run), void *ctx) const
	{
		return ferry_runs_walk(runs_, visit, ctx);
	}

    private:
	template <class F> ferry::Result<void> for_each_new(F &&visit);
	ferry::Result<void> catch_up();
	ferry::Result<void> record(const Extent &piece);
	ferry::Result<void> record_batch(unsigned int nr);
	ferry::Result<void> append(const linux_shmem_stretch &stretch,
				   const unsigned long long *pfn, unsigned int &done);
	ferry::Result<void> check_pages() const;
	unsigned long long recorded() const;
	void tell_usage() const;

	struct file *file_;
	ferry_luo_file *self_; // to whom luo is told how far it is
	ferry_runs *runs_ = nullptr;
	// What the runs cover: to tell a new page from one that is recorded.
	ferry::Extents covered_;
	// End of what was recorded last in this pass.
	unsigned long long next_ = 0;
	ferry::Owned<linux_shmem_batch> batch_;
};

} // namespace memfd
