// SPDX-License-Identifier: GPL-2.0
// Runs of pages in chained, checksummed, preserved blocks. Format: abi/runs.h.
#pragma once

#include <ferry/kho.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <optional>

#include "linux.h"
#include "owner.hh"

namespace kho {

inline ferry_run_entry encode(const ferry_run &run)
{
	return {
		.where = run.pfn |
			 static_cast<unsigned long long>(run.order) << FERRY_RUN_PFN_BITS |
			 static_cast<unsigned long long>(run.flags)
				 << (FERRY_RUN_PFN_BITS + FERRY_RUN_ORDER_BITS),
		.what = run.index | static_cast<unsigned long long>(run.count)
					    << FERRY_RUN_INDEX_BITS,
	};
}

ferry_run decode(const ferry_run_entry &entry);
unsigned int checksum(const ferry_runs_block &block);

// Pages of 4 KiB in a run.
inline unsigned long long pages_of(const ferry_run &run)
{
	return static_cast<unsigned long long>(run.count) << run.order;
}

// One page of linux_page_alloc().
int preserve_page(const void *page);
void unpreserve_page(const void *page);
// Whether an address is that of such a page, in the next kernel.
bool is_preserved_page(unsigned long long phys);
// Makes it ours; false if it is not, or somebody else did before.
bool restore_page(unsigned long long phys);

} // namespace kho

// Outgoing. Not locked: its user has a lock of its own (that of a session).
struct ferry_runs {
	explicit ferry_runs(ferry_owner &owner) : owner_{owner}
	{
	}
	~ferry_runs()
	{
		clear();
	}
	ferry_runs(const ferry_runs &) = delete;
	ferry_runs &operator=(const ferry_runs &) = delete;

	ferry::Result<void> append(const ferry_run &run);
	// `done`: how many are appended; fewer only after an error.
	ferry::Result<void> append(const ferry_folios &folios, unsigned int &done);
	ferry::Result<ferry_bulk> seal();
	// Ends the preservation of everything in the list.
	void clear();
	ferry_usage usage() const;
	int walk(int (*visit)(void *, const ferry_run *), void *ctx) const;

    private:
	bool has_room(unsigned int entries = 1) const
	{
		return last_ && last_->nr + entries <= FERRY_RUNS_PER_BLOCK;
	}
	bool begin_list(const ferry_run &run);
	bool continues_list(const ferry_run &run) const;
	void add_to_list(const ferry_run &run);
	unsigned int fill_list(const unsigned long long *pfn, unsigned int nr);
	// Writes the open run down; there has to be room.
	void write_open()
	{
		last_->entry[last_->nr++] = kho::encode(*open_);
		++closed_runs_;
		closed_pages_ += kho::pages_of(*open_);
		open_.reset();
	}
	ferry::Result<void> preserve_written();
	void tell_owner();
	ferry::Result<void> add_block();

	ferry_owner &owner_;
	ferry_runs_block *first_ = nullptr;
	ferry_runs_block *last_ = nullptr;
	// The run that may still grow. It is not preserved before it is complete:
	// KHO wants the same bounds when it is unpreserved and restored.
	std::optional<ferry_run> open_;
	// The list at the end of the last block, while it may still grow. Then there
	// is no open run.
	struct List {
		ferry_run_entry *head = nullptr; // null: there is none
		unsigned int *place; // behind the head
		ferry_run next; // its pfn: of the list; its index: the next one
		unsigned int nr; // folios
		unsigned int room; // for so many folios, in all
	} list_;
	// Entries of the last block that are preserved; in the others all are. It is
	// done for many at a time.
	unsigned int preserved_ = 0;
	unsigned long long blocks_ = 0;
	unsigned long long closed_runs_ = 0;
	unsigned long long closed_pages_ = 0;
	// Of these, what the owner's figures have.
	unsigned long long told_runs_ = 0;
	unsigned long long told_pages_ = 0;
};

// Incoming. create() checks everything and takes nothing. The first next(), or the
// destructor, takes the blocks; next() finds out whether somebody else took a page
// meanwhile.
struct ferry_runs_in {
	// Whether create() would find everything in order; changes nothing.
	static ferry::Result<void> check(const ferry_bulk &ref, const char *what);
	static ferry::Result<ferry::Owned<ferry_runs_in>> create(const ferry_bulk &ref,
								 const char *what);

	explicit ferry_runs_in(const ferry_bulk &ref) : ref_{ref}
	{
	}
	~ferry_runs_in();
	ferry_runs_in(const ferry_runs_in &) = delete;
	ferry_runs_in &operator=(const ferry_runs_in &) = delete;

	// The next runs, with their pages; 0 at the end.
	ferry::Result<unsigned int> next(ferry_run *runs, unsigned int room);
	// Leaves everything to a later create(). Not after next().
	void leave()
	{
		ref_ = {};
	}

    private:
	ferry::Result<void> take_blocks();
	unsigned int restore(ferry_run *runs, unsigned int room);
	void advance(unsigned int nr);

	ferry_bulk ref_; // zeros when there are no blocks, or they are not ours
	bool taken_ = false; // the blocks
	// Where the next run is: a block, null at the end; an entry, and in a list one of
	// its folios.
	const ferry_runs_block *block_ = nullptr;
	unsigned int entry_ = 0, folio_ = 0;
};
