// SPDX-License-Identifier: GPL-2.0
#include "kvm/group.hh"

#include <ferry/lock.hh>
#include <ferry/log.hh>
#include <ferry/scope.hh>

#include <algorithm>

#include "kvm/backing.hh"
#include "kvm/gmem.hh"
#include "kvm/worker.hh"

using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Guard;
using ferry::Owned;
using ferry::Result;

namespace virt {

namespace {

class Groups {
    public:
	ferry::Mutex<"kvm.groups"> mutex;
	ferry::List<Group> list;
};

// Made by the module's init: a mutex has no constant initialiser.
constinit Groups *groups;

} // namespace

Result<void> groups_create()
{
	groups = TRY(ferry::make<Groups>()).release();
	return {};
}

void groups_destroy()
{
	ferry::destroy(std::exchange(groups, nullptr));
}

// ---- who is in a group ----

Result<Group *> Group::join(file *of)
{
	struct kvm *kvm = linux_kvm_of(of);
	Guard guard{groups->mutex};
	for (Group &group : groups->list) {
		if (group.kvm_ == kvm) {
			++group.members_;
			return &group;
		}
	}
	Group *group = TRY(ferry::make<Group>(kvm)).release();
	group->members_ = 1;
	groups->list.push_back(*group);
	return group;
}

void Group::leave()
{
	Guard guard{groups->mutex};
	if (--members_)
		return;
	ferry::List<Group>::remove(*this);
	ferry::destroy(this);
}

file *Group::vm()
{
	Guard guard{groups->mutex};
	return vm_;
}

void Group::set_vm(file *vm)
{
	Guard guard{groups->mutex};
	vm_ = vm;
}

void Group::add(Vcpu &vcpu)
{
	Guard guard{groups->mutex};
	vcpus_.push_back(vcpu);
}

void Group::remove(Vcpu &vcpu)
{
	Guard guard{groups->mutex};
	ferry::List<Vcpu>::remove(vcpu);
}

void Group::add(Gmem &gmem)
{
	Guard guard{groups->mutex};
	gmems_.push_back(gmem);
}

void Group::remove(Gmem &gmem)
{
	Guard guard{groups->mutex};
	ferry::List<Gmem>::remove(gmem);
}

bool Group::has_vcpu(unsigned int number)
{
	Guard guard{groups->mutex};
	for (const Vcpu &vcpu : vcpus_) {
		if (vcpu.number() == number)
			return true;
	}
	return false;
}

bool Group::has_gmem(file *gmem)
{
	Guard guard{groups->mutex};
	for (const Gmem &member : gmems_) {
		if (member.is(gmem))
			return true;
	}
	return false;
}

// ---- stopping a VM ----

Result<void> Group::freeze()
{
	Guard guard{groups->mutex};
	if (!frozen_) {
		TRY(stop());
		ferry::Undo resume{[this] {
			drop_vcpus();
			linux_kvm_resume(kvm_);
		}};
		TRY(read());
		resume.dismiss();
	}
	++frozen_;
	return {};
}

Result<void> Group::read()
{
	slots_ = TRY(Slots::read(kvm_));
	state_.clear();
	// Without it there is nothing to be carried, as whoever is frozen finds out.
	if (!vm_)
		return {};
	return in_worker([this](unsigned long scratch) -> Result<void> {
		TRY(check_status(linux_kvm_get_clock(scratch, vm_, &clock_, &tsc_)));
		TRY(read_vm(scratch, vm_, state_));
		Sections sections;
		for (Vcpu &vcpu : vcpus_) {
			auto read = vcpu.read(scratch, sections);
			if (!read.has_value()) {
				log_err("vCPU %u cannot be read (%d)", vcpu.number(),
					ferry::to_errno(read));
				return read;
			}
		}
		return {};
	});
}

void Group::drop_vcpus()
{
	for (Vcpu &vcpu : vcpus_)
		vcpu.drop();
}

void Group::unfreeze()
{
	Guard guard{groups->mutex};
	if (--frozen_)
		return;
	drop_vcpus();
	linux_kvm_resume(kvm_);
}

// Nobody new gets at a vCPU of a VM that is frozen. So those that are on their way
// out of the guest, or out of an ioctl, are through soon.
linux_kvm_vcpus Group::settle(unsigned int &waited, unsigned int &vcpu)
{
	constexpr unsigned int soon_ms = 10;
	auto vcpus = linux_kvm_settled(kvm_, &vcpu);
	for (unsigned int i = 0; vcpus == LINUX_KVM_BUSY && i < soon_ms; ++i, ++waited) {
		linux_kvm_sleep(1);
		vcpus = linux_kvm_settled(kvm_, &vcpu);
	}
	return vcpus;
}

Result<void> Group::stop()
{
	unsigned int vcpu = 0;
	auto vcpus = LINUX_KVM_SETTLED;
	for (unsigned int waited = 0; waited < patience_ms; ++waited) {
		linux_kvm_stop(kvm_);
		vcpus = linux_kvm_settled(kvm_, &vcpu);
		// An exit can be finished only while the VM is not frozen.
		if (vcpus != LINUX_KVM_UNFINISHED && !linux_kvm_freeze(kvm_)) {
			vcpus = settle(waited, vcpu);
			if (vcpus == LINUX_KVM_SETTLED)
				return {};
			linux_kvm_thaw(kvm_);
		}
		linux_kvm_sleep(1);
	}
	linux_kvm_resume(kvm_);
	if (vcpus == LINUX_KVM_UNFINISHED)
		log_err("a VM cannot be frozen: vCPU %u has an exit that its VMM has not finished; "
			"KVM_RUN with immediate_exit does",
			vcpu);
	else if (vcpus == LINUX_KVM_BUSY)
		log_err("a VM cannot be frozen: an ioctl of its vCPU %u does not come to an end",
			vcpu);
	else
		log_err("a VM cannot be frozen: an ioctl of it does not come to an end");
	return fail(Errno::Busy);
}

// ---- blobs ----

Result<void> PreservedBlob::save(ferry_owner *owner, Bytes bytes)
{
	drop();
	if (bytes.empty())
		return {};
	if (bytes.size() > FERRY_KVM_BLOB_MAX) {
		log_err("a VM has a state of %zu bytes, and %llu can be carried", bytes.size(),
			FERRY_KVM_BLOB_MAX);
		return fail(Errno::TooBig);
	}
	return check_status(ferry_blob_save(owner, bytes.data(), bytes.size(), &ref_, &blob_));
}

void PreservedBlob::tell_usage(ferry_luo_file *self) const
{
	const ferry_usage usage{.pages = 0, .runs = 0, .metadata = 0, .blobs = ref_.bytes};
	ferry_luo_usage(self, &usage);
}

void PreservedBlob::drop()
{
	if (blob_)
		ferry_blob_destroy(std::exchange(blob_, nullptr));
	ref_ = {};
}

Result<void> PreservedBlob::put(ferry_writer *writer, const char *child) const
{
	if (!blob_)
		return {};
	TRY(check_status(ferry_begin(writer, child)));
	TRY(check_status(ferry_put(writer, &ferry_bulk_record, &ref_)));
	return check_status(ferry_end(writer));
}

// ---- a vCPU ----

Vcpu::Vcpu(file *its_file, Membership group, ferry_owner *owner)
	: file_{its_file}, group_{std::move(group)}, owner_{owner}
{
	linux_kvm_vcpu_look(file_, &record_);
	group_->add(*this);
}

Vcpu::~Vcpu()
{
	group_->remove(*this);
}

Result<Owned<Vcpu>> Vcpu::preserve(ferry_luo_args &args, ferry_owner *owner)
{
	Membership group{TRY(Group::join(args.file))};
	if (file *vm = group->vm())
		TRY(check_status(ferry_luo_depend(args.self, vm)));
	return ferry::make<Vcpu>(args.file, std::move(group), owner);
}

Result<void> Vcpu::freeze(ferry_luo_file *self)
{
	TRY(group_->freeze());
	ferry::Undo resume{[this] { group_->unfreeze(); }};
	file *vm = group_->vm();
	if (!vm) {
		log_err("vCPU %u is preserved, and its VM is not", record_.id);
		return fail(Errno::NoEnt);
	}
	TRY(check_status(ferry_luo_depend(self, vm)));
	state_.tell_usage(self);
	resume.dismiss();
	frozen_ = true;
	return {};
}

Result<void> Vcpu::read(unsigned long scratch, Sections &buffer)
{
	buffer.clear();
	TRY(read_vcpu(scratch, file_, buffer));
	linux_kvm_vcpu_look(file_, &record_);
	return state_.save(owner_, buffer.bytes());
}

void Vcpu::unfreeze()
{
	frozen_ = false;
	group_->unfreeze();
}

Result<void> Vcpu::save(ferry_writer *writer)
{
	TRY(check_status(ferry_put(writer, &ferry_kvm_vcpu_record, &record_)));
	return frozen_ ? state_.put(writer, "state") : Result<void>{};
}

// ---- a VM ----

Vm::Vm(file *its_file, Membership group, ferry_owner *owner)
	: file_{its_file}, group_{std::move(group)}, owner_{owner}
{
	group_->set_vm(file_);
}

Vm::~Vm()
{
	group_->set_vm(nullptr);
	for (unsigned int i = 0; i < nr_backings_; ++i)
		linux_kvm_fput(backing_[i]);
	ferry_free(backing_);
}

Result<Owned<Vm>> Vm::preserve(ferry_luo_args &args, ferry_owner *owner)
{
	Membership group{TRY(Group::join(args.file))};
	auto vm = TRY(ferry::make<Vm>(args.file, std::move(group), owner));
	TRY(vm->look());
	// So that what cannot be carried is refused now, and not in the reboot.
	TRY(vm->take_slots(TRY(Slots::read(vm->group_->kvm()))));
	TRY(vm->check_dirty_logs());
	Sections unused;
	TRY(in_worker([&](unsigned long scratch) { return read_vm(scratch, args.file, unused); }));
	TRY(vm->depend(args.self));
	return vm;
}

Result<void> Vm::look()
{
	if (const char *why = linux_kvm_vm_look(group_->kvm(), &record_)) {
		log_err("a VM cannot be carried: %s", why);
		return fail(Errno::OpNotSupp);
	}
	// Also for a dump, before there is a clock.
	record_.tsc_khz = ferry_tsc_khz();
	return {};
}

// ---- its memory ----

namespace {

constexpr unsigned int log_dirty_pages = 1; // KVM_MEM_LOG_DIRTY_PAGES

// Of a blob, for all but dirty logs.
constexpr unsigned long long room_for_others = 8ull << 20;

unsigned long long bitmap_bytes(const ferry_kvm_slot &slot)
{
	return (slot.pages + 63) / 64 * 8;
}

} // namespace

Result<unsigned int> Vm::backing_index(file *found)
{
	// Most slots are on the same file as the one before.
	if (nr_backings_ && linux_kvm_same_contents(backing_[last_backing_], found)) {
		linux_kvm_fput(found);
		return last_backing_;
	}
	for (unsigned int i = 0; i < nr_backings_; ++i) {
		if (linux_kvm_same_contents(backing_[i], found)) {
			linux_kvm_fput(found);
			return last_backing_ = i;
		}
	}
	if (!backing_)
		backing_ = static_cast<file **>(ferry_alloc(max_backings * sizeof(file *)));
	if (!backing_ || nr_backings_ == max_backings) {
		linux_kvm_fput(found);
		return fail(backing_ ? Errno::TooBig : Errno::NoMem);
	}
	backing_[nr_backings_] = found;
	return last_backing_ = nr_backings_++;
}

// What was found before, of a slot that has not changed since.
bool Vm::known_backing(ferry_kvm_slot &slot) const
{
	const linux_kvm_slot *old = slots_.find(slot.slot);
	if (!old || old->gmem || old->is.hva != slot.hva || old->is.pages != slot.pages)
		return false;
	slot.first = old->is.first;
	slot.need = old->is.need;
	return true;
}

Result<void> Vm::find_backing(ferry_kvm_slot &slot, Patience &patience)
{
	auto found = virt::find_backing(group_->kvm(), slot.hva, slot.pages, patience);
	if (found.has_value()) {
		slot.first = found->first;
		slot.need = TRY(backing_index(found->of));
		return {};
	}
	// Its VMM is gone, or about to; its memory may be there all the same.
	if (known_backing(slot))
		return {};
	log_err("memory slot %#x of a VM, %llu pages at %#llx of its VMM, is %s (%d)", slot.slot,
		slot.pages, slot.hva,
		found.error() == Errno::OpNotSupp ? "not a shared mapping of one file: only "
						    "memfds and guest_memfds can be carried"
						  : "not to be found",
		ferry::to_errno(found));
	return fail(found.error());
}

Result<void> Vm::take_slots(Slots now)
{
	Patience patience;
	for (linux_kvm_slot &slot : now) {
		if (!slot.gmem)
			TRY(find_backing(slot.is, patience));
	}
	slots_ = std::move(now);
	return {};
}

// So that what cannot be carried is refused before the reboot.
Result<void> Vm::check_dirty_logs() const
{
	unsigned long long bytes = 0;
	for (const linux_kvm_slot &slot : slots_)
		bytes += slot.is.flags & log_dirty_pages ? bitmap_bytes(slot.is) : 0;
	if (bytes <= FERRY_KVM_BLOB_MAX - room_for_others)
		return {};
	log_err("the dirty logs of a VM have %llu bytes, and %llu can be carried: it cannot be "
		"carried while so much memory is logged",
		bytes, FERRY_KVM_BLOB_MAX - room_for_others);
	return fail(Errno::TooBig);
}

Result<void> Vm::depend(ferry_luo_file *self)
{
	for (unsigned int i = 0; i < nr_backings_; ++i)
		TRY(check_status(ferry_luo_depend(self, backing_[i])));
	return {};
}

// ---- freeze ----

// All of its vCPUs and guest_memfds have to come along; luo sees to the rest.
Result<void> Vm::check_members()
{
	for (unsigned int nth = 0; nth < record_.vcpus; ++nth) {
		const long number = linux_kvm_vcpu_number(group_->kvm(), nth);
		if (number >= 0 && !group_->has_vcpu(static_cast<unsigned int>(number))) {
			log_err("a VM is preserved, and its vCPU %ld is not", number);
			return fail(Errno::NoEnt);
		}
	}
	for (const linux_kvm_slot &slot : slots_) {
		if (slot.gmem && !group_->has_gmem(slot.gmem)) {
			log_err("a VM is preserved, and the guest_memfd of its memory slot %#x is "
				"not",
				slot.is.slot);
			return fail(Errno::NoEnt);
		}
	}
	return {};
}

Result<void> Vm::freeze(ferry_luo_file *self)
{
	TRY(group_->freeze());
	ferry::Undo resume{[this] { group_->unfreeze(); }};
	TRY(look());
	TRY(take_slots(TRY(group_->slots().copy())));
	TRY(check_dirty_logs());
	TRY(check_members());
	TRY(depend(self));
	TRY(read());
	state_.tell_usage(self);
	resume.dismiss();
	frozen_ = true;
	return {};
}

Result<void> Vm::read()
{
	group_->tell_clock(record_);
	Sections sections;
	TRY(sections.append(group_->state()));
	TRY(read_vcpus(sections));
	TRY(read_slots(sections));
	return state_.save(owner_, sections.bytes());
}

// So that they can be made before anybody asks for them.
Result<void> Vm::read_vcpus(Sections &sections)
{
	auto *numbers = static_cast<unsigned int *>(
		TRY(sections.reserve(record_.vcpus * sizeof(unsigned int))));
	unsigned int nr = 0;
	for (; nr < record_.vcpus; ++nr) {
		const long number = linux_kvm_vcpu_number(group_->kvm(), nr);
		if (number < 0)
			break;
		numbers[nr] = static_cast<unsigned int>(number);
	}
	if (nr)
		sections.commit(FERRY_KVM_VCPUS, nr * sizeof(unsigned int));
	return {};
}

Result<void> Vm::read_slots(Sections &sections)
{
	for (const linux_kvm_slot &slot : slots_) {
		// A slot on a guest_memfd comes back with that.
		if (!slot.gmem)
			TRY(sections.add(FERRY_KVM_SLOT, &slot.is, sizeof(slot.is)));
		if (!(slot.is.flags & log_dirty_pages))
			continue;
		const std::size_t bitmap = bitmap_bytes(slot.is);
		auto *dirty = static_cast<ferry_kvm_dirty *>(
			TRY(sections.reserve(sizeof(ferry_kvm_dirty) + bitmap)));
		*dirty = {.slot = slot.is.slot, .reserved = 0};
		const long got =
			linux_kvm_dirty_get(group_->kvm(), slot.is.slot, dirty + 1, bitmap);
		if (got > 0)
			sections.commit(FERRY_KVM_DIRTY, sizeof(*dirty) + bitmap);
	}
	return {};
}

void Vm::unfreeze()
{
	frozen_ = false;
	state_.drop();
	group_->unfreeze();
}

Result<void> Vm::save(ferry_writer *writer)
{
	TRY(check_status(ferry_put(writer, &ferry_kvm_vm_record, &record_)));
	return frozen_ ? state_.put(writer, "state") : Result<void>{};
}

} // namespace virt
