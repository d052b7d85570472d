// SPDX-License-Identifier: GPL-2.0
// Sessions on their way in: retrieve, finish, close, and what came damaged.
#include "luo_testing.hh"

#include "fake/carry.hh"

#include <algorithm>

#include <abi/luo.h>

extern "C" {
#include <libfdt.h>
}

namespace {

class LuoIn : public Luo {
    protected:
	// What the last kernel had: "one" with a, b that needs a, and x; "two" with c.
	void carry(const std::function<void(fake::Handover &)> &damage = {},
		   std::vector<int> with = {MEMORY, DEVICE})
	{
		int one = create("one"), two = create("two"), a = open("a");
		preserve_new(one, "b", 2, DEVICE, {a});
		EXPECT_EQ(preserve(one, a, 1), 0);
		preserve_new(one, "x", 9);
		preserve_new(two, "c", 1);
		kexec({one, two, a}, damage, with);
	}

	// Lets everything that still waits go.
	static void finish_all()
	{
		for (const char *name : {"one", "two"}) {
			int fd = retrieve_session(name);
			if (fd >= 0)
				fake::close(fd);
		}
	}
};

TEST_F(LuoIn, EverythingComesBack)
{
	carry();
	EXPECT_EQ(fake::luo_module().refs, 1);
	int one = retrieve_session("one"), two = retrieve_session("two");
	ASSERT_GE(one, 0);
	ASSERT_GE(two, 0);
	int a = retrieve(one, 1), b = retrieve(one, 2), x = retrieve(one, 9), c = retrieve(two, 1);
	EXPECT_EQ(fake::file_of(a)->name, "a");
	EXPECT_EQ(fake::file_of(b)->name, "b");
	EXPECT_EQ(fake::file_of(x)->name, "x");
	EXPECT_EQ(fake::file_of(c)->name, "c");
	EXPECT_EQ(fake::file_of(b)->needs, (std::vector{fake::file_of(a)}));
	EXPECT_EQ(finish(one), 0);
	EXPECT_EQ(finish(two), 0);
	EXPECT_EQ(kinds[MEMORY].its_module.refs, 0);
	// The files live on.
	EXPECT_EQ(fake::file_of(a)->name, "a");
	EXPECT_EQ(fake::luo_module().refs, 1);
	fake::close(one);
	EXPECT_EQ(fake::luo_module().refs, 1);
	fake::close(two);
	EXPECT_EQ(fake::luo_module().refs, 0);
	EXPECT_EQ(fake::kho_module().refs, 0);
	for (int fd : {b, a, x, c})
		fake::close(fd);
}

TEST_F(LuoIn, AnyOrderWillDo)
{
	std::vector<unsigned long long> tokens{1, 2, 9};
	do {
		carry();
		int one = retrieve_session("one");
		std::map<unsigned long long, int> fds;
		for (auto token : tokens)
			fds[token] = retrieve(one, token);
		EXPECT_EQ(only("retrieve").size(), 3u);
		ASSERT_GE(fds[1], 0);
		ASSERT_GE(fds[2], 0);
		EXPECT_EQ(fake::file_of(fds[2])->needs, (std::vector{fake::file_of(fds[1])}));
		EXPECT_EQ(finish(one), 0);
		fake::close(one);
		for (auto [token, fd] : fds)
			fake::close(fd);
		finish_all();
		unload();
		load();
	} while (std::next_permutation(tokens.begin(), tokens.end()));
}

TEST_F(LuoIn, HandlersWorkAheadOnce)
{
	carry();
	EXPECT_GT(fake::background_asked, 0u);
	luo_background();
	EXPECT_EQ(only("prepare").size(), 4u);
	luo_background();
	EXPECT_EQ(only("prepare").size(), 4u);
	// What it left goes to retrieve(), which checks, or to finish().
	int one = retrieve_session("one");
	int b = retrieve(one, 2);
	EXPECT_EQ(fake::file_of(b)->name, "b");
	EXPECT_TRUE(prepared.contains("x") && prepared.contains("c"));
	EXPECT_FALSE(prepared.contains("a") || prepared.contains("b"));
	fake::close(b);
	fake::close(one);
	finish_all();
}

// What was left of a file that is needed; its handler only gets it, and in the order
// in which they were preserved.
TEST_F(LuoIn, WorkAheadBuildsOnThatOfOtherFiles)
{
	int session = create("one"), a = open("a"), d = open("d");
	preserve_new(session, "before", 1, DEVICE, {a});
	EXPECT_EQ(preserve(session, a, 2), 0);
	EXPECT_EQ(preserve(session, d, 3), 0);
	preserve_new(session, "after", 4, DEVICE, {d, a});
	kexec({session, a, d});
	std::map<std::string, std::vector<void *>> seen;
	during = [&](const std::string &what, ferry_luo_file *self) {
		for (unsigned int nr = 0; what.starts_with("prepare") && nr < 3; ++nr)
			seen[what].push_back(ferry_luo_dependency_priv(self, nr, &kinds[MEMORY]));
		if (what == "prepare after")
			EXPECT_EQ(ferry_luo_dependency_priv(self, 0, &kinds[DEVICE]), nullptr);
	};
	luo_background();
	during = {};
	EXPECT_EQ(seen["prepare before"], (std::vector<void *>{nullptr, nullptr, nullptr}));
	auto &after = seen["prepare after"];
	ASSERT_EQ(after.size(), 3u);
	EXPECT_STREQ(static_cast<Thing *>(after[0])->name, "d");
	EXPECT_STREQ(static_cast<Thing *>(after[1])->name, "a");
	EXPECT_EQ(after[2], nullptr);
	finish_all();
}

TEST_F(LuoIn, NobodyWorksAheadOnWhatIsRetrieved)
{
	carry();
	int one = retrieve_session("one"), a = retrieve(one, 1);
	luo_background();
	EXPECT_EQ(only("prepare").size(), 3u);
	fake::close(a);
	fake::close(one);
	finish_all();
	luo_background();
	EXPECT_EQ(only("prepare").size(), 3u);
}

TEST_F(LuoIn, WorkThatFailsAheadIsDoneLater)
{
	carry();
	results["prepare a"] = -ENOMEM;
	luo_background();
	EXPECT_FALSE(prepared.contains("a"));
	int one = retrieve_session("one"), a = retrieve(one, 1);
	EXPECT_EQ(fake::file_of(a)->name, "a");
	fake::close(a);
	fake::close(one);
	finish_all();
}

TEST_F(LuoIn, SessionsAreRetrievedOnce)
{
	carry();
	EXPECT_EQ(retrieve_session("three"), -ENOENT);
	EXPECT_EQ(retrieve_session(""), -ENOENT);
	int one = retrieve_session("one");
	EXPECT_EQ(retrieve_session("one"), -EINVAL);
	int a = open("new");
	EXPECT_EQ(preserve(one, a, 77), -EINVAL);
	fake::close(a);
	liveupdate_session_get_name arg{};
	arg.size = sizeof(arg);
	EXPECT_EQ(session_call(one, LIVEUPDATE_SESSION_GET_NAME, arg), 0);
	EXPECT_STREQ(reinterpret_cast<char *>(arg.name), "one");
	// A new one of the same name is another one.
	int again = create("one");
	EXPECT_GE(again, 0);
	fake::close(again);
	fake::close(one);
	EXPECT_EQ(retrieve_session("one"), -ENOENT);
	finish_all();
}

TEST_F(LuoIn, EveryFailureToRetrieveASession)
{
	carry();
	int one = -1;
	for (unsigned long nth = 1;; ++nth) {
		auto before = fake::counters();
		fake::arm(nth);
		one = retrieve_session("one");
		if (!fake::disarm())
			break;
		EXPECT_LT(one, 0);
		EXPECT_EQ(fake::counters(), before);
		ASSERT_LT(nth, 10u);
	}
	EXPECT_GE(one, 0);
	EXPECT_EQ(only("finish"), Trace{});
	fake::close(one);
	finish_all();
}

// Whoever cannot be told the descriptor must not lose a virtual machine by it.
TEST_F(LuoIn, AnAnswerThatCannotBeGivenLosesNothing)
{
	carry();
	fake::user_read_only = true;
	EXPECT_EQ(retrieve_session("one"), -EFAULT);
	fake::user_read_only = false;
	EXPECT_EQ(only("finish"), Trace{});
	int one = retrieve_session("one");
	ASSERT_GE(one, 0);
	fake::user_read_only = true;
	EXPECT_EQ(retrieve(one, 1), -EFAULT);
	fake::user_read_only = false;
	int a = retrieve(one, 1);
	EXPECT_GE(a, 0);
	EXPECT_EQ(only("retrieve"), (Trace{"a"}));
	fake::close(a);
	fake::close(one);
	finish_all();
}

TEST_F(LuoIn, RetrievingAgainGivesTheSameFile)
{
	carry();
	int one = retrieve_session("one"), a = retrieve(one, 1), again = retrieve(one, 1);
	EXPECT_NE(a, again);
	EXPECT_EQ(fake::file_of(a), fake::file_of(again));
	EXPECT_EQ(only("retrieve"), (Trace{"a"}));
	EXPECT_EQ(retrieve(one, 3), -ENOENT);
	EXPECT_EQ(retrieve(one, ~0ull), -ENOENT);
	for (int fd : {a, again, one})
		fake::close(fd);
	finish_all();
}

TEST_F(LuoIn, ADependencyIsRetrievedOnDemand)
{
	carry();
	int one = retrieve_session("one"), b = retrieve(one, 2);
	EXPECT_EQ(only("retrieve"), (Trace{"a", "b"}));
	int a = retrieve(one, 1);
	EXPECT_EQ(fake::file_of(b)->needs, (std::vector{fake::file_of(a)}));
	EXPECT_EQ(only("retrieve").size(), 2u);
	EXPECT_EQ(finish(one), 0);
	for (int fd : {one, b, a})
		fake::close(fd);
	finish_all();
}

TEST_F(LuoIn, AMissingHandlerCanBeLoadedLater)
{
	carry({}, {DEVICE});
	int one = retrieve_session("one");
	EXPECT_EQ(retrieve(one, 1), -ENOENT);
	EXPECT_EQ(retrieve(one, 1), -ENOENT);
	EXPECT_TRUE(fake::logged(FERRY_WARN, "memory-v1")) << fake::log_text();
	EXPECT_EQ(finish(one), -ENOENT);
	EXPECT_EQ(only("finish"), Trace{});
	add_kind(MEMORY);
	int a = retrieve(one, 1);
	ASSERT_GE(a, 0);
	EXPECT_EQ(fake::file_of(a)->name, "a");
	EXPECT_EQ(finish(one), 0);
	fake::close(a);
	fake::close(one);
	finish_all();
}

// The device's handler is there, that of the memory that it needs is not yet.
TEST_F(LuoIn, AMissingHandlerOfADependencyCanBeLoadedLater)
{
	carry({}, {DEVICE});
	int one = retrieve_session("one");
	EXPECT_EQ(retrieve(one, 2), -ENOENT);
	add_kind(MEMORY);
	int b = retrieve(one, 2);
	EXPECT_GE(b, 0) << "error " << b;
	if (b >= 0)
		fake::close(b);
	fake::close(one);
	finish_all();
}

TEST_F(LuoIn, AFailureToRetrieveIsRemembered)
{
	carry();
	results["retrieve a"] = -EOWNERDEAD;
	int one = retrieve_session("one");
	EXPECT_EQ(retrieve(one, 1), -EOWNERDEAD);
	results.clear();
	EXPECT_EQ(retrieve(one, 1), -EOWNERDEAD);
	EXPECT_EQ(only("retrieve"), (Trace{"a"}));
	// What needs it has the same error; what does not, none.
	EXPECT_EQ(retrieve(one, 2), -EOWNERDEAD);
	int x = retrieve(one, 9);
	EXPECT_GE(x, 0);
	EXPECT_EQ(finish(one), 0);
	EXPECT_EQ(statuses["a"], FERRY_RETRIEVE_FAILED);
	EXPECT_NE(statuses["b"], FERRY_RETRIEVED);
	EXPECT_EQ(statuses["x"], FERRY_RETRIEVED);
	fake::close(x);
	fake::close(one);
	finish_all();
}

TEST_F(LuoIn, ThereAreOnlySoManyDependencies)
{
	carry();
	ask_for = 3;
	int one = retrieve_session("one"), b = retrieve(one, 2);
	EXPECT_EQ(b, -ERANGE);
	fake::close(one);
	finish_all();
}

TEST_F(LuoIn, AFileThatIsHeldAlready)
{
	carry();
	// The handler makes what another session preserves at the same time.
	int next = create("next"), held = open("held");
	fake::file_of(held)->id = retrieve_as = 0x2000;
	EXPECT_EQ(preserve(next, held, 1), 0);
	int one = retrieve_session("one"), a = retrieve(one, 1);
	EXPECT_GE(a, 0);
	EXPECT_TRUE(fake::logged(FERRY_WARN, "held already")) << fake::log_text();
	EXPECT_EQ(finish(one), 0);
	EXPECT_EQ(preserve(next, a, 2), -EBUSY);
	for (int fd : {a, held, one, next})
		fake::close(fd);
	finish_all();
}

TEST_F(LuoIn, AHandlerThatMakesNoFileHasFailed)
{
	carry();
	retrieve_nothing = true;
	int one = retrieve_session("one");
	EXPECT_EQ(retrieve(one, 1), -EINVAL);
	retrieve_nothing = false;
	fake::close(one);
	finish_all();
}

TEST_F(LuoIn, EveryFailureToRetrieveAFile)
{
	// Each failure is remembered, so every one has its own kexec.
	for (unsigned long nth = 1; nth < 50; ++nth) {
		SCOPED_TRACE(nth);
		carry();
		int one = retrieve_session("one");
		fake::arm(nth);
		int b = retrieve(one, 2);
		const char *failed = fake::disarm();
		EXPECT_EQ(b < 0, failed != nullptr) << (failed ? failed : "nothing");
		if (b >= 0)
			fake::close(b);
		EXPECT_EQ(finish(one), 0);
		fake::close(one);
		finish_all();
		EXPECT_EQ(things, 0);
		EXPECT_EQ(kinds[DEVICE].its_module.refs, 0);
		if (!failed)
			break;
		unload();
		load();
	}
}

TEST_F(LuoIn, FinishWaitsForWhoIsBusy)
{
	carry();
	int one = retrieve_session("one");
	int x = retrieve(one, 9);
	results["can_finish a"] = -EBUSY;
	trace.clear();
	EXPECT_EQ(finish(one), -EBUSY);
	EXPECT_EQ(only("finish"), Trace{});
	EXPECT_EQ(finish(one), -EBUSY);
	results.clear();
	EXPECT_EQ(finish(one), 0);
	EXPECT_EQ(only("finish").size(), 3u);
	EXPECT_EQ(statuses["a"], FERRY_NOT_RETRIEVED);
	EXPECT_EQ(statuses["x"], FERRY_RETRIEVED);
	// Nothing is left to be retrieved, or finished twice.
	EXPECT_EQ(retrieve(one, 1), -ENOENT);
	EXPECT_EQ(finish(one), 0);
	fake::close(one);
	EXPECT_EQ(only("finish").size(), 3u);
	fake::close(x);
	finish_all();
}

TEST_F(LuoIn, FinishGoesFromTheDeviceToTheMemory)
{
	carry();
	int one = retrieve_session("one");
	trace.clear();
	EXPECT_EQ(finish(one), 0);
	auto order = only("finish");
	ASSERT_EQ(order.size(), 3u);
	EXPECT_LT(std::find(order.begin(), order.end(), "b"),
		  std::find(order.begin(), order.end(), "a"));
	fake::close(one);
	finish_all();
}

TEST_F(LuoIn, CloseWithoutFinishLetsGo)
{
	carry();
	int one = retrieve_session("one"), a = retrieve(one, 1);
	trace.clear();
	fake::close(one);
	EXPECT_EQ(only("finish").size(), 3u);
	EXPECT_EQ(statuses["a"], FERRY_RETRIEVED);
	EXPECT_EQ(statuses["b"], FERRY_NOT_RETRIEVED);
	fake::close(a);
	finish_all();
	EXPECT_EQ(fake::luo_module().refs, 0);
}

TEST_F(LuoIn, CloseWhileBusyWaitsForTheNextOne)
{
	carry();
	int one = retrieve_session("one"), a = retrieve(one, 1);
	results["can_finish b"] = -EBUSY;
	trace.clear();
	fake::close(one);
	EXPECT_EQ(only("finish"), Trace{});
	EXPECT_TRUE(fake::logged(FERRY_WARN, "'one'")) << fake::log_text();
	results.clear();
	one = retrieve_session("one");
	ASSERT_GE(one, 0);
	int again = retrieve(one, 1);
	EXPECT_EQ(fake::file_of(a), fake::file_of(again));
	EXPECT_EQ(finish(one), 0);
	for (int fd : {one, a, again})
		fake::close(fd);
	finish_all();
}

TEST_F(LuoIn, FinishStructureIsChecked)
{
	carry();
	int one = retrieve_session("one");
	liveupdate_session_finish arg{sizeof(arg), 1};
	EXPECT_EQ(session_call(one, LIVEUPDATE_SESSION_FINISH, arg), -EINVAL);
	EXPECT_EQ(only("finish"), Trace{});
	fake::close(one);
	finish_all();
}

TEST_F(LuoIn, WhatIsRetrievedCanBePreservedAgain)
{
	carry();
	int one = retrieve_session("one"), a = retrieve(one, 1);
	int next = create("next");
	// Not before it is finished.
	EXPECT_EQ(preserve(next, a, 1), -EBUSY);
	EXPECT_EQ(finish(one), 0);
	EXPECT_EQ(preserve(next, a, 5), 0);
	fake::close(one);
	finish_all();
	kexec({a, next});
	next = retrieve_session("next");
	a = retrieve(next, 5);
	EXPECT_EQ(fake::file_of(a)->name, "a");
	EXPECT_EQ(finish(next), 0);
	fake::close(a);
	fake::close(next);
}

TEST_F(LuoIn, UpdatesAreCountedAndTimed)
{
	auto shown = [] {
		seq_file file;
		luo_show_update(&file);
		std::map<std::string, unsigned long long> values;
		std::size_t at = 0;
		while (at < file.text.size()) {
			std::size_t end = file.text.find('\n', at), space = file.text.find(' ', at);
			values[file.text.substr(at, space - at)] =
				std::stoull(file.text.substr(space + 1, end - space - 1));
			at = end + 1;
		}
		return values;
	};
	EXPECT_EQ(shown()["number"], 0u);
	for (unsigned long long number : {1, 2, 3}) {
		int one = create("one");
		preserve_new(one, "a", 1);
		preserve_new(one, "b", 2, DEVICE);
		// In the next kernel the clock starts again, the counter goes on.
		kexec({one}, [](fake::Handover &) {
			fake::clock.now = 200'000'000;
			fake::clock.tsc += 3'000'000'000;
		});
		auto values = shown();
		EXPECT_EQ(values["number"], number);
		EXPECT_EQ(values["sessions"], 1u);
		EXPECT_EQ(values["files"], 2u);
		EXPECT_GT(values["freeze_ns"], 0u);
		EXPECT_LT(values["freeze_ns"], 1'000'000u);
		EXPECT_GT(values["preserve_ns"], 0u);
		// 1.5 s passed by the counter, of which this kernel has run for 0.2 s.
		EXPECT_NEAR(double(values["boot_ns"]), 200e6, 1e6);
		EXPECT_NEAR(double(values["jump_ns"]), 1300e6, 1e6);
		finish_all();
	}
}

TEST_F(LuoIn, LoadingCanBeTriedAgain)
{
	int one = create("one"), two = create("two"), c = open("c");
	preserve_new(one, "a", 1);
	EXPECT_EQ(preserve(two, c, 1), 0);
	preserve_new(two, "b", 2, DEVICE, {c});
	ASSERT_EQ(luo_prepare(true), 0);
	fake::Handover handover = fake::handover();
	luo_abort();
	for (int fd : {one, two, c})
		fake::close(fd);
	unload();
	fake::boot(handover);
	ASSERT_EQ(kho_module_init(), 0);
	for (unsigned long nth = 1;; ++nth) {
		auto before = fake::counters();
		fake::arm(nth);
		int err = luo_module_init();
		const char *failed = fake::disarm();
		if (!failed) {
			EXPECT_EQ(err, 0);
			break;
		}
		EXPECT_EQ(err, -ENOMEM) << failed;
		EXPECT_EQ(fake::counters(), before);
		ASSERT_LT(nth, 100u);
		ASSERT_TRUE(err);
	}
	EXPECT_EQ(ferry_luo_register(&kinds[MEMORY]), 0);
	EXPECT_EQ(ferry_luo_register(&kinds[DEVICE]), 0);
	one = retrieve_session("one");
	int a = retrieve(one, 1);
	EXPECT_GE(a, 0);
	EXPECT_EQ(finish(one), 0);
	fake::close(a);
	fake::close(one);
	finish_all();
	ferry_luo_unregister(&kinds[MEMORY]);
	ferry_luo_unregister(&kinds[DEVICE]);
	luo_module_exit();
	kho_module_exit();
}

// ---- trees that came damaged ----

class Sessions {
    public:
	Sessions()
	{
		fdt_create(buffer_.data(), static_cast<int>(buffer_.size()));
		fdt_finish_reservemap(buffer_.data());
		begin("");
		compatible("tree");
		begin("luo");
		compatible("update");
		u64("number", 41);
		for (const char *name : {"sessions", "files", "pages", "runs", "metadata",
					 "preserve_ns", "freeze_ns", "tsc"})
			u64(name, 0);
		fdt_property_u32(buffer_.data(), "tsc_khz", 0);
	}
	Sessions &begin(const char *name)
	{
		EXPECT_EQ(fdt_begin_node(buffer_.data(), name), 0);
		return *this;
	}
	Sessions &end()
	{
		EXPECT_EQ(fdt_end_node(buffer_.data()), 0);
		return *this;
	}
	Sessions &compatible(const std::string &record)
	{
		return string("compatible", "ferry," + record + "-v1");
	}
	Sessions &string(const char *name, const std::string &value)
	{
		EXPECT_EQ(fdt_property_string(buffer_.data(), name, value.c_str()), 0);
		return *this;
	}
	Sessions &u64(const char *name, unsigned long long value)
	{
		EXPECT_EQ(fdt_property_u64(buffer_.data(), name, value), 0);
		return *this;
	}
	Sessions &session(const char *node, const char *name)
	{
		return begin(node).compatible("session").string("session_name", name);
	}
	Sessions &file(const char *node, unsigned long long token,
		       const char *handler = "memory-v1")
	{
		return begin(node)
			.compatible("file")
			.u64("token", token)
			.string("handler", handler);
	}
	Sessions &needs(const std::string &node, unsigned long long token)
	{
		return begin(node.c_str()).compatible("need").u64("token", token).end();
	}
	Sessions &state(const char *name, unsigned int needs = 0)
	{
		begin("state").compatible("thing").string("name", name);
		EXPECT_EQ(fdt_property_u32(buffer_.data(), "needs", needs), 0);
		return end();
	}
	fake::Handover handover()
	{
		end().end();
		EXPECT_EQ(fdt_finish(buffer_.data()), 0);
		return fake::carry_tree({buffer_.data(), fdt_totalsize(buffer_.data())});
	}

    private:
	std::vector<unsigned char> buffer_ = std::vector<unsigned char>(1 << 20);
};

class LuoDamage : public LuoIn {
    protected:
	void boot(Sessions &sessions)
	{
		unload();
		fake::power_off();
		fake::boot(sessions.handover());
		load();
	}
};

TEST_F(LuoDamage, HandMadeSessionsAreTaken)
{
	Sessions sessions;
	sessions.session("session@0", "one");
	sessions.file("file@0", 1).state("a").end();
	sessions.file("file@1", 2, "device-v1").needs("needs@0", 1).state("b", 1).end();
	sessions.end();
	boot(sessions);
	int one = retrieve_session("one"), b = retrieve(one, 2);
	ASSERT_GE(b, 0);
	EXPECT_EQ(fake::file_of(b)->needs.size(), 1u);
	fake::close(one);
	fake::close(b);
	EXPECT_FALSE(fake::logged(FERRY_ERR, "")) << fake::log_text();
}

TEST_F(LuoDamage, ABadFileIsLeftOutAlone)
{
	Sessions sessions;
	sessions.session("session@0", "one");
	sessions.begin("file@0").compatible("file").u64("token", 1).end();
	sessions.file("file@1", 2).state("a").end();
	sessions.file("file@2", 2).state("twice").end();
	sessions.file("file@3", 3, "0123456789012345678901234567890123456789012345678").end();
	sessions.file("file@4", 4).begin("needs@0").end().state("b").end();
	sessions.end();
	boot(sessions);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "/luo/session@0/file@0")) << fake::log_text();
	EXPECT_TRUE(fake::logged(FERRY_ERR, "twice")) << fake::log_text();
	int one = retrieve_session("one"), a = retrieve(one, 2);
	ASSERT_GE(a, 0);
	EXPECT_EQ(fake::file_of(a)->name, "a");
	for (unsigned long long token : {1, 3, 4})
		EXPECT_EQ(retrieve(one, token), -ENOENT);
	fake::close(a);
	fake::close(one);
}

TEST_F(LuoDamage, ABadSessionIsLeftOutAlone)
{
	Sessions sessions;
	sessions.begin("session@0").compatible("session").end();
	sessions.session("session@1", "").end();
	sessions.session("session@2", "one").file("file@0", 1).state("a").end().end();
	sessions.session("session@3", "one").file("file@0", 1).state("b").end().end();
	sessions.session("session@4", "two").end();
	boot(sessions);
	int one = retrieve_session("one"), two = retrieve_session("two");
	ASSERT_GE(one, 0);
	ASSERT_GE(two, 0);
	int a = retrieve(one, 1);
	EXPECT_EQ(fake::file_of(a)->name, "a");
	for (int fd : {a, one, two})
		fake::close(fd);
	EXPECT_EQ(fake::luo_module().refs, 0);
}

TEST_F(LuoDamage, WithoutAnUpdateRecordNothingIsTaken)
{
	auto tree = [] {
		std::vector<unsigned char> buffer(4096);
		fdt_create(buffer.data(), 4096);
		fdt_finish_reservemap(buffer.data());
		fdt_begin_node(buffer.data(), "");
		fdt_property_string(buffer.data(), "compatible", "ferry,tree-v1");
		fdt_begin_node(buffer.data(), "luo");
		fdt_begin_node(buffer.data(), "session@0");
		fdt_end_node(buffer.data());
		fdt_end_node(buffer.data());
		fdt_end_node(buffer.data());
		fdt_finish(buffer.data());
		buffer.resize(fdt_totalsize(buffer.data()));
		return buffer;
	}();
	unload();
	fake::boot(fake::carry_tree(tree));
	load();
	EXPECT_TRUE(fake::logged(FERRY_ERR, "sessions of the last kernel")) << fake::log_text();
	EXPECT_EQ(fake::luo_module().refs, 0);
	EXPECT_EQ(fake::kho_module().refs, 0);
}

TEST_F(LuoDamage, RingsAreRefusedAndLetGo)
{
	Sessions sessions;
	sessions.session("session@0", "one");
	sessions.file("file@0", 1, "device-v1").needs("needs@0", 2).state("a", 1).end();
	sessions.file("file@1", 2, "device-v1").needs("needs@0", 1).state("b", 1).end();
	sessions.file("file@2", 3, "device-v1").needs("needs@0", 3).state("c", 1).end();
	sessions.end();
	boot(sessions);
	int one = retrieve_session("one");
	EXPECT_EQ(retrieve(one, 1), -ELOOP);
	EXPECT_EQ(retrieve(one, 2), -ELOOP);
	EXPECT_EQ(retrieve(one, 3), -ELOOP);
	EXPECT_EQ(finish(one), 0);
	EXPECT_EQ(only("finish").size(), 3u);
	fake::close(one);
}

TEST_F(LuoDamage, NeedsThatAreNotThere)
{
	Sessions sessions;
	sessions.session("session@0", "one");
	sessions.file("file@0", 1, "device-v1").needs("needs@0", 77).state("a", 1).end();
	sessions.end();
	boot(sessions);
	int one = retrieve_session("one");
	EXPECT_LT(retrieve(one, 1), 0);
	EXPECT_EQ(finish(one), 0);
	fake::close(one);
}

TEST_F(LuoDamage, TooManyNeedsAreRefused)
{
	Sessions sessions;
	sessions.session("session@0", "one");
	sessions.file("file@0", 1, "device-v1");
	for (int i = 0; i < 1100; ++i) {
		char name[16];
		std::snprintf(name, sizeof(name), "needs@%x", i);
		sessions.needs(name, 2);
	}
	sessions.state("a").end();
	sessions.file("file@1", 2).state("b").end().end();
	boot(sessions);
	int one = retrieve_session("one");
	EXPECT_EQ(retrieve(one, 1), -ENOENT);
	fake::close(one);
}

TEST_F(LuoDamage, DeepDependenciesDoNotExhaustTheStack)
{
	Sessions sessions;
	sessions.session("session@0", "one");
	for (int i = 0; i < 2000; ++i) {
		char name[16];
		std::snprintf(name, sizeof(name), "file@%x", i);
		sessions.file(name, i, "device-v1");
		if (i)
			sessions.needs("needs@0", i - 1);
		sessions.state(name, i ? 1 : 0).end();
	}
	sessions.end();
	boot(sessions);
	int one = retrieve_session("one");
	int fd = retrieve(one, 1999);
	ASSERT_GE(fd, 0);
	fake::close(fd);
	// Kernel stacks are of 16 KiB.
	EXPECT_LT(deepest, 10) << "calls of handlers inside each other";
	EXPECT_EQ(finish(one), 0);
	fake::close(one);
}

} // namespace
