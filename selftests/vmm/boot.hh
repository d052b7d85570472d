// SPDX-License-Identifier: GPL-2.0
// Linux's boot protocol, by its 64-bit entry (Documentation/arch/x86/boot.rst).
#pragma once

#include <string>

#include "selftests/vmm/memory.hh"

namespace vmm {

struct Linux {
	std::string kernel; // bzImage
	std::string initrd; // or empty
	std::string cmdline;
};

// Put the kernel, and all that it is to find, into the memory; its entry point.
Result<std::uint64_t> load_linux(const Memory &memory, const Linux &guest, unsigned int vcpus);

// Put the first vCPU there, in 64-bit mode, as the protocol wants it.
Result<> enter_linux(const Memory &memory, const kvm::Vcpu &vcpu, std::uint64_t entry);

} // namespace vmm
