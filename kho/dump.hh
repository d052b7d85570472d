// SPDX-License-Identifier: GPL-2.0
// Trees and formats as text, for people and for luctl.
#pragma once

#include <span>

#include "record.hh"

namespace kho {

// A group of records that a module registered.
using Formats = std::span<const ferry_record *const>;

// The whole tree, indented; values of known records as what they are.
void print_tree(seq_file *to, const Tree &tree, std::span<const Formats> known);

// The catalogue, as JSON: what this kernel writes and reads.
void print_formats(seq_file *to, std::span<const Formats> known);

} // namespace kho
