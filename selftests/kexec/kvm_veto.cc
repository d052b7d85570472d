// SPDX-License-Identifier: GPL-2.0
// A kexec that is called off: guests run on. All of it in one kernel.

#include <sys/eventfd.h>

#include <csetjmp>
#include <csignal>

#include <sys/wait.h>

#include "selftests/kexec/kvm.hh"
#include "selftests/kexec/veto.hh"

using machine::Machine;
using machine::Options;
using machine::Ram;
using machine::Running;

namespace {

bool goes_on(Running &all)
{
	bool fine = true;
	for (size_t i = 0; i < all.vm.vcpus.size(); i++) {
		const auto count = all.vm.data(i).count;
		fine &= CHECK(wait_for([&] { return all.vm.data(i).count > count + 10; }));
	}
	return fine && all.fine();
}

// ---- what is missing ----

TEST("kvm", "kvm/missing/a vCPU whose VM is not preserved")
{
	Running all{Machine()};
	all.vm.boot(0, guest::out());
	all.start();
	auto device = open_device();
	auto session = VALUE(device.create("no vm"));
	OK(session.preserve(all.vm.vcpus[0].get(), 1));
	CHECK_EQ(jump(), ENOENT);
	CHECK(logged("vCPU 0 is preserved, and its VM is not"));
	goes_on(all);
	// Another VM does not help.
	Machine other;
	OK(session.preserve(other.vm.get(), 2));
	CHECK_EQ(jump(), ENOENT);
	goes_on(all);
}

TEST("kvm", "kvm/missing/one of the vCPUs")
{
	Running all{Machine({.vcpus = 3})};
	for (int i = 0; i < 3; i++)
		all.vm.boot(i, guest::out());
	all.start();
	auto device = open_device();
	auto session = VALUE(device.create("no vcpu"));
	all.vm.preserve(session);
	session.close();
	session = VALUE(device.create("no vcpu"));
	OK(session.preserve(all.vm.vm.get(), 1));
	OK(session.preserve(all.vm.vcpus[0].get(), 2));
	OK(session.preserve(all.vm.vcpus[2].get(), 3));
	OK(session.preserve(all.vm.ram.fd.get(), 4));
	CHECK_EQ(jump(), ENOENT);
	CHECK(logged("a VM is preserved, and its vCPU 1 is not"));
	goes_on(all);
}

TEST("kvm", "kvm/missing/the VM of a guest_memfd")
{
	Running all{Machine({.gmem = true})};
	all.vm.boot(0, guest::out());
	all.start();
	auto device = open_device();
	auto session = VALUE(device.create("gmem"));
	OK(session.preserve(all.vm.ram.fd.get(), 1));
	CHECK_EQ(jump(), ENOENT);
	CHECK(logged("a guest_memfd is preserved, and its VM is not"));
	goes_on(all);
}

TEST("kvm", "kvm/missing/the guest_memfd of a slot")
{
	Running all{Machine({.gmem = true})};
	all.vm.boot(0, guest::out());
	all.start();
	auto device = open_device();
	auto session = VALUE(device.create("no gmem"));
	OK(session.preserve(all.vm.vcpus[0].get(), 1));
	OK(session.preserve(all.vm.vm.get(), 2));
	CHECK_EQ(jump(), ENOENT);
	CHECK(logged("the guest_memfd of its memory slot 0x0 is not"));
	goes_on(all);
}

TEST("kvm", "kvm/missing/the memfd of a slot")
{
	Running all{Machine()};
	all.vm.boot(0, guest::out());
	all.start();
	auto device = open_device();
	auto session = VALUE(device.create("no memfd")), other = VALUE(device.create("other"));
	OK(session.preserve(all.vm.vcpus[0].get(), 1));
	OK(session.preserve(all.vm.vm.get(), 0xabc));
	CHECK_EQ(jump(), ENOENT);
	CHECK(logged("'no memfd'", "0xabc"));
	goes_on(all);
	// In another session it does not count.
	OK(other.preserve(all.vm.ram.fd.get(), 1));
	CHECK_EQ(jump(), ENOENT);
	goes_on(all);
}

TEST("kvm", "kvm/missing/the memfd of a slot that came after preserve")
{
	Running all{Machine()};
	all.vm.boot(0, guest::out());
	all.start();
	auto device = open_device();
	auto session = VALUE(device.create("late slot"));
	all.vm.preserve(session);
	Ram late(make_memfd(MiB), MiB);
	OK(machine::set_slot(all.vm.vm, 9, 8 * MiB, MiB, late.at(0)));
	CHECK_EQ(jump(), ENOENT);
	goes_on(all);
	// Anonymous memory is refused in the freeze, then.
	auto at = SYS(
		::mmap(nullptr, MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	OK(machine::set_slot(all.vm.vm, 9, 8 * MiB, 0, nullptr));
	OK(machine::set_slot(all.vm.vm, 9, 8 * MiB, MiB, at));
	CHECK_EQ(jump(), EOPNOTSUPP);
	CHECK(logged("memory slot 0x9 of a VM"));
	goes_on(all);
	// As is a vCPU that came later.
	OK(machine::set_slot(all.vm.vm, 9, 8 * MiB, 0, nullptr));
	auto vcpu = VALUE(all.vm.vm.create_vcpu(1, machine::mmap_size()));
	CHECK_EQ(jump(), ENOENT);
	CHECK(logged("a VM is preserved, and its vCPU 1 is not"));
	goes_on(all);
}

// ---- called off ----

TEST("kvm", "kvm/called off/at every step: the guests run on, and all ioctls work")
{
	Running memfd{Machine({.vcpus = 2, .pit = true})}, gmem{Machine({.gmem = true})};
	memfd.vm.boot(0, guest::out());
	memfd.vm.boot(1, guest::count());
	gmem.vm.boot(0, guest::count());
	memfd.start();
	gmem.start();
	auto device = open_device();
	auto one = VALUE(device.create("one")), two = VALUE(device.create("two"));
	memfd.vm.preserve(one);
	gmem.vm.preserve(two);
	TestFile file("late");
	auto three = VALUE(device.create("three"));
	OK(three.preserve(file.get(), 1));
	for (auto step : {"freeze", "save", "freeze", "save"}) {
		file.fail(step, EREMOTEIO);
		CHECK_EQ(jump(), EREMOTEIO);
		goes_on(memfd);
		goes_on(gmem);
		// Not while they run: these want the vCPU.
		OK(memfd.vm.vm.get<kvm_pit_state2>(KVM_GET_PIT2));
		OK(gmem.vm.vm.get<kvm_clock_data>(KVM_GET_CLOCK));
	}
	CHECK(memfd.vm.data(1).interrupted >= 1);
	// Preserved still, and free when the session is closed.
	CHECK_ERRNO(::fallocate(gmem.vm.ram.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				MiB, page),
		    EBUSY);
	two.close();
	SYS(::fallocate(gmem.vm.ram.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, MiB,
			page));
	goes_on(gmem);
	memfd.stop();
	// The guest's own sum of all that it did.
	auto regs = VALUE(memfd.vm.vcpus[1].get<kvm_regs>(KVM_GET_REGS));
	CHECK(regs.r8 - memfd.vm.data(1).count <= 1);
	ktap::print("# it has counted to %llu", regs.r8);
}

TEST("kvm", "kvm/called off/state is as it was")
{
	Machine vm({.vcpus = 2, .pit = true});
	vm.boot(0, guest::out());
	for (int i = 1; i <= 5; i++)
		machine::run_to_out(vm.vcpus[0], guest::count_port);
	machine::settle(vm.vcpus[0]);
	auto device = open_device();
	auto session = VALUE(device.create("same"));
	vm.preserve(session);
	TestFile file("last");
	OK(session.preserve(file.get(), 200));
	machine::Snapshot was, is;
	auto look = [&](machine::Snapshot &at) {
		machine::add(at, "0: ", machine::snapshot(vm.vcpus[0]));
		machine::add(at, "1: ", machine::snapshot(vm.vcpus[1]));
		machine::add(at, "vm: ", machine::snapshot(vm.vm));
	};
	look(was);
	file.fail("save", EREMOTEIO);
	CHECK_EQ(jump(), EREMOTEIO);
	look(is);
	CHECK(machine::same(is, was));
	CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), 6);
}

TEST("kvm", "kvm/called off/8 busy vCPUs: they are all stopped at once")
{
	Running all{Machine({.vcpus = 8})};
	for (int i = 0; i < 8; i++)
		all.vm.boot(i, i & 1 ? guest::count() : guest::out());
	all.start();
	auto device = open_device();
	auto session = VALUE(device.create("busy"));
	all.vm.preserve(session);
	TestFile file("busy");
	OK(session.preserve(file.get(), 200));
	double best = 1e9;
	for (int i = 0; i < 3; i++) {
		file.fail("save", EREMOTEIO);
		auto start = std::chrono::steady_clock::now();
		CHECK_EQ(jump(), EREMOTEIO);
		std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
		ktap::print("# %.0f ms", took.count() * 1000);
		best = std::min(best, took.count());
		goes_on(all);
	}
	// The machine may be busy at one time or another. And not on a kernel that is slow by
	// itself, with its leak detector and the like.
	CHECK(best < 3 || !::access("/sys/kernel/debug/kmemleak", F_OK));
}

// All that a VMM does meanwhile fails with EBUSY or works, and the freeze comes through.
TEST("kvm", "kvm/called off/other threads that call ioctls all the time")
{
	Running all{Machine({.vcpus = 2, .pit = true})};
	auto &vm = all.vm;
	vm.boot(0, guest::out());
	all.runners.emplace_back(vm.vcpus[0], vm.data());
	auto device = open_device();
	auto session = VALUE(device.create("ioctls"));
	vm.preserve(session);
	TestFile file("ioctls");
	OK(session.preserve(file.get(), 200));
	std::atomic<bool> stop = false;
	std::atomic<uint64_t> done = 0, busy = 0;
	std::atomic<int> wrong = 0;
	auto again = [&](auto call) {
		return std::thread([&, call] {
			while (!stop) {
				auto result = call();
				if (result)
					++done;
				else if (result.error().value() == EBUSY)
					++busy;
				else
					wrong = result.error().value();
			}
		});
	};
	std::thread threads[] = {
		again([&] { return vm.vm.get<kvm_clock_data>(KVM_GET_CLOCK); }),
		again([&] { return vm.vcpus[1].get<kvm_regs>(KVM_GET_REGS); }),
		again([&] {
			static bool there;
			auto set =
				machine::set_slot(vm.vm, 1, 8 * MiB, there ? 0 : MiB, vm.ram.at(0));
			there ^= bool(set);
			return set;
		}),
	};
	// Until one of them has come while all is frozen, which is not for long.
	const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
	for (int i = 0; i < 5 || (!busy && std::chrono::steady_clock::now() < end); i++) {
		const auto before = done.load();
		file.fail("save", EREMOTEIO);
		CHECK_EQ(jump(), EREMOTEIO);
		if (!CHECK(wait_for([&] { return done > before + 100; })))
			break;
	}
	stop = true;
	for (auto &thread : threads)
		thread.join();
	ktap::print("# %llu ioctls, %llu times EBUSY", (unsigned long long)done.load(),
		    (unsigned long long)busy.load());
	CHECK_EQ(wrong, 0);
	CHECK(busy > 0);
	const auto count = vm.data().count;
	CHECK(wait_for([&] { return vm.data().count > count + 10; }));
	all.fine();
}

sigjmp_buf after_fault;

void fault(int)
{
	siglongjmp(after_fault, 1);
}

// Does reading there end in SIGBUS?
bool faults(volatile char *at)
{
	auto old = ::signal(SIGBUS, fault);
	volatile bool faulted = true;
	if (!sigsetjmp(after_fault, 1)) {
		(void)*at;
		faulted = false;
	}
	::signal(SIGBUS, old);
	return faulted;
}

// An eventfd that brings the guest an interrupt of the vector MSI.
Fd make_irqfd(const Machine &machine)
{
	constexpr uint32_t gsi = 24;
	struct {
		uint32_t nr = 1, flags = 0;
		kvm_irq_routing_entry entry{};
	} routing;
	routing.entry.gsi = gsi;
	routing.entry.type = KVM_IRQ_ROUTING_MSI;
	routing.entry.u.msi.address_lo = 0xfee00000;
	routing.entry.u.msi.data = guest::vector[guest::MSI];
	OK(machine.vm.set(KVM_SET_GSI_ROUTING, routing));
	Fd event(SYS(::eventfd(0, EFD_CLOEXEC)));
	kvm_irqfd irqfd{};
	irqfd.fd = static_cast<uint32_t>(event.get());
	irqfd.gsi = gsi;
	OK(machine.vm.set(KVM_IRQFD, irqfd));
	return event;
}

// One VM with an exit that nobody finishes: the kernel waits for it, and then gives up. Meanwhile
// another one is frozen, and can be looked at.
TEST("kvm", "kvm/called off/an exit that nobody finishes: EBUSY, and what is frozen meanwhile")
{
	Running frozen{Machine({.gmem = true})};
	frozen.vm.boot(0, guest::out());
	frozen.start();
	Running signaled{Machine()};
	signaled.vm.boot(0, guest::halt());
	OK(signaled.vm.vcpus[0].set_msr(0x80f, 0x1ff)); // the APIC is on
	auto irq = make_irqfd(signaled.vm);
	signaled.start();
	Machine stuck({.vcpus = 2});
	stuck.boot(0, guest::halt());
	stuck.boot(1, guest::out());
	CHECK_EQ(machine::run_to_out(stuck.vcpus[1], guest::count_port), 1);
	auto device = open_device();
	auto one = VALUE(device.create("frozen")), two = VALUE(device.create("stuck"));
	frozen.vm.preserve(one);
	signaled.vm.preserve(one, machine::TOKENS);
	stuck.preserve(two);
	auto &data = frozen.vm.data();
	const auto busy = data.busy;
	std::atomic<int> error = 0;
	std::thread caller([&] { error = jump(); });
	// Frozen for good, and not for the moment in which the kernel tries it.
	int times = 0;
	CHECK(wait_for([&] {
		times = frozen.vm.vm.get<kvm_clock_data>(KVM_GET_CLOCK) ? 0 : times + 1;
		return times == 100 || error;
	}));
	CHECK_EQ(times, 100);
	const auto count = data.count;
	CHECK(data.busy > busy);
	// An interrupt waits: it is in no state of the VM.
	CHECK(wait_for([&] { return !signaled.vm.vm.get<kvm_clock_data>(KVM_GET_CLOCK); }));
	SYS(::eventfd_write(irq.get(), 1));
	// A vCPU thread gets EBUSY, as does everything else.
	FAILS(frozen.vm.vcpus[0].get<kvm_regs>(KVM_GET_REGS), EBUSY);
	FAILS(frozen.vm.vcpus[0].set(KVM_SET_REGS, kvm_regs{}), EBUSY);
	FAILS(frozen.vm.vcpus[0].call(KVM_NMI), EBUSY);
	FAILS(frozen.vm.vm.get<kvm_clock_data>(KVM_GET_CLOCK), EBUSY);
	FAILS(frozen.vm.vm.create_vcpu(5, machine::mmap_size()), EBUSY);
	FAILS(machine::set_slot(frozen.vm.vm, 3, 8 * MiB, 0, nullptr), EBUSY);
	FAILS(frozen.vm.vm.signal_msi(0xfee00000, 0x40), EBUSY);
	// Its memory takes no new pages, and keeps those that it has.
	CHECK_ERRNO(::fallocate(frozen.vm.ram.fd.get(), FALLOC_FL_KEEP_SIZE, MiB, page), EBUSY);
	CHECK_ERRNO(::fallocate(frozen.vm.ram.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				0, page),
		    EBUSY);
	CHECK(faults(frozen.vm.ram.at(MiB)));
	CHECK(!faults(frozen.vm.ram.at(guest::data)));
	// The other one may do nothing but finish: its vCPU leaves the halt that it is in.
	FAILS(stuck.vcpus[0].run(), EINTR);
	::usleep(200000);
	CHECK_EQ(data.count, count);
	// All of this before the kernel gave up, or else it says nothing: it waits for five
	// seconds.
	CHECK_EQ(error, 0);
	caller.join();
	CHECK_EQ(error, EBUSY);
	CHECK(logged("vCPU 1 has an exit that its VMM has not finished"));
	goes_on(frozen);
	// It was not lost, and comes once.
	auto &irqs = signaled.vm.data().irqs[guest::MSI];
	CHECK(wait_for([&] { return irqs; }));
	::usleep(20000);
	CHECK_EQ(irqs, 1);
	SYS(::eventfd_write(irq.get(), 1));
	CHECK(wait_for([&] { return irqs == 2; }));
	signaled.stop();
	CHECK(!faults(frozen.vm.ram.at(MiB)));
	// The OUT was done once.
	CHECK_EQ(machine::run_to_out(stuck.vcpus[1], guest::count_port), 2);
	machine::settle(stuck.vcpus[1]);
}

TEST("kvm", "kvm/called off/an exit that is finished while the kernel waits")
{
	Machine vm;
	vm.boot(0, guest::out());
	CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), 1);
	auto device = open_device();
	auto session = VALUE(device.create("late"));
	vm.preserve(session);
	TestFile file("late exit");
	OK(session.preserve(file.get(), 200));
	file.fail("save", EREMOTEIO);
	int error = 0;
	std::thread caller([&] { error = jump(); });
	// A VMM that takes its time with each exit, until the kernel has come to wait for it.
	// Without immediate_exit: the guest is not entered all the same, and the OUT is not to be
	// handled once more.
	uint64_t exits = 1;
	::usleep(100000);
	auto done = vm.vcpus[0].run();
	for (; done && exits < 600; done = vm.vcpus[0].run()) {
		CHECK_EQ(machine::out_value(vm.vcpus[0]), ++exits);
		::usleep(100000);
	}
	FAILS(std::move(done), EINTR);
	CHECK_EQ(vm.vcpus[0].shared().exit_reason, KVM_EXIT_INTR);
	caller.join();
	CHECK_EQ(error, EREMOTEIO);
	CHECK_EQ(vm.data().count, exits);
	CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), exits + 1);
	machine::settle(vm.vcpus[0]);
}

TEST("kvm", "kvm/called off/vCPUs that wait: for an interrupt, and for a SIPI")
{
	Running all{Machine({.vcpus = 3})};
	all.vm.boot(0, guest::out());
	all.vm.boot(1, guest::halt());
	OK(all.vm.vcpus[1].set_msr(0x80f, 0x1ff));
	all.start();
	auto device = open_device();
	auto session = VALUE(device.create("waiting"));
	all.vm.preserve(session);
	TestFile file("waiting");
	OK(session.preserve(file.get(), 200));
	for (int i = 0; i < 3; i++) {
		file.fail("save", EREMOTEIO);
		CHECK_EQ(jump(), EREMOTEIO);
		OK(all.vm.vm.signal_msi(0xfee01000, guest::vector[guest::MSI]));
		CHECK(wait_for([&] { return all.vm.data(1).count == uint64_t(i + 1); }));
	}
	const auto count = all.vm.data(0).count;
	CHECK(wait_for([&] { return all.vm.data(0).count > count + 10; }));
	CHECK_EQ(all.vm.data(1).irqs[guest::MSI], 3);
	all.fine();
}

TEST("kvm", "kvm/called off/a VM whose process is gone")
{
	machine::need_kvm();
	auto device = open_device();
	auto session = VALUE(device.create("dead"));
	const pid_t child = SYS(::fork());
	if (!child) {
		Machine vm;
		vm.boot(0, guest::out());
		machine::run_to_out(vm.vcpus[0], guest::count_port);
		machine::settle(vm.vcpus[0]);
		vm.preserve(session);
		::_exit(ktap::current.failed);
	}
	int status;
	SYS(::waitpid(child, &status, 0));
	CHECK_EQ(status, 0);
	TestFile file("dead");
	OK(session.preserve(file.get(), 200));
	file.fail("save", EREMOTEIO);
	CHECK_EQ(jump(), EREMOTEIO);
}

} // namespace
