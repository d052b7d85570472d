// SPDX-License-Identifier: GPL-2.0
/*
 * Where the time of the gap goes. Its stages follow each other without a hole: each
 * is noted when it ends. The time stamps are those of the host's counter, which a
 * kexec does not reset.
 */
#pragma once

#include <cstdint>

#include <x86intrin.h>

namespace vmm {

// The order is that of both carriers, as far as they have them.
enum class Stage : std::uint32_t {
	pause, // in the old kernel
	save,
	read,
	console,
	boot, // everything between; the report takes it apart
	start, // in the new one
	machine,
	memory,
	load,
	devices,
	run,
};

// Crosses the kexec as it is.
struct Times {
	static constexpr std::uint32_t max_laps = 24;
	struct Lap {
		Stage stage;
		std::uint32_t reserved;
		std::uint64_t end;
	};

	std::uint64_t khz;
	std::uint64_t guest_before, guest_after; // the guest's counter less the host's
	std::uint64_t begin;
	std::uint32_t nr, reserved;
	Lap laps[max_laps];

	void start()
	{
		nr = 0;
		begin = __rdtsc();
	}
	// What was done since the last one ended was this.
	void end(Stage stage, std::uint64_t when = __rdtsc())
	{
		if (nr < max_laps)
			laps[nr++] = {stage, 0, when};
	}
	std::uint64_t last() const
	{
		return nr ? laps[nr - 1].end : begin;
	}
};

} // namespace vmm
