// SPDX-License-Identifier: GPL-2.0
#include "kvm/incoming.hh"

#include <ferry/lock.hh>
#include <ferry/log.hh>
#include <ferry/scope.hh>

#include "kvm/backing.hh"
#include "kvm/worker.hh"

using ferry::check;
using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Guard;
using ferry::Owned;
using ferry::Result;

namespace virt {

namespace {

// 64 TiB of memory, in pages: more than a guest can address on any host.
constexpr unsigned long long max_pages = 1ull << 34;

// Of a blob: a VM with 32,764 slots and the dirty log of a TiB fits.
constexpr std::size_t max_blob = std::size_t{64} << 20;

class Incoming {
    public:
	ferry::Mutex<"kvm.incoming"> mutex;
	ferry::List<IncomingVm> vms;

	IncomingVm *find(struct kvm *kvm)
	{
		for (IncomingVm &vm : vms) {
			if (linux_kvm_of(vm.vm()) == kvm)
				return &vm;
		}
		return nullptr;
	}
};

// Made by the module's init: a mutex has no constant initialiser.
constinit Incoming *incoming;

// Scratch memory of the current process.
class Scratch {
    public:
	Scratch() = default;
	Scratch(Scratch &&other) noexcept : at_{std::exchange(other.at_, 0)}
	{
	}
	Scratch &operator=(Scratch &&) = delete;
	~Scratch()
	{
		if (at_)
			linux_kvm_scratch_unmap(at_);
	}
	static Result<Scratch> map()
	{
		unsigned long at;
		TRY(check_status(linux_kvm_scratch_map(&at)));
		Scratch scratch;
		scratch.at_ = at;
		return scratch;
	}
	unsigned long at() const
	{
		return at_;
	}

    private:
	unsigned long at_ = 0;
};

// The blob that a child of the node leads to; an empty one where there is none.
Result<Blob> load_blob(ferry_node state, const char *child, const char *what)
{
	const ferry_node node = ferry_child(state, child);
	if (node.offset < 0)
		return Blob{};
	ferry_bulk ref;
	TRY(check_status(ferry_get(node, &ferry_bulk_record, &ref)));
	void *data;
	TRY(check_status(ferry_blob_load(&ref, what, max_blob, &data)));
	return Blob{data, static_cast<std::size_t>(ref.bytes)};
}

// Frees it, unseen.
void drop_blob(ferry_node state, const char *child, const char *what)
{
	auto blob = load_blob(state, child, what);
	if (!blob.has_value())
		log_err("%s that nobody retrieved: its state is lost (%d)", what,
			ferry::to_errno(blob));
}

// What `priv` of an incoming file points to when its state is no longer the last
// kernel's, and nothing came of it.
constinit char state_taken;
// Of a guest_memfd: its pages are not, its slots are.
constinit char pages_taken;

} // namespace

Result<void> incoming_create()
{
	incoming = TRY(ferry::make<Incoming>()).release();
	return {};
}

void incoming_destroy()
{
	ferry::destroy(std::exchange(incoming, nullptr));
}

IncomingVcpu::~IncomingVcpu()
{
	if (vcpu)
		linux_kvm_fput(vcpu);
}

IncomingSlot::~IncomingSlot()
{
	linux_kvm_fput(backing);
}

EarlyVcpu::~EarlyVcpu()
{
	if (vcpu)
		linux_kvm_fput(vcpu);
}

IncomingVm::~IncomingVm()
{
	// In a session that is damaged a VM may be finished before its vCPUs.
	while (IncomingVcpu *vcpu = vcpus_.front())
		remove(*vcpu);
	while (IncomingSlot *slot = slots_.front()) {
		ferry::List<IncomingSlot>::remove(*slot);
		ferry::destroy(slot);
	}
	drop();
}

// Of what was made of it.
void IncomingVm::drop()
{
	while (EarlyVcpu *vcpu = early_.front()) {
		ferry::List<EarlyVcpu>::remove(*vcpu);
		ferry::destroy(vcpu);
	}
	if (vm_)
		linux_kvm_fput(std::exchange(vm_, nullptr));
}

// ---- making a VM ----

namespace {

// Of the fields of a record that describe what the VM is, the name of one that
// differs; null if none does.
const char *difference(const ferry_kvm_vm &want, const ferry_kvm_vm &have)
{
	for (unsigned int i = 0; i < ferry_kvm_vm_record.nr_fields; ++i) {
		const ferry_field &field = ferry_kvm_vm_record.fields[i];
		// From here on they are about its state.
		if (field.offset == offsetof(ferry_kvm_vm, vcpus))
			return nullptr;
		if (memcmp(reinterpret_cast<const char *>(&want) + field.offset,
			   reinterpret_cast<const char *>(&have) + field.offset, field.room) != 0)
			return field.name;
	}
	return nullptr;
}

} // namespace

Result<Owned<IncomingVm>> IncomingVm::read(ferry_node state, bool &taken)
{
	ferry_kvm_vm record;
	TRY(check_status(ferry_get(state, &ferry_kvm_vm_record, &record)));
	// First, so that without memory nothing was taken yet.
	auto vm = TRY(ferry::make<IncomingVm>(record));
	vm->state_ = TRY(load_blob(state, "state", "a VM"));
	taken = true;
	TRY(check_vm(vm->state_.bytes()));
	return vm;
}

Result<void> IncomingVm::create(unsigned long scratch)
{
	TRY(check_status(linux_kvm_create_vm(&vm_)));
	auto made = configure(scratch);
	if (made.has_value())
		made = load_vm_early(scratch, vm_, state_.bytes());
	if (!made.has_value())
		drop();
	return made;
}

void IncomingVm::work_ahead()
{
	auto made = in_worker([this](unsigned long scratch) -> Result<void> {
		TRY(create(scratch));
		return create_vcpus();
	});
	// Whoever retrieves it tries again, and learns why it does not go.
	if (!made.has_value())
		drop();
}

Result<void> IncomingVm::create_vcpus()
{
	return for_each_section(state_.bytes(), [&](const Section &section) -> Result<void> {
		if (section.kind != FERRY_KVM_VCPUS)
			return {};
		for (std::size_t at = 0; at + sizeof(unsigned int) <= section.data.size();
		     at += sizeof(unsigned int)) {
			auto vcpu = TRY(ferry::make<EarlyVcpu>());
			memcpy(&vcpu->number, section.data.data() + at, sizeof(unsigned int));
			TRY(check_status(linux_kvm_create_vcpu(vm_, vcpu->number, &vcpu->vcpu)));
			early_.push_back(*vcpu.release());
		}
		return {};
	});
}

Result<file *> IncomingVm::create_vcpu(unsigned int number)
{
	for (EarlyVcpu &early : early_) {
		if (early.number != number)
			continue;
		file *vcpu = std::exchange(early.vcpu, nullptr);
		ferry::List<EarlyVcpu>::remove(early);
		ferry::destroy(&early);
		return vcpu;
	}
	file *vcpu;
	TRY(check_status(linux_kvm_create_vcpu(vm_, number, &vcpu)));
	return vcpu;
}

Result<void> IncomingVm::configure(unsigned long scratch)
{
	ferry_kvm_vm have{};
	(void)linux_kvm_vm_look(linux_kvm_of(vm_), &have);
	const int err = linux_kvm_configure_vm(scratch, vm_, &record_, &have);
	(void)linux_kvm_vm_look(linux_kvm_of(vm_), &have);
	if (const char *field = difference(record_, have)) {
		log_err("this kernel cannot make a VM that has the same '%s' (%d)", field, err);
		return fail(Errno::OpNotSupp);
	}
	return check_status(err);
}

Result<void> IncomingVm::load_slots(ferry_luo_file *self)
{
	return for_each_section(state_.bytes(), [&](const Section &section) -> Result<void> {
		if (section.kind != FERRY_KVM_SLOT)
			return {};
		ferry_kvm_slot slot;
		if (section.data.size() != sizeof(slot))
			return fail(Errno::BadMsg);
		memcpy(&slot, section.data.data(), sizeof(slot));
		file *backing;
		unsigned long long token;
		TRY(check_status(ferry_luo_dependency_token(self, slot.need, &token)));
		TRY(check_status(ferry_luo_dependency(self, slot.need, &backing)));
		TRY(add_slot(section.data, backing, token, false));
		return {};
	});
}

Result<IncomingSlot *> IncomingVm::add_slot(Bytes data, file *backing, unsigned long long token,
					    bool gmem)
{
	auto made = ferry::make<IncomingSlot>();
	if (!made.has_value()) {
		linux_kvm_fput(backing);
		return fail(made.error());
	}
	IncomingSlot &slot = **made;
	slot.backing = backing;
	slot.token = token;
	slot.gmem = gmem;
	if (data.size() != sizeof(slot.slot))
		return fail(Errno::BadMsg);
	memcpy(&slot.slot, data.data(), sizeof(slot.slot));
	if (!slot.slot.pages || slot.slot.pages > max_pages || slot.slot.gfn > max_pages ||
	    slot.slot.first > max_pages || find_slot(slot.slot.slot)) {
		log_err("memory slot %#x makes no sense", slot.slot.slot);
		return fail(Errno::BadMsg);
	}
	insert(*made->release());
	return &slot;
}

// Those with a greater number go behind it, in their order.
void IncomingVm::insert(IncomingSlot &slot)
{
	slots_.push_back(slot);
	for (auto at = slots_.begin(); &*at != &slot;) {
		IncomingSlot &other = *at;
		++at;
		if (other.slot.slot > slot.slot.slot) {
			ferry::List<IncomingSlot>::remove(other);
			slots_.push_back(other);
		}
	}
}

void IncomingVm::remove_slots(file *gmem)
{
	for (auto at = slots_.begin(); at != slots_.end();) {
		IncomingSlot &slot = *at;
		++at;
		if (slot.backing == gmem) {
			ferry::List<IncomingSlot>::remove(slot);
			ferry::destroy(&slot);
		}
	}
}

IncomingSlot *IncomingVm::find_slot(unsigned int number)
{
	for (IncomingSlot &slot : slots_) {
		if (slot.slot.slot == number)
			return &slot;
	}
	return nullptr;
}

// ---- its memory ----

Result<void> IncomingVm::create_slot(unsigned long scratch, IncomingSlot &slot)
{
	if (slot.present) {
		ferry_kvm_slot none = slot.slot;
		none.pages = 0;
		TRY(check_status(linux_kvm_set_slot(scratch, vm_, &none, 0, nullptr)));
		slot.present = false;
	}
	auto set = check_status(linux_kvm_set_slot(scratch, vm_, &slot.slot, slot.slot.hva,
						   slot.gmem ? slot.backing : nullptr));
	slot.present = set.has_value();
	return set;
}

Result<void> IncomingVm::check_mapping(const IncomingSlot &slot, unsigned long long hva)
{
	auto found = find_backing(nullptr, hva, slot.slot.pages);
	if (found.has_value()) {
		const bool same = linux_kvm_same_contents(found->of, slot.backing) &&
				  found->first == slot.slot.first;
		linux_kvm_fput(found->of);
		if (same)
			return {};
	}
	log_err("memory slot %#x: what is mapped at %#llx is not page %llu of the file of token "
		"%#llx, shared, with %llu pages",
		slot.slot.slot, hva, slot.slot.first, slot.token, slot.slot.pages);
	return fail(Errno::Inval);
}

Result<void> IncomingVm::set_slot(unsigned long scratch, unsigned int number,
				  unsigned long long hva)
{
	IncomingSlot *slot = find_slot(number);
	if (!slot) {
		log_err("memory slot %#x: the VM had no such slot", number);
		return fail(Errno::Inval);
	}
	TRY(check_mapping(*slot, hva));
	slot->slot.hva = hva;
	auto created = create_slot(scratch, *slot);
	if (!created.has_value())
		log_err("memory slot %#x cannot be created (%d)", number, ferry::to_errno(created));
	return created;
}

unsigned int IncomingVm::nr_slots()
{
	unsigned int nr = 0;
	for (const IncomingSlot &slot : slots_) {
		(void)slot;
		++nr;
	}
	return nr;
}

Result<void> IncomingVm::describe(unsigned long long to)
{
	constexpr unsigned int page_shift = 12;
	for (const IncomingSlot &slot : slots_) {
		const liveupdate_kvm_slot out{
			.slot = slot.slot.slot,
			.flags = slot.slot.flags,
			.guest_phys_addr = slot.slot.gfn << page_shift,
			.memory_size = slot.slot.pages << page_shift,
			.userspace_addr = slot.slot.hva,
			.offset = slot.slot.first << page_shift,
			.token = slot.token,
			.backing = slot.gmem ? 1u * LIVEUPDATE_KVM_GUEST_MEMFD
					     : 1u * LIVEUPDATE_KVM_MEMFD,
			.present = slot.present,
		};
		TRY(check_status(linux_kvm_copy_out(to, &out, sizeof(out))));
		to += sizeof(out);
	}
	return {};
}

// ---- completing it ----

Result<void> IncomingVm::check_complete()
{
	if (nr_vcpus_ != record_.vcpus) {
		log_info("a VM is not complete: %u of its %u vCPUs are retrieved", nr_vcpus_,
			 record_.vcpus);
		return fail(Errno::Again);
	}
	const unsigned int nr = nr_slots();
	if (nr != record_.slots) {
		log_info("a VM is not complete: %u of its %u memory slots are known; the others "
			 "come with guest_memfds",
			 nr, record_.slots);
		return fail(Errno::Again);
	}
	for (const IncomingSlot &slot : slots_) {
		if (!slot.present) {
			log_info("a VM is not complete: memory slot %#x is not there",
				 slot.slot.slot);
			return fail(Errno::Again);
		}
	}
	return {};
}

Result<void> IncomingVm::complete(unsigned long scratch)
{
	TRY(check_complete());
	// Registers are about to be written that KVM follows into this memory.
	for (const IncomingSlot &slot : slots_)
		TRY(check_mapping(slot, slot.slot.hva));
	TRY(load(scratch));
	linux_kvm_unpark(linux_kvm_of(vm_));
	complete_ = true;
	return {};
}

Result<void> IncomingVm::load(unsigned long scratch)
{
	// Also first: a wall clock, which KVM writes anew with its MSR, goes by it.
	TRY(check_status(linux_kvm_set_clock(scratch, vm_, clock_at(record_, ferry_tsc()))));
	for (IncomingVcpu &vcpu : vcpus_) {
		auto loaded = load_vcpu(scratch, vcpu.vcpu, vcpu.record, vcpu.state.bytes());
		if (!loaded.has_value()) {
			log_err("vCPU %u cannot be given its state (%d)", vcpu.record.id,
				ferry::to_errno(loaded));
			return loaded;
		}
	}
	TRY(load_vm_late(scratch, vm_, state_.bytes()));
	TRY(load_dirty());
	return check_status(linux_kvm_set_clock(scratch, vm_, clock_at(record_, ferry_tsc())));
}

Result<void> IncomingVm::load_dirty()
{
	return for_each_section(state_.bytes(), [&](const Section &section) -> Result<void> {
		if (section.kind != FERRY_KVM_DIRTY)
			return {};
		ferry_kvm_dirty head;
		if (section.data.size() < sizeof(head))
			return fail(Errno::BadMsg);
		memcpy(&head, section.data.data(), sizeof(head));
		const Bytes bitmap = section.data.subspan(sizeof(head));
		return check_status(linux_kvm_dirty_add(linux_kvm_of(vm_), head.slot, bitmap.data(),
							bitmap.size()));
	});
}

// ---- luo's operations: a VM ----

namespace {

// What prepare_vm() left, or made now. It is `priv` from then on.
Result<IncomingVm *> taken_vm(ferry_luo_args *args)
{
	if (!args->priv) {
		bool taken = false;
		auto vm = IncomingVm::read(args->state, taken);
		if (!vm.has_value()) {
			args->priv = taken ? &state_taken : nullptr;
			return fail(vm.error());
		}
		args->priv = vm->release();
	}
	if (args->priv == &state_taken)
		return fail(Errno::BadMsg);
	return static_cast<IncomingVm *>(args->priv);
}

Result<IncomingVm *> make_vm(ferry_luo_args *args)
{
	IncomingVm *vm = TRY(taken_vm(args));
	if (!vm->vm()) {
		Scratch scratch = TRY(Scratch::map());
		TRY(vm->create(scratch.at()));
	}
	TRY(vm->load_slots(args->self));
	return vm;
}

} // namespace

void prepare_vm(ferry_luo_args *args)
{
	auto vm = taken_vm(args);
	if (vm.has_value())
		(*vm)->work_ahead();
}

int retrieve_vm(ferry_luo_args *args)
{
	auto made = make_vm(args);
	if (!made.has_value())
		return ferry::to_errno(made);
	IncomingVm *vm = *made;
	args->file = linux_kvm_share(vm->vm());
	Guard guard{incoming->mutex};
	incoming->vms.push_back(*vm);
	return 0;
}

void finish_vm(ferry_luo_args *args)
{
	if (!args->priv)
		return drop_blob(args->state, "state", "a VM");
	if (args->priv == &state_taken)
		return;
	auto *vm = static_cast<IncomingVm *>(args->priv);
	if (args->status == FERRY_RETRIEVED && !vm->is_complete())
		log_warn("a VM is finished before it was complete, and cannot run");
	Guard guard{incoming->mutex};
	if (vm->linked())
		ferry::List<IncomingVm>::remove(*vm);
	ferry::destroy(vm);
}

// ---- a vCPU ----

namespace {

// The VM that a file of it needs, as its first dependency.
Result<IncomingVm *> vm_of(ferry_luo_args *args)
{
	file *vm;
	TRY(check_status(ferry_luo_dependency(args->self, 0, &vm)));
	// Ours keeps it, if it is one.
	ferry::Undo put{[vm] { linux_kvm_fput(vm); }};
	if (!linux_kvm_is_vm(vm))
		return fail(Errno::BadMsg);
	IncomingVm *found = incoming->find(linux_kvm_of(vm));
	if (!found)
		return fail(Errno::BadMsg);
	return found;
}

Result<Owned<IncomingVcpu>> make_vcpu(ferry_luo_args *args)
{
	IncomingVm *vm = TRY(vm_of(args));
	auto vcpu = TRY(ferry::make<IncomingVcpu>());
	TRY(check_status(ferry_get(args->state, &ferry_kvm_vcpu_record, &vcpu->record)));
	vcpu->state = TRY(load_blob(args->state, "state", "a vCPU"));
	args->priv = &state_taken;
	TRY(check_vcpu(vcpu->state.bytes()));
	vcpu->vcpu = TRY(vm->create_vcpu(vcpu->record.id));
	vm->add(*vcpu);
	return vcpu;
}

} // namespace

int retrieve_vcpu(ferry_luo_args *args)
{
	Guard guard{incoming->mutex};
	auto made = make_vcpu(args);
	if (!made.has_value())
		return ferry::to_errno(made);
	IncomingVcpu *vcpu = made->release();
	args->priv = vcpu;
	args->file = linux_kvm_share(vcpu->vcpu);
	return 0;
}

void finish_vcpu(ferry_luo_args *args)
{
	if (args->status != FERRY_RETRIEVED) {
		if (!args->priv)
			drop_blob(args->state, "state", "a vCPU");
		return;
	}
	auto *vcpu = static_cast<IncomingVcpu *>(args->priv);
	Guard guard{incoming->mutex};
	// Its VM is finished after it.
	if (IncomingVm *vm = incoming->find(linux_kvm_of(vcpu->vcpu)))
		vm->remove(*vcpu);
	ferry::destroy(vcpu);
}

// ---- a guest_memfd ----

namespace {

Result<ferry_runs_in *> open_pages(ferry_node state)
{
	ferry_bulk bulk;
	TRY(check_status(ferry_get(ferry_child(state, "pages"), &ferry_bulk_record, &bulk)));
	ferry_runs_in *pages;
	TRY(check_status(ferry_runs_open(&bulk, "guest_memfd", &pages)));
	return pages;
}

Result<void> insert(file *gmem, const ferry_run &run, unsigned long long bytes)
{
	const bool fits = !run.order && !(run.flags & ~FERRY_RUN_DESCENDING) &&
			  run.index + run.count <= bytes / 4096;
	if (!fits) {
		log_err("a guest_memfd of %llu bytes: the run of %u pages of order %u at page %llu "
			"makes no sense",
			bytes, run.count, run.order, run.index);
		linux_gmem_free(&run);
		return fail(Errno::BadMsg);
	}
	auto done = check_status(linux_gmem_insert(gmem, &run));
	if (!done.has_value())
		log_err("a guest_memfd of %llu bytes: the run of %u pages at page %llu: error %d",
			bytes, run.count, run.index, ferry::to_errno(done));
	return done;
}

Result<void> fill(file *gmem, ferry_runs_in *pages, unsigned long long bytes)
{
	ferry_run run;
	while (TRY(check(ferry_runs_next(pages, &run))))
		TRY(insert(gmem, run, bytes));
	return {};
}

Result<void> bind(IncomingVm &vm, file *gmem, unsigned long long token, unsigned long scratch,
		  Bytes slots)
{
	return for_each_section(slots, [&](const Section &section) -> Result<void> {
		if (section.kind != FERRY_KVM_SLOT)
			return fail(Errno::BadMsg);
		IncomingSlot *slot =
			TRY(vm.add_slot(section.data, linux_kvm_share(gmem), token, true));
		// Where the address is not to be had, SET_MEMORY gives another one.
		if (!vm.create_slot(scratch, *slot).has_value())
			log_info("memory slot %#x waits for an address", slot->slot.slot);
		return {};
	});
}

Result<file *> make_gmem(ferry_luo_args *args)
{
	IncomingVm *vm = TRY(vm_of(args));
	// The pages first: whatever fails later, closing them frees them.
	ferry_runs_in *pages = TRY(open_pages(args->state));
	args->priv = &pages_taken;
	ferry::Undo close{[pages] { ferry_runs_close(pages); }};
	Blob slots = TRY(load_blob(args->state, "slots", "a guest_memfd"));
	args->priv = &state_taken;

	ferry_kvm_gmem record;
	TRY(check_status(ferry_get(args->state, &ferry_kvm_gmem_record, &record)));
	Scratch scratch = TRY(Scratch::map());
	file *gmem;
	TRY(check_status(
		linux_kvm_create_gmem(scratch.at(), vm->vm(), record.bytes, record.flags, &gmem)));
	ferry::Undo put{[&] {
		vm->remove_slots(gmem);
		linux_kvm_fput(gmem);
	}};
	TRY(fill(gmem, pages, record.bytes));
	TRY(bind(*vm, gmem, args->token, scratch.at(), slots.bytes()));
	put.dismiss();
	return gmem;
}

} // namespace

int retrieve_gmem(ferry_luo_args *args)
{
	Guard guard{incoming->mutex};
	auto made = make_gmem(args);
	if (made.has_value())
		args->file = *made;
	return ferry::to_errno(made);
}

void finish_gmem(ferry_luo_args *args)
{
	if (args->status == FERRY_RETRIEVED) {
		Guard guard{incoming->mutex};
		// Its VM is finished after it.
		if (IncomingVm *vm = incoming->find(linux_kvm_of(args->file)))
			vm->remove_slots(args->file);
		return;
	}
	if (args->priv == &state_taken)
		return;
	if (!args->priv) {
		auto pages = open_pages(args->state);
		if (pages.has_value())
			ferry_runs_close(*pages);
		else
			log_err("the pages of a guest_memfd that nobody retrieved are lost (%d)",
				ferry::to_errno(pages));
	}
	drop_blob(args->state, "slots", "a guest_memfd");
}

// ---- the device ----

namespace {

// The argument of a call, and the VM that it is about. With the mutex held.
struct Call {
	liveupdate_kvm_memory arg{};
	file *vm = nullptr; // with a reference
	IncomingVm *of = nullptr;

	Call() = default;
	Call(const Call &) = delete;
	Call &operator=(const Call &) = delete;
	~Call()
	{
		if (vm)
			linux_kvm_fput(vm);
	}

	Result<void> begin(unsigned long from)
	{
		TRY(check_status(linux_kvm_copy_in(&arg, from, sizeof(arg))));
		if (arg.size != sizeof(arg) || arg.reserved)
			return fail(Errno::Inval);
		vm = linux_kvm_fget(arg.vm);
		if (!vm || !linux_kvm_is_vm(vm))
			return fail(Errno::BadF);
		of = incoming->find(linux_kvm_of(vm));
		return of ? Result<void>{} : fail(Errno::NoEnt);
	}
};

} // namespace

Result<void> get_memory(unsigned long at)
{
	Guard guard{incoming->mutex};
	Call call;
	TRY(call.begin(at));
	const unsigned int room = call.arg.nr_slots;
	call.arg.nr_slots = call.of->nr_slots();
	TRY(check_status(linux_kvm_copy_out(at, &call.arg, sizeof(call.arg))));
	if (room < call.arg.nr_slots)
		return fail(Errno::NoSpc);
	return call.of->describe(call.arg.slots);
}

Result<void> set_memory(unsigned long at)
{
	Guard guard{incoming->mutex};
	Call call;
	TRY(call.begin(at));
	if (call.of->is_complete())
		return fail(Errno::Already);
	Scratch scratch = TRY(Scratch::map());
	unsigned long long from = call.arg.slots;
	for (unsigned int i = 0; i < call.arg.nr_slots; ++i, from += sizeof(liveupdate_kvm_slot)) {
		liveupdate_kvm_slot slot;
		TRY(check_status(linux_kvm_copy_in(&slot, from, sizeof(slot))));
		TRY(call.of->set_slot(scratch.at(), slot.slot, slot.userspace_addr));
	}
	return call.of->complete(scratch.at());
}

} // namespace virt
