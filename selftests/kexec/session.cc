// SPDX-License-Identifier: GPL-2.0
// What /dev/liveupdate has beyond Linux's: openers side by side, keys, policies, sessions that are
// carried again, and what people see. <linux/liveupdate_ferry.h>

#include <atomic>
#include <thread>

#include <signal.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "selftests/kexec/carry.hh"
#include "selftests/kexec/ferry.hh"
#include "selftests/kexec/kvm.hh"
#include "selftests/kexec/veto.hh"

namespace {

constexpr uint64_t large = 64 * MiB;

// The exit status of what a child does; as another user, where it says so.
int in_child(const std::function<bool()> &what, int uid = 0)
{
	const pid_t child = SYS(::fork());
	if (!child) {
		if (uid && ::setresuid(uid, uid, uid))
			::_exit(99);
		::_exit(what() ? 0 : 1);
	}
	int status;
	SYS(::waitpid(child, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

// Starts a child that does something, and holds on; kills it.
void die_after(const std::function<bool()> &what)
{
	int ends[2];
	SYS(::pipe2(ends, O_CLOEXEC));
	Fd listen(ends[0]), tell(ends[1]);
	const pid_t child = SYS(::fork());
	if (!child) {
		char done = what();
		[[maybe_unused]] auto written = ::write(tell.get(), &done, 1);
		for (;;)
			::pause();
	}
	char done = 0;
	CHECK_EQ(::read(listen.get(), &done, 1), 1);
	CHECK(done);
	SYS(::kill(child, SIGKILL));
	SYS(::waitpid(child, nullptr, 0));
}

bool fails_with(const auto &result, int error)
{
	return !result && result.error().value() == error;
}

// Kept until the kexec.
void hold(Session &&session)
{
	Stage::keep(std::move(session));
}

// ---- openers ----

TEST("session", "openers/shared ones beside each other and a plain one")
{
	auto one = VALUE(ferry::open_shared()), two = VALUE(ferry::open_shared());
	auto plain = open_device();
	auto three = VALUE(ferry::open_shared());
	auto info = VALUE(ferry::get<liveupdate_ferry_info>(plain, LIVEUPDATE_FERRY_GET_INFO));
	CHECK_EQ(info.openers, 4);
	// All of them at work, on sessions of their own.
	for (auto fd : {&one, &two, &three}) {
		auto arg = ferry::named<liveupdate_ioctl_create_session>("of-" +
									 std::to_string(fd->get()));
		OK(liveupdate::call(fd->get(), LIVEUPDATE_IOCTL_CREATE_SESSION, arg));
		::close(arg.fd);
	}
	OK(plain.create("of-plain"));
}

TEST("session", "openers/a plain one gets EBUSY from a plain one only")
{
	auto shared = VALUE(ferry::open_shared());
	{
		auto plain = open_device();
		FAILS(Device::open(), EBUSY);
		// What fcntl() says later does not count.
		SYS(::fcntl(plain.get(), F_SETFL, O_NONBLOCK));
		SYS(::fcntl(shared.get(), F_SETFL, 0));
		FAILS(Device::open(), EBUSY);
	}
	auto plain = open_device();
	FAILS(Device::open(), EBUSY);
	shared.reset();
	FAILS(Device::open(), EBUSY);
}

TEST("session", "openers/sharing takes CAP_SYS_ADMIN")
{
	SYS(::chmod("/dev/liveupdate", 0666));
	CHECK_EQ(in_child([] { return fails_with(ferry::open_shared(), EPERM); }, 1000), 0);
	CHECK_EQ(in_child([] { return bool(Device::open()); }, 1000), 0);
	SYS(::chmod("/dev/liveupdate", 0600));
	OK(Device::open());
}

// ---- what people see, in one kernel ----

TEST("session", "seeing/sessions and files are listed")
{
	auto device = open_device();
	auto key = ferry::key(1);
	auto session = VALUE(
		ferry::create(device, "listed", &key, {LIVEUPDATE_FERRY_POLICY_DEADLINE, 1234}));
	auto memfd = make_memfd(large);
	fill(memfd, 0, MiB, 1);
	OK(session.preserve(memfd.get(), 0xabc));
	auto info = ferry::info(session);
	CHECK(ferry::text(info.name) == "listed");
	CHECK_EQ(info.state, LIVEUPDATE_FERRY_SESSION_OPEN);
	CHECK_EQ(info.flags, LIVEUPDATE_FERRY_KEYED);
	CHECK_EQ(info.policy, LIVEUPDATE_FERRY_POLICY_DEADLINE);
	CHECK_EQ(info.deadline_ms, 1234);
	CHECK_EQ(info.files, 1);
	// Holes are not preserved.
	CHECK_EQ(info.bytes, MiB);
	CHECK(info.runs >= 1 && info.runs <= 256);
	CHECK(info.metadata >= page);
	CHECK(info.preserve_ns > 0);
	auto all = ferry::sessions(device);
	REQUIRE(all.size() == 1);
	CHECK(!std::memcmp(&all[0], &info, sizeof(info)));
	auto files = VALUE(ferry::files(device, "listed"));
	REQUIRE(files.size() == 1);
	CHECK_EQ(files[0].token, 0xabc);
	CHECK_EQ(files[0].bytes, MiB);
	CHECK(ferry::text(files[0].handler) == "memfd-v1");
	FAILS(ferry::files(device, "listed", LIVEUPDATE_FERRY_INCOMING), ENOENT);
	FAILS(ferry::files(device, "other"), ENOENT);
}

TEST("session", "seeing/the key is nowhere")
{
	auto device = open_device();
	ferry::Key key;
	key.fill(0x5a);
	auto session = VALUE(ferry::create(device, "dumped", &key));
	for (auto file : {"/sys/kernel/debug/ferry/out/dump", "/sys/kernel/debug/ferry/out/fdt"}) {
		auto dump = read_file(file);
		CHECK(dump.find("dumped") != dump.npos);
		CHECK(dump.find(std::string(8, 0x5a)) == dump.npos);
		CHECK(dump.find("5a5a5a5a") == dump.npos);
	}
}

TEST("session", "seeing/progress while a long preserve runs")
{
	auto device = open_device();
	Session session;
	// Every second page: no two make one run, so that there is something to do.
	auto memfd = make_memfd(512 * MiB);
	for (uint64_t at = 0; at < 512 * MiB; at += 2 * 4096)
		SYS(::pwrite(memfd.get(), "x", 1, at));
	uint64_t seen = 0;
	bool grows = true;
	// Who looks may come too late, where all CPUs are busy.
	for (int tries = 0; tries < 20 && !seen; tries++) {
		session.close();
		session = VALUE(device.create("long"));
		std::atomic<bool> done = false;
		std::thread preserve([&] {
			OK(session.preserve(memfd.get(), 7));
			done = true;
		});
		uint64_t last = 0;
		while (!done) {
			auto info = ferry::info(session);
			auto all = ferry::sessions(device);
			if (info.operation != LIVEUPDATE_FERRY_OP_PRESERVE || !info.total)
				continue;
			seen++;
			grows &= info.done >= last && info.done <= info.total && info.token == 7 &&
				 all.size() == 1;
			last = info.done;
		}
		preserve.join();
	}
	ktap::print("# progress was seen %llu times", (unsigned long long)seen);
	CHECK(seen > 0);
	CHECK(grows);
	auto info = ferry::info(session);
	CHECK_EQ(info.operation, LIVEUPDATE_FERRY_OP_NONE);
	CHECK_EQ(info.bytes, 256 * MiB);
}

TEST("session", "seeing/who refused a kexec, and why")
{
	need_handler();
	auto device = open_device();
	auto session = VALUE(device.create("refuses"));
	TestFile a("refuses:a");
	OK(session.preserve(a.get(), 0xbad));
	auto before = VALUE(ferry::get<liveupdate_ferry_info>(device, LIVEUPDATE_FERRY_GET_INFO));
	a.fail("freeze", EREMOTEIO);
	CHECK_EQ(jump(), EREMOTEIO);
	auto is = VALUE(ferry::get<liveupdate_ferry_failure>(device, LIVEUPDATE_FERRY_GET_FAILURE));
	CHECK_EQ(is.number, before.failures + 1);
	CHECK_EQ(is.error, EREMOTEIO);
	CHECK_EQ(is.operation, LIVEUPDATE_FERRY_OP_FREEZE);
	CHECK_EQ(is.token, 0xbad);
	CHECK(ferry::text(is.session) == "refuses");
	CHECK(ferry::text(is.handler) == "test-v1");
	a.fail("preserve", EUCLEAN);
	auto other = VALUE(device.create("refuses-too"));
	session.close();
	FAILS(other.preserve(a.get(), 1), EUCLEAN);
	is = VALUE(ferry::get<liveupdate_ferry_failure>(device, LIVEUPDATE_FERRY_GET_FAILURE));
	CHECK_EQ(is.operation, LIVEUPDATE_FERRY_OP_PRESERVE);
	CHECK(ferry::text(is.session) == "refuses-too");
}

TEST("session", "seeing/tracepoints")
{
	const std::string tracing = "/sys/kernel/tracing/";
	if (::access((tracing + "events").c_str(), F_OK) &&
	    ::mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, nullptr))
		ktap::skip("this kernel has no tracefs");
	auto set = [&](const char *file, const char *value) {
		REQUIRE(write_file((tracing + file).c_str(), value));
	};
	set("options/stacktrace", "1");
	set("events/ferry_luo/enable", "1");
	{
		auto device = open_device();
		auto session = VALUE(device.create("traced"));
		OK(session.preserve(make_memfd(page).get(), 0x77));
	}
	set("events/ferry_luo/enable", "0");
	set("options/stacktrace", "0");
	auto trace = read_file((tracing + "trace").c_str());
	for (auto line :
	     {"ferry_luo_session: created session=traced",
	      "ferry_luo_file: preserve session=traced token=0x77 handler=memfd-v1 error=0",
	      "ferry_luo_file: unpreserve session=traced",
	      "ferry_luo_session: gone session=traced"})
		if (!CHECK(trace.find(line) != trace.npos))
			ktap::print("# not there: %s", line);
	// How it came to the first of them: the kernel unwinds the stack through the modules.
	auto stack = trace.substr(std::min(trace.find(" <stack trace>"), trace.size()));
	stack.resize(std::min(stack.find("ferry_luo_file: "), stack.size()));
	if (!CHECK(stack.find(" => luo_") < stack.find(" => __x64_sys_ioctl")) ||
	    !CHECK(stack.find(" => __x64_sys_ioctl") != stack.npos))
		ktap::print("# %s", stack.c_str());
}

// ---- keys, over a kexec ----

BEFORE("session/key/the session is given to who has its key, and to nobody else")
{
	auto key = ferry::key(1);
	auto session = VALUE(ferry::create(stage.device, "keyed", &key));
	auto memfd = make_memfd();
	fill(memfd, 0, page, 1);
	OK(session.preserve(memfd.get(), 1));
	hold(std::move(session));
}

AFTER()
{
	auto key = ferry::key(1), other = ferry::key(2), off = key;
	off[31] ^= 0x80;
	// Root is asked as well.
	FAILS(stage.device.retrieve("keyed"), EPERM);
	FAILS(ferry::retrieve(stage.device, "keyed"), EPERM);
	FAILS(ferry::retrieve(stage.device, "keyed", &other), EPERM);
	FAILS(ferry::retrieve(stage.device, "keyed", &off), EPERM);
	for (auto &each : ferry::sessions(stage.device))
		if (ferry::text(each.name) == "keyed")
			CHECK_EQ(each.refused, 4);
	CHECK(logged("'keyed'", "attempt"));
	auto session = VALUE(ferry::retrieve(stage.device, "keyed", &key));
	FAILS(ferry::retrieve(stage.device, "keyed", &other), EPERM);
	FAILS(ferry::retrieve(stage.device, "keyed", &key), EINVAL);
	CHECK(has(VALUE(session.retrieve(1)), 0, page, 1));
	OK(session.finish());
}

BEFORE("session/key/attempts do not flood the log")
{
	auto key = ferry::key(3);
	hold(VALUE(ferry::create(stage.device, "guessed", &key)));
}

AFTER()
{
	auto key = ferry::key(3);
	for (unsigned i = 0; i < 1000; i++) {
		auto guess = ferry::key(i + 10);
		if (!fails_with(ferry::retrieve(stage.device, "guessed", &guess), EPERM))
			CHECK(!"EPERM");
	}
	const auto log = kernel_log();
	size_t lines = 0;
	for (size_t at = 0; (at = log.find("'guessed'", at)) != log.npos; at++)
		lines++;
	CHECK(lines > 0 && lines < 100);
	OK(ferry::retrieve(stage.device, "guessed", &key));
}

BEFORE("session/key/without one nothing changes")
{
	hold(VALUE(ferry::create(stage.device, "keyless")));
}

AFTER()
{
	auto key = ferry::key(4);
	{
		auto session = VALUE(ferry::retrieve(stage.device, "keyless", &key));
		FAILS(stage.device.retrieve("keyless"), EINVAL);
	}
	FAILS(stage.device.retrieve("keyless"), ENOENT);
}

// ---- policies, with every kind of file ----

// What is in the session whose memory is looked at when it is released.
struct Content {
	const char *name;
	void (*put)(Session &session);
	// KiB that are free again at least.
	long freed;
};

void put_memfd(Session &session)
{
	auto memfd = make_memfd();
	fill(memfd, 0, large, 1);
	OK(session.preserve(memfd.get(), 1));
}

constexpr char huge_pool[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
constexpr unsigned huge_pages = 4;
constexpr uint64_t huge_page = 2 * MiB;

void put_hugetlb(Session &session)
{
	// For this file, and those of other cases that are carried at the same time.
	auto pages = std::atol(read_file(huge_pool).c_str()) + huge_pages;
	REQUIRE(write_file(huge_pool, std::to_string(pages)));
	auto memfd = make_memfd(huge_pages * huge_page, MFD_HUGETLB);
	Map map(memfd, huge_pages * huge_page, PROT_READ | PROT_WRITE);
	for (unsigned i = 0; i < huge_pages; i++)
		map.data()[i * huge_page] = 1;
	OK(session.preserve(memfd.get(), 1));
}

void put_machine(Session &session, bool gmem)
{
	machine::need_kvm();
	machine::Machine machine({.vcpus = 2, .gmem = gmem});
	machine.boot(0, guest::count());
	machine.preserve(session);
	Stage::keep(std::move(machine));
}

void put_test_files(Session &session)
{
	TestFile a("policy:a"), b("policy:b"), c("policy:c");
	a.needs(b);
	b.needs(c);
	OK(session.preserve(c.get(), 3));
	OK(session.preserve(a.get(), 1));
	OK(session.preserve(b.get(), 2));
}

const std::vector<Content> contents = {
	{"memfd", put_memfd, 60 * 1024},
	{"memfd of hugetlb", put_hugetlb, (huge_pages - 1) * huge_page / KiB},
	{"VM, vCPUs, memfd", [](Session &session) { put_machine(session, false); }, 0},
	{"VM, vCPUs, guest_memfd", [](Session &session) { put_machine(session, true); }, 0},
	{"test handler", put_test_files, 0},
};

// The handlers that the next kernel needs for it.
void need_handlers(const Content &content)
{
	if (content.put == put_test_files)
		need_handler();
	else if (content.put != put_memfd && content.put != put_hugetlb)
		machine::need_kvm();
}

const char *policy_name(const Content &content)
{
	return content.name;
}

void check_released(const Content &content, Stage &stage, const std::string &name,
		    const std::function<void()> &release)
{
	long before = free_memory();
	if (content.put == put_test_files)
		clear_log();
	auto handlers = ferry::handlers_of(stage.device, name);
	CHECK(!handlers.empty());
	release();
	CHECK_EQ(ferry::state_of(stage.device, name), -1);
	FAILS(stage.device.retrieve(name), ENOENT);
	if (content.freed)
		check_freed(before, content.freed);
	if (content.put == put_test_files)
		CHECK(called("policy:", "finish", "finish a; finish b; finish c"));
	ferry::tell_released(handlers);
}

std::string name_for(const char *policy, const Content &content)
{
	return std::string(policy) + " " + policy_name(content);
}

const Table<Content> finish_policy(
	"session/policy/finish: the last close releases what was not retrieved: ", contents,
	[](Stage &stage, const Content &content) {
		auto session = VALUE(stage.device.create(name_for("finish", content)));
		content.put(session);
		hold(std::move(session));
	},
	[](Stage &stage, const Content &content) {
		need_handlers(content);
		auto name = name_for("finish", content);
		check_released(content, stage, name,
			       [&] { VALUE(stage.device.retrieve(name)).close(); });
	});

const Table<Content> deadline_policy(
	"session/policy/deadline: what nobody takes is released: ", contents,
	[](Stage &stage, const Content &content) {
		auto session = VALUE(ferry::create(stage.device, name_for("late", content), nullptr,
						   {LIVEUPDATE_FERRY_POLICY_DEADLINE, 600'000}));
		content.put(session);
		hold(std::move(session));
	},
	[](Stage &stage, const Content &content) {
		need_handlers(content);
		auto name = name_for("late", content);
		CHECK_EQ(ferry::state_of(stage.device, name), LIVEUPDATE_FERRY_SESSION_WAITING);
		auto session = VALUE(stage.device.retrieve(name));
		OK(ferry::set_terms(session, {LIVEUPDATE_FERRY_POLICY_DEADLINE, 50}));
		check_released(content, stage, name, [&] {
			session.close();
			CHECK(wait_for([&] { return ferry::state_of(stage.device, name) < 0; }));
		});
		CHECK(logged("'" + name + "'", "in time"));
	});

const Table<Content> keep_policy(
	"session/policy/keep: waits until it is discarded: ", contents,
	[](Stage &stage, const Content &content) {
		auto key = ferry::key(5);
		auto session = VALUE(ferry::create(stage.device, name_for("kept", content), &key,
						   {LIVEUPDATE_FERRY_POLICY_KEEP, 0}));
		content.put(session);
		hold(std::move(session));
	},
	[](Stage &stage, const Content &content) {
		need_handlers(content);
		auto name = name_for("kept", content);
		auto key = ferry::key(5);
		VALUE(ferry::retrieve(stage.device, name, &key)).close();
		CHECK_EQ(ferry::state_of(stage.device, name), LIVEUPDATE_FERRY_SESSION_WAITING);
		// A kexec would lose it.
		CHECK_EQ(jump(), EBUSY);
		auto failure = VALUE(ferry::get<liveupdate_ferry_failure>(
			stage.device, LIVEUPDATE_FERRY_GET_FAILURE));
		CHECK_EQ(failure.operation, LIVEUPDATE_FERRY_OP_KEXEC);
		CHECK(ferry::text(failure.session).starts_with("kept"));
		{
			auto session = VALUE(ferry::retrieve(stage.device, name, &key));
			FAILS(ferry::discard(stage.device, name), EBUSY);
		}
		CHECK_EQ(in_child(
				 [&] {
					 return fails_with(ferry::discard(stage.device, name),
							   EPERM);
				 },
				 1000),
			 0);
		check_released(content, stage, name,
			       [&] { OK(ferry::discard(stage.device, name)); });
		FAILS(ferry::discard(stage.device, name), ENOENT);
	});

BEFORE("session/policy/deadline: a short one does not wait for anybody")
{
	auto session = VALUE(ferry::create(stage.device, "short", nullptr,
					   {LIVEUPDATE_FERRY_POLICY_DEADLINE, 1}));
	put_memfd(session);
	hold(std::move(session));
}

AFTER()
{
	// luo.ko comes before luo_memfd.ko, so it may need a second try.
	CHECK(wait_for([&] { return ferry::state_of(stage.device, "short") < 0; }));
	CHECK(logged("'short'", "in time"));
	FAILS(stage.device.retrieve("short"), ENOENT);
}

BEFORE("session/owner/dies before the kexec: its session and its files are free")
{
	auto memfd = make_memfd(page);
	die_after([&] {
		auto session = ferry::create(stage.device, "orphan", nullptr,
					     {LIVEUPDATE_FERRY_POLICY_KEEP, 0});
		bool ok = session && session->preserve(memfd.get(), 1);
		if (session)
			hold(std::move(*session));
		return ok;
	});
	// The last reference is gone with the process.
	CHECK(wait_for([&] { return !::ftruncate(memfd.get(), 2 * page); }));
	OK(stage.device.create("orphan"));
}

BEFORE("session/owner/dies after the kexec: as its policy says")
{
	for (auto [name, policy] : {std::pair{"dead-finish", LIVEUPDATE_FERRY_POLICY_FINISH},
				    {"dead-deadline", LIVEUPDATE_FERRY_POLICY_DEADLINE},
				    {"dead-keep", LIVEUPDATE_FERRY_POLICY_KEEP}}) {
		auto session = VALUE(
			ferry::create(stage.device, name, nullptr,
				      {unsigned(policy),
				       policy == LIVEUPDATE_FERRY_POLICY_DEADLINE ? 600'000u : 0}));
		auto memfd = make_memfd();
		fill(memfd, 0, page, 3);
		OK(session.preserve(memfd.get(), 1));
		hold(std::move(session));
	}
}

AFTER()
{
	auto take_and_die = [&](const char *name) {
		die_after([&] {
			auto session = stage.device.retrieve(name);
			auto memfd = session ? session->retrieve(1)
					     : std::unexpected(session.error());
			bool ok = bool(memfd);
			if (session)
				hold(std::move(*session));
			return ok;
		});
	};
	take_and_die("dead-finish");
	CHECK(wait_for([&] { return ferry::state_of(stage.device, "dead-finish") < 0; }));
	for (auto name : {"dead-deadline", "dead-keep"}) {
		take_and_die(name);
		CHECK(wait_for([&] {
			return ferry::state_of(stage.device, name) ==
			       LIVEUPDATE_FERRY_SESSION_WAITING;
		}));
		auto session = VALUE(stage.device.retrieve(name));
		CHECK(has(VALUE(session.retrieve(1)), 0, page, 3));
		OK(session.finish());
	}
}

// ---- what crosses for people ----

BEFORE("session/seeing/the whole update, in the next kernel")
{
	TestFile a("figures:a");
	OK(stage.session().preserve(a.get(), 1));
	a.fail("freeze", EIO);
	CHECK_EQ(jump(), EIO);
	auto memfd = make_memfd();
	fill(memfd, 0, MiB, 1);
	OK(stage.session().preserve(memfd.get(), 2));
	struct timespec now;
	::clock_gettime(CLOCK_REALTIME, &now);
	stage.note("seconds", now.tv_sec);
}

AFTER()
{
	auto update = VALUE(
		ferry::get<liveupdate_ferry_update>(stage.device, LIVEUPDATE_FERRY_GET_UPDATE));
	struct utsname names;
	SYS(::uname(&names));
	CHECK_EQ(update.number, 1);
	CHECK(update.sessions > 10 && update.files > 10 && update.pages > large / page);
	CHECK(update.refusals >= 1);
	CHECK(ferry::text(update.from) == names.release);
	CHECK(ferry::text(update.to) == names.release);
	CHECK(update.frozen_at / 1'000'000'000 >= uint64_t(stage.number("seconds")));
	CHECK(update.preserve_ns && update.freeze_ns && update.boot_ns);
	// The jump is what the counter says beyond the boot's own clock; an emulated machine on
	// a busy host can lose that, and then it is 0.
	CHECK(update.jump_ns < 600'000'000'000);
	ktap::print("# jump %llu ns, boot %llu ns", (unsigned long long)update.jump_ns,
		    (unsigned long long)update.boot_ns);
	need_handler();
	OK(stage.session().retrieve(1));
	OK(stage.session().retrieve(2));
	auto later = VALUE(
		ferry::get<liveupdate_ferry_update>(stage.device, LIVEUPDATE_FERRY_GET_UPDATE));
	CHECK(later.retrieved >= update.retrieved + 2);
	CHECK(later.first_retrieve_ns > later.boot_ns);
	CHECK(later.retrieve_ns > update.retrieve_ns);
	for (auto &file :
	     VALUE(ferry::files(stage.device, stage.session_name(), LIVEUPDATE_FERRY_INCOMING))) {
		CHECK_EQ(file.state, LIVEUPDATE_FERRY_FILE_RETRIEVED);
		CHECK(file.preserve_ns && file.freeze_ns && file.retrieve_ns);
		if (file.token == 2)
			CHECK_EQ(file.bytes, MiB);
	}
	OK(stage.session().finish());
	CHECK_EQ(ferry::state_of(stage.device, stage.session_name()),
		 LIVEUPDATE_FERRY_SESSION_FINISHED);
}

// ---- again and again ----

// A session that was made once, with files that are preserved once.
BEFORE("session/again/one session over three updates, with its key")
{
	auto key = ferry::key(6);
	auto session = VALUE(ferry::create(stage.device, "again", &key));
	auto memfd = make_memfd();
	fill(memfd, 0, MiB, 1);
	OK(session.preserve(memfd.get(), 1));
	TestFile a("again:a"), b("again:b");
	a.needs(b);
	OK(session.preserve(a.get(), 2));
	OK(session.preserve(b.get(), 3));
	OK(session.preserve(make_memfd(page).get(), 4));
	hold(std::move(session));
}

void carry_again(Stage &stage, uint64_t update)
{
	need_handler();
	auto key = ferry::key(6);
	FAILS(stage.device.retrieve("again"), EPERM);
	auto session = VALUE(ferry::retrieve(stage.device, "again", &key));
	auto memfd = VALUE(session.retrieve(1));
	CHECK(has(memfd, 0, MiB, update));
	fill(memfd, 0, MiB, update + 1);
	OK(session.retrieve(2));
	// Token 4 is given up.
	if (update == 1)
		CHECK_EQ(ferry::info(session).files, 4);
	{
		auto other = VALUE(stage.device.create("again"));
		FAILS(ferry::renew(session), EEXIST);
	}
	OK(ferry::renew(session));
	CHECK_EQ(ferry::info(session).state, LIVEUPDATE_FERRY_SESSION_OPEN);
	CHECK_EQ(ferry::info(session).files, 3);
	FAILS(session.retrieve(1), EINVAL);
	FAILS(ferry::renew(session), EINVAL);
	CHECK_ERRNO(::ftruncate(memfd.get(), 0), EPERM);
	hold(std::move(session));
}

AFTER()
{
	carry_again(stage, 1);
}

AFTER()
{
	carry_again(stage, 2);
}

AFTER()
{
	auto key = ferry::key(6);
	need_handler();
	auto session = VALUE(ferry::retrieve(stage.device, "again", &key));
	auto memfd = VALUE(session.retrieve(1));
	CHECK(has(memfd, 0, MiB, 3));
	OK(session.retrieve(2));
	FAILS(session.retrieve(4), ENOENT);
	OK(session.finish());
	// Finished, and filled anew: the descriptor is all that it takes.
	OK(ferry::renew(session, 0));
	OK(session.preserve(memfd.get(), 9));
}

BEFORE("session/again/a renewal that a handler refuses loses nothing")
{
	TestFile a("unwilling:a"), b("unwilling:b");
	OK(stage.session().preserve(a.get(), 1));
	OK(stage.session().preserve(b.get(), 2));
}

AFTER()
{
	need_handler();
	auto &session = stage.session();
	TestFile a(VALUE(session.retrieve(1)));
	TestFile(VALUE(session.retrieve(2))).fail("preserve", EXFULL);
	FAILS(ferry::renew(session), EXFULL);
	CHECK(called("unwilling:", "finish unpreserve", "finish b; finish a; unpreserve a"));
	CHECK_EQ(ferry::info(session).state, LIVEUPDATE_FERRY_SESSION_RETRIEVED);
	OK(session.retrieve(2));
	OK(ferry::renew(session));
	CHECK(called("unwilling:", "unpreserve", "unpreserve a"));
}

BEFORE("session/again/a virtual machine over three updates")
{
	machine::need_kvm();
	machine::Machine vm;
	vm.boot(0, guest::count());
	vm.preserve(stage.session());
	auto running = std::make_shared<machine::Running>(std::move(vm));
	running->start();
	Stage::keep(std::move(running));
}

void machine_again(Stage &stage, bool last)
{
	machine::need_kvm();
	auto session = VALUE(stage.device.retrieve(stage.session_name()));
	auto vm = machine::Machine::retrieve(session, 1);
	uint64_t before = vm.data().count;
	CHECK(before >= uint64_t(stage.number("count")));
	if (!last)
		OK(ferry::renew(session));
	auto running = std::make_shared<machine::Running>(std::move(vm));
	running->start();
	CHECK(wait_for([&] { return running->vm.data().count > before; }));
	CHECK(running->fine());
	stage.note("count", running->vm.data().count);
	if (last)
		return;
	hold(std::move(session));
	Stage::keep(std::move(running));
}

AFTER()
{
	machine_again(stage, false);
}

AFTER()
{
	machine_again(stage, false);
}

AFTER()
{
	machine_again(stage, true);
}

BEFORE("session/again/who does not ask has it as in mainline")
{
	OK(stage.session().preserve(make_memfd(page).get(), 1));
}

AFTER()
{
	auto session = VALUE(stage.device.retrieve(stage.session_name()));
	OK(session.retrieve(1));
	OK(session.finish());
	hold(std::move(session));
}

AFTER()
{
	FAILS(stage.device.retrieve(stage.session_name()), ENOENT);
}

} // namespace

int session_stage(int stage, const char *filter)
{
	return run_stage(stage, "session/", filter);
}
