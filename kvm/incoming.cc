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
using ferry::Ref;
using ferry::Result;

namespace virt {

namespace {

// 64 TiB of memory, in pages: more than a guest can address on any host.
constexpr unsigned long long max_pages = 1ull << 34;

// Entries of one SET_MEMORY: two for each slot that KVM can have, in both address
// spaces.
constexpr unsigned int max_entries = 4 * 32768;

class Incoming {
    public:
	void add(IncomingVm &vm)
	{
		Guard guard{mutex_};
		vms_.push_back(vm);
	}
	void remove(IncomingVm &vm)
	{
		Guard guard{mutex_};
		if (vm.linked())
			ferry::List<IncomingVm>::remove(vm);
	}
	// The VM of a file; Errno::NoEnt.
	Result<Ref<IncomingVm>> find(file *of)
	{
		struct kvm *kvm = linux_kvm_of(of);
		Guard guard{mutex_};
		for (IncomingVm &vm : vms_) {
			if (linux_kvm_of(vm.vm()) == kvm)
				return Ref{vm};
		}
		return fail(Errno::NoEnt);
	}

    private:
	ferry::Mutex<"kvm.incoming"> mutex_;
	ferry::List<IncomingVm> vms_;
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
	TRY(check_status(ferry_blob_load(&ref, what, FERRY_KVM_BLOB_MAX, &data)));
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

EarlyVcpu::~EarlyVcpu()
{
	if (vcpu)
		linux_kvm_fput(vcpu);
}

IncomingVm::~IncomingVm()
{
	while (IncomingVcpu *vcpu = vcpus_.front()) {
		ferry::List<IncomingVcpu>::remove(*vcpu);
		ferry::destroy(vcpu);
	}
	drop();
}

// In the worker, where they were made.
Result<void> IncomingVm::take_own_slots()
{
	struct kvm *kvm = linux_kvm_of(vm_);
	linux_kvm_own_slot own[LINUX_KVM_OWN_SLOTS];
	const unsigned int nr = linux_kvm_own_slots(kvm, own);
	if (!nr)
		return {};
	return in_worker([&](unsigned long) -> Result<void> {
		for (unsigned int i = 0; i < nr; ++i) {
			TRY(check_status(linux_kvm_drop_own_slot(kvm, &own[i])));
			own_[nr_own_++] = own[i];
		}
		return {};
	});
}

// Of what was made of it.
void IncomingVm::drop()
{
	while (EarlyVcpu *vcpu = early_.front()) {
		ferry::List<EarlyVcpu>::remove(*vcpu);
		ferry::destroy(vcpu);
	}
	if (!vm_)
		return;
	// The worker lives longer than a VM; so would its memory.
	if (!loading_)
		(void)take_own_slots();
	nr_own_ = 0;
	linux_kvm_fput(std::exchange(vm_, nullptr));
}

// ---- making a VM ----

namespace {

// Is a field about what a VM is? The others are about its state.
bool describes_vm(const ferry_field &field)
{
	for (auto offset : {offsetof(ferry_kvm_vm, vcpus), offsetof(ferry_kvm_vm, slots),
			    offsetof(ferry_kvm_vm, clock), offsetof(ferry_kvm_vm, tsc),
			    offsetof(ferry_kvm_vm, tsc_khz)}) {
		if (field.offset == offset)
			return false;
	}
	return true;
}

bool differs(const ferry_kvm_vm &want, const ferry_kvm_vm &have, const ferry_field &field)
{
	return memcmp(reinterpret_cast<const char *>(&want) + field.offset,
		      reinterpret_cast<const char *>(&have) + field.offset, field.room) != 0;
}

// Of the fields that describe what the VM is, the name of one that differs; null
// if none does.
const char *difference(const ferry_kvm_vm &want, const ferry_kvm_vm &have)
{
	for (const ferry_field &field : ferry_kvm_vm_fields) {
		if (describes_vm(field) && differs(want, have, field))
			return field.name;
	}
	return nullptr;
}

} // namespace

Result<Ref<IncomingVm>> IncomingVm::read(ferry_node state, bool &taken)
{
	ferry_kvm_vm record;
	TRY(check_status(ferry_get(state, &ferry_kvm_vm_record, &record)));
	// First, so that without memory nothing was taken yet.
	auto vm = TRY(ferry::make_ref<IncomingVm>(record));
	vm->state_ = TRY(load_blob(state, "state", "a VM"));
	taken = true;
	TRY(check_vm(vm->state_.bytes()));
	return vm;
}

Result<void> IncomingVm::make(unsigned long scratch)
{
	TRY(check_status(linux_kvm_create_vm(&vm_)));
	TRY(configure(scratch));
	return load_vm_early(scratch, vm_, state_.bytes());
}

Result<void> IncomingVm::create()
{
	if (vm_)
		return {};
	auto made = in_worker([this](unsigned long scratch) { return make(scratch); });
	if (!made.has_value())
		drop();
	return made;
}

void IncomingVm::work_ahead()
{
	auto made = in_worker([this](unsigned long scratch) -> Result<void> {
		TRY(make(scratch));
		return create_vcpus();
	});
	// Whoever retrieves it tries again, and learns why it does not go.
	if (!made.has_value()) {
		drop();
		return;
	}
	// Nobody's for now: to leave a process takes longer than to come to one.
	(void)linux_kvm_adopt(linux_kvm_of(vm_));
}

void IncomingVm::load_ahead(const ferry_kvm_vcpu &record, Bytes state)
{
	EarlyVcpu *early = find_early(record.id);
	if (!early || !may_load_ahead(record, state))
		return;
	if (std::exchange(early->tried, true)) {
		log_err("vCPU %u is there twice", record.id);
		early->ahead = false;
		return;
	}
	// What does not go is tried again by set_memory(), and told there.
	auto loaded = in_worker([&](unsigned long scratch) -> Result<void> {
		early->rest = TRY(load_vcpu_most(scratch, early->vcpu, record, state));
		return {};
	});
	early->ahead = loaded.has_value();
}

EarlyVcpu *IncomingVm::find_early(unsigned int number)
{
	for (EarlyVcpu &early : early_) {
		if (early.number == number)
			return &early;
	}
	return nullptr;
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

Result<void> IncomingVm::create_vcpu(IncomingVcpu &vcpu)
{
	if (EarlyVcpu *early = find_early(vcpu.record.id)) {
		vcpu.vcpu = std::exchange(early->vcpu, nullptr);
		vcpu.ahead = early->ahead;
		vcpu.rest = std::move(early->rest);
		ferry::List<EarlyVcpu>::remove(*early);
		ferry::destroy(early);
		return {};
	}
	return in_worker([&](unsigned long) {
		return check_status(linux_kvm_create_vcpu(vm_, vcpu.record.id, &vcpu.vcpu));
	});
}

// The order of the fields is one in which they can be set: irqchips come first.
Result<void> IncomingVm::configure(unsigned long scratch)
{
	ferry_kvm_vm have{};
	(void)linux_kvm_vm_look(linux_kvm_of(vm_), &have);
	int err = 0;
	for (const ferry_field &field : ferry_kvm_vm_fields) {
		if (!err && describes_vm(field) && differs(record_, have, field))
			err = linux_kvm_set_field(scratch, vm_, &record_, field.offset);
	}
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
	    slot.slot.first > max_pages || slots_.find(slot.slot.slot)) {
		log_err("memory slot %#x makes no sense", slot.slot.slot);
		return fail(Errno::BadMsg);
	}
	TRY(slots_.add(std::move(*made)));
	return &slot;
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

Result<void> IncomingVm::check_mapping(const IncomingSlot &slot, unsigned long long hva,
				       Patience &patience)
{
	auto found = find_backing(nullptr, hva, slot.slot.pages, patience);
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

Result<void> IncomingVm::set_slot(unsigned long scratch, const liveupdate_kvm_slot &want,
				  Patience &patience)
{
	IncomingSlot *slot = slots_.find(want.slot);
	if (!slot) {
		log_err("memory slot %#x: the VM had no such slot", want.slot);
		return fail(Errno::Inval);
	}
	TRY(check_mapping(*slot, want.userspace_addr, patience));
	slot->slot.hva = want.userspace_addr;
	auto created = create_slot(scratch, *slot);
	if (!created.has_value())
		log_err("memory slot %#x cannot be created (%d)", want.slot,
			ferry::to_errno(created));
	return created;
}

void IncomingVm::describe(liveupdate_kvm_slot *to) const
{
	constexpr unsigned int page_shift = 12;
	for (const IncomingSlot *slot : slots_)
		*to++ = {
			.slot = slot->slot.slot,
			.flags = slot->slot.flags,
			.guest_phys_addr = slot->slot.gfn << page_shift,
			.memory_size = slot->slot.pages << page_shift,
			.userspace_addr = slot->slot.hva,
			.offset = slot->slot.first << page_shift,
			.token = slot->token,
			.backing = slot->gmem ? 1u * LIVEUPDATE_KVM_GUEST_MEMFD
					      : 1u * LIVEUPDATE_KVM_MEMFD,
			.present = slot->present,
		};
}

// ---- completing it ----

Result<void> IncomingVm::check_complete()
{
	if (nr_vcpus_ != record_.vcpus) {
		log_info("a VM is not complete: %u of its %u vCPUs are retrieved", nr_vcpus_,
			 record_.vcpus);
		return fail(Errno::Again);
	}
	if (nr_slots() != record_.slots) {
		log_info("a VM is not complete: %u of its %u memory slots are known; the others "
			 "come with guest_memfds",
			 nr_slots(), record_.slots);
		return fail(Errno::Again);
	}
	for (const IncomingSlot *slot : slots_) {
		if (!slot->present) {
			log_info("a VM is not complete: memory slot %#x is not there",
				 slot->slot.slot);
			return fail(Errno::Again);
		}
	}
	return {};
}

Result<void> IncomingVm::adopt()
{
	struct kvm *kvm = linux_kvm_of(vm_);
	if (!loading_)
		return check_status(linux_kvm_adopt(kvm));
	if (linux_kvm_is_here(kvm))
		return {};
	log_err("a VM has to stay with the process that began to load its state");
	return fail(Errno::Busy);
}

Result<void> IncomingVm::set_memory(unsigned long scratch,
				    std::span<const liveupdate_kvm_slot> slots)
{
	if (complete_)
		return fail(Errno::Already);
	TRY(adopt());
	Patience patience;
	for (const liveupdate_kvm_slot &slot : slots)
		TRY(set_slot(scratch, slot, patience));
	return complete(scratch, patience);
}

Result<void> IncomingVm::complete(unsigned long scratch, Patience &patience)
{
	TRY(check_complete());
	// Registers are about to be written that KVM follows into this memory.
	for (const IncomingSlot *slot : slots_)
		TRY(check_mapping(*slot, slot->slot.hva, patience));
	if (!loading_)
		TRY(take_own_slots());
	loading_ = true;
	for (; nr_own_; --nr_own_)
		TRY(check_status(linux_kvm_make_own_slot(linux_kvm_of(vm_), &own_[nr_own_ - 1])));
	TRY(load(scratch));
	complete_ = true;
	linux_kvm_unpark(linux_kvm_of(vm_));
	return {};
}

Result<void> IncomingVm::load(unsigned long scratch)
{
	// Also first: a wall clock, which KVM writes anew with its MSR, goes by it.
	TRY(check_status(linux_kvm_set_clock(scratch, vm_, clock_at(record_, ferry_tsc()))));
	for (IncomingVcpu &vcpu : vcpus_) {
		auto loaded = load_vcpu(scratch, vcpu);
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

Result<void> IncomingVm::load_vcpu(unsigned long scratch, IncomingVcpu &vcpu)
{
	if (!vcpu.ahead)
		vcpu.rest =
			TRY(load_vcpu_most(scratch, vcpu.vcpu, vcpu.record, vcpu.state.bytes()));
	return load_vcpu_rest(scratch, vcpu.vcpu, vcpu.rest);
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
	Guard guard{vm->mutex};
	TRY(vm->create());
	TRY(vm->load_slots(args->self));
	return vm;
}

} // namespace

void prepare_vm(ferry_luo_args *args)
{
	auto vm = taken_vm(args);
	if (!vm.has_value())
		return;
	Guard guard{(*vm)->mutex};
	(*vm)->work_ahead();
}

int retrieve_vm(ferry_luo_args *args)
{
	auto made = make_vm(args);
	if (!made.has_value())
		return ferry::to_errno(made);
	IncomingVm *vm = *made;
	args->file = linux_kvm_share(vm->vm());
	incoming->add(*vm);
	return 0;
}

void finish_vm(ferry_luo_args *args)
{
	if (!args->priv)
		return drop_blob(args->state, "state", "a VM");
	if (args->priv == &state_taken)
		return;
	auto vm = Ref<IncomingVm>::adopt(static_cast<IncomingVm *>(args->priv));
	if (args->status == FERRY_RETRIEVED && !vm->is_complete())
		log_warn("a VM is finished before it was complete, and cannot run");
	// What came of its vCPUs and guest_memfds goes with it, or with the last call
	// that is under way.
	incoming->remove(*vm);
}

// ---- a vCPU ----

namespace {

// The VM that a file of it needs, as its first dependency.
Result<Ref<IncomingVm>> vm_of(ferry_luo_args *args)
{
	file *vm;
	TRY(check_status(ferry_luo_dependency(args->self, 0, &vm)));
	// Ours keeps it, if it is one.
	ferry::Undo put{[vm] { linux_kvm_fput(vm); }};
	if (!linux_kvm_is_vm(vm))
		return fail(Errno::BadMsg);
	auto found = incoming->find(vm);
	return found.has_value() ? std::move(found) : fail(Errno::BadMsg);
}

// What prepare_vcpu() left, or read now.
Result<Owned<IncomingVcpu>> taken_vcpu(ferry_luo_args *args)
{
	if (args->priv == &state_taken)
		return fail(Errno::BadMsg);
	if (args->priv)
		return Owned<IncomingVcpu>{
			static_cast<IncomingVcpu *>(std::exchange(args->priv, &state_taken))};
	auto vcpu = TRY(ferry::make<IncomingVcpu>());
	TRY(check_status(ferry_get(args->state, &ferry_kvm_vcpu_record, &vcpu->record)));
	vcpu->state = TRY(load_blob(args->state, "state", "a vCPU"));
	args->priv = &state_taken;
	TRY(check_vcpu(vcpu->state.bytes()));
	return vcpu;
}

Result<file *> make_vcpu(ferry_luo_args *args)
{
	auto vm = TRY(vm_of(args));
	Guard guard{vm->mutex};
	auto vcpu = TRY(taken_vcpu(args));
	TRY(vm->create_vcpu(*vcpu));
	file *its_file = vcpu->vcpu;
	vm->add(std::move(vcpu));
	return linux_kvm_share(its_file);
}

} // namespace

void prepare_vcpu(ferry_luo_args *args)
{
	auto taken = taken_vcpu(args);
	if (!taken.has_value())
		return;
	IncomingVcpu *vcpu = taken->release();
	args->priv = vcpu;
	void *of = ferry_luo_dependency_priv(args->self, 0, &vm_handler());
	if (!of || of == &state_taken)
		return;
	auto *vm = static_cast<IncomingVm *>(of);
	Guard guard{vm->mutex};
	vm->load_ahead(vcpu->record, vcpu->state.bytes());
}

int retrieve_vcpu(ferry_luo_args *args)
{
	auto made = make_vcpu(args);
	if (made.has_value())
		args->file = *made;
	return ferry::to_errno(made);
}

void finish_vcpu(ferry_luo_args *args)
{
	if (args->priv && args->priv != &state_taken)
		ferry::destroy(static_cast<IncomingVcpu *>(args->priv));
	else if (args->status != FERRY_RETRIEVED && !args->priv)
		drop_blob(args->state, "state", "a vCPU");
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
		ferry_run_free(&run);
		return fail(Errno::BadMsg);
	}
	auto done = check_status(linux_gmem_insert(gmem, &run));
	if (!done.has_value())
		log_err("a guest_memfd of %llu bytes: the run of %u pages at page %llu: error %d",
			bytes, run.count, run.index, ferry::to_errno(done));
	return done;
}

// Not part of its caller, which has enough on the stack.
[[gnu::noinline]] Result<void> fill(ferry_luo_file *self, file *gmem, ferry_runs_in *pages,
				    unsigned long long bytes)
{
	ferry_run runs[32];
	unsigned long long done = 0;
	while (const unsigned int nr = TRY(check(ferry_runs_next(pages, runs, std::size(runs))))) {
		unsigned int at = 0;
		ferry::Undo drop{[&] {
			while (at < nr)
				ferry_run_free(&runs[at++]);
		}};
		while (at < nr) {
			done += runs[at].count;
			TRY(insert(gmem, runs[at++], bytes));
		}
		ferry_luo_progress(self, done * 4096, 0);
	}
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
	auto vm = TRY(vm_of(args));
	Guard guard{vm->mutex};
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
	TRY(fill(args->self, gmem, pages, record.bytes));
	TRY(bind(*vm, gmem, args->token, scratch.at(), slots.bytes()));
	put.dismiss();
	return gmem;
}

} // namespace

int retrieve_gmem(ferry_luo_args *args)
{
	auto made = make_gmem(args);
	if (made.has_value())
		args->file = *made;
	return ferry::to_errno(made);
}

void finish_gmem(ferry_luo_args *args)
{
	if (args->status == FERRY_RETRIEVED || args->priv == &state_taken)
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

// The argument of a call, and the VM that it is about.
struct Call {
	liveupdate_kvm_memory arg{};
	Ref<IncomingVm> vm;

	Result<void> begin(unsigned long from)
	{
		TRY(check_status(linux_kvm_copy_in(&arg, from, sizeof(arg))));
		if (arg.size != sizeof(arg) || arg.reserved)
			return fail(Errno::Inval);
		file *of = linux_kvm_fget(arg.vm);
		if (!of)
			return fail(Errno::BadF);
		ferry::Undo put{[of] { linux_kvm_fput(of); }};
		if (!linux_kvm_is_vm(of))
			return fail(Errno::BadF);
		vm = TRY(incoming->find(of));
		return {};
	}
};

// The entries of a call. Memory of user space is read and written with no lock
// held: that may take as long as somebody likes.
class Entries {
    public:
	Entries() = default;
	Entries(const Entries &) = delete;
	Entries &operator=(const Entries &) = delete;
	~Entries()
	{
		ferry_free(entry_);
	}
	Result<void> allocate(unsigned int nr)
	{
		entry_ = static_cast<liveupdate_kvm_slot *>(
			ferry_alloc((std::size_t{nr} + 1) * sizeof(*entry_)));
		if (!entry_)
			return fail(Errno::NoMem);
		nr_ = nr;
		return {};
	}
	// Where there are none, the address says nothing.
	Result<void> copy_in(unsigned long long from)
	{
		return check_status(nr_ ? linux_kvm_copy_in(entry_, from, all().size_bytes()) : 0);
	}
	Result<void> copy_out(unsigned long long to) const
	{
		return check_status(nr_ ? linux_kvm_copy_out(to, entry_, all().size_bytes()) : 0);
	}
	std::span<liveupdate_kvm_slot> all() const
	{
		return {entry_, nr_};
	}

    private:
	liveupdate_kvm_slot *entry_ = nullptr;
	unsigned int nr_ = 0;
};

Result<void> list_slots(IncomingVm &vm, Entries &entries)
{
	Guard guard{vm.mutex};
	TRY(entries.allocate(vm.nr_slots()));
	vm.describe(entries.all().data());
	return {};
}

} // namespace

Result<void> get_memory(unsigned long at)
{
	Call call;
	TRY(call.begin(at));
	Entries entries;
	TRY(list_slots(*call.vm, entries));
	const unsigned int room = call.arg.nr_slots;
	call.arg.nr_slots = static_cast<unsigned int>(entries.all().size());
	TRY(check_status(linux_kvm_copy_out(at, &call.arg, sizeof(call.arg))));
	if (room < call.arg.nr_slots)
		return fail(Errno::NoSpc);
	return entries.copy_out(call.arg.slots);
}

Result<void> set_memory(unsigned long at)
{
	Call call;
	TRY(call.begin(at));
	if (call.arg.nr_slots > max_entries)
		return fail(Errno::TooBig);
	Entries entries;
	TRY(entries.allocate(call.arg.nr_slots));
	TRY(entries.copy_in(call.arg.slots));
	Scratch scratch = TRY(Scratch::map());
	Guard guard{call.vm->mutex};
	return call.vm->set_memory(scratch.at(), entries.all());
}

} // namespace virt
