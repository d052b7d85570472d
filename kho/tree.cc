// SPDX-License-Identifier: GPL-2.0
#include "kho/tree.hh"

#include <ferry/log.hh>
#include <ferry/reader.hh>

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace {

// libfdt's error for a buffer that is too small (FDT_ERR_NOSPACE).
constexpr int no_space = -3;

// Of a tree, in bytes; fdt_check_header() reads all of it.
constexpr std::size_t header_size = 40;

constexpr std::size_t first_room = 16 << 10;
// libfdt counts in int. A session of 100 files has about 20 KiB.
constexpr std::size_t max_room = 1 << 30;

// What a tree says of its own size: in its header, after the magic number.
Result<unsigned int> recorded_size(const void *tree, std::size_t room)
{
	ferry::Reader header{tree, room};
	(void)TRY(header.big<unsigned int>());
	return header.big<unsigned int>();
}

} // namespace

Result<void> ferry_writer::grow()
{
	if (room_ >= max_room)
		return fail(Errno::NoSpc);
	std::size_t room = room_ ? room_ * 2 : first_room;
	void *buffer = ferry_alloc(room);
	if (!buffer)
		return fail(Errno::NoMem);
	// fdt_resize() moves both ends of an unfinished tree.
	if (buffer_ && fdt_resize(buffer_, buffer, static_cast<int>(room)) < 0) {
		ferry_free(buffer);
		return fail(Errno::Inval);
	}
	ferry_free(buffer_);
	buffer_ = buffer;
	room_ = room;
	return {};
}

template <class Step> Result<void> ferry_writer::with_room(Step step)
{
	for (;;) {
		int err = step();
		if (err >= 0)
			return {};
		if (err != no_space)
			return fail(Errno::Inval);
		TRY(grow());
	}
}

Result<void> ferry_writer::start()
{
	TRY(grow());
	if (fdt_create(buffer_, static_cast<int>(room_)) < 0)
		return fail(Errno::Inval);
	TRY(with_room([&] { return fdt_finish_reservemap(buffer_); }));
	return begin("");
}

Result<void> ferry_writer::begin(const char *name)
{
	TRY(with_room([&] { return fdt_begin_node(buffer_, name); }));
	++depth_;
	return {};
}

Result<void> ferry_writer::end()
{
	if (!depth_)
		return fail(Errno::Inval);
	TRY(with_room([&] { return fdt_end_node(buffer_); }));
	--depth_;
	return {};
}

Result<void> ferry_writer::property(const char *name, const void *value, std::size_t size)
{
	return with_room(
		[&] { return fdt_property(buffer_, name, value, static_cast<int>(size)); });
}

Result<void> ferry_writer::finish()
{
	TRY(end());
	if (depth_)
		return fail(Errno::Inval);
	TRY(with_room([&] { return fdt_finish(buffer_); }));
	size_ = TRY(recorded_size(buffer_, room_));
	return {};
}

namespace kho {

namespace {

// The tags of a flattened device tree (Devicetree Specification, 5.4.1).
enum Tag : unsigned int {
	begin_node = 1,
	end_node = 2,
	property = 3,
	nop = 4,
	end = 9,
};

// Null, or why libfdt could not walk these bytes to their end. libfdt checks
// each access against the sizes in the header, so these come first.
const char *fault_of(const void *data, std::size_t size)
{
	if (size < header_size || fdt_check_header(data))
		return "has no valid header";
	auto recorded = recorded_size(data, size);
	if (!recorded.has_value() || *recorded != size)
		return "is not of the recorded size";

	unsigned int depth = 0;
	for (int at = 0, next = 0;; at = next) {
		switch (fdt_next_tag(data, at, &next)) {
		case begin_node:
			if (!depth && at)
				return "has two roots";
			++depth;
			break;
		case end_node:
			if (!depth--)
				return "ends a node that it did not begin";
			break;
		case property: {
			const char *name = nullptr;
			if (!depth || !fdt_getprop_by_offset(data, at, &name, nullptr) || !name)
				return "has a property without a name, or outside of a node";
			break;
		}
		case nop:
			break;
		case end:
			return next > 0 && !depth ? nullptr : "ends too early";
		default:
			return "has an unknown tag";
		}
	}
}

} // namespace

Result<void> Tree::adopt(void *data, std::size_t size)
{
	data_ = data;
	size_ = size;
	const char *fault = fault_of(data, size);
	if (!fault)
		return {};
	log_err("the tree %s", fault);
	return fail(Errno::BadMsg);
}

const char *Tree::name(int node) const
{
	const char *name = node < 0 ? nullptr : fdt_get_name(data_, node, nullptr);
	return name ? name : "";
}

const void *Tree::property(int node, const char *name, std::size_t &size) const
{
	int length = 0;
	const void *value = node < 0 ? nullptr : fdt_getprop(data_, node, name, &length);
	if (!value)
		return nullptr;
	size = static_cast<std::size_t>(length);
	return value;
}

const char *Tree::path(int node, char *buffer, std::size_t size) const
{
	if (node <= 0) {
		ferry_format(buffer, size, "/");
		return buffer;
	}
	// Nodes lie in the tree in the order of their offsets, children between
	// their parent and its next sibling.
	int length = ferry_format(buffer, size, "%s", "");
	for (int at = root(); at != node;) {
		int inside = -1;
		for (int child = first(at); child >= 0 && child <= node; child = next(child))
			inside = child;
		if (inside < 0)
			break;
		length += ferry_format(buffer + length, size - static_cast<std::size_t>(length),
				       "/%s", name(inside));
		at = inside;
	}
	return buffer;
}

} // namespace kho
