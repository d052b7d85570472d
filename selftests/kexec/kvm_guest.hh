// SPDX-License-Identifier: GPL-2.0
// Guests of a page: 64-bit code, which knows where its data is (RDI), and keeps nothing else.
#pragma once

#include <cstdint>
#include <string_view>

namespace guest {

// What a vCPU and its VMM share; one for each vCPU.
struct Data {
	std::uint64_t count; // what the guest has done
	std::uint64_t check; // a function of it
	std::uint64_t irqs[8]; // that it has handled, see guest::vector
	std::uint64_t error_code; // of the last exception that has one
	std::uint64_t cr2;
	std::uint64_t exits; // of L2 to L1
	std::uint64_t exit_code; // of the last one
	std::uint64_t l2; // what L2 has done
	std::uint64_t scratch[4];
	// The VMM's.
	std::uint64_t last; // the last number that came by OUT
	std::uint64_t wrong; // how many were not the next one
	std::uint64_t interrupted, busy; // KVM_RUN's EINTR and EBUSY
};

// Where things are in guest memory.
constexpr std::uint64_t code = 0x1000, code_step = 0x100; // of each vCPU
constexpr std::uint64_t data = 0x3000, data_step = 0x200;
constexpr std::uint64_t page_tables = 0x4000;
constexpr std::uint64_t gdt = 0x7000, idt = 0x8000;
constexpr std::uint64_t vmcb = 0x9000, host_save = 0xa000, l2_code = 0xb000;
constexpr std::uint64_t clock_page = 0xc000;
constexpr std::uint64_t handlers = 0xd000;
constexpr std::uint64_t stacks = 0x10000, stack_step = 0x1000;

// Vectors whose handlers count: irqs[n].
enum { TIMER, LINE, NMI, UD, GP, PF, MSI, LAST };
constexpr unsigned int vector[] = {0x40, 0x41, 2, 6, 13, 14, 0x42, 0x43};

// The ports of OUT.
constexpr std::uint16_t count_port = 0x10, bad_port = 0x11, done_port = 0x12;

// Counts for ever, in registers and in memory: both have to say the same.
std::string_view count();
// Counts, and says each number with an OUT.
std::string_view out();
// Starts a timer (RSI: LVT, RDX: ticks, or a distance for a deadline), and counts what wakes it.
std::string_view timer();
constexpr std::uint64_t timer_hz = 1'000'000'000 / 16;
// As timer(), without starting one: HLT with interrupts on.
std::string_view halt();
// VMRUN for ever; and what runs in it: an OUT of its count, and each 4th time a VMMCALL.
std::string_view l1();
std::string_view l2();
// Reads MSR ECX, and says it is done: EAX.
std::string_view rdmsr();
// Writes to each page between RSI and RDX, then OUT, for ever.
std::string_view touch();
// Handlers of all vectors above, and where that of the nth is.
std::string_view handler_code();
std::uint64_t handler(unsigned int n);

} // namespace guest
