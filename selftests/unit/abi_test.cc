// SPDX-License-Identifier: GPL-2.0
// Every record and structure of include/abi: the tables agree with the
// structures, and what crosses a kexec has the layout it always had.
#include <abi/kvm.h>
#include <abi/luo.h>
#include <abi/memfd.h>
#include <abi/root.h>
#include <abi/runs.h>

#include <gtest/gtest.h>

#include <climits>
#include <cstring>
#include <set>
#include <string>

namespace {

constexpr const ferry_record *all_records[] = {
	&ferry_bulk_record,   &ferry_update_record,   &ferry_session_record,
	&ferry_file_record,   &ferry_need_record,     &ferry_memfd_record,
	&ferry_kvm_vm_record, &ferry_kvm_vcpu_record, &ferry_kvm_gmem_record,
};

// What a table must be for the code that goes by it to be right.
constexpr bool sound(const ferry_record &record)
{
	if (!record.nr_fields || !record.oldest || record.oldest > record.version)
		return false;
	unsigned int end = 0;
	for (unsigned int i = 0; i < record.nr_fields; ++i) {
		const ferry_field &field = record.fields[i];
		unsigned long long limit = 0;
		switch (field.kind) {
		case FERRY_U32:
			limit = field.room == 4 && !(field.offset % 4) ? UINT_MAX : 0;
			break;
		case FERRY_U64:
			limit = field.room == 8 && !(field.offset % 8) ? ULLONG_MAX : 0;
			break;
		case FERRY_STR:
			limit = field.room ? field.room - 1 : 0;
			break;
		case FERRY_BYTES:
			limit = field.room;
			break;
		}
		if (!limit || field.min > field.max || field.max > limit)
			return false;
		if (!field.since || field.since > record.version)
			return false;
		// A field that an older version has not is read as 0.
		if (field.since > record.oldest && field.min)
			return false;
		if (field.offset < end || field.offset + field.room > record.size)
			return false;
		end = field.offset + field.room;
	}
	return true;
}

static_assert(sound(ferry_bulk_record));
static_assert(sound(ferry_update_record));
static_assert(sound(ferry_session_record));
static_assert(sound(ferry_file_record));
static_assert(sound(ferry_need_record));
static_assert(sound(ferry_memfd_record));
static_assert(sound(ferry_kvm_vm_record));
static_assert(sound(ferry_kvm_vcpu_record));
static_assert(sound(ferry_kvm_gmem_record));

#define FERRY_BAD_FIELDS(F, T) F(T, U32, value, 1, 0, 1ull << 32, 0)
FERRY_RECORD(bad_bound, "bad", 1, 1, FERRY_BAD_FIELDS);
static_assert(!sound(bad_bound_record));
#define FERRY_LATE_FIELDS(F, T) F(T, U32, value, 2, 1, 5, 0)
FERRY_RECORD(bad_late, "bad", 2, 1, FERRY_LATE_FIELDS);
static_assert(!sound(bad_late_record));
#define FERRY_LONG_FIELDS(F, T) F(T, STR, text, 1, 0, 8, 8)
FERRY_RECORD(bad_long, "bad", 1, 1, FERRY_LONG_FIELDS);
static_assert(!sound(bad_long_record));

TEST(Records, NamesAreUnique)
{
	std::set<std::string> names;
	for (auto record : all_records) {
		EXPECT_TRUE(names.insert(record->name).second) << record->name;
		std::set<std::string> fields;
		for (unsigned int i = 0; i < record->nr_fields; ++i) {
			std::string field = record->fields[i].name;
			EXPECT_TRUE(fields.insert(field).second) << record->name << "." << field;
			EXPECT_NE(field, "compatible");
			EXPECT_LT(field.size(), 32u);
		}
	}
}

TEST(Records, TablesFollowTheDeclaration)
{
	EXPECT_STREQ(ferry_session_record.name, "session");
	EXPECT_EQ(ferry_session_record.size, sizeof(ferry_session));
	ASSERT_GE(ferry_file_record.nr_fields, 2u);
	const ferry_field &token = ferry_file_record.fields[0];
	EXPECT_STREQ(token.name, "token");
	EXPECT_EQ(token.kind, unsigned(FERRY_U64));
	EXPECT_EQ(token.offset, offsetof(ferry_file, token));
	const ferry_field &handler = ferry_file_record.fields[1];
	EXPECT_EQ(handler.kind, unsigned(FERRY_STR));
	EXPECT_EQ(handler.room, sizeof(ferry_file::handler));
	EXPECT_EQ(handler.min, 1u);
	EXPECT_EQ(handler.max, 47u);
}

// What crosses a kexec as it is in memory.

static_assert(sizeof(ferry_root) == 64);
static_assert(offsetof(ferry_root, magic) == 0);
static_assert(offsetof(ferry_root, version) == 8);
static_assert(offsetof(ferry_root, crc) == 12);
static_assert(offsetof(ferry_root, first) == 16);
static_assert(offsetof(ferry_root, blocks) == 24);
static_assert(offsetof(ferry_root, runs) == 32);
static_assert(offsetof(ferry_root, pages) == 40);
static_assert(offsetof(ferry_root, bytes) == 48);
static_assert(offsetof(ferry_root, tree) == 56);
static_assert(offsetof(ferry_root, reserved) == 60);
static_assert(FERRY_RUN_DESCENDING == 1 << (FERRY_RUN_FLAGS_BITS - 1));

static_assert(sizeof(ferry_runs_block) == 32);
static_assert(offsetof(ferry_runs_block, magic) == 0);
static_assert(offsetof(ferry_runs_block, crc) == 4);
static_assert(offsetof(ferry_runs_block, version) == 8);
static_assert(offsetof(ferry_runs_block, nr) == 10);
static_assert(offsetof(ferry_runs_block, seq) == 12);
static_assert(offsetof(ferry_runs_block, next) == 16);
static_assert(offsetof(ferry_runs_block, reserved) == 24);
static_assert(offsetof(ferry_runs_block, entry) == 32);
static_assert(sizeof(ferry_run_entry) == 16);
static_assert(FERRY_RUNS_PER_BLOCK == 254);
static_assert(FERRY_RUN_PFN_BITS + FERRY_RUN_ORDER_BITS + FERRY_RUN_FLAGS_BITS == 64);
static_assert(FERRY_RUN_INDEX_BITS + FERRY_RUN_COUNT_BITS == 64);

static_assert(sizeof(ferry_kvm_section) == 8);
static_assert(offsetof(ferry_kvm_section, kind) == 0);
static_assert(offsetof(ferry_kvm_section, bytes) == 4);
static_assert(sizeof(ferry_kvm_msr) == 16);
static_assert(offsetof(ferry_kvm_msr, index) == 0);
static_assert(offsetof(ferry_kvm_msr, value) == 8);
static_assert(sizeof(ferry_kvm_slot) == 48);
static_assert(offsetof(ferry_kvm_slot, slot) == 0);
static_assert(offsetof(ferry_kvm_slot, flags) == 4);
static_assert(offsetof(ferry_kvm_slot, gfn) == 8);
static_assert(offsetof(ferry_kvm_slot, pages) == 16);
static_assert(offsetof(ferry_kvm_slot, hva) == 24);
static_assert(offsetof(ferry_kvm_slot, first) == 32);
static_assert(offsetof(ferry_kvm_slot, need) == 40);
static_assert(sizeof(ferry_kvm_dirty) == 8);
static_assert(sizeof(ferry_kvm_msr_filter) == 8);
static_assert(sizeof(ferry_kvm_msr_range) == 16);

TEST(Layout, MagicNumbersAreText)
{
	unsigned long long root = FERRY_ROOT_MAGIC;
	EXPECT_EQ(std::memcmp(&root, "FERRY\0\0", 8), 0);
	unsigned int runs = FERRY_RUNS_MAGIC;
	EXPECT_EQ(std::memcmp(&runs, "RUNS", 4), 0);
}

} // namespace
