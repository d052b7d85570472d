// SPDX-License-Identifier: GPL-2.0
/*
 * A client of /dev/kvm in C++23, with the calls that carry a virtual machine
 * over a kexec (<linux/liveupdate_kvm.h>).
 *
 *	auto system = kvm::System::open();
 *	auto vm = system->create_vm();
 *	auto vcpu = vm->create_vcpu(0, system->vcpu_mmap_size().value());
 *	auto regs = vcpu->get<kvm_regs>(KVM_GET_REGS);
 *	vcpu->run();
 *	switch (vcpu->shared().exit_reason) ...
 *
 * As in liveupdate.hh, every call gives a Result, what owns a descriptor closes
 * it, nothing throws.
 */
#pragma once

#include <array>
#include <concepts>
#include <span>
#include <vector>

#include <linux/kvm.h>
#include <linux/liveupdate_kvm.h>
#include <sys/mman.h>

#include "selftests/lib/liveupdate.hh"

namespace kvm {

using liveupdate::failure;
using liveupdate::Fd;
using liveupdate::Result;

// An ioctl; what it returns is 0 or more.
template <typename Arg> Result<int> call(int fd, unsigned long request, Arg arg)
{
	int done = ::ioctl(fd, request, arg);
	if (done < 0)
		return failure(errno);
	return done;
}

// kvm_cpuid2 and kvm_msrs with room for N entries: what the ioctls take, as
// plain data that can be put into a file. (C++ embeds no flexible arrays.)
template <unsigned int N> struct CpuidOf {
	std::uint32_t nr;
	std::uint32_t reserved;
	kvm_cpuid_entry2 entry[N];
	std::span<kvm_cpuid_entry2> entries()
	{
		return {entry, nr};
	}
};
template <unsigned int N> struct MsrsOf {
	std::uint32_t nr;
	std::uint32_t reserved;
	kvm_msr_entry entry[N];
	std::span<kvm_msr_entry> entries()
	{
		return {entry, nr};
	}
};
static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8);
using Cpuid = CpuidOf<128>;
using Msrs = MsrsOf<256>;

// What has a descriptor and takes ioctls: /dev/kvm, a VM, a vCPU.
class Object {
    public:
	int get() const
	{
		return fd_.get();
	}
	// A call that fills a structure; it may read what is in it already.
	template <typename T> Result<T> get(unsigned long request, T value = {}) const
	{
		if (auto done = call(request, &value); !done)
			return std::unexpected(done.error());
		return value;
	}
	template <typename T> Result<void> set(unsigned long request, const T &value) const
	{
		if (auto done = call(request, &value); !done)
			return std::unexpected(done.error());
		return {};
	}
	template <typename Arg = unsigned long>
	Result<int> call(unsigned long request, Arg arg = 0) const
	{
		return kvm::call(fd_.get(), request, arg);
	}
	// 0: not there; else 1, or a number that the capability defines.
	Result<int> check(unsigned long capability) const
	{
		return call(KVM_CHECK_EXTENSION, capability);
	}

    protected:
	explicit Object(Fd fd) : fd_(std::move(fd))
	{
	}

    private:
	Fd fd_;
};

class Vcpu : public Object {
    public:
	// Also for one that was retrieved.
	static Result<Vcpu> adopt(Fd fd, std::size_t mmap_size)
	{
		void *at =
			::mmap(nullptr, mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
		if (at == MAP_FAILED)
			return failure(errno);
		return Vcpu(std::move(fd), {static_cast<kvm_run *>(at), mmap_size});
	}
	Vcpu(Vcpu &&other) noexcept
		: Object(std::move(other)), shared_(std::exchange(other.shared_, {}))
	{
	}
	Vcpu &operator=(Vcpu &&) = delete;
	~Vcpu()
	{
		if (shared_.at)
			::munmap(shared_.at, shared_.size);
	}

	// Until the guest exits; shared() says why. EINTR: a signal, or
	// immediate_exit was set; then nothing of the last exit is pending.
	Result<void> run() const
	{
		if (auto done = call(KVM_RUN); !done)
			return std::unexpected(done.error());
		return {};
	}
	kvm_run &shared() const
	{
		return *shared_.at;
	}

	// One value by an address in its "device attributes" (KVM_VCPU_TSC_CTRL ...).
	template <typename T> Result<void> attribute(unsigned long request, unsigned int group,
						     unsigned long attr, T &value) const
	{
		kvm_device_attr arg{};
		arg.group = group;
		arg.attr = attr;
		arg.addr = reinterpret_cast<std::uintptr_t>(&value);
		return set(request, arg);
	}

	Result<std::uint64_t> msr(unsigned int index) const
	{
		MsrsOf<1> arg{1, 0, {{index, 0, 0}}};
		auto got = call(KVM_GET_MSRS, &arg);
		if (!got)
			return std::unexpected(got.error());
		if (*got != 1)
			return failure(EINVAL);
		return arg.entry[0].data;
	}
	Result<void> set_msr(unsigned int index, std::uint64_t value) const
	{
		MsrsOf<1> arg{1, 0, {{index, 0, value}}};
		auto done = call(KVM_SET_MSRS, &arg);
		if (!done)
			return std::unexpected(done.error());
		if (*done != 1)
			return failure(EINVAL);
		return {};
	}

    private:
	struct Shared {
		kvm_run *at;
		std::size_t size;
	};
	Vcpu(Fd fd, Shared shared) : Object(std::move(fd)), shared_(shared)
	{
	}
	Shared shared_;
};

class Vm : public Object {
    public:
	// Also for one that was retrieved.
	explicit Vm(Fd fd) : Object(std::move(fd))
	{
	}

	// mmap_size: of System::vcpu_mmap_size().
	Result<Vcpu> create_vcpu(unsigned int id, std::size_t mmap_size) const
	{
		auto fd = call(KVM_CREATE_VCPU, static_cast<unsigned long>(id));
		if (!fd)
			return std::unexpected(fd.error());
		return Vcpu::adopt(Fd(*fd), mmap_size);
	}
	Result<Fd> create_guest_memfd(std::uint64_t bytes, std::uint64_t flags) const
	{
		kvm_create_guest_memfd arg{};
		arg.size = bytes;
		arg.flags = flags;
		auto fd = call(KVM_CREATE_GUEST_MEMFD, &arg);
		if (!fd)
			return std::unexpected(fd.error());
		return Fd(*fd);
	}
	Result<void> enable(unsigned int capability, std::uint64_t argument) const
	{
		kvm_enable_cap arg{};
		arg.cap = capability;
		arg.args[0] = argument;
		return set(KVM_ENABLE_CAP, arg);
	}
	// An input of the irqchips in the kernel.
	Result<void> irq_line(unsigned int line, bool level) const
	{
		kvm_irq_level arg{};
		arg.irq = line;
		arg.level = level;
		return set(KVM_IRQ_LINE, arg);
	}
	Result<void> signal_msi(std::uint32_t address, std::uint32_t data) const
	{
		kvm_msi arg{};
		arg.address_lo = address;
		arg.data = data;
		return set(KVM_SIGNAL_MSI, arg);
	}
};

class System : public Object {
    public:
	static Result<System> open(const char *path = "/dev/kvm")
	{
		Fd fd(::open(path, O_RDWR | O_CLOEXEC));
		if (!fd)
			return failure(errno);
		return System(std::move(fd));
	}
	Result<Vm> create_vm(unsigned long type = 0) const
	{
		auto fd = call(KVM_CREATE_VM, type);
		if (!fd)
			return std::unexpected(fd.error());
		return Vm(Fd(*fd));
	}
	Result<std::size_t> vcpu_mmap_size() const
	{
		auto size = call(KVM_GET_VCPU_MMAP_SIZE);
		if (!size)
			return std::unexpected(size.error());
		return static_cast<std::size_t>(*size);
	}
	Result<Cpuid> supported_cpuid() const
	{
		Cpuid cpuid{};
		cpuid.nr = std::size(cpuid.entry);
		return get(KVM_GET_SUPPORTED_CPUID, cpuid);
	}
	// The MSRs that make up the state of a vCPU. Not each can be read on each CPU.
	Result<std::vector<std::uint32_t>> msr_indices() const
	{
		struct {
			std::uint32_t nr = 1024;
			std::uint32_t index[1024];
		} list;
		if (auto done = call(KVM_GET_MSR_INDEX_LIST, &list); !done)
			return std::unexpected(done.error());
		return std::vector(list.index, list.index + list.nr);
	}

    private:
	explicit System(Fd fd) : Object(std::move(fd))
	{
	}
};

// /dev/liveupdate_kvm: after the kexec, a retrieved VM gets its memory with it.
class MemoryDevice {
    public:
	using Slot = liveupdate_kvm_slot;

	static Result<MemoryDevice> open(const char *path = "/dev/liveupdate_kvm")
	{
		Fd fd(::open(path, O_RDWR | O_CLOEXEC));
		if (!fd)
			return failure(errno);
		return MemoryDevice(std::move(fd));
	}

	// The slots that the VM had.
	Result<std::vector<Slot>> slots(const Vm &vm) const
	{
		std::vector<Slot> found(16);
		for (;;) {
			auto arg = argument(vm, found);
			auto done = liveupdate::call(fd_.get(), LIVEUPDATE_KVM_GET_MEMORY, arg);
			if (!done && done.error().value() != ENOSPC)
				return std::unexpected(done.error());
			found.resize(arg.nr_slots);
			if (done)
				return found;
		}
	}
	// Create them; of each, slot and userspace_addr are read. With the last one
	// the VM and its vCPUs, all of which are to be retrieved before, get their
	// state. EAGAIN: something is missing still; the kernel's log says what.
	Result<void> create(const Vm &vm, std::vector<Slot> &slots) const
	{
		auto arg = argument(vm, slots);
		return liveupdate::call(fd_.get(), LIVEUPDATE_KVM_SET_MEMORY, arg);
	}

    private:
	explicit MemoryDevice(Fd fd) : fd_(std::move(fd))
	{
	}
	static liveupdate_kvm_memory argument(const Vm &vm, std::vector<Slot> &slots)
	{
		liveupdate_kvm_memory arg{};
		arg.vm = vm.get();
		arg.nr_slots = static_cast<std::uint32_t>(slots.size());
		arg.slots = reinterpret_cast<std::uintptr_t>(slots.data());
		return arg;
	}
	Fd fd_;
};

} // namespace kvm
