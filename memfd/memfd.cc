// SPDX-License-Identifier: GPL-2.0
#include "memfd/memfd.hh"

#include "memfd/hugetlb.hh"

#include <ferry/handler.hh>
#include <ferry/log.hh>
#include <ferry/scope.hh>

#include <array>

using ferry::check;
using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Owned;
using ferry::Result;

namespace memfd {

namespace {

constexpr unsigned long long page_size = 4096;

// Enough for a file in one piece, and little enough for the stack.
constexpr unsigned int extents_at_once = 32;

unsigned long long pages_of(const ferry_run &run)
{
	return static_cast<unsigned long long>(run.count) << run.order;
}

// Pages of a file of this size, the last one maybe used in part.
unsigned long long pages_for(unsigned long long size)
{
	return size / page_size + (size % page_size != 0);
}

linux_shmem_attrs attrs_of(struct file *file)
{
	linux_shmem_attrs attrs;
	linux_shmem_look(file, &attrs);
	return attrs;
}

} // namespace

// ---- preserve ----

Memfd::~Memfd()
{
	// The preservation of a folio goes by its order: it has to end before the
	// folio may be split or freed.
	if (runs_)
		ferry_runs_destroy(runs_);
	unsigned long long astray = 0;
	for (std::size_t i = 0; i < covered_.size(); ++i)
		astray += linux_shmem_unpin_range(file_, covered_[i].first, covered_[i].end);
	if (astray)
		log_err("%llu pages of %s did not stay where they were preserved", astray,
			linux_shmem_name(file_));
	linux_shmem_freeze(file_, false);
}

Result<Owned<Memfd>> Memfd::preserve(const ferry_luo_args &args, ferry_owner *owner)
{
	auto memfd = TRY(ferry::make<Memfd>(args.file, args.self));
	linux_shmem_freeze(args.file, true);
	memfd->runs_ = ferry_runs_create(owner);
	if (!memfd->runs_)
		return fail(Errno::NoMem);
	TRY(memfd->catch_up());
	// The last run is preserved now rather than in the blackout.
	ferry_bulk unused;
	TRY(check_status(ferry_runs_seal(memfd->runs_, &unused)));
	memfd->tell_usage();
	return memfd;
}

unsigned long long Memfd::size() const
{
	return attrs_of(file_).size;
}

void Memfd::tell_usage() const
{
	ferry_usage usage;
	ferry_runs_usage(runs_, &usage);
	ferry_luo_usage(self_, &usage);
}

unsigned long long Memfd::recorded() const
{
	ferry_usage usage;
	ferry_runs_usage(runs_, &usage);
	return usage.pages;
}

// Calls for each range below the size that has pages that are not recorded yet.
//
// Pages that fallocate() put beyond the size are not carried: they are room for
// a file to grow into, and hold no data.
template <class F> Result<void> Memfd::for_each_new(F &&visit)
{
	const unsigned long long end = pages_for(size());
	ferry::Remainder remainder{covered_};
	linux_extent extents[extents_at_once];
	for (unsigned long long from = 0; from < end;) {
		unsigned int nr = linux_shmem_extents(file_, from, end, extents, extents_at_once);
		for (unsigned int i = 0; i < nr; ++i) {
			// An entry may reach over the end of the file.
			Extent range{extents[i].first, std::min(extents[i].end, end)};
			for (Extent piece = remainder.next(range); piece.first < piece.end;
			     piece = remainder.next(range))
				TRY(visit(piece));
		}
		if (nr < extents_at_once)
			break;
		from = extents[nr - 1].end;
	}
	return {};
}

Result<void> Memfd::catch_up()
{
	batch_ = TRY(ferry::make<linux_shmem_batch>());
	next_ = 0;
	// The first time all is new.
	auto result = covered_.size()
			      ? for_each_new([this](const Extent &piece) { return record(piece); })
			      : record({0, pages_for(size())});
	// Also after an error: what was recorded stays so.
	covered_.settle();
	batch_ = {};
	return result;
}

Result<void> Memfd::record(const Extent &piece)
{
	// The last folio of the piece before may reach into this one.
	unsigned long long first = std::max(next_, piece.first);
	for (; first < piece.end; first = next_) {
		auto nr = check(linux_shmem_pin(file_, first, piece.end, batch_.get()));
		if (!nr.has_value()) {
			log_err("a page of a memfd, from page %llu on, cannot be pinned (%d)",
				first, ferry::to_errno(nr));
			return fail(nr.error());
		}
		if (!*nr)
			break;
		TRY(record_batch(static_cast<unsigned int>(*nr)));
		ferry_luo_progress(self_, recorded() * page_size,
				   linux_shmem_pages(file_) * page_size);
	}
	return {};
}

// Records pinned folios, of so many stretches; unpins those that it could not record.
Result<void> Memfd::record_batch(unsigned int nr)
{
	const unsigned long long *pfn = batch_->pfn;
	Result<void> result = {};
	for (unsigned int i = 0; i < nr; ++i) {
		const linux_shmem_stretch &stretch = batch_->stretch[i];
		unsigned int done = 0;
		if (result.has_value())
			result = append(stretch, pfn, done);
		linux_shmem_unpin(pfn + done, stretch.nr - done);
		pfn += stretch.nr;
	}
	return result;
}

// They come in the order of the file. `done`: how many are recorded.
Result<void> Memfd::append(const linux_shmem_stretch &stretch, const unsigned long long *pfn,
			   unsigned int &done)
{
	// A recorded folio is pinned, so nothing that is new can overlap it.
	if (stretch.index < next_) {
		log_err("page %llu of a memfd is there twice", stretch.index);
		return fail(Errno::Io);
	}
	TRY(covered_.reserve());
	const ferry_folios folios{
		.pfn = pfn,
		.index = stretch.index,
		.nr = stretch.nr,
		.order = stretch.order,
		.flags = stretch.flags,
	};
	int err = ferry_runs_append_folios(runs_, &folios, &done);
	if (done) {
		next_ = stretch.index + (static_cast<unsigned long long>(done) << stretch.order);
		covered_.add({stretch.index, next_});
	}
	if (err) {
		log_err("page %llu of a memfd cannot be preserved (%d)",
			std::max(next_, stretch.index), err);
		return fail(Errno(-err));
	}
	return {};
}

// ---- freeze ----

Result<void> Memfd::freeze()
{
	linux_shmem_hold(file_, true);
	ferry::Undo release{[this] { linux_shmem_hold(file_, false); }};

	// What is recorded is there, so another number means that there is more.
	if (linux_shmem_pages(file_) != recorded()) {
		// A page that reclaim drops now would be waited for in vain.
		TRY(for_each_new([this](const Extent &piece) -> Result<void> {
			linux_shmem_keep(file_, piece.first, piece.end);
			return {};
		}));
		TRY(catch_up());
		tell_usage();
	}
	if (linux_shmem_checks())
		TRY(check_pages());
	release.dismiss();
	return {};
}

// Whether each page that is preserved is still the one in the file.
Result<void> Memfd::check_pages() const
{
	auto visit = [](void *ctx, const ferry_run *run) -> int {
		auto *file = static_cast<struct file *>(ctx);
		unsigned long long index;
		const char *fault = linux_shmem_astray(file, run, &index);
		if (!fault)
			return 0;
		log_err("%s: the page at byte %llu, which is preserved, %s", linux_shmem_name(file),
			index * page_size, fault);
		return 1;
	};
	if (walk(visit, file_))
		return fail(Errno::Io);
	return {};
}

// What freeze() found stays recorded, and pinned.
void Memfd::unfreeze()
{
	linux_shmem_hold(file_, false);
}

// ---- save ----

// All but the pages is looked at only now: a seal may have been added, or the
// position moved, since preserve(). What changes between this and the jump, in
// the same reboot(2), is not carried.
Result<void> Memfd::save(ferry_writer *writer)
{
	const linux_shmem_attrs attrs = attrs_of(file_);
	const ferry_memfd record{
		.size = attrs.size,
		.pos = attrs.pos,
		.seals = attrs.seals,
		.mode = attrs.mode,
	};
	TRY(check_status(ferry_put(writer, &ferry_memfd_record, &record)));
	return save_pages(writer);
}

Result<void> Memfd::save_pages(ferry_writer *writer)
{
	ferry_bulk pages;
	TRY(check_status(ferry_runs_seal(runs_, &pages)));
	TRY(check_status(ferry_begin(writer, "pages")));
	TRY(check_status(ferry_put(writer, &ferry_bulk_record, &pages)));
	return check_status(ferry_end(writer));
}

// ---- retrieve ----

namespace {

Result<ferry_bulk> pages_record(ferry_node state)
{
	ferry_bulk bulk;
	TRY(check_status(ferry_get(ferry_child(state, "pages"), &ferry_bulk_record, &bulk)));
	return bulk;
}

Result<ferry_runs_in *> open_pages(const ferry_bulk &bulk)
{
	ferry_runs_in *pages;
	TRY(check_status(ferry_runs_open(&bulk, "memfd", &pages)));
	return pages;
}

// Why the page cache cannot take a run; null if it can.
const char *fault_of(const ferry_run &run, unsigned long long size)
{
	const unsigned long long folio = 1ull << run.order;
	if (run.order > linux_shmem_max_order())
		return "has folios of an order that a memfd cannot have";
	if (run.index & (folio - 1))
		return "is not aligned in the file";
	if (run.flags & ~(FERRY_MEMFD_UNWRITTEN | FERRY_RUN_DESCENDING))
		return "has unknown flags";
	// The last folio has to begin in the file, and may end behind it.
	const unsigned long long end = run.index + pages_of(run);
	if (end - folio >= pages_for(size))
		return "is beyond the end of the file";
	return nullptr;
}

// A file that is made again, and takes its pages in.
class Incoming {
    public:
	Incoming(struct file *file, unsigned long long size, ferry_luo_file *self)
		: file_{file}, size_{size}, self_{self}
	{
	}
	Incoming(const Incoming &) = delete;
	Incoming &operator=(const Incoming &) = delete;

	// Errno::NoMem: nothing has changed.
	Result<void> fill(ferry_runs_in *pages, unsigned long long nr_pages);

    private:
	Result<void> take_all(ferry_runs_in *pages);
	Result<void> check_from(unsigned int first);
	Result<void> insert();
	void drop();

	struct file *file_;
	unsigned long long size_;
	ferry_luo_file *self_;
	unsigned long long done_ = 0; // pages
	linux_shmem_room room_{};
	// Runs that were taken, and wait for others to be inserted with.
	ferry_run run_[LINUX_SHMEM_RUNS];
	unsigned int nr_ = 0;
};

Result<void> Incoming::insert()
{
	auto result = check_status(linux_shmem_insert(file_, run_, nr_, &room_));
	nr_ = 0;
	if (!result.has_value())
		log_err("a memfd of %llu bytes: a page is there twice", size_);
	ferry_luo_progress(self_, done_ * page_size, 0);
	return result;
}

void Incoming::drop()
{
	while (nr_)
		linux_shmem_free(&run_[--nr_]);
}

// Runs of the list that were just taken.
Result<void> Incoming::check_from(unsigned int first)
{
	for (unsigned int i = first; i < nr_; ++i) {
		if (const char *fault = fault_of(run_[i], size_)) {
			log_err("a memfd of %llu bytes: the run of %u folios at page %llu %s",
				size_, run_[i].count, run_[i].index, fault);
			return fail(Errno::BadMsg);
		}
		done_ += pages_of(run_[i]);
	}
	return {};
}

Result<void> Incoming::take_all(ferry_runs_in *pages)
{
	while (const unsigned int got =
		       TRY(check(ferry_runs_next(pages, run_ + nr_, LINUX_SHMEM_RUNS - nr_)))) {
		nr_ += got;
		TRY(check_from(nr_ - got));
		if (nr_ == LINUX_SHMEM_RUNS)
			TRY(insert());
	}
	return nr_ ? insert() : Result<void>{};
}

Result<void> Incoming::fill(ferry_runs_in *pages, unsigned long long nr_pages)
{
	TRY(check_status(linux_shmem_reserve(file_, nr_pages, &room_)));
	auto result = take_all(pages);
	drop();
	linux_shmem_settle(file_, &room_);
	return result;
}

// `taken`: the pages are no longer those of the last kernel. While they are, all
// can be tried again.
Result<struct file *> retrieve(ferry_node state, bool &taken, ferry_luo_file *self)
{
	// The pages first: whatever is wrong with the rest, closing them frees them.
	const ferry_bulk bulk = TRY(pages_record(state));
	ferry_runs_in *pages = TRY(open_pages(bulk));
	taken = true;
	ferry::Undo close{[pages] { ferry_runs_close(pages); }};

	ferry_memfd record;
	TRY(check_status(ferry_get(state, &ferry_memfd_record, &record)));
	const linux_shmem_attrs attrs{
		.size = record.size,
		.pos = record.pos,
		.seals = record.seals,
		.mode = record.mode,
	};
	struct file *file;
	auto result = check_status(linux_shmem_create(&attrs, &file));
	if (result.has_value()) {
		auto incoming = ferry::make<Incoming>(file, record.size, self);
		result = incoming.has_value() ? (*incoming)->fill(pages, bulk.pages)
					      : fail(incoming.error());
		if (result.has_value())
			return file;
		linux_shmem_put(file);
	}
	if (result.error() == Errno::NoMem) {
		taken = false;
		close.dismiss();
		ferry_runs_leave(pages);
	}
	return fail(result.error());
}

// ---- the handler ----

constinit ferry_owner *owner;

// What `priv` of an incoming file points to once retrieve() took its pages,
// whether it made a file of them or had to free them.
constinit char pages_taken;

using Outgoing = ferry::Outgoing<Memfd, owner>;

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
	auto bulk = pages_record(args->state);
	auto pages = bulk.has_value() ? open_pages(*bulk) : fail(bulk.error());
	if (pages.has_value())
		ferry_runs_close(*pages);
	else
		log_err("the pages of a memfd that nobody retrieved are lost (%d)",
			ferry::to_errno(pages));
}

constexpr ferry_luo_ops ops{
	.can_preserve = linux_shmem_is,
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
	.compatible = FERRY_MEMFD_COMPATIBLE,
	.module = nullptr,
	.ops = &ops,
};

constexpr std::array formats{&ferry_memfd_record, &ferry_hugetlb_record};

Result<void> init()
{
	owner = ferry_owner_create("memfd");
	if (!owner)
		return fail(Errno::NoMem);
	ferry::Undo destroy{[] { ferry_owner_destroy(owner); }};
	TRY(check_status(ferry_formats_register(formats.data(), formats.size())));
	ferry::Undo unregister{[] { ferry_formats_unregister(formats.data()); }};
	handler.module = linux_this_module();
	TRY(check_status(ferry_luo_register(&handler)));
	ferry::Undo handle{[] { ferry_luo_unregister(&handler); }};
	TRY(hugetlb::begin(owner));
	handle.dismiss();
	unregister.dismiss();
	destroy.dismiss();
	return {};
}

} // namespace
} // namespace memfd

int memfd_module_init(void)
{
	return ferry::to_errno(memfd::init());
}

void memfd_module_exit(void)
{
	memfd::hugetlb::end();
	ferry_luo_unregister(&memfd::handler);
	ferry_formats_unregister(memfd::formats.data());
	ferry_owner_destroy(memfd::owner);
}
