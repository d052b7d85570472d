// SPDX-License-Identifier: GPL-2.0
#include "tools/luctl/tree.hh"

#include <algorithm>
#include <cstdio>

#include <libfdt.h>

#include "tools/luctl/output.hh"

namespace luctl {

namespace {

constexpr int max_depth = 32;

// The kind of a field of a record ("ferry,NAME-vVERSION"), or nothing.
std::string kind_of(const Json &formats, std::string_view compatible, const std::string &field)
{
	auto dash = compatible.rfind("-v");
	if (!compatible.starts_with("ferry,") || dash == compatible.npos || !formats.is_array())
		return {};
	auto name = compatible.substr(6, dash - 6);
	for (const auto &format : formats) {
		if (!format.is_object() || format.value("name", "") != name ||
		    !format.contains("fields"))
			continue;
		for (const auto &each : format["fields"]) {
			if (each.is_object() && each.value("name", "") == field)
				return each.value("kind", "");
		}
	}
	return {};
}

bool is_text(const char *bytes, int size)
{
	return size > 0 && !bytes[size - 1] &&
	       std::all_of(bytes, bytes + size - 1, [](char c) { return c >= ' ' && c <= '~'; });
}

std::string hexadecimal(const char *bytes, int size)
{
	std::string text;
	char digits[3];
	for (int i = 0; i < size; ++i) {
		std::snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned char>(bytes[i]));
		text += digits;
	}
	return text;
}

Json value_of(const std::string &kind, const char *bytes, int size)
{
	if (kind == "u32" && size == 4)
		return fdt32_ld(reinterpret_cast<const fdt32_t *>(bytes));
	if (kind == "u64" && size == 8)
		return fdt64_ld(reinterpret_cast<const fdt64_t *>(bytes));
	if (kind != "bytes" && is_text(bytes, size))
		return std::string(bytes, static_cast<std::size_t>(size) - 1);
	return hexadecimal(bytes, size);
}

Json read_node(const void *fdt, int node, const Json &formats, int depth)
{
	Json json = Json::object();
	int size = 0;
	auto text = static_cast<const char *>(fdt_getprop(fdt, node, "compatible", &size));
	std::string_view compatible = text && is_text(text, size) ? text : "";
	for (int at = fdt_first_property_offset(fdt, node); at >= 0;
	     at = fdt_next_property_offset(fdt, at)) {
		const char *name = nullptr;
		auto value =
			static_cast<const char *>(fdt_getprop_by_offset(fdt, at, &name, &size));
		if (value && name)
			json[clean(name)] =
				value_of(kind_of(formats, compatible, name), value, size);
	}
	if (depth < max_depth) {
		for (int child = fdt_first_subnode(fdt, node); child >= 0;
		     child = fdt_next_subnode(fdt, child))
			json[clean(fdt_get_name(fdt, child, nullptr))] =
				read_node(fdt, child, formats, depth + 1);
	}
	return json;
}

std::string shown(const Json &value)
{
	return value.is_string() ? "\"" + value.get<std::string>() + "\"" : value.dump();
}

// "key=value key=value", folded.
void print_fields(Context &context, const Json &node, const std::string &indent)
{
	std::string line;
	for (const auto &[key, value] : node.items()) {
		if (value.is_object() || key == "compatible")
			continue;
		std::string field = key + "=" + shown(value);
		if (!line.empty() &&
		    indent.size() / 2 + line.size() + field.size() + 1 > context.width) {
			context.out << indent << line << "\n";
			line.clear();
		}
		line += (line.empty() ? "" : " ") + field;
	}
	if (!line.empty())
		context.out << indent << line << "\n";
}

void print_node(Context &context, const std::string &name, const Json &node,
		const std::string &first, const std::string &rest)
{
	std::string is = node.contains("compatible") && node["compatible"].is_string()
				 ? node["compatible"].get<std::string>()
				 : "";
	context.out << first << name << (is.empty() ? "" : "  (" + is + ")") << "\n";
	std::vector<std::string> children;
	for (const auto &[key, value] : node.items()) {
		if (value.is_object())
			children.push_back(key);
	}
	print_fields(context, node, rest + (children.empty() ? "    " : "│   "));
	for (const auto &child : children) {
		bool last = child == children.back();
		print_node(context, child, node[child], rest + (last ? "└─ " : "├─ "),
			   rest + (last ? "   " : "│  "));
	}
}

} // namespace

Outcome<Json> read_tree(const std::string &fdt, const Json &formats)
{
	if (int error = fdt_check_full(fdt.data(), fdt.size()); error)
		return fail(Exit::failed,
			    std::string("the tree is damaged: ") + fdt_strerror(error));
	return read_node(fdt.data(), 0, formats, 0);
}

Outcome<> dump(Context &context, bool incoming)
{
	std::string path =
		context.path("/sys/kernel/debug/ferry/") + (incoming ? "in" : "out") + "/fdt";
	auto fdt = read_file(path);
	if (!fdt)
		return fail(Exit::missing,
			    fdt.error().text +
				    ". Only Ferry shows its tree: is kho loaded, debugfs mounted "
				    "(mount -t debugfs none /sys/kernel/debug), and are you root?");
	if (fdt->empty()) {
		if (context.json)
			context.out << "null\n";
		else
			context.out << (incoming ? "The last kernel handed nothing over.\n"
						 : "There is nothing to hand over.\n");
		return {};
	}
	auto formats = read_file(context.path("/sys/kernel/debug/ferry/formats"));
	Json catalogue = formats ? Json::parse(*formats, nullptr, false) : Json();
	auto tree = TRY(read_tree(*fdt, catalogue.is_object() ? catalogue.value("formats", Json())
							      : Json()));
	if (context.json)
		context.out << tree.dump(2) << "\n";
	else
		print_node(context, incoming ? "in" : "out", tree, "", "");
	return {};
}

} // namespace luctl
