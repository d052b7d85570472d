// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/serial.hh"

#include <algorithm>
#include <iterator>

#include <linux/serial_reg.h>

namespace vmm {

bool Serial::divisor_selected() const
{
	return state_.line_control & UART_LCR_DLAB;
}

bool Serial::interrupts() const
{
	return state_.empty_pending && (state_.interrupt_enable & UART_IER_THRI);
}

// On a PC the interrupt is wired through the modem control output OUT2.
void Serial::update_line()
{
	bool level = interrupts() && (state_.modem_control & UART_MCR_OUT2);
	if (level != level_)
		line_(level_ = level);
}

void Serial::send(char c)
{
	if (!state_.used)
		begin_();
	state_.line[state_.used++] = c;
	if (c == '\n' || state_.used == std::size(state_.line)) {
		print_({state_.line, state_.used});
		state_.used = 0;
	}
	state_.empty_pending = true;
}

std::uint8_t Serial::read(unsigned int offset)
{
	std::lock_guard lock(mutex_);
	switch (offset) {
	case UART_RX:
		return divisor_selected() ? state_.divisor[0] : 0;
	case UART_IER:
		return divisor_selected() ? state_.divisor[1] : state_.interrupt_enable;
	case UART_IIR: {
		std::uint8_t fifo = state_.fifo_control & UART_FCR_ENABLE_FIFO ? 0xc0 : 0;
		std::uint8_t cause = interrupts() ? UART_IIR_THRI : UART_IIR_NO_INT;
		// To have read of this interrupt takes it back.
		if (interrupts())
			state_.empty_pending = false;
		update_line();
		return fifo | cause;
	}
	case UART_LCR:
		return state_.line_control;
	case UART_MCR:
		return state_.modem_control;
	case UART_LSR:
		return UART_LSR_TEMT | UART_LSR_THRE;
	case UART_MSR:
		return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	default:
		return state_.scratch;
	}
}

void Serial::write(unsigned int offset, std::uint8_t value)
{
	std::lock_guard lock(mutex_);
	switch (offset) {
	case UART_TX:
		if (divisor_selected())
			state_.divisor[0] = value;
		else
			send(static_cast<char>(value));
		break;
	case UART_IER:
		if (divisor_selected()) {
			state_.divisor[1] = value;
			break;
		}
		// To enable it while the transmitter is empty raises it.
		if ((value & ~state_.interrupt_enable) & UART_IER_THRI)
			state_.empty_pending = true;
		state_.interrupt_enable = value & 0x0f;
		break;
	case UART_FCR:
		state_.fifo_control = value;
		break;
	case UART_LCR:
		state_.line_control = value;
		break;
	case UART_MCR:
		state_.modem_control = value;
		break;
	case UART_SCR:
		state_.scratch = value;
		break;
	}
	update_line();
}

Serial::State Serial::save()
{
	std::lock_guard lock(mutex_);
	return state_;
}

// The interrupt controller has its own record of the line's level: so the line
// is not driven here, only remembered.
void Serial::load(const State &state)
{
	std::lock_guard lock(mutex_);
	state_ = state;
	state_.used = std::min<std::uint32_t>(state_.used, std::size(state_.line) - 1);
	level_ = interrupts() && (state_.modem_control & UART_MCR_OUT2);
}

} // namespace vmm
