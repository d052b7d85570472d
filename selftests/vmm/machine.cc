// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/machine.hh"

#include <sys/eventfd.h>

#include "selftests/vmm/cpuid.hh"

namespace vmm {

namespace {

Result<> create_irqchip(const kvm::Vm &vm, Irqchip irqchip)
{
	if (irqchip == Irqchip::split) {
		TRY("KVM_CAP_SPLIT_IRQCHIP", vm.enable(KVM_CAP_SPLIT_IRQCHIP, Ioapic::inputs));
		return {};
	}
	TRY("KVM_CREATE_IRQCHIP", vm.call(KVM_CREATE_IRQCHIP));
	TRY("KVM_CREATE_PIT2", vm.set(KVM_CREATE_PIT2, kvm_pit_config{}));
	return {};
}

// The order is KVM's: irqchips come before vCPUs.
Result<kvm::Vm> create_vm(const kvm::System &system, const Config &config)
{
	auto vm = TRY("KVM_CREATE_VM", system.create_vm());
	TRY("KVM_SET_TSS_ADDR", vm.call(KVM_SET_TSS_ADDR, layout::tss));
	TRY("irqchip", create_irqchip(vm, config.irqchip));
	return vm;
}

// Have the guest's time-stamp counter run at the host's rate; that is what 0 asks
// for. It should be so by itself. But where KVM was loaded before the kernel had
// refined its measurement of that rate, a new vCPU wants the first one, and where
// the CPU cannot scale it is left with a counter that, to KVM, stands still.
Result<> use_host_tsc(const kvm::Vcpu &vcpu)
{
	constexpr unsigned long of_host = 0;
	TRY("KVM_SET_TSC_KHZ", vcpu.call(KVM_SET_TSC_KHZ, of_host));
	return {};
}

Result<std::vector<kvm::Vcpu>> create_vcpus(const kvm::System &system, const kvm::Vm &vm,
					    unsigned int nr)
{
	auto mmap_size = TRY("KVM_GET_VCPU_MMAP_SIZE", system.vcpu_mmap_size());
	std::vector<kvm::Vcpu> vcpus;
	for (unsigned int id = 0; id < nr; ++id) {
		vcpus.push_back(TRY("KVM_CREATE_VCPU", vm.create_vcpu(id, mmap_size)));
		TRY("vCPU", use_host_tsc(vcpus.back()));
	}
	return vcpus;
}

} // namespace

Machine::Machine(const Config &config, kvm::Vm vm, Memory memory, std::vector<kvm::Vcpu> vcpus,
		 kvm::Fd ended)
	: config_(config), vm_(std::move(vm)), memory_(std::move(memory)), ended_(std::move(ended)),
	  devices_(vm_, config.irqchip), vcpus_(devices_, std::move(vcpus), ended_.get())
{
}

Result<std::unique_ptr<Machine>> Machine::create(const kvm::System &system, const Config &config,
						 std::optional<Memory> memory)
{
	auto vm = TRY("VM", create_vm(system, config));
	if (!memory)
		memory.emplace(TRY("memory", Memory::create(vm, config)));
	TRY("memory", memory->plug(vm));
	auto vcpus = TRY("vCPUs", create_vcpus(system, vm, config.vcpus));
	return adopt(config, std::move(vm), std::move(*memory), std::move(vcpus));
}

Result<std::unique_ptr<Machine>> Machine::adopt(const Config &config, kvm::Vm vm, Memory memory,
						std::vector<kvm::Vcpu> vcpus)
{
	kvm::Fd ended(::eventfd(0, EFD_CLOEXEC));
	if (!ended)
		return failed_call("eventfd");
	return std::unique_ptr<Machine>(new Machine(config, std::move(vm), std::move(memory),
						    std::move(vcpus), std::move(ended)));
}

Result<> Machine::boot(const kvm::System &system, const Linux &guest)
{
	auto cpuid = TRY("CPUID", guest_cpuid(system));
	for (unsigned int id = 0; id < config_.vcpus; ++id)
		TRY("CPUID", set_cpuid(vcpus_.all()[id], cpuid, id, config_.vcpus));
	auto entry = TRY("boot", load_linux(memory_, guest, config_.vcpus));
	TRY("boot", enter_linux(memory_, vcpus_.all().front(), entry));
	return {};
}

// A KVM without CONFIG_KVM_IOAPIC claims KVM_CAP_IRQCHIP all the same; but it has no PIT.
Result<Irqchip> best_irqchip(const kvm::System &system)
{
	return TRY("KVM_CAP_PIT2", system.check(KVM_CAP_PIT2)) ? Irqchip::kernel : Irqchip::split;
}

} // namespace vmm
