// SPDX-License-Identifier: GPL-2.0
#include "kho/record.hh"

#include <ferry/log.hh>

#include <string_view>

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace kho {
namespace {

constexpr std::string_view prefix = "ferry,";
constexpr std::size_t compatible_size = 64;

// Length of a string in a field, without the NUL; its room when it has none.
std::size_t length_in(const char *text, std::size_t room)
{
	std::size_t length = 0;
	while (length < room && text[length])
		++length;
	return length;
}

unsigned long long value_of(const ferry_field &field, const void *at)
{
	if (field.kind == FERRY_U32) {
		unsigned int value;
		memcpy(&value, at, sizeof(value));
		return value;
	}
	unsigned long long value;
	memcpy(&value, at, sizeof(value));
	return value;
}

// What the bounds of a field are about.
unsigned long long measure(const ferry_field &field, const void *at)
{
	switch (field.kind) {
	case FERRY_STR:
		return length_in(static_cast<const char *>(at), field.room);
	case FERRY_BYTES:
		return field.room;
	default:
		return value_of(field, at);
	}
}

Result<void> write_field(ferry_writer &writer, const ferry_field &field, const void *at)
{
	switch (field.kind) {
	case FERRY_U32: {
		unsigned int cell =
			__builtin_bswap32(static_cast<unsigned int>(value_of(field, at)));
		return writer.property(field.name, &cell, sizeof(cell));
	}
	case FERRY_U64: {
		unsigned long long cells = __builtin_bswap64(value_of(field, at));
		return writer.property(field.name, &cells, sizeof(cells));
	}
	case FERRY_STR:
		return writer.property(field.name, at,
				       length_in(static_cast<const char *>(at), field.room) + 1);
	default:
		return writer.property(field.name, at, field.room);
	}
}

// Copies a property into the object. Null, or what is wrong with it.
const char *read_field(const ferry_field &field, const void *value, std::size_t size, void *at)
{
	switch (field.kind) {
	case FERRY_U32: {
		auto cell = number<unsigned int>(value, size);
		if (!cell.has_value())
			return "is not one cell";
		memcpy(at, &*cell, sizeof(*cell));
		break;
	}
	case FERRY_U64: {
		auto cells = number<unsigned long long>(value, size);
		if (!cells.has_value())
			return "is not two cells";
		memcpy(at, &*cells, sizeof(*cells));
		break;
	}
	case FERRY_STR:
		if (!size || size > field.room ||
		    length_in(static_cast<const char *>(value), size) != size - 1)
			return "is not a string of the right length";
		memcpy(at, value, size);
		break;
	default:
		if (size < field.min || size > field.max)
			return "has a wrong number of bytes";
		memcpy(at, value, size);
		return nullptr;
	}
	unsigned long long is = measure(field, at);
	if (is < field.min || is > field.max)
		return "is out of bounds";
	return nullptr;
}

Result<void> read_fields(const Tree &tree, int node, const ferry_record &record,
			 unsigned int version, void *object)
{
	for (unsigned int i = 0; i < record.nr_fields; ++i) {
		const ferry_field &field = record.fields[i];
		if (field.since > version)
			continue;
		std::size_t size = 0;
		const void *value = tree.property(node, field.name, size);
		const char *fault = value ? read_field(field, value, size,
						       static_cast<char *>(object) + field.offset)
					  : "is missing";
		if (fault) {
			char path[128];
			log_err("%s: '%s' of its %s %s", tree.path(node, path, sizeof(path)),
				field.name, record.name, fault);
			return fail(Errno::BadMsg);
		}
	}
	return {};
}

// Whether a field has room for what its bounds allow.
bool fits(const ferry_field &field)
{
	switch (field.kind) {
	case FERRY_U32:
		return field.room == sizeof(unsigned int);
	case FERRY_U64:
		return field.room == sizeof(unsigned long long);
	case FERRY_STR:
		return field.max < field.room;
	case FERRY_BYTES:
		return field.max <= field.room;
	default:
		return false;
	}
}

} // namespace

bool valid(const ferry_record &record)
{
	if (!record.name || !record.version || !record.oldest || record.oldest > record.version ||
	    std::string_view(record.name).size() >= sizeof(Compatible::name))
		return false;
	for (unsigned int i = 0; i < record.nr_fields; ++i) {
		const ferry_field &field = record.fields[i];
		if (!field.since || field.since > record.version || field.min > field.max ||
		    field.room > record.size || field.offset > record.size - field.room)
			return false;
		if (!fits(field))
			return false;
	}
	return true;
}

Result<void> write(ferry_writer &writer, const ferry_record &record, const void *object)
{
	char compatible[compatible_size];
	int length = ferry_format(compatible, sizeof(compatible), "ferry,%s-v%u", record.name,
				  record.version);
	TRY(writer.property("compatible", compatible, static_cast<std::size_t>(length) + 1));
	for (unsigned int i = 0; i < record.nr_fields; ++i) {
		const ferry_field &field = record.fields[i];
		const void *at = static_cast<const char *>(object) + field.offset;
		unsigned long long is = measure(field, at);
		if (field.kind != FERRY_BYTES && (is < field.min || is > field.max)) {
			log_err("cannot write '%s' of a %s: %llu is not within %llu and %llu",
				field.name, record.name, is, field.min, field.max);
			return fail(Errno::Inval);
		}
		TRY(write_field(writer, field, at));
	}
	return {};
}

bool compatible_of(const Tree &tree, int node, Compatible &out)
{
	std::size_t size = 0;
	auto *text = static_cast<const char *>(tree.property(node, "compatible", size));
	if (!text || !size || length_in(text, size) != size - 1)
		return false;

	std::string_view rest{text, size - 1};
	std::size_t dash = rest.rfind("-v");
	if (!rest.starts_with(prefix) || dash == rest.npos || dash <= prefix.size())
		return false;
	std::string_view digits = rest;
	digits.remove_prefix(dash + 2);
	std::string_view name = rest;
	name.remove_suffix(rest.size() - dash);
	name.remove_prefix(prefix.size());
	if (name.size() >= sizeof(out.name) || digits.empty() || digits.size() > 6)
		return false;

	out.version = 0;
	for (char digit : digits) {
		if (digit < '0' || digit > '9')
			return false;
		out.version = out.version * 10 + static_cast<unsigned int>(digit - '0');
	}
	memcpy(out.name, name.data(), name.size());
	out.name[name.size()] = '\0';
	return true;
}

Result<void> read(const Tree &tree, int node, const ferry_record &record, void *object)
{
	memset(object, 0, record.size);
	if (node < 0)
		return fail(Errno::NoEnt);

	char path[128];
	Compatible is;
	if (!compatible_of(tree, node, is) || std::string_view(is.name) != record.name) {
		log_err("%s: is not a %s", tree.path(node, path, sizeof(path)), record.name);
		return fail(Errno::BadMsg);
	}
	if (is.version < record.oldest || is.version > record.version) {
		log_err("%s: is a %s of version %u, and this kernel reads %u to %u",
			tree.path(node, path, sizeof(path)), record.name, is.version, record.oldest,
			record.version);
		return fail(Errno::ProtoNoSupport);
	}
	auto fields = read_fields(tree, node, record, is.version, object);
	if (!fields.has_value())
		memset(object, 0, record.size);
	return fields;
}

} // namespace kho
