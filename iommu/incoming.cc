// SPDX-License-Identifier: GPL-2.0
#include "iommu/incoming.hh"

#include <ferry/checked.hh>
#include <ferry/lock.hh>
#include <ferry/log.hh>
#include <ferry/scope.hh>

#include <algorithm>

#include "iommu/jump.hh"

using ferry::check;
using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Owned;
using ferry::Result;

namespace iommu {

namespace {

/*
 * Locks, outermost first: the mutex of a session (finish, retrieve) or that of an
 * IOMMU group (compare); then this one, under which nothing else is taken.
 */
using Known = ferry::Locked<ferry::List<OldTable, OfAll>, "iommu.incoming">;
constinit Known *known;

} // namespace

Result<void> incoming_create()
{
	known = TRY(ferry::make<Known>()).release();
	return {};
}

void incoming_destroy()
{
	ferry::destroy(known);
	known = nullptr;
}

// ---- pages ----

OldPages::~OldPages()
{
	for (unsigned long long i = 0; i < nr_runs_ && !abandoned_; ++i)
		ferry_run_free(&runs_[i]);
	ferry_free(runs_);
}

Result<void> OldPages::take(ferry_runs_in *list, unsigned long long runs)
{
	const auto bytes = TRY(ferry::mul<ferry_size>(runs, sizeof(ferry_run)));
	runs_ = static_cast<ferry_run *>(ferry_alloc(bytes));
	if (!runs_)
		return fail(Errno::NoMem);
	while (nr_runs_ < runs) {
		const auto room = static_cast<unsigned int>(
			std::min<unsigned long long>(runs - nr_runs_, 512));
		const unsigned int got = TRY(check(ferry_runs_next(list, runs_ + nr_runs_, room)));
		if (!got)
			break;
		for (const unsigned long long end = nr_runs_ + got; nr_runs_ < end; ++nr_runs_)
			nr_pages_ += runs_[nr_runs_].count;
	}
	if (std::any_of(runs_, runs_ + nr_runs_, [](const ferry_run &run) { return run.order; }))
		return fail(Errno::BadMsg);
	// kho.ko gives each page once: they do not overlap.
	std::sort(runs_, runs_ + nr_runs_,
		  [](const ferry_run &a, const ferry_run &b) { return a.pfn < b.pfn; });
	return {};
}

bool OldPages::has(unsigned long long pfn) const
{
	const ferry_run *end = runs_ + nr_runs_;
	const ferry_run *run =
		std::partition_point(runs_, runs_ + nr_runs_, [pfn](const ferry_run &each) {
			return each.pfn + each.count <= pfn;
		});
	return run != end && run->pfn <= pfn;
}

Result<const unsigned long long *> OldPages::page(unsigned long long phys)
{
	if (!left_ || !has(phys / page_size))
		return fail(Errno::BadMsg);
	--left_;
	return linux_table_page(phys);
}

// ---- tables ----

namespace {

ferry_node hwpt_node(ferry_node state, unsigned int nr)
{
	char name[16];
	ferry_format(name, sizeof(name), "hwpt@%x", nr);
	return ferry_child(state, name);
}

} // namespace

OldTables::~OldTables()
{
	while (OldTable *table = tables_.front()) {
		{
			auto all = known->lock();
			all->remove(*table);
		}
		tables_.remove(*table);
		free_jump_pasids(table->where.top);
		if (table_in_use(table->where.top)) {
			log_err("a device still goes by the page table at %#llx, whose memory "
				"stays "
				"reserved",
				table->where.top);
			table->pages.abandon();
		}
		ferry::destroy(table);
	}
}

Result<Owned<OldTables>> OldTables::take(ferry_node state, bool &taken)
{
	ferry_iommufd record;
	TRY(check_status(ferry_get(state, &ferry_iommufd_record, &record)));
	auto tables = TRY(ferry::make<OldTables>());
	for (unsigned int i = 0; i < record.hwpts; ++i)
		TRY(tables->add(hwpt_node(state, i), taken));
	return tables;
}

Result<void> OldTables::add(ferry_node node, bool &taken)
{
	ferry_hwpt record;
	TRY(check_status(ferry_get(node, &ferry_hwpt_record, &record)));
	if (record.top % page_size) {
		log_err("the page table at %#llx, of IOAS %u, makes no sense", record.top,
			record.ioas);
		return fail(Errno::BadMsg);
	}
	OldTable *table = TRY(ferry::make<OldTable>()).release();
	table->where = {record.top, record.levels};
	tables_.push_back(*table);
	{
		auto all = known->lock();
		all->push_back(*table);
	}

	ferry_bulk bulk;
	TRY(check_status(ferry_get(ferry_child(node, "tables"), &ferry_bulk_record, &bulk)));
	ferry_runs_in *pages;
	TRY(check_status(ferry_runs_open(&bulk, "hwpt", &pages)));
	taken = true;
	ferry::Undo close{[pages] { ferry_runs_close(pages); }};
	// As many runs as that: ferry_runs_open() has counted.
	auto result = table->pages.take(pages, bulk.runs);
	if (!result.has_value())
		log_err("the page table at %#llx, of IOAS %u: its pages cannot be taken (%d)",
			record.top, record.ioas, ferry::to_errno(result));
	return result;
}

void drop_tables(ferry_node state)
{
	bool taken = false;
	auto tables = OldTables::take(state, taken);
	if (!tables.has_value())
		log_err("page tables of an iommufd that nobody retrieved are lost (%d)",
			ferry::to_errno(tables));
}

// ---- compare ----

namespace {

const char *rights_of(const Range &range)
{
	constexpr const char *names[] = {"-", "r", "w", "rw"};
	return names[range.rights & (may_read | may_write)];
}

Result<void> compare(OldTable &old, const linux_table &now)
{
	Trusted new_pages;
	old.pages.begin();
	Ranges<OldPages> old_ranges{old.where, old.pages};
	Ranges<Trusted> new_ranges{now, new_pages};
	for (;;) {
		Range was{}, is{};
		auto more = old_ranges.next(was);
		if (!more.has_value()) {
			log_err("the page table at %#llx of the last kernel is damaged",
				old.where.top);
			return fail(more.error());
		}
		if (TRY(new_ranges.next(is)) != *more || was != is) {
			log_err("the translations differ: IOVA %#llx, %#llx bytes to %#llx (%s) "
				"became "
				"IOVA %#llx, %#llx bytes to %#llx (%s)",
				was.iova, was.length, was.phys, rights_of(was), is.iova, is.length,
				is.phys, rights_of(is));
			return fail(Errno::Inval);
		}
		if (!*more)
			return {};
	}
}

} // namespace

Result<void> compare(const linux_table &old, const linux_table &now)
{
	auto all = known->lock();
	for (OldTable &table : *all) {
		if (table.where.top == old.top && table.where.levels == old.levels)
			return compare(table, now);
	}
	log_err("the page table at %#llx is of no iommufd that was retrieved", old.top);
	return fail(Errno::NoEnt);
}

} // namespace iommu
