// SPDX-License-Identifier: GPL-2.0
// What tests of kho.ko share.
#pragma once

#include "failures.hh"
#include "fake/kho.hh"

#include <abi/root.h>
#include <ferry/kho.h>

#include <cstring>
#include <functional>
#include <vector>

#include "kho/linux.h"

inline bool operator==(const ferry_run &a, const ferry_run &b)
{
	return a.pfn == b.pfn && a.index == b.index && a.count == b.count && a.order == b.order &&
	       a.flags == b.flags;
}

inline bool operator==(const ferry_bulk &a, const ferry_bulk &b)
{
	return a.first == b.first && a.blocks == b.blocks && a.runs == b.runs &&
	       a.pages == b.pages && a.bytes == b.bytes;
}

inline std::ostream &operator<<(std::ostream &to, const ferry_run &run)
{
	return to << "{pfn +" << std::hex << run.pfn - fake::first_folio << std::dec << ", index "
		  << run.index << ", " << run.count << " of order " << run.order << ", flags "
		  << run.flags << "}";
}

using Runs = std::vector<ferry_run>;

// A run in the memory of files; pfn counts from its start.
inline ferry_run run_at(fake::Pfn pfn, unsigned long long index, unsigned int count,
			unsigned short order = 0, unsigned short flags = 0)
{
	return {fake::first_folio + pfn, index, count, order, flags};
}

// kho.ko, loaded; and somebody who preserves.
class Kho : public testing::Test {
    protected:
	void SetUp() override
	{
		load();
	}

	void TearDown() override
	{
		unload();
		fake::power_off();
	}

	void load()
	{
		ASSERT_EQ(kho_module_init(), 0);
		loaded_ = true;
		owner = ferry_owner_create("test");
		ASSERT_TRUE(owner);
	}

	void unload()
	{
		if (!loaded_)
			return;
		ferry_incoming_done();
		ferry_owner_destroy(owner);
		kho_module_exit();
		loaded_ = false;
	}

	// The next kernel, that gets what this one preserves now. `forget` frees what
	// a kexec would just leave behind; `damage` is what goes wrong on the way.
	void kexec(const std::function<void()> &forget,
		   const std::function<void(fake::Handover &)> &damage = {})
	{
		fake::Handover handover = fake::handover();
		forget();
		unload();
		if (damage)
			damage(handover);
		fake::boot(handover);
		load();
	}

	static Runs walk(const ferry_runs *runs)
	{
		Runs all;
		auto visit = [](void *ctx, const ferry_run *run) {
			static_cast<Runs *>(ctx)->push_back(*run);
			return 0;
		};
		EXPECT_EQ(ferry_runs_walk(runs, visit, &all), 0);
		return all;
	}

	// Takes every run of a list out of it, up to `room` at a time; counts those that
	// are lost.
	static Runs take(ferry_runs_in *in, unsigned int room = 512, unsigned int *lost = nullptr)
	{
		Runs all, some(room);
		while (int got = ferry_runs_next(in, some.data(), room)) {
			if (got < 0 && !lost)
				ADD_FAILURE() << "a run is lost: " << got;
			if (got < 0 && lost)
				++*lost;
			EXPECT_LE(got, int(room));
			all.insert(all.end(), some.begin(), some.begin() + std::max(got, 0));
		}
		return all;
	}

	static void release(const Runs &runs)
	{
		for (const ferry_run &run : runs)
			linux_release(run.pfn, run.count, run.order);
	}

	ferry_owner *owner = nullptr;

    private:
	bool loaded_ = false;
};
