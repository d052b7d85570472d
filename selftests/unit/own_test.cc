// SPDX-License-Identifier: GPL-2.0
// ferry/own.hh and list.hh.
#include <ferry/list.hh>
#include <ferry/own.hh>

#include "failures.hh"

#include <cerrno>
#include <vector>

using namespace ferry;

namespace {

struct Thing {
	explicit Thing(int number = 0) : number{number}
	{
		++alive;
	}
	~Thing()
	{
		--alive;
	}
	int number;
	static inline int alive;
};

TEST(Owned, DestroysOnce)
{
	{
		Owned<Thing> first = make<Thing>(3).value();
		EXPECT_EQ(Thing::alive, 1);
		EXPECT_EQ(first->number, 3);
		Owned<Thing> second = std::move(first);
		EXPECT_FALSE(first);
		EXPECT_TRUE(second);
		EXPECT_EQ((*second).number, 3);
		EXPECT_EQ(Thing::alive, 1);
	}
	EXPECT_EQ(Thing::alive, 0);
}

TEST(Owned, AssignmentDestroysWhatWasThere)
{
	Owned<Thing> first = make<Thing>(1).value();
	first = make<Thing>(2).value();
	EXPECT_EQ(Thing::alive, 1);
	EXPECT_EQ(first->number, 2);
	Owned<Thing> &self = first;
	first = std::move(self);
	EXPECT_EQ(first->number, 2);
	first = Owned<Thing>{};
	EXPECT_EQ(Thing::alive, 0);
}

TEST(Owned, ReleaseGivesItUp)
{
	Owned<Thing> first = make<Thing>().value();
	Thing *thing = first.release();
	EXPECT_EQ(first.get(), nullptr);
	EXPECT_EQ(Thing::alive, 1);
	destroy(thing);
	destroy(static_cast<Thing *>(nullptr));
	EXPECT_EQ(Thing::alive, 0);
}

TEST(Owned, MakeReportsNoMemoryAndDoesNotConstruct)
{
	for_each_failure([] {
		auto thing = make<Thing>();
		EXPECT_EQ(Thing::alive, thing.has_value());
		return to_errno(thing);
	});
	fake::arm(1);
	EXPECT_EQ(make<Thing>().error(), Errno::NoMem);
	fake::disarm();
}

struct Shared : RefCounted<Shared>, Thing {};

TEST(Ref, LastOneDestroys)
{
	{
		Ref<Shared> first = make_ref<Shared>().value();
		{
			Ref<Shared> copy = first;
			Ref<Shared> another{*copy};
			EXPECT_EQ(copy.get(), another.get());
			Ref<Shared> moved = std::move(copy);
			EXPECT_FALSE(copy);
			Ref<Shared> &self = moved;
			moved = self;
			EXPECT_EQ(Thing::alive, 1);
		}
		EXPECT_EQ(Thing::alive, 1);
		first = make_ref<Shared>().value();
		EXPECT_EQ(Thing::alive, 1);
	}
	EXPECT_EQ(Thing::alive, 0);
}

TEST(Ref, ReleaseAndAdoptKeepTheCount)
{
	Ref<Shared> first = make_ref<Shared>().value();
	Ref<Shared> second = first;
	Shared *raw = second.release();
	first = {};
	EXPECT_EQ(Thing::alive, 1);
	Ref<Shared> back = Ref<Shared>::adopt(raw);
	back = {};
	EXPECT_EQ(Thing::alive, 0);
}

TEST(Ref, MakeReportsNoMemory)
{
	for_each_failure([] { return to_errno(make_ref<Shared>()); });
}

struct Other;
struct Job : Linked<Job>, Linked<Job, Other> {
	explicit Job(int number) : number{number}
	{
	}
	using Linked<Job>::linked;
	int number;
};

std::vector<int> numbers(List<Job> &list)
{
	std::vector<int> numbers;
	for (Job &job : list)
		numbers.push_back(job.number);
	return numbers;
}

TEST(List, KeepsOrder)
{
	Job a{1}, b{2}, c{3};
	List<Job> list;
	EXPECT_TRUE(list.empty());
	EXPECT_EQ(list.front(), nullptr);
	EXPECT_EQ(list.back(), nullptr);
	list.push_back(b);
	list.push_back(c);
	list.push_front(a);
	EXPECT_FALSE(list.empty());
	EXPECT_EQ(numbers(list), (std::vector{1, 2, 3}));
	EXPECT_EQ(list.front(), &a);
	EXPECT_EQ(list.back(), &c);

	std::vector<int> backwards;
	for (auto at = list.end(); at != list.begin();)
		backwards.push_back((--at)->number);
	EXPECT_EQ(backwards, (std::vector{3, 2, 1}));

	List<Job>::remove(b);
	EXPECT_FALSE(b.linked());
	EXPECT_EQ(numbers(list), (std::vector{1, 3}));
	list.push_back(b);
	EXPECT_EQ(numbers(list), (std::vector{1, 3, 2}));
	while (Job *job = list.front())
		List<Job>::remove(*job);
	EXPECT_TRUE(list.empty());
}

TEST(List, TagsAreIndependent)
{
	Job a{1};
	List<Job> list;
	List<Job, Other> others;
	list.push_back(a);
	others.push_back(a);
	EXPECT_EQ(others.front(), &a);
	List<Job>::remove(a);
	EXPECT_TRUE(list.empty());
	EXPECT_FALSE(others.empty());
	List<Job, Other>::remove(a);
}

TEST(ListDeathTest, TrapsOnMisuse)
{
	EXPECT_DEATH(
		{
			List<Job> list;
			Job job{1};
			list.push_back(job);
			list.push_back(job);
		},
		"");
	EXPECT_DEATH(
		{
			List<Job> list;
			{
				Job job{1};
				list.push_back(job);
			}
		},
		"");
	EXPECT_DEATH(
		{
			auto job = new Job{1};
			List<Job> list;
			list.push_back(*job);
		},
		"");
}

} // namespace
