// SPDX-License-Identifier: GPL-2.0
// The tree that crosses the kexec, as debugfs has it.
#pragma once

#include <string>

#include "tools/luctl/context.hh"

namespace luctl {

// Of a flattened device tree: nodes as objects, with what is in them in its order; numbers as
// the catalogue says, texts, and else bytes in hexadecimal. Checks it first.
Outcome<Json> read_tree(const std::string &fdt, const Json &formats);

// luctl dump [in|out]
Outcome<> dump(Context &context, bool incoming);

} // namespace luctl
