// SPDX-License-Identifier: GPL-2.0
// The orchestrator's part of the tree against golden files of all versions: see
// kho_golden_test.cc.
#include "golden.hh"
#include "luo_testing.hh"

#include "fake/carry.hh"

#include <abi/luo.h>

namespace {

// A session with a key and a deadline; two files, one of which needs the other.
int save(void *, ferry_writer *writer, bool)
{
	ferry_update update{.number = 7,
			    .sessions = 1,
			    .files = 2,
			    .pages = 1000,
			    .runs = 3,
			    .metadata = 4096,
			    .preserve_ns = 123'456'789,
			    .freeze_ns = 987'654,
			    .tsc = 0x0123456789abcdef,
			    .tsc_khz = 2'400'000,
			    .refusals = 2,
			    .frozen_at = 1'764'000'000'000'000'000,
			    .from = "7.3.4-ferry"};
	ferry_session session{.session_name = "vm-1",
			      .policy = LIVEUPDATE_FERRY_POLICY_DEADLINE,
			      .deadline_ms = 90'000,
			      .keyed = 1,
			      .salt = {},
			      .key_hash = {},
			      .maker = {},
			      .uid = 1000,
			      .tag = 0x10002};
	// So that the key of set_key(7) fits, as the fake hashes it.
	for (unsigned char i = 0; i < sizeof(session.salt); ++i)
		session.salt[i] = i;
	unsigned char key[LINUX_KEY_SIZE];
	std::memset(key, 7, sizeof(key));
	linux_key_hash(key, session.salt, session.key_hash);
	ferry_file file{.token = 0xf11e,
			.handler = "memory-v1",
			.pages = 1000,
			.runs = 3,
			.metadata = 4096,
			.preserve_ns = 123'000'000,
			.freeze_ns = 900'000,
			.label = "memory"};
	ferry_file other{.token = 2,
			 .handler = "device-v1",
			 .pages = 0,
			 .runs = 0,
			 .metadata = 0,
			 .preserve_ns = 456'789,
			 .freeze_ns = 87'654,
			 .label = {}};
	ferry_need need{.token = 0xf11e};
	thing memory{.name = "a", .needs = 0}, device{.name = "b", .needs = 1};

	int err = ferry_put(writer, &ferry_update_record, &update);
	auto begin = [&](const char *name, const ferry_record *record, const void *object) {
		err = err ? err : ferry_begin(writer, name);
		err = err ? err : ferry_put(writer, record, object);
	};
	auto end = [&] { err = err ? err : ferry_end(writer); };

	begin("session@0", &ferry_session_record, &session);
	begin("file@0", &ferry_file_record, &file);
	begin("state", &thing_record, &memory);
	end();
	end();
	begin("file@1", &ferry_file_record, &other);
	begin("needs@0", &ferry_need_record, &need);
	end();
	begin("state", &thing_record, &device);
	end();
	end();
	end();
	return err;
}

constexpr ferry_provider provider{"luo", nullptr, save, nullptr};

class LuoGolden : public Luo {
    protected:
	void reads_tree(const char *name);
	void boot_with(const char *name)
	{
		unload();
		fake::power_off();
		fake::boot(fake::carry_tree(golden(name)));
		load();
	}
};

TEST_F(LuoGolden, Tree)
{
	unload();
	ASSERT_EQ(kho_module_init(), 0);
	ASSERT_EQ(ferry_kho_register(&provider), 0);
	void *data = nullptr;
	long size = kho_tree_copy(false, &data);
	ASSERT_GT(size, 0);
	auto bytes = static_cast<unsigned char *>(data);
	expect_golden("luo-tree-v3.bin", {bytes, bytes + size});
	ferry_free(data);
	ferry_kho_unregister(&provider);
	kho_module_exit();
}

void LuoGolden::reads_tree(const char *name)
{
	boot_with(name);
	liveupdate_ferry_update update{};
	update.size = sizeof(update);
	ASSERT_EQ(device_call(LIVEUPDATE_FERRY_GET_UPDATE, update), 0);
	EXPECT_EQ(update.number, 7u);
	EXPECT_EQ(update.refusals, 2u);
	EXPECT_EQ(update.frozen_at, 1'764'000'000'000'000'000u);
	EXPECT_STREQ(reinterpret_cast<char *>(update.from), "7.3.4-ferry");
	EXPECT_EQ(retrieve_session("vm-1"), -EPERM);
	int one = retrieve_with("vm-1", 7);
	ASSERT_GE(one, 0);
	auto info = info_of(one);
	EXPECT_EQ(info.policy, LIVEUPDATE_FERRY_POLICY_DEADLINE);
	EXPECT_EQ(info.deadline_ms, 90'000u);
	EXPECT_EQ(info.bytes, 1000u * 4096);
	EXPECT_EQ(info.preserve_ns, 123'456'789u);
	EXPECT_EQ(info.freeze_ns, 987'654u);
	int b = retrieve(one, 2);
	ASSERT_GE(b, 0);
	EXPECT_EQ(fake::file_of(b)->needs.size(), 1u);
	EXPECT_EQ(finish(one), 0);
	fake::close(b);
	fake::close(one);
}

TEST_F(LuoGolden, TreeIsRead)
{
	reads_tree("luo-tree-v3.bin");
}

// That had no tag of a session.
TEST_F(LuoGolden, TheSecondVersionIsRead)
{
	reads_tree("luo-tree-v2.bin");
}

TEST_F(LuoGolden, TheFirstVersionIsRead)
{
	boot_with("tree-v1.bin");
	liveupdate_ferry_update update{};
	update.size = sizeof(update);
	ASSERT_EQ(device_call(LIVEUPDATE_FERRY_GET_UPDATE, update), 0);
	EXPECT_EQ(update.number, 7u);
	EXPECT_EQ(update.frozen_at, 0u);
	EXPECT_STREQ(reinterpret_cast<char *>(update.from), "");
	int one = retrieve_session("vm-1");
	ASSERT_GE(one, 0);
	auto info = info_of(one);
	EXPECT_EQ(info.flags, LIVEUPDATE_FERRY_INCOMING);
	EXPECT_EQ(info.policy, LIVEUPDATE_FERRY_POLICY_FINISH);
	EXPECT_EQ(info.files, 2u);
	EXPECT_EQ(info.bytes, 0u);
	EXPECT_EQ(retrieve(one, 0xf11e), -ENOENT);
	// What these handlers would make of their states is none of this test's.
	::module its_module{.name = "others"};
	const ferry_luo_handler others[] = {
		{"memfd-v1", &its_module, &Handler<PLAIN>::least},
		{"other-v1", &its_module, &Handler<PLAIN>::least},
	};
	for (auto &handler : others)
		EXPECT_EQ(ferry_luo_register(&handler), 0);
	EXPECT_EQ(finish(one), 0);
	EXPECT_EQ(only("finish").size(), 2u);
	fake::close(one);
	for (auto &handler : others)
		ferry_luo_unregister(&handler);
}

} // namespace
