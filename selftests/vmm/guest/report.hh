// SPDX-License-Identifier: GPL-2.0
/*
 * What the guest says, and how it can be checked. Its workload writes lines, and
 * `ferry-vmm verify` reads them:
 *
 *	seq 17 cpu=1 n=52 sum=9d.. late=310 gap=12004 tgap=12010 ... chain=5e.. #a0b1c2d3
 *
 * - #: of the text before it, so that a damaged line shows.
 * - chain: goes on over all lines, so that a lost, repeated or forged one shows.
 * - sum: the result of n rounds of a computation that anybody can repeat, so that
 *   a register or a page that came back wrong shows.
 */
#pragma once

#include <cstdint>
#include <string_view>

namespace report {

// FNV-1a.
inline std::uint64_t hash(std::string_view text, std::uint64_t from = 14695981039346656037ull)
{
	for (char c : text)
		from = (from ^ static_cast<unsigned char>(c)) * 1099511628211ull;
	return from;
}

inline std::uint32_t line_sum(std::string_view text)
{
	auto all = hash(text);
	return static_cast<std::uint32_t>(all ^ all >> 32);
}

// The computation of a worker, step by step: a linear congruential generator
// (Knuth's MMIX). Whoever checks it need not go all these steps.
constexpr std::uint64_t multiplier = 6364136223846793005ull, increment = 1442695040888963407ull;
constexpr unsigned int steps_per_round = 20000;

constexpr std::uint64_t first_state(unsigned int worker)
{
	return 0x9e3779b97f4a7c15ull * (worker + 1);
}
constexpr std::uint64_t next_state(std::uint64_t state)
{
	return state * multiplier + increment;
}
// The same as so many times next_state(): two steps of a line are a line, too.
constexpr std::uint64_t state_after(std::uint64_t state, std::uint64_t steps)
{
	for (std::uint64_t factor = multiplier, term = increment; steps; steps /= 2) {
		if (steps % 2)
			state = state * factor + term;
		term += factor * term;
		factor *= factor;
	}
	return state;
}
static_assert(state_after(5, 3) == next_state(next_state(next_state(5))));

} // namespace report
