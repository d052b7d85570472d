// SPDX-License-Identifier: GPL-2.0
// What all sessions and files share.
#pragma once

#include "held.hh"
#include "journal.hh"
#include "registry.hh"

namespace luo {

struct Common {
	Registry registry;
	HeldFiles held;
	Journal journal;
};

} // namespace luo
