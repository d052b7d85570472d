// SPDX-License-Identifier: GPL-2.0
// The flattened device tree that holds the objects: a writer and a reader.
#pragma once

#include <ferry/kho.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <cstddef>

#include "kho/linux.h"

// Writes a tree from front to back, into a buffer that grows.
struct ferry_writer {
	ferry_writer() = default;
	~ferry_writer()
	{
		ferry_free(buffer_);
	}
	ferry_writer(const ferry_writer &) = delete;
	ferry_writer &operator=(const ferry_writer &) = delete;

	// Begins the tree and its root node.
	ferry::Result<void> start();
	ferry::Result<void> begin(const char *name);
	ferry::Result<void> end();
	ferry::Result<void> property(const char *name, const void *value, std::size_t size);
	// Ends the root node and the tree. Every begin() must have had its end().
	ferry::Result<void> finish();

	const void *data() const
	{
		return buffer_;
	}
	// In bytes, after finish().
	std::size_t size() const
	{
		return size_;
	}
	// Gives the buffer up, to be freed with ferry_free().
	[[nodiscard]] void *release()
	{
		return std::exchange(buffer_, nullptr);
	}

    private:
	// Repeats a step of libfdt's with a greater buffer until it has room.
	template <class Step> ferry::Result<void> with_room(Step step);
	ferry::Result<void> grow();

	void *buffer_ = nullptr;
	std::size_t room_ = 0;
	std::size_t size_ = 0;
	unsigned int depth_ = 0;
};

namespace kho {

// A tree that was checked as a whole, so that libfdt may walk it.
class Tree {
    public:
	Tree() = default;
	~Tree()
	{
		ferry_free(data_);
	}
	Tree(const Tree &) = delete;
	Tree &operator=(const Tree &) = delete;

	// Takes over `data`, in any case. Errno::BadMsg: it is no whole tree.
	ferry::Result<void> adopt(void *data, std::size_t size);

	// Nodes of libfdt; a negative one is none, and has no children.
	int root() const
	{
		return 0;
	}
	int child(int node, const char *name) const
	{
		return node < 0 ? node : fdt_subnode_offset(data_, node, name);
	}
	int first(int node) const
	{
		return node < 0 ? node : fdt_first_subnode(data_, node);
	}
	int next(int node) const
	{
		return node < 0 ? node : fdt_next_subnode(data_, node);
	}
	// "" for the root, and for no node.
	const char *name(int node) const;
	// Null when the node has no such property.
	const void *property(int node, const char *name, std::size_t &size) const;
	// "/luo/session@0" for messages, cut to `size`.
	const char *path(int node, char *buffer, std::size_t size) const;

	const void *data() const
	{
		return data_;
	}
	std::size_t size() const
	{
		return size_;
	}

    private:
	void *data_ = nullptr;
	std::size_t size_ = 0;
};

} // namespace kho
