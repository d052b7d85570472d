// SPDX-License-Identifier: GPL-2.0
// The tables from which the guest learns of its CPUs and its I/O APIC.
#pragma once

#include "selftests/vmm/memory.hh"

namespace vmm {

// Write them between layout::acpi and layout::acpi_end; the address of the first.
Result<std::uint64_t> write_acpi(const Memory &memory, unsigned int vcpus);

} // namespace vmm
