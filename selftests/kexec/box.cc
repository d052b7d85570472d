// SPDX-License-Identifier: GPL-2.0
// Boxes of files, /dev/fdbox: <linux/fdbox.h>.

#include <sys/socket.h>
#include <sys/wait.h>

#include <linux/fdbox.h>

#include "selftests/kexec/carry.hh"
#include "selftests/kexec/ferry.hh"
#include "selftests/kexec/kvm.hh"
#include "selftests/kexec/veto.hh"

namespace {

void need_fdbox()
{
	if (::access("/dev/fdbox/fdbox", F_OK))
		load_module("fdbox");
	REQUIRE(!::access("/dev/fdbox/fdbox", F_OK));
}

// Create or delete.
liveupdate::Result<void> manage(unsigned long request, const std::string &name,
				const ferry::Key *key = nullptr)
{
	need_fdbox();
	Fd fd(SYS(::open("/dev/fdbox/fdbox", O_RDWR | O_CLOEXEC)));
	auto arg = ferry::named<fdbox_box>(name);
	if (key) {
		arg.flags = FDBOX_KEY;
		std::memcpy(arg.key, key->data(), key->size());
	}
	return liveupdate::call(fd.get(), request, arg);
}

class Box {
    public:
	static liveupdate::Result<Box> open(const std::string &name)
	{
		Fd fd(::open(("/dev/fdbox/" + name).c_str(), O_RDWR | O_CLOEXEC));
		if (!fd)
			return liveupdate::failure(errno);
		return Box(std::move(fd));
	}
	liveupdate::Result<void> unlock(const ferry::Key &key)
	{
		fdbox_unlock arg{};
		std::memcpy(arg.key, key.data(), key.size());
		return liveupdate::call(fd_.get(), FDBOX_UNLOCK, arg);
	}
	liveupdate::Result<void> put(int fd, const std::string &name)
	{
		auto arg = ferry::named<fdbox_file>(name);
		arg.fd = fd;
		return liveupdate::call(fd_.get(), FDBOX_PUT_FD, arg);
	}
	// What is put is no longer the caller's.
	liveupdate::Result<void> put(Fd &&fd, const std::string &name)
	{
		auto done = put(fd.get(), name);
		if (done)
			fd.release();
		return done;
	}
	liveupdate::Result<Fd> get(const std::string &name)
	{
		auto arg = ferry::named<fdbox_file>(name);
		if (auto done = liveupdate::call(fd_.get(), FDBOX_GET_FD, arg); !done)
			return std::unexpected(done.error());
		return Fd(arg.fd);
	}
	liveupdate::Result<void> seal()
	{
		fdbox_seal arg{};
		return liveupdate::call(fd_.get(), FDBOX_SEAL, arg);
	}
	liveupdate::Result<void> seal_with(std::vector<int> others)
	{
		fdbox_seal_with arg{};
		arg.nr = others.size();
		arg.fds = reinterpret_cast<uint64_t>(others.data());
		return liveupdate::call(fd_.get(), FDBOX_SEAL_WITH, arg);
	}
	liveupdate::Result<void> unseal()
	{
		fdbox_seal arg{};
		return liveupdate::call(fd_.get(), FDBOX_UNSEAL, arg);
	}
	// "sealed came: a b"
	std::string list()
	{
		std::vector<fdbox_entry> entries(16);
		fdbox_list arg{};
		arg.nr = entries.size();
		arg.entries = reinterpret_cast<uint64_t>(entries.data());
		OK(liveupdate::call(fd_.get(), FDBOX_LIST, arg));
		std::string all =
			std::string(arg.sealed ? "sealed" : "") + (arg.came ? " came" : "") + ":";
		for (unsigned i = 0; i < arg.nr; i++)
			all += " " + ferry::text(entries[i].name);
		return all;
	}
	int fd() const
	{
		return fd_.get();
	}

    private:
	explicit Box(Fd fd) : fd_(std::move(fd))
	{
	}
	Fd fd_;
};

Box make(const std::string &name, const ferry::Key *key = nullptr)
{
	OK(manage(FDBOX_CREATE_BOX, name, key));
	return VALUE(Box::open(name));
}

bool fails_with(const auto &result, int error)
{
	return !result && result.error().value() == error;
}

int as_user(int uid, const std::function<bool()> &what)
{
	const pid_t child = SYS(::fork());
	if (!child)
		::_exit(::setresuid(uid, uid, uid) ? 99 : what() ? 0 : 1);
	int status;
	SYS(::waitpid(child, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 100;
}

// ---- without a kexec ----

TEST("session", "box/a virtual machine and any file go to another process")
{
	auto box = make("handover");
	int pair[2];
	SYS(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	Fd here(pair[0]);
	OK(box.put(Fd(pair[1]), "socket"));
	auto memfd = make_memfd();
	fill(memfd, 0, page, 1);
	OK(box.put(std::move(memfd), "memory"));
	CHECK(box.list() == ": socket memory");
	// The descriptor is gone from here.
	CHECK_ERRNO(::fcntl(pair[1], F_GETFD), EBADF);
	CHECK_EQ(as_user(0,
			 [] {
				 auto other = Box::open("handover");
				 auto socket = other->get("socket"), memory = other->get("memory");
				 return socket && memory && has(*memory, 0, page, 1) &&
					::write(socket->get(), "x", 1) == 1;
			 }),
		 0);
	char got = 0;
	CHECK_EQ(::read(here.get(), &got, 1), 1);
	CHECK(box.list() == ":");
	OK(manage(FDBOX_DELETE_BOX, "handover"));
	CHECK(::access("/dev/fdbox/handover", F_OK) != 0);
	FAILS(box.get("socket"), ENODEV);
}

TEST("session", "box/names, what is there, and what cannot go in")
{
	auto box = make("refuses");
	FAILS(manage(FDBOX_CREATE_BOX, "refuses"), EEXIST);
	for (auto name : {"", "fdbox", "../x", ".x", "a b"})
		FAILS(manage(FDBOX_CREATE_BOX, name), EINVAL);
	FAILS(manage(FDBOX_DELETE_BOX, "nobody"), ENOENT);
	FAILS(box.put(-1, "x"), EBADF);
	FAILS(box.get("x"), ENOENT);
	auto memfd = make_memfd(page);
	FAILS(box.put(memfd.get(), ""), EINVAL);
	OK(box.put(SYS(::dup(memfd.get())), "x"));
	FAILS(box.put(memfd.get(), "x"), EEXIST);
	// In itself, or in another one.
	FAILS(box.put(box.fd(), "self"), ELOOP);
	auto other = make("refuses-2");
	FAILS(box.put(other.fd(), "other"), ELOOP);
	FAILS(other.put(box.fd(), "ring"), ELOOP);
	OK(manage(FDBOX_DELETE_BOX, "refuses"));
	OK(manage(FDBOX_DELETE_BOX, "refuses-2"));
}

TEST("session", "box/sealing freezes what is in it, and checks what it needs")
{
	need_handler();
	auto box = make("seals");
	TestFile a("box:a"), b("box:b");
	a.needs(b);
	OK(box.put(SYS(::dup(a.get())), "a"));
	FAILS(box.seal(), ENOENT);
	CHECK(logged("fdbox:seals", "needs a file"));
	OK(box.put(SYS(::dup(b.get())), "b"));
	auto memfd = make_memfd(page);
	OK(box.put(SYS(::dup(memfd.get())), "memory"));
	OK(box.seal());
	CHECK(box.list() == "sealed: a b memory");
	FAILS(box.seal(), EALREADY);
	FAILS(box.get("a"), EBUSY);
	FAILS(box.put(memfd.get(), "again"), EBUSY);
	CHECK_ERRNO(::ftruncate(memfd.get(), 0), EPERM);
	OK(box.unseal());
	FAILS(box.unseal(), EALREADY);
	SYS(::ftruncate(memfd.get(), 0));
	int pair[2];
	SYS(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	Fd here(pair[0]);
	OK(box.put(Fd(pair[1]), "socket"));
	FAILS(box.seal(), ENOENT);
	CHECK(logged("'seals'", "'socket'"));
	b.needs(a);
	OK(box.get("socket"));
	FAILS(box.seal(), ELOOP);
	b.command("forget");
	OK(box.seal());
	// What is deleted is free again.
	OK(manage(FDBOX_DELETE_BOX, "seals"));
	OK(open_device().create("fdbox:seals"));
}

TEST("session", "box/sealed together, needs reach from box to box")
{
	need_handler();
	auto device = make("set-device"), memory = make("set-memory"), other = make("set-other");
	TestFile a("set:a"), b("set:b");
	a.needs(b);
	OK(device.put(SYS(::dup(a.get())), "a"));
	OK(memory.put(SYS(::dup(b.get())), "b"));
	auto memfd = make_memfd(page);
	OK(other.put(SYS(::dup(memfd.get())), "memory"));
	FAILS(device.seal(), ENOENT);
	FAILS(device.seal_with({other.fd()}), ENOENT);
	CHECK(other.list() == ": memory");
	FAILS(device.seal_with({}), EINVAL);
	FAILS(device.seal_with(std::vector<int>(FDBOX_MAX_TOGETHER, memory.fd())), EINVAL);
	FAILS(device.seal_with({device.fd()}), EINVAL);
	FAILS(device.seal_with({memory.fd(), memory.fd()}), EINVAL);
	FAILS(device.seal_with({-1}), EBADF);
	FAILS(device.seal_with({memfd.get()}), EBADF);
	auto key = ferry::key(1);
	auto keyed = make("set-keyed", &key);
	FAILS(device.seal_with({memory.fd(), keyed.fd()}), EPERM);
	OK(keyed.unlock(key));
	OK(device.seal_with({memory.fd(), keyed.fd(), other.fd()}));
	for (Box *box : {&device, &memory, &keyed, &other})
		FAILS(box->seal(), EALREADY);
	CHECK(memory.list() == "sealed: b");
	FAILS(memory.get("b"), EBUSY);
	CHECK_ERRNO(::ftruncate(memfd.get(), 0), EPERM);
	// One seal.
	OK(other.unseal());
	SYS(::ftruncate(memfd.get(), page));
	CHECK(memory.list() == ": b");
	FAILS(memory.unseal(), EALREADY);
	OK(other.seal());
	FAILS(device.seal_with({memory.fd(), other.fd()}), EALREADY);
	CHECK(memory.list() == ": b");
	OK(other.unseal());
	OK(device.seal_with({memory.fd(), other.fd()}));
	// What was sealed with one that is deleted is open, and there still.
	OK(manage(FDBOX_DELETE_BOX, "set-other"));
	CHECK(device.list() == ": a");
	FAILS(device.seal_with({other.fd()}), ENODEV);
	for (auto name : {"set-device", "set-memory", "set-keyed"})
		OK(manage(FDBOX_DELETE_BOX, name));
}

TEST("session", "box/who may use it")
{
	SYS(::chmod("/dev/fdbox/fdbox", 0666));
	CHECK_EQ(as_user(1000, [] { return bool(manage(FDBOX_CREATE_BOX, "theirs")); }), 0);
	FAILS(Box::open("theirs"), EACCES);
	CHECK_EQ(as_user(1001, [] { return fails_with(Box::open("theirs"), EACCES); }), 0);
	CHECK_EQ(as_user(1000, [] { return bool(Box::open("theirs")); }), 0);
	CHECK_EQ(
		as_user(1001, [] { return fails_with(manage(FDBOX_DELETE_BOX, "theirs"), EPERM); }),
		0);
	auto key = ferry::key(1), wrong = ferry::key(2);
	auto box = make("keyed", &key);
	FAILS(box.seal(), EPERM);
	FAILS(box.unlock(wrong), EPERM);
	FAILS(box.seal(), EPERM);
	OK(box.unlock(key));
	OK(box.seal());
	CHECK_EQ(as_user(1001,
			 [&] {
				 auto other = Box::open("keyed");
				 return other && fails_with(other->unseal(), EPERM) &&
					fails_with(other->unlock(wrong), EPERM) &&
					other->unlock(key) && other->unseal();
			 }),
		 0);
	CHECK_EQ(as_user(1001,
			 [&] {
				 return fails_with(manage(FDBOX_DELETE_BOX, "keyed", &wrong),
						   EPERM);
			 }),
		 0);
	// Deleting gives nothing to anybody.
	OK(manage(FDBOX_DELETE_BOX, "keyed"));
	OK(manage(FDBOX_DELETE_BOX, "theirs"));
	SYS(::chmod("/dev/fdbox/fdbox", 0600));
}

TEST("session", "box/the module stays while there are boxes")
{
	need_fdbox();
	OK(manage(FDBOX_CREATE_BOX, "stays"));
	CHECK(unload_module("fdbox") != 0);
	OK(manage(FDBOX_DELETE_BOX, "stays"));
	CHECK_EQ(unload_module("fdbox"), 0);
	need_fdbox();
}

// ---- over a kexec ----

BEFORE("session/box/sealed ones cross, again and again; others do not")
{
	auto key = ferry::key(3);
	auto box = make("sealed", &key);
	OK(box.unlock(key));
	auto memfd = make_memfd();
	fill(memfd, 0, MiB, 1);
	OK(box.put(std::move(memfd), "memory"));
	TestFile a("boxed:a"), b("boxed:b");
	a.needs(b);
	OK(box.put(a.release(), "a"));
	OK(box.put(b.release(), "b"));
	OK(box.seal());
	auto open = make("open");
	OK(open.put(make_memfd(page), "memory"));
	OK(manage(FDBOX_CREATE_BOX, "empty"));
	OK(VALUE(Box::open("empty")).seal());
}

void box_again(uint64_t update, bool last)
{
	need_handler();
	need_fdbox();
	auto key = ferry::key(3), wrong = ferry::key(4);
	CHECK(::access("/dev/fdbox/open", F_OK) != 0);
	auto device = VALUE(ferry::open_shared());
	auto arg = ferry::named<liveupdate_ferry_retrieve_session>("fdbox:sealed");
	arg.flags = LIVEUPDATE_FERRY_KEY;
	std::memcpy(arg.key, key.data(), key.size());
	FAILS(liveupdate::call(device.get(), LIVEUPDATE_FERRY_RETRIEVE_SESSION, arg), EINVAL);
	auto box = VALUE(Box::open("sealed"));
	FAILS(box.unseal(), EPERM);
	FAILS(box.unlock(wrong), EPERM);
	OK(box.unlock(key));
	CHECK(box.list() == "sealed came: memory a b");
	OK(box.unseal());
	auto memfd = VALUE(box.get("memory"));
	CHECK(has(memfd, 0, MiB, update));
	if (last) {
		OK(manage(FDBOX_DELETE_BOX, "sealed"));
		OK(manage(FDBOX_DELETE_BOX, "empty"));
		{
			auto gone = std::move(box);
		}
		CHECK_EQ(unload_module("fdbox"), 0);
		return;
	}
	fill(memfd, 0, MiB, update + 1);
	OK(box.put(std::move(memfd), "memory"));
	auto a = VALUE(box.get("a"));
	OK(box.put(std::move(a), "a"));
	auto b = VALUE(box.get("b"));
	OK(box.put(std::move(b), "b"));
	OK(box.seal());
	CHECK(box.list() == "sealed: memory a b");
	auto empty = VALUE(Box::open("empty"));
	CHECK(empty.list() == "sealed came:");
	// It came, and nobody unsealed it: a kexec would lose it.
	OK(empty.unseal());
	OK(empty.seal());
}

AFTER()
{
	box_again(1, false);
}

AFTER()
{
	box_again(2, true);
}

BEFORE("session/box/those that were sealed together")
{
	auto key = ferry::key(5);
	auto device = make("together-device"), memory = make("together-memory", &key),
	     other = make("together-other");
	OK(memory.unlock(key));
	TestFile a("together:a"), b("together:b");
	a.needs(b);
	OK(device.put(a.release(), "a"));
	OK(memory.put(b.release(), "b"));
	auto memfd = make_memfd();
	fill(memfd, 0, MiB, 1);
	OK(memory.put(std::move(memfd), "memory"));
	OK(other.put(make_memfd(page), "memory"));
	OK(device.seal_with({memory.fd(), other.fd()}));
}

AFTER()
{
	need_handler();
	need_fdbox();
	auto key = ferry::key(5);
	auto device = VALUE(Box::open("together-device")),
	     memory = VALUE(Box::open("together-memory")),
	     other = VALUE(Box::open("together-other"));
	FAILS(memory.unseal(), EPERM);
	OK(memory.unlock(key));
	CHECK(device.list() == "sealed came: a");
	CHECK(memory.list() == "sealed came: b memory");
	CHECK(other.list() == "sealed came: memory");
	// What its file needs is in a box that nobody opened.
	OK(device.unseal());
	CHECK(device.list() == " came: a");
	FAILS(memory.get("b"), EBUSY);
	FAILS(device.unseal(), EALREADY);
	// The files of the others would be lost.
	FAILS(device.seal(), EBUSY);
	FAILS(device.seal_with({memory.fd()}), EALREADY);
	OK(memory.unseal());
	auto memfd = VALUE(memory.get("memory"));
	CHECK(has(memfd, 0, MiB, 1));
	FAILS(device.seal_with({memory.fd()}), EBUSY);
	OK(manage(FDBOX_DELETE_BOX, "together-other"));
	OK(device.seal_with({memory.fd()}));
	CHECK(device.list() == "sealed: a");
	OK(manage(FDBOX_DELETE_BOX, "together-memory"));
	CHECK(device.list() == ": a");
	OK(manage(FDBOX_DELETE_BOX, "together-device"));
}

BEFORE("session/box/a virtual machine in a box")
{
	machine::need_kvm();
	machine::Machine vm;
	vm.boot(0, guest::count());
	auto box = make("machine");
	OK(box.put(SYS(::dup(vm.vm.get())), "vm"));
	OK(box.put(SYS(::dup(vm.vcpus[0].get())), "vcpu"));
	OK(box.put(SYS(::dup(vm.ram.fd.get())), "ram"));
	OK(box.seal());
	stage.keep(std::move(vm));
}

AFTER()
{
	machine::need_kvm();
	need_fdbox();
	auto box = VALUE(Box::open("machine"));
	OK(box.unseal());
	kvm::Vm vm(VALUE(box.get("vm")));
	auto vcpu = VALUE(box.get("vcpu")), ram = VALUE(box.get("ram"));
	CHECK(box.list() == " came:");
	// It can be completed as long as the box is there.
	auto slots = machine::get_memory(vm);
	REQUIRE(slots.size() == 1);
	Map map(ram, slots[0].memory_size);
	slots[0].userspace_addr = reinterpret_cast<uint64_t>(map.data());
	OK(machine::set_memory(vm, slots));
	OK(manage(FDBOX_DELETE_BOX, "machine"));
}

} // namespace
