// SPDX-License-Identifier: GPL-2.0
// What a VM is, besides its state: what KVM_ENABLE_CAP and other calls set, and none reads.

#include "selftests/kexec/kvm.hh"

using machine::Machine;
using machine::Options;

namespace {

// The fields of the record of a session's only VM, as it would go out now.
std::map<std::string, std::string> record(const std::string &session)
{
	auto dump = read_file("/sys/kernel/debug/ferry/out/dump");
	std::map<std::string, std::string> fields;
	auto at = dump.find("session_name = \"" + session + "\"");
	at = at == dump.npos ? at : dump.find("\"ferry,kvm-vm-v", at);
	for (; at != dump.npos && (at = dump.find('\n', at)) != dump.npos;) {
		auto line = dump.substr(at + 1, dump.find('\n', at + 1) - at - 1);
		auto equals = line.find(" = ");
		if (equals == line.npos)
			break;
		auto begin = line.find_first_not_of(' ');
		fields[line.substr(begin, equals - begin)] = line.substr(equals + 3);
		at++;
	}
	REQUIRE(fields.size() > 20);
	// These are of the moment.
	for (auto name : {"clock", "tsc", "tsc_khz"})
		fields.erase(name);
	return fields;
}

bool same(const std::map<std::string, std::string> &is, const machine::Snapshot &was)
{
	for (auto &[name, value] : was)
		if (!is.contains(name) || is.at(name) != value)
			ktap::fail("kvm_config.cc", 0,
				   name + " was " + value + ", is " +
					   (is.contains(name) ? is.at(name) : "nothing"));
	return CHECK_EQ(is.size(), was.size());
}

struct Config {
	const char *name;
	void (*set)(kvm::Vm &vm);
	const char *field; // that it changes; null: only what follows
	Options::Irqchip irqchip = Options::FULL;
	void (*check)(Machine &vm) = nullptr; // after the kexec
	int capability = 0; // to be there
};

// Is a capability, or are its bits, there?
bool has(unsigned int capability, int bits = 1)
{
	return (VALUE(machine::host().check(capability)) & bits) == bits;
}

void filter(kvm::Vm &vm)
{
	OK(vm.enable(KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER));
	// From 0x170 on, all but 0x174; and of another range not one.
	static uint8_t bits[8] = {0xef, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, none[16] = {};
	kvm_msr_filter filter{};
	filter.flags = KVM_MSR_FILTER_DEFAULT_ALLOW;
	filter.ranges[0] = {KVM_MSR_FILTER_READ, 64, 0x170, bits};
	filter.ranges[1] = {KVM_MSR_FILTER_WRITE, 100, 0xc0000100, none};
	OK(vm.set(KVM_X86_SET_MSR_FILTER, filter));
}

// The guest reads SYSENTER_CS (0x174): an exit, since the filter says so; and then another.
void check_filter(Machine &vm)
{
	auto &vcpu = vm.vcpus[0];
	vm.boot(0, guest::rdmsr());
	auto regs = VALUE(vcpu.get<kvm_regs>(KVM_GET_REGS));
	regs.rcx = 0x174;
	OK(vcpu.set(KVM_SET_REGS, regs));
	CHECK_EQ(machine::run(vcpu), KVM_EXIT_X86_RDMSR);
	CHECK_EQ(vcpu.shared().msr.index, 0x174);
	CHECK_EQ(vcpu.shared().msr.reason, KVM_MSR_EXIT_REASON_FILTER);
	vcpu.shared().msr.data = 0x4321;
	vcpu.shared().msr.error = 0;
	CHECK_EQ(machine::run_to_out(vcpu, guest::done_port), 0x4321);
	machine::settle(vcpu);
	regs.rip = guest::code;
	regs.rcx = 0x175;
	OK(vcpu.set(KVM_SET_REGS, regs));
	CHECK_EQ(machine::run_to_out(vcpu, guest::done_port), 0);
}

void unknown_msr(Machine &vm)
{
	auto &vcpu = vm.vcpus[0];
	vm.boot(0, guest::rdmsr());
	auto regs = VALUE(vcpu.get<kvm_regs>(KVM_GET_REGS));
	regs.rcx = 0x12345678;
	OK(vcpu.set(KVM_SET_REGS, regs));
	CHECK_EQ(machine::run(vcpu), KVM_EXIT_X86_RDMSR);
	CHECK_EQ(vcpu.shared().msr.reason, KVM_MSR_EXIT_REASON_UNKNOWN);
}

// Nothing tells what it is afterwards, without a PMU: but it is accepted again.
void pmu_filter(kvm::Vm &vm)
{
	struct {
		kvm_pmu_event_filter head;
		uint64_t events[3];
	} filter{};
	filter.head.action = KVM_PMU_EVENT_DENY;
	filter.head.nevents = 3;
	filter.head.fixed_counter_bitmap = 5;
	filter.events[0] = 0xc0;
	filter.events[1] = 0x1c2;
	filter.events[2] = 0x76;
	OK(vm.set(KVM_SET_PMU_EVENT_FILTER, filter));
}

void check_split(Machine &vm)
{
	CHECK(!vm.vm.get<kvm_irqchip>(KVM_GET_IRQCHIP));
	FAILS(vm.vm.call(KVM_CREATE_IRQCHIP), EEXIST);
	OK(vm.vcpus[0].get<kvm_lapic_state>(KVM_GET_LAPIC));
}

void check_none(Machine &vm)
{
	CHECK(!vm.vcpus[0].get<kvm_lapic_state>(KVM_GET_LAPIC));
	CHECK(!vm.vm.get<kvm_irqchip>(KVM_GET_IRQCHIP));
	vm.boot(0, guest::out());
	CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), 1);
	// An interrupt comes from the VMM.
	kvm_interrupt irq{guest::vector[guest::UD]};
	OK(vm.vcpus[0].set(KVM_INTERRUPT, irq));
}

void check_boot_cpu(Machine &vm)
{
	CHECK(!(VALUE(vm.vcpus[0].get<kvm_sregs>(KVM_GET_SREGS)).apic_base & 0x100));
	CHECK(VALUE(vm.vcpus[1].get<kvm_sregs>(KVM_GET_SREGS)).apic_base & 0x100);
}

void check_payload(Machine &vm)
{
	auto events = VALUE(vm.vcpus[0].get<kvm_vcpu_events>(KVM_GET_VCPU_EVENTS));
	CHECK(events.flags & KVM_VCPUEVENT_VALID_PAYLOAD);
}

void check_triple_fault(Machine &vm)
{
	auto events = VALUE(vm.vcpus[0].get<kvm_vcpu_events>(KVM_GET_VCPU_EVENTS));
	CHECK(events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT);
}

template <unsigned int cap, uint64_t arg> void enable(kvm::Vm &vm)
{
	OK(vm.enable(cap, arg));
}

const Table<Config> configs(
	"kvm/config/",
	{
		{"nothing", [](kvm::Vm &) {}, nullptr},
		{"PIT with a speaker port",
		 [](kvm::Vm &vm) {
			 kvm_pit_config pit{};
			 pit.flags = KVM_PIT_SPEAKER_DUMMY;
			 OK(vm.set(KVM_CREATE_PIT2, pit));
		 },
		 "pit"},
		{"PIT", [](kvm::Vm &vm) { OK(vm.set(KVM_CREATE_PIT2, kvm_pit_config{})); }, "pit"},
		{"PIT that does not reinject its ticks",
		 [](kvm::Vm &vm) {
			 OK(vm.set(KVM_CREATE_PIT2, kvm_pit_config{}));
			 OK(vm.set(KVM_REINJECT_CONTROL, kvm_reinject_control{}));
		 },
		 "pit_no_reinject"},
		{"split irqchip", [](kvm::Vm &) {}, "split_pins", Options::SPLIT, check_split},
		{"no irqchip", [](kvm::Vm &) {}, "irqchip", Options::NONE, check_none},
		{"disabled quirks",
		 enable<KVM_CAP_DISABLE_QUIRKS2,
			KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_CD_NW_CLEARED>,
		 "disabled_quirks"},
		{"disabled exits",
		 enable<KVM_CAP_X86_DISABLE_EXITS,
			KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE>,
		 "disabled_exits"},
		{"x2APIC IDs of 32 bits",
		 enable<KVM_CAP_X2APIC_API,
			KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK>,
		 "x2apic_api"},
		{"unknown MSRs go to user space",
		 enable<KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN>, "user_space_msr",
		 Options::FULL, unknown_msr},
		{"MSR filter", filter, "user_space_msr", Options::FULL, check_filter},
		{"PMU event filter", pmu_filter, nullptr, Options::FULL, nullptr,
		 KVM_CAP_PMU_EVENT_FILTER},
		{"no PMU", enable<KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE>, "pmu",
		 Options::FULL, nullptr, KVM_CAP_PMU_CAPABILITY},
		{"boot CPU", [](kvm::Vm &vm) { VALUE(vm.call(KVM_SET_BOOT_CPU_ID, 1ul)); },
		 "boot_cpu", Options::FULL, check_boot_cpu},
		{"exception payload", enable<KVM_CAP_EXCEPTION_PAYLOAD, 1>, "exception_payload",
		 Options::FULL, check_payload},
		{"triple fault event", enable<KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1>,
		 "triple_fault_event", Options::FULL, check_triple_fault},
		{"manual dirty log",
		 enable<KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE>,
		 "manual_dirty_log"},
		{"halt poll", enable<KVM_CAP_HALT_POLL, 123456>, "halt_poll_ns"},
		{"halt poll: none", enable<KVM_CAP_HALT_POLL, 0>, "halt_poll_ns"},
		{"hypercall exits", enable<KVM_CAP_EXIT_HYPERCALL, 1 << 12>, "exit_hypercall"},
		{"emulation failure", enable<KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1>,
		 "emulation_failure_exit"},
		{"platform info", enable<KVM_CAP_MSR_PLATFORM_INFO, 0>, "platform_info"},
		{"greatest vCPU number", enable<KVM_CAP_MAX_VCPU_ID, 64>, "max_vcpu_id"},
		{"rate of the APIC's timer", enable<KVM_CAP_X86_APIC_BUS_CYCLES_NS, 10>,
		 "apic_bus_cycles_ns"},
		{"dirty ring", enable<KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 65536>, "dirty_ring_bytes"},
		{"bus lock exit", enable<KVM_CAP_X86_BUS_LOCK_EXIT, KVM_BUS_LOCK_DETECTION_EXIT>,
		 "bus_lock_exit", Options::FULL, nullptr, KVM_CAP_X86_BUS_LOCK_EXIT},
		{"notify VM exit",
		 enable<KVM_CAP_X86_NOTIFY_VMEXIT, 100000ull << 32 | KVM_X86_NOTIFY_VMEXIT_ENABLED>,
		 "notify_vmexit", Options::FULL, nullptr, KVM_CAP_X86_NOTIFY_VMEXIT},
	},
	[](Stage &stage, const Config &row) {
		machine::need_kvm();
		if (row.capability && !has(row.capability))
			ktap::skip("not on this host");
		std::map<std::string, std::string> usual;
		{
			auto session = VALUE(stage.device.create("usual"));
			Machine vm({.vcpus = 2});
			vm.preserve(session);
			usual = record("usual");
		}
		Machine vm({.vcpus = 2, .irqchip = row.irqchip, .prepare = row.set});
		vm.preserve(stage.session());
		auto now = record(stage.session_name());
		if (row.field && now[row.field] == usual[row.field])
			ktap::fail("kvm_config.cc", 0,
				   std::string(row.field) + " is as usual: " + now[row.field]);
		machine::save(stage.session(), machine::SNAPSHOT, now);
		stage.keep(std::move(vm));
	},
	[](Stage &stage, const Config &row) {
		auto vm = Machine::retrieve(stage.session(), 2);
		auto was = machine::load(stage.session(), machine::SNAPSHOT);
		if (row.check)
			row.check(vm);
		OK(stage.session().finish());
		auto session = VALUE(stage.device.create("again"));
		OK(session.preserve(vm.vm.get(), 1));
		same(record("again"), was);
	});

} // namespace
