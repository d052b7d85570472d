// SPDX-License-Identifier: GPL-2.0
#include "memfd/hugetlb.hh"

#include <ferry/handler.hh>
#include <ferry/log.hh>
#include <ferry/scope.hh>

#include <algorithm>
#include <utility>

using ferry::check;
using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Owned;
using ferry::Result;

namespace memfd::hugetlb {

namespace {

constexpr unsigned long long most_bytes = FERRY_HUGETLB_MAX_RANGES * sizeof(ferry_hugetlb_range);

static_assert(sizeof(Extent) == sizeof(ferry_hugetlb_range));

} // namespace

// ---- preserve ----

Hugetlb::Hugetlb(file *its_file, Owned<Memfd> memfd, ferry_owner *owner)
	: file_{its_file}, memfd_{std::move(memfd)}, owner_{owner}
{
}

Hugetlb::~Hugetlb()
{
	drop_reserved();
	tell(false);
}

Result<Owned<Hugetlb>> Hugetlb::preserve(const ferry_luo_args &args, ferry_owner *owner)
{
	auto memfd = TRY(Memfd::preserve(args, owner));
	auto hugetlb = TRY(ferry::make<Hugetlb>(args.file, std::move(memfd), owner));
	TRY(check_status(hugetlb->tell(true)));
	TRY(hugetlb->save_reserved());
	return hugetlb;
}

// Tells the next kernel's boot of all folios that it has not been told of; or that
// those it was told of do not come.
int Hugetlb::tell(bool come)
{
	struct Walk {
		bool come;
		unsigned long long known, seen = 0;
	} walk{come, told_};
	auto visit = [](void *ctx, const ferry_run *run) {
		auto &at = *static_cast<Walk *>(ctx);
		ferry_run part = *run;
		at.seen += run->count;
		if (at.come) {
			// The order of the folios is that in which they were recorded.
			if (at.seen <= at.known)
				return 0;
			part.count = static_cast<unsigned int>(
				std::min<unsigned long long>(at.seen - at.known, run->count));
			if (int err = linux_hugetlb_tell(&part, true))
				return err;
			at.known = at.seen;
			return 0;
		}
		const unsigned long long before = at.seen - run->count;
		if (before >= at.known)
			return 1;
		part.count = static_cast<unsigned int>(
			std::min<unsigned long long>(at.known - before, run->count));
		return linux_hugetlb_tell(&part, false);
	};
	int err = memfd_->walk(visit, &walk);
	told_ = come ? walk.known : 0;
	return err;
}

void Hugetlb::drop_reserved()
{
	if (blob_)
		ferry_blob_destroy(std::exchange(blob_, nullptr));
	ref_ = {};
	reserved_ = {};
}

// What the file has a right to, below its size.
Result<Owned<ferry::Extents>> Hugetlb::find_reserved() const
{
	auto ranges = TRY(ferry::make<ferry::Extents>());
	const unsigned long long end = memfd_->size() / 4096;
	linux_extent *found = nullptr;
	ferry::Undo free{[&found] { ferry_free(found); }};
	unsigned long room = 0, nr;
	while ((nr = linux_hugetlb_reserved(file_, found, room)) > room) {
		// More may come while there is no lock.
		room = nr + nr / 8;
		ferry_free(std::exchange(found, nullptr));
		found = static_cast<linux_extent *>(ferry_alloc(room * sizeof(*found)));
		if (!found)
			return fail(Errno::NoMem);
	}
	TRY(ranges->reserve(nr));
	for (unsigned long i = 0; i < nr && found[i].first < end; ++i)
		ranges->add({found[i].first, std::min(found[i].end, end)});
	ranges->settle();
	return ranges;
}

// Writes down what the file has a right to, if it is not what is written already.
Result<void> Hugetlb::save_reserved()
{
	auto found = TRY(find_reserved());
	const ferry::Extents &ranges = *found;
	if (reserved_ && reserved_->size() == ranges.size() &&
	    (!ranges.size() ||
	     !memcmp(&ranges[0], &(*reserved_)[0], ranges.size() * sizeof(ranges[0]))))
		return {};
	if (ranges.size() > FERRY_HUGETLB_MAX_RANGES) {
		log_err("a memfd of hugetlb has %zu ranges of reserved pages; at most %u can be "
			"carried",
			ranges.size(), FERRY_HUGETLB_MAX_RANGES);
		return fail(Errno::TooBig);
	}
	ferry_blob *blob = nullptr;
	ferry_bulk ref{};
	if (ranges.size())
		TRY(check_status(ferry_blob_save(owner_, &ranges[0],
						 ranges.size() * sizeof(ranges[0]), &ref, &blob)));
	drop_reserved();
	reserved_ = std::move(found);
	blob_ = blob;
	ref_ = ref;
	return {};
}

// ---- freeze, save ----

Result<void> Hugetlb::freeze()
{
	TRY(memfd_->freeze());
	ferry::Undo unfreeze{[this] { memfd_->unfreeze(); }};
	TRY(check_status(tell(true)));
	TRY(save_reserved());
	unfreeze.dismiss();
	return {};
}

void Hugetlb::unfreeze()
{
	memfd_->unfreeze();
}

Result<void> Hugetlb::save(ferry_writer *writer)
{
	linux_shmem_attrs attrs;
	linux_shmem_look(file_, &attrs);
	const ferry_hugetlb record{
		.size = attrs.size,
		.pos = attrs.pos,
		.seals = attrs.seals,
		.mode = attrs.mode,
		.order = linux_hugetlb_order(file_),
	};
	TRY(check_status(ferry_put(writer, &ferry_hugetlb_record, &record)));
	TRY(memfd_->save_pages(writer));
	if (!blob_)
		return {};
	TRY(check_status(ferry_begin(writer, "reserved")));
	TRY(check_status(ferry_put(writer, &ferry_bulk_record, &ref_)));
	return check_status(ferry_end(writer));
}

// ---- retrieve ----

namespace {

constinit ferry_owner *the_owner;

// What `priv` of an incoming file points to once its pages were taken.
constinit char pages_taken;

void give_to_pool(const ferry_run &run)
{
	if (unsigned int lost = linux_hugetlb_free(&run))
		log_err("there is no pool for %u pages of order %u", lost, run.order);
}

// The pages of a file that comes; those that nobody takes become free ones of the
// pool. Only hugetlb knows how to free a folio of 1 GiB, so none is left to kho.ko.
class Pages {
    public:
	explicit Pages(ferry_runs_in *in) : in_{in}
	{
	}
	Pages(const Pages &) = delete;
	Pages &operator=(const Pages &) = delete;
	~Pages()
	{
		if (!in_)
			return;
		ferry_run run;
		for (;;) {
			const auto more = next(run);
			if (more.has_value() && !*more)
				break;
			// A run that is lost is not the end.
			if (more.has_value())
				give_to_pool(run);
		}
		ferry_runs_close(in_);
	}

	static Result<Owned<Pages>> open(ferry_node state)
	{
		ferry_bulk bulk;
		TRY(check_status(
			ferry_get(ferry_child(state, "pages"), &ferry_bulk_record, &bulk)));
		ferry_runs_in *in;
		TRY(check_status(ferry_runs_open(&bulk, "memfd of hugetlb", &in)));
		auto pages = ferry::make<Pages>(in);
		if (!pages.has_value())
			ferry_runs_leave(in);
		return pages;
	}

	Result<bool> next(ferry_run &run)
	{
		if (at_ == nr_) {
			at_ = nr_ = 0;
			nr_ = TRY(check(ferry_runs_next(in_, ahead_, std::size(ahead_))));
			if (!nr_)
				return false;
		}
		run = ahead_[at_++];
		return true;
	}
	// Everything stays for another open(). Not after next().
	void leave()
	{
		ferry_runs_leave(std::exchange(in_, nullptr));
	}

    private:
	ferry_runs_in *in_;
	// Runs that were taken, and wait for next().
	ferry_run ahead_[32];
	unsigned int at_ = 0, nr_ = 0;
};

// Of a run that the file cannot take; null if it can.
const char *fault_of(const ferry_run &run, const ferry_hugetlb &record)
{
	const unsigned long long pages = static_cast<unsigned long long>(run.count) << run.order;
	if (run.order != record.order)
		return "has folios of another size";
	if (run.index & ((1ull << run.order) - 1))
		return "is not aligned in the file";
	if (run.flags & ~FERRY_RUN_DESCENDING)
		return "has unknown flags";
	if (run.index + pages > record.size / 4096)
		return "is beyond the end of the file";
	return nullptr;
}

// A blob of ranges; empty where there is none.
class Ranges {
    public:
	Ranges() = default;
	Ranges(const Ranges &) = delete;
	Ranges &operator=(const Ranges &) = delete;
	~Ranges()
	{
		ferry_free(range_);
	}

	// Errno::NoMem: it can be tried again.
	Result<void> load(ferry_node state, const ferry_hugetlb &record)
	{
		const ferry_node node = ferry_child(state, "reserved");
		if (node.offset < 0)
			return {};
		ferry_bulk bulk;
		TRY(check_status(ferry_get(node, &ferry_bulk_record, &bulk)));
		void *data;
		TRY(check_status(ferry_blob_load(&bulk, "reserved pages", most_bytes, &data)));
		range_ = static_cast<const ferry_hugetlb_range *>(data);
		nr_ = bulk.bytes / sizeof(*range_);
		if (bulk.bytes % sizeof(*range_) || !in_order(record)) {
			log_err("a memfd of hugetlb: the ranges of its reserved pages are not in "
				"order");
			return fail(Errno::BadMsg);
		}
		return {};
	}

	void reserve(struct file *file) const
	{
		for (std::size_t i = 0; i < nr_; ++i) {
			if (int err = linux_hugetlb_reserve(file, range_[i].first, range_[i].end))
				log_warn("a memfd of hugetlb: there are too few free pages in the "
					 "pool for what was reserved of %llu to %llu (%d)",
					 range_[i].first, range_[i].end, err);
		}
	}

    private:
	bool in_order(const ferry_hugetlb &record) const
	{
		unsigned long long last = 0;
		for (std::size_t i = 0; i < nr_; ++i) {
			const auto &[first, end] = range_[i];
			if ((i && first <= last) || first >= end || end > record.size / 4096 ||
			    (first | end) & ((1ull << record.order) - 1))
				return false;
			last = end;
		}
		return true;
	}

	const ferry_hugetlb_range *range_ = nullptr;
	std::size_t nr_ = 0;
};

Result<ferry_hugetlb> record_of(ferry_node state)
{
	ferry_hugetlb record;
	TRY(check_status(ferry_get(state, &ferry_hugetlb_record, &record)));
	if (record.size & ((4096ull << record.order) - 1)) {
		log_err("a memfd of hugetlb: %llu bytes are no number of pages of order %u",
			record.size, record.order);
		return fail(Errno::BadMsg);
	}
	return record;
}

Result<void> fill(struct file *file, Pages &pages, const ferry_hugetlb &record,
		  ferry_luo_file *self)
{
	unsigned long long done = 0;
	ferry_run run;
	while (TRY(pages.next(run))) {
		if (const char *fault = fault_of(run, record)) {
			log_err("a memfd of hugetlb, of %llu bytes: the run of %u folios at page "
				"%llu %s",
				record.size, run.count, run.index, fault);
			give_to_pool(run);
			return fail(Errno::BadMsg);
		}
		if (int err = linux_hugetlb_insert(file, &run)) {
			log_err("a memfd of hugetlb, of %llu bytes: a page cannot be put into it "
				"(%d)",
				record.size, err);
			return fail(Errno(-err));
		}
		done += static_cast<unsigned long long>(run.count) << run.order;
		ferry_luo_progress(self, done * 4096, 0);
	}
	return {};
}

// The list of what the file had reserved, if nobody took it.
void give_up_reserved(ferry_node state)
{
	const ferry_node node = ferry_child(state, "reserved");
	ferry_bulk bulk;
	ferry_runs_in *blob;
	if (node.offset >= 0 && !ferry_get(node, &ferry_bulk_record, &bulk) &&
	    !ferry_runs_open(&bulk, "reserved pages", &blob))
		ferry_runs_close(blob);
}

Result<struct file *> retrieve(ferry_node state, bool &taken, ferry_luo_file *self)
{
	auto pages = TRY(Pages::open(state));
	taken = true;
	auto read = record_of(state);
	if (!read.has_value()) {
		give_up_reserved(state);
		return fail(read.error());
	}
	const ferry_hugetlb record = *read;
	const linux_shmem_attrs attrs{
		.size = record.size,
		.pos = record.pos,
		.seals = record.seals,
		.mode = record.mode,
	};
	struct file *file;
	auto result = check_status(linux_hugetlb_create(&attrs, record.order, &file));
	Ranges reserved;
	if (result.has_value()) {
		result = reserved.load(state, record);
		if (!result.has_value())
			linux_shmem_put(file);
	} else if (result.error() != Errno::NoMem) {
		give_up_reserved(state);
	}
	if (!result.has_value()) {
		if (result.error() == Errno::NoMem) {
			taken = false;
			pages->leave();
		}
		return fail(result.error());
	}
	result = fill(file, *pages, record, self);
	if (!result.has_value()) {
		linux_shmem_put(file);
		return fail(result.error());
	}
	reserved.reserve(file);
	return file;
}

// ---- the handler ----

using Outgoing = ferry::Outgoing<Hugetlb, the_owner>;

int retrieve(ferry_luo_args *args)
{
	bool taken = false;
	auto file = retrieve(args->state, taken, args->self);
	if (file.has_value())
		args->file = *file;
	args->priv = taken ? &pages_taken : nullptr;
	return ferry::to_errno(file);
}

void finish(ferry_luo_args *args)
{
	if (args->priv == &pages_taken)
		return;
	// Closing them gives them to the pool.
	auto pages = Pages::open(args->state);
	if (!pages.has_value())
		log_err("the pages of a memfd of hugetlb that nobody retrieved are lost (%d)",
			ferry::to_errno(pages));
	give_up_reserved(args->state);
}

constexpr ferry_luo_ops ops{
	.can_preserve = linux_hugetlb_is,
	.id = linux_shmem_id,
	.preserve = Outgoing::preserve,
	.unpreserve = Outgoing::unpreserve,
	.freeze = Outgoing::freeze,
	.unfreeze = Outgoing::unfreeze,
	.save = Outgoing::save,
	.prepare = nullptr,
	.retrieve = retrieve,
	.can_finish = nullptr,
	.finish = finish,
};

constinit ferry_luo_handler handler{
	.compatible = FERRY_HUGETLB_COMPATIBLE,
	.module = nullptr,
	.ops = &ops,
};

} // namespace

Result<void> begin(ferry_owner *owner)
{
	the_owner = owner;
	handler.module = linux_this_module();
	return check_status(ferry_luo_register(&handler));
}

void end()
{
	ferry_luo_unregister(&handler);
}

} // namespace memfd::hugetlb
