// SPDX-License-Identifier: GPL-2.0
/*
 * The catalogue of what a kernel writes and reads, as debugfs has it: does what one
 * kernel hands over suit another?
 */
#pragma once

#include <string>
#include <vector>

#include "tools/luctl/context.hh"

namespace luctl {

struct Format {
	std::string name;
	unsigned int writes, oldest, newest; // versions; it reads oldest to newest
};

struct Catalogue {
	std::string kernel; // its release; empty: not known
	std::vector<Format> formats;
	Json text; // as it was read
};

// no: it is not a catalogue; the text says what is wrong with it.
Outcome<Catalogue> parse_catalogue(const std::string &text, const std::string &whose);
// Of the kernel that runs.
Outcome<Catalogue> own_catalogue(const Context &context);

// One record on its way from a kernel that writes it to one that is to read it.
struct Judgement {
	std::string name;
	unsigned int writes;
	unsigned int oldest, newest; // 0: the other does not know it
	bool fits;
};
std::vector<Judgement> judge(const Catalogue &writer, const Catalogue &reader);

// luctl formats [--check OTHER]
Outcome<> formats(Context &context, const std::string &other);

} // namespace luctl
