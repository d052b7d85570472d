// SPDX-License-Identifier: GPL-2.0
// The tree, and every record in it: what is taken is within its bounds.
#include "fake/carry.hh"

#include <abi/hugetlb.h>
#include <abi/luo.h>
#include <abi/memfd.h>
#include <ferry/kho.h>

#include <cstdlib>
#include <cstring>

#include "kho/linux.h"

namespace {

// With everything that a declaration can have.
#define FUZZ_FIELDS(F, T)                                                                          \
	F(T, U32, number, 1, 2, 9, 0)                                                              \
	F(T, BYTES, key, 1, 2, 8, 8)                                                               \
	F(T, STR, late, 3, 0, 7, 8)
FERRY_RECORD(fuzz, "fuzz", 3, 2, FUZZ_FIELDS);

const ferry_record *const records[] = {
	&ferry_update_record, &ferry_session_record, &ferry_file_record,    &ferry_need_record,
	&ferry_memfd_record,  &ferry_bulk_record,    &ferry_hugetlb_record, &fuzz_record,
};

void check_bounds(const ferry_record &record, const unsigned char *object)
{
	for (unsigned int i = 0; i < record.nr_fields; ++i) {
		const ferry_field &field = record.fields[i];
		auto at = reinterpret_cast<const char *>(object + field.offset);
		unsigned long long value = 0;
		if (field.kind == FERRY_STR) {
			value = strnlen(at, field.room);
			if (value == field.room)
				std::abort();
		} else if (field.kind == FERRY_BYTES) {
			continue;
		} else {
			std::memcpy(&value, at, field.room);
		}
		bool absent = field.since > record.oldest && !value;
		if (!absent && (value < field.min || value > field.max))
			std::abort();
	}
}

void visit(ferry_node node, unsigned int &left)
{
	for (const ferry_record *record : records) {
		auto object = static_cast<unsigned char *>(std::malloc(record->size));
		if (!ferry_get(node, record, object))
			check_bounds(*record, object);
		std::free(object);
	}
	char path[24];
	ferry_node_path(node, path, sizeof(path));
	ferry_child(node, "state");
	if (!left)
		return;
	--left;
	for (ferry_node child = ferry_first(node); child.offset >= 0 && left;
	     child = ferry_next(child))
		visit(child, left);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char *data, std::size_t size)
{
	fake::reset();
	fake::boot(fake::carry_tree({data, size}));
	if (kho_module_init())
		fake::bug("kho.ko was not loaded");
	ferry_formats_register(records, sizeof(records) / sizeof(records[0]));
	unsigned int left = 100;
	visit(ferry_incoming("luo"), left);
	seq_file dump;
	kho_show_dump(&dump, true);
	ferry_formats_unregister(records);
	ferry_incoming_done();
	kho_module_exit();
	for (auto &[name, value] : fake::counters()) {
		if (value && name != "folios not restored")
			fake::bug("%s: %ld left", name.c_str(), value);
	}
	fake::power_off();
	return 0;
}
