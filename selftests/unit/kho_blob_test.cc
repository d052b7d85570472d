// SPDX-License-Identifier: GPL-2.0
// Blobs: bytes of any length, saved, handed over, loaded.
#include "kho_testing.hh"

#include "fake/carry.hh"

#include <cerrno>

namespace {

using Bytes = std::vector<unsigned char>;

Bytes pattern(std::size_t size)
{
	Bytes bytes(size);
	for (std::size_t i = 0; i < size; ++i)
		bytes[i] = static_cast<unsigned char>(i * 7 + i / 251 + 1);
	return bytes;
}

class KhoBlob : public Kho {
    protected:
	// Takes a blob that was handed over.
	static int load(const ferry_bulk &ref, Bytes &bytes, std::size_t max = 1 << 24)
	{
		void *data = nullptr;
		int err = ferry_blob_load(&ref, "test", max, &data);
		EXPECT_EQ(err == 0, data != nullptr);
		bytes.clear();
		if (data)
			bytes.assign(static_cast<unsigned char *>(data),
				     static_cast<unsigned char *>(data) + ref.bytes);
		ferry_free(data);
		return err;
	}

	Bytes round_trip(const Bytes &bytes)
	{
		ferry_bulk ref;
		ferry_blob *blob = nullptr;
		EXPECT_EQ(ferry_blob_save(owner, bytes.data(), bytes.size(), &ref, &blob), 0);
		EXPECT_EQ(ref.bytes, bytes.size());
		kexec([&] { ferry_blob_destroy(blob); });
		Bytes arrived;
		EXPECT_EQ(load(ref, arrived), 0);
		EXPECT_EQ(fake::waiting(), 0u);
		return arrived;
	}

	// A handover of one blob, damaged, that is refused and does no harm.
	void refuse(const char *why,
		    const std::function<void(ferry_bulk &, fake::Handover &)> &damage,
		    std::size_t max = 1 << 24)
	{
		SCOPED_TRACE(why);
		unload();
		fake::Handover handover;
		Bytes bytes = pattern(10'000);
		ferry_bulk ref = fake::carry_blob(handover, fake::first_pfn + 8, bytes);
		damage(ref, handover);
		fake::boot(handover);
		load_module();
		fake::clear_log();
		Bytes arrived;
		EXPECT_EQ(load(ref, arrived, max), -EBADMSG);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "test")) << fake::log_text();
		fake::power_off();
	}

	void load_module()
	{
		Kho::load();
	}
};

TEST_F(KhoBlob, RoundTripsOfAnyLength)
{
	for (std::size_t size : {1, 2, 4095, 4096, 4097, 8192, 100'000, 3'000'000}) {
		SCOPED_TRACE(size);
		EXPECT_EQ(round_trip(pattern(size)), pattern(size));
	}
}

TEST_F(KhoBlob, PagesMayBeAnywhere)
{
	fake::scatter = true;
	EXPECT_EQ(round_trip(pattern(2'000'000)), pattern(2'000'000));
}

TEST_F(KhoBlob, NothingIsNoBlob)
{
	ferry_bulk ref;
	ferry_blob *blob = nullptr;
	ASSERT_EQ(ferry_blob_save(owner, nullptr, 0, &ref, &blob), 0);
	EXPECT_TRUE(ref == ferry_bulk{});
	ferry_blob_destroy(blob);
	ferry_blob_destroy(nullptr);
	Bytes bytes;
	EXPECT_EQ(load(ref, bytes), -EBADMSG);
}

TEST_F(KhoBlob, UsageFollows)
{
	Bytes bytes = pattern(10'000);
	ferry_bulk ref;
	ferry_blob *blob = nullptr;
	ASSERT_EQ(ferry_blob_save(owner, bytes.data(), bytes.size(), &ref, &blob), 0);
	ferry_usage usage;
	ferry_owner_usage(owner, &usage);
	EXPECT_EQ(usage.blobs, 10'000u);
	ferry_blob_destroy(blob);
	ferry_owner_usage(owner, &usage);
	EXPECT_EQ(usage.pages + usage.runs + usage.metadata + usage.blobs, 0u);
}

TEST_F(KhoBlob, EveryFailureToSave)
{
	for (bool scatter : {false, true}) {
		fake::scatter = scatter;
		for_each_failure([&] {
			Bytes bytes = pattern(5 * 4096);
			ferry_bulk ref;
			ferry_blob *blob = nullptr;
			int err = ferry_blob_save(owner, bytes.data(), bytes.size(), &ref, &blob);
			EXPECT_EQ(err == 0, blob != nullptr);
			EXPECT_EQ(err == 0, ref.first != 0);
			ferry_blob_destroy(blob);
			return err;
		});
		ferry_usage usage;
		ferry_owner_usage(owner, &usage);
		EXPECT_EQ(usage.pages + usage.runs + usage.metadata + usage.blobs, 0u);
	}
}

TEST_F(KhoBlob, LoadCanBeTriedAgain)
{
	Bytes bytes = pattern(20'000);
	ferry_bulk ref;
	ferry_blob *blob = nullptr;
	ASSERT_EQ(ferry_blob_save(owner, bytes.data(), bytes.size(), &ref, &blob), 0);
	kexec([&] { ferry_blob_destroy(blob); });
	Bytes arrived;
	for (unsigned long nth = 1;; ++nth) {
		fake::arm(nth);
		int err = load(ref, arrived);
		if (!fake::disarm()) {
			EXPECT_EQ(err, 0);
			break;
		}
		ASSERT_EQ(err, -ENOMEM);
		ASSERT_LT(nth, 100u);
	}
	EXPECT_EQ(arrived, bytes);
}

TEST_F(KhoBlob, HandMadeBlobIsRead)
{
	unload();
	fake::Handover handover;
	Bytes bytes = pattern(10'000), arrived;
	ferry_bulk ref = fake::carry_blob(handover, fake::first_pfn + 8, bytes);
	fake::boot(handover);
	load_module();
	EXPECT_EQ(load(ref, arrived), 0);
	EXPECT_EQ(arrived, bytes);
	EXPECT_EQ(fake::waiting(), 0u);
}

TEST_F(KhoBlob, RefusesDamage)
{
	using Bulk = ferry_bulk &;
	using Handed = fake::Handover &;
	fake::Pfn block = fake::first_pfn + 8;

	refuse("too long for its reader", [](Bulk, Handed) {}, 9'999);
	refuse("no bytes", [](Bulk ref, Handed) { ref.bytes = 0; });
	refuse("more bytes than pages", [](Bulk ref, Handed) { ref.bytes = 3 * 4096 + 1; });
	refuse("fewer bytes than pages", [](Bulk ref, Handed) { ref.bytes = 2 * 4096; });
	refuse("absurd bytes", [](Bulk ref, Handed) { ref.bytes = ~0ull; }, ~0ull);
	refuse(
		"absurd bytes and pages",
		[](Bulk ref, Handed) {
			ref.bytes = ~0ull;
			ref.pages = 1ull << 52;
		},
		~0ull);
	refuse("absurd pages", [](Bulk ref, Handed) { ref.pages = ~0ull; });
	refuse("no block", [](Bulk ref, Handed) { ref.first = 0; });
	refuse("block elsewhere", [](Bulk ref, Handed) { ref.first += 4096; });
	refuse("block not aligned", [](Bulk ref, Handed) { ref.first += 8; });
	refuse("block not memory", [](Bulk ref, Handed) { ref.first = ~0xfffull; });
	refuse("fewer blocks", [](Bulk ref, Handed) { ref.blocks = 0; });
	refuse("more blocks", [](Bulk ref, Handed) { ref.blocks = 2; });
	refuse("absurd blocks", [](Bulk ref, Handed) { ref.blocks = ~0ull; });
	refuse("more runs", [](Bulk ref, Handed) { ref.runs = 2; });
	refuse("page not preserved", [=](Bulk, Handed handed) { handed.keys.erase(block + 2); });
	refuse("block not preserved", [=](Bulk, Handed handed) { handed.keys.erase(block); });
	refuse("page out of order", [=](Bulk ref, Handed handed) {
		ferry_run runs[] = {{block + 1, 1, 1, 0, 0}, {block + 2, 0, 2, 0, 0}};
		auto bytes = ref.bytes;
		ref = fake::carry_runs(handed, block, runs);
		ref.bytes = bytes;
	});
	refuse("a hole in it", [=](Bulk ref, Handed handed) {
		ferry_run runs[] = {{block + 1, 0, 1, 0, 0}, {block + 2, 2, 2, 0, 0}};
		auto bytes = ref.bytes;
		ref = fake::carry_runs(handed, block, runs);
		ref.bytes = bytes;
	});
	refuse("a large folio", [=](Bulk ref, Handed handed) {
		handed.keys.clear();
		handed.keys[block + 8] = 1;
		handed.keys[block + 1] = 0;
		ferry_run runs[] = {{block + 8, 0, 1, 1, 0}, {block + 1, 2, 1, 0, 0}};
		auto bytes = ref.bytes;
		ref = fake::carry_runs(handed, block, runs);
		ref.bytes = bytes;
	});
}

TEST_F(KhoBlob, LoadedOnceOnly)
{
	Bytes bytes = pattern(5'000), arrived;
	ferry_bulk ref;
	ferry_blob *blob = nullptr;
	ASSERT_EQ(ferry_blob_save(owner, bytes.data(), bytes.size(), &ref, &blob), 0);
	kexec([&] { ferry_blob_destroy(blob); });
	EXPECT_EQ(load(ref, arrived), 0);
	EXPECT_EQ(load(ref, arrived), -EBADMSG);
}

} // namespace
