// SPDX-License-Identifier: GPL-2.0
// ferry/lock.hh, and the fake kernel itself: what is meant to find bugs has to.
#include <ferry/lock.hh>
#include <ferry/own.hh>

#include "failures.hh"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

using namespace ferry;

namespace {

TEST(Crc32c, KnownVectors)
{
	EXPECT_EQ(~ferry_crc32c(~0u, "123456789", 9), 0xe3069283u);
	EXPECT_EQ(~ferry_crc32c(~0u, "", 0), 0u);
	unsigned char zeros[32] = {};
	EXPECT_EQ(~ferry_crc32c(~0u, zeros, sizeof(zeros)), 0x8a9136aau);
	// In pieces it is the same.
	EXPECT_EQ(~ferry_crc32c(ferry_crc32c(~0u, "1234", 4), "56789", 5), 0xe3069283u);
}

TEST(Alloc, IsZeroed)
{
	auto memory = static_cast<unsigned char *>(ferry_alloc(5000));
	for (int i = 0; i < 5000; ++i)
		ASSERT_EQ(memory[i], 0);
	std::memset(memory, 0xff, 5000);
	ferry_free(memory);
	ferry_free(nullptr);
}

TEST(Alloc, FailsOnDemand)
{
	fake::arm(2);
	void *first = ferry_alloc(1);
	void *second = ferry_alloc(1);
	void *third = ferry_alloc(1);
	EXPECT_STREQ(fake::disarm(), "ferry_alloc");
	EXPECT_TRUE(first);
	EXPECT_FALSE(second);
	EXPECT_TRUE(third);
	ferry_free(first);
	ferry_free(third);

	fake::arm(1, true);
	EXPECT_FALSE(ferry_alloc(1));
	EXPECT_FALSE(ferry_alloc(1));
	fake::disarm();
}

TEST(Alloc, LeaksAreCounted)
{
	long before = fake::counters()["allocations"];
	void *memory = ferry_alloc(1);
	EXPECT_EQ(fake::counters()["allocations"], before + 1);
	ferry_free(memory);
	EXPECT_EQ(fake::counters()["allocations"], before);
}

TEST(AllocDeathTest, SeesDoubleFree)
{
	EXPECT_DEATH(
		{
			void *memory = ferry_alloc(1);
			ferry_free(memory);
			ferry_free(memory);
		},
		"not allocated");
}

TEST(Format, CutsLikeTheKernel)
{
	char buffer[5];
	EXPECT_EQ(ferry_format(buffer, sizeof(buffer), "%d", 42), 2);
	EXPECT_STREQ(buffer, "42");
	EXPECT_EQ(ferry_format(buffer, sizeof(buffer), "%d", 123456), 4);
	EXPECT_STREQ(buffer, "1234");
	EXPECT_EQ(ferry_format(buffer, 0, "%d", 1), 0);
}

TEST(Log, IsCaught)
{
	ferry_log(FERRY_WARN, "test", "one %d", 1);
	EXPECT_TRUE(fake::logged(FERRY_WARN, "one 1"));
	EXPECT_FALSE(fake::logged(FERRY_ERR, "one 1"));
	EXPECT_EQ(fake::log().back().module, "test");
	// As ferry_log() in the kernel does it.
	ferry_log(FERRY_INFO, "test", "'%s'", "a\nb\x1b[1m");
	EXPECT_EQ(fake::log().back().text, "'a?b?[1m'");
}

TEST(Modules, RefusedWhenGoing)
{
	module module;
	EXPECT_TRUE(ferry_module_get(nullptr));
	ferry_module_put(nullptr);
	EXPECT_TRUE(ferry_module_get(&module));
	EXPECT_EQ(module.refs, 1);
	module.going = true;
	EXPECT_FALSE(ferry_module_get(&module));
	ferry_module_put(&module);
	EXPECT_EQ(module.refs, 0);
}

TEST(Clock, IsSetByTests)
{
	fake::clock.now = 100;
	fake::clock.step = 5;
	EXPECT_EQ(ferry_now(), 105u);
	EXPECT_EQ(ferry_now(), 110u);
	fake::clock = {};
}

TEST(Mutex, GuardHoldsIt)
{
	Mutex<"test.mutex"> mutex;
	{
		Guard guard{mutex};
		EXPECT_EQ(fake::locks_held(), 1u);
	}
	EXPECT_EQ(fake::locks_held(), 0u);
}

TEST(Mutex, KeepsThreadsApart)
{
	Locked<int, "test.counter"> counter{0};
	auto count = [&] {
		for (int i = 0; i < 10'000; ++i)
			++*counter.lock();
	};
	std::thread one{count}, other{count};
	one.join();
	other.join();
	EXPECT_EQ(*counter.lock(), 20'000);
}

TEST(Locked, ForwardsToTheConstructor)
{
	struct Pair {
		int a, b;
		Pair(int a, int b) : a{a}, b{b}
		{
		}
	};
	Locked<Pair, "test.pair"> pair{1, 2};
	auto access = pair.lock();
	EXPECT_EQ(access->a, 1);
	EXPECT_EQ((*access).b, 2);
	EXPECT_EQ(fake::locks_held(), 1u);
}

TEST(RwSem, ReadersShareIt)
{
	RwSem<"test.rwsem"> sem;
	std::atomic<int> inside = 0;
	auto read = [&] {
		SharedGuard guard{sem};
		++inside;
		while (inside < 2)
			std::this_thread::yield();
	};
	std::thread one{read}, other{read};
	one.join();
	other.join();
	Guard guard{sem};
	EXPECT_EQ(fake::locks_held(), 1u);
}

TEST(LockDeathTest, SeesInversion)
{
	Mutex<"test.outer"> outer;
	Mutex<"test.middle"> middle;
	Mutex<"test.inner"> inner;
	{
		Guard one{outer};
		Guard two{middle};
	}
	{
		Guard one{middle};
		Guard two{inner};
	}
	EXPECT_DEATH(
		{
			Guard one{inner};
			Guard two{outer};
		},
		"circular locking: test.outer after test.inner");
}

TEST(LockDeathTest, SeesRecursion)
{
	Mutex<"test.once"> mutex;
	Mutex<"test.once"> sibling;
	EXPECT_DEATH(
		{
			Guard one{mutex};
			Guard two{mutex};
		},
		"recursive");
	EXPECT_DEATH(
		{
			Guard one{mutex};
			Guard two{sibling};
		},
		"recursive");
}

TEST(LockDeathTest, SeesForeignUnlock)
{
	Mutex<"test.unlocked"> mutex;
	EXPECT_DEATH(mutex.unlock(), "not held");
	RwSem<"test.wrong_mode"> sem;
	EXPECT_DEATH(
		{
			sem.lock_shared();
			sem.unlock();
		},
		"not held");
}

TEST(LockDeathTest, SeesFreeWhileHeld)
{
	struct Thing {
		Mutex<"test.freed"> mutex;
	};
	EXPECT_DEATH(
		{
			auto thing = make<Thing>().value();
			Guard guard{thing->mutex};
			destroy(thing.release());
		},
		"freed while its lock is held");
}

TEST(Failures, EachCallFailsOnce)
{
	std::vector<int> results;
	for_each_failure([&] {
		void *first = ferry_alloc(1);
		void *second = first ? ferry_alloc(1) : nullptr;
		int result = first && second ? 0 : -ENOMEM;
		results.push_back(result);
		ferry_free(first);
		ferry_free(second);
		return result;
	});
	EXPECT_EQ(results, (std::vector{-ENOMEM, -ENOMEM, 0, -ENOMEM, -ENOMEM, 0}));
}

} // namespace
