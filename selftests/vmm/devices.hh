// SPDX-License-Identifier: GPL-2.0
// The devices of the machine that are the VMM's, and their places.
#pragma once

#include <atomic>
#include <span>

#include "selftests/lib/kvm.hh"
#include "selftests/vmm/config.hh"
#include "selftests/vmm/ioapic.hh"
#include "selftests/vmm/serial.hh"

namespace vmm {

// What the guest asked for that ends it.
enum class Ending { none, power_off, reset };

class Devices {
    public:
	// Crosses the kexec as it is.
	struct State {
		Serial::State serial;
		Ioapic::State ioapic;
		std::uint16_t pm_enable; // which events of ACPI are wanted; there are none
		std::uint16_t reserved[3];
	};

	Devices(const kvm::Vm &vm, Irqchip irqchip);

	// Where nobody answers, reads give ones, and writes are lost, as on a PC.
	void port_read(std::uint16_t port, std::span<std::byte> data);
	Ending port_write(std::uint16_t port, std::span<const std::byte> data);
	void memory_read(std::uint64_t address, std::span<std::byte> data);
	void memory_write(std::uint64_t address, std::span<const std::byte> data);

	// How many lines the guest has printed since this VMM has it.
	std::uint64_t lines() const
	{
		return lines_;
	}

	// Of a machine that is paused.
	State save();
	void load(const State &state);

    private:
	void set_line(unsigned int line, bool level);

	const kvm::Vm &vm_;
	Irqchip irqchip_;
	Ioapic ioapic_;
	Serial serial_;
	std::int64_t line_begin_us_ = 0; // CLOCK_REALTIME; of a line that began here
	std::atomic<std::uint16_t> pm_enable_ = 0;
	std::atomic<std::uint64_t> lines_ = 0;
};

} // namespace vmm
