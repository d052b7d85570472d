// SPDX-License-Identifier: GPL-2.0
// The I/O APIC of Irqchip::split. Only edges: this machine has no PCI, and so
// nothing that holds a line until it is served.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>

namespace vmm {

class Ioapic {
    public:
	static constexpr unsigned int inputs = 24;

	// Crosses the kexec as it is.
	struct State {
		std::uint32_t select;
		std::uint32_t id;
		std::uint32_t level; // a bit for each input
		std::uint32_t waiting; // edges that came while their input was masked
		std::uint64_t entry[inputs];
	};

	// msi(address, data): to the local APICs.
	explicit Ioapic(std::function<void(std::uint32_t, std::uint32_t)> msi);

	void set_line(unsigned int input, bool level);

	// offset: from its base address.
	std::uint32_t read(std::uint64_t offset);
	void write(std::uint64_t offset, std::uint32_t value);

	State save();
	void load(const State &state);

    private:
	std::uint32_t read_register() const;
	void write_register(std::uint32_t value);
	void deliver(unsigned int input);

	std::function<void(std::uint32_t, std::uint32_t)> msi_;
	std::mutex mutex_;
	State state_{};
};

} // namespace vmm
