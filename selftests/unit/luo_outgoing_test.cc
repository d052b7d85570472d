// SPDX-License-Identifier: GPL-2.0
// Sessions on their way out: create, preserve, freeze, and every way back.
#include "luo_testing.hh"

#include <algorithm>

namespace {

class LuoOut : public Luo {
    protected:
	// Two sessions: a and b that needs it; c.
	void two_sessions(std::vector<int> &fds)
	{
		int one = create("one"), two = create("two");
		ASSERT_GE(one, 0);
		ASSERT_GE(two, 0);
		int a = open("a");
		EXPECT_EQ(preserve(one, a, 1), 0);
		preserve_new(one, "b", 2, DEVICE, {a});
		preserve_new(two, "c", 3);
		fds = {one, two, a};
		trace.clear();
	}

	static void close_all(const std::vector<int> &fds)
	{
		for (int fd : fds)
			fake::close(fd);
	}
};

TEST_F(LuoOut, DeviceHasOneOpener)
{
	EXPECT_EQ(luo_device_open(false), 0);
	EXPECT_EQ(luo_device_open(false), -EBUSY);
	luo_device_release(false);
	EXPECT_EQ(luo_device_open(false), 0);
	luo_device_release(false);
}

TEST_F(LuoOut, SessionsHaveNames)
{
	int fd = create("one");
	ASSERT_GE(fd, 0);
	EXPECT_EQ(fake::file_of(fd)->name, "one");
	liveupdate_session_get_name arg{};
	arg.size = sizeof(arg);
	EXPECT_EQ(session_call(fd, LIVEUPDATE_SESSION_GET_NAME, arg), 0);
	EXPECT_STREQ(reinterpret_cast<char *>(arg.name), "one");
	arg.reserved = 1;
	EXPECT_EQ(session_call(fd, LIVEUPDATE_SESSION_GET_NAME, arg), -EINVAL);

	EXPECT_EQ(create(""), -EINVAL);
	EXPECT_EQ(create("one"), -EEXIST);
	int longest = create(std::string(63, 'x'));
	EXPECT_GE(longest, 0);
	fake::close(fd);
	fd = create("one");
	EXPECT_GE(fd, 0);
	fake::close(fd);
	fake::close(longest);

	liveupdate_ioctl_create_session endless{};
	endless.size = sizeof(endless);
	std::memset(endless.name, 'x', sizeof(endless.name));
	EXPECT_EQ(device_call(LIVEUPDATE_IOCTL_CREATE_SESSION, endless), -EINVAL);
}

TEST_F(LuoOut, ArgumentsMayGrow)
{
	liveupdate_ioctl_create_session arg{};
	auto name = [&](const char *name) {
		std::strcpy(reinterpret_cast<char *>(arg.name), name);
	};
	auto create = [&](unsigned int size, std::size_t room, unsigned char rest = 0) {
		arg.size = size;
		std::vector<unsigned char> user(room, rest);
		std::memcpy(user.data(), &arg, std::min(room, sizeof(arg)));
		fake::user_memory(user.data(), room);
		int err = static_cast<int>(
			luo_device_ioctl(LIVEUPDATE_IOCTL_CREATE_SESSION, user.data()));
		fake::run_releases();
		fake::user_memory_gone(user.data());
		if (!err) {
			std::memcpy(&arg, user.data(), sizeof(arg));
			fake::close(arg.fd);
		}
		return err;
	};
	name("one");
	EXPECT_EQ(create(sizeof(arg), sizeof(arg)), 0);
	EXPECT_EQ(create(sizeof(arg) + 16, sizeof(arg) + 16), 0);
	EXPECT_EQ(create(sizeof(arg) + 16, sizeof(arg) + 16, 1), -E2BIG);
	EXPECT_EQ(create(sizeof(arg) - 1, sizeof(arg)), -EINVAL);
	EXPECT_EQ(create(0, sizeof(arg)), -EINVAL);
	EXPECT_EQ(create(4, 4), -EINVAL);
	EXPECT_EQ(create(~0u, sizeof(arg)), -EFAULT);
	EXPECT_EQ(create(sizeof(arg), sizeof(arg) - 1), -EFAULT);
	EXPECT_EQ(luo_device_ioctl(LIVEUPDATE_IOCTL_CREATE_SESSION, nullptr), -EFAULT);
}

TEST_F(LuoOut, UnknownCommandsAreRefused)
{
	liveupdate_ioctl_create_session arg{};
	arg.size = sizeof(arg);
	EXPECT_EQ(device_call(_IO(0xBA, 0x1f), arg), -EINVAL);
	EXPECT_EQ(device_call(_IO(0xBA, 0xff), arg), -EINVAL);
	EXPECT_EQ(device_call(LIVEUPDATE_SESSION_FINISH, arg), -EINVAL);
	EXPECT_EQ(device_call(_IOW(0xBA, 0, int), arg), -ENOTTY);
	int session = create("one");
	EXPECT_EQ(session_call(session, LIVEUPDATE_IOCTL_CREATE_SESSION, arg), -EINVAL);
	EXPECT_EQ(session_call(session, _IO(0xBA, 0x50), arg), -EINVAL);
	EXPECT_EQ(session_call(session, _IOR(0xBA, 0x40, int), arg), -ENOTTY);
	fake::close(session);
}

TEST_F(LuoOut, OnlyWhatASessionOnItsWayOutCanDo)
{
	int session = create("one");
	EXPECT_EQ(retrieve(session, 1), -EINVAL);
	EXPECT_EQ(finish(session), -EINVAL);
	EXPECT_EQ(retrieve_session("one"), -ENOENT);
	fake::close(session);
}

TEST_F(LuoOut, EveryFailureToCreate)
{
	for_each_failure([] {
		int fd = create("one");
		if (fd < 0)
			return fd;
		fake::close(fd);
		return 0;
	});
}

TEST_F(LuoOut, AnAnswerThatCannotBeGivenLeavesNoSession)
{
	auto before = fake::counters();
	fake::user_read_only = true;
	EXPECT_EQ(create("one"), -EFAULT);
	EXPECT_EQ(fake::counters(), before);
	fake::user_read_only = false;
	int fd = create("one");
	EXPECT_GE(fd, 0);
	fake::close(fd);
}

TEST_F(LuoOut, PreserveHoldsTheFileAndTheHandler)
{
	int session = create("one"), a = open("a");
	EXPECT_EQ(preserve(session, a, 1), 0);
	EXPECT_EQ(trace, (Trace{"preserve a"}));
	EXPECT_EQ(fake::file_of(a)->refs, 2);
	EXPECT_EQ(kinds[MEMORY].its_module.refs, 1);
	fake::close(a);
	trace.clear();
	fake::close(session);
	EXPECT_EQ(trace, (Trace{"unpreserve a"}));
	EXPECT_EQ(kinds[MEMORY].its_module.refs, 0);
}

TEST_F(LuoOut, CloseUndoesInReverseOrder)
{
	int session = create("one");
	for (int i = 0; i < 5; ++i)
		preserve_new(session, std::to_string(i), 100 - i);
	trace.clear();
	fake::close(session);
	EXPECT_EQ(only("unpreserve"), (Trace{"4", "3", "2", "1", "0"}));
}

TEST_F(LuoOut, RefusedToPreserve)
{
	int session = create("one"), other = create("two");
	int a = open("a"), b = open("b"), odd = open("odd", 17);
	EXPECT_EQ(preserve(session, 99, 1), -EBADF);
	EXPECT_EQ(preserve(session, -1, 1), -EBADF);
	EXPECT_EQ(preserve(session, odd, 1), -ENOENT);
	EXPECT_EQ(preserve(session, a, 1), 0);
	EXPECT_EQ(preserve(session, b, 1), -EEXIST);
	EXPECT_EQ(preserve(session, a, 2), -EBUSY);
	EXPECT_EQ(preserve(other, a, 1), -EBUSY);
	results["preserve b"] = -EOWNERDEAD;
	EXPECT_EQ(preserve(session, b, 2), -EOWNERDEAD);
	results.clear();
	EXPECT_EQ(preserve(other, b, 1), 0);
	kinds[MEMORY].its_module.going = true;
	int c = open("c");
	EXPECT_EQ(preserve(session, c, 3), -ENOENT);
	kinds[MEMORY].its_module.going = false;
	for (int fd : {a, b, c, odd, session, other})
		fake::close(fd);
}

TEST_F(LuoOut, TwoFilesOfOneInodeAreOneThing)
{
	int session = create("one"), a = open("a"), again = open("again");
	fake::file_of(a)->id = fake::file_of(again)->id = 0x1000;
	EXPECT_EQ(preserve(session, a, 1), 0);
	EXPECT_EQ(preserve(session, again, 2), -EBUSY);
	for (int fd : {a, again, session})
		fake::close(fd);
}

TEST_F(LuoOut, EveryFailureToPreserve)
{
	int a = open("a"), b = open("b", DEVICE, {a});
	for_each_failure([&] {
		int session = create("one");
		if (session < 0)
			return session;
		int err = preserve(session, b, 1);
		EXPECT_EQ(things, err ? 0 : 1);
		fake::close(session);
		return err;
	});
	for (int fd : {a, b})
		fake::close(fd);
}

TEST_F(LuoOut, HandlersAreChecked)
{
	auto refuse = [](const char *why, auto change) {
		ferry_luo_ops ops = Handler<PLAIN>::ops;
		ferry_luo_handler handler{"plain-v1", nullptr, &ops};
		change(handler, ops);
		EXPECT_EQ(ferry_luo_register(&handler), -EINVAL) << why;
	};
	using H = ferry_luo_handler &;
	using O = ferry_luo_ops &;
	refuse("no name", [](H h, O) { h.compatible = nullptr; });
	refuse("empty name", [](H h, O) { h.compatible = ""; });
	refuse("long name",
	       [](H h, O) { h.compatible = "012345678901234567890123456789012345678901234567"; });
	refuse("no operations", [](H h, O) { h.ops = nullptr; });
	refuse("no can_preserve", [](H, O o) { o.can_preserve = nullptr; });
	refuse("no preserve", [](H, O o) { o.preserve = nullptr; });
	refuse("no unpreserve", [](H, O o) { o.unpreserve = nullptr; });
	refuse("no save", [](H, O o) { o.save = nullptr; });
	refuse("no retrieve", [](H, O o) { o.retrieve = nullptr; });
	refuse("no finish", [](H, O o) { o.finish = nullptr; });
	EXPECT_EQ(ferry_luo_register(&kinds[MEMORY]), -EEXIST);
	ferry_luo_handler longest{"01234567890123456789012345678901234567890123456", nullptr,
				  &Handler<PLAIN>::ops};
	EXPECT_EQ(ferry_luo_register(&longest), 0);
	ferry_luo_unregister(&longest);
	ferry_luo_unregister(&longest);
	for_each_failure([&] {
		int err = ferry_luo_register(&longest);
		if (!err)
			ferry_luo_unregister(&longest);
		return err;
	});
}

TEST_F(LuoOut, HandlersAreThereTogetherOrNotAtAll)
{
	const ferry_luo_handler pair[] = {
		{"first-v1", nullptr, &Handler<PLAIN>::ops},
		{"second-v1", nullptr, &Handler<PLAIN>::ops},
	};
	const ferry_luo_handler known[] = {
		{"first-v1", nullptr, &Handler<PLAIN>::ops},
		{"memory-v1", nullptr, &Handler<PLAIN>::ops},
	};
	const ferry_luo_handler bad[] = {
		{"first-v1", nullptr, &Handler<PLAIN>::ops},
		{"", nullptr, &Handler<PLAIN>::ops},
	};
	EXPECT_EQ(ferry_luo_register_all(known, 2), -EEXIST);
	EXPECT_EQ(ferry_luo_register_all(bad, 2), -EINVAL);
	int err = 0;
	for_each_failure([] {}, [&] { return err = ferry_luo_register_all(pair, 2); },
			 [&] {
				 // Of those that are not there none is in the way.
				 EXPECT_EQ(ferry_luo_register(&known[0]), err ? 0 : -EEXIST);
				 ferry_luo_unregister(&known[0]);
				 for (auto &handler : pair)
					 ferry_luo_unregister(&handler);
			 });
}

TEST_F(LuoOut, AHandlerNeedsOnlyWhatItNeeds)
{
	add_kind(PLAIN);
	int session = create("one");
	preserve_new(session, "p", 1, PLAIN);
	kexec({session}, {}, {PLAIN});
	session = retrieve_session("one");
	int p = retrieve(session, 1);
	EXPECT_EQ(fake::file_of(p)->name, "p");
	EXPECT_EQ(finish(session), 0);
	fake::close(p);
	fake::close(session);
}

// ---- freeze, and every way back ----

TEST_F(LuoOut, PrepareFreezesAndSavesEverything)
{
	std::vector<int> fds;
	two_sessions(fds);
	EXPECT_EQ(luo_prepare(true), 0);
	EXPECT_EQ(only("freeze"), (Trace{"b", "a", "c"}));
	EXPECT_EQ(only("unfreeze"), Trace{});
	auto saved = only("save");
	std::sort(saved.begin(), saved.end());
	EXPECT_EQ(saved, (Trace{"a", "b", "c"}));
	trace.clear();
	luo_abort();
	EXPECT_EQ(trace, (Trace{"unfreeze c", "unfreeze a", "unfreeze b"}));
	close_all(fds);
}

TEST_F(LuoOut, PrepareWithoutSessions)
{
	EXPECT_EQ(luo_prepare(true), 0);
	luo_abort();
	int session = create("empty");
	EXPECT_EQ(luo_prepare(true), 0);
	luo_abort();
	fake::close(session);
}

TEST_F(LuoOut, AKexecWithoutKhoIsRefusedWhereItWouldLoseSomething)
{
	EXPECT_EQ(luo_prepare(false), 0);
	luo_abort();
	std::vector<int> fds;
	two_sessions(fds);
	auto before = fake::counters();
	EXPECT_EQ(luo_prepare(false), -EINVAL);
	EXPECT_EQ(trace, Trace{});
	EXPECT_EQ(fake::counters(), before);
	close_all(fds);
}

TEST_F(LuoOut, AVetoUndoesInExactReverse)
{
	std::vector<int> fds;
	two_sessions(fds);
	const Trace order{"b", "a", "c"};
	for (std::size_t veto = 0; veto < order.size(); ++veto) {
		SCOPED_TRACE(order[veto]);
		results = {{"freeze " + order[veto], -EDEADLK}};
		trace.clear();
		fake::clear_log();
		EXPECT_EQ(luo_prepare(true), -EDEADLK);
		Trace expected;
		for (std::size_t i = 0; i <= veto; ++i)
			expected.push_back("freeze " + order[i]);
		for (std::size_t i = veto; i-- > 0;)
			expected.push_back("unfreeze " + order[i]);
		EXPECT_EQ(trace, expected);
		EXPECT_TRUE(fake::logged(FERRY_ERR, veto == 2 ? "'two'" : "'one'"))
			<< fake::log_text();
	}
	// It goes on as if nothing had been.
	results.clear();
	EXPECT_EQ(luo_prepare(true), 0);
	luo_abort();
	EXPECT_EQ(preserve(fds[0], open("d"), 7), 0);
	fake::close(fds.back() + 1);
	close_all(fds);
}

TEST_F(LuoOut, AFailureToSaveUndoesEverything)
{
	std::vector<int> fds;
	two_sessions(fds);
	for (const char *file : {"a", "b", "c"}) {
		SCOPED_TRACE(file);
		results = {{std::string("save ") + file, -ENOSPC}};
		trace.clear();
		auto before = fake::counters();
		EXPECT_EQ(luo_prepare(true), -ENOSPC);
		EXPECT_EQ(fake::counters(), before);
		EXPECT_EQ(only("unfreeze"), (Trace{"c", "a", "b"}));
		EXPECT_TRUE(fake::logged(FERRY_ERR, "cannot save"));
	}
	results.clear();
	close_all(fds);
}

TEST_F(LuoOut, EveryFailureToPrepare)
{
	std::vector<int> fds;
	two_sessions(fds);
	for_each_failure([] {
		int err = luo_prepare(true);
		if (!err)
			luo_abort();
		return err;
	});
	close_all(fds);
}

TEST_F(LuoOut, PrepareAgainAfterAbort)
{
	std::vector<int> fds;
	two_sessions(fds);
	for (int i = 0; i < 3; ++i) {
		trace.clear();
		EXPECT_EQ(luo_prepare(true), 0);
		EXPECT_EQ(only("freeze"), (Trace{"b", "a", "c"}));
		luo_abort();
		EXPECT_EQ(only("unfreeze"), (Trace{"c", "a", "b"}));
	}
	close_all(fds);
}

TEST_F(LuoOut, DumpsDoNotFreeze)
{
	std::vector<int> fds;
	two_sessions(fds);
	seq_file dump;
	kho_show_dump(&dump, false);
	EXPECT_EQ(only("freeze"), Trace{});
	EXPECT_EQ(only("save").size(), 3u);
	EXPECT_NE(dump.text.find("handler = \"device-v1\""), std::string::npos) << dump.text;
	EXPECT_NE(dump.text.find("session_name = \"two\""), std::string::npos) << dump.text;
	close_all(fds);
}

// ---- dependencies ----

TEST_F(LuoOut, WhatIsNeededMayBePreservedLater)
{
	int session = create("one"), a = open("a");
	preserve_new(session, "b", 2, DEVICE, {a});
	trace.clear();
	EXPECT_EQ(luo_prepare(true), -ENOENT);
	EXPECT_EQ(trace, Trace{});
	EXPECT_TRUE(fake::logged(FERRY_ERR, "not in the session")) << fake::log_text();
	EXPECT_EQ(preserve(session, a, 1), 0);
	trace.clear();
	EXPECT_EQ(luo_prepare(true), 0);
	EXPECT_EQ(only("freeze"), (Trace{"b", "a"}));
	luo_abort();
	fake::close(a);
	fake::close(session);
}

TEST_F(LuoOut, WhatIsInAnotherSessionIsMissing)
{
	int one = create("one"), two = create("two"), a = open("a");
	EXPECT_EQ(preserve(two, a, 1), 0);
	preserve_new(one, "b", 2, DEVICE, {a});
	EXPECT_EQ(luo_prepare(true), -ENOENT);
	EXPECT_EQ(frozen.size(), 0u);
	for (int fd : {one, two, a})
		fake::close(fd);
}

TEST_F(LuoOut, WhatNobodyCanPreserveIsMissing)
{
	int session = create("one"), odd = open("odd", 17);
	preserve_new(session, "b", 2, DEVICE, {odd});
	EXPECT_EQ(luo_prepare(true), -ENOENT);
	fake::close(odd);
	fake::close(session);
}

TEST_F(LuoOut, OtherSessionsAreUnfrozenWhenSomethingIsMissing)
{
	int one = create("one"), two = create("two"), a = open("a");
	preserve_new(one, "x", 1);
	preserve_new(two, "b", 2, DEVICE, {a});
	trace.clear();
	EXPECT_EQ(luo_prepare(true), -ENOENT);
	EXPECT_EQ(trace, (Trace{"freeze x", "unfreeze x"}));
	for (int fd : {one, two, a})
		fake::close(fd);
}

TEST_F(LuoOut, RingsAreRefused)
{
	int session = create("one"), a = open("a", DEVICE), b = open("b", DEVICE, {a}),
	    c = open("c", DEVICE, {b});
	// A file of another kind of file's would keep itself alive; not here.
	fake::file_of(a)->needs.push_back(fake::file_of(c));
	int token = 0;
	for (int fd : {a, b, c})
		EXPECT_EQ(preserve(session, fd, ++token), 0);
	trace.clear();
	EXPECT_EQ(luo_prepare(true), -ELOOP);
	EXPECT_EQ(trace, Trace{});
	EXPECT_TRUE(fake::logged(FERRY_ERR, "need each other")) << fake::log_text();
	fake::file_of(a)->needs.clear();
	for (int fd : {c, b, a, session})
		fake::close(fd);
}

TEST_F(LuoOut, AFileThatNeedsItselfIsARing)
{
	int session = create("one"), a = open("a", DEVICE);
	fake::file_of(a)->needs.push_back(fake::file_of(a));
	EXPECT_EQ(preserve(session, a, 1), 0);
	EXPECT_EQ(luo_prepare(true), -ELOOP);
	fake::file_of(a)->needs.clear();
	fake::close(a);
	fake::close(session);
}

TEST_F(LuoOut, GraphsAreOrdered)
{
	// d needs b and c, which both need a; e stands alone.
	int session = create("one"), a = open("a"), b = open("b", DEVICE, {a}),
	    c = open("c", DEVICE, {a}), d = open("d", DEVICE, {b, c}), e = open("e");
	std::map<std::string, int> fds{{"a", a}, {"b", b}, {"c", c}, {"d", d}, {"e", e}};
	// In any order of preserving.
	Trace names{"a", "b", "c", "d", "e"};
	int tried = 0;
	do {
		int token = 0;
		for (const std::string &name : names)
			ASSERT_EQ(preserve(session, fds[name], ++token), 0);
		trace.clear();
		ASSERT_EQ(luo_prepare(true), 0);
		Trace order = only("freeze");
		auto at = [&](const char *name) {
			return std::find(order.begin(), order.end(), name);
		};
		EXPECT_EQ(order.size(), 5u);
		EXPECT_LT(at("d"), at("b"));
		EXPECT_LT(at("d"), at("c"));
		EXPECT_LT(at("b"), at("a"));
		EXPECT_LT(at("c"), at("a"));
		trace.clear();
		luo_abort();
		std::reverse(order.begin(), order.end());
		EXPECT_EQ(only("unfreeze"), order);
		fake::close(session);
		session = create("one");
		// Not all 120, which take their time under the sanitizers.
		std::next_permutation(names.begin(), names.end());
		std::next_permutation(names.begin(), names.end());
	} while (std::next_permutation(names.begin(), names.end()) && ++tried < 40);
	for (int fd : {session, e, d, c, b, a})
		fake::close(fd);
}

TEST_F(LuoOut, ALongChainIsNoProblem)
{
	int session = create("one"), before = -1;
	std::vector<int> fds;
	for (int i = 0; i < 500; ++i) {
		std::vector<int> needs;
		if (before >= 0)
			needs.push_back(before);
		before = open(std::to_string(i), DEVICE, needs);
		fds.push_back(before);
		ASSERT_EQ(preserve(session, before, i), 0);
	}
	trace.clear();
	EXPECT_EQ(luo_prepare(true), 0);
	Trace order = only("freeze");
	EXPECT_EQ(order.front(), "499");
	EXPECT_EQ(order.back(), "0");
	luo_abort();
	fake::close(session);
	for (std::size_t i = fds.size(); i-- > 0;)
		fake::close(fds[i]);
}

TEST_F(LuoOut, NeedsAreBounded)
{
	int session = create("one");
	file *greedy = fake::new_file("greedy", DEVICE);
	for (int i = 0; i < 1100; ++i)
		greedy->needs.push_back(fake::new_file("a"));
	int fd = fake::install(greedy);
	EXPECT_EQ(preserve(session, fd, 1), -E2BIG);
	fake::close(fd);
	fake::close(session);
}

TEST_F(LuoOut, ANeedIsNamedOnceOrMore)
{
	int session = create("one"), a = open("a"), b = open("b", DEVICE, {a, a, a});
	EXPECT_EQ(preserve(session, a, 1), 0);
	EXPECT_EQ(preserve(session, b, 2), 0);
	EXPECT_EQ(luo_prepare(true), 0);
	seq_file dump;
	luo_abort();
	kho_show_dump(&dump, false);
	EXPECT_NE(dump.text.find("needs@0"), std::string::npos);
	EXPECT_EQ(dump.text.find("needs@1"), std::string::npos);
	close_all({session, b, a});
}

TEST_F(LuoOut, AnotherFileOfTheSameThingWillDo)
{
	int session = create("one"), a = open("a"), same = open("same"),
	    b = open("b", DEVICE, {same});
	fake::file_of(a)->id = fake::file_of(same)->id = 0x1000;
	EXPECT_EQ(preserve(session, a, 1), 0);
	EXPECT_EQ(preserve(session, b, 2), 0);
	EXPECT_EQ(luo_prepare(true), 0);
	luo_abort();
	close_all({session, b, same, a});
}

// ---- what freeze() finds out ----

TEST_F(LuoOut, NeedsNamedByFreeze)
{
	int session = create("one"), a = open("a"), b = open("b", DEVICE);
	late_needs["b"] = {fake::file_of(a)};
	EXPECT_EQ(preserve(session, a, 1), 0);
	EXPECT_EQ(preserve(session, b, 2), 0);
	for (int again = 0; again < 2; ++again) {
		trace.clear();
		EXPECT_EQ(luo_prepare(true), 0);
		// In the wrong order, and in the right one.
		EXPECT_EQ(trace, (Trace{"freeze a", "freeze b", "unfreeze b", "unfreeze a",
					"freeze b", "freeze a", "save a", "save b"}));
		trace.clear();
		luo_abort();
		EXPECT_EQ(trace, (Trace{"unfreeze a", "unfreeze b"}));
		EXPECT_EQ(fake::file_of(a)->refs, 2) << "what freeze() named is forgotten";
	}
	for_each_failure([] {
		int err = luo_prepare(true);
		if (!err)
			luo_abort();
		return err;
	});
	results["save a"] = -EIO;
	EXPECT_EQ(luo_prepare(true), -EIO);
	EXPECT_EQ(fake::file_of(a)->refs, 2);
	close_all({session, b, a});
}

TEST_F(LuoOut, NeedsNamedByFreezeThatAreMissing)
{
	int session = create("one"), a = open("a"), b = open("b", DEVICE);
	late_needs["b"] = {fake::file_of(a)};
	EXPECT_EQ(preserve(session, b, 2), 0);
	trace.clear();
	EXPECT_EQ(luo_prepare(true), -ENOENT);
	EXPECT_EQ(trace, (Trace{"freeze b", "unfreeze b"}));
	EXPECT_EQ(fake::file_of(a)->refs, 1);
	close_all({session, b, a});
}

TEST_F(LuoOut, NeedsNamedByFreezeThatMakeARing)
{
	int session = create("one"), a = open("a", DEVICE), b = open("b", DEVICE, {a});
	late_needs["a"] = {fake::file_of(b)};
	EXPECT_EQ(preserve(session, a, 1), 0);
	EXPECT_EQ(preserve(session, b, 2), 0);
	EXPECT_EQ(luo_prepare(true), -ELOOP);
	EXPECT_EQ(fake::file_of(b)->refs, 2);
	late_needs.clear();
	EXPECT_EQ(luo_prepare(true), 0);
	luo_abort();
	close_all({session, b, a});
}

TEST_F(LuoOut, NeedsThatNeverEndAreRefused)
{
	int session = create("one"), b = open("b", DEVICE);
	EXPECT_EQ(preserve(session, b, 100), 0);
	std::vector<int> all{session, b};
	for (int i = 0; i < 20; ++i) {
		all.push_back(open(std::to_string(i)));
		EXPECT_EQ(preserve(session, all.back(), i), 0);
		later_needs.push_back(fake::file_of(all.back()));
	}
	EXPECT_EQ(luo_prepare(true), -EBUSY);
	EXPECT_EQ(frozen.size(), 0u);
	later_needs.clear();
	EXPECT_EQ(luo_prepare(true), 0);
	luo_abort();
	close_all(all);
}

TEST_F(LuoOut, CloseGoesFromTheDeviceToTheMemory)
{
	// Preserved in the other order.
	int session = create("one"), a = open("a");
	preserve_new(session, "b", 2, DEVICE, {a});
	EXPECT_EQ(preserve(session, a, 1), 0);
	fake::close(a);
	trace.clear();
	fake::close(session);
	EXPECT_EQ(trace, (Trace{"unpreserve b", "unpreserve a"}));
}

} // namespace
