// SPDX-License-Identifier: GPL-2.0
// How tests look into and steer what fake/fdbox.cc pretends to be.
#pragma once

#include "luo.hh"

#include <map>
#include <string>

struct fdbox_handle;
struct fdbox_opener;

namespace fake {

module &fdbox_module();

// Who asks.
extern unsigned int caller;
// Whose open file of a box it is.
extern std::map<file *, fdbox_opener *> box_openers;
// The devices in /dev/fdbox.
extern std::map<std::string, fdbox_handle *> box_devices;

} // namespace fake
