// SPDX-License-Identifier: GPL-2.0
#include "kvm.hh"

#include "kho.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kho/linux.h"
#include "luo/linux.h"

namespace fake {

Host host;
unsigned int mmap_lock_taken;
int process = 1;

namespace {

constexpr unsigned int flag_log = 1, flag_gmem = 4;
constexpr unsigned long long page_size = 4096;

struct Mapping {
	file *of;
	Page first, pages;
	bool shared;
};
std::map<unsigned long long, Mapping> mappings;

std::set<Vm *> vms;
std::set<Gmem *> gmems;

// Scratch memory that is mapped, by its address; and that of the worker.
std::set<unsigned long> scratches;
unsigned long next_scratch = 0x700000000000;
constexpr unsigned long worker_scratch = 0x100000;
bool in_worker;

// Page frames for the guest_memfds of this kernel.
constexpr Pfn first_gmem_pfn = first_folio + (1 << 16);
Pfn next_pfn = first_gmem_pfn;

bool any_frozen()
{
	return std::any_of(vms.begin(), vms.end(), [](Vm *vm) { return vm->frozen; });
}

Host usual_host()
{
	Host usual;
	usual.msr_list = {0x10, 0x174, 0x175, 0x176, 0xc0000102, 0x4b564d01, 0x6e0};
	usual.new_vm.max_vcpu_id = 4096;
	usual.new_vm.disabled_quirks = 0x20;
	usual.new_vm.apic_bus_cycles_ns = 1;
	usual.new_vm.halt_poll_ns = ~0ull;
	usual.new_vm.notify_vmexit = 0xffffffff00000000;
	usual.new_vm.platform_info = usual.new_vm.pmu = 1;
	usual.new_vm_states[FERRY_KVM_ROUTING] = Data{1, 0, 0, 0};
	for (unsigned int kind = FERRY_KVM_REGS; kind < FERRY_KVM_MSRS; ++kind)
		usual.new_vcpu.states[kind] = Data(8, 0);
	usual.new_vcpu.is.mcg_cap = 2;
	usual.new_vcpu.is.tsc_khz = 2'000'000;
	for (unsigned int index : {0x174, 0x175, 0x176, 0x4b564d01, 0x6e0, 0x2ff, 0x400, 0x404})
		usual.new_vcpu.msrs[index] = 0;
	return usual;
}

[[maybe_unused]] const bool counted = [] {
	add_counter("VMs", [] { return long(vms.size()); });
	add_counter("VMs that are stopped", [] {
		return long(std::count_if(vms.begin(), vms.end(),
					  [](Vm *vm) { return vm->stopped || vm->frozen; }));
	});
	add_counter("guest_memfds", [] { return long(gmems.size()); });
	add_counter("guest_memfds that are preserved", [] {
		return long(std::count_if(gmems.begin(), gmems.end(), [](Gmem *gmem) {
			return gmem->state != LINUX_GMEM_THAWED;
		}));
	});
	add_counter("scratch memory", [] { return long(scratches.size()); });
	add_reset([] {
		unmap_all();
		run_releases();
		host = usual_host();
		mmap_lock_taken = 0;
		process = 1;
		next_pfn = first_gmem_pfn;
	});
	return true;
}();

void traced(const std::string &what)
{
	host.trace.push_back(what);
}

void traced(const std::string &what, unsigned int number)
{
	traced(what + " " + std::to_string(number));
}

Vm &vm_behind(struct kvm *kvm)
{
	return *reinterpret_cast<Vm *>(kvm);
}

bool is_kind(struct file *file, int kind)
{
	return file->kind == kind && file->behind;
}

bool is_scratch(unsigned long scratch)
{
	return in_worker ? scratch == worker_scratch : scratches.count(scratch);
}

void check_scratch(unsigned long scratch)
{
	if (!is_scratch(scratch))
		bug("an ioctl without scratch memory");
}

// A state is read: who may do that, and where to.
void check_read(unsigned long scratch, const Vm &vm)
{
	if (!vm.frozen && !vm.parked)
		bug("a VM of a process is read while it runs");
	check_scratch(scratch);
}

int here()
{
	return in_worker ? 0 : process;
}

// Something is done with a VM: an error, or 0.
int check_use(unsigned long scratch, const Vm &vm, const char *what)
{
	if (!vm.parked)
		bug("'%s' of a VM that is not parked", what);
	if (!is_scratch(scratch))
		bug("'%s' without scratch memory", what);
	return inject(what) ? -ENOMEM : 0;
}

// A state is written: an error, or 0. Before a VM is anybody's, only what is `mere`:
// it leads to no memory, and to no other object.
int check_write(unsigned long scratch, const Vm &vm, const char *what, bool mere = false)
{
	if (vm.process != here() && !(mere && in_worker && vm.process == nobody))
		bug("'%s' of a VM of another process", what);
	return check_use(scratch, vm, what);
}

// All of a vCPU's; irqchips reach for the vCPUs.
bool is_mere(unsigned int kind)
{
	return kind < FERRY_KVM_PIC_MASTER;
}

// Clocks of KVM and of Hyper-V are not.
bool is_mere_msr(unsigned int index)
{
	return index != 0x11 && index != 0x12 && index >> 8 != 0x4b564d && index >> 12 != 0x40000;
}

} // namespace

// ---- objects ----

Vm::~Vm()
{
	if (stopped || frozen)
		bug("a VM goes that is stopped");
	vms.erase(this);
}

Gmem::~Gmem()
{
	if (state != LINUX_GMEM_THAWED)
		bug("a guest_memfd goes that is preserved");
	for (auto &[number, slot] : vm->slots) {
		if (slot.gmem == this)
			slot.gmem = nullptr;
	}
	punch(0, ~0ull);
	gmems.erase(this);
}

bool Gmem::add(Page first, unsigned int count, unsigned long long pfn)
{
	if (state == LINUX_GMEM_FROZEN)
		return false;
	for (Page page = first; page < first + count; ++page) {
		if (!pages.emplace(page, pfn ? pfn++ : next_pfn++).second)
			bug("page %llu is added twice", page);
	}
	return true;
}

bool Gmem::punch(Page first, Page count)
{
	if (state != LINUX_GMEM_THAWED)
		return false;
	for (auto at = pages.lower_bound(first); at != pages.end() && at->first - first < count;) {
		if (preserved(at->second))
			bug("page %llu of a guest_memfd is freed while it is preserved", at->first);
		if (owns(at->second))
			linux_release(at->second, 1, 0);
		at = pages.erase(at);
	}
	return true;
}

file *new_vm()
{
	auto vm = std::make_shared<Vm>();
	vm->is = host.new_vm;
	vm->states = host.new_vm_states;
	vms.insert(vm.get());
	file *file = new_file("vm", KIND_VM);
	file->behind = vm;
	return file;
}

file *new_vcpu(file *vm, unsigned int id)
{
	Vm &of = vm_of(vm);
	of.vcpus.push_back(std::make_unique<Vcpu>(host.new_vcpu));
	Vcpu *vcpu = of.vcpus.back().get();
	vcpu->id = id;
	file *file = new_file("vcpu", KIND_VCPU);
	// A vCPU goes with its VM, which its file keeps.
	file->behind = std::shared_ptr<Vcpu>(std::static_pointer_cast<Vm>(vm->behind), vcpu);
	file->needs.push_back(vm);
	linux_file_get(vm);
	return file;
}

file *new_gmem(file *vm, unsigned long long bytes, unsigned long long flags)
{
	auto gmem = std::make_shared<Gmem>();
	gmem->vm = std::static_pointer_cast<Vm>(vm->behind);
	gmem->bytes = bytes;
	gmem->flags = flags;
	gmems.insert(gmem.get());
	file *file = new_file("gmem", KIND_GMEM);
	file->behind = gmem;
	gmem->its_file = file;
	return file;
}

Vm &vm_of(file *file)
{
	if (is_kind(file, KIND_VCPU))
		return vm_of(file->needs.at(0));
	if (is_kind(file, KIND_GMEM))
		return *gmem_of(file).vm;
	if (!is_kind(file, KIND_VM)) {
		bug("'%s' is no file of a VM", file->name.c_str());
		std::abort();
	}
	return *static_cast<Vm *>(file->behind.get());
}

Vcpu &vcpu_of(file *file)
{
	if (!is_kind(file, KIND_VCPU)) {
		bug("'%s' is no vCPU", file->name.c_str());
		std::abort();
	}
	return *static_cast<Vcpu *>(file->behind.get());
}

Gmem &gmem_of(file *file)
{
	if (!is_kind(file, KIND_GMEM)) {
		bug("'%s' is no guest_memfd", file->name.c_str());
		std::abort();
	}
	return *static_cast<Gmem *>(file->behind.get());
}

Slot &add_slot(file *vm, const ferry_kvm_slot &is, file *gmem)
{
	Slot &slot = vm_of(vm).slots[is.slot];
	slot.is = is;
	slot.gmem = gmem ? &gmem_of(gmem) : nullptr;
	if (is.flags & flag_log)
		slot.dirty.resize((is.pages + 63) / 64);
	return slot;
}

int run(file *file)
{
	Vm &vm = vm_of(file);
	Vcpu &vcpu = vcpu_of(file);
	if (vm.frozen || vm.parked)
		return -EBUSY;
	vcpu.unfinished_exit = false;
	return vm.stopped ? -EINTR : 0;
}

void map(unsigned long long hva, file *file, Page first, Page pages, bool shared)
{
	linux_file_get(file);
	if (!mappings.emplace(hva, Mapping{file, first, pages, shared}).second)
		bug("%#llx is mapped twice", hva);
}

void unmap_all()
{
	for (auto &[hva, mapping] : mappings)
		linux_file_put(mapping.of);
	mappings.clear();
	run_releases();
}

namespace {

struct module kvm_module{.name = "luo_kvm"};

// As backing_of() of kvm/linux_memory.c.
int find_mapping(unsigned long long hva, Page pages, Mapping &found)
{
	unsigned long long at = hva;
	const unsigned long long end = hva + pages * page_size;
	if (end <= hva) {
		bug("%#llx with %llu pages reaches over the end of the address space", hva, pages);
		return -EFAULT;
	}
	found = {};
	while (at < end) {
		auto next = mappings.upper_bound(at);
		if (next == mappings.begin())
			return -EFAULT;
		auto &[start, mapping] = *--next;
		if (start + mapping.pages * page_size <= at)
			return -EFAULT;
		if (!mapping.shared)
			return -EOPNOTSUPP;
		const Page first = mapping.first + (at - start) / page_size;
		if (!found.of)
			found = {mapping.of, first, pages, true};
		else if (!linux_kvm_same_contents(found.of, mapping.of) ||
			 first != found.first + (at - hva) / page_size)
			return -EOPNOTSUPP;
		at = start + mapping.pages * page_size;
	}
	return 0;
}

} // namespace

} // namespace fake

using namespace fake;

extern "C" {

// ---- any file ----

bool linux_kvm_is_vm(struct file *file)
{
	return is_kind(file, KIND_VM);
}

bool linux_kvm_is_vcpu(struct file *file)
{
	return is_kind(file, KIND_VCPU);
}

bool linux_kvm_is_gmem(struct file *file)
{
	return is_kind(file, KIND_GMEM);
}

struct kvm *linux_kvm_of(struct file *file)
{
	return vm_of(file);
}

unsigned long linux_kvm_vm_id(struct file *file)
{
	return reinterpret_cast<unsigned long>(file->behind.get());
}

unsigned long linux_kvm_vcpu_id(struct file *file)
{
	return reinterpret_cast<unsigned long>(file->behind.get());
}

unsigned long linux_kvm_gmem_id(struct file *file)
{
	return reinterpret_cast<unsigned long>(file->behind.get());
}

struct file *linux_kvm_fget(int fd)
{
	return linux_file_of(fd);
}

struct file *linux_kvm_share(struct file *file)
{
	linux_file_get(file);
	return file;
}

void linux_kvm_fput(struct file *file)
{
	linux_file_put(file);
}

// ---- what a VM and a vCPU are ----

const char *linux_kvm_vm_look(struct kvm *kvm, struct ferry_kvm_vm *record)
{
	const Vm &vm = vm_behind(kvm);
	std::memcpy(record, &vm.is, offsetof(ferry_kvm_vm, vcpus));
	record->pit_no_reinject = vm.is.pit_no_reinject;
	record->vcpus = static_cast<unsigned int>(vm.vcpus.size());
	record->slots = static_cast<unsigned int>(vm.slots.size());
	return vm.refusal;
}

void linux_kvm_vcpu_look(struct file *file, struct ferry_kvm_vcpu *record)
{
	const Vcpu &vcpu = vcpu_of(file);
	*record = vcpu.is;
	record->id = vcpu.id;
	record->tsc = ferry_tsc();
}

long linux_kvm_vcpu_number(struct kvm *kvm, unsigned int nth)
{
	const Vm &vm = vm_behind(kvm);
	return nth < vm.vcpus.size() ? long(vm.vcpus[nth]->id) : -ENOENT;
}

// ---- stopping a VM ----

void linux_kvm_stop(struct kvm *kvm)
{
	vm_behind(kvm).stopped = true;
}

linux_kvm_vcpus linux_kvm_settled(struct kvm *kvm, unsigned int *id)
{
	const Vm &vm = vm_behind(kvm);
	if (!vm.stopped)
		bug("a VM that was not stopped cannot settle");
	auto worst = LINUX_KVM_SETTLED;
	for (auto &vcpu : vm.vcpus) {
		const auto is = vcpu->in_ioctl		? LINUX_KVM_BUSY
				: vcpu->unfinished_exit ? LINUX_KVM_UNFINISHED
							: LINUX_KVM_SETTLED;
		if (is > worst) {
			worst = is;
			*id = vcpu->id;
		}
	}
	return worst;
}

int linux_kvm_freeze(struct kvm *kvm)
{
	Vm &vm = vm_behind(kvm);
	if (vm.before_freeze)
		vm.before_freeze(vm);
	if (vm.frozen)
		bug("a VM is frozen twice");
	if (vm.in_ioctl)
		return -EAGAIN;
	vm.frozen = true;
	return 0;
}

void linux_kvm_thaw(struct kvm *kvm)
{
	if (!vm_behind(kvm).frozen)
		bug("a VM is thawed that is not frozen");
	vm_behind(kvm).frozen = false;
}

void linux_kvm_resume(struct kvm *kvm)
{
	vm_behind(kvm).frozen = vm_behind(kvm).stopped = false;
}

void linux_kvm_sleep(unsigned int milliseconds)
{
	host.slept += milliseconds;
	if (host.after_sleep)
		host.after_sleep();
}

// ---- state ----

int linux_kvm_in_worker(int (*work)(void *ctx, unsigned long scratch), void *ctx)
{
	if (inject("linux_kvm_in_worker"))
		return -ENOMEM;
	if (in_worker)
		bug("a worker waits for itself");
	in_worker = true;
	int result = work(ctx, worker_scratch);
	in_worker = false;
	return result;
}

int linux_kvm_scratch_map(unsigned long *scratch)
{
	if (any_frozen() || in_worker)
		bug("the mmap lock is taken in a freeze, or in a worker");
	// As the kernel's, it writes there in any case.
	*scratch = static_cast<unsigned long>(-ENOMEM);
	if (inject("linux_kvm_scratch_map"))
		return -ENOMEM;
	*scratch = next_scratch += LINUX_KVM_SCRATCH_BYTES;
	scratches.insert(*scratch);
	return 0;
}

void linux_kvm_scratch_unmap(unsigned long scratch)
{
	if (!scratches.erase(scratch))
		bug("scratch memory is unmapped that is not mapped");
}

static States &states_of(struct file *file, unsigned int kind)
{
	const bool of_vcpu = kind < FERRY_KVM_PIC_MASTER;
	if (of_vcpu != linux_kvm_is_vcpu(file))
		bug("state of the kind %u and '%s'", kind, file->name.c_str());
	return of_vcpu ? vcpu_of(file).states : vm_of(file).states;
}

int linux_kvm_get(unsigned long scratch, struct file *file, unsigned int kind, void *data,
		  ferry_size room)
{
	// Those of a VM may be read at any time.
	if (kind < FERRY_KVM_PIC_MASTER)
		check_read(scratch, vm_of(file));
	else
		check_scratch(scratch);
	if (inject("linux_kvm_get"))
		return -EIO;
	if (host.refused.count(kind))
		return -EINVAL;
	host.reads.push_back(kind);
	const States &states = states_of(file, kind);
	auto at = states.find(kind);
	if (at == states.end())
		return 0;
	if (at->second.size() > room)
		return -E2BIG;
	// Whatever the ioctl has of no use is there as well.
	std::memset(data, 0xee, room);
	std::memcpy(data, at->second.data(), at->second.size());
	return static_cast<int>(at->second.size());
}

int linux_kvm_set(unsigned long scratch, struct file *file, unsigned int kind, const void *data,
		  ferry_size bytes)
{
	States &states = states_of(file, kind);
	if (int err = check_write(scratch, vm_of(file), "linux_kvm_set", is_mere(kind)))
		return err;
	traced("set", kind);
	if (host.refused.count(kind))
		return -EINVAL;
	auto from = static_cast<const unsigned char *>(data);
	states[kind] = Data(from, from + bytes);
	return 0;
}

int linux_kvm_msr_list(unsigned long scratch, unsigned int *index, unsigned int room)
{
	check_scratch(scratch);
	if (inject("linux_kvm_msr_list"))
		return -EIO;
	if (host.msr_list.size() > room)
		return -E2BIG;
	std::copy(host.msr_list.begin(), host.msr_list.end(), index);
	return static_cast<int>(host.msr_list.size());
}

int linux_kvm_get_msrs(unsigned long scratch, struct file *file, struct ferry_kvm_msr *msr,
		       unsigned int nr)
{
	check_read(scratch, vm_of(file));
	if (nr > LINUX_KVM_MSRS_AT_ONCE)
		bug("%u MSRs at once", nr);
	if (inject("linux_kvm_get_msrs"))
		return -EIO;
	++host.msr_reads;
	const Vcpu &vcpu = vcpu_of(file);
	for (unsigned int i = 0; i < nr; ++i) {
		auto at = vcpu.msrs.find(msr[i].index);
		if (at == vcpu.msrs.end())
			return static_cast<int>(i);
		msr[i].value = at->second;
	}
	return static_cast<int>(nr);
}

int linux_kvm_set_msrs(unsigned long scratch, struct file *file, const struct ferry_kvm_msr *msr,
		       unsigned int nr)
{
	Vcpu &vcpu = vcpu_of(file);
	if (nr > LINUX_KVM_MSRS_AT_ONCE)
		bug("%u MSRs at once", nr);
	const bool mere =
		std::all_of(msr, msr + nr, [](auto &one) { return is_mere_msr(one.index); });
	if (int err = check_write(scratch, vm_of(file), "linux_kvm_set_msrs", mere))
		return err;
	std::string line = "msrs";
	unsigned int done = 0;
	for (; done < nr; ++done) {
		const ferry_kvm_msr &one = msr[done];
		const bool known = vcpu.msrs.count(one.index) || vcpu.hidden_msrs.count(one.index);
		if (!known || vcpu.refused_msrs.count(one.index))
			break;
		vcpu.msrs[one.index] = one.value;
		char text[40];
		std::snprintf(text, sizeof(text), " %x=%llx", one.index, one.value);
		line += text;
	}
	host.trace.push_back(line);
	return static_cast<int>(done);
}

void linux_kvm_flush_timer(struct file *file)
{
	Vcpu &vcpu = vcpu_of(file);
	auto lapic = vcpu.states.find(FERRY_KVM_LAPIC);
	if (vcpu.timer_due && lapic != vcpu.states.end())
		lapic->second.back() = 1;
	vcpu.timer_due = false;
}

int linux_kvm_get_clock(unsigned long scratch, struct file *file, unsigned long long *clock,
			unsigned long long *tsc)
{
	check_read(scratch, vm_of(file));
	if (inject("linux_kvm_get_clock"))
		return -EIO;
	*clock = vm_of(file).clock;
	*tsc = ferry_tsc();
	return 0;
}

int linux_kvm_set_clock(unsigned long scratch, struct file *file, unsigned long long clock)
{
	if (int err = check_write(scratch, vm_of(file), "linux_kvm_set_clock"))
		return err;
	traced("clock");
	vm_of(file).clock = clock;
	return 0;
}

// ---- memory slots ----

int linux_kvm_slots(struct kvm *kvm, struct linux_kvm_slot *slot, unsigned int room)
{
	unsigned int nr = 0;
	const auto &slots = vm_behind(kvm).slots;
	// In no order that is of use.
	for (auto at = slots.rbegin(); at != slots.rend(); ++at) {
		const Slot &is = at->second;
		if (nr++ >= room)
			continue;
		slot[nr - 1] = {is.is, is.gmem ? is.gmem->its_file : nullptr};
		slot[nr - 1].is.need = 0;
	}
	return static_cast<int>(nr);
}

int linux_kvm_backing(struct kvm *kvm, unsigned long long hva, unsigned long long pages,
		      struct file **file, unsigned long long *first)
{
	if (kvm && vm_behind(kvm).orphaned) {
		++host.not_backed;
		return -ESRCH;
	}
	if (mmap_lock_taken) {
		--mmap_lock_taken;
		return -EAGAIN;
	}
	if (inject("linux_kvm_backing")) {
		++host.not_backed;
		return -EFAULT;
	}
	Mapping found;
	if (int err = find_mapping(hva, pages, found)) {
		++host.not_backed;
		return err;
	}
	linux_file_get(found.of);
	*file = found.of;
	*first = found.first;
	return 0;
}

bool linux_kvm_same_contents(struct file *a, struct file *b)
{
	return a == b || (a->behind && a->behind == b->behind) || (a->id && a->id == b->id);
}

long linux_kvm_dirty_get(struct kvm *kvm, unsigned int number, void *bitmap, ferry_size bytes)
{
	auto at = vm_behind(kvm).slots.find(number);
	if (at == vm_behind(kvm).slots.end())
		return 0;
	const auto &dirty = at->second.dirty;
	const ferry_size got = std::min<ferry_size>(bytes, dirty.size() * sizeof(dirty[0]));
	if (got)
		std::memcpy(bitmap, dirty.data(), got);
	return static_cast<long>(got);
}

int linux_kvm_dirty_add(struct kvm *kvm, unsigned int number, const void *bitmap, ferry_size bytes)
{
	if (inject("linux_kvm_dirty_add"))
		return -ENOMEM;
	if (!vm_behind(kvm).parked)
		bug("the dirty log of a VM is written that is not parked");
	auto at = vm_behind(kvm).slots.find(number);
	if (at == vm_behind(kvm).slots.end() || at->second.dirty.empty())
		return -ENOENT;
	auto &dirty = at->second.dirty;
	if (bytes != dirty.size() * sizeof(dirty[0]))
		return -EINVAL;
	for (std::size_t i = 0; i < dirty.size(); ++i) {
		unsigned long long word;
		std::memcpy(&word, static_cast<const char *>(bitmap) + i * sizeof(word),
			    sizeof(word));
		dirty[i] |= word;
	}
	traced("dirty", number);
	return 0;
}

// ---- in the kernel that gets them ----

int linux_kvm_create_vm(struct file **vm)
{
	if (inject("linux_kvm_create_vm"))
		return -EMFILE;
	if (!in_worker)
		bug("a VM is made in a process");
	*vm = new_vm();
	vm_of(*vm).parked = true;
	vm_of(*vm).process = 0;
	return 0;
}

int linux_kvm_create_vcpu(struct file *vm, unsigned int id, struct file **vcpu)
{
	if (inject("linux_kvm_create_vcpu"))
		return -ENOMEM;
	for (auto &other : vm_of(vm).vcpus) {
		if (other->id == id)
			return -EEXIST;
	}
	if (!in_worker)
		bug("a vCPU is made in a process");
	if (vm_of(vm).vcpus.empty())
		for (unsigned int i = 0; i < host.own_slots; ++i)
			vm_of(vm).own_slots.push_back({{32764 + i, 4096, 0xfee00000 + i}, 0});
	*vcpu = new_vcpu(vm, id);
	return 0;
}

int linux_kvm_create_gmem(unsigned long scratch, struct file *vm, unsigned long long bytes,
			  unsigned long long flags, struct file **gmem)
{
	if (int err = check_use(scratch, vm_of(vm), "linux_kvm_create_gmem"))
		return err;
	if (flags & ~3ull || !bytes || bytes % page_size)
		return -EINVAL;
	*gmem = new_gmem(vm, bytes, flags);
	return 0;
}

int linux_kvm_set_field(unsigned long scratch, struct file *file, const struct ferry_kvm_vm *want,
			unsigned int offset)
{
	Vm &vm = vm_of(file);
	if (int err = check_write(scratch, vm, "linux_kvm_set_field"))
		return err;
	for (const ferry_field &field : ferry_kvm_vm_fields) {
		if (field.offset != offset)
			continue;
		if (host.unknown.count(field.name))
			return -EINVAL;
		std::memcpy(reinterpret_cast<char *>(&vm.is) + offset,
			    reinterpret_cast<const char *>(want) + offset, field.room);
		return 0;
	}
	bug("there is no field at %u", offset);
	return 0;
}

int linux_kvm_adopt(struct kvm *kvm)
{
	Vm &vm = vm_behind(kvm);
	if (!vm.parked)
		bug("a VM that is not parked goes to another process");
	if (in_worker)
		bug("a VM goes back to the worker");
	if (inject("linux_kvm_adopt"))
		return -EINTR;
	vm.process = process;
	return 0;
}

bool linux_kvm_is_here(struct kvm *kvm)
{
	return vm_behind(kvm).process == process;
}

unsigned int linux_kvm_own_slots(struct kvm *kvm, struct linux_kvm_own_slot *slot)
{
	unsigned int nr = 0;
	for (auto &[is, of] : vm_behind(kvm).own_slots)
		slot[nr++] = is;
	return nr;
}

int linux_kvm_drop_own_slot(struct kvm *kvm, const struct linux_kvm_own_slot *slot)
{
	if (inject("linux_kvm_drop_own_slot"))
		return -ENOMEM;
	auto &own = vm_behind(kvm).own_slots;
	auto at = std::find_if(own.begin(), own.end(),
			       [&](auto &one) { return one.first.number == slot->number; });
	if (at == own.end() || at->second != here())
		bug("slot %u of KVM is dropped where its memory is not", slot->number);
	else
		own.erase(at);
	return 0;
}

int linux_kvm_make_own_slot(struct kvm *kvm, const struct linux_kvm_own_slot *slot)
{
	if (inject("linux_kvm_make_own_slot"))
		return -ENOMEM;
	for (auto &[is, of] : vm_behind(kvm).own_slots) {
		if (is.number == slot->number)
			bug("slot %u of KVM is made twice", slot->number);
	}
	vm_behind(kvm).own_slots.push_back({*slot, here()});
	return 0;
}

int linux_kvm_configure_vcpu(unsigned long scratch, struct file *file,
			     const struct ferry_kvm_vcpu *want)
{
	if (int err = check_write(scratch, vm_of(file), "linux_kvm_configure_vcpu", true))
		return err;
	traced("configure vcpu", vcpu_of(file).id);
	vcpu_of(file).is.features = want->features;
	vcpu_of(file).is.mcg_cap = want->mcg_cap;
	return 0;
}

int linux_kvm_set_tsc(unsigned long scratch, struct file *file, const struct ferry_kvm_vcpu *want)
{
	if (int err = check_write(scratch, vm_of(file), "linux_kvm_set_tsc", true))
		return err;
	traced("tsc");
	ferry_kvm_vcpu &is = vcpu_of(file).is;
	is.tsc_offset = want->tsc_offset;
	is.tsc_ratio = want->tsc_ratio;
	is.tsc_khz = want->tsc_khz;
	is.tsc_mult = want->tsc_mult;
	is.tsc_shift = want->tsc_shift;
	is.tsc_catchup = want->tsc_catchup;
	return 0;
}

int linux_kvm_set_slot(unsigned long scratch, struct file *file, const struct ferry_kvm_slot *slot,
		       unsigned long long hva, struct file *gmem)
{
	Vm &vm = vm_of(file);
	if (int err = check_use(scratch, vm, "linux_kvm_set_slot"))
		return err;
	if ((slot->slot & 0xffff) >= 32764 || slot->slot >> 16 > 1 || hva % page_size)
		return -EINVAL;
	if (!slot->pages) {
		traced("no slot", slot->slot);
		return vm.slots.erase(slot->slot) ? 0 : -EINVAL;
	}
	if (vm.slots.count(slot->slot) || slot->flags & ~7u ||
	    bool(slot->flags & flag_gmem) != bool(gmem))
		return -EINVAL;
	if (gmem && (slot->first + slot->pages) * page_size > gmem_of(gmem).bytes)
		return -EINVAL;
	for (auto &[number, other] : vm.slots) {
		if (number >> 16 == slot->slot >> 16 && slot->gfn < other.is.gfn + other.is.pages &&
		    other.is.gfn < slot->gfn + slot->pages)
			return -EEXIST;
	}
	traced("slot", slot->slot);
	ferry_kvm_slot is = *slot;
	is.hva = hva;
	is.need = 0;
	// Of another file KVM does not know the place.
	is.first = gmem ? slot->first : 0;
	// A log of the size that a record may say is not for a test.
	if (slot->flags & flag_log && slot->pages > 1 << 24)
		return -ENOMEM;
	add_slot(file, is, gmem);
	return 0;
}

void linux_kvm_unpark(struct kvm *kvm)
{
	if (!vm_behind(kvm).parked)
		bug("a VM is unparked twice");
	traced("unpark");
	vm_behind(kvm).parked = false;
	for (auto &[slot, of] : vm_behind(kvm).own_slots) {
		if (of != vm_behind(kvm).process)
			bug("a slot of KVM's own lies in another process");
	}
}

// ---- guest_memfd ----

void linux_gmem_look(struct file *file, struct ferry_kvm_gmem *record)
{
	record->bytes = gmem_of(file).bytes;
	record->flags = gmem_of(file).flags;
}

bool linux_gmem_is_shared(struct file *file)
{
	return (gmem_of(file).flags & 3) == 3;
}

void linux_gmem_set_state(struct file *file, enum linux_gmem_state state)
{
	Gmem &gmem = gmem_of(file);
	if (state == LINUX_GMEM_FROZEN && gmem.state != LINUX_GMEM_PRESERVED)
		bug("a guest_memfd is frozen that is not preserved");
	gmem.state = state;
}

unsigned long long linux_gmem_pages(struct file *file)
{
	return gmem_of(file).pages.size();
}

unsigned int linux_gmem_find(struct file *file, unsigned long long first, struct ferry_run *run,
			     unsigned int room)
{
	const Gmem &gmem = gmem_of(file);
	if (gmem.state == LINUX_GMEM_THAWED)
		bug("pages of a guest_memfd are found that may go");
	unsigned int nr = 0;
	for (auto at = gmem.pages.lower_bound(first); at != gmem.pages.end(); ++at) {
		if (nr && run[nr - 1].index + run[nr - 1].count == at->first &&
		    run[nr - 1].pfn + run[nr - 1].count == at->second) {
			++run[nr - 1].count;
			continue;
		}
		if (nr == room)
			break;
		run[nr++] = {at->second, at->first, 1, 0, 0};
	}
	return nr;
}

int linux_gmem_insert(struct file *file, const struct ferry_run *run)
{
	Gmem &gmem = gmem_of(file);
	int err = 0;
	for (unsigned int i = 0; i < run->count; ++i) {
		const bool down = run->flags & FERRY_RUN_DESCENDING;
		const Pfn pfn = run->pfn + (down ? run->count - 1 - i : i);
		if (!owns(pfn))
			bug("page frame %#llx is inserted that is nobody's to give", pfn);
		if (run->index + i >= gmem.bytes / page_size)
			bug("page %llu is behind the end of a guest_memfd", run->index + i);
		if (!err && inject("linux_gmem_insert"))
			err = -ENOMEM;
		if (!err && gmem.pages.count(run->index + i))
			err = -EEXIST;
		if (err)
			linux_release(pfn, 1, 0);
		else
			gmem.pages[run->index + i] = pfn;
	}
	return err;
}

// ---- the device ----

int linux_kvm_copy_in(void *to, unsigned long long from, ferry_size bytes)
{
	if (inject("linux_kvm_copy_in"))
		return -EFAULT;
	return linux_user_read(to, bytes, reinterpret_cast<const void *>(from), bytes);
}

int linux_kvm_copy_out(unsigned long long to, const void *from, ferry_size bytes)
{
	if (inject("linux_kvm_copy_out"))
		return -EFAULT;
	return linux_user_write(reinterpret_cast<void *>(to), from, bytes);
}

struct module *linux_this_module(void)
{
	return &kvm_module;
}

} // extern "C"
