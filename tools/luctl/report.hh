// SPDX-License-Identifier: GPL-2.0
// The update that led to this kernel: where its time went.
#pragma once

#include <string>
#include <vector>

#include "tools/luctl/context.hh"

namespace luctl {

// A part of an update, in nanoseconds from where its freeze began.
struct Stage {
	std::string name, what;
	std::uint64_t start, length;
	enum class Of { kernels, user } of;
};

// In the order of time; what is not known is left out.
std::vector<Stage> stages(const liveupdate_ferry_update &update);

// A picture of them, at most that many columns of a terminal, or as an SVG.
std::string draw_text(const std::vector<Stage> &all, unsigned int width);
std::string draw_svg(const liveupdate_ferry_update &update, const std::vector<Stage> &all);

// luctl report [--svg FILE]
Outcome<> report(Context &context, const std::string &svg);

} // namespace luctl
