// SPDX-License-Identifier: GPL-2.0
// Was the guest's workload disturbed? Its lines tell; see guest/report.hh.
#pragma once

#include <iosfwd>

namespace vmm {

// Read a console, with whatever else is on it. Says what it found, in one line if
// all is well; true if it is.
bool verify(std::istream &console);

} // namespace vmm
