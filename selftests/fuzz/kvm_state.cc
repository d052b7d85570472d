// SPDX-License-Identifier: GPL-2.0
// Virtual machines out of any records, blobs and runs: retrieved, given their
// memory and finished. Nothing is done twice or left over (the fakes abort), and
// a VM that runs has all of its vCPUs and slots.
#include "fake/kvm.hh"
#include "fake/kvm_carry.hh"

#include <ferry/luo.h>
#include <uapi/linux/liveupdate.h>
#include <uapi/linux/liveupdate_kvm.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "kvm.hh"
#include "luo/linux.h"
#include "pages.hh"

namespace {

using fake::CarriedVm;

constexpr unsigned long long ram_at = 0x10000000, gmem_at = 0x20000000;
constexpr unsigned int mapped = 256; // pages of each
unsigned char how;

// ---- the memfd ----

bool can_preserve(file *)
{
	return false;
}

int preserve(ferry_luo_args *)
{
	return -EINVAL;
}

void unpreserve(ferry_luo_args *)
{
}

int save(ferry_luo_args *, ferry_writer *)
{
	return 0;
}

int retrieve(ferry_luo_args *args)
{
	args->file = fake::new_file("memfd");
	return 0;
}

void finish(ferry_luo_args *)
{
}

constexpr ferry_luo_ops memfd_ops{
	.can_preserve = can_preserve,
	.id = nullptr,
	.preserve = preserve,
	.unpreserve = unpreserve,
	.freeze = nullptr,
	.unfreeze = nullptr,
	.save = save,
	.prepare = nullptr,
	.retrieve = retrieve,
	.can_finish = nullptr,
	.finish = finish,
};
constexpr ferry_luo_handler memfd_handler{"memory-v1", nullptr, &memfd_ops};

// ---- the input ----

// Within the bounds of its fields, as ferry_get() sees to.
template <class T> T bounded(T object, const ferry_record &record)
{
	for (unsigned int i = 0; i < record.nr_fields; ++i) {
		const ferry_field &field = record.fields[i];
		unsigned long long value = 0;
		auto at = reinterpret_cast<char *>(&object) + field.offset;
		std::memcpy(&value, at, field.room);
		value = std::clamp(value, field.min, field.max);
		std::memcpy(at, &value, field.room);
	}
	return object;
}

fake::Data take_piece(fuzz::Bytes &input)
{
	std::size_t size = fuzz::take<unsigned short>(input);
	fuzz::Bytes piece = input.first(std::min(size, input.size()));
	input = input.subspan(piece.size());
	return {piece.begin(), piece.end()};
}

// Those that kho.ko would let through: of pages that were preserved once.
std::vector<ferry_run> take_runs(fuzz::Bytes &input)
{
	const fake::Data piece = take_piece(input);
	std::vector<ferry_run> runs;
	fake::Pfn next = fake::first_folio + (1 << 17);
	for (std::size_t at = 0; at + sizeof(ferry_run) <= piece.size() && runs.size() < 8;
	     at += sizeof(ferry_run)) {
		ferry_run run;
		std::memcpy(&run, piece.data() + at, sizeof(run));
		run.order %= 4;
		run.count = run.count % 16 + 1;
		run.index &= (1ull << FERRY_RUN_INDEX_BITS) - 1;
		run.flags &= (1 << FERRY_RUN_FLAGS_BITS) - 1;
		run.pfn = next;
		next += 1024;
		runs.push_back(run);
	}
	return runs;
}

CarriedVm take_machine(const fuzz::KvmHead &head, fuzz::Bytes input)
{
	CarriedVm carried;
	carried.vm = bounded(head.vm, ferry_kvm_vm_record);
	carried.vm_state = take_piece(input);
	const fake::Data state = take_piece(input);
	for (const ferry_kvm_vcpu &record : head.vcpu)
		carried.vcpus.push_back({bounded(record, ferry_kvm_vcpu_record), state, {}});
	carried.vcpus[0].needs = {CarriedVm::VM};
	carried.vcpus[1].needs = {how & fuzz::kvm_wrong_needs ? CarriedVm::MEMFD : CarriedVm::VM};
	CarriedVm::Gmem gmem;
	gmem.record = bounded(head.gmem, ferry_kvm_gmem_record);
	gmem.slots = take_piece(input);
	gmem.runs = take_runs(input);
	carried.gmems = {gmem};
	carried.memfds = 2;
	carried.vm_needs = {CarriedVm::MEMFD, CarriedVm::MEMFD + 1};
	carried.vm_last = how & fuzz::kvm_last;
	return carried;
}

// ---- what a VMM does ----

template <class Arg> long call(Arg &arg, const std::function<long(void *)> &ioctl)
{
	fake::user_memory(&arg, sizeof(arg));
	long result = ioctl(&arg);
	fake::user_memory_gone(&arg);
	fake::run_releases();
	return result;
}

int open_session()
{
	liveupdate_ioctl_retrieve_session arg{};
	arg.size = sizeof(arg);
	std::strcpy(reinterpret_cast<char *>(arg.name), "vm");
	long err = call(arg, [](void *user) {
		return luo_device_ioctl(LIVEUPDATE_IOCTL_RETRIEVE_SESSION, user);
	});
	return err ? -1 : arg.fd;
}

int retrieve(int session, unsigned long long token)
{
	liveupdate_session_retrieve_fd arg{};
	arg.size = sizeof(arg);
	arg.token = token;
	long err = call(arg, [&](void *user) {
		return luo_session_ioctl(fake::file_of(session)->session,
					 LIVEUPDATE_SESSION_RETRIEVE_FD, user);
	});
	return err ? -1 : arg.fd;
}

long memory_call(unsigned int request, int vm, std::vector<liveupdate_kvm_slot> &slots)
{
	liveupdate_kvm_memory arg{};
	arg.size = sizeof(arg);
	arg.vm = vm;
	arg.nr_slots = static_cast<unsigned int>(slots.size());
	arg.slots = reinterpret_cast<unsigned long long>(slots.data());
	fake::user_memory(slots.data(), slots.size() * sizeof(slots[0]));
	long result = call(arg, [request](void *user) {
		return kvm_device_ioctl(request, reinterpret_cast<unsigned long>(user));
	});
	fake::user_memory_gone(slots.data());
	if (request == LIVEUPDATE_KVM_GET_MEMORY && !result)
		slots.resize(arg.nr_slots);
	return result;
}

void give_memory(int vm, const CarriedVm &carried)
{
	std::vector<liveupdate_kvm_slot> slots(64);
	if (memory_call(LIVEUPDATE_KVM_GET_MEMORY, vm, slots))
		return;
	if (!(how & fuzz::kvm_all_slots))
		std::erase_if(slots, [](auto &slot) { return slot.backing; });
	long err = memory_call(LIVEUPDATE_KVM_SET_MEMORY, vm, slots);
	if (how & fuzz::kvm_twice)
		err = memory_call(LIVEUPDATE_KVM_SET_MEMORY, vm, slots) == -EALREADY ? 0 : err;
	const fake::Vm &is = fake::vm_of(fake::file_of(vm));
	const bool complete = is.slots.size() == carried.vm.slots &&
			      is.vcpus.size() >= carried.vm.vcpus;
	if (!err && (is.parked || !complete))
		fake::bug("a VM is complete that is not");
}

void use_session(int session, const CarriedVm &carried)
{
	std::vector<unsigned long long> tokens{CarriedVm::VM,	    CarriedVm::MEMFD,
					       CarriedVm::VCPU,	    CarriedVm::GMEM,
					       CarriedVm::VCPU + 1, CarriedVm::MEMFD + 1};
	if (how & fuzz::kvm_backwards)
		std::reverse(tokens.begin(), tokens.end());
	if (how & fuzz::kvm_some)
		tokens.resize(1 + how % 5);
	int vm = -1;
	for (unsigned long long token : tokens) {
		int fd = retrieve(session, token);
		if (fd < 0)
			continue;
		if (token == CarriedVm::VM)
			vm = fd;
		if (!(how & fuzz::kvm_unmapped) && token == CarriedVm::MEMFD)
			fake::map(ram_at, fake::file_of(fd), 0, mapped);
		if (!(how & fuzz::kvm_unmapped) && token == CarriedVm::GMEM)
			fake::map(gmem_at, fake::file_of(fd), 0, mapped);
	}
	if (vm >= 0)
		give_memory(vm, carried);
}

void close_all()
{
	for (int fd = 3; fd < 32; ++fd) {
		if (fake::file_of(fd))
			fake::close(fd);
	}
	fake::unmap_all();
}

void load()
{
	if (kho_module_init() || luo_module_init() || ferry_luo_register(&memfd_handler) ||
	    kvm_module_init())
		fake::bug("a module was not loaded");
}

void unload()
{
	ferry_luo_unregister(&memfd_handler);
	kvm_module_exit();
	luo_module_exit();
	fake::run_releases();
	ferry_incoming_done();
	kho_module_exit();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char *data, std::size_t size)
{
	fuzz::Bytes input{data, size};
	const auto head = fuzz::take<fuzz::KvmHead>(input);
	how = head.how;
	fake::reset();
	fake::boot({});
	auto before = fake::counters();
	const CarriedVm carried = take_machine(head, input);
	fake::boot(carried.carry());
	load();
	fake::arm(head.fail);
	if (how & fuzz::kvm_ahead) {
		fake::process = fake::nobody;
		luo_background();
		fake::process = 1;
	}
	int session = open_session();
	if (session >= 0)
		use_session(session, carried);
	fake::disarm();
	// Finished by its end, wherever it stands.
	session = session >= 0 ? session : open_session();
	if (session >= 0) {
		liveupdate_session_finish arg{};
		arg.size = sizeof(arg);
		call(arg, [&](void *user) {
			return luo_session_ioctl(fake::file_of(session)->session,
						 LIVEUPDATE_SESSION_FINISH, user);
		});
	}
	close_all();
	unload();
	fuzz::check_nothing_left(before);
	fake::power_off();
	return 0;
}
