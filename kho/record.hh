// SPDX-License-Identifier: GPL-2.0
// Records: the writer and the checked reader that follow from a declaration.
#pragma once

#include <ferry/kho.h>
#include <ferry/reader.hh>
#include <ferry/result.hh>

#include "tree.hh"

namespace kho {

// A declaration that can be right: bounds in order, strings with room for them.
bool valid(const ferry_record &record);

// Writes the properties of a record into the current node.
ferry::Result<void> write(ferry_writer &writer, const ferry_record &record, const void *object);

// Reads a record from a node, and checks every field. The object is all zeros
// where that fails.
ferry::Result<void> read(const Tree &tree, int node, const ferry_record &record, void *object);

// What a node says that it is; false when it does not say it properly.
struct Compatible {
	char name[32];
	unsigned int version;
};
bool compatible_of(const Tree &tree, int node, Compatible &out);

// A property that is one number of this type, and nothing else.
template <class T> ferry::Result<T> number(const void *value, std::size_t size)
{
	if (size != sizeof(T))
		return ferry::fail(ferry::Errno::BadMsg);
	return ferry::Reader{value, size}.big<T>();
}

} // namespace kho
