// SPDX-License-Identifier: GPL-2.0
// The virtual machine: KVM's VM and vCPUs, the memory, and the VMM's devices.
#pragma once

#include <memory>

#include "selftests/vmm/boot.hh"
#include "selftests/vmm/vcpus.hh"

namespace vmm {

class Machine {
    public:
	// With vCPUs as after a reset, without CPUID. memory: one that came over a
	// kexec, or none for a new one.
	static Result<std::unique_ptr<Machine>> create(const kvm::System &system,
						       const Config &config,
						       std::optional<Memory> memory = std::nullopt);
	// Of a VM and vCPUs that came over the kexec.
	static Result<std::unique_ptr<Machine>> adopt(const Config &config, kvm::Vm vm,
						      Memory memory, std::vector<kvm::Vcpu> vcpus);

	// Prepare a new machine to start with Linux.
	Result<> boot(const kvm::System &system, const Linux &guest);

	const Config &config() const
	{
		return config_;
	}
	const kvm::Vm &vm() const
	{
		return vm_;
	}
	const Memory &memory() const
	{
		return memory_;
	}
	Devices &devices()
	{
		return devices_;
	}
	Vcpus &vcpus()
	{
		return vcpus_;
	}
	const Vcpus &vcpus() const
	{
		return vcpus_;
	}
	// Readable when the guest has come to its end; see Vcpus::end().
	int ended() const
	{
		return ended_.get();
	}

    private:
	Machine(const Config &config, kvm::Vm vm, Memory memory, std::vector<kvm::Vcpu> vcpus,
		kvm::Fd ended);

	Config config_;
	kvm::Vm vm_;
	Memory memory_;
	kvm::Fd ended_;
	Devices devices_;
	Vcpus vcpus_;
};

// What this KVM can: all of the board in the kernel, or else the I/O APIC here.
Result<Irqchip> best_irqchip(const kvm::System &system);

} // namespace vmm
