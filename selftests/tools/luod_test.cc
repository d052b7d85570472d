// SPDX-License-Identifier: GPL-2.0
// luod: its registry, the custody of sessions, also when it is killed at any of its calls,
// the barrier, the fd store without systemd, and the socket.
#include "selftests/tools/kernel.hh"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/luod/agent.hh"
#include "tools/luod/barrier.hh"
#include "tools/luod/client.hh"
#include "tools/luod/keeper.hh"
#include "tools/luod/server.hh"

using namespace luod;

namespace {

constexpr Owner root{0, 0}, alice{1000, 1000}, bob{1001, 1001};

int error_of(const auto &result)
{
	if (result)
		return 0;
	if constexpr (requires { result.error().code; })
		return result.error().code;
	else
		return result.error().value();
}

Fd memfd(const std::string &text)
{
	Fd fd(::memfd_create("test", MFD_CLOEXEC));
	EXPECT_EQ(::pwrite(fd.get(), text.data(), text.size(), 0), ssize_t(text.size()));
	return fd;
}

std::string contents(const Fd &fd)
{
	char text[64] = {};
	EXPECT_GE(::pread(fd.get(), text, sizeof(text) - 1, 0), 0);
	return text;
}

Fd copy(const Fd &fd)
{
	return Fd(::dup(fd.get()));
}

// ---- the registry ----

TEST(Registry, IsReadAsItWasWritten)
{
	auto registry = Registry::create();
	ASSERT_TRUE(registry);
	Fd fd(::dup(registry->fd()));
	EXPECT_TRUE(registry->add("vm", alice));
	EXPECT_TRUE(registry->add("db.2", root));
	EXPECT_TRUE(registry->add("gone", bob));
	registry->remove("gone");
	registry->remove("never");
	auto again = Registry::open(std::move(fd));
	ASSERT_TRUE(again);
	EXPECT_EQ(again->owners(), (Owners{{"vm", alice}, {"db.2", root}}));
}

TEST(Registry, Names)
{
	for (const char *good : {"a", "A-Z_0.9", "luod2"})
		EXPECT_TRUE(valid_name(good)) << good;
	EXPECT_TRUE(valid_name(std::string(63, 'x')));
	for (const char *bad : {"", "a b", "a:b", "a/b", "a\n", "\xc3\xa4", "luod", "systemd"})
		EXPECT_FALSE(valid_name(bad)) << bad;
	EXPECT_FALSE(valid_name(std::string(64, 'x')));
	auto registry = Registry::create();
	EXPECT_EQ(error_of(registry->add("a:b", root)), EINVAL);
}

TEST(Registry, HasRoomForAsManyAsItSays)
{
	auto registry = Registry::create();
	Fd fd(::dup(registry->fd()));
	constexpr Owner greatest{UINT32_MAX, UINT32_MAX};
	for (std::size_t i = 0; i < Registry::max_sessions; ++i) {
		std::string name = std::to_string(i);
		ASSERT_TRUE(registry->add(std::string(63 - name.size(), 'x') + name, greatest))
			<< i;
	}
	EXPECT_EQ(error_of(registry->add("more", root)), ENOSPC);
	auto again = Registry::open(std::move(fd));
	ASSERT_TRUE(again);
	EXPECT_EQ(again->owners().size(), Registry::max_sessions);
}

// What another process wrote: every byte of what counts, wrong, must not be believed or hurt.
TEST(Registry, IsNotTrusted)
{
	auto registry = Registry::create();
	ASSERT_TRUE(registry->add("vm", alice));
	struct stat is;
	ASSERT_EQ(::fstat(registry->fd(), &is), 0);
	std::vector<char> bytes(static_cast<std::size_t>(is.st_size));
	ASSERT_EQ(::pread(registry->fd(), bytes.data(), bytes.size(), 0), is.st_size);
	auto open = [&](const std::vector<char> &what) {
		Fd fd(::memfd_create("damaged", 0));
		EXPECT_EQ(::write(fd.get(), what.data(), what.size()), ssize_t(what.size()));
		return Registry::open(std::move(fd));
	};
	ASSERT_TRUE(open(bytes));
	EXPECT_EQ(error_of(open({})), EBADMSG);
	EXPECT_EQ(error_of(open({bytes.begin(), bytes.end() - 1})), EBADMSG);
	EXPECT_EQ(error_of(Registry::open(Fd(::socket(AF_UNIX, SOCK_STREAM, 0)))), EBADMSG);
	std::size_t refused = 0;
	// The header, and both texts with their lengths.
	for (std::size_t half : {std::size_t(0), bytes.size() / 2}) {
		for (std::size_t i = half; i < half + 150; ++i) {
			for (int flip : {1, 0x20, 0x80, 0xff}) {
				char wrong = static_cast<char>(bytes[i] ^ flip);
				ASSERT_EQ(::pwrite(registry->fd(), &wrong, 1, off_t(i)), 1);
				auto opened = Registry::open(Fd(::dup(registry->fd())));
				if (!opened)
					EXPECT_EQ(error_of(opened), EBADMSG);
				else
					EXPECT_LE(opened->owners().size(), 1u);
				refused += !opened;
			}
			ASSERT_EQ(::pwrite(registry->fd(), &bytes[i], 1, off_t(i)), 1);
		}
	}
	EXPECT_GT(refused, 200u);
	const char *const bad[] = {
		"",
		"[]",
		R"({"version":2,"sessions":[]})",
		R"({"version":1})",
		R"({"version":1,"sessions":{}})",
		R"({"version":1,"sessions":[1]})",
		R"({"version":1,"sessions":[{"name":"x","uid":-1,"gid":0}]})",
		R"({"version":1,"sessions":[{"name":"x","uid":4294967296,"gid":0}]})",
		R"({"version":1,"sessions":[{"name":"a b","uid":1,"gid":0}]})",
		R"({"version":1,"sessions":[{"name":"x","uid":1}]})",
		R"({"version":1,"sessions":[{"name":"x","uid":1,"gid":0},)"
		R"({"name":"x","uid":2,"gid":0}]})"};
	for (const char *text : bad) {
		auto damaged = bytes;
		for (std::size_t side : {std::size_t(64), 64 + (bytes.size() - 64) / 2}) {
			auto length = static_cast<std::uint32_t>(std::strlen(text));
			std::memcpy(&damaged[side], &length, sizeof(length));
			std::memcpy(&damaged[side + sizeof(length)], text, length);
		}
		EXPECT_EQ(error_of(open(damaged)), EBADMSG) << text;
	}
}

// ---- custody ----

// The fd store, which survives luod. What is armed in the kernel strikes here, too.
class TestStore : public Store {
    public:
	explicit TestStore(fake::Kernel &kernel) : kernel_(kernel)
	{
	}
	Outcome<> add(const std::string &name, int fd) override
	{
		if (int error = kernel_.strike(true, 0); error)
			return luod::refuse(-error, "the store is full");
		kept_.push_back({name, Fd(::dup(fd))});
		kernel_.strike(false, 0);
		return {};
	}
	void remove(const std::string &name) override
	{
		// It cannot fail.
		static_cast<void>(kernel_.strike(true, 0));
		std::erase_if(kept_, [&](auto &each) { return each.name == name; });
		kernel_.strike(false, 0);
	}
	std::vector<Kept> give() const
	{
		std::vector<Kept> all;
		for (auto &each : kept_)
			all.push_back({each.name, copy(each.fd)});
		return all;
	}
	std::vector<std::string> names() const
	{
		std::vector<std::string> all;
		for (auto &each : kept_)
			all.push_back(each.name);
		std::ranges::sort(all);
		return all;
	}
	void clear()
	{
		kept_.clear();
	}

    private:
	fake::Kernel &kernel_;
	std::vector<Kept> kept_;
};

class Custody : public testing::TestWithParam<bool> {
    protected:
	Outcome<Agent> start()
	{
		return Agent::start(store, store.give(), [&](auto &what) { log += what + "\n"; });
	}
	// Everything of the old kernel's processes is gone.
	void kexec(std::optional<Agent> &agent)
	{
		// What it held until the jump is carried; its descriptors are of no use any more.
		kernel.kexec();
		agent.reset();
		store.clear();
	}

	fake::Kernel kernel{GetParam()};
	TestStore store{kernel};
	std::string log;
};

INSTANTIATE_TEST_SUITE_P(Kernels, Custody, testing::Bool(),
			 [](auto &info) { return info.param ? "Ferry" : "Mainline"; });

TEST_P(Custody, OverAKexecAndARestart)
{
	std::optional<Agent> agent = *start();
	auto session = agent->create(alice, "vm", {});
	ASSERT_TRUE(session) << session.error().text;
	ASSERT_TRUE(liveupdate::Session(std::move(*session)).preserve(memfd("memory").get(), 1));
	// luod dies, its service died already; both come again.
	agent.reset();
	agent = *start();
	EXPECT_TRUE(agent->get(alice, "vm", Direction::out));
	kexec(agent);

	agent = *start();
	auto list = agent->list();
	ASSERT_EQ(list.size(), 1u);
	EXPECT_EQ(list[0].owner, alice);
	EXPECT_TRUE(list[0].held);
	EXPECT_EQ(agent->unfinished(), std::vector<std::string>{"vm"});
	agent.reset();
	agent = *start();
	for (int i = 0; i < 2; ++i) {
		auto carried = agent->get(alice, "vm", Direction::in);
		ASSERT_TRUE(carried) << carried.error().text;
		EXPECT_EQ(contents(*liveupdate::Session(std::move(*carried)).retrieve(1)),
			  "memory");
	}
	EXPECT_TRUE(agent->finish(alice, "vm"));
	EXPECT_EQ(kernel.incoming("vm"), nullptr);
	EXPECT_EQ(store.names(), (std::vector<std::string>{"registry-out", "self-out"}));
	EXPECT_EQ(log, "");
}

// systemd retrieves the sessions in its fd store itself, and has them in the same places.
TEST_P(Custody, OverAKexecInTheStoreOfTheServiceManager)
{
	std::optional<Agent> agent = *start();
	auto session = agent->create(alice, "vm", {});
	ASSERT_TRUE(session) << session.error().text;
	ASSERT_TRUE(liveupdate::Session(std::move(*session)).preserve(memfd("memory").get(), 1));
	kexec(agent);
	{
		auto device = *liveupdate::Device::open();
		auto own = *device.retrieve("luod"), vm = *device.retrieve("vm");
		ASSERT_TRUE(store.add("out-vm", vm.get()));
		ASSERT_TRUE(store.add("self-out", own.get()));
		// What was in the store of the last kernel, of the one before it.
		ASSERT_TRUE(store.add("registry-in", memfd("stale").get()));
	}
	for (int i = 0; i < 2; ++i) {
		agent = start().value();
		auto carried = agent->get(alice, "vm", Direction::in);
		ASSERT_TRUE(carried) << carried.error().text;
		EXPECT_EQ(contents(*liveupdate::Session(std::move(*carried)).retrieve(1)),
			  "memory");
		agent.reset();
	}
	agent = *start();
	EXPECT_TRUE(agent->finish(alice, "vm"));
	EXPECT_EQ(store.names(), (std::vector<std::string>{"registry-out", "self-out"}));
	EXPECT_EQ(log, "");
}

TEST_P(Custody, OnlyForItsOwnerAndRoot)
{
	std::optional<Agent> agent = *start();
	ASSERT_TRUE(agent->create(alice, "vm", {}));
	EXPECT_EQ(error_of(agent->create(bob, "vm", {})), EEXIST);
	EXPECT_EQ(error_of(agent->get(bob, "vm", Direction::out)), EACCES);
	EXPECT_EQ(error_of(agent->drop(bob, "vm")), EACCES);
	EXPECT_TRUE(agent->get(root, "vm", Direction::out));
	EXPECT_EQ(error_of(agent->get(alice, "vm", Direction::in)), ENOENT);
	kexec(agent);
	agent = *start();
	EXPECT_EQ(error_of(agent->get(bob, "vm", Direction::in)), EACCES);
	EXPECT_EQ(error_of(agent->finish(bob, "vm")), EACCES);
	EXPECT_EQ(error_of(agent->renew(bob, "vm")), EACCES);
	EXPECT_TRUE(agent->get(root, "vm", Direction::in));
}

TEST_P(Custody, Refusals)
{
	std::optional<Agent> agent = *start();
	for (const char *name : {"", "luod", "systemd", "a b"})
		EXPECT_EQ(error_of(agent->create(alice, name, {})), EINVAL) << name;
	EXPECT_EQ(error_of(agent->drop(alice, "vm")), ENOENT);
	EXPECT_EQ(error_of(agent->finish(alice, "vm")), ENOENT);
	for (std::size_t i = 0; i < Agent::max_of_user; ++i)
		ASSERT_TRUE(agent->create(alice, "vm" + std::to_string(i), {}));
	EXPECT_EQ(error_of(agent->create(alice, "more", {})), EDQUOT);
	EXPECT_TRUE(agent->create(bob, "more", {}));
	EXPECT_TRUE(agent->drop(alice, "vm0"));
	EXPECT_EQ(kernel.outgoing("vm0"), nullptr);
	EXPECT_TRUE(agent->create(alice, "vm0", {}));
}

TEST_P(Custody, TermsNeedAKernelThatHasThem)
{
	std::optional<Agent> agent = *start();
	Terms terms;
	terms.policy = LIVEUPDATE_FERRY_POLICY_KEEP;
	terms.deadline_ms = 0;
	terms.key.emplace().fill(7);
	terms.by_default = false;
	auto made = agent->create(alice, "vm", terms);
	EXPECT_EQ(error_of(made), GetParam() ? 0 : EOPNOTSUPP);
	if (!GetParam())
		return;
	kexec(agent);
	agent = *start();
	ASSERT_EQ(agent->list().size(), 1u);
	EXPECT_FALSE(agent->list()[0].held);
	EXPECT_EQ(kernel.incoming("vm")->refused, 0u) << "luod asked without the key";
	EXPECT_EQ(error_of(agent->finish(alice, "vm")), EBUSY);
	EXPECT_EQ(error_of(agent->get(alice, "vm", Direction::in)), EPERM);
	EXPECT_TRUE(agent->get(alice, "vm", Direction::in, terms.key));
	EXPECT_TRUE(agent->list()[0].held);
	EXPECT_TRUE(agent->get(alice, "vm", Direction::in)) << "luod has it now";
	EXPECT_TRUE(agent->finish(alice, "vm"));
}

TEST_P(Custody, SomebodyElseHasASession)
{
	std::optional<Agent> agent = *start();
	ASSERT_TRUE(agent->create(alice, "vm", {}));
	kexec(agent);
	auto device = liveupdate::Device::open();
	auto other = device->retrieve("vm");
	ASSERT_TRUE(other);
	device = std::unexpected(std::error_code());
	agent = *start();
	EXPECT_TRUE(log.contains("another program has it")) << log;
	EXPECT_EQ(error_of(agent->get(alice, "vm", Direction::in)), EBUSY);
	EXPECT_EQ(error_of(agent->renew(alice, "vm")), EBUSY);
	other->close();
	EXPECT_EQ(error_of(agent->get(alice, "vm", Direction::in)), GetParam() ? 0 : ENOENT)
		<< "it waits again only with a policy that says so";
}

TEST_P(Custody, ASessionThatIsCarriedAgain)
{
	std::optional<Agent> agent = *start();
	auto session = agent->create(alice, "vm", {});
	ASSERT_TRUE(liveupdate::Session(std::move(*session)).preserve(memfd("memory").get(), 1));
	kexec(agent);
	agent = *start();
	ASSERT_TRUE(liveupdate::Session(*agent->get(alice, "vm", Direction::in)).retrieve(1));
	EXPECT_EQ(error_of(agent->renew(alice, "vm")), GetParam() ? 0 : EOPNOTSUPP);
	if (!GetParam()) {
		EXPECT_TRUE(agent->finish(alice, "vm"));
		return;
	}
	EXPECT_TRUE(agent->unfinished().empty());
	EXPECT_EQ(error_of(agent->renew(alice, "vm")), ENOENT);
	kexec(agent);
	agent = *start();
	auto again = liveupdate::Session(*agent->get(alice, "vm", Direction::in));
	EXPECT_EQ(contents(*again.retrieve(1)), "memory");
}

// Its owner has the descriptor, and may do all this without luod.
TEST_P(Custody, WhatTheOwnerDoesWithoutLuod)
{
	std::optional<Agent> agent = *start();
	for (const char *name : {"finished", "renewed"})
		ASSERT_TRUE(agent->create(alice, name, {}));
	kexec(agent);
	agent = *start();
	ASSERT_TRUE(liveupdate::Session(*agent->get(alice, "finished", Direction::in)).finish());
	auto renewed = liveupdate::Session(*agent->get(alice, "renewed", Direction::in));
	if (!GetParam())
		return;
	ASSERT_TRUE(renewed.renew(true));
	auto list = agent->list();
	ASSERT_EQ(list.size(), 1u);
	EXPECT_EQ(list[0].name, "renewed");
	EXPECT_EQ(list[0].direction, Direction::out);
	EXPECT_EQ(store.names(),
		  (std::vector<std::string>{"out-renewed", "registry-out", "self-out"}));
}

TEST_P(Custody, ADamagedRegistryOfTheLastKernel)
{
	std::optional<Agent> agent = *start();
	ASSERT_TRUE(agent->create(alice, "vm", {}));
	for (auto &kept : store.give()) {
		if (kept.name == "registry-out")
			ASSERT_EQ(::pwrite(kept.fd.get(), "?", 1, 0), 1);
	}
	kexec(agent);
	agent = *start();
	EXPECT_TRUE(log.contains("damaged, or of another version")) << log;
	EXPECT_NE(kernel.incoming("vm"), nullptr) << "it waits in the kernel";
	EXPECT_TRUE(agent->create(alice, "vm", {}));
}

TEST_P(Custody, WhatIsNobodysIsLetGo)
{
	std::optional<Agent> agent = *start();
	auto stray = liveupdate::Device::open()->create("stray");
	ASSERT_TRUE(store.add("out-stray", stray->get()));
	stray->close();
	agent.reset();
	agent = *start();
	EXPECT_TRUE(log.contains("'stray'")) << log;
	EXPECT_EQ(kernel.outgoing("stray"), nullptr);
}

TEST_P(Custody, NoLiveUpdateHere)
{
	kernel.present = false;
	EXPECT_EQ(error_of(start()), ENOENT);
	kernel.present = true;
	kernel.busy = true;
	EXPECT_EQ(error_of(start()), GetParam() ? 0 : EBUSY);
}

// ---- killed, or refused something, at each call of the kernel and of the store ----

struct Story {
	std::optional<Agent> agent;
	bool created = false, done = false;
};

// Runs part, each time with a fault one call later, until nothing is struck; after each,
// luod is started again, and check says whether all is well.
template <typename Part, typename Check>
void at_each_call(bool ferry, fake::Kernel::Fault fault, Part part, Check check)
{
	for (unsigned int nth = 1;; ++nth) {
		SCOPED_TRACE(testing::Message() << "call " << nth << ", fault " << int(fault));
		fake::Kernel kernel(ferry);
		TestStore store(kernel);
		std::string log;
		auto start = [&] {
			return Agent::start(store, store.give(),
					    [&](auto &what) { log += what + "\n"; });
		};
		bool killed = false, struck = false;
		part(kernel, store, start, [&](auto &&faulty) {
			kernel.arm(nth, fault, EIO);
			try {
				faulty();
			} catch (const fake::Killed &) {
				killed = true;
			}
			struck = kernel.disarm();
		});
		ASSERT_EQ(killed, struck && fault != fake::Kernel::Fault::error);
		auto agent = start();
		ASSERT_TRUE(agent) << agent.error().text;
		check(kernel, store, *agent, struck, log);
		if (testing::Test::HasFailure() || !struck)
			return;
		ASSERT_LT(nth, 200u);
	}
}

constexpr fake::Kernel::Fault faults[] = {fake::Kernel::Fault::error,
					  fake::Kernel::Fault::kill_before,
					  fake::Kernel::Fault::kill_after};

// A new session is there with its owner, or not at all; what was there stays.
TEST_P(Custody, KilledWhileASessionIsMade)
{
	for (auto fault : faults) {
		bool finished = false;
		at_each_call(
			GetParam(), fault,
			[&](fake::Kernel &, TestStore &, auto start, auto faulty) {
				std::optional<Agent> agent = *start();
				ASSERT_TRUE(agent->create(bob, "old", {}));
				finished = false;
				faulty([&] { finished = bool(agent->create(alice, "vm", {})); });
			},
			[&](fake::Kernel &its_kernel, TestStore &, Agent &agent, bool,
			    std::string &) {
				EXPECT_TRUE(agent.get(bob, "old", Direction::out));
				auto got = agent.get(alice, "vm", Direction::out);
				EXPECT_EQ(bool(got), its_kernel.outgoing("vm") != nullptr);
				if (finished)
					EXPECT_TRUE(got) << got.error().text;
				// Whatever it was, it can be tried again.
				if (!got)
					EXPECT_TRUE(agent.create(alice, "vm", {}));
				// And the next kernel's luod will know both.
			});
		EXPECT_TRUE(finished);
	}
}

TEST_P(Custody, KilledWhileASessionIsDropped)
{
	for (auto fault : faults) {
		at_each_call(
			GetParam(), fault,
			[&](fake::Kernel &, TestStore &, auto start, auto faulty) {
				std::optional<Agent> agent = *start();
				ASSERT_TRUE(agent->create(bob, "old", {}));
				ASSERT_TRUE(agent->create(alice, "vm", {}));
				faulty([&] { static_cast<void>(agent->drop(alice, "vm")); });
			},
			[&](fake::Kernel &its_kernel, TestStore &, Agent &agent, bool,
			    std::string &) {
				EXPECT_TRUE(agent.get(bob, "old", Direction::out));
				EXPECT_EQ(bool(agent.get(alice, "vm", Direction::out)),
					  its_kernel.outgoing("vm") != nullptr);
			});
	}
}

// The first start in a kernel: sessions of the last one are taken over.
TEST_P(Custody, KilledWhileItTakesOver)
{
	for (auto fault : faults) {
		at_each_call(
			GetParam(), fault,
			[&](fake::Kernel &its_kernel, TestStore &its_store, auto start,
			    auto faulty) {
				std::optional<Agent> agent = *start();
				for (const char *name : {"a", "b", "c"}) {
					auto session = agent->create(alice, name, {});
					ASSERT_TRUE(liveupdate::Session(std::move(*session))
							    .preserve(memfd(name).get(), 1));
				}
				its_kernel.kexec();
				agent.reset();
				its_store.clear();
				faulty([&] {
					if (auto started = start())
						agent.emplace(std::move(*started));
				});
				agent.reset();
			},
			[&](fake::Kernel &, TestStore &its_store, Agent &agent, bool struck,
			    std::string &log) {
				int lost = 0;
				for (const char *name : {"a", "b", "c"}) {
					auto got = agent.get(alice, name, Direction::in);
					lost += !got;
					if (!got)
						continue;
					auto file =
						liveupdate::Session(std::move(*got)).retrieve(1);
					EXPECT_EQ(contents(*file), name);
					EXPECT_TRUE(agent.finish(alice, name));
				}
				// With Ferry's policies nothing is ever lost. Linux finishes a
				// session when its last descriptor is closed: what luod had just
				// got and not kept yet goes with it; where that was its own
				// session, all are without an owner.
				if (GetParam())
					EXPECT_EQ(lost, 0) << log;
				else
					EXPECT_TRUE(lost == 0 ||
						    (struck && (lost == 1 || lost == 3)))
						<< lost << log;
				EXPECT_TRUE(agent.create(alice, "next", {}));
				if (!lost)
					EXPECT_EQ(its_store.names(),
						  (std::vector<std::string>{
							  "out-next", "registry-out", "self-out"}));
			});
	}
}

TEST_P(Custody, KilledWhileASessionIsFinished)
{
	for (auto fault : faults) {
		at_each_call(
			GetParam(), fault,
			[&](fake::Kernel &its_kernel, TestStore &its_store, auto start,
			    auto faulty) {
				std::optional<Agent> agent = *start();
				ASSERT_TRUE(agent->create(alice, "vm", {}));
				ASSERT_TRUE(agent->create(alice, "other", {}));
				its_kernel.kexec();
				agent.reset();
				its_store.clear();
				agent = *start();
				faulty([&] { static_cast<void>(agent->finish(alice, "vm")); });
			},
			[&](fake::Kernel &, TestStore &, Agent &agent, bool, std::string &) {
				EXPECT_TRUE(agent.get(alice, "other", Direction::in));
				// It is there, and can be finished again; or it is done.
				if (agent.get(alice, "vm", Direction::in))
					EXPECT_TRUE(agent.finish(alice, "vm"));
				EXPECT_EQ(agent.unfinished(), std::vector<std::string>{"other"});
			});
	}
}

TEST(CustodyRenew, KilledWhileASessionIsRenewed)
{
	for (auto fault : faults) {
		at_each_call(
			true, fault,
			[&](fake::Kernel &its_kernel, TestStore &its_store, auto start,
			    auto faulty) {
				std::optional<Agent> agent = *start();
				auto session = agent->create(alice, "vm", {});
				ASSERT_TRUE(liveupdate::Session(std::move(*session))
						    .preserve(memfd("memory").get(), 1));
				its_kernel.kexec();
				agent.reset();
				its_store.clear();
				agent = *start();
				auto carried = agent->get(alice, "vm", Direction::in);
				ASSERT_TRUE(carried) << carried.error().text;
				ASSERT_TRUE(liveupdate::Session(std::move(*carried)).retrieve(1));
				faulty([&] { static_cast<void>(agent->renew(alice, "vm")); });
			},
			[&](fake::Kernel &its_kernel, TestStore &, Agent &agent, bool,
			    std::string &log) {
				ASSERT_EQ(agent.list().size(), 1u) << log;
				bool renewed = its_kernel.outgoing("vm") != nullptr;
				EXPECT_EQ(agent.list()[0].direction,
					  renewed ? Direction::out : Direction::in);
				if (!renewed)
					EXPECT_TRUE(agent.renew(alice, "vm"));
				EXPECT_TRUE(agent.get(alice, "vm", Direction::out));
				EXPECT_TRUE(agent.unfinished().empty());
			});
	}
}

// ---- the barrier ----

TEST(Barrier, WaitsForAll)
{
	Barrier barrier;
	EXPECT_EQ(*barrier.begin(1), 1u);
	EXPECT_TRUE(barrier.take_verdict()->ready) << "nobody joined";
	EXPECT_TRUE(barrier.cancel(1, 1));
	EXPECT_FALSE(barrier.take_verdict()->ready);

	barrier.join(2, "two");
	barrier.join(3, "three");
	EXPECT_EQ(*barrier.begin(1), 2u);
	EXPECT_EQ(error_of(barrier.begin(9)), EBUSY);
	EXPECT_FALSE(barrier.take_verdict());
	EXPECT_EQ(error_of(barrier.ready(2, 1)), ESTALE) << "the number of another";
	EXPECT_EQ(error_of(barrier.ready(4, 2)), ESTALE) << "who did not join";
	EXPECT_TRUE(barrier.ready(2, 2));
	EXPECT_EQ(error_of(barrier.ready(2, 2)), ESTALE) << "twice";
	EXPECT_EQ(barrier.waited_for(), std::vector<std::string>{"three"});
	barrier.join(4, "late");
	EXPECT_EQ(barrier.pending(), 1u);
	EXPECT_TRUE(barrier.ready(3, 2));
	EXPECT_TRUE(barrier.take_verdict()->ready);
	EXPECT_EQ(barrier.state(), Barrier::State::ready);
	EXPECT_EQ(error_of(barrier.cancel(2, 2)), ESTALE) << "not whose it is";
	EXPECT_TRUE(barrier.cancel(1, 2));
	EXPECT_EQ(barrier.state(), Barrier::State::idle);
}

TEST(Barrier, Ends)
{
	auto reason = [](auto &&what) {
		Barrier barrier;
		barrier.join(2, "two");
		barrier.join(3, "three");
		EXPECT_TRUE(barrier.begin(1));
		what(barrier);
		auto verdict = barrier.take_verdict();
		EXPECT_TRUE(verdict && !verdict->ready);
		EXPECT_EQ(barrier.state(), Barrier::State::idle);
		EXPECT_TRUE(barrier.begin(1)) << "it can be tried again";
		return verdict ? verdict->reason : "";
	};
	EXPECT_EQ(reason([](Barrier &b) { EXPECT_TRUE(b.refuse(2, 1, "busy")); }), "two: busy");
	EXPECT_EQ(reason([](Barrier &b) { b.gone(3); }),
		  "three: it died, or closed its connection");
	EXPECT_EQ(reason([](Barrier &b) { b.gone(1); }), "who prepared the update is gone");
	EXPECT_EQ(reason([](Barrier &b) { b.expire(); }), "not ready in time: two, three");
	EXPECT_EQ(reason([](Barrier &b) {
			  EXPECT_TRUE(b.ready(2, 1));
			  EXPECT_TRUE(b.ready(3, 1));
			  EXPECT_TRUE(b.take_verdict()->ready);
			  b.gone(1);
		  }),
		  "who prepared the update is gone");
}

TEST(Barrier, WhoLeavesIsNotWaitedFor)
{
	Barrier barrier;
	barrier.join(2, "two");
	EXPECT_TRUE(barrier.begin(1));
	barrier.leave(2);
	EXPECT_TRUE(barrier.take_verdict()->ready);
	barrier.expire();
	EXPECT_FALSE(barrier.take_verdict()) << "the time is over, but it is ready";
	barrier.gone(2);
	EXPECT_FALSE(barrier.take_verdict());
}

// ---- the fd store without systemd ----

TEST(Keeper, Notices)
{
	auto notice = parse_notice("FDSTORE=1\nFDPOLL=0\nFDNAME=out-vm");
	EXPECT_TRUE(notice.store && !notice.remove && notice.name == "out-vm");
	notice = parse_notice("FDSTOREREMOVE=1\nFDNAME=x\n");
	EXPECT_TRUE(notice.remove && !notice.store && notice.name == "x");
	EXPECT_TRUE(parse_notice("READY=1\nSTATUS=y").ready);
	for (const char *text : {"", "\n\n", "=", "FDSTORE=2", "FDSTORE=1x"})
		EXPECT_FALSE(parse_notice(text).store) << text;
}

class TempDir {
    public:
	TempDir()
	{
		EXPECT_TRUE(::mkdtemp(path_));
	}
	~TempDir()
	{
		std::string command = std::string("rm -rf ") + path_;
		EXPECT_EQ(::system(command.c_str()), 0);
	}
	std::string operator/(const char *name) const
	{
		return std::string(path_) + "/" + name;
	}

    private:
	char path_[32] = "/tmp/luod-test-XXXXXX";
};

// A service that keeps a file, dies, and finds it again.
TEST(Keeper, GivesBackWhatWasKept)
{
	TempDir dir;
	// The first time there is only the socket. A shell cannot send descriptors.
	std::string python = R"(
import os, socket, struct, sys
names = os.environ['LISTEN_FDNAMES'].split(':')
assert int(os.environ['LISTEN_PID']) == os.getpid()
assert int(os.environ['LISTEN_FDS']) == len(names)
out = open(sys.argv[1], 'a')
out.write(' '.join(names) + '\n'); out.flush()
def tell(text, fds=[]):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.connect('\0' + os.environ['NOTIFY_SOCKET'][1:])
    s.sendmsg([text.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('i', fd)) for fd in fds])
if len(names) == 1:
    fd = os.memfd_create('kept'); os.write(fd, b'kept')
    tell('FDSTORE=1\nFDNAME=file', [fd]); tell('FDSTORE=1\nFDNAME=other', [fd])
    os.kill(os.getpid(), 9)
if 'other' in names:
    assert os.pread(3 + names.index('file'), 9, 0) == b'kept'
    tell('FDSTOREREMOVE=1\nFDNAME=other')
    sys.exit(3)
sys.exit(0 if names == ['bus', 'file'] else 1)
)";
	pid_t child = ::fork();
	if (!child) {
		::freopen("/dev/null", "w", stderr);
		::_exit(run_keeper(dir / "bus", {"/usr/bin/python3", "-c", python, dir / "seen"}));
	}
	int status = 0;
	ASSERT_EQ(::waitpid(child, &status, 0), child);
	EXPECT_EQ(status, 0);
	Fd seen(::open((dir / "seen").c_str(), O_RDONLY));
	EXPECT_EQ(contents(seen), "bus\nbus file other\nbus file\n");
}

// ---- the socket ----

// luod in a thread of this process, with a kernel of its own.
class Luod {
    public:
	explicit Luod(bool ferry = true) : kernel(ferry), store_(kernel)
	{
		thread_ = std::thread([this] { run(); });
		while (!up_)
			std::this_thread::yield();
	}
	~Luod()
	{
		std::uint64_t one = 1;
		EXPECT_EQ(::write(stop_.get(), &one, sizeof(one)), ssize_t(sizeof(one)));
		thread_.join();
	}
	Client connect()
	{
		auto client = Client::connect(dir_ / "bus");
		EXPECT_TRUE(client) << client.error().text;
		return std::move(*client);
	}
	std::string path() const
	{
		return dir_ / "bus";
	}

	fake::Kernel kernel;

    private:
	static int on_stop(sd_event_source *source, int, std::uint32_t, void *)
	{
		return ::sd_event_exit(::sd_event_source_get_event(source), 0);
	}
	void run()
	{
		auto agent = Agent::start(store_, {}, [](auto &) {});
		ASSERT_TRUE(agent);
		sd_event *made = nullptr;
		ASSERT_GE(::sd_event_new(&made), 0);
		Event event(made);
		::sd_event_add_io(made, nullptr, stop_.get(), EPOLLIN, on_stop, nullptr);
		auto server = Server::create(made, *agent, *listen_at(path()));
		ASSERT_TRUE(server);
		up_ = true;
		EXPECT_EQ(::sd_event_loop(made), 0);
	}

	TempDir dir_;
	TestStore store_;
	Fd stop_{::eventfd(0, EFD_CLOEXEC)};
	std::atomic<bool> up_ = false;
	std::thread thread_;
};

TEST(Socket, Sessions)
{
	Luod luod;
	auto client = luod.connect();
	EXPECT_EQ(*client.property("Implementation"), "Ferry");
	EXPECT_EQ(*client.property("State"), "idle");
	auto session = client.create("vm", {});
	ASSERT_TRUE(session) << session.error().text;
	EXPECT_EQ(*session->name(), "vm");
	EXPECT_TRUE(session->preserve(memfd("memory").get(), 1));
	EXPECT_EQ(error_of(client.create("vm", {})), EEXIST);
	auto again = client.create("luod", {});
	EXPECT_EQ(error_of(again), EINVAL);
	EXPECT_TRUE(again.error().text.contains("'luod' is no name")) << again.error().text;
	session->close();
	auto other = luod.connect();
	EXPECT_EQ(*other.get("vm", Direction::out)->name(), "vm");
	ASSERT_EQ(other.list()->size(), 1u);
	EXPECT_EQ(other.list()->at(0).owner.uid, ::getuid());
	EXPECT_EQ(error_of(other.finish("vm")), ENOENT);
	EXPECT_EQ(error_of(other.renew("vm")), ENOENT);
	EXPECT_TRUE(other.drop("vm"));
	EXPECT_EQ(other.list()->size(), 0u);
	EXPECT_EQ(error_of(other.get("vm", Direction::out)), ENOENT);
}

TEST(Socket, OptionsOfASession)
{
	Luod luod;
	auto client = luod.connect();
	Client::Options options;
	options.policy = "forever";
	EXPECT_EQ(error_of(client.create("vm", options)), EINVAL);
	options.policy = "keep";
	options.deadline_ms = 5;
	EXPECT_EQ(error_of(client.create("vm", options)), EINVAL);
	options.deadline_ms.reset();
	options.key.emplace().fill(9);
	auto session = client.create("vm", options);
	ASSERT_TRUE(session) << session.error().text;
	EXPECT_EQ(session->info()->policy, unsigned(LIVEUPDATE_FERRY_POLICY_KEEP));
	EXPECT_TRUE(session->info()->flags & LIVEUPDATE_FERRY_KEYED);
	options = {.policy = "deadline", .deadline_ms = 77, .key = {}};
	EXPECT_EQ(client.create("other", options)->info()->deadline_ms, 77u);
}

TEST(Socket, MainlineHasNoOptions)
{
	Luod luod(false);
	auto client = luod.connect();
	EXPECT_EQ(*client.property("Implementation"), "Linux");
	EXPECT_TRUE(client.create("vm", {}));
	EXPECT_EQ(
		error_of(client.create("other", {.policy = "keep", .deadline_ms = {}, .key = {}})),
		EOPNOTSUPP);
}

TEST(Socket, TheBarrier)
{
	Luod luod;
	auto service = luod.connect();
	EXPECT_EQ(error_of(service.join("")), EINVAL);
	EXPECT_EQ(error_of(service.join("a\nb")), EINVAL);
	ASSERT_TRUE(service.join("the VMM"));
	std::thread worker([&] {
		for (bool well : {true, false}) {
			auto event = service.wait(std::chrono::seconds(20));
			ASSERT_TRUE(event && *event && (*event)->prepare);
			if (well)
				EXPECT_TRUE(service.ready((*event)->id));
			else
				EXPECT_TRUE(service.refuse((*event)->id, "a backup runs"));
			event = service.wait(std::chrono::seconds(20));
			ASSERT_TRUE(event && *event);
			EXPECT_FALSE((*event)->prepare) << "called off, or refused";
		}
	});
	auto client = luod.connect();
	std::vector<std::string> waited_for;
	auto id = client.prepare(std::chrono::seconds(20), false, [&](auto &progress) {
		EXPECT_EQ(progress.all, 1u);
		waited_for.insert(waited_for.end(), progress.waited_for.begin(),
				  progress.waited_for.end());
	});
	ASSERT_TRUE(id) << id.error().text;
	EXPECT_EQ(waited_for, std::vector<std::string>{"the VMM"});
	EXPECT_EQ(*client.property("State"), "ready");
	EXPECT_EQ(error_of(client.cancel(*id + 1)), ESTALE);
	EXPECT_TRUE(client.cancel(*id));
	auto refused = client.prepare(std::chrono::seconds(20), false, [](auto &) {});
	EXPECT_EQ(error_of(refused), ECANCELED);
	EXPECT_EQ(refused.error().text, "the VMM: a backup runs");
	worker.join();

	auto late = client.prepare(std::chrono::milliseconds(50), false, [](auto &) {});
	EXPECT_EQ(error_of(late), ECANCELED);
	EXPECT_EQ(late.error().text, "not ready in time: the VMM");
	EXPECT_EQ(error_of(client.prepare(std::chrono::hours(2), false, [](auto &) {})), EINVAL);
	EXPECT_TRUE(service.leave());
	EXPECT_TRUE(client.prepare(std::chrono::seconds(20), false, [](auto &) {}));
}

TEST(Socket, WhoPreparesAndDies)
{
	Luod luod;
	auto service = luod.connect();
	ASSERT_TRUE(service.join("VMM"));
	{
		auto client = luod.connect();
		EXPECT_EQ(error_of(client.prepare(std::chrono::milliseconds(1), false,
						  [](auto &) {})),
			  ECANCELED);
		ASSERT_TRUE(service.leave());
		ASSERT_TRUE(client.prepare(std::chrono::seconds(20), false, [](auto &) {}));
	}
	for (int i = 0; i < 1000 && *service.property("State") != "idle"; ++i)
		std::this_thread::sleep_for(std::chrono::milliseconds(5));
	EXPECT_EQ(*service.property("State"), "idle");
}

TEST(Socket, IsListenedAtOnce)
{
	Luod luod;
	EXPECT_EQ(error_of(listen_at(luod.path())), EADDRINUSE);
	EXPECT_EQ(error_of(listen_at("")), EINVAL);
	EXPECT_EQ(error_of(listen_at(std::string(200, 'x'))), EINVAL);
	EXPECT_EQ(error_of(listen_at("/nowhere/at/all")), ENOENT);
	TempDir dir;
	EXPECT_EQ(error_of(Client::connect(dir / "none")), ENOENT);
	{
		auto left = listen_at(dir / "bus");
		ASSERT_TRUE(left);
	}
	struct stat is;
	ASSERT_EQ(::stat((dir / "bus").c_str(), &is), 0);
	EXPECT_EQ(is.st_mode & 0777, 0660u);
	EXPECT_EQ(error_of(Client::connect(dir / "bus")), ECONNREFUSED);
	EXPECT_TRUE(listen_at(dir / "bus")) << "what an earlier one left";
}

// As the manual says: busctl(1) takes it for a bus.
TEST(Socket, Busctl)
{
	if (::access("/usr/bin/busctl", X_OK))
		GTEST_SKIP() << "no busctl here";
	Luod luod;
	auto busctl = [&](const std::string &what) {
		std::string command = "busctl --address=unix:path=" + luod.path() + " " + what +
				      " >" + luod.path() + ".out 2>&1";
		int status = ::system(command.c_str());
		std::ifstream said(luod.path() + ".out");
		return std::to_string(status) + " " +
		       std::string(std::istreambuf_iterator(said.rdbuf()), {});
	};
	std::string to = " org.ferry.LiveUpdate1 /org/ferry/LiveUpdate1 ";
	auto said = busctl("introspect" + to);
	EXPECT_TRUE(said.starts_with("0 ") && said.contains(".CreateSession")) << said;
	EXPECT_EQ(busctl("call" + to + "org.ferry.LiveUpdate1 ListSessions"), "0 a(ssuub) 0\n");
	said = busctl("call" + to + "org.ferry.LiveUpdate1 DropSession s none");
	EXPECT_TRUE(said.contains("there is no session 'none'")) << said;
}

// Whatever comes over the socket, luod goes on.
TEST(Socket, Noise)
{
	Luod luod;
	using namespace std::string_view_literals;
	for (auto noise : {"GET / HTTP/1.0\r\n\r\n"sv, "\0AUTH EXTERNAL\r\n"sv,
			   "\0AUTH ANONYMOUS\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n"
			   "l\1\0\1\xff\xff\xff\x7f"sv}) {
		auto client = Client::connect(luod.path());
		sockaddr_un address{};
		address.sun_family = AF_UNIX;
		luod.path().copy(address.sun_path, sizeof(address.sun_path) - 1);
		Fd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
		ASSERT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr *>(&address),
				    sizeof(address)),
			  0);
		ASSERT_GT(::send(fd.get(), noise.data(), noise.size(), MSG_NOSIGNAL), 0);
	}
	auto client = luod.connect();
	EXPECT_EQ(*client.property("State"), "idle");
}

} // namespace
