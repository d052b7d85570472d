// SPDX-License-Identifier: GPL-2.0
// Timers that run on over the kexec. These come last before it.

#include "selftests/kexec/kvm.hh"

using machine::Machine;
using machine::Running;

namespace {

constexpr uint64_t periodic = 0x20000, deadline = 0x40000; // in the timer's LVT

uint32_t current_count(const kvm::Vcpu &vcpu)
{
	auto lapic = VALUE(vcpu.get<kvm_lapic_state>(KVM_GET_LAPIC));
	uint32_t count;
	std::memcpy(&count, lapic.regs + 0x390, 4);
	return count;
}

// Starts the timer of a vCPU, whose thread then waits in HLT.
void start(Machine &vm, unsigned int i, uint64_t lvt, uint64_t ticks)
{
	vm.boot(i, guest::timer(), lvt | guest::vector[guest::TIMER], ticks);
	machine::run_to_out(vm.vcpus[i], guest::done_port);
}

// Does it come with that period, in seconds? On a busy machine some are late, and come at once
// then; so it is the best of some tries that counts.
bool has_period(const uint64_t &irqs, double period, unsigned int number)
{
	using Clock = std::chrono::steady_clock;
	const double due = number * period;
	for (int i = 0; i < 5; i++) {
		const auto before = irqs;
		const auto start = Clock::now();
		const bool came = wait_for([&] { return irqs >= before + number; });
		const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
		ktap::print("# %llu interrupts in %.2f s, %u are due in %.2f s",
			    (unsigned long long)(irqs - before), seconds, number, due);
		if (!came)
			return false;
		if (seconds > due / 2 && seconds < due * 2)
			return true;
	}
	return false;
}

BEFORE("kvm/timer/of the LAPIC: one-shot, periodic, deadlines")
{
	auto all = std::make_shared<Running>(Machine({.vcpus = 5}));
	auto &vm = all->vm;
	const uint64_t khz = VALUE(vm.vcpus[0].call(KVM_GET_TSC_KHZ));
	start(vm, 0, 0, 6 * guest::timer_hz);
	start(vm, 1, periodic, guest::timer_hz / 10);
	start(vm, 2, deadline, khz * 1500); // comes in the gap, most likely
	start(vm, 3, deadline, khz * 9000); // after it
	start(vm, 4, deadline, khz * 3'600'000); // not in this test
	stage.note("deadline", VALUE(vm.vcpus[3].msr(0x6e0)));
	stage.note("far deadline", VALUE(vm.vcpus[4].msr(0x6e0)));
	all->start();
	CHECK(wait_for([&] { return vm.data(1).irqs[guest::TIMER] >= 3; }));
	vm.preserve(stage.session());
	stage.note("periodic", vm.data(1).irqs[guest::TIMER]);
	CHECK(all->fine());
	stage.keep(all);
}

AFTER()
{
	auto all = std::make_shared<Running>(Machine::retrieve(stage.session(), 5));
	auto &vm = all->vm;
	auto fired = [&](int i) { return vm.data(i).irqs[guest::TIMER]; };
	const auto left = current_count(vm.vcpus[0]);
	ktap::print("# the one-shot timer fired %llu times before, %.1f s are left; the periodic "
		    "one %llu times; the deadlines %llu, %llu times",
		    (unsigned long long)fired(0), double(left) / guest::timer_hz,
		    (unsigned long long)fired(1), (unsigned long long)fired(2),
		    (unsigned long long)fired(3));
	// It goes on while nobody has retrieved the VM; what is due then comes with KVM_RUN.
	CHECK(fired(0) || left <= 6 * guest::timer_hz);
	CHECK(fired(1) >= uint64_t(stage.number("periodic")));
	CHECK_EQ(VALUE(vm.vcpus[4].msr(0x6e0)), stage.number("far deadline"));
	if (!fired(3) && VALUE(vm.vcpus[3].msr(0x10)) < uint64_t(stage.number("deadline")))
		CHECK_EQ(VALUE(vm.vcpus[3].msr(0x6e0)), stage.number("deadline"));

	const auto one_shot = fired(0);
	const auto start = std::chrono::steady_clock::now();
	all->start();
	// Of one whose offset is wrong by the gap, or by what had passed, it is not the machine.
	auto comes = [&](unsigned int i, double due) {
		const bool came = wait_for([&] { return fired(i); });
		const std::chrono::duration<double> after =
			std::chrono::steady_clock::now() - start;
		ktap::print("# timer %u within %.2f s, at most %.0f s are left", i, after.count(),
			    due);
		return came && after.count() < due + 20;
	};
	CHECK(comes(2, 0)); // what was due in the gap
	CHECK(comes(3, 9));
	CHECK(comes(0, 6));
	CHECK(has_period(vm.data(1).irqs[guest::TIMER], 0.1, 10));
	// Whoever is woken by it counts, too, a moment later.
	for (int i : {0, 2, 3})
		CHECK(wait_for([&] { return vm.data(i).count >= fired(i); }));
	::usleep(50000);
	all->stop();
	CHECK(VALUE(vm.vcpus[3].msr(0x10)) >= uint64_t(stage.number("deadline")));
	for (int i : {2, 3}) {
		CHECK_EQ(fired(i), 1);
		CHECK_EQ(vm.data(i).count, 1);
	}
	// KVM_SET_LAPIC lets a one-shot timer that had fired before fire once more: it cannot know
	// whether anybody has seen it.
	CHECK(fired(0) == 1 || (one_shot && fired(0) == 2));
	CHECK_EQ(vm.data(0).count, fired(0));
	CHECK_EQ(VALUE(vm.vcpus[3].msr(0x6e0)), 0);
	CHECK_EQ(fired(4), 0);
	CHECK(all->fine());
	OK(stage.session().finish());
}

// Channel 0 of the PIT, through the IOAPIC.
BEFORE("kvm/timer/of the PIT")
{
	auto all = std::make_shared<Running>(Machine({.pit = true}));
	auto &vm = all->vm;
	kvm_irqchip chip{};
	chip.chip_id = 2;
	REQUIRE(OK(vm.vm.call(KVM_GET_IRQCHIP, &chip)));
	chip.chip.ioapic.redirtbl[0].bits = guest::vector[guest::LINE];
	OK(vm.vm.set(KVM_SET_IRQCHIP, chip));
	vm.boot(0, guest::halt());
	OK(vm.vcpus[0].set_msr(0x80f, 0x1ff));
	auto pit = VALUE(vm.vm.get<kvm_pit_state2>(KVM_GET_PIT2));
	pit.channels[0].count = 59659; // 20 Hz
	pit.channels[0].mode = 2;
	pit.channels[0].gate = 1;
	OK(vm.vm.set(KVM_SET_PIT2, pit));
	all->start();
	CHECK(wait_for([&] { return vm.data().irqs[guest::LINE] >= 3; }));
	vm.preserve(stage.session());
	stage.note("irqs", vm.data().irqs[guest::LINE]);
	CHECK(all->fine());
	stage.keep(all);
}

AFTER()
{
	auto all = std::make_shared<Running>(Machine::retrieve(stage.session(), 1));
	auto &irqs = all->vm.data().irqs[guest::LINE];
	CHECK(irqs >= uint64_t(stage.number("irqs")));
	all->start();
	CHECK(has_period(irqs, 0.05, 20));
	all->stop();
	CHECK(all->fine());
}

} // namespace
