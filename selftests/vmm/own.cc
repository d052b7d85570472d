// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/own.hh"

#include <algorithm>
#include <cstring>

#include <x86intrin.h>

#include "selftests/vmm/update.hh"

// A call on a VM or vCPU that fills or reads a structure.
#define EXCHANGE(object, request, structure) TRY(#request, (object).call(request, &(structure)))

namespace vmm::own {

namespace {

constexpr std::uint32_t msr_tsc = 0x10, msr_tsc_deadline = 0x6e0;

// All plain data: it crosses the kexec as it is.
struct VcpuState {
	kvm_mp_state mp_state;
	kvm_regs regs;
	kvm_sregs2 sregs;
	kvm_xcrs xcrs;
	kvm_lapic_state lapic;
	kvm_vcpu_events events;
	kvm_debugregs debugregs;
	kvm::Cpuid cpuid;
	kvm::Msrs msrs;
	std::uint64_t tsc_offset;
	std::uint64_t tsc_deadline;
	std::byte xsave[16 * KiB]; // struct kvm_xsave, which grows with the CPU
};

struct VmState {
	std::uint64_t clock_ns; // what kvmclock shows,
	std::uint64_t clock_tsc; // and the host's time stamp then,
	std::uint64_t tsc_khz; // whose rate is this
	kvm_irqchip chip[3];
	kvm_pit_state2 pit;
};

struct State {
	VmState vm;
	VcpuState vcpu[];
};

// ---- save ----

// The values of those MSRs that can be read.
Result<kvm::Msrs> read_msrs(const kvm::System &system, const kvm::Vcpu &vcpu)
{
	kvm::Msrs msrs{};
	for (auto index : TRY("KVM_GET_MSR_INDEX_LIST", system.msr_indices())) {
		// These two are restored in another way, see load_time().
		if (index == msr_tsc || index == msr_tsc_deadline)
			continue;
		auto value = vcpu.msr(index);
		if (!value)
			continue;
		if (msrs.nr == std::size(msrs.entry))
			return failure("too many MSRs");
		msrs.entry[msrs.nr++] = {index, 0, *value};
	}
	return msrs;
}

Result<> save_vcpu(const kvm::System &system, const kvm::Vm &vm, const kvm::Vcpu &vcpu,
		   VcpuState &to)
{
	// First of all: it takes in what waits in the local APIC, as INIT.
	EXCHANGE(vcpu, KVM_GET_MP_STATE, to.mp_state);
	EXCHANGE(vcpu, KVM_GET_REGS, to.regs);
	EXCHANGE(vcpu, KVM_GET_SREGS2, to.sregs);
	EXCHANGE(vcpu, KVM_GET_XCRS, to.xcrs);
	EXCHANGE(vcpu, KVM_GET_LAPIC, to.lapic);
	EXCHANGE(vcpu, KVM_GET_VCPU_EVENTS, to.events);
	EXCHANGE(vcpu, KVM_GET_DEBUGREGS, to.debugregs);
	to.cpuid.nr = std::size(to.cpuid.entry);
	EXCHANGE(vcpu, KVM_GET_CPUID2, to.cpuid);
	if (TRY("KVM_CAP_XSAVE2", vm.check(KVM_CAP_XSAVE2)) > int(sizeof(to.xsave)))
		return failure("KVM_GET_XSAVE2: no room");
	EXCHANGE(vcpu, KVM_GET_XSAVE2, to.xsave);
	to.msrs = TRY("MSRs", read_msrs(system, vcpu));
	to.tsc_deadline = TRY("TSC_DEADLINE", vcpu.msr(msr_tsc_deadline));
	TRY("KVM_VCPU_TSC_OFFSET", vcpu.attribute(KVM_GET_DEVICE_ATTR, KVM_VCPU_TSC_CTRL,
						  KVM_VCPU_TSC_OFFSET, to.tsc_offset));
	return {};
}

Result<> save_chips(const kvm::Vm &vm, VmState &to)
{
	for (std::uint32_t id = 0; id < std::size(to.chip); ++id) {
		to.chip[id].chip_id = id;
		EXCHANGE(vm, KVM_GET_IRQCHIP, to.chip[id]);
	}
	EXCHANGE(vm, KVM_GET_PIT2, to.pit);
	return {};
}

Result<> save_vm(Machine &machine, VmState &to)
{
	if (machine.config().irqchip == Irqchip::kernel)
		TRY("irqchip", save_chips(machine.vm(), to));
	kvm_clock_data clock{};
	EXCHANGE(machine.vm(), KVM_GET_CLOCK, clock);
	to.clock_tsc = __rdtsc();
	to.clock_ns = clock.clock;
	to.tsc_khz = static_cast<std::uint64_t>(
		TRY("KVM_GET_TSC_KHZ", machine.vcpus().all().front().call(KVM_GET_TSC_KHZ)));
	return {};
}

// ---- load ----

// The time-stamp counter of the host goes on over a kexec; so with the same
// offset that of the guest does, too. The old rate is not set (KVM_SET_TSC_KHZ):
// this kernel has measured a slightly other one, and KVM would make up for that.
Result<> load_time(const kvm::Vcpu &vcpu, VcpuState &from)
{
	TRY("KVM_VCPU_TSC_OFFSET", vcpu.attribute(KVM_SET_DEVICE_ATTR, KVM_VCPU_TSC_CTRL,
						  KVM_VCPU_TSC_OFFSET, from.tsc_offset));
	// It starts the timer: so the local APIC and the counter must be right before.
	TRY("TSC_DEADLINE", vcpu.set_msr(msr_tsc_deadline, from.tsc_deadline));
	return {};
}

Result<> load_msrs(const kvm::Vcpu &vcpu, kvm::Msrs &msrs)
{
	auto done = EXCHANGE(vcpu, KVM_SET_MSRS, msrs);
	if (static_cast<std::uint32_t>(done) == msrs.nr)
		return {};
	char name[32];
	std::snprintf(name, sizeof(name), "MSR 0x%x", msrs.entry[done].index);
	return failure(std::string(name) + " cannot be set");
}

Result<> load_vcpu(const kvm::Vcpu &vcpu, VcpuState &from)
{
	EXCHANGE(vcpu, KVM_SET_CPUID2, from.cpuid);
	EXCHANGE(vcpu, KVM_SET_SREGS2, from.sregs);
	EXCHANGE(vcpu, KVM_SET_XCRS, from.xcrs);
	EXCHANGE(vcpu, KVM_SET_XSAVE, from.xsave);
	EXCHANGE(vcpu, KVM_SET_LAPIC, from.lapic);
	TRY("MSRs", load_msrs(vcpu, from.msrs));
	TRY("time", load_time(vcpu, from));
	EXCHANGE(vcpu, KVM_SET_REGS, from.regs);
	EXCHANGE(vcpu, KVM_SET_VCPU_EVENTS, from.events);
	EXCHANGE(vcpu, KVM_SET_DEBUGREGS, from.debugregs);
	EXCHANGE(vcpu, KVM_SET_MP_STATE, from.mp_state);
	return {};
}

Result<> load_chips(const kvm::Vm &vm, VmState &from)
{
	for (auto &chip : from.chip)
		EXCHANGE(vm, KVM_SET_IRQCHIP, chip);
	EXCHANGE(vm, KVM_SET_PIT2, from.pit);
	return {};
}

// kvmclock goes on by the time that has passed. The wall clock cannot tell: the
// new kernel has it from the board's, in seconds. The time-stamp counter can.
Result<> load_clock(const kvm::Vm &vm, const VmState &from)
{
	kvm_clock_data clock{};
	auto passed = static_cast<unsigned __int128>(__rdtsc() - from.clock_tsc);
	clock.clock = from.clock_ns + static_cast<std::uint64_t>(passed * 1'000'000 / from.tsc_khz);
	EXCHANGE(vm, KVM_SET_CLOCK, clock);
	return {};
}

Result<> load(Machine &machine, State &from)
{
	if (machine.config().irqchip == Irqchip::kernel)
		TRY("irqchip", load_chips(machine.vm(), from.vm));
	auto vcpus = machine.vcpus().all();
	for (std::size_t i = 0; i < vcpus.size(); ++i)
		TRY("vCPU " + std::to_string(i), load_vcpu(vcpus[i], from.vcpu[i]));
	// With all time-stamp counters in place, as KVM looks whether they agree.
	TRY("clock", load_clock(machine.vm(), from.vm));
	return {};
}

Result<State *> state_in(std::span<std::byte> bytes, const Config &config)
{
	if (bytes.size() < state_bytes(config))
		return failure("the state is cut short");
	return reinterpret_cast<State *>(bytes.data());
}

} // namespace

std::size_t state_bytes(const Config &config)
{
	return sizeof(State) + config.vcpus * sizeof(VcpuState);
}

Result<> preserve(liveupdate::Session &session, const Machine &machine)
{
	if (machine.config().backing != Backing::memfd)
		return failure("a guest_memfd goes with its VM: it needs --state luo");
	TRY("memory", session.preserve(machine.memory().fd(), token::memory));
	return {};
}

Result<> save(const kvm::System &system, Machine &machine, std::span<std::byte> to)
{
	State &state = *TRY("save", state_in(to, machine.config()));
	auto vcpus = machine.vcpus().all();
	for (std::size_t i = 0; i < vcpus.size(); ++i)
		TRY("vCPU " + std::to_string(i),
		    save_vcpu(system, machine.vm(), vcpus[i], state.vcpu[i]));
	TRY("VM", save_vm(machine, state.vm));
	return {};
}

Result<std::unique_ptr<Machine>> retrieve(const kvm::System &system, liveupdate::Session &session,
					  const Config &config, std::span<std::byte> from,
					  Times &times)
{
	State &state = *TRY("state", state_in(from, config));
	auto fd = TRY("memory", session.retrieve(token::memory));
	auto memory = TRY("memory", Memory::adopt(std::move(fd), config));
	times.end(Stage::memory);
	auto machine = TRY("new machine", Machine::create(system, config, std::move(memory)));
	times.end(Stage::machine);
	TRY("load", load(*machine, state));
	times.end(Stage::load);
	return machine;
}

} // namespace vmm::own
