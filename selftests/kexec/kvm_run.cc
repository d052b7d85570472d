// SPDX-License-Identifier: GPL-2.0
// Guests that run before a kexec, and go on after it.

#include <x86intrin.h>

#include "selftests/kexec/kvm.hh"

using machine::Machine;
using machine::Options;
using machine::Running;

namespace {

std::shared_ptr<Running> running(Machine vm)
{
	return std::make_shared<Running>(std::move(vm));
}

// ---- the basic flow ----

BEFORE("kvm/run/a guest goes on where it was")
{
	Machine vm;
	vm.boot(0, guest::out());
	for (int i = 1; i <= 100; i++)
		CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), i);
	machine::settle(vm.vcpus[0]);
	vm.preserve(stage.session());
	stage.keep(std::move(vm));
}

AFTER()
{
	auto vm = Machine::retrieve(stage.session(), 1);
	for (int i = 101; i <= 200; i++)
		CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), i);
	OK(stage.session().finish());
	for (int i = 201; i <= 300; i++)
		CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), i);
}

// A busy guest, whose thread is in KVM_RUN when the kexec comes; the same as OUT after OUT, each of
// which its VMM counts.
struct Busy {
	const char *name;
	std::string_view (*program)();
	bool gmem;
};

void busy_before(Stage &stage, const Busy &row)
{
	auto all = running(Machine({.gmem = row.gmem}));
	all->vm.boot(0, row.program());
	all->start();
	CHECK(wait_for([&] { return all->vm.data().count > 1000; }));
	all->vm.preserve(stage.session());
	const auto seen = all->vm.data().count;
	CHECK(wait_for([&] { return all->vm.data().count > seen; }));
	CHECK(all->fine());
	stage.note("count", all->vm.data().count);
	stage.keep(all);
}

void busy_after(Stage &stage, const Busy &row)
{
	auto all = running(Machine::retrieve(stage.session(), 1));
	auto &data = all->vm.data();
	const auto count = data.count;
	ktap::print("# it had counted to %llu; EINTR %llu, EBUSY %llu times",
		    (unsigned long long)count, (unsigned long long)data.interrupted,
		    (unsigned long long)data.busy);
	CHECK(count > uint64_t(stage.number("count")));
	// Who counts OUTs may have been about to call KVM_RUN, and not have come to it any more.
	if (row.program == guest::out)
		CHECK(data.last == count || data.last + 1 == count);
	else
		CHECK(data.interrupted >= 1 && data.busy >= 1);
	all->start();
	CHECK(wait_for([&] { return data.count > count + 100; }));
	all->stop();
	CHECK(all->fine());
	OK(stage.session().finish());
}

const Table<Busy> busy("kvm/run/",
		       {
			       {"busy: kicked out of the guest", guest::count, false},
			       {"busy: no OUT is lost or done twice", guest::out, false},
			       {"busy: on a guest_memfd", guest::count, true},
		       },
		       busy_before, busy_after);

// ---- again and again ----

void again(Stage &stage, bool first)
{
	auto all = running(first ? Machine() : Machine::retrieve(stage.session(), 1));
	if (first)
		all->vm.boot(0, guest::out());
	else
		OK(stage.session().finish());
	auto &data = all->vm.data();
	const auto count = data.count;
	CHECK(first || count > uint64_t(stage.number("count")));
	all->start();
	CHECK(wait_for([&] { return data.count > count + 100; }));
	CHECK(all->fine());
	auto session = first ? std::move(stage.session())
			     : VALUE(stage.device.create(stage.session_name()));
	all->vm.preserve(session);
	stage.note("count", data.count);
	stage.keep(all);
	stage.keep(std::move(session));
}

BEFORE("kvm/run/5 updates in a row")
{
	again(stage, true);
}

AFTER()
{
	again(stage, false);
}

AFTER()
{
	again(stage, false);
}

AFTER()
{
	again(stage, false);
}

AFTER()
{
	again(stage, false);
}

AFTER()
{
	auto all = running(Machine::retrieve(stage.session(), 1));
	auto &data = all->vm.data();
	const auto count = data.count;
	CHECK(count > uint64_t(stage.number("count")));
	all->start();
	CHECK(wait_for([&] { return data.count > count + 100; }));
	all->stop();
	CHECK(all->fine());
	ktap::print("# %llu OUTs, none lost", (unsigned long long)data.count);
	OK(stage.session().finish());
}

// ---- many vCPUs ----

BEFORE("kvm/run/8 vCPUs")
{
	Machine vm({.vcpus = 8});
	for (unsigned int i = 0; i < 8; i++) {
		vm.boot(i, guest::out());
		for (unsigned int j = 1; j <= i + 1; j++)
			CHECK_EQ(machine::run_to_out(vm.vcpus[i], guest::count_port), j);
		machine::settle(vm.vcpus[i]);
	}
	vm.preserve(stage.session());
	stage.keep(std::move(vm));
}

AFTER()
{
	auto all = running(Machine::retrieve(stage.session(), 8));
	for (unsigned int i = 0; i < 8; i++)
		CHECK_EQ(machine::run_to_out(all->vm.vcpus[i], guest::count_port), i + 2);
	for (unsigned int i = 0; i < 8; i++)
		all->vm.data(i).last = i + 2;
	// All at once.
	all->start();
	for (unsigned int i = 0; i < 8; i++)
		CHECK(wait_for([&] { return all->vm.data(i).count > 20; }));
	all->stop();
	CHECK(all->fine());
	OK(stage.session().finish());
}

// ---- halted ----

BEFORE("kvm/run/halted in the guest, woken by an interrupt")
{
	auto all = running(Machine());
	all->vm.boot(0, guest::halt());
	OK(all->vm.vcpus[0].set_msr(0x80f, 0x1ff)); // the APIC is on
	all->start();
	::usleep(20000);
	OK(all->vm.vm.signal_msi(0xfee00000, guest::vector[guest::MSI]));
	CHECK(wait_for([&] { return all->vm.data().count == 1; }));
	CHECK_EQ(all->vm.data().irqs[guest::MSI], 1);
	all->vm.preserve(stage.session());
	CHECK(all->fine());
	stage.keep(all);
}

AFTER()
{
	auto all = running(Machine::retrieve(stage.session(), 1));
	auto &data = all->vm.data();
	CHECK_EQ(VALUE(all->vm.vcpus[0].get<kvm_mp_state>(KVM_GET_MP_STATE)).mp_state,
		 KVM_MP_STATE_HALTED);
	CHECK_EQ(data.irqs[guest::MSI], 1);
	all->start();
	::usleep(50000);
	CHECK_EQ(data.count, 1);
	OK(all->vm.vm.signal_msi(0xfee00000, guest::vector[guest::MSI]));
	CHECK(wait_for([&] { return data.count == 2; }));
	CHECK_EQ(data.irqs[guest::MSI], 2);
	all->stop();
	CHECK(all->fine());
}

BEFORE("kvm/run/an interrupt that is pending is taken once")
{
	Machine vm;
	vm.boot(0, guest::halt());
	OK(vm.vcpus[0].set_msr(0x80f, 0x1ff));
	OK(vm.vm.signal_msi(0xfee00000, guest::vector[guest::MSI]));
	kvm_irq_level level{};
	level.irq = 4; // the IOAPIC has it masked: nobody gets it
	level.level = 1;
	OK(vm.vm.set(KVM_IRQ_LINE, level));
	// And a NMI.
	VALUE(vm.vcpus[0].call(KVM_NMI));
	vm.preserve(stage.session());
	stage.keep(std::move(vm));
}

AFTER()
{
	auto all = running(Machine::retrieve(stage.session(), 1));
	auto &data = all->vm.data();
	CHECK_EQ(data.irqs[guest::MSI] + data.irqs[guest::NMI], 0);
	all->start();
	CHECK(wait_for([&] { return data.irqs[guest::MSI] && data.irqs[guest::NMI]; }));
	::usleep(20000);
	CHECK_EQ(data.irqs[guest::MSI], 1);
	CHECK_EQ(data.irqs[guest::NMI], 1);
	all->stop();
	CHECK(all->fine());
}

// ---- bringing up another vCPU ----

// At 0x20000: counts, and says so, in real mode.
const char real_mode[] = "\x66\x40\xe6\x10\xeb\xfa"; // 1: inc %eax; out %al, $0x10; jmp 1b

BEFORE("kvm/run/16-bit code, and a vCPU that waits for its SIPI")
{
	Machine vm({.vcpus = 3});
	std::memcpy(vm.ram.at(0x20000), real_mode, sizeof(real_mode) - 1);
	// vCPU 0 is there already, the others in the states after reset, and after an INIT.
	auto sregs = VALUE(vm.vcpus[0].get<kvm_sregs>(KVM_GET_SREGS));
	sregs.cs.selector = 0x2000;
	sregs.cs.base = 0x20000;
	OK(vm.vcpus[0].set(KVM_SET_SREGS, sregs));
	kvm_regs regs{};
	regs.rflags = 2;
	OK(vm.vcpus[0].set(KVM_SET_REGS, regs));
	for (int i = 1; i <= 5; i++)
		CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), i);
	machine::settle(vm.vcpus[0]);
	// KVM does not find the last vCPU by its APIC before somebody has set that.
	OK(vm.vcpus[2].set(KVM_SET_LAPIC, VALUE(vm.vcpus[2].get<kvm_lapic_state>(KVM_GET_LAPIC))));
	OK(vm.vm.signal_msi(0xfee02000, 0x4500)); // INIT to vCPU 2
	CHECK_EQ(VALUE(vm.vcpus[1].get<kvm_mp_state>(KVM_GET_MP_STATE)).mp_state,
		 KVM_MP_STATE_UNINITIALIZED);
	CHECK_EQ(VALUE(vm.vcpus[2].get<kvm_mp_state>(KVM_GET_MP_STATE)).mp_state,
		 KVM_MP_STATE_INIT_RECEIVED);
	vm.preserve(stage.session());
	stage.keep(std::move(vm));
}

AFTER()
{
	auto vm = Machine::retrieve(stage.session(), 3);
	for (int i = 6; i <= 10; i++)
		CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), i);
	CHECK_EQ(VALUE(vm.vcpus[1].get<kvm_mp_state>(KVM_GET_MP_STATE)).mp_state,
		 KVM_MP_STATE_UNINITIALIZED);
	CHECK_EQ(VALUE(vm.vcpus[2].get<kvm_mp_state>(KVM_GET_MP_STATE)).mp_state,
		 KVM_MP_STATE_INIT_RECEIVED);
	OK(vm.vm.signal_msi(0xfee01000, 0x4500));
	for (unsigned int i = 1; i <= 2; i++) {
		OK(vm.vm.signal_msi(0xfee00000 | i << 12, 0x4620)); // SIPI to 0x20000
		auto first = machine::run_to_out(vm.vcpus[i], guest::count_port);
		CHECK_EQ(machine::run_to_out(vm.vcpus[i], guest::count_port), uint8_t(first + 1));
	}
}

// ---- nested ----

void write_vmcb(Machine &vm)
{
	auto at = [&](uint64_t offset) { return vm.ram.at(guest::vmcb + offset); };
	auto put = [&](uint64_t offset, auto value) {
		std::memcpy(at(offset), &value, sizeof(value));
	};
	put(0x10, uint32_t(3)); // intercepts VMRUN, VMMCALL
	put(0x58, uint32_t(1)); // ASID
	struct Segment {
		uint16_t selector, attributes;
		uint32_t limit;
		uint64_t base;
	};
	for (uint64_t offset : {0x400, 0x420, 0x430, 0x440, 0x450})
		put(offset, Segment{16, 0xc93, ~0u, 0});
	put(0x410, Segment{8, 0xa9b, ~0u, 0});
	put(0x460, Segment{0, 0, 23, guest::gdt});
	put(0x480, Segment{0, 0, 4095, guest::idt});
	put(0x4d0, 0x1500ull); // EFER
	put(0x548, 0x620ull); // CR4
	put(0x550, uint64_t(guest::page_tables));
	put(0x558, 0x80000033ull); // CR0
	put(0x560, 0x400ull); // DR7
	put(0x568, 0xffff0ff0ull); // DR6
	put(0x570, 2ull); // RFLAGS
	put(0x578, uint64_t(guest::l2_code));
	put(0x5d8, uint64_t(guest::stacks + 0x8000)); // RSP
	put(0x668, 0x7040600070406ull); // PAT
}

bool has_svm()
{
	auto cpuid = VALUE(machine::host().supported_cpuid());
	for (auto &entry : cpuid.entries())
		if (entry.function == 0x80000001)
			return entry.ecx & 4;
	return false;
}

std::string nested_state(const Machine &vm)
{
	auto nested = machine::snapshot(vm.vcpus[0])["nested"];
	// DR6 in what L1 is to go on with: KVM has it elsewhere, and sets it before each entry.
	const size_t dr6 = sizeof(kvm_nested_state) + 0x568;
	nested.replace(dr6, 8, 8, 0);
	return nested;
}

BEFORE("kvm/run/a guest in a guest: L2 is entered")
{
	if (machine::need_kvm(); !has_svm())
		ktap::skip("no nested SVM on this host");
	Machine vm;
	write_vmcb(vm);
	vm.boot(0, guest::l1());
	for (int i = 1; i <= 10; i++)
		CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), i);
	CHECK_EQ(vm.data().exits, 2);
	CHECK_EQ(vm.data().exit_code, 0x81); // VMMCALL
	machine::settle(vm.vcpus[0]);
	auto nested = nested_state(vm);
	auto head = reinterpret_cast<const kvm_nested_state *>(nested.data());
	CHECK(head->flags & KVM_STATE_NESTED_GUEST_MODE);
	machine::Snapshot state;
	state["nested"] = nested;
	machine::save(stage.session(), machine::SNAPSHOT, state);
	vm.preserve(stage.session());
	stage.keep(std::move(vm));
}

AFTER()
{
	auto vm = Machine::retrieve(stage.session(), 1);
	machine::Snapshot is;
	is["nested"] = nested_state(vm);
	CHECK(machine::same(is, machine::load(stage.session(), machine::SNAPSHOT)));
	for (int i = 11; i <= 30; i++)
		CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), i);
	CHECK_EQ(vm.data().exits, 7);
	CHECK_EQ(vm.data().exit_code, 0x81);
}

// ---- clocks ----

struct Clocks {
	uint64_t host_tsc, guest_tsc, real_tsc, real, kvmclock_tsc, kvmclock, page_clock;
};

struct Pvclock {
	uint32_t version, pad;
	uint64_t tsc, time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags;
};

uint64_t real_ns()
{
	timespec now;
	SYS(::clock_gettime(CLOCK_REALTIME, &now));
	return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

// A clock, with the host's counter at the same time: of some readings the quickest.
template <typename F> uint64_t read_clock(F clock, uint64_t &host_tsc)
{
	uint64_t best = ~0ull, read = 0;
	for (int i = 0; i < 10; i++) {
		uint64_t start = __rdtsc(), is = clock(), end = __rdtsc();
		if (end - start < best) {
			best = end - start;
			host_tsc = start + best / 2;
			read = is;
		}
	}
	return read;
}

Clocks clocks(const Machine &vm)
{
	Clocks now{};
	now.guest_tsc = read_clock([&] { return VALUE(vm.vcpus[0].msr(0x10)); }, now.host_tsc);
	now.real = read_clock(real_ns, now.real_tsc);
	now.kvmclock =
		read_clock([&] { return VALUE(vm.vm.get<kvm_clock_data>(KVM_GET_CLOCK)).clock; },
			   now.kvmclock_tsc);
	auto page = *vm.ram.at<Pvclock>(guest::clock_page);
	auto ticks = now.guest_tsc - page.tsc;
	ticks = page.shift < 0 ? ticks >> -page.shift : ticks << page.shift;
	now.page_clock = page.time + uint64_t((unsigned __int128)ticks * page.mul >> 32);
	return now;
}

BEFORE("kvm/run/clocks: the counter goes on, kvmclock has advanced by the gap")
{
	Machine vm;
	vm.boot(0, guest::out());
	OK(vm.vcpus[0].set_msr(0x4b564d01, guest::clock_page | 1));
	// Not that of the host.
	uint64_t offset = 0;
	VALUE(vm.vcpus[0].call(KVM_GET_TSC_KHZ));
	REQUIRE(OK(vm.vcpus[0].attribute(KVM_GET_DEVICE_ATTR, KVM_VCPU_TSC_CTRL,
					 KVM_VCPU_TSC_OFFSET, offset)));
	offset += 123456789;
	REQUIRE(OK(vm.vcpus[0].attribute(KVM_SET_DEVICE_ATTR, KVM_VCPU_TSC_CTRL,
					 KVM_VCPU_TSC_OFFSET, offset)));
	const long long khz = VALUE(vm.vcpus[0].call(KVM_GET_TSC_KHZ));
	kvm_clock_data clock{};
	clock.clock = 5'000'000'000'000;
	const uint64_t set_tsc = __rdtsc();
	OK(vm.vm.set(KVM_SET_CLOCK, clock));
	CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), 1);
	machine::settle(vm.vcpus[0]);
	auto now = clocks(vm);
	// They run since then, however long it was.
	auto runs = [&](uint64_t is, uint64_t at_tsc) {
		const long long passed = (long long)(at_tsc - set_tsc) * 1'000'000 / khz,
				went = (long long)(is - clock.clock);
		ktap::print("# %lld ns by the clock, %lld by the counter", went, passed);
		return went >= 0 && went < passed + passed / 500 + 2'000'000;
	};
	CHECK(runs(now.kvmclock, now.kvmclock_tsc));
	CHECK(runs(now.page_clock, now.host_tsc));
	stage.note("host tsc", now.host_tsc);
	stage.note("guest tsc", now.guest_tsc);
	stage.note("kvmclock tsc", now.kvmclock_tsc);
	stage.note("kvmclock", now.kvmclock);
	stage.note("page clock", now.page_clock);
	stage.note("khz", khz);
	stage.note("real tsc", now.real_tsc);
	stage.note("real", now.real);
	vm.preserve(stage.session());
	stage.keep(std::move(vm));
}

AFTER()
{
	auto vm = Machine::retrieve(stage.session(), 1);
	const long long khz = stage.number("khz");
	CHECK_EQ(VALUE(vm.vcpus[0].call(KVM_GET_TSC_KHZ)), khz);
	for (int when = 0; when < 2; when++) {
		auto now = clocks(vm);
		auto since = [&](uint64_t is, const char *was) {
			return (long long)(is - uint64_t(stage.number(was)));
		};
		const auto gap = since(now.host_tsc, "host tsc");
		// In microseconds; each clock next to the host's counter at its own time, as
		// much may come between the readings of two of them.
		const auto passed = gap * 1000 / khz,
			   clock_off = since(now.kvmclock, "kvmclock") / 1000 -
				       since(now.kvmclock_tsc, "kvmclock tsc") * 1000 / khz,
			   page_off = since(now.page_clock, "page clock") / 1000 - passed,
			   real_off = since(now.real, "real") / 1000 -
				      since(now.real_tsc, "real tsc") * 1000 / khz,
			   off = (since(now.guest_tsc, "guest tsc") - gap) * 1000 / khz;
		ktap::print(
			"# %lld us passed; the guest's counter is %lld us off, kvmclock %lld us, "
			"its page %lld us, the host's time %lld us",
			passed, off, clock_off, page_off, real_off);
		CHECK(std::labs(off) < 2000);
		// The host's time goes by the same counter, so they stay together: but for
		// what a kernel is off that measures the rate anew (scenario clocks: 0.2%).
		const long long tolerance = passed / 500 + 2000;
		CHECK(std::labs(real_off) < tolerance + 20000);
		// As above, from when they were loaded; and no reading is instantaneous.
		CHECK(std::labs(clock_off) < tolerance);
		if (when)
			CHECK(std::labs(page_off) < tolerance);
		else
			machine::run_to_out(vm.vcpus[0], guest::count_port);
	}
}

} // namespace

int kvm_stage(int stage, const char *filter)
{
	// Retrieving wants the modules; a case says so when there are none.
	try {
		machine::need_kvm();
	} catch (ktap::Stop) {
		ktap::current = {};
	}
	return run_stage(stage, "kvm/", filter);
}
