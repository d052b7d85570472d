// SPDX-License-Identifier: GPL-2.0
#include "kho/dump.hh"

#include <abi/root.h>
#include <abi/runs.h>

#include <algorithm>
#include <string_view>

namespace kho {
namespace {

// Deeper nodes are not ours; a tree that came damaged must not exhaust the stack.
constexpr unsigned int max_depth = 16;

const char *const kind_names[] = {"u32", "u64", "str", "bytes"};

const ferry_field *find_field(std::span<const Formats> known, const char *record_name,
			      std::string_view name)
{
	for (Formats formats : known) {
		for (const ferry_record *record : formats) {
			if (std::string_view(record->name) != record_name)
				continue;
			for (unsigned int i = 0; i < record->nr_fields; ++i) {
				if (record->fields[i].name == name)
					return &record->fields[i];
			}
		}
	}
	return nullptr;
}

bool printable(char c)
{
	return c >= ' ' && c <= '~' && c != '"';
}

bool printable(const char *text, std::size_t size)
{
	if (!size || text[size - 1])
		return false;
	return std::all_of(text, text + size - 1, [](char c) { return printable(c); });
}

// A name of the tree's, which anything may be in.
void print_name(seq_file *to, int indent, const char *name)
{
	ferry_seq_printf(to, "%*s", indent, "");
	for (; *name; ++name)
		ferry_seq_printf(to, "%c", printable(*name) ? *name : '?');
}

void print_value(seq_file *to, const ferry_field *field, const void *value, std::size_t size)
{
	auto small = number<unsigned int>(value, size);
	auto great = number<unsigned long long>(value, size);
	if (field && field->kind == FERRY_U32 && small.has_value()) {
		ferry_seq_printf(to, "%u", *small);
	} else if (field && field->kind == FERRY_U64 && great.has_value()) {
		// Addresses and masks are easier read in hexadecimal, counts are not.
		ferry_seq_printf(to, *great >> 32 ? "%#llx" : "%llu", *great);
	} else if (printable(static_cast<const char *>(value), size)) {
		ferry_seq_printf(to, "\"%s\"", static_cast<const char *>(value));
	} else {
		ferry_seq_printf(to, "[");
		for (std::size_t i = 0; i < size; ++i)
			ferry_seq_printf(to, i ? " %02x" : "%02x",
					 static_cast<const unsigned char *>(value)[i]);
		ferry_seq_printf(to, "]");
	}
}

void print_node(seq_file *to, const Tree &tree, std::span<const Formats> known, int node,
		unsigned int depth)
{
	const int indent = static_cast<int>(depth * 2);
	Compatible is;
	bool typed = compatible_of(tree, node, is);

	print_name(to, indent, depth ? tree.name(node) : "/");
	ferry_seq_printf(to, " {\n");
	for (int at = fdt_first_property_offset(tree.data(), node); at >= 0;
	     at = fdt_next_property_offset(tree.data(), at)) {
		const char *name = nullptr;
		int size = 0;
		const void *value = fdt_getprop_by_offset(tree.data(), at, &name, &size);
		if (!value || !name)
			break;
		print_name(to, indent + 2, name);
		ferry_seq_printf(to, " = ");
		print_value(to, typed ? find_field(known, is.name, name) : nullptr, value,
			    static_cast<std::size_t>(size));
		ferry_seq_printf(to, "\n");
	}
	if (depth < max_depth) {
		for (int child = tree.first(node); child >= 0; child = tree.next(child))
			print_node(to, tree, known, child, depth + 1);
	}
	ferry_seq_printf(to, "%*s}\n", indent, "");
}

// What is no record.
struct Frame {
	const char *name;
	unsigned int version;
	unsigned int oldest; // that is read
};
constexpr Frame frames[] = {
	{"the root page", FERRY_ROOT_VERSION, FERRY_ROOT_VERSION},
	{"the lists of runs", FERRY_RUNS_VERSION, FERRY_RUNS_OLDEST},
	{"the tree", FERRY_TREE_VERSION, FERRY_TREE_VERSION},
};

void print_frame(seq_file *to, const Frame &frame, bool first)
{
	ferry_seq_printf(to,
			 "%s\n  {\"name\": \"%s\", \"writes\": %u, \"reads\": [%u, %u], "
			 "\"fields\": []}",
			 first ? "" : ",", frame.name, frame.version, frame.oldest, frame.version);
}

void print_record(seq_file *to, const ferry_record &record, bool first)
{
	ferry_seq_printf(
		to, "%s\n  {\"name\": \"%s\", \"writes\": %u, \"reads\": [%u, %u], \"fields\": [",
		first ? "" : ",", record.name, record.version, record.oldest, record.version);
	for (unsigned int i = 0; i < record.nr_fields; ++i) {
		const ferry_field &field = record.fields[i];
		ferry_seq_printf(to,
				 "%s\n    {\"name\": \"%s\", \"kind\": \"%s\", \"since\": %u, "
				 "\"min\": %llu, "
				 "\"max\": %llu}",
				 i ? "," : "", field.name, kind_names[field.kind], field.since,
				 field.min, field.max);
	}
	ferry_seq_printf(to, "]}");
}

} // namespace

void print_tree(seq_file *to, const Tree &tree, std::span<const Formats> known)
{
	print_node(to, tree, known, tree.root(), 0);
}

void print_formats(seq_file *to, std::span<const Formats> known)
{
	bool first = true;
	ferry_seq_printf(to, "{\"formats\": [");
	for (const Frame &frame : frames) {
		print_frame(to, frame, first);
		first = false;
	}
	for (Formats formats : known) {
		for (const ferry_record *record : formats) {
			print_record(to, *record, first);
			first = false;
		}
	}
	ferry_seq_printf(to, "]}\n");
}

} // namespace kho
