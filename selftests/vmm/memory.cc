// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/memory.hh"

#include <algorithm>

namespace vmm {

Result<Mapping> Mapping::of(int fd, std::uint64_t bytes, void *hint)
{
	int flags = MAP_SHARED | (hint ? MAP_FIXED_NOREPLACE : 0);
	void *at = ::mmap(hint, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (at == MAP_FAILED)
		return failed_call("mmap");
	return Mapping({static_cast<std::byte *>(at), bytes});
}

Mapping::~Mapping()
{
	if (!all_.empty())
		::munmap(all_.data(), all_.size());
}

namespace {

Result<kvm::Fd> new_file(const kvm::Vm &vm, const Config &config)
{
	if (config.backing == Backing::guest_memfd)
		return TRY("guest_memfd",
			   vm.create_guest_memfd(config.ram, GUEST_MEMFD_FLAG_MMAP |
								     GUEST_MEMFD_FLAG_INIT_SHARED));
	kvm::Fd fd(::memfd_create("guest-ram", MFD_CLOEXEC));
	if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(config.ram)) < 0)
		return failed_call("memfd");
	return fd;
}

} // namespace

Result<Memory> Memory::create(const kvm::Vm &vm, const Config &config)
{
	return adopt(TRY("guest memory", new_file(vm, config)), config);
}

Result<Memory> Memory::adopt(kvm::Fd fd, const Config &config, void *hint)
{
	auto map = TRY("guest memory", Mapping::of(fd.get(), config.ram, hint));
	return Memory(std::move(fd), std::move(map), config.backing);
}

Result<> Memory::plug(const kvm::Vm &vm) const
{
	kvm_userspace_memory_region2 slot{};
	slot.memory_size = size();
	slot.userspace_addr = reinterpret_cast<std::uintptr_t>(host_address());
	if (backing_ == Backing::guest_memfd) {
		slot.flags = KVM_MEM_GUEST_MEMFD;
		slot.guest_memfd = static_cast<std::uint32_t>(fd_.get());
	}
	TRY("memory slot", vm.set(KVM_SET_USER_MEMORY_REGION2, slot));
	return {};
}

std::optional<std::span<std::byte>> Memory::at(std::uint64_t address, std::uint64_t bytes) const
{
	if (address > size() || bytes > size() - address)
		return std::nullopt;
	return map_.all().subspan(address, bytes);
}

bool Memory::write(std::uint64_t address, std::span<const std::byte> data) const
{
	auto to = at(address, data.size());
	if (!to)
		return false;
	std::ranges::copy(data, to->begin());
	return true;
}

} // namespace vmm
