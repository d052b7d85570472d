// SPDX-License-Identifier: GPL-2.0
// The memory of VMs: slots, dirty logs, guest_memfds; and what cannot be carried.

#include "selftests/kexec/kvm.hh"

using machine::Machine;
using machine::Options;
using machine::Ram;

namespace {

constexpr uint64_t OTHER = machine::RAM + 10; // tokens of more memory

// Slots at more than 2 MiB, each on a file of its own or not.
constexpr uint64_t hole = 8 * MiB, read_only = 16 * MiB, view = 17 * MiB, logged = 18 * MiB;

void touch(Machine &vm, uint64_t from, uint64_t to)
{
	vm.boot(0, guest::touch(), from, to);
	machine::run_to_out(vm.vcpus[0], guest::done_port);
	machine::settle(vm.vcpus[0]);
}

std::vector<uint64_t> dirty_log(const Machine &vm, uint32_t slot, uint64_t pages)
{
	std::vector<uint64_t> bits((pages + 63) / 64);
	kvm_dirty_log log{};
	log.slot = slot;
	log.dirty_bitmap = bits.data();
	OK(vm.vm.set(KVM_GET_DIRTY_LOG, log));
	return bits;
}

BEFORE("kvm/memory/slots: holes, read-only, dirty log, two on one memfd")
{
	Machine vm;
	Ram first(make_memfd(4 * MiB), 4 * MiB), second(make_memfd(MiB), MiB),
		third(make_memfd(MiB), MiB);
	OK(machine::set_slot(vm.vm, 5, hole, MiB, first.at(2 * MiB)));
	OK(machine::set_slot(vm.vm, 7, read_only, 64 * page, second.at(16 * page),
			     KVM_MEM_READONLY));
	OK(machine::set_slot(vm.vm, 3, view, 64 * page, second.at(0)));
	OK(machine::set_slot(vm.vm, 11, logged, 100 * page, third.at(0), KVM_MEM_LOG_DIRTY_PAGES));
	touch(vm, hole, hole + 16 * page);
	touch(vm, view, view + 4 * page);
	touch(vm, logged, logged + 100 * page);
	// What was seen once is not told again.
	dirty_log(vm, 11, 100);
	touch(vm, logged + 3 * page, logged + 5 * page);
	touch(vm, logged + 70 * page, logged + 71 * page);
	vm.preserve(stage.session());
	OK(stage.session().preserve(first.fd.get(), OTHER));
	OK(stage.session().preserve(second.fd.get(), OTHER + 1));
	OK(stage.session().preserve(third.fd.get(), OTHER + 2));
	// After the preserve, too.
	touch(vm, logged + 99 * page, logged + 100 * page);
	stage.keep(std::move(vm));
	stage.keep(std::move(first));
	stage.keep(std::move(second));
	stage.keep(std::move(third));
}

AFTER()
{
	auto vm = Machine::collect(stage.session(), 1);
	Ram rams[] = {Ram(VALUE(stage.session().retrieve(OTHER)), 4 * MiB),
		      Ram(VALUE(stage.session().retrieve(OTHER + 1)), MiB),
		      Ram(VALUE(stage.session().retrieve(OTHER + 2)), MiB)};
	auto slots = machine::get_memory(vm.vm);
	struct {
		uint32_t slot, flags;
		uint64_t gpa, size, offset, token;
	} want[] = {
		{0, 0, 0, machine::ram_size, 0, machine::RAM},
		{3, 0, view, 64 * page, 0, OTHER + 1},
		{5, 0, hole, MiB, 2 * MiB, OTHER},
		{7, KVM_MEM_READONLY, read_only, 64 * page, 16 * page, OTHER + 1},
		{11, KVM_MEM_LOG_DIRTY_PAGES, logged, 100 * page, 0, OTHER + 2},
	};
	REQUIRE(slots.size() == std::size(want));
	for (size_t i = 0; i < slots.size(); i++) {
		CHECK_EQ(slots[i].slot, want[i].slot);
		CHECK_EQ(slots[i].flags, want[i].flags);
		CHECK_EQ(slots[i].guest_phys_addr, want[i].gpa);
		CHECK_EQ(slots[i].memory_size, want[i].size);
		CHECK_EQ(slots[i].offset, want[i].offset);
		CHECK_EQ(slots[i].token, want[i].token);
		CHECK_EQ(slots[i].backing, LIVEUPDATE_KVM_MEMFD);
		CHECK_EQ(slots[i].present, 0);
		auto &ram = slots[i].token == machine::RAM ? vm.ram : rams[slots[i].token - OTHER];
		slots[i].userspace_addr = reinterpret_cast<uint64_t>(ram.at(slots[i].offset));
	}
	REQUIRE(OK(machine::set_memory(vm.vm, slots)));
	for (uint64_t i = 0; i < 100; i++) {
		CHECK_EQ(*rams[0].at<uint64_t>(2 * MiB + i * page), i < 16);
		CHECK_EQ(*rams[1].at<uint64_t>(i * page), i < 4);
		CHECK_EQ(*rams[2].at<uint64_t>(i * page),
			 1 + (i == 3 || i == 4 || i == 70 || i == 99));
	}
	auto bits = dirty_log(vm, 11, 100);
	CHECK_EQ(bits[0], 3 << 3);
	CHECK_EQ(bits[1], 1ull << (70 - 64) | 1ull << (99 - 64));
	// It goes on: what was told is not told again, what is written is.
	touch(vm, logged + 10 * page, logged + 12 * page);
	bits = dirty_log(vm, 11, 100);
	CHECK_EQ(bits[0], 3 << 10);
	CHECK_EQ(bits[1], 0);
	// A write to the read-only slot is an exit, a read is not.
	vm.boot(0, guest::touch(), read_only, read_only + page);
	CHECK_EQ(machine::run(vm.vcpus[0]), KVM_EXIT_MMIO);
	CHECK_EQ(vm.vcpus[0].shared().mmio.is_write, 1);
	CHECK_EQ(vm.vcpus[0].shared().mmio.phys_addr, read_only);
	// As is one to where nothing is.
	machine::settle(vm.vcpus[0]);
	vm.boot(0, guest::touch(), 4 * MiB, 4 * MiB + page);
	CHECK_EQ(machine::run(vm.vcpus[0]), KVM_EXIT_MMIO);
	machine::settle(vm.vcpus[0]);
	OK(stage.session().finish());
	touch(vm, hole + 16 * page, hole + 17 * page);
	CHECK_EQ(*rams[0].at<uint64_t>(2 * MiB + 16 * page), 1);
}

// ---- guest_memfd ----

// Are these the pages of a mapping that there are?
bool resident(const Ram &ram, const std::string &want)
{
	std::vector<unsigned char> there(ram.size / page);
	SYS(::mincore(ram.at(0), ram.size, there.data()));
	std::string all;
	for (size_t i = 0; i < there.size(); i++)
		if (there[i] & 1)
			all += std::to_string(i) + " ";
	if (all != want)
		ktap::print("# pages %s", all.substr(0, 200).c_str());
	return all == want;
}

void put(const Ram &ram, uint64_t index)
{
	*ram.at<uint64_t>(index * page) = word_at(42, index);
}

bool has(const Ram &ram, uint64_t index)
{
	return CHECK_EQ(*ram.at<uint64_t>(index * page), word_at(42, index));
}

constexpr uint64_t sparse_size = 16 * MiB;

BEFORE("kvm/memory/guest_memfd: sparse, populated, grown after preserve")
{
	Machine vm({.gmem = true});
	Ram sparse(machine::make_gmem(vm.vm, sparse_size), sparse_size);
	for (uint64_t i : {0, 1, 2, 100, 1000, 4095})
		put(sparse, i);
	OK(machine::set_gmem_slot(vm.vm, 4, hole, 8 * MiB, sparse.at(0), sparse.fd));
	// Another part of it, elsewhere.
	OK(machine::set_gmem_slot(vm.vm, 6, 64 * MiB, 4 * MiB, sparse.at(12 * MiB), sparse.fd,
				  12 * MiB));
	Ram full(machine::make_gmem(vm.vm, 4 * MiB), 4 * MiB);
	for (uint64_t i = 0; i < 1024; i++)
		put(full, i);
	OK(machine::set_gmem_slot(vm.vm, 8, 32 * MiB, 4 * MiB, full.at(0), full.fd));
	vm.preserve(stage.session());
	OK(stage.session().preserve(sparse.fd.get(), OTHER));
	OK(stage.session().preserve(full.fd.get(), OTHER + 1));

	// It can grow, and its contents change; it cannot lose pages.
	put(sparse, 50);
	put(sparse, 3000);
	SYS(::fallocate(sparse.fd.get(), FALLOC_FL_KEEP_SIZE, 200 * page, page));
	CHECK_ERRNO(
		::fallocate(sparse.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page),
		EBUSY);
	CHECK_ERRNO(::fallocate(full.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page),
		    EBUSY);
	touch(vm, hole + 300 * page, hole + 302 * page);
	// Page 200 has no data yet.
	CHECK(resident(sparse, "0 1 2 50 100 300 301 1000 3000 4095 "));
	stage.keep(std::move(vm));
	stage.keep(std::move(sparse));
	stage.keep(std::move(full));
}

AFTER()
{
	auto vm = Machine::collect(stage.session(), 1);
	Ram sparse(VALUE(stage.session().retrieve(OTHER)), sparse_size);
	Ram full(VALUE(stage.session().retrieve(OTHER + 1)), 4 * MiB);
	CHECK(resident(sparse, "0 1 2 50 100 200 300 301 1000 3000 4095 "));
	for (uint64_t i : {0, 1, 2, 50, 100, 1000, 3000, 4095})
		has(sparse, i);
	for (uint64_t i = 0; i < 1024; i++)
		if (!has(full, i))
			break;
	CHECK_EQ(*sparse.at<uint64_t>(300 * page), 1);
	CHECK_EQ(*sparse.at<uint64_t>(200 * page), 0);
	auto slots = machine::get_memory(vm.vm);
	REQUIRE(slots.size() == 4);
	for (auto &slot : slots) {
		CHECK_EQ(slot.backing, LIVEUPDATE_KVM_GUEST_MEMFD);
		auto &ram = slot.token == machine::RAM ? vm.ram
			    : slot.token == OTHER      ? sparse
						       : full;
		slot.userspace_addr = reinterpret_cast<uint64_t>(ram.at(slot.offset));
	}
	REQUIRE(OK(machine::set_memory(vm.vm, slots)));
	touch(vm, hole + 100 * page, hole + 101 * page);
	CHECK_EQ(*sparse.at<uint64_t>(100 * page), word_at(42, 100) + 1);
	touch(vm, 64 * MiB + MiB, 64 * MiB + MiB + page);
	CHECK_EQ(*sparse.at<uint64_t>(13 * MiB), 1);
	OK(stage.session().finish());
	// It is one like any other again.
	SYS(::fallocate(sparse.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page));
	CHECK_EQ(*sparse.at<uint64_t>(0), 0);
	has(sparse, 1);
	put(sparse, 2000);
	touch(vm, 32 * MiB, 32 * MiB + page);
	CHECK_EQ(*full.at<uint64_t>(0), word_at(42, 0) + 1);
}

BEFORE("kvm/memory/guest_memfd: mapped where it was, nothing is to be given")
{
	Machine vm({.gmem = true});
	vm.boot(0, guest::out());
	CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), 1);
	machine::settle(vm.vcpus[0]);
	vm.preserve(stage.session());
	stage.keep(std::move(vm));
}

AFTER()
{
	auto vm = Machine::collect(stage.session(), 1);
	auto slots = machine::get_memory(vm.vm);
	REQUIRE(slots.size() == 1);
	if (!slots[0].present)
		ktap::print("# the address is taken");
	auto fd = std::move(vm.ram.fd);
	vm.ram.unmap();
	vm.ram = Ram(std::move(fd), machine::ram_size,
		     reinterpret_cast<char *>(slots[0].userspace_addr));
	REQUIRE(OK(machine::set_memory(vm.vm, {})));
	CHECK_EQ(machine::run_to_out(vm.vcpus[0], guest::count_port), 2);
}

// ---- what is refused ----

struct Refused {
	const char *name;
	std::function<void(Machine &)> make;
};

void add_anonymous(Machine &vm)
{
	auto at = SYS(
		::mmap(nullptr, MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	OK(machine::set_slot(vm.vm, 1, hole, MiB, at));
}

void add_shared_anonymous(Machine &vm)
{
	auto at = static_cast<char *>(SYS(::mmap(nullptr, 2 * MiB, PROT_READ | PROT_WRITE,
						 MAP_SHARED | MAP_ANONYMOUS, -1, 0)));
	static Ram second(make_memfd(MiB), MiB);
	// Half of it one file, half another.
	SYS(::mmap(at + MiB, MiB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, second.fd.get(),
		   0));
	OK(machine::set_slot(vm.vm, 1, hole, 2 * MiB, at));
}

void add_private(Machine &vm)
{
	static Fd memfd = make_memfd(MiB);
	auto at = SYS(::mmap(nullptr, MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE, memfd.get(), 0));
	OK(machine::set_slot(vm.vm, 1, hole, MiB, at));
}

void refused(const char *name, void (*make)(Machine &))
{
	Machine vm;
	make(vm);
	auto device = open_device();
	auto session = VALUE(device.create(name));
	FAILS(session.preserve(vm.vm.get(), 1), EOPNOTSUPP);
	// The rest of it is, and nothing is left behind of the VM.
	OK(session.preserve(vm.vcpus[0].get(), 2));
	OK(machine::set_slot(vm.vm, 1, hole, 0, nullptr));
	OK(session.preserve(vm.vm.get(), 1));
}

TEST("kvm", "kvm/refused/anonymous memory")
{
	refused("anonymous", add_anonymous);
}

TEST("kvm", "kvm/refused/a slot on two files")
{
	refused("two files", add_shared_anonymous);
}

TEST("kvm", "kvm/refused/a private mapping of a memfd")
{
	refused("private", add_private);
}

TEST("kvm", "kvm/refused/a guest_memfd with private pages")
{
	Machine vm;
	auto gmem = machine::make_gmem(vm.vm, MiB, 0);
	auto mapped = machine::make_gmem(vm.vm, MiB, GUEST_MEMFD_FLAG_MMAP);
	auto device = open_device();
	auto session = VALUE(device.create("private gmem"));
	FAILS(session.preserve(gmem.get(), 1), EOPNOTSUPP);
	FAILS(session.preserve(mapped.get(), 1), EOPNOTSUPP);
	SYS(::fallocate(gmem.get(), FALLOC_FL_KEEP_SIZE, 0, page));
	SYS(::fallocate(gmem.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page));
}

TEST("kvm", "kvm/refused/a protected VM")
{
	machine::need_kvm();
	auto vm = machine::host().create_vm(KVM_X86_SW_PROTECTED_VM);
	if (!vm)
		ktap::skip("no protected VMs on this host");
	auto device = open_device();
	auto session = VALUE(device.create("protected"));
	FAILS(session.preserve(vm->get(), 1), EOPNOTSUPP);
}

TEST("kvm", "kvm/refused/a file that is preserved already")
{
	Machine vm({.gmem = true});
	auto device = open_device();
	auto one = VALUE(device.create("one")), two = VALUE(device.create("two"));
	vm.preserve(one);
	FAILS(two.preserve(vm.vm.get(), 1), EBUSY);
	FAILS(two.preserve(vm.vcpus[0].get(), 2), EBUSY);
	FAILS(two.preserve(vm.ram.fd.get(), 3), EBUSY);
	FAILS(one.preserve(vm.vm.get(), machine::VM + 50), EBUSY);
	// Another descriptor for the same VM is the same VM.
	Fd other(SYS(::dup(vm.vm.get())));
	FAILS(two.preserve(other.get(), 1), EBUSY);
	one.close();
	OK(two.preserve(other.get(), 1));
}

TEST("kvm", "kvm/refused/other files of KVM")
{
	machine::need_kvm();
	auto device = open_device();
	auto session = VALUE(device.create("other files"));
	// No handler for these.
	CHECK(!session.preserve(machine::host().get(), 1));
	Machine vm;
	if (auto stats = vm.vm.call(KVM_GET_STATS_FD)) {
		Fd fd(*stats);
		CHECK(!session.preserve(fd.get(), 2));
	}
}

} // namespace
