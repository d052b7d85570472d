// SPDX-License-Identifier: GPL-2.0
// Retrieving in the next kernel: orders, what is missing, what goes wrong, who gets it.

#include <algorithm>
#include <numeric>
#include <random>

#include <sys/socket.h>
#include <sys/wait.h>

#include "selftests/kexec/kvm.hh"

using machine::Machine;
using machine::Options;
using machine::Ram;
using Slot = kvm::MemoryDevice::Slot;

namespace {

// A guest that has said 1 to 3, and does nothing at the moment.
Machine counted(const Options &options = {})
{
	Machine vm(options);
	for (unsigned int i = 0; i < options.vcpus; i++) {
		vm.boot(i, guest::out());
		for (int j = 1; j <= 3; j++)
			CHECK_EQ(machine::run_to_out(vm.vcpus[i], guest::count_port), j);
		machine::settle(vm.vcpus[i]);
	}
	return vm;
}

bool goes_on(const Machine &vm, uint64_t from = 4)
{
	bool fine = true;
	for (auto &vcpu : vm.vcpus)
		for (uint64_t i = from; i < from + 3; i++)
			fine &= CHECK_EQ(machine::run_to_out(vcpu, guest::count_port), i);
	return fine;
}

void put(Stage &stage, const Options &options = {}, uint64_t base = 0)
{
	auto vm = counted(options);
	vm.preserve(stage.session(), base);
	stage.keep(std::move(vm));
}

uint64_t address(const void *at)
{
	return reinterpret_cast<uint64_t>(at);
}

// ---- orders ----

constexpr unsigned int nr_files = 4; // VM, two vCPUs, a guest_memfd
const uint64_t files[nr_files] = {machine::VM, machine::VCPU, machine::VCPU + 1, machine::RAM};

std::vector<std::vector<unsigned int>> orders()
{
	std::vector<unsigned int> order(nr_files);
	std::iota(order.begin(), order.end(), 0);
	std::vector<std::vector<unsigned int>> all;
	// A kernel that looks for leaks is slow: there each fifth one does.
	const bool all_of_them = ::access("/sys/kernel/debug/kmemleak", F_OK) != 0;
	unsigned int nth = 0;
	do
		if (all_of_them || nth++ % 5 == 0)
			all.push_back(order);
	while (std::next_permutation(order.begin(), order.end()));
	return all;
}

BEFORE("kvm/order/all orders of preserve, and of retrieve")
{
	uint64_t base = 0;
	for (auto &order : orders()) {
		auto vm = counted({.vcpus = 2, .gmem = true});
		for (auto i : order) {
			int fd = i == 0	  ? vm.vm.get()
				 : i == 3 ? vm.ram.fd.get()
					  : vm.vcpus[i - 1].get();
			OK(stage.session().preserve(fd, base + files[i]));
		}
		base += machine::TOKENS;
		stage.keep(std::move(vm));
	}
}

AFTER()
{
	auto all = orders();
	std::mt19937 random(42);
	std::shuffle(all.begin(), all.end(), random);
	uint64_t base = 0;
	for (auto &order : all) {
		std::vector<Fd> kept; // Machine::retrieve() gets them again
		for (auto i : order)
			kept.push_back(VALUE(stage.session().retrieve(base + files[i])));
		auto vm = Machine::retrieve(stage.session(), 2, base);
		if (!goes_on(vm))
			break;
		base += machine::TOKENS;
	}
	OK(stage.session().finish());
}

BEFORE("kvm/order/two VMs in one session, two in two")
{
	put(stage);
	put(stage, {.vcpus = 2, .irqchip = Options::SPLIT, .gmem = true}, 1000);
	for (auto name : {"kvm-other-1", "kvm-other-2"}) {
		auto session = VALUE(stage.device.create(name));
		auto vm = counted();
		vm.preserve(session);
		stage.keep(std::move(vm));
		stage.keep(std::move(session));
	}
}

AFTER()
{
	auto second = Machine::retrieve(stage.session(), 2, 1000);
	auto first = Machine::retrieve(stage.session(), 1);
	auto two = VALUE(stage.device.retrieve("kvm-other-2"));
	auto third = Machine::retrieve(two, 1);
	auto one = VALUE(stage.device.retrieve("kvm-other-1"));
	auto fourth = Machine::retrieve(one, 1);
	for (auto vm : {&first, &second, &third, &fourth})
		goes_on(*vm);
	OK(two.finish());
	OK(stage.session().finish());
	for (auto vm : {&first, &second, &third, &fourth})
		goes_on(*vm, 7);
}

// ---- the calls ----

BEFORE("kvm/incoming/KVM_RUN before SET_MEMORY is EBUSY, and retrieve twice is one VM")
{
	put(stage, {.vcpus = 2});
}

AFTER()
{
	auto vm = Machine::collect(stage.session(), 2);
	FAILS(vm.vcpus[0].run(), EBUSY);
	// Nothing is there yet: no state can be spoilt.
	Fd again = VALUE(stage.session().retrieve(machine::VM));
	vm.complete();
	goes_on(vm);
	kvm::Vm other(std::move(again));
	FAILS(machine::set_memory(other, {}), EALREADY);
	Fd vcpu = VALUE(stage.session().retrieve(machine::VCPU));
	CHECK_EQ(::ioctl(vcpu.get(), KVM_GET_TSC_KHZ), VALUE(vm.vcpus[0].call(KVM_GET_TSC_KHZ)));
	OK(stage.session().finish());
	FAILS(machine::set_memory(vm.vm, {}), ENOENT);
}

BEFORE("kvm/incoming/SET_MEMORY with wrong addresses")
{
	put(stage);
}

AFTER()
{
	auto vm = Machine::collect(stage.session(), 1);
	auto slots = machine::get_memory(vm.vm);
	REQUIRE(slots.size() == 1);
	auto set = [&](uint64_t at) {
		slots[0].userspace_addr = at;
		return machine::set_memory(vm.vm, slots);
	};
	const size_t size = machine::ram_size;
	Ram other(make_memfd(size), size);
	auto copy = [&](int flags, off_t offset, int prot = PROT_READ | PROT_WRITE) {
		return SYS(::mmap(nullptr, size, prot, flags, vm.ram.fd.get(), offset));
	};
	FAILS(set(0), EINVAL);
	FAILS(set(~0ull), EINVAL);
	FAILS(set(~0ull << 12), EINVAL);
	FAILS(set(address(vm.ram.at(1))), EINVAL);
	FAILS(set(address(other.at(0))), EINVAL); // another file
	FAILS(set(address(vm.ram.at(page))), EINVAL); // another part of it
	FAILS(set(address(copy(MAP_PRIVATE, 0))), EINVAL);
	FAILS(set(address(copy(MAP_SHARED, page))), EINVAL);
	auto half = static_cast<char *>(copy(MAP_SHARED, 0));
	SYS(::munmap(half + size / 2, page));
	FAILS(set(address(half)), EINVAL);
	SYS(::mmap(half + size / 2, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0));
	FAILS(set(address(half)), EINVAL);
	// A slot that it never had.
	slots[0].slot = 1;
	FAILS(set(address(vm.ram.at(0))), EINVAL);
	slots[0].slot = 0;
	// Nothing at all.
	FAILS(machine::set_memory(vm.vm, {}), EAGAIN);
	FAILS(vm.vcpus[0].run(), EBUSY);
	// Twice is fine: the slot moves.
	slots.push_back(slots[0]);
	slots[0].userspace_addr = address(copy(MAP_SHARED, 0));
	slots[1].userspace_addr = address(vm.ram.at(0));
	OK(machine::set_memory(vm.vm, slots));
	goes_on(vm);
}

BEFORE("kvm/incoming/the calls' bad arguments")
{
	put(stage);
}

AFTER()
{
	auto vm = Machine::collect(stage.session(), 1);
	Fd device(SYS(::open("/dev/liveupdate_kvm", O_RDWR | O_CLOEXEC)));
	Slot slot{};
	liveupdate_kvm_memory arg{};
	arg.vm = vm.vm.get();
	arg.slots = address(&slot);
	for (auto request : {LIVEUPDATE_KVM_GET_MEMORY, LIVEUPDATE_KVM_SET_MEMORY}) {
		auto with = [&](auto change) {
			auto bad = arg;
			bad.size = sizeof(bad);
			change(bad);
			return ::ioctl(device.get(), request, &bad);
		};
		CHECK_ERRNO(with([](auto &bad) { bad.size--; }), EINVAL);
		CHECK_ERRNO(with([](auto &bad) { bad.size = 0; }), EINVAL);
		CHECK_ERRNO(with([](auto &bad) { bad.reserved = 1; }), EINVAL);
		CHECK_ERRNO(with([](auto &bad) { bad.vm = -1; }), EBADF);
		CHECK_ERRNO(with([&](auto &bad) { bad.vm = device.get(); }), EBADF);
		CHECK_ERRNO(with([&](auto &bad) { bad.vm = vm.vcpus[0].get(); }), EBADF);
		CHECK_ERRNO(with([&](auto &bad) { bad.vm = vm.ram.fd.get(); }), EBADF);
		CHECK_ERRNO(with([&](auto &bad) {
				    bad.nr_slots = 1;
				    bad.slots = 8;
			    }),
			    EFAULT);
		CHECK_ERRNO(::ioctl(device.get(), request, nullptr), EFAULT);
		Machine fresh;
		CHECK_ERRNO(with([&](auto &bad) { bad.vm = fresh.vm.get(); }), ENOENT);
	}
	CHECK_ERRNO(::ioctl(device.get(), _IO(LIVEUPDATE_KVM_IOCTL_TYPE, 0x82), &arg), ENOTTY);
	arg.size = sizeof(arg);
	CHECK_ERRNO(::ioctl(device.get(), LIVEUPDATE_KVM_GET_MEMORY, &arg), ENOSPC);
	CHECK_EQ(arg.nr_slots, 1);
	SYS(::ioctl(device.get(), LIVEUPDATE_KVM_GET_MEMORY, &arg));
	CHECK_EQ(slot.memory_size, machine::ram_size);
	arg.nr_slots = ~0u; // more than there are
	SYS(::ioctl(device.get(), LIVEUPDATE_KVM_GET_MEMORY, &arg));
	CHECK_EQ(arg.nr_slots, 1);
	vm.complete();
	goes_on(vm);
}

BEFORE("kvm/incoming/piece by piece: EAGAIN until all is there")
{
	put(stage, {.vcpus = 2, .gmem = true});
}

AFTER()
{
	machine::need_kvm();
	kvm::Vm vm(VALUE(stage.session().retrieve(machine::VM)));
	CHECK(machine::get_memory(vm).empty());
	FAILS(machine::set_memory(vm, {}), EAGAIN);
	auto second = VALUE(kvm::Vcpu::adopt(VALUE(stage.session().retrieve(machine::VCPU + 1)),
					     machine::mmap_size()));
	FAILS(machine::set_memory(vm, {}), EAGAIN);
	FAILS(second.run(), EBUSY);
	Ram ram(VALUE(stage.session().retrieve(machine::RAM)), machine::ram_size);
	auto slots = machine::get_memory(vm);
	REQUIRE(slots.size() == 1);
	slots[0].userspace_addr = address(ram.at(0));
	FAILS(machine::set_memory(vm, slots), EAGAIN);
	CHECK_EQ(machine::get_memory(vm)[0].present, 1);
	CHECK_EQ(machine::get_memory(vm)[0].userspace_addr, address(ram.at(0)));
	auto first = VALUE(kvm::Vcpu::adopt(VALUE(stage.session().retrieve(machine::VCPU)),
					    machine::mmap_size()));
	FAILS(first.run(), EBUSY);
	OK(machine::set_memory(vm, {}));
	CHECK_EQ(machine::run_to_out(first, guest::count_port), 4);
	CHECK_EQ(machine::run_to_out(second, guest::count_port), 4);
}

BEFORE("kvm/incoming/a VM without vCPUs and without memory")
{
	machine::need_kvm();
	auto vm = VALUE(machine::host().create_vm());
	OK(stage.session().preserve(vm.get(), 1));
	stage.keep(std::move(vm));
}

AFTER()
{
	machine::need_kvm();
	kvm::Vm vm(VALUE(stage.session().retrieve(1)));
	CHECK(machine::get_memory(vm).empty());
	OK(machine::set_memory(vm, {}));
	auto vcpu = VALUE(vm.create_vcpu(0, machine::mmap_size()));
	Ram ram(make_memfd(MiB), MiB);
	OK(machine::set_slot(vm, 0, 0, MiB, ram.at(0)));
	OK(stage.session().finish());
	OK(vcpu.get<kvm_regs>(KVM_GET_REGS));
}

// ---- finish ----

// A machine with so much memory that it shows when that is free again.
void put_large(Stage &stage)
{
	auto vm = counted({.gmem = true});
	Ram gmem(machine::make_gmem(vm.vm, 48 * MiB), 48 * MiB);
	std::memset(gmem.at(0), 1, 48 * MiB);
	OK(machine::set_gmem_slot(vm.vm, 1, 64 * MiB, 48 * MiB, gmem.at(0), gmem.fd));
	vm.preserve(stage.session());
	OK(stage.session().preserve(gmem.fd.get(), machine::RAM + 1));
	stage.keep(std::move(vm));
	stage.keep(std::move(gmem));
}

BEFORE("kvm/incoming/finish without retrieve frees everything")
{
	put_large(stage);
}

AFTER()
{
	machine::need_kvm();
	const long before = free_memory();
	OK(stage.session().finish());
	check_freed(before, 16 * 1024);
	for (uint64_t token :
	     {uint64_t(machine::VM), uint64_t(machine::VCPU), uint64_t(machine::RAM)})
		FAILS(stage.session().retrieve(token), ENOENT);
}

BEFORE("kvm/incoming/finish before it is complete: it cannot run, and all is freed")
{
	put_large(stage);
}

AFTER()
{
	machine::need_kvm();
	long before;
	{
		auto vm = Machine::collect(stage.session(), 1);
		auto gmem = VALUE(stage.session().retrieve(machine::RAM + 1));
		OK(stage.session().finish());
		FAILS(machine::set_memory(vm.vm, {}), ENOENT);
		FAILS(vm.vcpus[0].run(), EBUSY);
		before = free_memory();
	}
	check_freed(before, 16 * 1024);
}

BEFORE("kvm/incoming/only some of it is retrieved")
{
	put(stage, {.vcpus = 3});
}

AFTER()
{
	machine::need_kvm();
	// A vCPU brings its VM.
	auto vcpu = VALUE(stage.session().retrieve(machine::VCPU + 1));
	OK(stage.session().finish());
	CHECK_ERRNO(::ioctl(vcpu.get(), KVM_RUN, 0), EBUSY);
}

BEFORE("kvm/incoming/the session is closed without finish, the VM runs on")
{
	put(stage, {.gmem = true});
}

AFTER()
{
	auto vm = Machine::retrieve(stage.session(), 1);
	stage.session().close();
	goes_on(vm);
	FAILS(stage.device.retrieve(stage.session_name()), ENOENT);
}

// ---- who ----

BEFORE("kvm/incoming/a VMM that died before the kexec")
{
	machine::need_kvm();
	auto &session = stage.session();
	const pid_t child = SYS(::fork());
	if (!child) {
		ktap::current = {};
		try {
			counted().preserve(session);
			counted({.gmem = true}).preserve(session, 1000);
		} catch (ktap::Stop) {
		}
		::_exit(ktap::current.failed);
	}
	int status;
	SYS(::waitpid(child, &status, 0));
	CHECK_EQ(status, 0);
}

AFTER()
{
	auto first = Machine::retrieve(stage.session(), 1);
	auto second = Machine::retrieve(stage.session(), 1, 1000);
	goes_on(first);
	goes_on(second);
}

void send(int socket, const std::vector<int> &fds)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int) * 8)] = {};
	iovec io{&byte, 1};
	msghdr message{};
	message.msg_iov = &io;
	message.msg_iovlen = 1;
	message.msg_control = control;
	message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
	auto head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
	std::memcpy(CMSG_DATA(head), fds.data(), sizeof(int) * fds.size());
	SYS(::sendmsg(socket, &message, 0));
}

std::vector<int> receive(int socket, size_t nr)
{
	char byte, control[CMSG_SPACE(sizeof(int) * 8)] = {};
	iovec io{&byte, 1};
	msghdr message{};
	message.msg_iov = &io;
	message.msg_iovlen = 1;
	message.msg_control = control;
	message.msg_controllen = sizeof(control);
	SYS(::recvmsg(socket, &message, 0));
	std::vector<int> fds(nr);
	std::memcpy(fds.data(), CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int) * nr);
	return fds;
}

// Passes a VM to a child that was there before, which completes it and runs it.
void hand_over(Stage &stage, uint64_t base, bool early)
{
	int ends[2];
	SYS(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	const pid_t child = SYS(::fork());
	if (!child) {
		ktap::current = {};
		try {
			auto fds = receive(ends[1], 3);
			kvm::Vm vm{Fd(fds[0])};
			auto vcpu = VALUE(kvm::Vcpu::adopt(Fd(fds[1]), machine::mmap_size()));
			Ram ram(Fd(fds[2]), machine::ram_size);
			FAILS(vcpu.run(), EBUSY);
			auto slots = machine::get_memory(vm);
			REQUIRE(slots.size() == 1);
			slots[0].userspace_addr = address(ram.at(0));
			REQUIRE(OK(machine::set_memory(vm, slots)));
			for (int i = 4; i < 10; i++)
				CHECK_EQ(machine::run_to_out(vcpu, guest::count_port), i);
		} catch (ktap::Stop) {
		}
		::_exit(ktap::current.failed);
	}
	auto &session = stage.session();
	auto vm = VALUE(session.retrieve(base + machine::VM)),
	     ram = VALUE(session.retrieve(base + machine::RAM));
	Ram mine;
	if (!early) {
		// With our own memory it is ours, until somebody else gives it theirs.
		mine = Ram(Fd(SYS(::dup(ram.get()))), machine::ram_size);
		kvm::Vm same(Fd(SYS(::dup(vm.get()))));
		auto slots = machine::get_memory(same);
		REQUIRE(slots.size() == 1);
		slots[0].userspace_addr = address(mine.at(0));
		FAILS(machine::set_memory(same, slots), EAGAIN); // its vCPU is missing
	}
	auto vcpu = VALUE(session.retrieve(base + machine::VCPU));
	// Nobody can use it before it is complete, us included.
	kvm_regs regs;
	kvm_clock_data clock;
	CHECK_ERRNO(::ioctl(vcpu.get(), KVM_GET_REGS, &regs), EBUSY);
	CHECK_ERRNO(::ioctl(vm.get(), KVM_GET_CLOCK, &clock), EBUSY);
	send(ends[0], {vm.get(), vcpu.get(), ram.get()});
	int status;
	SYS(::waitpid(child, &status, 0));
	CHECK_EQ(status, 0);
	::close(ends[0]);
	::close(ends[1]);
	// Now it belongs to the other, which is gone.
	CHECK_ERRNO(::ioctl(vcpu.get(), KVM_GET_REGS, &regs), EIO);
	CHECK_ERRNO(::ioctl(vcpu.get(), KVM_RUN, 0), EIO);
}

BEFORE("kvm/incoming/who retrieves it passes it to who runs it, over a socket")
{
	put(stage);
	put(stage, {.gmem = true}, 1000);
	put(stage, {}, 2000);
}

AFTER()
{
	machine::host();
	hand_over(stage, 0, true);
	hand_over(stage, 1000, true);
	hand_over(stage, 2000, false);
	OK(stage.session().finish());
}

// ---- after all others ----

TEST("kvm-unload", "kvm/unload/the modules can go, and come again")
{
	if (::access("/dev/liveupdate_kvm", F_OK))
		ktap::skip("no KVM in this machine");
	CHECK_EQ(unload_module("luo_kvm"), 0);
	CHECK(::access("/dev/liveupdate_kvm", F_OK) != 0);
	CHECK_EQ(unload_module("kvm_amd") && unload_module("kvm_intel"), 0);
	CHECK_EQ(unload_module("kvm"), 0);
	machine::need_kvm();
	auto device = open_device();
	auto session = VALUE(device.create("fresh"));
	Machine vm;
	vm.preserve(session);
}

} // namespace
