// SPDX-License-Identifier: GPL-2.0
// What a machine is made of. It crosses the kexec as it is, so it is plain data.
#pragma once

#include <cstdint>

namespace vmm {

constexpr std::uint64_t KiB = 1 << 10, MiB = 1 << 20, GiB = 1 << 30;

constexpr unsigned int max_vcpus = 64;

// The memory of the guest is a file, so that it can be preserved.
enum class Backing : std::uint32_t {
	memfd, // any file system, any VMM; only this is mainline's
	guest_memfd, // KVM's own: belongs to the VM
};

// Who has the interrupt controllers of the board. The local APICs are always KVM's.
enum class Irqchip : std::uint32_t {
	kernel, // KVM has PIC, I/O APIC and PIT (CONFIG_KVM_IOAPIC)
	split, // the VMM has an I/O APIC, there is no PIC and no PIT
};

// How the state of KVM gets over the kexec.
enum class Carrier : std::uint32_t {
	own, // the VMM reads it all, and writes it all back
	luo, // KVM's files are preserved themselves
};

struct Config {
	std::uint64_t ram; // bytes
	std::uint32_t vcpus;
	Backing backing;
	Irqchip irqchip;
	Carrier carrier;
};

// The guest's map of physical addresses. RAM is one piece from 0.
namespace layout {
constexpr std::uint64_t gdt = 0x500, zero_page = 0x7000, page_tables = 0x9000, cmdline = 0x20000,
			cmdline_max = 0x1000, low_end = 0x9fc00, acpi = 0xe0000,
			acpi_end = 0x100000, high = 0x100000, ram_max = 3 * GiB,
			ioapic = 0xfec00000, lapic = 0xfee00000,
			// KVM on Intel needs four pages for itself, just below the BIOS.
	tss = 0xfffbd000;
} // namespace layout

namespace port {
constexpr std::uint16_t com1 = 0x3f8, i8042 = 0x64, pm_status = 0x600, pm_enable = 0x602,
			pm_control = 0x604;
} // namespace port

constexpr unsigned int com1_irq = 4, sci_irq = 9;

} // namespace vmm
