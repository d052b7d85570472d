// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/luo.hh"

#include "selftests/vmm/update.hh"

namespace vmm::luo {

namespace {

Result<std::vector<kvm::Vcpu>> retrieve_vcpus(const kvm::System &system,
					      liveupdate::Session &session, unsigned int nr)
{
	auto mmap_size = TRY("KVM_GET_VCPU_MMAP_SIZE", system.vcpu_mmap_size());
	std::vector<kvm::Vcpu> vcpus;
	for (unsigned int id = 0; id < nr; ++id) {
		auto fd = TRY("vCPU", session.retrieve(token::vcpus + id));
		vcpus.push_back(TRY("vCPU", kvm::Vcpu::adopt(std::move(fd), mmap_size)));
	}
	return vcpus;
}

// The kernel knows the slots; where their memory is mapped now, it is told. That
// also completes the VM, so it comes after the vCPUs. The only file that this VMM
// has behind slots is the guest's RAM.
Result<> plug(const kvm::Vm &vm, const Memory &memory)
{
	auto device = TRY("/dev/liveupdate_kvm", kvm::MemoryDevice::open());
	auto slots = TRY("LIVEUPDATE_KVM_GET_MEMORY", device.slots(vm));
	for (auto &slot : slots) {
		if (slot.token != token::memory || slot.offset > memory.size() ||
		    slot.memory_size > memory.size() - slot.offset)
			return failure("a memory slot that is not of this VMM");
		slot.userspace_addr =
			reinterpret_cast<std::uintptr_t>(memory.host_address()) + slot.offset;
	}
	TRY("LIVEUPDATE_KVM_SET_MEMORY", device.create(vm, slots));
	return {};
}

} // namespace

Result<> preserve(liveupdate::Session &session, const Machine &machine)
{
	TRY("VM", session.preserve(machine.vm().get(), token::vm));
	TRY("memory", session.preserve(machine.memory().fd(), token::memory));
	std::uint64_t next = token::vcpus;
	for (const auto &vcpu : machine.vcpus().all())
		TRY("vCPU", session.preserve(vcpu.get(), next++));
	return {};
}

Result<std::unique_ptr<Machine>> retrieve(const kvm::System &system, liveupdate::Session &session,
					  const Config &config, Times &times)
{
	// A guest_memfd brings its VM along, as a VM does the memfds that it needs.
	auto fd = TRY("memory", session.retrieve(token::memory));
	auto memory = TRY("memory", Memory::adopt(std::move(fd), config));
	times.end(Stage::memory);
	kvm::Vm vm(TRY("VM", session.retrieve(token::vm)));
	auto vcpus = TRY("vCPUs", retrieve_vcpus(system, session, config.vcpus));
	times.end(Stage::machine);
	TRY("memory", plug(vm, memory));
	times.end(Stage::load);
	return Machine::adopt(config, std::move(vm), std::move(memory), std::move(vcpus));
}

} // namespace vmm::luo
