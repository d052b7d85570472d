// SPDX-License-Identifier: GPL-2.0
// Loading the next kernel, what is checked before the jump, and the jump.
#pragma once

#include <string>
#include <vector>

#include "tools/luctl/context.hh"

namespace luctl {

// The release of a kernel that is in a bzImage, "7.3.4-amd64", or nothing.
std::string release_of(const std::string &image);

// What there is to be said of an update before it.
struct Check {
	enum class Verdict { good, doubtful, bad };
	std::string name;
	Verdict verdict;
	std::string text;
};

struct LoadOptions {
	std::string kernel, initrd, cmdline;
	bool cmdline_given = false; // or else that of this kernel
};
Outcome<> kexec_load(Context &context, const LoadOptions &options);
Outcome<> kexec_unload(Context &context);

struct PreflightOptions {
	std::string formats; // the next kernel's catalogue; "": where luctl looks for it
};
std::vector<Check> check_all(Context &context, const PreflightOptions &options);
Outcome<> kexec_preflight(Context &context, const PreflightOptions &options);

struct GoOptions {
	PreflightOptions preflight;
	std::uint64_t timeout_s = 60; // that services may take
	bool force = false; // in spite of what the preflight says
	bool lose = false; // sessions of the last kernel that are not finished
	bool now = false; // without systemd, where that runs
};
Outcome<> kexec_go(Context &context, const GoOptions &options);

} // namespace luctl
