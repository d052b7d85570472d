// SPDX-License-Identifier: GPL-2.0
#include "kvm/gmem.hh"

#include <ferry/log.hh>
#include <ferry/scope.hh>

using ferry::check_status;
using ferry::Errno;
using ferry::Extent;
using ferry::fail;
using ferry::Owned;
using ferry::Result;

namespace virt {

namespace {

constexpr unsigned int runs_at_once = 64;
constexpr unsigned long long page_size = 4096;

} // namespace

Gmem::Gmem(file *its_file, Membership group, ferry_owner *owner)
	: file_{its_file}, group_{std::move(group)}, owner_{owner}
{
	group_->add(*this);
	linux_gmem_set_state(file_, LINUX_GMEM_PRESERVED);
}

Gmem::~Gmem()
{
	if (runs_)
		ferry_runs_destroy(runs_);
	linux_gmem_set_state(file_, LINUX_GMEM_THAWED);
	group_->remove(*this);
}

Result<Owned<Gmem>> Gmem::preserve(ferry_luo_args &args, ferry_owner *owner)
{
	if (!linux_gmem_is_shared(args.file)) {
		log_err("a guest_memfd with private pages cannot be carried: it wants "
			"GUEST_MEMFD_FLAG_MMAP and GUEST_MEMFD_FLAG_INIT_SHARED");
		return fail(Errno::OpNotSupp);
	}
	Membership group{TRY(Group::join(args.file))};
	auto gmem = TRY(ferry::make<Gmem>(args.file, std::move(group), owner));
	if (file *vm = gmem->group_->vm())
		TRY(check_status(ferry_luo_depend(args.self, vm)));
	gmem->runs_ = ferry_runs_create(owner);
	if (!gmem->runs_)
		return fail(Errno::NoMem);
	TRY(gmem->catch_up(args.self));
	// The last run is preserved now rather than in the blackout.
	ferry_bulk unused;
	TRY(check_status(ferry_runs_seal(gmem->runs_, &unused)));
	return gmem;
}

bool Gmem::is(file *other) const
{
	// Not what is behind it: nobody holds the other one, and it may be closed now.
	return other == file_;
}

Result<void> Gmem::append(const ferry_run &run)
{
	TRY(covered_.reserve());
	if (int err = ferry_runs_append(runs_, &run)) {
		log_err("page %llu of a guest_memfd cannot be preserved (%d)", run.index, err);
		return fail(Errno(-err));
	}
	covered_.add({run.index, run.index + run.count});
	recorded_ += run.count;
	return {};
}

// Records what of a run is not recorded yet.
Result<void> Gmem::record(const ferry_run &run)
{
	ferry::Remainder remainder{covered_};
	Extent range{run.index, run.index + run.count};
	for (Extent piece = remainder.next(range); piece.first < piece.end;
	     piece = remainder.next(range)) {
		TRY(append({
			.pfn = run.pfn + (piece.first - run.index),
			.index = piece.first,
			.count = static_cast<unsigned int>(piece.end - piece.first),
			.order = 0,
			.flags = 0,
		}));
	}
	return {};
}

Result<void> Gmem::catch_up(ferry_luo_file *self)
{
	ferry_run run[runs_at_once];
	Result<void> done;
	unsigned long long from = 0;
	while (unsigned int nr = linux_gmem_find(file_, from, run, runs_at_once)) {
		for (unsigned int i = 0; i < nr && done.has_value(); ++i)
			done = record(run[i]);
		if (!done.has_value())
			break;
		from = run[nr - 1].index + run[nr - 1].count;
		ferry_luo_progress(self, recorded_ * page_size,
				   linux_gmem_pages(file_) * page_size);
	}
	ferry_usage usage;
	ferry_runs_usage(runs_, &usage);
	ferry_luo_usage(self, &usage);
	// Also after an error: what was recorded stays so.
	covered_.settle();
	return done;
}

// The slots that are on it: with it they come back.
Result<void> Gmem::save_slots()
{
	Sections sections;
	for (const linux_kvm_slot &slot : group_->slots()) {
		if (is(slot.gmem))
			TRY(sections.add(FERRY_KVM_SLOT, &slot.is, sizeof(slot.is)));
	}
	return slots_.save(owner_, sections.bytes());
}

Result<void> Gmem::freeze(ferry_luo_file *self)
{
	TRY(group_->freeze());
	ferry::Undo thaw{[this] {
		linux_gmem_set_state(file_, LINUX_GMEM_PRESERVED);
		group_->unfreeze();
	}};
	file *vm = group_->vm();
	if (!vm) {
		log_err("a guest_memfd is preserved, and its VM is not");
		return fail(Errno::NoEnt);
	}
	TRY(check_status(ferry_luo_depend(self, vm)));
	linux_gmem_set_state(file_, LINUX_GMEM_FROZEN);
	// What is recorded is there, so another number means that there is more.
	if (linux_gmem_pages(file_) != recorded_)
		TRY(catch_up(self));
	ferry_bulk unused;
	TRY(check_status(ferry_runs_seal(runs_, &unused)));
	TRY(save_slots());
	thaw.dismiss();
	frozen_ = true;
	return {};
}

void Gmem::unfreeze()
{
	frozen_ = false;
	slots_.drop();
	linux_gmem_set_state(file_, LINUX_GMEM_PRESERVED);
	group_->unfreeze();
}

Result<void> Gmem::save(ferry_writer *writer)
{
	ferry_kvm_gmem record{};
	linux_gmem_look(file_, &record);
	ferry_bulk pages;
	TRY(check_status(ferry_runs_seal(runs_, &pages)));
	TRY(check_status(ferry_put(writer, &ferry_kvm_gmem_record, &record)));
	TRY(check_status(ferry_begin(writer, "pages")));
	TRY(check_status(ferry_put(writer, &ferry_bulk_record, &pages)));
	TRY(check_status(ferry_end(writer)));
	return frozen_ ? slots_.put(writer, "slots") : Result<void>{};
}

} // namespace virt
