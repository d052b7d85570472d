// SPDX-License-Identifier: GPL-2.0
// What the guest's CPUs are like.
#pragma once

#include "selftests/lib/kvm.hh"
#include "selftests/vmm/error.hh"

namespace vmm {

// All that this KVM has to offer, less what does not work; see cpuid.cc.
Result<kvm::Cpuid> guest_cpuid(const kvm::System &system);

// The same for the vCPU with this number.
Result<> set_cpuid(const kvm::Vcpu &vcpu, kvm::Cpuid cpuid, unsigned int id, unsigned int vcpus);

} // namespace vmm
