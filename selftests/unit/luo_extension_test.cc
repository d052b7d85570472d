// SPDX-License-Identifier: GPL-2.0
// What /dev/liveupdate has beyond Linux's: keys, openers, policies, sessions that
// are carried again, and what people see.
#include "luo_testing.hh"

#include <thread>

namespace {

class LuoExt : public Luo {
    protected:
	// A session of two files, b needs a; carried here.
	void carry(const std::string &name, unsigned char key = 0,
		   unsigned int policy = LIVEUPDATE_FERRY_POLICY_FINISH,
		   unsigned long long deadline_ms = 0)
	{
		int one = create_with(name, key, policy, deadline_ms), a = open("a");
		ASSERT_GE(one, 0);
		EXPECT_EQ(preserve(one, a, 1), 0);
		preserve_new(one, "b", 2, DEVICE, {a});
		kexec({one, a});
	}

	template <class Entry, class Arg> static int list(unsigned int command, Arg arg,
							  std::vector<Entry> &entries,
							  unsigned int entry_size = sizeof(Entry))
	{
		std::vector<unsigned char> room(entries.size() * entry_size + 1, 0xee);
		arg.size = sizeof(arg);
		arg.entry_size = entry_size;
		arg.nr = static_cast<unsigned int>(entries.size());
		arg.entries = reinterpret_cast<unsigned long long>(room.data());
		fake::user_memory(room.data(), room.size());
		int err = device_call(command, arg);
		fake::user_memory_gone(room.data());
		EXPECT_EQ(room.back(), 0xee);
		if (err == -ENOSPC) {
			entries.resize(arg.nr);
			return err;
		}
		entries.resize(err ? 0 : arg.nr);
		for (std::size_t i = 0; i < entries.size(); ++i) {
			std::memcpy(&entries[i], &room[i * entry_size],
				    std::min<std::size_t>(entry_size, sizeof(Entry)));
			for (std::size_t at = sizeof(Entry); at < entry_size; ++at)
				EXPECT_EQ(room[i * entry_size + at], 0);
		}
		return err;
	}

	static std::vector<liveupdate_ferry_session> sessions()
	{
		std::vector<liveupdate_ferry_session> all(16);
		EXPECT_EQ(
			list(LIVEUPDATE_FERRY_LIST_SESSIONS, liveupdate_ferry_list_sessions{}, all),
			0);
		return all;
	}

	static std::vector<liveupdate_ferry_file> files(const std::string &name,
							unsigned int flags = 0)
	{
		auto arg = named<liveupdate_ferry_list_files>(name);
		arg.flags = flags;
		std::vector<liveupdate_ferry_file> all(16);
		EXPECT_EQ(list(LIVEUPDATE_FERRY_LIST_FILES, arg, all), 0);
		return all;
	}

	static liveupdate_ferry_failure last_failure()
	{
		liveupdate_ferry_failure arg{};
		arg.size = sizeof(arg);
		if (int err = device_call(LIVEUPDATE_FERRY_GET_FAILURE, arg))
			EXPECT_EQ(err, -ENOENT);
		return arg;
	}

	static liveupdate_ferry_info info()
	{
		liveupdate_ferry_info arg{};
		arg.size = sizeof(arg);
		EXPECT_EQ(device_call(LIVEUPDATE_FERRY_GET_INFO, arg), 0);
		return arg;
	}

	static void wait_ms(unsigned long long ms)
	{
		fake::clock.now += ms * 1'000'000;
	}
};

// ---- openers ----

TEST_F(LuoExt, SharedOpenersDisturbNobody)
{
	EXPECT_EQ(luo_device_open(false), 0);
	EXPECT_EQ(luo_device_open(true), 0);
	EXPECT_EQ(luo_device_open(true), 0);
	EXPECT_EQ(luo_device_open(false), -EBUSY);
	EXPECT_EQ(info().openers, 3u);
	luo_device_release(false);
	EXPECT_EQ(luo_device_open(false), 0);
	luo_device_release(true);
	EXPECT_EQ(luo_device_open(false), -EBUSY);
	luo_device_release(false);
	luo_device_release(true);
	EXPECT_EQ(info().openers, 0u);
}

TEST_F(LuoExt, SharingTakesPrivilege)
{
	fake::privileged = false;
	EXPECT_EQ(luo_device_open(true), -EPERM);
	EXPECT_EQ(luo_device_open(false), 0);
	EXPECT_EQ(info().openers, 1u);
	luo_device_release(false);
}

// ---- keys ----

TEST_F(LuoExt, OnlyTheKeyOpensASession)
{
	carry("locked", 7);
	EXPECT_EQ(retrieve_session("locked"), -EPERM);
	EXPECT_EQ(retrieve_with("locked", 0), -EPERM);
	EXPECT_EQ(retrieve_with("locked", 8), -EPERM);
	EXPECT_TRUE(fake::logged(FERRY_WARN, "'locked'")) << fake::log_text();
	auto all = sessions();
	ASSERT_EQ(all.size(), 1u);
	EXPECT_EQ(all[0].refused, 3u);
	EXPECT_EQ(all[0].flags, LIVEUPDATE_FERRY_INCOMING | LIVEUPDATE_FERRY_KEYED);

	int one = retrieve_with("locked", 7);
	ASSERT_GE(one, 0);
	// The key counts before anything else is told.
	EXPECT_EQ(retrieve_with("locked", 8), -EPERM);
	EXPECT_EQ(retrieve_with("locked", 7), -EINVAL);
	int b = retrieve(one, 2);
	EXPECT_GE(b, 0);
	fake::close(b);
	fake::close(one);
}

TEST_F(LuoExt, OneBitOfTheKeyIsEnough)
{
	carry("locked", 7);
	for (unsigned int at = 0; at < LIVEUPDATE_FERRY_KEY_SIZE; ++at) {
		auto arg = named<liveupdate_ferry_retrieve_session>("locked");
		set_key(arg, 7);
		arg.key[at] ^= 1;
		EXPECT_EQ(device_call(LIVEUPDATE_FERRY_RETRIEVE_SESSION, arg), -EPERM);
	}
	int one = retrieve_with("locked", 7);
	EXPECT_GE(one, 0);
	fake::close(one);
}

TEST_F(LuoExt, TheLogIsNotFlooded)
{
	carry("locked", 7);
	fake::clear_log();
	fake::lines_allowed = 2;
	for (int i = 0; i < 10; ++i)
		EXPECT_EQ(retrieve_with("locked", 8), -EPERM);
	EXPECT_EQ(fake::log().size(), 2u);
	EXPECT_EQ(sessions()[0].refused, 10u);
	int one = retrieve_with("locked", 7);
	fake::close(one);
}

TEST_F(LuoExt, AKeyThatIsNotNeededIsPassedOver)
{
	carry("open");
	int one = retrieve_with("open", 9);
	EXPECT_GE(one, 0);
	fake::close(one);
}

TEST_F(LuoExt, AKeyedSessionIsCarriedOverTwoKexecs)
{
	carry("locked", 7);
	int one = retrieve_with("locked", 7);
	EXPECT_EQ(renew(one), 0);
	kexec({one});
	EXPECT_EQ(retrieve_session("locked"), -EPERM);
	one = retrieve_with("locked", 7);
	EXPECT_GE(one, 0);
	fake::close(one);
}

TEST_F(LuoExt, CreateWithKeyIsChecked)
{
	auto arg = named<liveupdate_ferry_create_session>("x");
	auto create = [&](auto change) {
		auto copy = arg;
		change(copy);
		return device_call(LIVEUPDATE_FERRY_CREATE_SESSION, copy);
	};
	EXPECT_EQ(create([](auto &a) { a.key[31] = 1; }), -EINVAL);
	EXPECT_EQ(create([](auto &a) { a.flags = 2; }), -EOPNOTSUPP);
	EXPECT_EQ(create([](auto &a) { a.policy = 3; }), -EOPNOTSUPP);
	EXPECT_EQ(create([](auto &a) { a.deadline_ms = 1; }), -EINVAL);
	EXPECT_EQ(create([](auto &a) { a.policy = LIVEUPDATE_FERRY_POLICY_DEADLINE; }), -EINVAL);
	EXPECT_EQ(create([](auto &a) {
			  a.policy = LIVEUPDATE_FERRY_POLICY_DEADLINE;
			  a.deadline_ms = (1ull << 40) + 1;
		  }),
		  -EINVAL);
	EXPECT_EQ(create([](auto &a) { a.name[0] = 0; }), -EINVAL);
	EXPECT_EQ(create([](auto &a) { a.size = sizeof(a) - 1; }), -EINVAL);
	EXPECT_TRUE(sessions().empty());

	auto take = named<liveupdate_ferry_retrieve_session>("x");
	take.reserved = 1;
	EXPECT_EQ(device_call(LIVEUPDATE_FERRY_RETRIEVE_SESSION, take), -EINVAL);
	take.reserved = 0;
	take.key[0] = 1;
	EXPECT_EQ(device_call(LIVEUPDATE_FERRY_RETRIEVE_SESSION, take), -EINVAL);
	EXPECT_EQ(retrieve_with("x", 1), -ENOENT);
}

TEST_F(LuoExt, EveryFailureToCreateWithAKey)
{
	for_each_failure([] {
		int fd = create_with("one", 3, LIVEUPDATE_FERRY_POLICY_KEEP);
		if (fd < 0)
			return fd;
		fake::close(fd);
		return 0;
	});
}

// ---- policies ----

TEST_F(LuoExt, NobodyTakesItInTime)
{
	carry("late", 0, LIVEUPDATE_FERRY_POLICY_DEADLINE, 5000);
	ASSERT_TRUE(fake::deadline_ms.has_value());
	EXPECT_LE(*fake::deadline_ms, 5001u);
	EXPECT_GE(*fake::deadline_ms, 4990u);
	luo_deadline();
	EXPECT_EQ(sessions().size(), 1u);
	EXPECT_GT(sessions()[0].left_ms, 4000u);
	wait_ms(5001);
	luo_deadline();
	EXPECT_TRUE(sessions().empty());
	// In reverse order of need.
	EXPECT_EQ(only("finish"), (Trace{"b", "a"}));
	EXPECT_EQ(statuses["a"], FERRY_NOT_RETRIEVED);
	EXPECT_TRUE(fake::logged(FERRY_WARN, "'late'"));
	EXPECT_EQ(retrieve_session("late"), -ENOENT);
	EXPECT_EQ(fake::luo_module().refs, 0);
}

TEST_F(LuoExt, WhoHasItHasAllTheTime)
{
	carry("mine", 0, LIVEUPDATE_FERRY_POLICY_DEADLINE, 1000);
	int one = retrieve_session("mine");
	ASSERT_GE(one, 0);
	wait_ms(100'000);
	luo_deadline();
	EXPECT_EQ(info_of(one).state, LIVEUPDATE_FERRY_SESSION_RETRIEVED);
	EXPECT_EQ(info_of(one).left_ms, LIVEUPDATE_FERRY_NO_DEADLINE);
	int b = retrieve(one, 2);
	// Its owner dies: the clock starts again, and the files are there.
	fake::deadline_ms.reset();
	fake::close(one);
	EXPECT_TRUE(fake::deadline_ms.has_value());
	luo_deadline();
	one = retrieve_session("mine");
	ASSERT_GE(one, 0);
	int again = retrieve(one, 2);
	EXPECT_EQ(fake::file_of(again), fake::file_of(b));
	EXPECT_EQ(finish(one), 0);
	EXPECT_EQ(info_of(one).state, LIVEUPDATE_FERRY_SESSION_FINISHED);
	for (int fd : {one, b, again})
		fake::close(fd);
	EXPECT_TRUE(sessions().empty());
}

TEST_F(LuoExt, TheNextDeadlineIsAskedFor)
{
	int one = create_with("one", 0, LIVEUPDATE_FERRY_POLICY_DEADLINE, 9000);
	int two = create_with("two", 0, LIVEUPDATE_FERRY_POLICY_DEADLINE, 3000);
	int three = create_with("three", 0);
	kexec({one, two, three});
	EXPECT_LE(fake::deadline_ms.value(), 3001u);
	wait_ms(3001);
	luo_deadline();
	EXPECT_EQ(sessions().size(), 2u);
	EXPECT_GT(fake::deadline_ms.value(), 5000u);
	wait_ms(6001);
	fake::deadline_ms.reset();
	luo_deadline();
	EXPECT_EQ(sessions().size(), 1u);
	EXPECT_FALSE(fake::deadline_ms.has_value());
	three = retrieve_session("three");
	fake::close(three);
}

TEST_F(LuoExt, WhatCannotBeReleasedYetWaitsOnceMore)
{
	carry("busy", 0, LIVEUPDATE_FERRY_POLICY_DEADLINE, 1000);
	results["can_finish a"] = -EBUSY;
	wait_ms(1001);
	luo_deadline();
	ASSERT_EQ(sessions().size(), 1u);
	// Not at once, however short the deadline.
	EXPECT_GT(sessions()[0].left_ms, 1900u);
	EXPECT_EQ(last_failure().operation, LIVEUPDATE_FERRY_OP_FINISH);
	results.clear();
	wait_ms(2001);
	luo_deadline();
	EXPECT_TRUE(sessions().empty());
}

TEST_F(LuoExt, WhatIsKeptIsKept)
{
	carry("kept", 0, LIVEUPDATE_FERRY_POLICY_KEEP);
	wait_ms(1'000'000);
	luo_deadline();
	int one = retrieve_session("kept");
	ASSERT_GE(one, 0);
	int a = retrieve(one, 1);
	fake::close(one);
	EXPECT_EQ(only("finish"), Trace{});
	ASSERT_EQ(sessions().size(), 1u);
	EXPECT_EQ(sessions()[0].state, LIVEUPDATE_FERRY_SESSION_WAITING);

	// A kexec would lose it.
	EXPECT_EQ(luo_prepare(true), -EBUSY);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "'kept'"));
	auto failure = last_failure();
	EXPECT_EQ(failure.operation, LIVEUPDATE_FERRY_OP_KEXEC);
	EXPECT_EQ(failure.error, unsigned(EBUSY));
	EXPECT_STREQ(reinterpret_cast<char *>(failure.session), "kept");

	one = retrieve_session("kept");
	int again = retrieve(one, 1);
	EXPECT_EQ(fake::file_of(again), fake::file_of(a));
	EXPECT_EQ(finish(one), 0);
	// Finished, and not closed yet: nothing to lose.
	EXPECT_EQ(luo_prepare(true), 0);
	luo_abort();
	for (int fd : {one, a, again})
		fake::close(fd);
}

TEST_F(LuoExt, PoliciesCanBeSetLater)
{
	int one = create("one");
	EXPECT_EQ(set_policy(one, 3), -EOPNOTSUPP);
	EXPECT_EQ(set_policy(one, LIVEUPDATE_FERRY_POLICY_DEADLINE), -EINVAL);
	EXPECT_EQ(set_policy(one, LIVEUPDATE_FERRY_POLICY_FINISH, 1), -EINVAL);
	EXPECT_EQ(set_policy(one, LIVEUPDATE_FERRY_POLICY_DEADLINE, 100), 0);
	EXPECT_EQ(info_of(one).deadline_ms, 100u);
	preserve_new(one, "a", 1);
	kexec({one});
	EXPECT_EQ(sessions()[0].policy, LIVEUPDATE_FERRY_POLICY_DEADLINE);
	one = retrieve_session("one");
	EXPECT_EQ(set_policy(one, LIVEUPDATE_FERRY_POLICY_FINISH), 0);
	fake::close(one);
	EXPECT_TRUE(sessions().empty());
	EXPECT_EQ(only("finish"), Trace{"a"});
}

TEST_F(LuoExt, AnOwnerThatDiesBeforeTheKexecTakesItsSessionAlong)
{
	int one = create_with("one", 5, LIVEUPDATE_FERRY_POLICY_KEEP), a = open("a");
	EXPECT_EQ(preserve(one, a, 1), 0);
	preserve_new(one, "b", 2, DEVICE, {a});
	fake::close(one);
	EXPECT_EQ(only("unpreserve"), (Trace{"b", "a"}));
	fake::close(a);
	EXPECT_TRUE(sessions().empty());
}

TEST_F(LuoExt, WhatNobodyTakesCanBeDiscarded)
{
	carry("locked", 7, LIVEUPDATE_FERRY_POLICY_KEEP);
	EXPECT_EQ(discard("other"), -ENOENT);
	fake::privileged = false;
	EXPECT_EQ(discard("locked"), -EPERM);
	fake::privileged = true;
	int one = retrieve_with("locked", 7);
	EXPECT_EQ(discard("locked"), -EBUSY);
	fake::close(one);
	results["can_finish b"] = -EAGAIN;
	EXPECT_EQ(discard("locked"), -EAGAIN);
	EXPECT_EQ(only("finish"), Trace{});
	results.clear();
	EXPECT_EQ(discard("locked"), 0);
	EXPECT_EQ(only("finish"), (Trace{"b", "a"}));
	EXPECT_EQ(discard("locked"), -ENOENT);
	EXPECT_EQ(fake::luo_module().refs, 0);
	auto arg = named<liveupdate_ferry_discard_session>("locked");
	arg.reserved = 1;
	EXPECT_EQ(device_call(LIVEUPDATE_FERRY_DISCARD_SESSION, arg), -EINVAL);
}

// ---- again and again ----

TEST_F(LuoExt, ASessionIsCarriedAgainAndAgain)
{
	carry("one");
	for (int update = 0; update < 3; ++update) {
		int one = retrieve_session("one");
		ASSERT_GE(one, 0);
		int b = retrieve(one, 2);
		trace.clear();
		EXPECT_EQ(renew(one), 0);
		EXPECT_EQ(only("finish"), (Trace{"b", "a"}));
		EXPECT_EQ(only("preserve"), (Trace{"a", "b"}));
		EXPECT_EQ(info_of(one).state, LIVEUPDATE_FERRY_SESSION_OPEN);
		EXPECT_EQ(renew(one), -EINVAL);
		EXPECT_EQ(retrieve(one, 2), -EINVAL);
		EXPECT_EQ(finish(one), -EINVAL);
		EXPECT_EQ(fake::luo_module().refs, 0);
		fake::close(b);
		trace.clear();
		kexec({one});
	}
	int one = retrieve_session("one"), b = retrieve(one, 2);
	ASSERT_GE(b, 0);
	EXPECT_EQ(fake::file_of(b)->needs.size(), 1u);
	fake::close(one);
	fake::close(b);
}

TEST_F(LuoExt, WhatIsRenewedCanBeUndone)
{
	carry("one");
	int one = retrieve_session("one"), b = retrieve(one, 2);
	EXPECT_EQ(renew(one), 0);
	trace.clear();
	fake::close(one);
	EXPECT_EQ(only("unpreserve"), (Trace{"b", "a"}));
	// And built anew.
	one = create("one");
	EXPECT_EQ(preserve(one, b, 2), 0);
	fake::close(one);
	fake::close(b);
}

TEST_F(LuoExt, WhatIsNotRetrievedIsReleased)
{
	carry("one");
	int one = retrieve_session("one"), a = retrieve(one, 1);
	EXPECT_EQ(renew(one), 0);
	EXPECT_EQ(statuses["b"], FERRY_NOT_RETRIEVED);
	auto left = files("one");
	ASSERT_EQ(left.size(), 1u);
	EXPECT_EQ(left[0].token, 1u);
	EXPECT_EQ(left[0].state, LIVEUPDATE_FERRY_FILE_PRESERVED);
	preserve_new(one, "c", 2);
	fake::close(a);
	fake::close(one);
}

TEST_F(LuoExt, AFinishedSessionIsRenewedEmpty)
{
	carry("one");
	int one = retrieve_session("one"), a = retrieve(one, 1);
	EXPECT_EQ(finish(one), 0);
	EXPECT_EQ(renew(one, 2), -EOPNOTSUPP);
	EXPECT_EQ(renew(one, 0), 0);
	EXPECT_EQ(info_of(one).files, 0u);
	EXPECT_EQ(preserve(one, a, 1), 0);
	kexec({one, a});
	one = retrieve_session("one");
	a = retrieve(one, 1);
	EXPECT_GE(a, 0);
	// Without the flag nothing is taken along.
	EXPECT_EQ(renew(one, 0), 0);
	EXPECT_EQ(info_of(one).files, 0u);
	fake::close(one);
	fake::close(a);
}

TEST_F(LuoExt, NamesAreOnceOnly)
{
	carry("one");
	int one = retrieve_session("one"), other = create("one");
	ASSERT_GE(other, 0);
	EXPECT_EQ(renew(one), -EEXIST);
	EXPECT_EQ(info_of(one).state, LIVEUPDATE_FERRY_SESSION_RETRIEVED);
	fake::close(other);
	EXPECT_EQ(renew(one), 0);
	EXPECT_EQ(create("one"), -EEXIST);
	fake::close(one);
}

TEST_F(LuoExt, ARenewalThatIsRefusedLosesNothing)
{
	carry("one");
	int one = retrieve_session("one"), b = retrieve(one, 2);
	results["can_finish a"] = -EBUSY;
	EXPECT_EQ(renew(one), -EBUSY);
	EXPECT_EQ(only("finish"), Trace{});
	results.clear();

	// Its last descriptor is here: only the session holds it otherwise.
	fake::close(b);
	results["preserve b"] = -EIO;
	EXPECT_EQ(renew(one), -EIO);
	EXPECT_EQ(only("unpreserve"), Trace{"a"});
	EXPECT_EQ(info_of(one).state, LIVEUPDATE_FERRY_SESSION_RETRIEVED);
	EXPECT_EQ(info_of(one).files, 2u);
	b = retrieve(one, 2);
	ASSERT_GE(b, 0);
	results.clear();
	trace.clear();
	EXPECT_EQ(renew(one), 0);
	// They are finished once.
	EXPECT_EQ(only("finish"), Trace{});
	fake::close(one);
	fake::close(b);
}

TEST_F(LuoExt, AfterARefusedRenewalItCanBeFinished)
{
	carry("one");
	int one = retrieve_session("one"), b = retrieve(one, 2);
	results["preserve a"] = -EIO;
	EXPECT_EQ(renew(one), -EIO);
	EXPECT_EQ(finish(one), 0);
	EXPECT_EQ(only("finish").size(), 2u);
	fake::close(one);
	fake::close(b);
	EXPECT_EQ(fake::luo_module().refs, 0);
}

TEST_F(LuoExt, EveryFailureToRenew)
{
	for (unsigned long nth = 1;; ++nth) {
		carry("one");
		int one = retrieve_session("one"), b = retrieve(one, 2);
		fake::arm(nth);
		int err = renew(one);
		const char *failed = fake::disarm();
		EXPECT_EQ(err == 0, failed == nullptr) << err;
		if (failed)
			EXPECT_EQ(renew(one), 0) << failed;
		fake::close(one);
		fake::close(b);
		if (!failed || HasFailure())
			break;
	}
}

TEST_F(LuoExt, ProgramsThatDoNotAskSeeNoChange)
{
	int one = create("one");
	preserve_new(one, "a", 1);
	kexec({one});
	one = retrieve_session("one");
	EXPECT_EQ(finish(one), 0);
	kexec({one});
	EXPECT_EQ(retrieve_session("one"), -ENOENT);
}

// ---- what people see ----

TEST_F(LuoExt, SessionsAndFilesAreListed)
{
	carry("old", 4);
	int old = retrieve_with("old", 4), a = retrieve(old, 1);
	int fresh = create_with("fresh", 0, LIVEUPDATE_FERRY_POLICY_DEADLINE, 77);
	preserve_new(fresh, "c", 0xc);

	auto all = sessions();
	ASSERT_EQ(all.size(), 2u);
	EXPECT_STREQ(reinterpret_cast<char *>(all[0].name), "fresh");
	EXPECT_EQ(all[0].state, LIVEUPDATE_FERRY_SESSION_OPEN);
	EXPECT_EQ(all[0].flags, 0u);
	EXPECT_EQ(all[0].deadline_ms, 77u);
	EXPECT_EQ(all[0].left_ms, LIVEUPDATE_FERRY_NO_DEADLINE);
	EXPECT_GT(all[0].preserve_ns, 0u);
	EXPECT_EQ(all[0].operation, LIVEUPDATE_FERRY_OP_NONE);
	EXPECT_STREQ(reinterpret_cast<char *>(all[1].name), "old");
	EXPECT_EQ(all[1].state, LIVEUPDATE_FERRY_SESSION_RETRIEVED);
	EXPECT_EQ(all[1].files, 2u);
	// The last kernel's.
	EXPECT_GT(all[1].preserve_ns, 0u);
	EXPECT_GT(all[1].freeze_ns, 0u);
	EXPECT_GT(all[1].retrieve_ns, 0u);

	auto of = files("old", LIVEUPDATE_FERRY_INCOMING);
	ASSERT_EQ(of.size(), 2u);
	EXPECT_EQ(of[0].token, 1u);
	EXPECT_EQ(of[0].state, LIVEUPDATE_FERRY_FILE_RETRIEVED);
	EXPECT_STREQ(reinterpret_cast<char *>(of[0].handler), "memory-v1");
	EXPECT_EQ(of[1].state, LIVEUPDATE_FERRY_FILE_WAITING);
	EXPECT_EQ(of[1].needs, 1u);
	results["retrieve b"] = -EIO;
	EXPECT_EQ(retrieve(old, 2), -EIO);
	of = files("old", LIVEUPDATE_FERRY_INCOMING);
	EXPECT_EQ(of[1].state, LIVEUPDATE_FERRY_FILE_FAILED);
	EXPECT_EQ(of[1].error, unsigned(EIO));

	auto is = info();
	EXPECT_EQ(is.outgoing, 1u);
	EXPECT_EQ(is.incoming, 1u);
	EXPECT_EQ(is.waiting, 0u);
	EXPECT_EQ(is.update, 1u);
	EXPECT_EQ(is.failures, 1u);
	EXPECT_EQ(is.frozen, 0u);
	ASSERT_EQ(luo_prepare(true), 0);
	EXPECT_EQ(info().frozen, 1u);
	EXPECT_EQ(files("fresh")[0].state, LIVEUPDATE_FERRY_FILE_FROZEN);
	luo_abort();
	EXPECT_EQ(info().frozen, 0u);
	for (int fd : {old, a, fresh})
		fake::close(fd);
}

TEST_F(LuoExt, ListsFitTheirCaller)
{
	int one = create("one"), two = create("two");
	preserve_new(one, "a", 1);
	preserve_new(one, "c", 2);
	using Session = liveupdate_ferry_session;
	liveupdate_ferry_list_sessions arg{};
	std::vector<Session> entries(1);
	EXPECT_EQ(list(LIVEUPDATE_FERRY_LIST_SESSIONS, arg, entries), -ENOSPC);
	EXPECT_EQ(entries.size(), 2u);
	EXPECT_EQ(list(LIVEUPDATE_FERRY_LIST_SESSIONS, arg, entries), 0);
	entries.clear();
	EXPECT_EQ(list(LIVEUPDATE_FERRY_LIST_SESSIONS, arg, entries), -ENOSPC);
	EXPECT_EQ(entries.size(), 2u);
	// Of a program that knows more.
	EXPECT_EQ(list(LIVEUPDATE_FERRY_LIST_SESSIONS, arg, entries, sizeof(Session) + 200), 0);
	EXPECT_STREQ(reinterpret_cast<char *>(entries[1].name), "two");
	entries.resize(4);
	EXPECT_EQ(list(LIVEUPDATE_FERRY_LIST_SESSIONS, arg, entries, sizeof(Session) - 1), -EINVAL);
	EXPECT_EQ(list(LIVEUPDATE_FERRY_LIST_SESSIONS, arg, entries, 4097), -EINVAL);
	entries.resize(4);
	arg.reserved = 1;
	EXPECT_EQ(list(LIVEUPDATE_FERRY_LIST_SESSIONS, arg, entries), -EINVAL);

	auto of = named<liveupdate_ferry_list_files>("one");
	std::vector<liveupdate_ferry_file> listed(1);
	EXPECT_EQ(list(LIVEUPDATE_FERRY_LIST_FILES, of, listed), -ENOSPC);
	EXPECT_EQ(listed.size(), 2u);
	of.flags = 2;
	EXPECT_EQ(list(LIVEUPDATE_FERRY_LIST_FILES, of, listed), -EOPNOTSUPP);
	of.flags = LIVEUPDATE_FERRY_INCOMING;
	EXPECT_EQ(list(LIVEUPDATE_FERRY_LIST_FILES, of, listed), -ENOENT);
	// Where they cannot be written.
	arg = {.size = sizeof(arg),
	       .entry_size = sizeof(Session),
	       .nr = 2,
	       .reserved = 0,
	       .entries = 8};
	EXPECT_EQ(device_call(LIVEUPDATE_FERRY_LIST_SESSIONS, arg), -EFAULT);
	for_each_failure([&] {
		std::vector<Session> room(2);
		return list(LIVEUPDATE_FERRY_LIST_SESSIONS, liveupdate_ferry_list_sessions{}, room);
	});
	fake::close(one);
	fake::close(two);
}

TEST_F(LuoExt, ProgressIsSeenWhileItIsMade)
{
	int one = create("one");
	liveupdate_ferry_session seen{};
	liveupdate_ferry_session listed{};
	during = [&](const std::string &what, ferry_luo_file *self) {
		if (what != "preserve a")
			return;
		ferry_luo_progress(self, 3, 10);
		// Another thread asks; no lock is in its way.
		seen = info_of_unlocked(one);
		ferry_usage usage{.pages = 5, .runs = 2, .metadata = 4096, .blobs = 8};
		ferry_luo_usage(self, &usage);
	};
	int a = open("a");
	EXPECT_EQ(preserve(one, a, 0xa), 0);
	during = {};
	EXPECT_EQ(seen.operation, LIVEUPDATE_FERRY_OP_PRESERVE);
	EXPECT_EQ(seen.token, 0xau);
	EXPECT_EQ(seen.done, 3u);
	EXPECT_EQ(seen.total, 10u);
	EXPECT_GT(seen.since_ns, 0u);
	EXPECT_STREQ(reinterpret_cast<char *>(seen.handler), "memory-v1");
	listed = info_of(one);
	EXPECT_EQ(listed.operation, LIVEUPDATE_FERRY_OP_NONE);
	EXPECT_EQ(listed.total, 0u);
	EXPECT_EQ(listed.bytes, 5u * 4096);
	EXPECT_EQ(listed.runs, 2u);
	EXPECT_EQ(listed.metadata, 4104u);
	kexec({one, a});
	// It crossed.
	listed = sessions()[0];
	EXPECT_EQ(listed.bytes, 5u * 4096);
	EXPECT_EQ(listed.metadata, 4104u);
	one = retrieve_session("one");
	fake::close(one);
}

TEST_F(LuoExt, WhoRefusedIsKnown)
{
	liveupdate_ferry_failure none{};
	none.size = sizeof(none);
	EXPECT_EQ(device_call(LIVEUPDATE_FERRY_GET_FAILURE, none), -ENOENT);
	int one = create("one");
	preserve_new(one, "a", 0xabc);
	// A program's own mistakes are none of ours.
	EXPECT_EQ(preserve(one, 99, 1), -EBADF);
	EXPECT_EQ(device_call(LIVEUPDATE_FERRY_GET_FAILURE, none), -ENOENT);
	results["freeze a"] = -EREMOTEIO;
	EXPECT_EQ(luo_prepare(true), -EREMOTEIO);
	auto is = last_failure();
	EXPECT_EQ(is.error, unsigned(EREMOTEIO));
	EXPECT_EQ(is.number, 1u);
	EXPECT_EQ(is.operation, LIVEUPDATE_FERRY_OP_FREEZE);
	EXPECT_EQ(is.token, 0xabcu);
	EXPECT_STREQ(reinterpret_cast<char *>(is.session), "one");
	EXPECT_STREQ(reinterpret_cast<char *>(is.handler), "memory-v1");
	results = {{"save a", -EIO}};
	EXPECT_EQ(luo_prepare(true), -EIO);
	// The file, and then the tree that could not be written.
	EXPECT_EQ(last_failure().number, 3u);
	results = {{"preserve b", -ENXIO}};
	int b = open("b");
	EXPECT_EQ(preserve(one, b, 7), -ENXIO);
	EXPECT_EQ(last_failure().operation, LIVEUPDATE_FERRY_OP_PRESERVE);
	EXPECT_EQ(last_failure().token, 7u);
	none.reserved = 1;
	EXPECT_EQ(device_call(LIVEUPDATE_FERRY_GET_FAILURE, none), -EINVAL);
	fake::close(b);
	fake::close(one);
}

TEST_F(LuoExt, TheUpdateIsToldAsAWhole)
{
	liveupdate_ferry_update update{};
	update.size = sizeof(update);
	EXPECT_EQ(device_call(LIVEUPDATE_FERRY_GET_UPDATE, update), -ENOENT);
	int one = create("one"), a = open("a");
	EXPECT_EQ(preserve(one, a, 1), 0);
	preserve_new(one, "b", 2, DEVICE, {a});
	results["freeze a"] = -EIO;
	EXPECT_EQ(luo_prepare(true), -EIO);
	results.clear();
	ASSERT_EQ(luo_prepare(true), 0);
	luo_abort();
	kexec({one, a});
	auto get = [&] {
		liveupdate_ferry_update arg{};
		arg.size = sizeof(arg);
		EXPECT_EQ(device_call(LIVEUPDATE_FERRY_GET_UPDATE, arg), 0);
		return arg;
	};
	update = get();
	EXPECT_EQ(update.number, 1u);
	EXPECT_EQ(update.sessions, 1u);
	EXPECT_EQ(update.files, 2u);
	EXPECT_EQ(update.refusals, 2u);
	EXPECT_GT(update.frozen_at, 1'700'000'000'000'000'000u);
	EXPECT_GT(update.preserve_ns, 0u);
	EXPECT_GT(update.freeze_ns, 0u);
	EXPECT_STREQ(reinterpret_cast<char *>(update.from), "7.3.4-fake");
	EXPECT_STREQ(reinterpret_cast<char *>(update.to), "7.3.4-fake");
	EXPECT_EQ(update.first_retrieve_ns, 0u);
	EXPECT_EQ(update.finished_ns, 0u);
	one = retrieve_session("one");
	a = retrieve(one, 1);
	results["retrieve b"] = -EIO;
	EXPECT_EQ(retrieve(one, 2), -EIO);
	update = get();
	EXPECT_GT(update.first_retrieve_ns, 0u);
	EXPECT_GT(update.retrieve_ns, 0u);
	EXPECT_EQ(update.retrieved, 1u);
	EXPECT_EQ(update.failed, 1u);
	EXPECT_EQ(update.finished_ns, 0u);
	fake::close(one);
	fake::close(a);
	update = get();
	EXPECT_GT(update.finish_ns, 0u);
	EXPECT_GE(update.finished_ns, update.first_retrieve_ns);
	EXPECT_EQ(update.released, 0u);
	update.reserved = 1;
	EXPECT_EQ(device_call(LIVEUPDATE_FERRY_GET_UPDATE, update), -EINVAL);
}

TEST_F(LuoExt, OperationsAreTraced)
{
	int one = create("one");
	preserve_new(one, "a", 1);
	results["freeze a"] = -EIO;
	EXPECT_EQ(luo_prepare(true), -EIO);
	fake::close(one);
	std::vector<std::string> what;
	for (auto &each : fake::traces)
		what.push_back(each.what + " " + std::to_string(each.operation) + " " +
			       std::to_string(each.error));
	EXPECT_EQ(what, (std::vector<std::string>{"created one 0 0", "file one memory-v1 1 0",
						  "file one memory-v1 2 -5", "update refused 0 -5",
						  "file one memory-v1 4 0", "gone one 0 0"}));
}

TEST_F(LuoExt, NumbersAndCommandsAreChecked)
{
	liveupdate_ferry_info arg{};
	arg.size = sizeof(arg);
	EXPECT_EQ(device_call(_IOWR(LIVEUPDATE_IOCTL_TYPE, 0x20, liveupdate_ferry_info), arg),
		  -ENOTTY);
	EXPECT_EQ(device_call(_IO(LIVEUPDATE_IOCTL_TYPE, 0x28), arg), -EINVAL);
	EXPECT_EQ(device_call(_IO(LIVEUPDATE_IOCTL_TYPE, 0x60), arg), -EINVAL);
	arg.size = 4;
	EXPECT_EQ(device_call(LIVEUPDATE_FERRY_GET_INFO, arg), -EINVAL);
	int one = create("one");
	EXPECT_EQ(session_call(one, _IO(LIVEUPDATE_IOCTL_TYPE, 0x63), arg), -EINVAL);
	EXPECT_EQ(session_call(one, _IO(LIVEUPDATE_IOCTL_TYPE, 0x20), arg), -EINVAL);
	// Only one of the last kernel can be renewed.
	EXPECT_EQ(renew(one), -EINVAL);
	liveupdate_ferry_session_get_info info{};
	info.size = sizeof(info);
	info.reserved = 1;
	EXPECT_EQ(session_call(one, LIVEUPDATE_FERRY_SESSION_GET_INFO, info), -EINVAL);
	fake::close(one);
}

TEST_F(LuoExt, WorkAheadDoesNotHoldTheLists)
{
	carry("one");
	bool asked = false;
	during = [&](const std::string &what, ferry_luo_file *) {
		if (what != "prepare a")
			return;
		asked = true;
		// Others make and take sessions meanwhile.
		std::thread([] { EXPECT_EQ(info().incoming, 1u); }).join();
	};
	luo_background();
	during = {};
	EXPECT_TRUE(asked);
	int one = retrieve_session("one");
	fake::close(one);
}

} // namespace
