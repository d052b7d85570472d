// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/devices.hh"

#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "selftests/vmm/error.hh"

namespace vmm {

namespace {

// The power management registers of ACPI: it is always on, no event ever happens,
// and the only sleep state is "off".
constexpr std::uint16_t pm_control_acpi_on = 1 << 0, pm_control_sleep = 1 << 13;

// The keyboard controller's command that resets a PC.
constexpr std::byte i8042_reset{0xfe};

constexpr std::uint64_t ioapic_bytes = 0x20;

bool within(std::uint64_t address, std::uint64_t base, std::uint64_t bytes)
{
	return address - base < bytes;
}

void print(std::string_view text)
{
	while (!text.empty()) {
		auto written = ::write(STDOUT_FILENO, text.data(), text.size());
		if (written < 0 && errno != EINTR)
			return;
		text.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(written, 0)));
	}
}

// A register that is as wide as the access, or narrower.
template <typename T> void answer(std::span<std::byte> data, T value)
{
	std::ranges::fill(data, std::byte{0});
	std::memcpy(data.data(), &value, std::min(data.size(), sizeof(value)));
}

template <typename T> T value_of(std::span<const std::byte> data)
{
	T value{};
	std::memcpy(&value, data.data(), std::min(data.size(), sizeof(value)));
	return value;
}

std::int64_t real_us()
{
	timespec now{};
	::clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1'000'000ll + now.tv_nsec / 1000;
}

// Behind what the guest says of its clocks: `ferry-vmm verify` compares them.
void print_host_clock(std::int64_t us)
{
	char text[64];
	int length = std::snprintf(text, sizeof(text), "host real=%" PRId64 "\n", us);
	print({text, static_cast<std::size_t>(length)});
}

} // namespace

Devices::Devices(const kvm::Vm &vm, Irqchip irqchip)
	: vm_(vm), irqchip_(irqchip), ioapic_([this](std::uint32_t address, std::uint32_t data) {
		  if (auto done = vm_.signal_msi(address, data); !done)
			  say("KVM_SIGNAL_MSI: " + done.error().message());
	  }),
	  // The guest reads its clocks, and then begins to say so: what comes between the two is
	  // little, and the rest of a line may take long.
	  serial_([this](bool level) { set_line(com1_irq, level); },
		  [this] { line_begin_us_ = real_us(); },
		  [this](std::string_view text) {
			  print(text);
			  if (text.starts_with("clock ") && line_begin_us_)
				  print_host_clock(line_begin_us_);
			  ++lines_;
		  })
{
}

void Devices::set_line(unsigned int line, bool level)
{
	if (irqchip_ == Irqchip::split)
		return ioapic_.set_line(line, level);
	if (auto done = vm_.irq_line(line, level); !done)
		say("KVM_IRQ_LINE: " + done.error().message());
}

void Devices::port_read(std::uint16_t port, std::span<std::byte> data)
{
	if (within(port, port::com1, 8))
		answer(data, serial_.read(port - port::com1));
	else if (port == port::pm_control)
		answer(data, pm_control_acpi_on);
	else if (port == port::pm_status)
		answer(data, 0);
	else if (port == port::pm_enable)
		answer(data, pm_enable_.load());
	else
		std::ranges::fill(data, std::byte{0xff});
}

Ending Devices::port_write(std::uint16_t port, std::span<const std::byte> data)
{
	if (within(port, port::com1, 8))
		serial_.write(port - port::com1, value_of<std::uint8_t>(data));
	else if (port == port::pm_enable)
		pm_enable_ = value_of<std::uint16_t>(data);
	else if (port == port::pm_control && value_of<std::uint16_t>(data) & pm_control_sleep)
		return Ending::power_off;
	else if (port == port::i8042 && data[0] == i8042_reset)
		return Ending::reset;
	return Ending::none;
}

void Devices::memory_read(std::uint64_t address, std::span<std::byte> data)
{
	if (irqchip_ == Irqchip::split && within(address, layout::ioapic, ioapic_bytes))
		answer(data, ioapic_.read(address - layout::ioapic));
	else
		std::ranges::fill(data, std::byte{0xff});
}

void Devices::memory_write(std::uint64_t address, std::span<const std::byte> data)
{
	if (irqchip_ == Irqchip::split && within(address, layout::ioapic, ioapic_bytes))
		ioapic_.write(address - layout::ioapic, value_of<std::uint32_t>(data));
}

Devices::State Devices::save()
{
	return {serial_.save(), ioapic_.save(), pm_enable_, {}};
}

void Devices::load(const State &state)
{
	ioapic_.load(state.ioapic);
	serial_.load(state.serial);
	pm_enable_ = state.pm_enable;
}

} // namespace vmm
