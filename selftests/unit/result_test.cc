// SPDX-License-Identifier: GPL-2.0
// ferry/result.hh, checked.hh and scope.hh.
#include <ferry/checked.hh>
#include <ferry/result.hh>
#include <ferry/scope.hh>

#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <utility>

using namespace ferry;

namespace {

Result<int> half(int value)
{
	if (value % 2)
		return fail(Errno::Inval);
	return value / 2;
}

Result<void> only_even(int value)
{
	TRY(half(value));
	return {};
}

Result<int> eighth(int value)
{
	return TRY(half(TRY(half(TRY(half(value))))));
}

TEST(Result, HoldsValueOrErrno)
{
	EXPECT_EQ(half(8).value(), 4);
	EXPECT_EQ(half(7).error(), Errno::Inval);
	EXPECT_EQ(to_errno(half(8)), 0);
	EXPECT_EQ(to_errno(half(7)), -EINVAL);
}

TEST(Result, TryLeavesWithTheFirstError)
{
	EXPECT_EQ(eighth(64).value(), 8);
	EXPECT_EQ(to_errno(eighth(4)), -EINVAL);
	EXPECT_EQ(to_errno(only_even(2)), 0);
	EXPECT_EQ(to_errno(only_even(3)), -EINVAL);
}

struct MoveOnly {
	explicit MoveOnly(int number) : number{number}
	{
	}
	MoveOnly(MoveOnly &&other) noexcept : number{std::exchange(other.number, 0)}
	{
	}
	~MoveOnly()
	{
		number = -1;
	}
	int number;
};

Result<int> number_of(Result<MoveOnly> (*make)())
{
	MoveOnly value = TRY(make());
	return value.number;
}

TEST(Result, TryMovesTheValueOut)
{
	EXPECT_EQ(number_of([]() -> Result<MoveOnly> { return MoveOnly{5}; }).value(), 5);
	EXPECT_EQ(to_errno(number_of([]() -> Result<MoveOnly> { return fail(Errno::Io); })), -EIO);
}

TEST(Result, TryEvaluatesOnce)
{
	int calls = 0;
	auto count = [&]() -> Result<int> { return ++calls; };
	auto run = [&]() -> Result<int> { return TRY(count()); };
	EXPECT_EQ(run().value(), 1);
	EXPECT_EQ(calls, 1);
}

TEST(Result, TryTakesTemplateCommas)
{
	auto pair = []() -> Result<std::pair<int, int>> { return std::pair<int, int>{1, 2}; };
	auto run = [&]() -> Result<int> { return TRY(Result<std::pair<int, int>>{pair()}).second; };
	EXPECT_EQ(run().value(), 2);
}

TEST(Result, ErrnosOfCComeIn)
{
	EXPECT_EQ(check(0).value(), 0);
	EXPECT_EQ(check(3).value(), 3);
	EXPECT_EQ(check(-ENOMEM).error(), Errno::NoMem);
	EXPECT_TRUE(check_status(1).has_value());
	EXPECT_EQ(to_errno(check_status(-EBUSY)), -EBUSY);
	// Any errno passes through, named or not.
	EXPECT_EQ(to_errno(check_status(-EOWNERDEAD)), -EOWNERDEAD);
}

TEST(Result, NumbersAreTheKernels)
{
	EXPECT_EQ(int(Errno::Perm), EPERM);
	EXPECT_EQ(int(Errno::NoEnt), ENOENT);
	EXPECT_EQ(int(Errno::Intr), EINTR);
	EXPECT_EQ(int(Errno::Io), EIO);
	EXPECT_EQ(int(Errno::TooBig), E2BIG);
	EXPECT_EQ(int(Errno::BadF), EBADF);
	EXPECT_EQ(int(Errno::Again), EAGAIN);
	EXPECT_EQ(int(Errno::NoMem), ENOMEM);
	EXPECT_EQ(int(Errno::Fault), EFAULT);
	EXPECT_EQ(int(Errno::Busy), EBUSY);
	EXPECT_EQ(int(Errno::Exist), EEXIST);
	EXPECT_EQ(int(Errno::NoDev), ENODEV);
	EXPECT_EQ(int(Errno::Inval), EINVAL);
	EXPECT_EQ(int(Errno::NotTty), ENOTTY);
	EXPECT_EQ(int(Errno::FBig), EFBIG);
	EXPECT_EQ(int(Errno::NoSpc), ENOSPC);
	EXPECT_EQ(int(Errno::Range), ERANGE);
	EXPECT_EQ(int(Errno::Loop), ELOOP);
	EXPECT_EQ(int(Errno::BadMsg), EBADMSG);
	EXPECT_EQ(int(Errno::Overflow), EOVERFLOW);
	EXPECT_EQ(int(Errno::OpNotSupp), EOPNOTSUPP);
	EXPECT_EQ(int(Errno::ProtoNoSupport), EPROTONOSUPPORT);
}

TEST(Checked, AddAndMulSeeOverflow)
{
	constexpr auto max = ~0ull;
	EXPECT_EQ(add(max - 1, 1ull).value(), max);
	EXPECT_EQ(add(max, 1ull).error(), Errno::Overflow);
	EXPECT_EQ(mul(1ull << 32, (1ull << 32) - 1).value(), max - (1ull << 32) + 1);
	EXPECT_EQ(mul(1ull << 32, 1ull << 32).error(), Errno::Overflow);
	EXPECT_EQ(add<unsigned short>(65535, 1).error(), Errno::Overflow);
	EXPECT_EQ(mul<int>(-65536, 65536).error(), Errno::Overflow);
	static_assert(add(1u, 2u).value() == 3);
}

TEST(Undo, RunsUnlessDismissed)
{
	std::string trace;
	{
		Undo first{[&] { trace += 'a'; }};
		Undo second{[&] { trace += 'b'; }};
		Undo third{[&] { trace += 'c'; }};
		second.dismiss();
	}
	EXPECT_EQ(trace, "ca");
}

TEST(Undo, RunsOnTry)
{
	bool undone = false;
	auto run = [&](int value) -> Result<int> {
		Undo undo{[&] { undone = true; }};
		int result = TRY(half(value));
		undo.dismiss();
		return result;
	};
	EXPECT_TRUE(run(2).has_value());
	EXPECT_FALSE(undone);
	EXPECT_FALSE(run(3).has_value());
	EXPECT_TRUE(undone);
}

} // namespace
