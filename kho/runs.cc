// SPDX-License-Identifier: GPL-2.0
#include "kho/runs.hh"

#include <ferry/log.hh>

#include <algorithm>

#include "kho/linux.h"

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace kho {

namespace {

constexpr unsigned long long mask(unsigned int bits)
{
	return (1ull << bits) - 1;
}

constexpr unsigned long long max_index = 1ull << FERRY_RUN_INDEX_BITS;
constexpr unsigned long long max_pfn = 1ull << FERRY_RUN_PFN_BITS;
constexpr unsigned int max_count = (1u << FERRY_RUN_COUNT_BITS) - 1;
// A run of so many folios takes no less as an entry than in a list.
constexpr unsigned int short_run = 4;

// A run that can be written, and that a reader may believe to be one.
bool well_formed(const ferry_run &run)
{
	if (!run.count || run.count > max_count || run.order > LINUX_MAX_ORDER ||
	    run.flags > mask(FERRY_RUN_FLAGS_BITS))
		return false;
	if (!run.pfn || (run.pfn | run.index) & mask(run.order))
		return false;
	// The length is below 2^42, so the sums do not overflow.
	return run.pfn < max_pfn && run.index < max_index && run.pfn + pages_of(run) <= max_pfn &&
	       run.index + pages_of(run) <= max_index;
}

bool same_node(unsigned long long pfn, unsigned long long other)
{
	return linux_node(pfn) == linux_node(other);
}

// A run lies in one node, and a single folio has no direction.
bool in_one_piece(const ferry_run &run)
{
	if (run.count == 1)
		return !(run.flags & FERRY_RUN_DESCENDING);
	return same_node(run.pfn, run.pfn + pages_of(run) - 1);
}

// Makes a run part of the one before it, if it continues that.
inline bool extend(ferry_run &open, const ferry_run &run)
{
	// A single folio goes in either direction.
	const bool down = run.pfn + pages_of(run) == open.pfn;
	if (!(down || run.pfn == open.pfn + pages_of(open)) ||
	    run.index != open.index + pages_of(open) || run.order != open.order ||
	    (run.flags | FERRY_RUN_DESCENDING) != (open.flags | FERRY_RUN_DESCENDING) ||
	    run.count > max_count - open.count)
		return false;
	const bool descends = (run.flags | open.flags) & FERRY_RUN_DESCENDING;
	if (down ? !((open.flags & FERRY_RUN_DESCENDING || open.count == 1) &&
		     (run.flags & FERRY_RUN_DESCENDING || run.count == 1))
		 : descends)
		return false;
	// KHO preserves across nodes, but does not restore so.
	if (!same_node(run.pfn, open.pfn))
		return false;
	open.count += run.count;
	if (down) {
		open.pfn = run.pfn;
		open.flags |= FERRY_RUN_DESCENDING;
	}
	return true;
}

// The bits of a page frame in which the folios of a list differ.
constexpr unsigned long long place_bits(unsigned int order)
{
	return mask(32) << order & mask(FERRY_RUN_PFN_BITS);
}

bool is_list(const ferry_runs_block &block, unsigned int at)
{
	return block.version > 1 && decode(block.entry[at]).order & FERRY_RUN_LIST;
}

// A list; its order is that of a folio.
ferry_run list_of(const ferry_run_entry &head)
{
	ferry_run list = decode(head);
	list.order &= ~FERRY_RUN_LIST;
	return list;
}

const unsigned int *places_of(const ferry_run_entry &head)
{
	return reinterpret_cast<const unsigned int *>(&head + 1);
}

// A folio of a list, as a run.
ferry_run folio_of(const ferry_run &list, const unsigned int *places, unsigned int nth)
{
	return {
		.pfn = list.pfn + (static_cast<unsigned long long>(places[nth]) << list.order),
		.index = list.index + (static_cast<unsigned long long>(nth) << list.order),
		.count = 1,
		.order = list.order,
		.flags = list.flags,
	};
}

// The next runs of a block that are entries of their own, before `end` and up to a list;
// their number.
unsigned int decode_entries(const ferry_runs_block &block, unsigned int first, unsigned int end,
			    ferry_run *runs, unsigned int room)
{
	unsigned int nr = 0;
	for (; nr < room && first + nr < end && !is_list(block, first + nr); ++nr)
		runs[nr] = decode(block.entry[first + nr]);
	return nr;
}

// Whether a run that does not belong into a list begins here. There are more than
// short_run folios.
inline bool begins_long_run(const unsigned long long *pfn, unsigned long long size)
{
	const unsigned long long step = pfn[1] - pfn[0];
	if (step != size && step != -size) [[likely]]
		return false;
	for (unsigned int i = 1; i < short_run; ++i) {
		if (pfn[i + 1] - pfn[i] != step)
			return false;
	}
	return true;
}

// The longest run that folios of the same order and flags begin with.
ferry_run run_at(const ferry_folios &folios, unsigned int at)
{
	const unsigned long long size = 1ull << folios.order, *pfn = folios.pfn + at;
	ferry_run run{
		.pfn = *pfn,
		.index = folios.index + (static_cast<unsigned long long>(at) << folios.order),
		.count = 1,
		.order = folios.order,
		.flags = folios.flags,
	};
	const unsigned int most = std::min(folios.nr - at, max_count);
	if (most == 1)
		return run;
	const bool down = pfn[1] == *pfn - size;
	const unsigned long long step = down ? -size : size;
	while (run.count < most && pfn[run.count] == pfn[run.count - 1] + step)
		++run.count;
	while (run.count > 1 && !same_node(*pfn, pfn[run.count - 1] + size - 1))
		--run.count;
	if (down && run.count > 1) {
		run.pfn = pfn[run.count - 1];
		run.flags |= FERRY_RUN_DESCENDING;
	}
	return run;
}

ferry_run run_of(unsigned long long phys)
{
	return {
		.pfn = phys / LINUX_PAGE_SIZE,
		.index = 0,
		.count = 1,
		.order = 0,
		.flags = 0,
	};
}

// The entries of a block before `end`.
void unpreserve(const ferry_runs_block &block, unsigned int end)
{
	for (unsigned int at = 0; at < end;) {
		const ferry_run_entry &entry = block.entry[at];
		if (is_list(block, at)) {
			const ferry_run list = list_of(entry);
			linux_unpreserve_list(list.pfn, list.order, places_of(entry), list.count);
			at += FERRY_RUN_LIST_ENTRIES(list.count);
			continue;
		}
		ferry_run runs[LINUX_MAX_RUNS];
		unsigned int nr = decode_entries(block, at, end, runs, LINUX_MAX_RUNS);
		linux_unpreserve(runs, nr);
		at += nr;
	}
}

const ferry_runs_block *block_at(unsigned long long phys)
{
	return static_cast<const ferry_runs_block *>(linux_page_at(phys));
}

} // namespace

ferry_run decode(const ferry_run_entry &entry)
{
	return {
		.pfn = entry.where & mask(FERRY_RUN_PFN_BITS),
		.index = entry.what & mask(FERRY_RUN_INDEX_BITS),
		.count = static_cast<unsigned int>(entry.what >> FERRY_RUN_INDEX_BITS),
		.order = static_cast<unsigned short>(entry.where >> FERRY_RUN_PFN_BITS &
						     mask(FERRY_RUN_ORDER_BITS)),
		.flags = static_cast<unsigned short>(entry.where >>
						     (FERRY_RUN_PFN_BITS + FERRY_RUN_ORDER_BITS)),
	};
}

unsigned int checksum(const ferry_runs_block &block)
{
	ferry_runs_block header;
	memcpy(&header, &block, sizeof(header));
	header.crc = 0;
	unsigned int crc = ferry_crc32c(~0u, &header, sizeof(header));
	return ferry_crc32c(crc, block.entry, FERRY_RUNS_BLOCK_SIZE - sizeof(header));
}

} // namespace kho

int kho::preserve_page(const void *page)
{
	ferry_run run = run_of(linux_page_phys(page));
	return linux_preserve(&run, 1);
}

void kho::unpreserve_page(const void *page)
{
	ferry_run run = run_of(linux_page_phys(page));
	linux_unpreserve(&run, 1);
}

bool kho::is_preserved_page(unsigned long long phys)
{
	ferry_run run = run_of(phys);
	return phys % LINUX_PAGE_SIZE == 0 && linux_count_preserved(&run, 1);
}

bool kho::restore_page(unsigned long long phys)
{
	ferry_run run = run_of(phys);
	return linux_restore(&run, 1);
}

using namespace kho;

void ferry_runs::clear()
{
	while (first_) {
		ferry_runs_block *block = first_;
		unpreserve(*block, block == last_ ? preserved_ : block->nr);
		first_ = block->next ? static_cast<ferry_runs_block *>(linux_page_at(block->next))
				     : nullptr;
		unpreserve_page(block);
		linux_page_free(block);
	}
	owner_.pages -= told_pages_;
	owner_.runs -= told_runs_;
	owner_.metadata -= blocks_ * FERRY_RUNS_BLOCK_SIZE;
	last_ = nullptr;
	open_.reset();
	list_.head = nullptr;
	blocks_ = closed_runs_ = closed_pages_ = told_runs_ = told_pages_ = 0;
	preserved_ = 0;
}

Result<void> ferry_runs::append(const ferry_run &run)
{
	if (!well_formed(run) || !in_one_piece(run))
		return fail(Errno::Inval);
	if (list_.head) {
		if (continues_list(run)) {
			add_to_list(run);
			return {};
		}
		list_.head = nullptr;
	}
	if (open_) {
		if (extend(*open_, run) || begin_list(run))
			return {};
		if (!has_room()) [[unlikely]]
			TRY(add_block());
		write_open();
	}
	open_ = run;
	return {};
}

Result<void> ferry_runs::append(const ferry_folios &folios, unsigned int &done)
{
	for (done = 0; done < folios.nr;) {
		const ferry_run run = run_at(folios, done);
		TRY(append(run));
		done += run.count;
		if (list_.head)
			done += fill_list(folios.pfn + done, folios.nr - done);
	}
	return {};
}

// Makes a list of the open run and the one after it, if both are single folios.
bool ferry_runs::begin_list(const ferry_run &run)
{
	const unsigned long long differ = place_bits(run.order);
	if (open_->count != 1 || run.count != 1 || run.order != open_->order ||
	    run.flags != open_->flags || run.index != open_->index + pages_of(*open_) ||
	    (run.pfn ^ open_->pfn) & ~differ || !has_room(FERRY_RUN_LIST_ENTRIES(2)))
		return false;
	const ferry_run first = *open_;
	open_.reset();
	ferry_run head = first;
	head.pfn &= ~differ;
	head.count = 0;
	head.order |= FERRY_RUN_LIST;
	list_.head = &last_->entry[last_->nr];
	*list_.head = encode(head);
	list_.place = reinterpret_cast<unsigned int *>(list_.head + 1);
	list_.next = first;
	list_.next.pfn = head.pfn;
	list_.nr = 0;
	list_.room = (FERRY_RUNS_PER_BLOCK - last_->nr - 1) * 4;
	last_->version = FERRY_RUNS_VERSION;
	add_to_list(first);
	add_to_list(run);
	return true;
}

bool ferry_runs::continues_list(const ferry_run &run) const
{
	const ferry_run &next = list_.next;
	const unsigned long long same = ~place_bits(run.order);
	const unsigned long long last = run.pfn + pages_of(run) - (1ull << run.order);
	return run.count <= short_run && run.count <= list_.room - list_.nr &&
	       run.index == next.index && run.order == next.order &&
	       (run.flags & ~FERRY_RUN_DESCENDING) == next.flags &&
	       !((run.pfn ^ next.pfn) & same) && !((last ^ next.pfn) & same);
}

void ferry_runs::add_to_list(const ferry_run &run)
{
	unsigned long long pfn[short_run];
	for (unsigned int i = 0; i < run.count; ++i)
		pfn[i] = ferry_run_pfn(&run, i);
	fill_list(pfn, run.count);
}

// Adds the folios that come next in the file, up to one that does not belong into the
// list: it is too much, or no folio, or the first one of a longer run. Returns how many.
unsigned int ferry_runs::fill_list(const unsigned long long *pfn, unsigned int nr)
{
	const unsigned int order = list_.next.order;
	const unsigned long long size = 1ull << order, same = ~place_bits(order);
	unsigned int *place = list_.place + list_.nr;
	nr = static_cast<unsigned int>(std::min<unsigned long long>(
		std::min(nr, list_.room - list_.nr), (max_index - list_.next.index) >> order));
	unsigned int done = 0;
	for (; done < nr; ++done) {
		const unsigned long long at = pfn[done];
		if ((at ^ list_.next.pfn) & same || !at ||
		    (done + short_run < nr && begins_long_run(pfn + done, size)))
			break;
		place[done] = static_cast<unsigned int>(at >> order);
	}
	list_.nr += done;
	list_.next.index += static_cast<unsigned long long>(done) << order;
	list_.head->what += static_cast<unsigned long long>(done) << FERRY_RUN_INDEX_BITS;
	last_->nr = static_cast<unsigned short>(list_.head - last_->entry +
						FERRY_RUN_LIST_ENTRIES(list_.nr));
	closed_runs_ += done;
	closed_pages_ += static_cast<unsigned long long>(done) << order;
	return done;
}

// The owner's figures are everybody's, so they are not changed for each run.
void ferry_runs::tell_owner()
{
	owner_.runs += closed_runs_ - told_runs_;
	owner_.pages += closed_pages_ - told_pages_;
	told_runs_ = closed_runs_;
	told_pages_ = closed_pages_;
}

// Preserves what is written into the last block.
Result<void> ferry_runs::preserve_written()
{
	ferry_run runs[LINUX_MAX_RUNS];
	tell_owner();
	while (last_ && preserved_ < last_->nr) {
		const ferry_run_entry &entry = last_->entry[preserved_];
		if (is_list(*last_, preserved_)) {
			const ferry_run list = list_of(entry);
			TRY(ferry::check_status(linux_preserve_list(list.pfn, list.order,
								    places_of(entry), list.count)));
			preserved_ += FERRY_RUN_LIST_ENTRIES(list.count);
			continue;
		}
		unsigned int nr =
			decode_entries(*last_, preserved_, last_->nr, runs, LINUX_MAX_RUNS);
		TRY(ferry::check_status(linux_preserve(runs, nr)));
		preserved_ += nr;
	}
	return {};
}

// A new block behind the last one, which is full.
Result<void> ferry_runs::add_block()
{
	TRY(preserve_written());

	auto *block = static_cast<ferry_runs_block *>(linux_page_alloc());
	if (!block)
		return fail(Errno::NoMem);
	if (int err = preserve_page(block)) {
		linux_page_free(block);
		return fail(Errno(-err));
	}
	block->magic = FERRY_RUNS_MAGIC;
	block->version = FERRY_RUNS_OLDEST;
	block->seq = static_cast<unsigned int>(blocks_);
	if (last_) {
		// Full, and now also linked: this is its last change.
		last_->next = linux_page_phys(block);
		last_->crc = checksum(*last_);
	} else {
		first_ = block;
	}
	last_ = block;
	preserved_ = 0;
	++blocks_;
	owner_.metadata += FERRY_RUNS_BLOCK_SIZE;
	return {};
}

Result<ferry_bulk> ferry_runs::seal()
{
	// What is preserved does not change any more.
	list_.head = nullptr;
	if (open_) {
		// A block that is left empty by an error is filled by the next try.
		if (!has_room())
			TRY(add_block());
		write_open();
	}
	TRY(preserve_written());
	if (!closed_runs_)
		return ferry_bulk{};
	last_->crc = checksum(*last_);
	return ferry_bulk{
		.first = linux_page_phys(first_),
		.blocks = blocks_,
		.runs = closed_runs_,
		.pages = closed_pages_,
		.bytes = 0,
	};
}

ferry_usage ferry_runs::usage() const
{
	return {
		.pages = closed_pages_ + (open_ ? pages_of(*open_) : 0),
		.runs = closed_runs_ + (open_ ? 1 : 0),
		.metadata = blocks_ * FERRY_RUNS_BLOCK_SIZE,
		.blobs = 0,
	};
}

int ferry_runs::walk(int (*visit)(void *, const ferry_run *), void *ctx) const
{
	for (const ferry_runs_block *block = first_; block;
	     block = block->next ? block_at(block->next) : nullptr) {
		for (unsigned int at = 0; at < block->nr;) {
			const ferry_run_entry &entry = block->entry[at];
			if (!is_list(*block, at)) {
				const ferry_run run = decode(entry);
				if (int stop = visit(ctx, &run))
					return stop;
				++at;
				continue;
			}
			const ferry_run list = list_of(entry);
			for (unsigned int i = 0; i < list.count; ++i) {
				const ferry_run run = folio_of(list, places_of(entry), i);
				if (int stop = visit(ctx, &run))
					return stop;
			}
			at += FERRY_RUN_LIST_ENTRIES(list.count);
		}
	}
	return open_ ? visit(ctx, &*open_) : 0;
}

namespace kho {
namespace {

// Checks one block of a chain, as far as it can be told from the block alone.
const char *fault_of(unsigned long long phys, const ferry_bulk &ref, unsigned long long seq)
{
	if (!is_preserved_page(phys))
		return "not a preserved page";
	const ferry_runs_block *block = block_at(phys);
	if (block->magic != FERRY_RUNS_MAGIC)
		return "not a block of runs";
	if (block->version < FERRY_RUNS_OLDEST || block->version > FERRY_RUNS_VERSION)
		return "of an unknown version";
	if (!block->nr || block->nr > FERRY_RUNS_PER_BLOCK)
		return "with an impossible number of runs";
	if (block->crc != checksum(*block))
		return "with a wrong checksum";
	if (block->seq != seq)
		return "out of order";
	if ((block->next == 0) != (seq + 1 == ref.blocks))
		return "of a chain that is longer or shorter than recorded";
	return nullptr;
}

const char *const malformed_list = "with a malformed list";
const char *const malformed_run = "with a malformed run";
const char *const not_preserved = "with a run of pages that were not preserved";

// Checks a list, as well_formed() does each of its folios.
const char *fault_of_list(const ferry_run &list, const unsigned int *places)
{
	if (list.flags & FERRY_RUN_DESCENDING)
		return malformed_list;
	if (list.order > LINUX_MAX_ORDER || (list.pfn | list.index) & mask(list.order) ||
	    list.index + pages_of(list) > max_index)
		return malformed_run;
	const unsigned long long end = (max_pfn - list.pfn) >> list.order;
	for (unsigned int i = 0; i < list.count; ++i) {
		if (places[i] >= end || !(list.pfn | places[i]))
			return malformed_run;
	}
	if (linux_count_preserved_list(list.pfn, list.order, places, list.count) != list.count)
		return not_preserved;
	return nullptr;
}

// Checks the runs of a block, and counts them and their pages.
const char *fault_of_runs(const ferry_runs_block &block, ferry_bulk &seen)
{
	ferry_run runs[LINUX_MAX_RUNS];
	for (unsigned int at = 0; at < block.nr;) {
		if (is_list(block, at)) {
			const ferry_run list = list_of(block.entry[at]);
			const unsigned int entries = FERRY_RUN_LIST_ENTRIES(list.count);
			if (!list.count || entries > block.nr - at)
				return malformed_list;
			if (const char *fault = fault_of_list(list, places_of(block.entry[at])))
				return fault;
			seen.pages += pages_of(list);
			seen.runs += list.count;
			at += entries;
			continue;
		}
		const unsigned int nr = decode_entries(block, at, block.nr, runs, LINUX_MAX_RUNS);
		for (unsigned int i = 0; i < nr; ++i) {
			if (!well_formed(runs[i]))
				return malformed_run;
			seen.pages += pages_of(runs[i]);
		}
		if (linux_count_preserved(runs, nr) != nr)
			return not_preserved;
		seen.runs += nr;
		at += nr;
	}
	return nullptr;
}

// Checks a whole chain without changing anything.
Result<void> check_chain(const ferry_bulk &ref, const char *what)
{
	ferry_bulk seen{};
	unsigned long long phys = ref.first;
	for (; seen.blocks < ref.blocks; ++seen.blocks) {
		const char *fault = fault_of(phys, ref, seen.blocks);
		if (!fault)
			fault = fault_of_runs(*block_at(phys), seen);
		if (fault) {
			log_err("%s: block %llu of its runs, at %#llx, is one %s", what,
				seen.blocks, phys, fault);
			return fail(Errno::BadMsg);
		}
		phys = block_at(phys)->next;
	}
	if (phys || seen.runs != ref.runs || seen.pages != ref.pages) {
		log_err("%s: has %llu runs of %llu pages, not the recorded %llu of %llu", what,
			seen.runs, seen.pages, ref.runs, ref.pages);
		return fail(Errno::BadMsg);
	}
	return {};
}

} // namespace
} // namespace kho

Result<void> ferry_runs_in::check(const ferry_bulk &ref, const char *what)
{
	return check_chain(ref, what);
}

Result<ferry::Owned<ferry_runs_in>> ferry_runs_in::create(const ferry_bulk &ref, const char *what)
{
	TRY(check_chain(ref, what));
	return ferry::make<ferry_runs_in>(ref);
}

// From here on the blocks are ours. A run that names one of them finds it preserved
// no more, and is refused.
Result<void> ferry_runs_in::take_blocks()
{
	taken_ = true;
	const unsigned long long first = ref_.blocks ? ref_.first : 0;
	for (unsigned long long phys = first; phys; phys = block_at(phys)->next) {
		if (restore_page(phys))
			continue;
		log_err("the block of runs at %#llx was given to somebody else already", phys);
		for (unsigned long long mine = first; mine != phys;) {
			unsigned long long next = block_at(mine)->next;
			linux_release(mine / LINUX_PAGE_SIZE, 1, 0);
			mine = next;
		}
		ref_ = {};
		return fail(Errno::BadMsg);
	}
	block_ = first ? block_at(first) : nullptr;
	return {};
}

// Where the next run is, `nr` runs on: in this list or entry by entry.
void ferry_runs_in::advance(unsigned int nr)
{
	if (is_list(*block_, entry_)) {
		const unsigned int count = list_of(block_->entry[entry_]).count;
		folio_ += nr;
		if (folio_ == count) {
			entry_ += FERRY_RUN_LIST_ENTRIES(count);
			folio_ = 0;
		}
	} else {
		entry_ += nr;
	}
	if (entry_ == block_->nr) {
		block_ = block_->next ? block_at(block_->next) : nullptr;
		entry_ = 0;
	}
}

// As many runs as are of one list, or entries without one between them.
unsigned int ferry_runs_in::restore(ferry_run *runs, unsigned int room)
{
	if (!is_list(*block_, entry_)) {
		const unsigned int nr =
			decode_entries(*block_, entry_, block_->nr, runs,
				       std::min<unsigned int>(room, LINUX_MAX_RUNS));
		return linux_restore(runs, nr);
	}
	const ferry_run list = list_of(block_->entry[entry_]);
	const unsigned int *places = places_of(block_->entry[entry_]);
	runs[0] = folio_of(list, places, folio_);
	const unsigned int nr = linux_restore_list(list.pfn, list.order, places + folio_,
						   std::min(room, list.count - folio_));
	for (unsigned int i = 1; i < nr; ++i)
		runs[i] = folio_of(list, places, folio_ + i);
	return nr;
}

Result<unsigned int> ferry_runs_in::next(ferry_run *runs, unsigned int room)
{
	if (!taken_)
		TRY(take_blocks());
	if (!block_)
		return 0u;
	const unsigned int nr = restore(runs, room);
	if (nr) {
		advance(nr);
		return nr;
	}
	// Two runs of one chain, or of two, may claim the same page.
	log_err("pages from %#llx were given to somebody else already", runs[0].pfn);
	advance(1);
	return fail(Errno::Io);
}

ferry_runs_in::~ferry_runs_in()
{
	// Nothing to take, or not to be taken, is no loss.
	if (!taken_)
		static_cast<void>(take_blocks().has_value());
	while (block_) {
		ferry_run runs[LINUX_MAX_RUNS];
		const unsigned int nr = next(runs, LINUX_MAX_RUNS).value_or(0);
		for (unsigned int i = 0; i < nr; ++i)
			linux_release(runs[i].pfn, runs[i].count, runs[i].order);
	}
	unsigned long long phys = ref_.blocks ? ref_.first : 0;
	while (phys) {
		unsigned long long next = block_at(phys)->next;
		linux_release(phys / LINUX_PAGE_SIZE, 1, 0);
		phys = next;
	}
}
