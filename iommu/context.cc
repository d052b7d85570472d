// SPDX-License-Identifier: GPL-2.0
#include "iommu/context.hh"

#include <ferry/log.hh>

#include <algorithm>

using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Owned;
using ferry::Result;

namespace iommu {

namespace {

constexpr unsigned int max_tables = 1024; // as the record says

template <class T> Result<T *> allocate(unsigned int nr)
{
	auto *array = static_cast<T *>(ferry_alloc(std::max(nr, 1u) * sizeof(T)));
	if (!array)
		return fail(Errno::NoMem);
	return array;
}

// Preserves each page of a table that it is asked for.
class Keeper {
    public:
	explicit Keeper(ferry_runs *runs) : runs_{runs}
	{
	}
	Result<const unsigned long long *> page(unsigned long long phys)
	{
		// The list is not that of a file: the index only counts.
		const ferry_run run{phys / page_size, next_++, 1, 0, 0};
		TRY(check_status(ferry_runs_append(runs_, &run)));
		return linux_table_page(phys);
	}

    private:
	ferry_runs *runs_;
	unsigned long long next_ = 0;
};

} // namespace

// Tells how much of what devices reach was gone through: not at every page.
class Context::Progress {
    public:
	Progress(ferry_luo_file *self, unsigned long long total) : self_{self}, total_{total}
	{
	}
	void add(unsigned long long bytes)
	{
		done_ += bytes;
		if (done_ - told_ < step)
			return;
		told_ = done_;
		ferry_luo_progress(self_, done_, std::max(done_, total_));
	}

    private:
	static constexpr unsigned long long step = 64ull << 20;
	ferry_luo_file *self_;
	unsigned long long total_, done_ = 0, told_ = 0;
};

namespace {

// Is this part of a file what is at this place in memory?
Result<void> check_pages(const linux_mapping &mapping, Range range)
{
	unsigned long long index = (mapping.start + (range.iova - mapping.iova)) / page_size;
	while (range.length) {
		unsigned long long pfn, count;
		int err = linux_file_page(mapping.file, index, &pfn, &count);
		if (err || pfn != range.phys / page_size) {
			log_err("IOAS %u: devices reach memory at IOVA %#llx that is not that of "
				"the file which was mapped there",
				mapping.ioas, range.iova);
			return fail(err == -int(Errno::OpNotSupp) ? Errno::OpNotSupp
								  : Errno::Inval);
		}
		count = std::min(count, range.length / page_size);
		index += count;
		range.iova += count * page_size;
		range.phys += count * page_size;
		range.length -= count * page_size;
	}
	return {};
}

} // namespace

Context::~Context()
{
	for (unsigned int i = 0; i < nr_tables_; ++i) {
		if (tables_[i].pages)
			ferry_runs_destroy(tables_[i].pages);
	}
	ferry_free(tables_);
	ferry_free(mappings_);
	if (frozen_)
		linux_iommufd_thaw(file_);
}

Result<Owned<Context>> Context::preserve(const ferry_luo_args &args, ferry_owner *owner)
{
	auto context = TRY(ferry::make<Context>(args.file));
	int err = linux_iommufd_freeze(args.file);
	if (err == -int(Errno::OpNotSupp))
		log_err("an iommufd cannot be carried: it has more than devices, IOASs and HWPTs");
	TRY(check_status(err));
	context->frozen_ = true;
	TRY(context->find_mappings(args.self));
	TRY(context->find_tables(owner, args.self));
	if (context->settled_)
		TRY(context->check_tables());
	context->tell_usage(args.self);
	return context;
}

void Context::tell_usage(ferry_luo_file *self) const
{
	ferry_usage all{};
	for (unsigned int i = 0; i < nr_tables_; ++i) {
		ferry_usage usage;
		ferry_runs_usage(tables_[i].pages, &usage);
		all.pages += usage.pages;
		all.runs += usage.runs;
		all.metadata += usage.metadata;
	}
	ferry_luo_usage(self, &all);
}

// ---- what is mapped ----

Result<void> Context::find_mappings(ferry_luo_file *self)
{
	int err = linux_iommufd_mappings(
		file_,
		[](void *nr, const linux_mapping *) {
			++*static_cast<unsigned int *>(nr);
			return 0;
		},
		&room_for_mappings_);
	TRY(check_status(err));
	mappings_ = TRY(allocate<linux_mapping>(room_for_mappings_));

	struct Visit {
		Context *context;
		ferry_luo_file *self;
	} visit{this, self};
	err = linux_iommufd_mappings(
		file_,
		[](void *ctx, const linux_mapping *mapping) {
			auto *to = static_cast<Visit *>(ctx);
			return ferry::to_errno(to->context->add_mapping(*mapping, to->self));
		},
		&visit);
	return check_status(err);
}

Result<void> Context::add_mapping(const linux_mapping &mapping, ferry_luo_file *self)
{
	if (!mapping.file) {
		log_err("IOAS %u: what is mapped at IOVA %#llx is not of a file, and cannot be "
			"carried",
			mapping.ioas, mapping.iova);
		return fail(Errno::OpNotSupp);
	}
	if ((mapping.iova | mapping.start | mapping.length) % page_size) {
		log_err("IOAS %u: the mapping at IOVA %#llx is not of whole pages", mapping.ioas,
			mapping.iova);
		return fail(Errno::OpNotSupp);
	}
	// Its owner changes his address space meanwhile.
	if (nr_mappings_ == room_for_mappings_)
		return fail(Errno::Busy);
	TRY(check_status(ferry_luo_depend(self, mapping.file)));
	// Many in a row are of the same file.
	if (settled_ && (!nr_mappings_ || mappings_[nr_mappings_ - 1].file != mapping.file))
		settled_ = ferry_luo_preserved(self, mapping.file);
	mappings_[nr_mappings_++] = mapping;
	return {};
}

// ---- page tables ----

Result<void> Context::find_tables(ferry_owner *owner, ferry_luo_file *self)
{
	int err = linux_iommufd_tables(
		file_,
		[](void *nr, unsigned int, const linux_table *) {
			return ++*static_cast<unsigned int *>(nr) > max_tables ? -int(Errno::TooBig)
									       : 0;
		},
		&room_for_tables_);
	if (err == -int(Errno::OpNotSupp))
		log_err("an iommufd cannot be carried: an HWPT is not of VT-d's second stage");
	TRY(check_status(err));
	tables_ = TRY(allocate<Table>(room_for_tables_));
	err = linux_iommufd_tables(
		file_,
		[](void *ctx, unsigned int ioas, const linux_table *table) {
			auto *to = static_cast<Context *>(ctx);
			if (to->nr_tables_ == to->room_for_tables_)
				return -int(Errno::Busy);
			to->tables_[to->nr_tables_++] = {*table, ioas, nullptr};
			return 0;
		},
		this);
	TRY(check_status(err));
	Progress progress{self, mapped()};
	for (unsigned int i = 0; i < nr_tables_; ++i)
		TRY(keep_table(tables_[i], owner, progress));
	return {};
}

// Bytes that all page tables lead to together, if each has all of its IOAS.
unsigned long long Context::mapped() const
{
	unsigned long long bytes = 0;
	for (unsigned int i = 0; i < nr_mappings_;) {
		const unsigned int ioas = mappings_[i].ioas;
		unsigned long long of_ioas = 0;
		for (; i < nr_mappings_ && mappings_[i].ioas == ioas; ++i)
			of_ioas += mappings_[i].length;
		bytes += of_ioas * std::count_if(tables_, tables_ + nr_tables_,
						 [&](const Table &t) { return t.ioas == ioas; });
	}
	return bytes;
}

Result<void> Context::keep_table(Table &table, ferry_owner *owner, Progress &progress)
{
	table.pages = ferry_runs_create(owner);
	if (!table.pages)
		return fail(Errno::NoMem);
	Keeper keeper{table.pages};
	Leaves<Keeper> leaves{table.where, keeper};
	for (Range leaf; TRY(leaves.next(leaf));)
		progress.add(leaf.length);
	ferry_bulk unused;
	return check_status(ferry_runs_seal(table.pages, &unused));
}

// ---- what the page tables lead to ----

Result<void> Context::freeze()
{
	return settled_ ? Result<void>{} : check_tables();
}

Result<void> Context::check_tables() const
{
	for (unsigned int i = 0; i < nr_tables_; ++i)
		TRY(check(tables_[i]));
	return {};
}

// Does the page table lead to nothing but what is mapped?
Result<void> Context::check(const Table &table) const
{
	Trusted pages;
	Ranges<Trusted> ranges{table.where, pages};
	unsigned int at = 0;
	for (Range range; TRY(ranges.next(range));) {
		while (range.length) {
			while (at < nr_mappings_ &&
			       (mappings_[at].ioas < table.ioas ||
				(mappings_[at].ioas == table.ioas &&
				 mappings_[at].iova + mappings_[at].length <= range.iova)))
				++at;
			const linux_mapping *mapping = &mappings_[at];
			if (at == nr_mappings_ || mapping->ioas != table.ioas ||
			    mapping->iova > range.iova) {
				log_err("IOAS %u: IOVA %#llx leads to memory, but is not mapped",
					table.ioas, range.iova);
				return fail(Errno::Inval);
			}
			Range piece = range;
			piece.length = std::min(range.length,
						mapping->iova + mapping->length - range.iova);
			TRY(check_pages(*mapping, piece));
			range.iova += piece.length;
			range.phys += piece.length;
			range.length -= piece.length;
		}
	}
	return {};
}

// ---- save ----

Result<void> Context::save(ferry_writer *writer)
{
	const ferry_iommufd record{.hwpts = nr_tables_};
	TRY(check_status(ferry_put(writer, &ferry_iommufd_record, &record)));
	for (unsigned int i = 0; i < nr_tables_; ++i) {
		const Table &table = tables_[i];
		const ferry_hwpt hwpt{
			.top = table.where.top,
			.levels = table.where.levels,
			.format = FERRY_HWPT_VTD_SECOND_STAGE,
			.ioas = table.ioas,
		};
		ferry_bulk pages;
		char name[16];
		ferry_format(name, sizeof(name), "hwpt@%x", i);
		TRY(check_status(ferry_runs_seal(table.pages, &pages)));
		TRY(check_status(ferry_begin(writer, name)));
		TRY(check_status(ferry_put(writer, &ferry_hwpt_record, &hwpt)));
		TRY(check_status(ferry_begin(writer, "tables")));
		TRY(check_status(ferry_put(writer, &ferry_bulk_record, &pages)));
		TRY(check_status(ferry_end(writer)));
		TRY(check_status(ferry_end(writer)));
	}
	return {};
}

} // namespace iommu
