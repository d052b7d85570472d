// SPDX-License-Identifier: GPL-2.0
// Every kind of state, with other values than those after a reset, is the same after the kexec.

#include "selftests/kexec/kvm.hh"

using machine::Machine;
using machine::Options;
using machine::Snapshot;

namespace {

// ---- of a vCPU ----

using Vcpu = const kvm::Vcpu;

void nothing(Vcpu &)
{
}

void set_regs(Vcpu &vcpu)
{
	kvm_regs regs{};
	auto word = reinterpret_cast<uint64_t *>(&regs);
	for (size_t i = 0; i < sizeof(regs) / 8; i++)
		word[i] = 0x1111111111111111 * (i % 7 + 1) + i;
	regs.rip = 0x123456;
	regs.rflags = 0x200cd7; // ID, DF, SF, ZF, AF, PF, CF
	OK(vcpu.set(KVM_SET_REGS, regs));
}

void set_sregs(Vcpu &vcpu)
{
	auto sregs = VALUE(vcpu.get<kvm_sregs2>(KVM_GET_SREGS2));
	kvm_segment *segments[] = {&sregs.cs, &sregs.ds, &sregs.es,
				   &sregs.fs, &sregs.gs, &sregs.ss};
	uint16_t selector = 8;
	for (auto segment : segments) {
		*segment = {};
		segment->base = segment == &sregs.fs || segment == &sregs.gs
					? 0x7fff00000000 + selector * 16
					: 0;
		segment->limit = ~0u;
		segment->selector = selector;
		segment->present = segment->s = segment->g = 1;
		segment->type = segment == &sregs.cs ? 11 : 3;
		segment->l = segment == &sregs.cs;
		segment->db = segment != &sregs.cs;
		selector += 8;
	}
	sregs.tr.base = 0x5000;
	sregs.tr.limit = 0x67;
	sregs.tr.selector = 0x40;
	sregs.tr.type = 11;
	sregs.tr.present = 1;
	sregs.ldt.base = 0x6000;
	sregs.ldt.limit = 0x17;
	sregs.ldt.selector = 0x50;
	sregs.ldt.type = 2;
	sregs.ldt.present = 1;
	sregs.ldt.unusable = 0;
	sregs.gdt.base = 0x7000;
	sregs.gdt.limit = 0x57;
	sregs.idt.base = 0x8000;
	sregs.idt.limit = 0xfff;
	sregs.cr0 = 0x80050033;
	sregs.cr2 = 0xffff888012345678;
	sregs.cr3 = guest::page_tables;
	sregs.cr4 = 0x406a0; // OSXSAVE, PGE, PAE, OSFXSR, OSXMMEXCPT
	sregs.cr8 = 5;
	sregs.efer = 0xd01; // NX, LMA, LME, SCE
	sregs.flags = 0;
	OK(vcpu.set(KVM_SET_SREGS2, sregs));
}

// 32-bit PAE: the PDPTRs are registers of their own.
void set_pae(Vcpu &vcpu)
{
	auto sregs = VALUE(vcpu.get<kvm_sregs2>(KVM_GET_SREGS2));
	sregs.cs.limit = sregs.ds.limit = sregs.ss.limit = ~0u;
	sregs.cs.base = 0;
	sregs.cs.selector = 8;
	sregs.cs.db = sregs.cs.g = 1;
	sregs.cs.type = 11;
	sregs.cr0 = 0x80000033;
	sregs.cr3 = 0x9020;
	sregs.cr4 = 0x20;
	sregs.efer = 0;
	sregs.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	for (uint64_t i = 0; i < 4; i++)
		sregs.pdptrs[i] = (0xa000 + i * 0x1000) | 1;
	OK(vcpu.set(KVM_SET_SREGS2, sregs));
}

void set_fpu(Vcpu &vcpu)
{
	kvm_xcrs xcrs{};
	xcrs.nr_xcrs = 1;
	xcrs.xcrs[0].value = 7;
	OK(vcpu.set(KVM_SET_XCRS, xcrs));
	struct {
		uint8_t data[16384];
	} xsave{};
	REQUIRE(OK(vcpu.call(KVM_GET_XSAVE2, &xsave)));
	uint16_t control = 0x27f, status = 0x3800;
	uint32_t mxcsr = 0x1fa0;
	std::memcpy(xsave.data + 0, &control, 2);
	std::memcpy(xsave.data + 2, &status, 2);
	std::memcpy(xsave.data + 24, &mxcsr, 4);
	for (int i = 0; i < 8; i++)
		std::memset(xsave.data + 32 + 16 * i, 0x10 + i, 10); // ST
	for (int i = 0; i < 256; i++)
		xsave.data[160 + i] = 0x80 ^ i; // XMM
	for (int i = 0; i < 256; i++)
		xsave.data[576 + i] = 0x55 ^ i; // YMM, upper halves
	uint64_t components = 7;
	std::memcpy(xsave.data + 512, &components, 8);
	OK(vcpu.set(KVM_SET_XSAVE, xsave));
}

void set_debugregs(Vcpu &vcpu)
{
	auto regs = VALUE(vcpu.get<kvm_debugregs>(KVM_GET_DEBUGREGS));
	for (uint64_t i = 0; i < 4; i++)
		regs.db[i] = 0x1000 * (i + 1) + 4;
	regs.dr6 = 0xffff4ff1; // BS, B0
	regs.dr7 = 0xd0702; // a write of 4 bytes at DR0, enabled
	OK(vcpu.set(KVM_SET_DEBUGREGS, regs));
}

template <typename F> void set_events(Vcpu &vcpu, F change)
{
	auto events = VALUE(vcpu.get<kvm_vcpu_events>(KVM_GET_VCPU_EVENTS));
	events.flags = 0;
	change(events);
	OK(vcpu.set(KVM_SET_VCPU_EVENTS, events));
}

void set_pending_exception(Vcpu &vcpu)
{
	set_sregs(vcpu);
	set_events(vcpu, [](kvm_vcpu_events &events) {
		events.flags = KVM_VCPUEVENT_VALID_PAYLOAD;
		events.exception.pending = 1;
		events.exception.nr = 14;
		events.exception.has_error_code = 1;
		events.exception.error_code = 6;
		events.exception_has_payload = 1;
		events.exception_payload = 0xdeadbeef000;
	});
}

void set_injected_exception(Vcpu &vcpu)
{
	set_sregs(vcpu);
	set_events(vcpu, [](kvm_vcpu_events &events) {
		events.exception.injected = 1;
		events.exception.nr = 13;
		events.exception.has_error_code = 1;
		events.exception.error_code = 0x58;
	});
}

void set_injected_interrupt(Vcpu &vcpu)
{
	set_events(vcpu, [](kvm_vcpu_events &events) {
		events.interrupt.injected = 1;
		events.interrupt.nr = 0x33;
	});
}

void set_nmi(Vcpu &vcpu)
{
	set_events(vcpu, [](kvm_vcpu_events &events) {
		events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
		events.nmi.pending = 1;
		events.nmi.masked = 1;
		events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	});
}

void set_injected_nmi(Vcpu &vcpu)
{
	set_events(vcpu, [](kvm_vcpu_events &events) { events.nmi.injected = 1; });
}

void set_smi(Vcpu &vcpu)
{
	if (VALUE(machine::host().check(KVM_CAP_X86_SMM)))
		set_events(vcpu, [](kvm_vcpu_events &events) {
			events.flags = KVM_VCPUEVENT_VALID_SMM;
			events.smi.pending = 1;
		});
	else
		ktap::print("# this kernel has no SMM");
}

void set_triple_fault(Vcpu &vcpu)
{
	set_events(vcpu, [](kvm_vcpu_events &events) {
		events.flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
		events.triple_fault.pending = 1;
	});
}

void set_lapic(Vcpu &vcpu)
{
	auto lapic = VALUE(vcpu.get<kvm_lapic_state>(KVM_GET_LAPIC));
	auto put = [&](int at, uint32_t value) { std::memcpy(lapic.regs + at, &value, 4); };
	put(0x80, 0x50); // TPR
	put(0xd0, 0x08000000); // LDR
	put(0xf0, 0x1ef); // SVR: on
	put(0x110, 1u << 0x15); // ISR: 0x35
	put(0x200 + 0x10 * 2, 1 << 5 | 1 << 9); // IRR: 0x45, 0x49
	put(0x180 + 0x10 * 2, 1 << 9); // TMR
	put(0x310, 0x03000000); // ICR
	put(0x300, 0x4c051);
	put(0x320, 0x10052); // LVTT: masked
	put(0x340, 0x10053);
	put(0x350, 0x10700);
	put(0x360, 0x10400);
	put(0x370, 0x100fe);
	put(0x3e0, 0xa); // divide
	OK(vcpu.set(KVM_SET_LAPIC, lapic));
}

template <uint32_t state> void set_mp_state(Vcpu &vcpu)
{
	kvm_mp_state mp_state{state};
	OK(vcpu.set(KVM_SET_MP_STATE, mp_state));
}

void set_cpuid(Vcpu &vcpu)
{
	auto cpuid = VALUE(machine::host().supported_cpuid());
	uint32_t kept = 0;
	for (auto &entry : cpuid.entries()) {
		if (entry.function == 0x80000003) // the second part of the name
			continue;
		if (entry.function == 0x80000002)
			entry.eax = 0x72726546; // "Ferr"
		if (entry.function == 1)
			entry.ecx &= ~(1u << 30); // RDRAND
		cpuid.entry[kept++] = entry;
	}
	cpuid.nr = kept;
	OK(vcpu.set(KVM_SET_CPUID2, cpuid));
}

struct Value {
	uint32_t index;
	uint64_t value;
};

const Value msrs[] = {
	{0x3b, 0x1234}, // TSC_ADJUST
	{0x174, 0x10}, // SYSENTER
	{0x175, 0x81000000}, // of AMD: 32 bits
	{0x176, 0x82000000},
	{0x200, 0xc0000006}, // MTRR
	{0x201, 0xffc0000800},
	{0x20e, 0xe0000001},
	{0x20f, 0xffe0000800},
	{0x250, 0x0606060606060606},
	{0x258, 0x0404040404040404},
	{0x26f, 0x0505050505050505},
	{0x2ff, 0xc06},
	{0x277, 0x0007010600070106}, // PAT
	{0xc0000081, 0x0023001000000000}, // STAR
	{0xc0000082, 0xffffffff81234560},
	{0xc0000083, 0xffffffff81234570},
	{0xc0000084, 0x47700},
	{0xc0000102, 0xffff888000001000}, // KERNEL_GS_BASE
	{0xc0000103, 0x42}, // TSC_AUX
	{0x17a, 4}, // MCG_STATUS
	{0x17b, ~0ull}, // MCG_CTL
	{0x400 + 4 * 3, ~0ull}, // MC3_CTL
	{0x401 + 4 * 3, 0xbd00000000100179}, // MC3_STATUS
	{0x402 + 4 * 3, 0x12345678}, // MC3_ADDR
	{0x403 + 4 * 3, 0x8c}, // MC3_MISC
	{0x401 + 4 * 9, 0x8000000000000001},
	{0xc0010117, 0xa000}, // VM_HSAVE_PA
	{0x4b564d01, guest::clock_page | 1}, // kvmclock
	{0x4b564d00, guest::clock_page + 0x40},
	{0x4b564d03, guest::clock_page + 0xc1}, // steal time
	{0x4b564d04, guest::clock_page + 0x101}, // PV EOI
	{0x4b564d05, 0}, // poll control
};

void set_msrs(Vcpu &vcpu)
{
	uint64_t mcg_cap = 0x10a | 1 << 8; // 10 banks, MCG_CTL_P
	OK(vcpu.set(KVM_X86_SETUP_MCE, mcg_cap));
	for (auto &[index, value] : msrs) {
		const uint64_t set = value;
		auto done = vcpu.set_msr(index, set);
		if (!done || VALUE(vcpu.msr(index)) != set) {
			char what[64];
			std::snprintf(what, sizeof(what), "MSR %#x cannot be set", index);
			ktap::fail("kvm_state.cc", 0, what);
		}
	}
}

// Hyper-V's synthetic interrupts and timers. KVM_GET_MSR_INDEX_LIST has few of them.
void set_synic(Vcpu &vcpu)
{
	if (!VALUE(machine::host().check(KVM_CAP_HYPERV_SYNIC2)))
		return ktap::print("# this kernel has no Hyper-V emulation");
	kvm_enable_cap enable{};
	enable.cap = KVM_CAP_HYPERV_SYNIC2;
	REQUIRE(OK(vcpu.set(KVM_ENABLE_CAP, enable)));
	const Value synic[] = {
		{0x40000080, 1}, // SCONTROL
		{0x40000082, guest::clock_page | 1}, // SIEFP
		{0x40000083, guest::data | 1}, // SIMP
		{0x40000092, 0x1f2}, // SINT2
		{0x4000009f, 0x100f3}, // SINT15: masked
		{0x400000b1, 12345678}, // STIMER0_COUNT
		{0x400000b6, 0x50006}, // STIMER3_CONFIG: periodic, lazy, SINT5
		{0x400000b7, 87654321},
	};
	for (auto &[index, value] : synic) {
		const uint64_t set = value;
		OK(vcpu.set_msr(index, set));
		CHECK_EQ(VALUE(vcpu.msr(index)), set);
	}
}

void set_deadline(Vcpu &vcpu)
{
	auto lapic = VALUE(vcpu.get<kvm_lapic_state>(KVM_GET_LAPIC));
	uint32_t lvtt = 0x40045, spiv = 0x1ff;
	std::memcpy(lapic.regs + 0x320, &lvtt, 4);
	std::memcpy(lapic.regs + 0xf0, &spiv, 4);
	OK(vcpu.set(KVM_SET_LAPIC, lapic));
	OK(vcpu.set_msr(0x6e0, VALUE(vcpu.msr(0x10)) + (1ull << 42)));
	CHECK(VALUE(vcpu.msr(0x6e0)) != 0);
}

void set_x2apic(Vcpu &vcpu)
{
	auto sregs = VALUE(vcpu.get<kvm_sregs>(KVM_GET_SREGS));
	sregs.apic_base |= 0xc00;
	OK(vcpu.set(KVM_SET_SREGS, sregs));
}

// Sets a nested state, without anything that ran.
void set_nested(Vcpu &vcpu)
{
	set_sregs(vcpu);
	auto sregs = VALUE(vcpu.get<kvm_sregs>(KVM_GET_SREGS));
	sregs.efer |= 0x1000;
	OK(vcpu.set(KVM_SET_SREGS, sregs));
	kvm_nested_state nested{};
	nested.format = KVM_STATE_NESTED_FORMAT_SVM;
	nested.size = sizeof(nested);
	nested.flags = 0; // GIF is clear
	OK(vcpu.set(KVM_SET_NESTED_STATE, nested));
}

// Each has a vCPU of its own, and changes these parts of its state at least.
const struct {
	const char *name;
	void (*set)(Vcpu &vcpu);
	std::vector<const char *> changes;
} states[] = {
	{"boot CPU", nothing, {}},
	{"regs", set_regs, {"regs"}},
	{"sregs", set_sregs, {"sregs2"}},
	{"pae", set_pae, {"sregs2"}},
	{"fpu", set_fpu, {"xsave", "xcrs"}},
	{"debug registers", set_debugregs, {"debugregs"}},
	{"pending exception", set_pending_exception, {"events"}},
	{"injected exception", set_injected_exception, {"events"}},
	{"injected interrupt", set_injected_interrupt, {"events"}},
	{"nmi", set_nmi, {"events"}},
	{"injected nmi", set_injected_nmi, {"events"}},
	{"smi", set_smi, {}},
	{"triple fault", set_triple_fault, {"events"}},
	{"lapic", set_lapic, {"lapic"}},
	{"x2apic", set_x2apic, {"sregs2", "lapic"}},
	{"halted", set_mp_state<KVM_MP_STATE_HALTED>, {"mp_state"}},
	{"init", set_mp_state<KVM_MP_STATE_INIT_RECEIVED>, {"mp_state"}},
	{"sipi", set_mp_state<KVM_MP_STATE_SIPI_RECEIVED>, {"mp_state"}},
	{"running", set_mp_state<KVM_MP_STATE_RUNNABLE>, {"mp_state"}},
	{"reset hold", set_mp_state<KVM_MP_STATE_AP_RESET_HOLD>, {"mp_state"}},
	{"cpuid", set_cpuid, {"cpuid"}},
	{"msrs", set_msrs, {"msr c0000081", "msr 00000200", "msr 0000040d", "msr 4b564d01"}},
	{"synic", set_synic, {}}, // it looks itself
	{"deadline", set_deadline, {"lapic", "msr 000006e0"}},
	{"nested", set_nested, {"nested"}},
};
constexpr unsigned int nr_states = std::size(states);

void all_events(kvm::Vm &vm)
{
	OK(vm.enable(KVM_CAP_EXCEPTION_PAYLOAD, 1));
	OK(vm.enable(KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1));
}

BEFORE("kvm/state/of vCPUs: other than after a reset, and the same after the kexec")
{
	Machine vm({.vcpus = nr_states, .prepare = all_events});
	Snapshot all;
	// PDPTEs that are there.
	for (uint64_t i = 0; i < 4; i++)
		vm.ram.at<uint64_t>(0x9020)[i] = (0xa000 + i * 0x1000) | 1;
	for (unsigned int i = 0; i < nr_states; i++) {
		auto &[name, set, changes] = states[i];
		auto reset = machine::snapshot(vm.vcpus[i]);
		set(vm.vcpus[i]);
		auto now = machine::snapshot(vm.vcpus[i]);
		for (auto part : changes)
			if (!now.contains(part) || now[part] == reset[part])
				ktap::fail("kvm_state.cc", 0,
					   std::string(name) + ": " + part +
						   " is as after a reset");
	}
	// Some MSRs are of all vCPUs.
	for (unsigned int i = 0; i < nr_states; i++)
		machine::add(all, std::string(states[i].name) + ": ",
			     machine::snapshot(vm.vcpus[i]));
	ktap::print("# %zu parts", all.size());
	machine::save(stage.session(), machine::SNAPSHOT, all);
	vm.preserve(stage.session());
	stage.keep(std::move(vm));
}

AFTER()
{
	auto vm = Machine::retrieve(stage.session(), nr_states);
	Snapshot all;
	for (unsigned int i = 0; i < nr_states; i++)
		machine::add(all, std::string(states[i].name) + ": ",
			     machine::snapshot(vm.vcpus[i]));
	CHECK(machine::same(all, machine::load(stage.session(), machine::SNAPSHOT)));
	OK(stage.session().finish());
	// They are their own.
	vm.ram.unmap();
}

// The same without the capabilities that tell a pending exception from an injected one, and let a
// triple fault be seen: what is there is carried all the same.
BEFORE("kvm/state/a pending exception of a VM without exception payloads")
{
	Machine vm;
	vm.boot(0, guest::halt());
	vm.ram.at<uint64_t>(guest::page_tables + 0x2000)[8] = 0; // 16 MiB is not mapped
	OK(vm.vm.enable(KVM_CAP_EXCEPTION_PAYLOAD, 1));
	auto events = VALUE(vm.vcpus[0].get<kvm_vcpu_events>(KVM_GET_VCPU_EVENTS));
	events.flags = KVM_VCPUEVENT_VALID_PAYLOAD;
	events.exception.pending = 1;
	events.exception.nr = 14;
	events.exception.has_error_code = 1;
	events.exception.error_code = 2;
	events.exception_has_payload = 1;
	events.exception_payload = 0x1000123;
	OK(vm.vcpus[0].set(KVM_SET_VCPU_EVENTS, events));
	OK(vm.vm.enable(KVM_CAP_EXCEPTION_PAYLOAD, 0));
	vm.preserve(stage.session());
	stage.keep(std::move(vm));
}

AFTER()
{
	machine::Running all(Machine::retrieve(stage.session(), 1));
	auto &data = all.vm.data();
	CHECK_EQ(data.irqs[guest::PF], 0);
	all.start();
	CHECK(wait_for([&] { return data.irqs[guest::PF]; }));
	::usleep(20000);
	CHECK_EQ(data.irqs[guest::PF], 1);
	CHECK_EQ(data.error_code, 2);
	CHECK_EQ(data.cr2, 0x1000123);
	all.stop();
	CHECK(all.fine());
}

// ---- of a VM ----

struct Routing {
	uint32_t nr, flags;
	kvm_irq_routing_entry entry[32];
};

BEFORE("kvm/state/of a VM: PICs, IOAPIC, PIT, routes")
{
	Machine vm({.pit = true});
	auto reset = machine::snapshot(vm.vm);
	kvm_irqchip chip{};
	REQUIRE(OK(vm.vm.call(KVM_GET_IRQCHIP, &chip)));
	chip.chip.pic.imr = 0xb8;
	chip.chip.pic.irq_base = 0x20;
	chip.chip.pic.elcr = 0x20;
	chip.chip.pic.isr = 2;
	chip.chip.pic.last_irr = 0x10;
	OK(vm.vm.set(KVM_SET_IRQCHIP, chip));
	chip.chip_id = 1;
	chip.chip.pic.irq_base = 0x28;
	chip.chip.pic.imr = 0xef;
	chip.chip.pic.elcr = 0x4;
	chip.chip.pic.isr = 0;
	OK(vm.vm.set(KVM_SET_IRQCHIP, chip));
	chip = {};
	chip.chip_id = 2;
	REQUIRE(OK(vm.vm.call(KVM_GET_IRQCHIP, &chip)));
	for (uint64_t i = 0; i < 24; i++)
		chip.chip.ioapic.redirtbl[i].bits = i << 56 | (i & 1) << 15 | 1 << 16 | (0x50 + i);
	chip.chip.ioapic.redirtbl[5].bits = 0xe055; // level, low, not masked, and already pending
	chip.chip.ioapic.irr = 1 << 9;
	chip.chip.ioapic.ioregsel = 0x15;
	chip.chip.ioapic.id = 3;
	OK(vm.vm.set(KVM_SET_IRQCHIP, chip));

	kvm_pit_state2 pit{};
	pit.flags = KVM_PIT_FLAGS_HPET_LEGACY; // channel 0 raises no interrupts
	for (uint32_t i = 0; i < 3; i++) {
		auto &channel = pit.channels[i];
		channel.count = 0x1000 + 0x123 * i;
		channel.latched_count = 0x77 + i;
		channel.count_latched = 1;
		channel.status = 0x30 + i;
		channel.rw_mode = channel.read_state = channel.write_state = 3;
		channel.mode = 2 + (i == 2);
		channel.gate = i != 2;
	}
	OK(vm.vm.set(KVM_SET_PIT2, pit));

	Routing routing{};
	auto route = [&](uint32_t gsi, uint32_t irqchip, uint32_t pin) {
		auto &entry = routing.entry[routing.nr++];
		entry.gsi = gsi;
		entry.type = KVM_IRQ_ROUTING_IRQCHIP;
		entry.u.irqchip.irqchip = irqchip;
		entry.u.irqchip.pin = pin;
	};
	for (uint32_t i = 0; i < 8; i++) {
		route(i, 0, i);
		route(8 + i, 1, i);
	}
	route(0, 2, 2);
	for (uint32_t i = 20; i < 24; i++)
		route(i, 2, i);
	for (uint32_t i = 100; i < 102; i++) {
		auto &entry = routing.entry[routing.nr++];
		entry.gsi = i;
		entry.type = KVM_IRQ_ROUTING_MSI;
		entry.u.msi.address_lo = 0xfee00000;
		entry.u.msi.data = 0x60 + i - 100;
	}
	OK(vm.vm.set(KVM_SET_GSI_ROUTING, routing));
	OK(vm.vcpus[0].set_msr(0x1b, 0xfee00d00));
	OK(vm.vcpus[0].set_msr(0x80f, 0x1ff));

	auto now = machine::snapshot(vm.vm);
	for (auto part : {"pic master", "pic slave", "ioapic", "pit"})
		CHECK(now[part] != reset[part]);
	machine::save(stage.session(), machine::SNAPSHOT, now);
	vm.preserve(stage.session());
	stage.keep(std::move(vm));
}

uint32_t irr(const Machine &vm, unsigned int vector)
{
	auto lapic = VALUE(vm.vcpus[0].get<kvm_lapic_state>(KVM_GET_LAPIC));
	uint32_t word;
	std::memcpy(&word, lapic.regs + 0x200 + vector / 32 * 16, 4);
	return word >> vector % 32 & 1;
}

AFTER()
{
	auto vm = Machine::retrieve(stage.session(), 1);
	CHECK(machine::same(machine::snapshot(vm.vm),
			    machine::load(stage.session(), machine::SNAPSHOT)));
	// The routes lead to where they did.
	CHECK_EQ(irr(vm, 0x60), 0);
	OK(vm.vm.irq_line(100, true));
	CHECK_EQ(irr(vm, 0x60), 1);
	CHECK_EQ(irr(vm, 0x61), 0);
	OK(vm.vm.irq_line(101, true));
	CHECK_EQ(irr(vm, 0x61), 1);
	// And what has no route goes nowhere.
	auto before = machine::snapshot(vm.vm);
	OK(vm.vm.irq_line(16, true));
	CHECK(machine::same(machine::snapshot(vm.vm), before));
	OK(vm.vm.irq_line(6, true));
	CHECK(machine::snapshot(vm.vm)["pic master"] != before["pic master"]);
}

} // namespace
