// SPDX-License-Identifier: GPL-2.0
#include "selftests/kexec/kvm.hh"

#include <algorithm>

#include <signal.h>

namespace machine {

// ---- the host ----

namespace {

bool have(const char *module)
{
	return !::access(("/sys/module/" + std::string(module)).c_str(), F_OK);
}

bool try_module(const char *name)
{
	auto path = "/lib/modules/" + std::string(name) + ".ko";
	Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
	return fd && !::syscall(SYS_finit_module, fd.get(), "", 0);
}

bool load_modules()
{
	if (!have("irqbypass"))
		try_module("irqbypass");
	if (!have("kvm"))
		try_module("kvm");
	if (!have("kvm_amd") && !have("kvm_intel") && !try_module("kvm-amd"))
		try_module("kvm-intel");
	if (!::access("/dev/kvm", F_OK) && !have("luo_kvm"))
		load_module("luo_kvm");
	return have("luo_kvm");
}

} // namespace

void need_kvm()
{
	if (!load_modules() || ::access("/dev/kvm", R_OK | W_OK))
		ktap::skip("no KVM in this machine");
}

kvm::System &host()
{
	static kvm::System system = (need_kvm(), VALUE(kvm::System::open()));
	return system;
}

size_t mmap_size()
{
	return VALUE(host().vcpu_mmap_size());
}

// ---- memory ----

Ram::Ram(Fd its_fd, uint64_t its_size, char *hint) : fd(std::move(its_fd)), size(its_size)
{
	int flags = MAP_SHARED | (hint ? MAP_FIXED_NOREPLACE : 0);
	at_ = static_cast<char *>(
		SYS(::mmap(hint, size, PROT_READ | PROT_WRITE, flags, fd.get(), 0)));
}

Ram::Ram(Ram &&other) noexcept
	: fd(std::move(other.fd)), size(other.size), at_(std::exchange(other.at_, nullptr))
{
}

Ram &Ram::operator=(Ram &&other) noexcept
{
	std::swap(fd, other.fd);
	std::swap(size, other.size);
	std::swap(at_, other.at_);
	return *this;
}

Ram::~Ram()
{
	unmap();
}

void Ram::unmap()
{
	if (auto at = std::exchange(at_, nullptr))
		::munmap(at, size);
}

kvm::Result<void> set_slot(const kvm::Vm &vm, uint32_t slot, uint64_t gpa, uint64_t size,
			   const void *at, uint32_t flags)
{
	kvm_userspace_memory_region region{slot, flags, gpa, size, reinterpret_cast<uint64_t>(at)};
	return vm.set(KVM_SET_USER_MEMORY_REGION, region);
}

kvm::Result<void> set_gmem_slot(const kvm::Vm &vm, uint32_t slot, uint64_t gpa, uint64_t size,
				const void *at, const Fd &gmem, uint64_t offset)
{
	kvm_userspace_memory_region2 region{};
	region.slot = slot;
	region.flags = KVM_MEM_GUEST_MEMFD;
	region.guest_phys_addr = gpa;
	region.memory_size = size;
	region.userspace_addr = reinterpret_cast<uint64_t>(at);
	region.guest_memfd_offset = offset;
	region.guest_memfd = gmem.get();
	return vm.set(KVM_SET_USER_MEMORY_REGION2, region);
}

Fd make_gmem(const kvm::Vm &vm, uint64_t size, uint64_t flags)
{
	return VALUE(vm.create_guest_memfd(size, flags));
}

kvm::Result<void> set_memory(const kvm::Vm &vm, std::vector<kvm::MemoryDevice::Slot> slots)
{
	return VALUE(kvm::MemoryDevice::open()).create(vm, slots);
}

std::vector<kvm::MemoryDevice::Slot> get_memory(const kvm::Vm &vm)
{
	return VALUE(VALUE(kvm::MemoryDevice::open()).slots(vm));
}

// ---- a machine ----

namespace {

void write_tables(const Ram &ram)
{
	auto at = [&](uint64_t address) { return ram.at<uint64_t>(address); };
	at(guest::page_tables)[0] = (guest::page_tables + 0x1000) | 7;
	at(guest::page_tables + 0x1000)[0] = (guest::page_tables + 0x2000) | 7;
	for (uint64_t i = 0; i < 512; i++)
		at(guest::page_tables + 0x2000)[i] = i << 21 | 0x87;

	at(guest::gdt)[1] = 0x00af9b000000ffff; // code, 64 bits
	at(guest::gdt)[2] = 0x00cf93000000ffff; // data
	auto code = guest::handler_code();
	std::copy(code.begin(), code.end(), ram.at(guest::handlers));
	for (unsigned int n = 0; n < guest::LAST + 1; n++) {
		auto gate = at(guest::idt) + 2 * guest::vector[n];
		auto to = guest::handler(n);
		gate[0] = (to & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (to >> 16 & 0xffff) << 48;
		gate[1] = to >> 32;
	}
	code = guest::l2();
	std::copy(code.begin(), code.end(), ram.at(guest::l2_code));
}

} // namespace

Machine::Machine(const Options &options) : vm(VALUE(host().create_vm()))
{
	if (options.irqchip == Options::FULL)
		VALUE(vm.call(KVM_CREATE_IRQCHIP));
	if (options.irqchip == Options::SPLIT)
		OK(vm.enable(KVM_CAP_SPLIT_IRQCHIP, 24));
	if (options.pit)
		OK(vm.set(KVM_CREATE_PIT2, kvm_pit_config{}));
	if (options.prepare)
		options.prepare(vm);
	if (options.gmem) {
		ram = Ram(make_gmem(vm, ram_size), ram_size);
		OK(set_gmem_slot(vm, 0, 0, ram_size, ram.at(0), ram.fd));
	} else {
		ram = Ram(make_memfd(ram_size), ram_size);
		OK(set_slot(vm, 0, 0, ram_size, ram.at(0)));
	}
	write_tables(ram);
	auto cpuid = VALUE(host().supported_cpuid());
	for (unsigned int i = 0; i < options.vcpus; i++) {
		vcpus.push_back(VALUE(vm.create_vcpu(i, mmap_size())));
		OK(vcpus.back().set(KVM_SET_CPUID2, cpuid));
	}
}

void Machine::preserve(Session &session, uint64_t base) const
{
	OK(session.preserve(vm.get(), base + VM));
	for (size_t i = 0; i < vcpus.size(); i++)
		OK(session.preserve(vcpus[i].get(), base + VCPU + i));
	OK(session.preserve(ram.fd.get(), base + RAM));
}

Machine Machine::collect(Session &session, unsigned int vcpus, uint64_t base)
{
	need_kvm();
	Machine made(VALUE(session.retrieve(base + VM)));
	for (unsigned int i = 0; i < vcpus; i++)
		made.vcpus.push_back(VALUE(
			kvm::Vcpu::adopt(VALUE(session.retrieve(base + VCPU + i)), mmap_size())));
	made.ram = Ram(VALUE(session.retrieve(base + RAM)), ram_size);
	return made;
}

void Machine::complete()
{
	auto slots = get_memory(vm);
	for (auto &slot : slots)
		slot.userspace_addr = reinterpret_cast<uint64_t>(ram.at(slot.offset));
	REQUIRE(OK(set_memory(vm, slots)));
}

Machine Machine::retrieve(Session &session, unsigned int vcpus, uint64_t base)
{
	auto made = collect(session, vcpus, base);
	made.complete();
	return made;
}

void Machine::boot(unsigned int vcpu, std::string_view program, uint64_t rsi, uint64_t rdx)
{
	const uint64_t begin = guest::code + vcpu * guest::code_step;
	REQUIRE(program.size() <= guest::code_step);
	std::copy(program.begin(), program.end(), ram.at(begin));

	auto sregs = VALUE(vcpus[vcpu].get<kvm_sregs>(KVM_GET_SREGS));
	kvm_segment code{};
	code.limit = ~0u;
	code.selector = 8;
	code.type = 11;
	code.present = code.s = code.l = code.g = 1;
	kvm_segment rest = code;
	rest.selector = 16;
	rest.type = 3;
	rest.l = 0;
	rest.db = 1;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = rest;
	sregs.gdt.base = guest::gdt;
	sregs.gdt.limit = 23;
	sregs.idt.base = guest::idt;
	sregs.idt.limit = 4095;
	sregs.cr0 = 0x80000033;
	sregs.cr3 = guest::page_tables;
	sregs.cr4 = 0x620; // PAE, OSFXSR, OSXMMEXCPT
	sregs.efer = 0x500; // LME, LMA
	if (sregs.apic_base)
		sregs.apic_base |= 0xc00; // x2APIC
	OK(vcpus[vcpu].set(KVM_SET_SREGS, sregs));
	kvm_regs regs{};
	regs.rip = begin;
	regs.rflags = 2;
	regs.rsp = guest::stacks + (vcpu + 1) * guest::stack_step;
	regs.rdi = guest::data + vcpu * guest::data_step;
	regs.rsi = rsi;
	regs.rdx = rdx;
	OK(vcpus[vcpu].set(KVM_SET_REGS, regs));
	kvm_mp_state runnable{KVM_MP_STATE_RUNNABLE};
	(void)vcpus[vcpu].set(KVM_SET_MP_STATE, runnable);
}

// ---- running ----

uint32_t run(const kvm::Vcpu &vcpu)
{
	auto done = vcpu.run();
	// It has taken an INIT or a SIPI.
	for (int i = 0; i < 5 && !done && done.error().value() == EAGAIN; i++)
		done = vcpu.run();
	REQUIRE(OK(std::move(done)));
	return vcpu.shared().exit_reason;
}

uint32_t out_value(const kvm::Vcpu &vcpu)
{
	auto &shared = vcpu.shared();
	uint32_t value = 0;
	std::memcpy(&value, reinterpret_cast<char *>(&shared) + shared.io.data_offset,
		    shared.io.size);
	return value;
}

namespace {

// What KVM says of a guest that stopped with an exit that none here has.
void tell_death(const kvm::Vcpu &vcpu)
{
	auto &shared = vcpu.shared();
	auto regs = vcpu.get<kvm_regs>(KVM_GET_REGS).value_or(kvm_regs{});
	auto sregs = vcpu.get<kvm_sregs>(KVM_GET_SREGS).value_or(kvm_sregs{});
	ktap::print(
		"# the guest died: exit %u, RIP %#llx, RSP %#llx, CR3 %#llx, EFER %#llx, IDT %#llx",
		shared.exit_reason, regs.rip, regs.rsp, sregs.cr3, sregs.efer, sregs.idt.base);
	if (shared.exit_reason == KVM_EXIT_INTERNAL_ERROR)
		ktap::print("# KVM gives up: %u, %#llx %#llx %#llx", shared.internal.suberror,
			    shared.internal.data[0], shared.internal.data[1],
			    shared.internal.data[2]);
}

} // namespace

uint32_t run_to_out(const kvm::Vcpu &vcpu, uint16_t port)
{
	for (;;) {
		auto reason = run(vcpu);
		auto &io = vcpu.shared().io;
		if (reason != KVM_EXIT_IO) {
			tell_death(vcpu);
			REQUIRE(reason == KVM_EXIT_IO);
		}
		if (io.port == port)
			return out_value(vcpu);
		REQUIRE(io.port != guest::bad_port);
	}
}

void settle(const kvm::Vcpu &vcpu)
{
	vcpu.shared().immediate_exit = 1;
	// One exit may be followed by another of the same instruction.
	auto done = vcpu.run();
	for (int i = 0; i < 5 && done; i++)
		done = vcpu.run();
	FAILS(std::move(done), EINTR);
	vcpu.shared().immediate_exit = 0;
}

namespace {

void nothing(int)
{
}

} // namespace

Runner::Runner(const kvm::Vcpu &vcpu, guest::Data &data) : vcpu_(vcpu), data_(data)
{
	::signal(SIGUSR1, nothing);
	thread_ = std::thread([this] { loop(); });
}

Runner::~Runner()
{
	if (thread_.joinable())
		stop();
}

void Runner::stop()
{
	stop_ = true;
	vcpu_.shared().immediate_exit = 1;
	::pthread_kill(thread_.native_handle(), SIGUSR1);
	thread_.join();
	vcpu_.shared().immediate_exit = 0;
}

bool Runner::handle()
{
	auto &shared = vcpu_.shared();
	if (shared.exit_reason != KVM_EXIT_IO || shared.io.port == guest::bad_port)
		return false;
	if (shared.io.port == guest::count_port) {
		const uint32_t now = out_value(vcpu_);
		data_.wrong += now != uint32_t(data_.last + 1);
		data_.last = now;
	}
	return true;
}

void Runner::loop()
{
	while (!stop_) {
		if (!::ioctl(vcpu_.get(), KVM_RUN, 0)) {
			if (handle())
				continue;
			odd_exit = vcpu_.shared().exit_reason;
			if (odd_exit != KVM_EXIT_IO)
				tell_death(vcpu_);
			return;
		}
		if (errno == EINTR || errno == EAGAIN) {
			++data_.interrupted;
		} else if (errno == EBUSY) {
			++data_.busy;
			::usleep(1000);
		} else {
			error = errno;
			return;
		}
	}
}

bool Running::fine() const
{
	bool fine = true;
	for (auto &runner : runners)
		fine &= CHECK_EQ(runner.error, 0) && CHECK_EQ(runner.odd_exit, 0);
	for (size_t i = 0; i < vm.vcpus.size(); i++)
		fine &= CHECK_EQ(vm.data(i).wrong, 0);
	return fine;
}

uint64_t count_check(uint64_t count)
{
	uint64_t check = 0;
	for (uint64_t i = 1; i <= count; i++)
		check = check * 0x51f42d4d + i;
	return check;
}

// ---- states ----

namespace {

template <typename T> std::string bytes(const T &value)
{
	return {reinterpret_cast<const char *>(&value), sizeof(value)};
}

template <typename T> void read(Snapshot &to, const char *name, const kvm::Object &from,
				unsigned long request, T value = {})
{
	auto got = from.get(request, value);
	if (got)
		to[name] = bytes(*got);
}

struct Xsave {
	char data[4 * page];
};
struct Nested {
	kvm_nested_state head;
	char data[3 * page];
};

void read_msrs(Snapshot &to, const kvm::Vcpu &vcpu)
{
	auto indices = VALUE(host().msr_indices());
	for (uint32_t runs : {0x10u, 0x40000010u, 0x40000020u}) // counters, two of Hyper-V's
		std::erase(indices, runs);
	for (uint32_t i = 0x200; i < 0x210; i++)
		indices.push_back(i);
	for (uint32_t i :
	     {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff})
		indices.push_back(i);
	for (uint32_t i = 0x40000080; i < 0x40000084; i++) // SynIC
		indices.push_back(i);
	for (uint32_t i = 0x40000090; i < 0x400000a0; i++)
		indices.push_back(i);
	for (uint32_t i = 0x400000b0; i < 0x400000b8; i++)
		indices.push_back(i);
	const auto banks = VALUE(vcpu.msr(0x179)) & 0xff;
	for (uint32_t i = 0; i < 4 * banks; i++)
		indices.push_back(0x400 + i);
	// A call ends with the first that cannot be read.
	for (size_t at = 0; at < indices.size();) {
		kvm::Msrs msrs{};
		msrs.nr = std::min(std::size(msrs.entry), indices.size() - at);
		for (uint32_t i = 0; i < msrs.nr; i++)
			msrs.entry[i].index = indices[at + i];
		const auto nr = uint32_t(VALUE(vcpu.call(KVM_GET_MSRS, &msrs)));
		for (uint32_t i = 0; i < nr; i++) {
			char name[24];
			std::snprintf(name, sizeof(name), "msr %08x", msrs.entry[i].index);
			to[name] = bytes(msrs.entry[i].data);
		}
		at += nr + (nr < msrs.nr);
	}
}

} // namespace

Snapshot snapshot(const kvm::Vcpu &vcpu)
{
	Snapshot all;
	read<kvm_mp_state>(all, "mp_state", vcpu, KVM_GET_MP_STATE);
	read<kvm_regs>(all, "regs", vcpu, KVM_GET_REGS);
	read<kvm_sregs2>(all, "sregs2", vcpu, KVM_GET_SREGS2);
	read<Xsave>(all, "xsave", vcpu, KVM_GET_XSAVE2);
	read<kvm_xcrs>(all, "xcrs", vcpu, KVM_GET_XCRS);
	read<kvm_vcpu_events>(all, "events", vcpu, KVM_GET_VCPU_EVENTS);
	read<kvm_debugregs>(all, "debugregs", vcpu, KVM_GET_DEBUGREGS);
	Nested nested{};
	nested.head.size = sizeof(nested);
	read(all, "nested", vcpu, KVM_GET_NESTED_STATE, nested);
	if (auto lapic = vcpu.get<kvm_lapic_state>(KVM_GET_LAPIC)) {
		std::memset(lapic->regs + 0x390, 0, 4); // the timer runs
		all["lapic"] = bytes(*lapic);
	}
	kvm::Cpuid cpuid{};
	cpuid.nr = std::size(cpuid.entry);
	read(all, "cpuid", vcpu, KVM_GET_CPUID2, cpuid);
	uint64_t offset = 0;
	if (vcpu.attribute(KVM_GET_DEVICE_ATTR, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, offset))
		all["tsc_offset"] = bytes(offset);
	if (auto khz = vcpu.call(KVM_GET_TSC_KHZ))
		all["tsc_khz"] = bytes(*khz);
	read_msrs(all, vcpu);
	return all;
}

Snapshot snapshot(const kvm::Vm &vm)
{
	Snapshot all;
	const char *const names[] = {"pic master", "pic slave", "ioapic"};
	for (uint32_t i = 0; i < 3; i++) {
		kvm_irqchip chip{};
		chip.chip_id = i;
		read(all, names[i], vm, KVM_GET_IRQCHIP, chip);
	}
	if (auto pit = vm.get<kvm_pit_state2>(KVM_GET_PIT2)) {
		for (auto &channel : pit->channels)
			channel.count_load_time = 0; // of this kernel's clock
		all["pit"] = bytes(*pit);
	}
	return all;
}

void add(Snapshot &to, const std::string &prefix, const Snapshot &from)
{
	for (auto &[name, value] : from)
		to[prefix + name] = value;
}

bool same(const Snapshot &is, const Snapshot &was)
{
	unsigned int wrong = 0;
	auto says = [&](const std::string &text) {
		if (++wrong <= 20)
			ktap::print("# %s", text.c_str());
	};
	for (auto &[name, value] : was) {
		auto at = is.find(name);
		if (at == is.end()) {
			says(name + " is not there any more");
			continue;
		}
		if (at->second == value)
			continue;
		size_t i = 0;
		while (i < value.size() && i < at->second.size() && value[i] == at->second[i])
			i++;
		auto word = [&](const std::string &of) {
			uint64_t w = 0;
			auto start = i & ~7ull;
			if (start < of.size())
				std::memcpy(&w, of.data() + start,
					    std::min<size_t>(8, of.size() - start));
			char text[20];
			std::snprintf(text, sizeof(text), "%016llx", (unsigned long long)w);
			return std::string(text);
		};
		says(name + " at byte " + std::to_string(i) + ": " + word(at->second) +
		     " instead of " + word(value));
	}
	for (auto &[name, value] : is)
		if (!was.contains(name))
			says(name + " was not there before");
	return !wrong;
}

void save(Session &session, uint64_t token, const Snapshot &snapshot)
{
	std::string all;
	for (auto &[name, value] : snapshot) {
		uint32_t sizes[] = {uint32_t(name.size()), uint32_t(value.size())};
		all += bytes(sizes) + name + value;
	}
	auto memfd = make_memfd();
	SYS(::write(memfd.get(), all.data(), all.size()));
	OK(session.preserve(memfd.get(), token));
}

Snapshot load(Session &session, uint64_t token)
{
	auto memfd = VALUE(session.retrieve(token));
	std::string all(status(memfd).st_size, 0);
	SYS(::pread(memfd.get(), all.data(), all.size(), 0));
	Snapshot loaded;
	for (size_t at = 0; at + 8 <= all.size();) {
		uint32_t sizes[2];
		std::memcpy(sizes, all.data() + at, sizeof(sizes));
		at += sizeof(sizes);
		auto name = all.substr(at, sizes[0]);
		loaded[name] = all.substr(at + sizes[0], sizes[1]);
		at += sizes[0] + sizes[1];
	}
	return loaded;
}

} // namespace machine
