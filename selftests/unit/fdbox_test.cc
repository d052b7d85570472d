// SPDX-License-Identifier: GPL-2.0
// Boxes: what goes in and out, who may, and their way into the next kernel.
#include "fake/fdbox.hh"
#include "luo_testing.hh"

#include <uapi/linux/fdbox.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "fdbox/linux.h"

namespace {

class Fdbox : public Luo {
    protected:
	void SetUp() override
	{
		Luo::SetUp();
		ASSERT_EQ(start(), 0);
		there_ = true;
	}
	void TearDown() override
	{
		for (auto &[name, opener] : openers_)
			fdbox_release(opener);
		fake::privileged = true;
		while (!fake::box_devices.empty())
			ASSERT_EQ(remove(fake::box_devices.begin()->first), 0);
		fake::run_releases();
		gone();
		Luo::TearDown();
	}
	static int start()
	{
		int err = fdbox_module_init();
		if (!err)
			fdbox_module_start();
		return err;
	}
	void gone()
	{
		if (!std::exchange(there_, false))
			return;
		EXPECT_EQ(fake::fdbox_module().refs, 0);
		fdbox_module_exit();
	}

	static int manager(unsigned int command, fdbox_box arg)
	{
		return call(arg, [&](void *user) { return fdbox_manager_ioctl(command, user); });
	}
	static fdbox_box box(const std::string &name, unsigned char key = 0)
	{
		auto arg = named<fdbox_box>(name);
		arg.flags = key ? FDBOX_KEY : 0;
		std::memset(arg.key, key, sizeof(arg.key));
		return arg;
	}
	static int make(const std::string &name, unsigned char key = 0)
	{
		return manager(FDBOX_CREATE_BOX, box(name, key));
	}
	static int remove(const std::string &name, unsigned char key = 0)
	{
		return manager(FDBOX_DELETE_BOX, box(name, key));
	}

	// Opens the device of a box, once.
	int open_box(const std::string &name)
	{
		auto at = fake::box_devices.find(name);
		if (at == fake::box_devices.end())
			return -ENOENT;
		fdbox_opener *opener = nullptr;
		int err = fdbox_open(at->second, &opener);
		if (err)
			return err;
		close_box(name);
		openers_[name] = opener;
		return 0;
	}
	void close_box(const std::string &name)
	{
		if (openers_.count(name))
			fdbox_release(openers_[name]);
		openers_.erase(name);
	}
	template <class Arg> int on(const std::string &name, unsigned int command, Arg &arg)
	{
		return call(arg, [&](void *user) {
			return fdbox_ioctl(openers_.at(name), command, user);
		});
	}
	int put(const std::string &name, int fd, const std::string &as)
	{
		auto arg = named<fdbox_file>(as);
		arg.fd = fd;
		return on(name, FDBOX_PUT_FD, arg);
	}
	int get(const std::string &name, const std::string &as)
	{
		auto arg = named<fdbox_file>(as);
		int err = on(name, FDBOX_GET_FD, arg);
		return err ? err : arg.fd;
	}
	int seal(const std::string &name)
	{
		fdbox_seal arg{sizeof(arg), 0};
		return on(name, FDBOX_SEAL, arg);
	}
	int unseal(const std::string &name)
	{
		fdbox_seal arg{sizeof(arg), 0};
		return on(name, FDBOX_UNSEAL, arg);
	}
	int unlock(const std::string &name, unsigned char key)
	{
		fdbox_unlock arg{.size = sizeof(arg), .reserved = 0, .key = {}};
		std::memset(arg.key, key, sizeof(arg.key));
		return on(name, FDBOX_UNLOCK, arg);
	}
	// The names in it; "*" first when it is sealed, "+" when it came.
	std::vector<std::string> listed(const std::string &name)
	{
		std::vector<fdbox_entry> entries(16);
		fdbox_list arg{.size = sizeof(arg),
			       .sealed = 0,
			       .nr = 16,
			       .came = 0,
			       .entries = reinterpret_cast<unsigned long long>(entries.data())};
		fake::user_memory(entries.data(), entries.size() * sizeof(entries[0]));
		EXPECT_EQ(on(name, FDBOX_LIST, arg), 0);
		fake::user_memory_gone(entries.data());
		std::vector<std::string> all;
		if (arg.sealed)
			all.push_back("*");
		if (arg.came)
			all.push_back("+");
		for (unsigned int i = 0; i < arg.nr; ++i)
			all.push_back(reinterpret_cast<char *>(entries[i].name));
		return all;
	}

	// A box of a and b, which needs a.
	void fill(const std::string &name, unsigned char key = 0)
	{
		ASSERT_EQ(make(name, key), 0);
		ASSERT_EQ(open_box(name), 0);
		if (key)
			ASSERT_EQ(unlock(name, key), 0);
		int a = open("a"), b = open("b", DEVICE, {a});
		EXPECT_EQ(put(name, a, "memory"), 0);
		EXPECT_EQ(put(name, b, "device"), 0);
	}

	// Into the next kernel. What is in boxes here is deleted: the handover has it.
	void jump()
	{
		jump_without_boxes();
		ASSERT_EQ(start(), 0);
		there_ = true;
	}
	void jump_without_boxes()
	{
		ASSERT_EQ(luo_prepare(true), 0) << fake::log_text();
		fake::Handover handover = fake::handover();
		luo_abort();
		for (auto &[name, opener] : openers_)
			fdbox_release(opener);
		openers_.clear();
		while (!fake::box_devices.empty())
			ASSERT_EQ(remove(fake::box_devices.begin()->first), 0);
		gone();
		unload();
		fake::boot(handover);
		trace.clear();
		statuses.clear();
		load();
	}

	std::map<std::string, fdbox_opener *> openers_;
	bool there_ = false;
};

TEST_F(Fdbox, FilesMoveInAndOut)
{
	ASSERT_EQ(make("vm"), 0);
	ASSERT_EQ(open_box("vm"), 0);
	int a = open("a", 99);
	file *is = fake::file_of(a);
	EXPECT_EQ(put("vm", a, "one"), 0);
	EXPECT_EQ(fake::file_of(a), nullptr);
	EXPECT_EQ(listed("vm"), (std::vector<std::string>{"one"}));
	// Another process, by another open.
	close_box("vm");
	ASSERT_EQ(open_box("vm"), 0);
	int b = get("vm", "one");
	ASSERT_GE(b, 0);
	EXPECT_EQ(fake::file_of(b), is);
	EXPECT_EQ(get("vm", "one"), -ENOENT);
	fake::close(b);
}

TEST_F(Fdbox, NamesOfBoxes)
{
	for (const char *name : {"", ".", "..", ".x", "fdbox", "a/b", "a b", "\xc3\xa9",
				 "012345678901234567890123456789012345678901234567"})
		EXPECT_EQ(make(name), -EINVAL) << name;
	EXPECT_EQ(make("01234567890123456789012345678901234567890123456"), 0);
	EXPECT_EQ(make("a.B_c-9"), 0);
	EXPECT_EQ(make("a.B_c-9"), -EEXIST);
	EXPECT_EQ(remove("other"), -ENOENT);
	auto arg = box("x");
	arg.key[3] = 1;
	EXPECT_EQ(manager(FDBOX_CREATE_BOX, arg), -EINVAL);
	arg.flags = 2;
	EXPECT_EQ(manager(FDBOX_CREATE_BOX, arg), -EOPNOTSUPP);
	arg = box("x");
	std::memset(arg.name, 'x', sizeof(arg.name));
	EXPECT_EQ(manager(FDBOX_CREATE_BOX, arg), -EINVAL);
	EXPECT_EQ(manager(FDBOX_SEAL, arg), -ENOTTY);
}

TEST_F(Fdbox, WhatCannotGoIn)
{
	ASSERT_EQ(make("vm"), 0);
	ASSERT_EQ(open_box("vm"), 0);
	EXPECT_EQ(put("vm", 99, "one"), -EBADF);
	int a = open("a"), self = open("/dev/fdbox/vm"), other = open("/dev/fdbox/fdbox");
	EXPECT_EQ(put("vm", a, ""), -EINVAL);
	EXPECT_EQ(put("vm", self, "self"), -ELOOP);
	EXPECT_EQ(put("vm", other, "other"), -ELOOP);
	EXPECT_NE(fake::file_of(self), nullptr);
	int b = open("b");
	EXPECT_EQ(put("vm", a, "one"), 0);
	EXPECT_EQ(put("vm", b, "one"), -EEXIST);
	for (int fd : {self, other, b})
		fake::close(fd);
}

TEST_F(Fdbox, WhoMay)
{
	fake::caller = 1000;
	ASSERT_EQ(make("theirs"), 0);
	fake::caller = 0;
	EXPECT_EQ(open_box("theirs"), -EACCES);
	ASSERT_EQ(make("locked", 7), 0);
	fake::caller = 1001;
	ASSERT_EQ(open_box("locked"), 0);
	EXPECT_EQ(seal("locked"), -EPERM);
	EXPECT_EQ(get("locked", "x"), -EPERM);
	EXPECT_EQ(unlock("locked", 8), -EPERM);
	EXPECT_TRUE(fake::logged(FERRY_WARN, "locked"));
	EXPECT_EQ(seal("locked"), -EPERM);
	EXPECT_EQ(unlock("locked", 7), 0);
	EXPECT_EQ(seal("locked"), 0);
	// For this open file only.
	ASSERT_EQ(open_box("locked"), 0);
	EXPECT_EQ(unseal("locked"), -EPERM);

	fake::privileged = false;
	EXPECT_EQ(remove("theirs"), -EPERM);
	EXPECT_EQ(remove("locked"), -EPERM);
	EXPECT_EQ(remove("locked", 8), -EPERM);
	EXPECT_EQ(remove("locked", 7), 0);
	EXPECT_EQ(unlock("locked", 7), 0);
	EXPECT_EQ(seal("locked"), -ENODEV);
	fake::caller = 1000;
	EXPECT_EQ(remove("theirs"), 0);
}

TEST_F(Fdbox, ASealedBoxIsShut)
{
	fill("vm");
	EXPECT_EQ(unseal("vm"), -EALREADY);
	EXPECT_EQ(seal("vm"), 0);
	EXPECT_EQ(only("preserve"), (Trace{"a", "b"}));
	EXPECT_EQ(seal("vm"), -EALREADY);
	int c = open("c");
	EXPECT_EQ(put("vm", c, "c"), -EBUSY);
	EXPECT_EQ(get("vm", "memory"), -EBUSY);
	EXPECT_EQ(listed("vm"), (std::vector<std::string>{"*", "memory", "device"}));
	// Its session is fdbox's own.
	EXPECT_EQ(create("fdbox:vm"), -EEXIST);
	EXPECT_EQ(unseal("vm"), 0);
	EXPECT_EQ(only("unpreserve"), (Trace{"b", "a"}));
	EXPECT_EQ(put("vm", c, "c"), 0);
}

// Whoever asks in the middle of it.
TEST_F(Fdbox, WhileABoxIsSealedNothingChanges)
{
	fill("vm");
	int c = open("c"), asked = 0;
	during = [&](const std::string &what, ferry_luo_file *) {
		if (what != "preserve b")
			return;
		std::thread([&] {
			++asked;
			EXPECT_EQ(put("vm", c, "c"), -EBUSY);
			EXPECT_EQ(get("vm", "memory"), -EBUSY);
			EXPECT_EQ(seal("vm"), -EBUSY);
			EXPECT_EQ(unseal("vm"), -EBUSY);
			EXPECT_EQ(remove("vm"), -EBUSY);
			EXPECT_EQ(listed("vm"), (std::vector<std::string>{"memory", "device"}));
		}).join();
	};
	EXPECT_EQ(seal("vm"), 0);
	// Also when it fails.
	EXPECT_EQ(unseal("vm"), 0);
	results["preserve b"] = -EIO;
	EXPECT_EQ(seal("vm"), -EIO);
	during = nullptr;
	results.clear();
	EXPECT_EQ(asked, 2);
	EXPECT_EQ(put("vm", c, "c"), 0);
	EXPECT_EQ(seal("vm"), 0);
}

// It could still fail, and then nobody may have anything open: neither boxes nor a way to make
// some.
TEST_F(Fdbox, BoxesComeWhenNothingFailsAnyMore)
{
	fill("vm");
	EXPECT_EQ(seal("vm"), 0);
	jump_without_boxes();
	ASSERT_EQ(fdbox_module_init(), 0);
	EXPECT_TRUE(fake::box_devices.empty());
	EXPECT_EQ(make("other"), -EAGAIN);
	EXPECT_EQ(remove("vm"), -EAGAIN);
	EXPECT_EQ(fake::fdbox_module().refs, 0);
	fdbox_module_exit();
	ASSERT_EQ(start(), 0);
	there_ = true;
	ASSERT_EQ(open_box("vm"), 0);
	EXPECT_EQ(unseal("vm"), 0);
}

TEST_F(Fdbox, SealingChecksWhatIsNeeded)
{
	fill("vm");
	int memory = get("vm", "memory");
	EXPECT_EQ(seal("vm"), -ENOENT);
	EXPECT_EQ(only("unpreserve"), (Trace{"b"}));
	EXPECT_EQ(listed("vm"), (std::vector<std::string>{"device"}));
	EXPECT_EQ(put("vm", memory, "memory"), 0);
	EXPECT_EQ(seal("vm"), 0);
	EXPECT_EQ(unseal("vm"), 0);
	// A kind that nobody can carry.
	int odd = open("odd", 99);
	EXPECT_EQ(put("vm", odd, "odd"), 0);
	EXPECT_EQ(seal("vm"), -ENOENT);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "'odd'"));
	odd = get("vm", "odd");
	EXPECT_EQ(seal("vm"), 0);
	fake::close(odd);
}

TEST_F(Fdbox, SealedBoxesCross)
{
	fill("vm", 7);
	EXPECT_EQ(seal("vm"), 0);
	ASSERT_EQ(make("open"), 0);
	ASSERT_EQ(open_box("open"), 0);
	EXPECT_EQ(put("open", open("c"), "c"), 0);
	jump();
	EXPECT_EQ(fake::box_devices.size(), 1u);
	ASSERT_EQ(open_box("vm"), 0);
	EXPECT_EQ(unseal("vm"), -EPERM);
	// Not by the back door.
	EXPECT_EQ(retrieve_with("fdbox:vm", 7), -EINVAL);
	EXPECT_EQ(unlock("vm", 6), -EPERM);
	EXPECT_EQ(unlock("vm", 7), 0);
	EXPECT_EQ(listed("vm"), (std::vector<std::string>{"*", "+", "memory", "device"}));
	EXPECT_EQ(get("vm", "memory"), -EBUSY);
	EXPECT_EQ(unseal("vm"), 0);
	EXPECT_EQ(only("retrieve"), (Trace{"a", "b"}));
	int b = get("vm", "device");
	ASSERT_GE(b, 0);
	EXPECT_EQ(fake::file_of(b)->needs.size(), 1u);
	fake::close(b);
}

TEST_F(Fdbox, ABoxCrossesAgainAndAgain)
{
	fill("vm");
	for (int update = 0; update < 3; ++update) {
		EXPECT_EQ(seal("vm"), 0) << update;
		jump();
		ASSERT_EQ(open_box("vm"), 0);
		EXPECT_EQ(unseal("vm"), 0);
	}
	EXPECT_EQ(listed("vm"), (std::vector<std::string>{"+", "memory", "device"}));
}

TEST_F(Fdbox, AnUnsealingThatFailsLosesNothing)
{
	fill("vm");
	EXPECT_EQ(seal("vm"), 0);
	jump();
	ASSERT_EQ(open_box("vm"), 0);
	remove_kind(DEVICE);
	EXPECT_EQ(unseal("vm"), -ENOENT);
	EXPECT_EQ(listed("vm")[0], "*");
	add_kind(DEVICE);
	EXPECT_EQ(unseal("vm"), 0);
	int b = get("vm", "device");
	EXPECT_GE(b, 0);
	fake::close(b);
}

TEST_F(Fdbox, WhatCameIsFinishedBeforeItIsSealedOrDeleted)
{
	fill("vm");
	EXPECT_EQ(seal("vm"), 0);
	jump();
	ASSERT_EQ(open_box("vm"), 0);
	// Nobody unsealed it: a kexec would lose it.
	EXPECT_EQ(luo_prepare(true), -EBUSY);
	EXPECT_EQ(unseal("vm"), 0);
	results["can_finish b"] = -EBUSY;
	EXPECT_EQ(seal("vm"), -EBUSY);
	EXPECT_EQ(remove("vm"), -EBUSY);
	EXPECT_EQ(listed("vm"), (std::vector<std::string>{"+", "memory", "device"}));
	results.clear();
	EXPECT_EQ(seal("vm"), 0);
	EXPECT_EQ(listed("vm"), (std::vector<std::string>{"*", "memory", "device"}));
	EXPECT_EQ(only("finish"), (Trace{"b", "a"}));
}

TEST_F(Fdbox, ABoxThatNobodyUnsealsIsReleasedWhenItIsDeleted)
{
	fill("vm");
	EXPECT_EQ(seal("vm"), 0);
	jump();
	EXPECT_EQ(remove("vm"), 0);
	EXPECT_EQ(only("finish"), (Trace{"b", "a"}));
	EXPECT_EQ(statuses["a"], FERRY_NOT_RETRIEVED);
	EXPECT_EQ(fake::luo_module().refs, 0);
}

TEST_F(Fdbox, ListsFitTheirCaller)
{
	fill("vm");
	fdbox_entry entry;
	fdbox_list arg{.size = sizeof(arg),
		       .sealed = 0,
		       .nr = 1,
		       .came = 0,
		       .entries = reinterpret_cast<unsigned long long>(&entry)};
	EXPECT_EQ(on("vm", FDBOX_LIST, arg), -ENOSPC);
	EXPECT_EQ(arg.nr, 2u);
	EXPECT_EQ(on("vm", FDBOX_LIST, arg), -EFAULT);
	fdbox_seal seal{sizeof(seal), 1};
	EXPECT_EQ(on("vm", FDBOX_SEAL, seal), -EINVAL);
	EXPECT_EQ(on("vm", FDBOX_UNSEAL, seal), -EINVAL);
	EXPECT_EQ(on("vm", FDBOX_CREATE_BOX, seal), -ENOTTY);
}

TEST_F(Fdbox, EveryFailureToCreateAndToPut)
{
	for_each_failure([] {
		int err = make("vm", 3);
		return err ? err : remove("vm");
	});
	ASSERT_EQ(make("vm"), 0);
	ASSERT_EQ(open_box("vm"), 0);
	int fd = -1;
	for_each_failure([&] { fd = open("a"); }, [&] { return put("vm", fd, "a"); },
			 [&] {
				 int back = get("vm", "a");
				 fake::close(back >= 0 ? back : fd);
			 });
}

TEST_F(Fdbox, EveryFailureToSeal)
{
	fill("vm");
	for_each_failure([] {}, [&] { return seal("vm"); }, [&] { unseal("vm"); });
}

TEST_F(Fdbox, EveryFailureToUnseal)
{
	fill("vm");
	EXPECT_EQ(seal("vm"), 0);
	jump();
	ASSERT_EQ(open_box("vm"), 0);
	fake::arm(1);
	int err = unseal("vm");
	fake::disarm();
	EXPECT_EQ(err, -ENOMEM);
	EXPECT_EQ(listed("vm")[0], "*");
	EXPECT_EQ(unseal("vm"), 0);
}

/* ---- boxes that are sealed together ---- */

class Together : public Fdbox {
    protected:
	void TearDown() override
	{
		close_files();
		Fdbox::TearDown();
	}
	void close_files()
	{
		fake::box_openers.clear();
		for (int fd : std::exchange(fds_, {}))
			fake::close(fd);
	}
	// A descriptor of an open box.
	int fd_of(const std::string &name)
	{
		int fd = open("/dev/fdbox/" + name);
		fake::box_openers[fake::file_of(fd)] = openers_.at(name);
		fds_.push_back(fd);
		return fd;
	}
	int seal_with(const std::string &name, std::vector<int> fds)
	{
		fdbox_seal_with arg{.size = sizeof(arg),
				    .nr = static_cast<unsigned int>(fds.size()),
				    .fds = reinterpret_cast<unsigned long long>(fds.data())};
		if (!fds.empty())
			fake::user_memory(fds.data(), fds.size() * sizeof(fds[0]));
		int err = on(name, FDBOX_SEAL_WITH, arg);
		if (!fds.empty())
			fake::user_memory_gone(fds.data());
		return err;
	}
	// "device" has b, which needs a in "memory"; "other" has c.
	void fill_boxes()
	{
		for (const char *name : {"device", "memory", "other"}) {
			ASSERT_EQ(make(name), 0);
			ASSERT_EQ(open_box(name), 0);
		}
		int a = open("a"), b = open("b", DEVICE, {a});
		EXPECT_EQ(put("memory", a, "a"), 0);
		EXPECT_EQ(put("device", b, "b"), 0);
		EXPECT_EQ(put("other", open("c"), "c"), 0);
	}
	int seal_all()
	{
		return seal_with("device", {fd_of("other"), fd_of("memory")});
	}
	void cross()
	{
		close_files();
		jump();
		for (const char *name : {"device", "memory", "other"})
			ASSERT_EQ(open_box(name), 0);
	}
	bool is_sealed(const std::string &name)
	{
		auto all = listed(name);
		return !all.empty() && all[0] == "*";
	}

    private:
	std::vector<int> fds_;
};

TEST_F(Together, WhatIsNeededMayBeInAnyOfThem)
{
	fill_boxes();
	EXPECT_EQ(seal("device"), -ENOENT);
	EXPECT_EQ(seal_with("device", {fd_of("other")}), -ENOENT);
	EXPECT_FALSE(is_sealed("other"));
	EXPECT_EQ(seal_all(), 0);
	for (const char *name : {"device", "memory", "other"}) {
		EXPECT_TRUE(is_sealed(name)) << name;
		EXPECT_EQ(seal(name), -EALREADY) << name;
		EXPECT_EQ(get(name, "a"), -EBUSY) << name;
	}
	// One seal: who opens it in one box opens it in all.
	EXPECT_EQ(unseal("other"), 0);
	for (const char *name : {"device", "memory", "other"}) {
		EXPECT_FALSE(is_sealed(name)) << name;
		EXPECT_EQ(unseal(name), -EALREADY) << name;
	}
	EXPECT_EQ(only("unpreserve").size(), 6u);
	EXPECT_EQ(seal("other"), 0);
	EXPECT_EQ(seal_all(), -EALREADY);
	EXPECT_FALSE(is_sealed("memory"));
	EXPECT_EQ(unseal("other"), 0);
	EXPECT_EQ(seal_all(), 0);
}

TEST_F(Together, WhatIsRefused)
{
	fill_boxes();
	EXPECT_EQ(seal_with("device", {}), -EINVAL);
	EXPECT_EQ(seal_with("device", std::vector<int>(FDBOX_MAX_TOGETHER, 0)), -EINVAL);
	EXPECT_EQ(seal_with("device", {fd_of("device")}), -EINVAL);
	EXPECT_EQ(seal_with("device", {fd_of("memory"), fd_of("memory")}), -EINVAL);
	EXPECT_EQ(seal_with("device", {99}), -EBADF);
	int plain = open("plain");
	EXPECT_EQ(seal_with("device", {plain}), -EBADF);
	fake::close(plain);
	ASSERT_EQ(make("locked", 7), 0);
	ASSERT_EQ(open_box("locked"), 0);
	EXPECT_EQ(seal_with("device", {fd_of("memory"), fd_of("locked")}), -EPERM);
	EXPECT_EQ(unlock("locked", 7), 0);
	EXPECT_EQ(seal_with("device", {fd_of("memory"), fd_of("locked")}), 0);
	EXPECT_EQ(unseal("locked"), 0);
	EXPECT_EQ(remove("locked"), 0);
	EXPECT_EQ(seal_with("device", {fd_of("memory"), fd_of("locked")}), -ENODEV);
	EXPECT_FALSE(is_sealed("memory"));
	fdbox_seal_with arg{.size = sizeof(arg), .nr = 1, .fds = 8};
	EXPECT_EQ(on("device", FDBOX_SEAL_WITH, arg), -EFAULT);
}

TEST_F(Together, TheyCross)
{
	fill_boxes();
	EXPECT_EQ(seal_all(), 0);
	cross();
	for (const char *name : {"device", "memory", "other"})
		EXPECT_TRUE(is_sealed(name)) << name;
	EXPECT_EQ(listed("device"), (std::vector<std::string>{"*", "+", "b"}));
	EXPECT_EQ(listed("memory"), (std::vector<std::string>{"*", "+", "a"}));
	// Each for itself, and what it needs is there.
	EXPECT_EQ(unseal("device"), 0);
	EXPECT_EQ(only("retrieve"), (Trace{"a", "b"}));
	EXPECT_TRUE(is_sealed("memory"));
	// Its files would be lost with the session.
	EXPECT_EQ(seal("device"), -EBUSY);
	EXPECT_EQ(luo_prepare(true), -EBUSY);
	EXPECT_EQ(unseal("memory"), 0);
	EXPECT_EQ(seal_with("device", {fd_of("memory")}), -EBUSY);
	EXPECT_EQ(unseal("other"), 0);
	results["can_finish b"] = -EBUSY;
	EXPECT_EQ(seal_with("device", {fd_of("memory")}), -EBUSY);
	results.clear();
	EXPECT_EQ(seal_with("device", {fd_of("memory")}), 0);
	EXPECT_EQ(only("finish").size(), 3u);
	EXPECT_EQ(listed("other"), (std::vector<std::string>{"c"}));
	EXPECT_EQ(seal("other"), 0);
	// In another order, and other sets.
	cross();
	EXPECT_EQ(unseal("memory"), 0);
	EXPECT_EQ(unseal("other"), 0);
	EXPECT_EQ(unseal("device"), 0);
}

TEST_F(Together, DeletingOneLeavesTheOthers)
{
	fill_boxes();
	EXPECT_EQ(seal_all(), 0);
	// Not for the next kernel any more, but nothing of the others is lost.
	EXPECT_EQ(remove("other"), 0);
	EXPECT_FALSE(is_sealed("memory"));
	EXPECT_EQ(listed("memory"), (std::vector<std::string>{"a"}));
	ASSERT_EQ(make("other"), 0);
	ASSERT_EQ(open_box("other"), 0);
	EXPECT_EQ(seal_all(), 0);
	cross();
	EXPECT_EQ(remove("memory"), 0);
	EXPECT_EQ(remove("other"), 0);
	EXPECT_EQ(only("finish").size(), 0u);
	EXPECT_EQ(unseal("device"), 0);
	results["can_finish b"] = -EBUSY;
	EXPECT_EQ(remove("device"), -EBUSY);
	results.clear();
	EXPECT_EQ(remove("device"), 0);
	EXPECT_EQ(only("finish"), (Trace{"b", "a"}));
	EXPECT_EQ(fake::luo_module().refs, 0);
}

TEST_F(Together, EveryFailureToSeal)
{
	fill_boxes();
	std::vector<int> fds{fd_of("other"), fd_of("memory")};
	for_each_failure([] {}, [&] { return seal_with("device", fds); },
			 [&] {
				 unseal("device");
				 for (const char *name : {"device", "memory", "other"})
					 EXPECT_FALSE(is_sealed(name)) << name;
			 });
}

// A kexec that comes while boxes are sealed together finds the whole set, or nothing of it.
TEST_F(Together, AKexecInTheMiddleTakesAllOrNothing)
{
	fill_boxes();
	std::vector<int> fds{fd_of("other"), fd_of("memory")};
	std::thread kexec;
	std::atomic<bool> began = false, over = false;
	fake::Handover handover;
	during = [&](const std::string &what, ferry_luo_file *) {
		if (what != "preserve c")
			return;
		// One box is in already. It waits.
		kexec = std::thread([&] {
			began = true;
			EXPECT_EQ(luo_prepare(true), 0);
			handover = fake::handover();
			over = true;
			luo_abort();
		});
		while (!began)
			std::this_thread::yield();
		std::this_thread::sleep_for(std::chrono::milliseconds(20));
		EXPECT_FALSE(over);
	};
	EXPECT_EQ(seal_with("device", fds), 0);
	kexec.join();
	EXPECT_TRUE(over);
	EXPECT_EQ(only("freeze").size(), 3u);
	EXPECT_EQ(unseal("device"), 0);
	trace.clear();
	// What fails later is undone before it goes on.
	over = began = false;
	results["preserve a"] = -EIO;
	EXPECT_EQ(seal_with("device", fds), -EIO);
	kexec.join();
	EXPECT_TRUE(over);
	EXPECT_EQ(only("preserve"), (Trace{"b", "c", "a"}));
	EXPECT_EQ(only("unpreserve"), (Trace{"c", "b"}));
	EXPECT_TRUE(only("freeze").empty());
	during = nullptr;
	results.clear();
}

// A box that cannot be made leaves the others, and its files with them.
TEST_F(Together, EveryFailureToArrive)
{
	fill_boxes();
	EXPECT_EQ(seal_all(), 0);
	close_files();
	ASSERT_EQ(luo_prepare(true), 0);
	fake::Handover handover = fake::handover();
	luo_abort();
	for (auto &[name, opener] : openers_)
		fdbox_release(opener);
	openers_.clear();
	while (!fake::box_devices.empty())
		ASSERT_EQ(remove(fake::box_devices.begin()->first), 0);
	gone();
	std::size_t most = 0;
	for (int nr = 1; most < 3; ++nr) {
		ASSERT_LT(nr, 100);
		unload();
		fake::boot(handover);
		load();
		fake::arm(nr);
		int err = start();
		fake::disarm();
		if (!err) {
			most = std::max(most, fake::box_devices.size());
			while (!fake::box_devices.empty())
				ASSERT_EQ(remove(fake::box_devices.begin()->first), 0);
			fdbox_module_exit();
		}
		for (const char *name : {"fdbox:device", "fdbox:memory", "fdbox:other"})
			discard(name);
	}
}

// What is handed over is not trusted: tags that make no set.
TEST_F(Together, TagsThatMakeNoSet)
{
	struct Case {
		unsigned long long tags[2];
		std::size_t boxes;
	};
	for (const Case &each :
	     {Case{{0, 0}, 2}, Case{{0x10000, 0x10001}, 2}, Case{{0x10001, 0x10002}, 0},
	      Case{{0x10000, 0x10000}, 1}, Case{{0x10000, 0x20001}, 1},
	      Case{{0x10000, 0x10000 + 32}, 1}, Case{{0x10001, 0x10000}, 1}, Case{{1, 0}, 1}}) {
		ferry_luo_session *made[2];
		for (int i = 0; i < 2; ++i) {
			ferry_luo_about about{};
			std::snprintf(about.name, sizeof(about.name), "fdbox:%d", i);
			std::strcpy(about.maker, "fdbox");
			about.tag = each.tags[i];
			ASSERT_EQ(ferry_luo_session_create(&about, &made[i]), 0);
		}
		ASSERT_EQ(luo_prepare(true), 0);
		fake::Handover handover = fake::handover();
		luo_abort();
		for (auto *session : made)
			ferry_luo_session_close(session);
		gone();
		unload();
		fake::boot(handover);
		load();
		ASSERT_EQ(start(), 0);
		there_ = true;
		EXPECT_EQ(fake::box_devices.size(), each.boxes) << each.tags[0] << each.tags[1];
		while (!fake::box_devices.empty())
			ASSERT_EQ(remove(fake::box_devices.begin()->first), 0);
		// Those wait, and are not lost.
		unsigned long long left = 0;
		for (int i = 0; i < 2; ++i)
			left += !discard(("fdbox:" + std::to_string(i)).c_str());
		EXPECT_EQ(left, 2 - each.boxes);
	}
}

} // namespace
