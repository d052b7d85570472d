// SPDX-License-Identifier: GPL-2.0
// Records: every bound and every rule of versions, written and read back.
#include "kho_testing.hh"

#include "fake/carry.hh"

#include <cerrno>
#include <string>
#include <string_view>

extern "C" {
#include <libfdt.h>
}

namespace {

#define SAMPLE_FIELDS(F, T)                                                                        \
	F(T, U32, number, 1, 2, 9, 0)                                                              \
	F(T, U64, large, 1, 5, 1ull << 40, 0)                                                      \
	F(T, STR, text, 1, 1, 7, 8)                                                                \
	F(T, BYTES, key, 1, 2, 4, 4)                                                               \
	F(T, U32, late, 2, 0, 7, 0)                                                                \
	F(T, STR, later, 3, 0, 15, 16)
FERRY_RECORD(sample, "sample", 3, 1, SAMPLE_FIELDS);

// The same in the kernel after this one, and in one that is too old.
#define NEWER_FIELDS(F, T) F(T, U32, number, 1, 0, 9, 0)
FERRY_RECORD(newer, "sample", 4, 4, NEWER_FIELDS);

sample good()
{
	return {.number = 5,
		.large = 1ull << 33,
		.text = "hello",
		.key = {1, 2, 3, 4},
		.late = 7,
		.later = "x"};
}

// Saves whatever a test wants into its node.
struct Saver {
	std::function<int(ferry_writer *)> save;
	ferry_provider provider{
		.name = "test",
		.module = nullptr,
		.save = [](void *ctx, ferry_writer *writer,
			   bool) { return static_cast<Saver *>(ctx)->save(writer); },
		.ctx = this,
	};
};

using std::string_view_literals::operator""sv;

// A tree made by hand: the records that no writer of ours would write.
class Hand {
    public:
	Hand()
	{
		fdt_create(buffer_, sizeof(buffer_));
		fdt_finish_reservemap(buffer_);
		begin("");
		property("compatible", "ferry,tree-v1\0"sv);
		begin("test");
	}
	Hand &begin(const char *name)
	{
		EXPECT_EQ(fdt_begin_node(buffer_, name), 0);
		return *this;
	}
	Hand &end()
	{
		EXPECT_EQ(fdt_end_node(buffer_), 0);
		return *this;
	}
	Hand &property(const char *name, std::string_view bytes)
	{
		EXPECT_EQ(fdt_property(buffer_, name, bytes.data(), static_cast<int>(bytes.size())),
			  0);
		return *this;
	}
	Hand &u32(const char *name, unsigned int value)
	{
		EXPECT_EQ(fdt_property_u32(buffer_, name, value), 0);
		return *this;
	}
	Hand &u64(const char *name, unsigned long long value)
	{
		EXPECT_EQ(fdt_property_u64(buffer_, name, value), 0);
		return *this;
	}
	fake::Handover handover()
	{
		end().end();
		EXPECT_EQ(fdt_finish(buffer_), 0);
		return fake::carry_tree({buffer_, fdt_totalsize(buffer_)});
	}

    private:
	alignas(8) unsigned char buffer_[16384];
};

// A sample of a version, all right but for the field that is left out.
Hand &fill(Hand &hand, const char *compatible, const std::string &without = "")
{
	hand.property("compatible", {compatible, std::strlen(compatible) + 1});
	if (without != "number")
		hand.u32("number", 5);
	if (without != "large")
		hand.u64("large", 1ull << 33);
	if (without != "text")
		hand.property("text", "hello\0"sv);
	if (without != "key")
		hand.property("key", "\1\2\3\4"sv);
	if (without != "late")
		hand.u32("late", 7);
	if (without != "later")
		hand.property("later", "x\0"sv);
	return hand;
}

class KhoRecord : public Kho {
    protected:
	// What a writer makes of it, after a kexec; or its error.
	int round_trip(const sample &in, sample &out)
	{
		Saver saver{[&](ferry_writer *to) { return ferry_put(to, &sample_record, &in); }};
		EXPECT_EQ(ferry_kho_register(&saver.provider), 0);
		int err = ferry_kho_finalize();
		if (err) {
			ferry_kho_unregister(&saver.provider);
			return err;
		}
		kexec([&] {
			ferry_kho_abort();
			ferry_kho_unregister(&saver.provider);
		});
		return ferry_get(ferry_incoming("test"), &sample_record, &out);
	}

	// Reads what was made by hand.
	int read(Hand &hand, const ferry_record &record, void *out)
	{
		boot(hand);
		std::memset(out, 0xaa, record.size);
		return ferry_get(ferry_incoming("test"), &record, out);
	}

	void boot(Hand &hand)
	{
		unload();
		fake::power_off();
		fake::boot(hand.handover());
		load();
		fake::clear_log();
	}

	void refuse(const char *why, Hand &hand, int err = -EBADMSG)
	{
		SCOPED_TRACE(why);
		sample out, zeros;
		std::memset(&zeros, 0, sizeof(zeros));
		EXPECT_EQ(read(hand, sample_record, &out), err);
		EXPECT_EQ(std::memcmp(&out, &zeros, sizeof(out)), 0);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "/test")) << fake::log_text();
		EXPECT_TRUE(fake::logged(FERRY_ERR, "sample")) << fake::log_text();
	}
};

bool same(const sample &a, const sample &b)
{
	return a.number == b.number && a.large == b.large && !std::strcmp(a.text, b.text) &&
	       !std::memcmp(a.key, b.key, sizeof(a.key)) && a.late == b.late &&
	       !std::strcmp(a.later, b.later);
}

TEST_F(KhoRecord, RoundTrip)
{
	sample out;
	ASSERT_EQ(round_trip(good(), out), 0);
	EXPECT_TRUE(same(out, good()));
}

TEST_F(KhoRecord, BoundsAreInclusive)
{
	sample least{.number = 2, .large = 5, .text = "a", .key = {}, .late = 0, .later = ""};
	sample most{.number = 9,
		    .large = 1ull << 40,
		    .text = "1234567",
		    .key = {255, 255, 255, 255},
		    .late = 7,
		    .later = "123456789012345"};
	sample out;
	ASSERT_EQ(round_trip(least, out), 0);
	EXPECT_TRUE(same(out, least));
	ASSERT_EQ(round_trip(most, out), 0);
	EXPECT_TRUE(same(out, most));
}

TEST_F(KhoRecord, WriterKeepsItsOwnBounds)
{
	auto refuse = [&](const char *why, auto change) {
		SCOPED_TRACE(why);
		sample bad = good(), out;
		change(bad);
		fake::clear_log();
		EXPECT_EQ(round_trip(bad, out), -EINVAL);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "sample"));
	};
	refuse("number too small", [](sample &bad) { bad.number = 1; });
	refuse("number too great", [](sample &bad) { bad.number = 10; });
	refuse("large too small", [](sample &bad) { bad.large = 4; });
	refuse("large too great", [](sample &bad) { bad.large = (1ull << 40) + 1; });
	refuse("text too short", [](sample &bad) { bad.text[0] = '\0'; });
	refuse("text without an end",
	       [](sample &bad) { std::memset(bad.text, 'x', sizeof(bad.text)); });
}

TEST_F(KhoRecord, HandMadeRecordIsRead)
{
	Hand hand;
	sample out;
	EXPECT_EQ(read(fill(hand, "ferry,sample-v3"), sample_record, &out), 0);
	EXPECT_TRUE(same(out, good()));
}

TEST_F(KhoRecord, UnknownPropertiesAndNodesAreIgnored)
{
	Hand hand;
	hand.property("before", "?");
	fill(hand, "ferry,sample-v3").property("unknown", "").u64("numbers", 1);
	hand.begin("number").end().begin("compatible").end();
	sample out;
	EXPECT_EQ(read(hand, sample_record, &out), 0);
	EXPECT_TRUE(same(out, good()));
}

TEST_F(KhoRecord, OlderVersionsAreRead)
{
	sample expected = good(), out;
	expected.later[0] = '\0';
	{
		Hand hand;
		ASSERT_EQ(read(fill(hand, "ferry,sample-v2", "later"), sample_record, &out), 0);
		EXPECT_TRUE(same(out, expected));
	}
	expected.late = 0;
	{
		// A field that came later means nothing in an old record.
		Hand hand;
		ASSERT_EQ(read(fill(hand, "ferry,sample-v1"), sample_record, &out), 0);
		EXPECT_TRUE(same(out, expected));
	}
}

TEST_F(KhoRecord, VersionsOutsideAreRefused)
{
	Hand newest, none, old;
	refuse("newer", fill(newest, "ferry,sample-v4"), -EPROTONOSUPPORT);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "version 4")) << fake::log_text();
	refuse("version 0", fill(none, "ferry,sample-v0"), -EPROTONOSUPPORT);
	newer out;
	EXPECT_EQ(read(fill(old, "ferry,sample-v3"), newer_record, &out), -EPROTONOSUPPORT);
}

TEST_F(KhoRecord, MissingPropertiesAreRefused)
{
	for (const char *field : {"number", "large", "text", "key", "late", "later"}) {
		Hand hand;
		refuse(field, fill(hand, "ferry,sample-v3", field));
		EXPECT_TRUE(fake::logged(FERRY_ERR, field)) << fake::log_text();
	}
}

TEST_F(KhoRecord, OtherRecordsAreRefused)
{
	for (auto compatible :
	     {"sample-v3\0"sv, "ferry,sample\0"sv, "ferry,sample-v\0"sv, "ferry,-v3\0"sv,
	      "ferry,samples-v3\0"sv, "ferry,sampl-v3\0"sv, "ferry,sample-v3"sv,
	      "ferry,sample-v3\0\0"sv, "ferry,sample-v3x\0"sv, "ferry,sample-v-3\0"sv,
	      "ferry,sample-v 3\0"sv, "ferry,sample-v4294967299\0"sv, "\0"sv, ""sv, "ferry,\0"sv,
	      "ferry,sample-v3\0more\0"sv, "ferry,-v\0"sv, "-v3\0"sv,
	      "ferry,01234567890123456789012345678901234567890123456789-v3\0"sv}) {
		SCOPED_TRACE(compatible);
		Hand hand;
		hand.property("compatible", compatible);
		hand.u32("number", 5)
			.u64("large", 5)
			.property("text", "a\0"sv)
			.property("key", "\1\2"sv);
		sample out;
		int err = read(hand, sample_record, &out);
		EXPECT_TRUE(err == -EBADMSG) << err;
	}
	Hand hand;
	hand.u32("number", 5);
	refuse("no compatible at all", hand);
}

TEST_F(KhoRecord, WrongLengthsAndValuesAreRefused)
{
	struct {
		const char *field;
		std::string_view value;
	} bad[] = {
		{"number", ""sv},
		{"number", "\0\0\0"sv},
		{"number", "\0\0\0\5\0"sv},
		{"number", "\0\0\0\0\0\0\0\5"sv},
		{"number", "\0\0\0\1"sv}, // too small
		{"number", "\0\0\0\12"sv}, // too great
		{"number", "\5\0\0\0"sv}, // the other byte order
		{"number", "\377\377\377\377"sv},
		{"large", "\0\0\0\5"sv},
		{"large", "\0\0\0\0\0\0\0\4"sv},
		{"large", "\0\0\1\0\0\0\0\1"sv},
		{"large", "\377\377\377\377\377\377\377\377"sv},
		{"text", ""sv},
		{"text", "\0"sv}, // too short
		{"text", "hello"sv}, // no end
		{"text", "he\0lo\0"sv}, // two ends
		{"text", "12345678"sv},
		{"text", "12345678\0"sv}, // too long
		{"text", "a\0\0"sv},
		{"key", ""sv},
		{"key", "\1"sv}, // too short
		{"key", "\1\2\3\4\5"sv}, // too long
		{"late", "\0\0\0\10"sv},
		{"later", ""sv},
		{"later", "1234567890123456\0"sv},
	};
	for (auto [field, value] : bad) {
		SCOPED_TRACE(testing::PrintToString(value));
		Hand hand;
		refuse(field, fill(hand, "ferry,sample-v3", field).property(field, value));
		EXPECT_TRUE(fake::logged(FERRY_ERR, field)) << fake::log_text();
	}
}

TEST_F(KhoRecord, ShortBytesAreFilledUp)
{
	Hand hand;
	fill(hand, "ferry,sample-v3", "key").property("key", "\7\10"sv);
	sample out;
	ASSERT_EQ(read(hand, sample_record, &out), 0);
	unsigned char expected[4] = {7, 8, 0, 0};
	EXPECT_EQ(std::memcmp(out.key, expected, 4), 0);
}

TEST_F(KhoRecord, NoNodeIsNoRecord)
{
	sample out;
	std::memset(&out, 0xaa, sizeof(out));
	EXPECT_EQ(ferry_get({-1}, &sample_record, &out), -ENOENT);
	EXPECT_EQ(out.number, 0u);
	EXPECT_EQ(ferry_incoming("test").offset < 0, true);
	EXPECT_LT(ferry_child({-1}, "x").offset, 0);
	EXPECT_LT(ferry_first({-1}).offset, 0);
	EXPECT_LT(ferry_next({-1}).offset, 0);
	char path[32];
	EXPECT_EQ(ferry_node_path({-1}, path, sizeof(path)), path);
}

TEST_F(KhoRecord, NodesAreWalked)
{
	Hand hand;
	hand.begin("a@0").begin("deep").end().end().begin("a@1").end().begin("b").end();
	boot(hand);
	ferry_node top = ferry_incoming("test");
	std::vector<std::string> paths;
	for (ferry_node at = ferry_first(top); at.offset >= 0; at = ferry_next(at)) {
		char path[64];
		paths.push_back(ferry_node_path(at, path, sizeof(path)));
	}
	EXPECT_EQ(paths, (std::vector<std::string>{"/test/a@0", "/test/a@1", "/test/b"}));
	char path[64];
	ferry_node deep = ferry_child(ferry_child(top, "a@0"), "deep");
	EXPECT_STREQ(ferry_node_path(deep, path, sizeof(path)), "/test/a@0/deep");
	EXPECT_LT(ferry_child(top, "deep").offset, 0);
	EXPECT_LT(ferry_child(top, "c").offset, 0);
	// A name without its unit finds nothing but itself.
	EXPECT_LT(ferry_incoming("other").offset, 0);
	for (unsigned int size = 1; size < 20; ++size) {
		std::memset(path, 'x', sizeof(path));
		ferry_node_path(deep, path, size);
		EXPECT_EQ(std::string(path), std::string("/test/a@0/deep").substr(0, size - 1));
		EXPECT_EQ(path[size], 'x');
	}
}

TEST_F(KhoRecord, DeclarationsThatContradictThemselvesAreRefused)
{
	auto refuse = [](const char *why, ferry_record record, ferry_field field) {
		record.fields = &field;
		record.nr_fields = 1;
		const ferry_record *records[] = {&record};
		EXPECT_EQ(ferry_formats_register(records, 1), -EINVAL) << why;
		ferry_formats_unregister(records);
	};
	ferry_record record{"x", 2, 1, 16, 0, nullptr};
	ferry_field u32{"f", FERRY_U32, 1, 0, 4, 0, 5};
	ferry_field str{"f", FERRY_STR, 1, 0, 8, 0, 7};

	auto with = [](auto thing, auto change) {
		change(thing);
		return thing;
	};
	refuse("oldest after version", with(record, [](auto &r) { r.oldest = 3; }), u32);
	refuse("no oldest", with(record, [](auto &r) { r.oldest = 0; }), u32);
	refuse("no version", with(record, [](auto &r) { r.version = r.oldest = 0; }), u32);
	refuse("no name", with(record, [](auto &r) { r.name = nullptr; }), u32);
	refuse("no since", record, with(u32, [](auto &f) { f.since = 0; }));
	refuse("since the future", record, with(u32, [](auto &f) { f.since = 3; }));
	refuse("min above max", record, with(u32, [](auto &f) { f.min = 6; }));
	refuse("outside", record, with(u32, [](auto &f) { f.offset = 13; }));
	refuse("far outside", record, with(u32, [](auto &f) { f.offset = ~0u; }));
	refuse("too large", record, with(u32, [](auto &f) { f.room = 17; }));
	refuse("string without room for its end", record, with(str, [](auto &f) { f.max = 8; }));
	refuse("u32 of 8 bytes", record, with(u32, [](auto &f) { f.room = 8; }));
	refuse("u64 of 4 bytes", record, with(u32, [](auto &f) { f.kind = FERRY_U64; }));
	refuse("bytes that need more than there is", record, with(str, [](auto &f) {
		       f.kind = FERRY_BYTES;
		       f.max = 9;
	       }));
	refuse("an unknown kind", record, with(u32, [](auto &f) { f.kind = 17; }));
}

TEST_F(KhoRecord, TooManyFormatsAreRefused)
{
	const ferry_record *records[] = {&sample_record};
	std::vector<const ferry_record *const *> registered;
	const ferry_record *many[100][1];
	int err = 0;
	for (auto &one : many) {
		one[0] = records[0];
		err = ferry_formats_register(one, 1);
		if (err)
			break;
		registered.push_back(one);
	}
	EXPECT_EQ(err, -ENOSPC);
	for (auto one : registered)
		ferry_formats_unregister(one);
	EXPECT_EQ(ferry_formats_register(records, 1), 0);
	ferry_formats_unregister(records);
}

} // namespace
