// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/ioapic.hh"

#include "selftests/vmm/config.hh"

namespace vmm {

namespace {

// Two windows in memory lead to the registers: one selects, one is the value.
constexpr std::uint64_t window_select = 0x00, window_value = 0x10;
constexpr std::uint32_t reg_id = 0, reg_version = 1, reg_entries = 0x10;
constexpr std::uint32_t version = (Ioapic::inputs - 1) << 16 | 0x11;

// Of an entry. The guest cannot write what tells it the state of a delivery.
constexpr std::uint64_t entry_logical = 1 << 11, entry_masked = 1 << 16,
			entry_read_only = 1 << 12 | 1 << 14, entry_message = 0x7ff;

// The half of an entry that a register number stands for.
struct Half {
	explicit Half(std::uint32_t number)
		: input((number - reg_entries) / 2), shift((number - reg_entries) % 2 * 32),
		  valid(number >= reg_entries && input < Ioapic::inputs)
	{
	}
	unsigned int input, shift;
	bool valid;
};

} // namespace

Ioapic::Ioapic(std::function<void(std::uint32_t, std::uint32_t)> msi) : msi_(std::move(msi))
{
	for (auto &entry : state_.entry)
		entry = entry_masked;
}

void Ioapic::set_line(unsigned int input, bool level)
{
	std::lock_guard lock(mutex_);
	std::uint32_t bit = 1u << input;
	bool rises = level && !(state_.level & bit);
	state_.level = level ? state_.level | bit : state_.level & ~bit;
	if (rises)
		deliver(input);
}

// An entry has the fields of a message-signalled interrupt, at other places.
void Ioapic::deliver(unsigned int input)
{
	std::uint64_t entry = state_.entry[input];
	if (entry & entry_masked) {
		state_.waiting |= 1u << input;
		return;
	}
	state_.waiting &= ~(1u << input);
	auto target = static_cast<std::uint32_t>(entry >> 56);
	std::uint32_t logical = entry & entry_logical ? 1 << 2 : 0;
	msi_(static_cast<std::uint32_t>(layout::lapic) | target << 12 | logical,
	     static_cast<std::uint32_t>(entry & entry_message));
}

std::uint32_t Ioapic::read_register() const
{
	Half half(state_.select);
	if (half.valid)
		return static_cast<std::uint32_t>(state_.entry[half.input] >> half.shift);
	switch (state_.select) {
	case reg_id:
		return state_.id;
	case reg_version:
		return version;
	default:
		return 0;
	}
}

void Ioapic::write_register(std::uint32_t value)
{
	if (state_.select == reg_id)
		state_.id = value & 0x0f000000;
	Half half(state_.select);
	if (!half.valid)
		return;
	std::uint64_t mask = (0xffffffffull << half.shift) & ~entry_read_only;
	auto &entry = state_.entry[half.input];
	entry = (entry & ~mask) | (std::uint64_t(value) << half.shift & mask);
	if (state_.waiting & 1u << half.input)
		deliver(half.input);
}

std::uint32_t Ioapic::read(std::uint64_t offset)
{
	std::lock_guard lock(mutex_);
	return offset == window_value ? read_register() : state_.select;
}

void Ioapic::write(std::uint64_t offset, std::uint32_t value)
{
	std::lock_guard lock(mutex_);
	if (offset == window_select)
		state_.select = value & 0xff;
	else if (offset == window_value)
		write_register(value);
}

Ioapic::State Ioapic::save()
{
	std::lock_guard lock(mutex_);
	return state_;
}

void Ioapic::load(const State &state)
{
	std::lock_guard lock(mutex_);
	state_ = state;
}

} // namespace vmm
