// SPDX-License-Identifier: GPL-2.0
// Operations of a handler that fail: the kexec is called off, and everything goes on; or files wait
// for what they need. The handler is ferry_test.ko.

#include <atomic>
#include <thread>

#include "selftests/kexec/carry.hh"
#include "selftests/kexec/pages.hh"
#include "selftests/kexec/veto.hh"

namespace {

// ---- before the kexec ----

// In stage 2 the module has to be absent at first: this one comes before all others.
BEFORE("veto/handler not loaded: its files wait, others do not")
{
	TestFile file("later:");
	file.command("data waited");
	auto memfd = make_memfd();
	fill(memfd, 0, page, 1);
	OK(stage.session().preserve(file.get(), 1));
	OK(stage.session().preserve(memfd.get(), 2));
}

AFTER()
{
	REQUIRE(::access("/dev/ferry_test", F_OK) != 0);
	FAILS(stage.session().retrieve(1), ENOENT);
	CHECK(logged("test-v1", "veto/handler not loaded"));
	CHECK(has(VALUE(stage.session().retrieve(2)), 0, page, 1));
	CHECK(!stage.session().finish());
	FAILS(stage.session().retrieve(1), ENOENT);
	need_handler();
	TestFile file(VALUE(stage.session().retrieve(1)));
	CHECK(called("later:", "retrieve data", "retrieve ; data  waited"));
	CHECK(has(VALUE(stage.session().retrieve(2)), 0, page, 1));
	OK(stage.session().finish());
	CHECK(called("later:", "can_finish finish", "can_finish ; finish "));
}

BEFORE("veto/freeze fails: its errno, exact order, nothing is lost")
{
	clear_log();
	TestFile a("order:a"), b("order:b"), c("order:c");
	a.needs(b);
	b.needs(c);
	c.fail("freeze", EREMOTEIO);
	auto session = VALUE(stage.device.create("order"));
	OK(session.preserve(c.get(), 3));
	OK(session.preserve(a.get(), 1));
	OK(session.preserve(b.get(), 2));
	auto memfd = make_memfd(4 * page);
	fill(memfd, 0, page, 2);
	OK(session.preserve(memfd.get(), 4));

	CHECK_EQ(jump(), EREMOTEIO);
	CHECK(called("order:", "freeze unfreeze save",
		     "freeze a; freeze b; freeze c -121; unfreeze b; unfreeze a"));
	CHECK(logged("order", "test-v1"));

	// Everything goes on: the session, the memfd, its holes, the device.
	CHECK(VALUE(session.name()) == "order");
	fill(memfd, 0, 3 * page, 3);
	CHECK(has(memfd, 0, 3 * page, 3));
	OK(session.preserve(make_memfd(page).get(), 5));
	CHECK_ERRNO(::ftruncate(memfd.get(), 0), EPERM);
	OK(stage.device.create("order-2"));
	session.close();
	CHECK(called("order:", "unpreserve", "unpreserve a; unpreserve b; unpreserve c"));
	SYS(::ftruncate(memfd.get(), 8 * page));
}

BEFORE("veto/freeze fails: sessions that were frozen before are rolled back in reverse")
{
	clear_log();
	TestFile a("s:a"), b("s:b"), c("s:c"), d("s:d");
	auto one = VALUE(stage.device.create("s-1")), two = VALUE(stage.device.create("s-2")),
	     three = VALUE(stage.device.create("s-3"));
	OK(one.preserve(a.get(), 1));
	OK(one.preserve(b.get(), 2));
	OK(two.preserve(c.get(), 1));
	OK(three.preserve(d.get(), 1));
	d.fail("freeze", EIO);
	CHECK_EQ(jump(), EIO);
	CHECK(called(
		"s:", "freeze unfreeze",
		"freeze a; freeze b; freeze c; freeze d -5; unfreeze c; unfreeze b; unfreeze a"));
}

// A page that did not stay where it was preserved is found, and named; the rest goes on.
const astray::Cases pages(
	"veto/pages/",
	{{"unpinned", astray::small, nullptr, astray::unpin, astray::unpinned},
	 {"moved", astray::huge, astray::stays, astray::move, astray::replaced},
	 {"freed", astray::small, astray::keeps, astray::punch, astray::gone, astray::Left::hole},
	 {"written-anew", astray::small, astray::keeps, astray::write_anew, astray::replaced,
	  astray::Left::written},
	 {"settled", astray::small, nullptr, astray::settle, astray::replaced, astray::Left::whole,
	  astray::settle},
	 {"split", astray::huge, astray::stays_whole, astray::split, astray::split_up},
	 {"in-scratch", astray::huge, nullptr, astray::scratch, astray::in_scratch}});

BEFORE("veto/save fails: its errno, everything is rolled back in reverse")
{
	clear_log();
	TestFile a("save:a"), b("save:b"), c("save:c"), d("save:d");
	a.needs(b);
	b.fail("save", EXFULL);
	auto session = VALUE(stage.device.create("save")),
	     other = VALUE(stage.device.create("save-2"));
	OK(session.preserve(b.get(), 2));
	OK(session.preserve(a.get(), 1));
	OK(other.preserve(c.get(), 1));
	OK(other.preserve(d.get(), 2));
	CHECK_EQ(jump(), EXFULL);
	CHECK(called("save:", "freeze unfreeze",
		     "freeze a; freeze b; freeze c; freeze d; "
		     "unfreeze d; unfreeze c; unfreeze b; unfreeze a"));
	CHECK(logged("'save'", "test-v1"));
	OK(session.preserve(make_memfd(page).get(), 3));
}

BEFORE("veto/dependency that is not preserved: refused, and named")
{
	clear_log();
	TestFile a("missing:a"), b("missing:b");
	a.needs(b);
	auto session = VALUE(stage.device.create("missing")),
	     other = VALUE(stage.device.create("missing-2"));
	OK(session.preserve(a.get(), 0xabc));
	CHECK_EQ(jump(), ENOENT);
	CHECK(logged("'missing'", "0xabc"));
	// Another session does not count.
	OK(other.preserve(b.get(), 1));
	CHECK_EQ(jump(), ENOENT);
	CHECK(called("missing:", "freeze", ""));
	other.close();
	OK(session.preserve(b.get(), 1));
	// Now only this one is in the way.
	b.fail("freeze", EIO);
	CHECK_EQ(jump(), EIO);
	CHECK(called("missing:", "freeze unfreeze", "freeze a; freeze b -5; unfreeze a"));
}

BEFORE("veto/dependencies in a ring: ELOOP")
{
	clear_log();
	TestFile a("ring:a"), b("ring:b"), c("ring:c");
	a.needs(b);
	b.needs(c);
	c.needs(a);
	{
		auto session = VALUE(stage.device.create("ring"));
		OK(session.preserve(a.get(), 1));
		OK(session.preserve(b.get(), 2));
		OK(session.preserve(c.get(), 3));
		CHECK_EQ(jump(), ELOOP);
		CHECK(logged("'ring'", "test-v1"));
		CHECK(called("ring:", "freeze", ""));
	}
	TestFile self("ring:self");
	self.needs(self);
	{
		auto session = VALUE(stage.device.create("ring"));
		OK(session.preserve(self.get(), 1));
		CHECK_EQ(jump(), ELOOP);
	}
	for (auto file : {&a, &b, &c, &self})
		file->command("forget");
}

BEFORE("veto/preserve fails: its errno, and the file and the token are free")
{
	clear_log();
	TestFile a("fails:a");
	a.fail("preserve", EUCLEAN);
	auto session = VALUE(stage.device.create("fails"));
	FAILS(session.preserve(a.get(), 1), EUCLEAN);
	OK(session.preserve(a.get(), 1));
	session.close();
	CHECK(called("fails:", "preserve unpreserve", "preserve a -117; preserve a; unpreserve a"));
}

BEFORE("veto/who writes into holes meanwhile goes on after a refused kexec")
{
	clear_log();
	TestFile a("meanwhile:a");
	auto session = VALUE(stage.device.create("meanwhile"));
	auto memfd = make_memfd(256 * MiB);
	OK(session.preserve(memfd.get(), 1));
	OK(session.preserve(a.get(), 2));
	std::atomic<bool> stop = false;
	std::atomic<uint64_t> done = 0;
	// It has so many holes for a kexec, and as many for afterwards: how fast it is does not
	// matter.
	constexpr int kexecs = 5;
	constexpr uint64_t part = 65536 / (2 * kexecs);
	std::atomic<uint64_t> parts = 0;
	std::thread writer([&] {
		for (uint64_t i = 0; !stop; i++, done++) {
			while (!stop && i >= parts * part)
				::usleep(100);
			if (stop || ::pwrite(memfd.get(), &i, 8, i * page) != 8)
				break;
		}
	});
	int met = 0; // a freeze that the writer came into
	for (int i = 0; i < kexecs; i++) {
		auto before = done.load();
		parts++;
		CHECK(wait_for([&] { return done > before; }));
		a.fail("freeze", EIO);
		CHECK_EQ(jump(), EIO);
		before = done;
		met += before < parts * part;
		parts++;
		if (!CHECK(wait_for([&] { return done > before; })))
			break;
	}
	stop = true;
	writer.join();
	uint64_t wrong = 0, value;
	for (uint64_t i = 0; i < done; i++)
		wrong += ::pread(memfd.get(), &value, 8, i * page) != 8 || value != i;
	CHECK_EQ(wrong, 0);
	CHECK(met > 0);
}

BEFORE("veto/needs named at a freeze that was called off do not count")
{
	TestFile a("again:a"), b("again:b"), c("again:c");
	a.needs(b, "needs-late");
	OK(stage.session().preserve(a.get(), 1));
	OK(stage.session().preserve(b.get(), 2));
	OK(stage.session().preserve(c.get(), 3));
	c.fail("freeze", EIO);
	CHECK_EQ(jump(), EIO);
	a.command("forget");
	a.needs(c, "needs-late");
}

AFTER()
{
	need_handler();
	OK(stage.session().retrieve(1));
	CHECK(called("again:", "retrieve", "retrieve c; retrieve a"));
	OK(stage.session().finish());
}

BEFORE("veto/a need that is named at freeze and not preserved: refused")
{
	clear_log();
	TestFile a("gone:a"), b("gone:b");
	a.needs(b, "needs-late");
	auto session = VALUE(stage.device.create("gone")),
	     guard = VALUE(stage.device.create("gone-2"));
	OK(session.preserve(a.get(), 0xdef));
	// Or else this one calls it off.
	TestFile z("gone:z");
	z.fail("save", EXFULL);
	OK(guard.preserve(z.get(), 1));
	CHECK_EQ(jump(), ENOENT);
	CHECK(called("gone:a", "freeze unfreeze", "freeze ; unfreeze "));
	CHECK(logged("'gone'", "0xdef"));
}

BEFORE("veto/the handler's module cannot go while a file is preserved")
{
	clear_log();
	auto session = VALUE(stage.device.create("busy"));
	{
		TestFile a("busy:a");
		OK(session.preserve(a.get(), 1));
	}
	int error = unload_module("ferry_test");
	CHECK(error == EWOULDBLOCK || error == EBUSY);
	session.close();
}

// ---- over the kexec, which succeeds after all of the above ----

BEFORE("veto/after refused kexecs one succeeds: retrieve and finish in order of need")
{
	TestFile a("after:a"), b("after:b"), c("after:c");
	a.needs(b);
	b.needs(c);
	c.command("data deep");
	OK(stage.session().preserve(b.get(), 2));
	OK(stage.session().preserve(c.get(), 3));
	OK(stage.session().preserve(a.get(), 1));
}

AFTER()
{
	need_handler();
	TestFile a(VALUE(stage.session().retrieve(1)));
	CHECK(called("after:", "retrieve", "retrieve c; retrieve b; retrieve a"));
	auto c = VALUE(stage.session().retrieve(3));
	CHECK(called("after:c", "retrieve data", "retrieve ; data  deep"));
	OK(stage.session().finish());
	CHECK(called("after:", "finish", "finish a; finish b; finish c"));
}

BEFORE("veto/finish of what was not retrieved, in order of need")
{
	TestFile a("alone:a"), b("alone:b");
	b.needs(a);
	OK(stage.session().preserve(a.get(), 1));
	OK(stage.session().preserve(b.get(), 2));
}

AFTER()
{
	need_handler();
	OK(stage.session().finish());
	CHECK(called("alone:", "retrieve finish", "finish b; finish a"));
}

BEFORE("veto/retrieve fails: its errno, remembered; the other files do not mind")
{
	TestFile a("lost:a"), b("lost:b"), c("lost:c");
	a.fail("retrieve", EILSEQ, 9);
	b.needs(a);
	OK(stage.session().preserve(a.get(), 1));
	OK(stage.session().preserve(b.get(), 2));
	OK(stage.session().preserve(c.get(), 3));
}

AFTER()
{
	need_handler();
	FAILS(stage.session().retrieve(1), EILSEQ);
	FAILS(stage.session().retrieve(1), EILSEQ);
	CHECK(called("lost:a", "retrieve", "retrieve  -84"));
	// Who needs it fails likewise.
	FAILS(stage.session().retrieve(2), EILSEQ);
	OK(stage.session().retrieve(3));
	OK(stage.session().finish());
}

BEFORE("veto/can_finish says no: nothing is finished, and it can be tried again")
{
	TestFile a("wait:a"), b("wait:b");
	a.needs(b);
	b.fail("can_finish", EBUSY, 2);
	auto memfd = make_memfd();
	fill(memfd, 0, page, 5);
	OK(stage.session().preserve(a.get(), 1));
	OK(stage.session().preserve(b.get(), 2));
	OK(stage.session().preserve(memfd.get(), 3));
}

AFTER()
{
	need_handler();
	OK(stage.session().retrieve(1));
	FAILS(stage.session().finish(), EBUSY);
	FAILS(stage.session().finish(), EBUSY);
	CHECK(called("wait:", "finish", ""));
	CHECK(has(VALUE(stage.session().retrieve(3)), 0, page, 5));
	OK(stage.session().finish());
	CHECK(called("wait:", "finish", "finish a; finish b"));
}

BEFORE("veto/can_finish says no at close: the session can be retrieved again")
{
	TestFile a("early:a");
	a.fail("can_finish", EBUSY, 1);
	OK(stage.session().preserve(a.get(), 1));
}

AFTER()
{
	need_handler();
	OK(stage.session().retrieve(1));
	stage.session().close();
	auto session = VALUE(stage.device.retrieve(stage.session_name()));
	OK(session.retrieve(1));
	CHECK(called("early:", "retrieve finish", "retrieve a"));
	OK(session.finish());
	CHECK(called("early:", "finish", "finish a"));
}

BEFORE("veto/the handler's module cannot go before its files are finished")
{
	TestFile a("module:a");
	OK(stage.session().preserve(a.get(), 1));
}

AFTER()
{
	need_handler();
	{
		auto file = VALUE(stage.session().retrieve(1));
	}
	int error = unload_module("ferry_test");
	CHECK(error == EWOULDBLOCK || error == EBUSY);
	OK(stage.session().finish());
}

// These come last in stage 1: no kexec is refused between their preserve and the real one.

BEFORE("veto/a need that the handler names only at freeze")
{
	TestFile a("late:a"), b("late:b");
	a.needs(b, "needs-late");
	OK(stage.session().preserve(a.get(), 1));
	OK(stage.session().preserve(b.get(), 2));
}

AFTER()
{
	need_handler();
	OK(stage.session().retrieve(1));
	CHECK(called("late:", "retrieve", "retrieve b; retrieve a"));
	OK(stage.session().finish());
	CHECK(called("late:", "finish", "finish a; finish b"));
}

// After all others: everything that was carried is finished, and nothing is in use any more.
TEST("unload", "unload/all modules can go, and come again")
{
	if (!::access("/dev/ferry_test", F_OK))
		REQUIRE(!unload_module("ferry_test"));
	for (auto module : {"luo_memfd", "luo", "kho"}) {
		int error = unload_module(module);
		if (!CHECK_EQ(error, 0))
			ktap::print("# that was: %s", module);
	}
	for (auto module : {"kho", "luo", "luo_memfd"})
		load_module(module);
	// What was carried is used up.
	auto device = open_device();
	FAILS(device.retrieve("ferry-tests"), ENOENT);
	auto session = VALUE(device.create("fresh"));
	OK(session.preserve(make_memfd(page).get(), 1));
}

} // namespace

int veto_stage(int stage, const char *filter)
{
	return run_stage(stage, "veto/", filter);
}
