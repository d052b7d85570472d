// SPDX-License-Identifier: GPL-2.0
// How tests look into and steer the kernel that fake/base.cc pretends to be.
#pragma once

#include <ferry/kernel.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

struct module {
	const char *name = "module";
	int refs = 0;
	bool going = false;
};

struct seq_file {
	std::string text;
};

namespace fake {

// ---- what must never happen ----

// A use of the kernel that it would warn about, or worse. Fails the test; where
// there is no test (a fuzzer), aborts.
void bug(const char *format, ...) __attribute__((format(printf, 1, 2)));
void on_bug(void (*report)(const std::string &what));

// ---- failures on demand ----

// Every function of the fakes that can fail in the kernel asks here whether it
// has to fail now.
bool inject(const char *what);

// Lets the nth of these calls fail from now on (from 1), and all that follow if
// it is to last.
void arm(unsigned long nth, bool lasting = false);
// Ends that. Returns what the first call that failed was, or null if none did.
const char *disarm();
// Calls that could have failed since arm().
unsigned long calls();

// ---- counters that are the same before and after whatever cleans up ----

using Counters = std::map<std::string, long>;
void add_counter(const char *name, std::function<long()> value);
Counters counters();
// What a test finds as it was before the first one.
void add_reset(std::function<void()> reset);
void reset();
// The memory that is allocated now, for messages.
std::string allocations();

// ---- messages ----

struct Line {
	ferry_level level;
	std::string module;
	std::string text;
};
const std::vector<Line> &log();
void clear_log();
// Whether a line of this level contains the text.
bool logged(ferry_level level, const std::string &text);
std::string log_text();

// ---- time ----

struct Clock {
	unsigned long long now = 1'000'000'000;
	unsigned long long tsc = 5'000'000'000;
	unsigned int tsc_khz = 2'000'000;
	// That pass with each look at the clock.
	unsigned long long step = 1'000;
};
extern Clock clock;

// ---- locks ----

// Locks that this thread holds.
unsigned int locks_held();

} // namespace fake
