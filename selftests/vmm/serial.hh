// SPDX-License-Identifier: GPL-2.0
// A 16550A as far as Linux needs one for a console: what it sends is taken at
// once, and it never receives.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string_view>

namespace vmm {

class Serial {
    public:
	// Crosses the kexec as it is. The unfinished line goes with it, and so a
	// kexec never cuts one in two.
	struct State {
		std::uint8_t interrupt_enable, fifo_control, line_control, modem_control, scratch,
			divisor[2];
		std::uint8_t empty_pending; // the interrupt "transmitter empty" waits for the guest
		std::uint32_t used;
		char line[512];
	};

	// line(level): the interrupt output changes. begin(): the first character of a line
	// has come. print(text): whole lines, unless one is longer than State::line.
	Serial(std::function<void(bool)> line, std::function<void()> begin,
	       std::function<void(std::string_view)> print)
		: line_(std::move(line)), begin_(std::move(begin)), print_(std::move(print))
	{
	}

	// offset: from the first port.
	std::uint8_t read(unsigned int offset);
	void write(unsigned int offset, std::uint8_t value);

	State save();
	void load(const State &state);

    private:
	bool divisor_selected() const;
	bool interrupts() const;
	void send(char c);
	void update_line();

	std::function<void(bool)> line_;
	std::function<void()> begin_;
	std::function<void(std::string_view)> print_;
	std::mutex mutex_;
	State state_{};
	bool level_ = false;
};

} // namespace vmm
