// SPDX-License-Identifier: GPL-2.0
// The interface of /dev/liveupdate before any kexec: what it takes, what it refuses, what it
// undoes.

#include <atomic>
#include <chrono>
#include <thread>

#include <dirent.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "selftests/kexec/common.hh"

namespace {

int count_fds()
{
	int count = 0;
	DIR *dir = ::opendir("/proc/self/fd");
	while (::readdir(dir))
		count++;
	::closedir(dir);
	return count;
}

// A structure as a newer program would pass it: with a tail that this kernel does not know.
template <typename Arg> struct Longer {
	Arg arg{};
	char tail[40]{};
};

template <typename Arg> Arg named(const char *name, unsigned size = sizeof(Arg))
{
	Arg arg{};
	arg.size = size;
	std::strncpy(reinterpret_cast<char *>(arg.name), name, sizeof(arg.name));
	return arg;
}

using Create = liveupdate_ioctl_create_session;
using RetrieveSession = liveupdate_ioctl_retrieve_session;
using Preserve = liveupdate_session_preserve_fd;
using Retrieve = liveupdate_session_retrieve_fd;
using Finish = liveupdate_session_finish;
using GetName = liveupdate_session_get_name;

// ---- the device ----

TEST("uapi", "device/second open EBUSY")
{
	auto device = open_device();
	FAILS(Device::open(), EBUSY);
}

TEST("uapi", "device/open after close")
{
	for (int i = 0; i < 3; i++)
		OK(Device::open());
}

TEST("uapi", "device/open while a duplicate lives EBUSY")
{
	auto device = open_device();
	Fd other(SYS(::dup(device.get())));
	{
		auto gone = std::move(device);
	}
	FAILS(Device::open(), EBUSY);
	other.reset();
	OK(Device::open());
}

TEST("uapi", "device/unknown calls")
{
	auto device = open_device();
	auto arg = named<Create>("x");
	// Ferry's own calls may stand at 0x20, so not those.
	for (int nr : {0x02, 0x03, 0x1f, 0x3f, 0x40, 0x42, 0x7f, 0xff})
		CHECK_ERRNO(::ioctl(device.get(), _IO(LIVEUPDATE_IOCTL_TYPE, nr), &arg), EINVAL);
	CHECK_ERRNO(::ioctl(device.get(), _IOWR(LIVEUPDATE_IOCTL_TYPE, 0, Create), &arg), ENOTTY);
	CHECK_ERRNO(::ioctl(device.get(), _IO(0xBB, 0), &arg), ENOTTY);
	CHECK_ERRNO(::ioctl(device.get(), _IO(0xBB, 1), &arg), ENOTTY);
}

TEST("uapi", "device/structure sizes")
{
	auto device = open_device();
	for (unsigned size : {0u, 1u, 4u, 8u, unsigned(sizeof(Create)) - 1}) {
		auto arg = named<Create>("sizes", size);
		CHECK_ERRNO(::ioctl(device.get(), LIVEUPDATE_IOCTL_CREATE_SESSION, &arg), EINVAL);
		CHECK_ERRNO(::ioctl(device.get(), LIVEUPDATE_IOCTL_RETRIEVE_SESSION, &arg), EINVAL);
	}
	Longer<Create> longer;
	longer.arg = named<Create>("sizes", sizeof(longer));
	SYS(::ioctl(device.get(), LIVEUPDATE_IOCTL_CREATE_SESSION, &longer));
	Fd session(longer.arg.fd);
	CHECK(session);
	longer.arg = named<Create>("sizes-2", sizeof(longer));
	longer.tail[sizeof(longer.tail) - 1] = 1;
	CHECK_ERRNO(::ioctl(device.get(), LIVEUPDATE_IOCTL_CREATE_SESSION, &longer), E2BIG);
	CHECK_ERRNO(::ioctl(device.get(), LIVEUPDATE_IOCTL_RETRIEVE_SESSION, &longer), E2BIG);
}

TEST("uapi", "device/bad pointers EFAULT")
{
	auto device = open_device();
	CHECK_ERRNO(::ioctl(device.get(), LIVEUPDATE_IOCTL_CREATE_SESSION, nullptr), EFAULT);
	CHECK_ERRNO(::ioctl(device.get(), LIVEUPDATE_IOCTL_CREATE_SESSION, -8l), EFAULT);
	// The size can be read, the rest cannot.
	auto at = static_cast<char *>(SYS(::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
	SYS(::munmap(at + page, page));
	auto arg = new (at + page - 8) unsigned(sizeof(Create));
	CHECK_ERRNO(::ioctl(device.get(), LIVEUPDATE_IOCTL_CREATE_SESSION, arg), EFAULT);
	CHECK_ERRNO(::ioctl(device.get(), LIVEUPDATE_IOCTL_RETRIEVE_SESSION, arg), EFAULT);
	::munmap(at, page);
}

// The answer cannot be written: no session must be left of it.
TEST("uapi", "device/answer cannot be written: nothing is left")
{
	auto device = open_device();
	auto at = SYS(
		::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	new (at) Create(named<Create>("unwritable"));
	SYS(::mprotect(at, page, PROT_READ));
	int before = count_fds();
	CHECK_ERRNO(::ioctl(device.get(), LIVEUPDATE_IOCTL_CREATE_SESSION, at), EFAULT);
	CHECK_EQ(count_fds(), before);
	::munmap(at, page);
	// The session goes with its last reference, which the kernel may drop a moment later.
	CHECK(wait_for([&] { return bool(device.create("unwritable")); }));
}

TEST("uapi", "device/retrieve of an unknown session ENOENT")
{
	auto device = open_device();
	FAILS(device.retrieve("never-created"), ENOENT);
	auto session = VALUE(device.create("not-handed-over"));
	FAILS(device.retrieve("not-handed-over"), ENOENT);
}

TEST("uapi", "device/no free descriptor EMFILE")
{
	auto device = open_device();
	int child = SYS(::fork());
	if (!child) {
		while (::dup(0) >= 0)
			;
		auto session = device.create("emfile");
		::_exit(!session && session.error().value() == EMFILE ? 0 : 1);
	}
	int result;
	SYS(::waitpid(child, &result, 0));
	CHECK_EQ(result, 0);
	OK(device.create("emfile"));
}

// ---- names ----

TEST("uapi", "names/empty and unterminated EINVAL")
{
	auto device = open_device();
	FAILS(device.create(""), EINVAL);
	Create arg{};
	arg.size = sizeof(arg);
	std::memset(arg.name, 'x', sizeof(arg.name));
	CHECK_ERRNO(::ioctl(device.get(), LIVEUPDATE_IOCTL_CREATE_SESSION, &arg), EINVAL);
}

TEST("uapi", "names/63 bytes")
{
	auto device = open_device();
	std::string name(63, 'n');
	auto session = VALUE(device.create(name));
	CHECK(VALUE(session.name()) == name);
	// A name that shares all but its last byte is another one.
	name.back() = 'm';
	auto other = VALUE(device.create(name));
	CHECK(VALUE(other.name()) == name);
}

TEST("uapi", "names/any bytes")
{
	auto device = open_device();
	for (std::string name :
	     {"/", "..", "a b\tc", "%s%n", "\x01\x7f\xff\xfe", "line\nbreak", "\xc3\xa9"}) {
		auto session = VALUE(device.create(name));
		CHECK(VALUE(session.name()) == name);
	}
}

TEST("uapi", "names/duplicate EEXIST")
{
	auto device = open_device();
	{
		auto session = VALUE(device.create("twice"));
		FAILS(device.create("twice"), EEXIST);
		CHECK(VALUE(session.name()) == "twice");
	}
	OK(device.create("twice"));
}

TEST("uapi", "names/what follows the NUL does not count")
{
	auto device = open_device();
	auto arg = named<Create>("tail");
	arg.name[10] = 'x';
	SYS(::ioctl(device.get(), LIVEUPDATE_IOCTL_CREATE_SESSION, &arg));
	Session session{Fd(arg.fd)};
	CHECK(VALUE(session.name()) == "tail");
	FAILS(device.create("tail"), EEXIST);
}

// ---- sessions ----

TEST("uapi", "session/get_name leaks nothing behind the name")
{
	auto device = open_device();
	auto session = VALUE(device.create("a"));
	GetName arg{};
	arg.size = sizeof(arg);
	SYS(::ioctl(session.get(), LIVEUPDATE_SESSION_GET_NAME, &arg));
	for (unsigned i = 1; i < sizeof(arg.name); i++)
		if (!CHECK(arg.name[i] == 0))
			break;
	CHECK_EQ(arg.size, sizeof(arg));
}

TEST("uapi", "session/shown in proc as [luo_session] NAME")
{
	auto device = open_device();
	auto session = VALUE(device.create("shown in proc"));
	char target[128] = {};
	SYS(::readlink(("/proc/self/fd/" + std::to_string(session.get())).c_str(), target,
		       sizeof(target) - 1));
	CHECK(std::string(target) == "anon_inode:[luo_session] shown in proc");
}

TEST("uapi", "session/is close-on-exec and read-write")
{
	auto device = open_device();
	auto session = VALUE(device.create("cloexec"));
	CHECK_EQ(SYS(::fcntl(session.get(), F_GETFD)), FD_CLOEXEC);
	CHECK_EQ(SYS(::fcntl(session.get(), F_GETFL)) & O_ACCMODE, O_RDWR);
}

TEST("uapi", "session/unknown calls")
{
	auto device = open_device();
	auto session = VALUE(device.create("unknown-calls"));
	Preserve arg{};
	arg.size = sizeof(arg);
	for (int nr : {0x00, 0x01, 0x3f, 0x44, 0x5f, 0x7f, 0xff})
		CHECK_ERRNO(::ioctl(session.get(), _IO(LIVEUPDATE_IOCTL_TYPE, nr), &arg), EINVAL);
	for (int nr : {0x40, 0x41, 0x42, 0x43}) {
		CHECK_ERRNO(::ioctl(session.get(), _IOW(LIVEUPDATE_IOCTL_TYPE, nr, Preserve), &arg),
			    ENOTTY);
		CHECK_ERRNO(::ioctl(session.get(), _IO(0xBB, nr), &arg), ENOTTY);
	}
}

TEST("uapi", "session/structure sizes")
{
	auto device = open_device();
	auto session = VALUE(device.create("sizes"));
	auto memfd = make_memfd(page);
	for (unsigned size : {0u, 4u, 8u, unsigned(sizeof(Preserve)) - 1}) {
		Preserve arg{size, memfd.get(), 1};
		CHECK_ERRNO(::ioctl(session.get(), LIVEUPDATE_SESSION_PRESERVE_FD, &arg), EINVAL);
	}
	for (unsigned size : {0u, 8u, unsigned(sizeof(GetName)) - 1}) {
		GetName arg{};
		arg.size = size;
		CHECK_ERRNO(::ioctl(session.get(), LIVEUPDATE_SESSION_GET_NAME, &arg), EINVAL);
	}
	Longer<Preserve> longer;
	longer.arg = {sizeof(longer), memfd.get(), 1};
	longer.tail[0] = 1;
	CHECK_ERRNO(::ioctl(session.get(), LIVEUPDATE_SESSION_PRESERVE_FD, &longer), E2BIG);
	longer.tail[0] = 0;
	SYS(::ioctl(session.get(), LIVEUPDATE_SESSION_PRESERVE_FD, &longer));
	Longer<GetName> name;
	name.arg.size = sizeof(name);
	name.tail[39] = 1;
	CHECK_ERRNO(::ioctl(session.get(), LIVEUPDATE_SESSION_GET_NAME, &name), E2BIG);
	name.tail[39] = 0;
	SYS(::ioctl(session.get(), LIVEUPDATE_SESSION_GET_NAME, &name));
	CHECK(!std::strcmp(reinterpret_cast<char *>(name.arg.name), "sizes"));
}

TEST("uapi", "session/reserved fields EINVAL")
{
	auto device = open_device();
	auto session = VALUE(device.create("reserved"));
	GetName arg{};
	arg.size = sizeof(arg);
	arg.reserved = 1;
	CHECK_ERRNO(::ioctl(session.get(), LIVEUPDATE_SESSION_GET_NAME, &arg), EINVAL);
}

TEST("uapi", "session/bad pointers EFAULT")
{
	auto device = open_device();
	auto session = VALUE(device.create("faults"));
	for (auto call : {LIVEUPDATE_SESSION_PRESERVE_FD, LIVEUPDATE_SESSION_GET_NAME}) {
		CHECK_ERRNO(::ioctl(session.get(), call, nullptr), EFAULT);
		CHECK_ERRNO(::ioctl(session.get(), call, 4096l), EFAULT);
	}
}

TEST("uapi", "session/retrieve and finish before the kexec EINVAL")
{
	auto device = open_device();
	auto session = VALUE(device.create("wrong-kind"));
	FAILS(session.retrieve(0), EINVAL);
	FAILS(session.finish(), EINVAL);
	OK(session.preserve(make_memfd(page).get(), 0));
	FAILS(session.retrieve(0), EINVAL);
	FAILS(session.finish(), EINVAL);
}

TEST("uapi", "session/lives on when the device is closed")
{
	auto device = VALUE(Device::open());
	auto session = VALUE(device.create("outlives"));
	{
		auto gone = std::move(device);
	}
	OK(session.preserve(make_memfd(page).get(), 1));
	CHECK(VALUE(session.name()) == "outlives");
	auto again = open_device();
	FAILS(again.create("outlives"), EEXIST);
}

TEST("uapi", "session/lives until its last duplicate is closed")
{
	auto device = open_device();
	auto memfd = make_memfd(page);
	auto session = VALUE(device.create("dup"));
	OK(session.preserve(memfd.get(), 1));
	Session other{Fd(SYS(::dup(session.get())))};
	session.close();
	FAILS(device.create("dup"), EEXIST);
	FAILS(other.preserve(memfd.get(), 2), EBUSY);
	other.close();
	auto next = VALUE(device.create("dup"));
	OK(next.preserve(memfd.get(), 1));
}

TEST("uapi", "session/passed over a socket")
{
	auto device = open_device();
	int pair[2];
	SYS(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	Fd ours(pair[0]), theirs(pair[1]);
	union {
		char space[CMSG_SPACE(sizeof(int))];
		cmsghdr header;
	} control{};
	char byte = 0;
	iovec data{&byte, 1};
	msghdr message{};
	message.msg_iov = &data;
	message.msg_iovlen = 1;
	message.msg_control = &control;
	message.msg_controllen = sizeof(control);
	{
		auto session = VALUE(device.create("passed"));
		control.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
		*reinterpret_cast<int *>(CMSG_DATA(&control.header)) = session.get();
		SYS(::sendmsg(ours.get(), &message, 0));
	}
	FAILS(device.create("passed"), EEXIST);
	control = {};
	SYS(::recvmsg(theirs.get(), &message, MSG_CMSG_CLOEXEC));
	Session session{Fd(*reinterpret_cast<int *>(CMSG_DATA(&control.header)))};
	CHECK(VALUE(session.name()) == "passed");
	OK(session.preserve(make_memfd(page).get(), 7));
}

TEST("uapi", "session/kept over exec")
{
	auto device = open_device();
	auto session = VALUE(device.create("kept over exec"));
	int child = SYS(::fork());
	if (!child) {
		::fcntl(session.get(), F_SETFD, 0);
		auto fd = std::to_string(session.get());
		::execl("/proc/self/exe", "ferry-tests", "session-name", fd.c_str(),
			"kept over exec", nullptr);
		::_exit(127);
	}
	int result;
	SYS(::waitpid(child, &result, 0));
	CHECK_EQ(result, 0);
}

TEST("uapi", "session/poll does not hang")
{
	auto device = open_device();
	auto session = VALUE(device.create("polled"));
	pollfd poll{session.get(), POLLIN | POLLOUT, 0};
	SYS(::poll(&poll, 1, 0));
	CHECK(!(poll.revents & POLLNVAL));
}

TEST("uapi", "session/cannot be read, written or mapped")
{
	auto device = open_device();
	auto session = VALUE(device.create("no-io"));
	char byte = 0;
	CHECK_ERRNO(::read(session.get(), &byte, 1), EINVAL);
	CHECK_ERRNO(::write(session.get(), &byte, 1), EINVAL);
	CHECK_ERRNO(reinterpret_cast<long>(
			    ::mmap(nullptr, page, PROT_READ, MAP_SHARED, session.get(), 0)),
		    ENODEV);
}

// ---- what can be preserved ----

TEST("uapi", "preserve/tokens")
{
	auto device = open_device();
	auto session = VALUE(device.create("tokens"));
	auto other = VALUE(device.create("tokens-2"));
	Fd files[] = {make_memfd(page), make_memfd(page), make_memfd(page), make_memfd(page)};
	OK(session.preserve(files[0].get(), 0));
	OK(session.preserve(files[1].get(), ~0ull));
	FAILS(session.preserve(files[2].get(), 0), EEXIST);
	FAILS(session.preserve(files[2].get(), ~0ull), EEXIST);
	OK(session.preserve(files[2].get(), 1));
	// Another session has its own.
	OK(other.preserve(files[3].get(), 0));
}

TEST("uapi", "preserve/bad descriptor EBADF")
{
	auto device = open_device();
	auto session = VALUE(device.create("bad-fd"));
	for (int fd : {-1, 1000, -100, 0x7fffffff})
		FAILS(session.preserve(fd, 1), EBADF);
	// The token was not used up.
	OK(session.preserve(make_memfd(page).get(), 1));
}

TEST("uapi", "preserve/O_PATH descriptor EBADF")
{
	auto device = open_device();
	auto session = VALUE(device.create("path-fd"));
	Fd fd(SYS(::open("/", O_PATH | O_CLOEXEC)));
	FAILS(session.preserve(fd.get(), 1), EBADF);
}

TEST("uapi", "preserve/unsupported kinds ENOENT")
{
	auto device = open_device();
	auto session = VALUE(device.create("unsupported"));
	auto refused = [&](Fd fd, const char *kind) {
		if (!fd) {
			ktap::print("# no %s here: %s", kind, std::strerror(errno));
			return;
		}
		if (!FAILS(session.preserve(fd.get(), 1), ENOENT))
			ktap::print("# that was: %s", kind);
	};
	int pair[2];
	SYS(::pipe2(pair, O_CLOEXEC));
	refused(Fd(pair[0]), "pipe, read end");
	refused(Fd(pair[1]), "pipe, write end");
	SYS(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	refused(Fd(pair[0]), "socket");
	::close(pair[1]);
	refused(Fd(::eventfd(0, EFD_CLOEXEC)), "eventfd");
	refused(Fd(::open("/dev/null", O_RDWR | O_CLOEXEC)), "/dev/null");
	refused(Fd(::open("/dev/zero", O_RDWR | O_CLOEXEC)), "/dev/zero");
	refused(Fd(::open("/proc/self/status", O_RDONLY | O_CLOEXEC)), "file of proc");
	refused(Fd(::open("/init", O_RDONLY | O_CLOEXEC)), "file of the root");
	refused(Fd(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), "directory");
	refused(Fd(::open("/tmp/linked", O_RDWR | O_CREAT | O_CLOEXEC, 0600)), "file of a tmpfs");
	refused(Fd(::dup(device.get())), "/dev/liveupdate");
	refused(Fd(::dup(session.get())), "the session itself");
	refused(VALUE(device.create("unsupported-2")).release(), "another session");
	OK(session.preserve(make_memfd(page).get(), 1));
}

TEST("uapi", "preserve/hugetlb memfd")
{
	auto device = open_device();
	auto session = VALUE(device.create("hugetlb"));
	write_file("/proc/sys/vm/nr_hugepages", "4");
	Fd fd(::memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB));
	if (!fd || ::ftruncate(fd.get(), 2 * MiB))
		ktap::skip("no hugetlb memfd here");
	auto done = session.preserve(fd.get(), 1);
	write_file("/proc/sys/vm/nr_hugepages", "0");
	if (mainline() || !done)
		CHECK(!done && done.error().value() == ENOENT);
}

TEST("uapi", "preserve/the same file twice EBUSY")
{
	auto device = open_device();
	auto session = VALUE(device.create("twice-1"));
	auto other = VALUE(device.create("twice-2"));
	auto memfd = make_memfd(page);
	OK(session.preserve(memfd.get(), 1));
	FAILS(session.preserve(memfd.get(), 2), EBUSY);
	FAILS(other.preserve(memfd.get(), 1), EBUSY);
	Fd again(SYS(::dup(memfd.get())));
	FAILS(session.preserve(again.get(), 2), EBUSY);
	// The refused calls undid nothing.
	CHECK_ERRNO(::ftruncate(memfd.get(), 0), EPERM);
}

TEST("uapi", "preserve/the same inode through another open file EBUSY")
{
	auto device = open_device();
	auto session = VALUE(device.create("reopened"));
	auto memfd = make_memfd(page);
	OK(session.preserve(memfd.get(), 1));
	Fd again(SYS(::open(("/proc/self/fd/" + std::to_string(memfd.get())).c_str(),
			    O_RDWR | O_CLOEXEC)));
	FAILS(session.preserve(again.get(), 2), EBUSY);
}

TEST("uapi", "preserve/calls that fail leak no descriptor")
{
	auto device = open_device();
	auto session = VALUE(device.create("leaks"));
	auto memfd = make_memfd(page);
	OK(session.preserve(memfd.get(), 1));
	int before = count_fds();
	for (int i = 0; i < 50; i++) {
		(void)device.create("leaks");
		(void)device.create("");
		(void)device.retrieve("nobody");
		(void)session.retrieve(1);
		(void)session.finish();
		(void)session.preserve(memfd.get(), 2);
		(void)session.preserve(-1, 2);
	}
	CHECK_EQ(count_fds(), before);
}

TEST("uapi", "preserve/the descriptor can be closed")
{
	auto device = open_device();
	auto session = VALUE(device.create("closed"));
	long before = meminfo("Shmem");
	{
		auto memfd = make_memfd();
		fill(memfd, 0, 8 * MiB, 1);
		OK(session.preserve(memfd.get(), 1));
	}
	CHECK(near(meminfo("Shmem"), before + 8 * 1024));
	session.close();
	CHECK(near(meminfo("Shmem"), before));
}

// ---- a memfd while it is preserved ----

TEST("uapi", "preserved memfd/cannot grow, shrink or be punched EPERM")
{
	auto device = open_device();
	auto session = VALUE(device.create("held"));
	auto memfd = make_memfd(8 * page);
	fill(memfd, 0, 8 * page, 1);
	OK(session.preserve(memfd.get(), 1));
	CHECK_ERRNO(::ftruncate(memfd.get(), 9 * page), EPERM);
	CHECK_ERRNO(::ftruncate(memfd.get(), page), EPERM);
	CHECK_ERRNO(::ftruncate(memfd.get(), 0), EPERM);
	CHECK_ERRNO(::fallocate(memfd.get(), 0, 8 * page, page), EPERM);
	CHECK_ERRNO(::fallocate(memfd.get(), FALLOC_FL_KEEP_SIZE, 8 * page, page), EPERM);
	CHECK_ERRNO(
		::fallocate(memfd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page, page),
		EPERM);
	CHECK_ERRNO(::pwrite(memfd.get(), "x", 1, 8 * page), EPERM);
	CHECK_EQ(status(memfd).st_size, 8 * page);
	CHECK(has(memfd, 0, 8 * page, 1));
}

TEST("uapi", "preserved memfd/can be written and mapped")
{
	auto device = open_device();
	auto session = VALUE(device.create("held-write"));
	auto memfd = make_memfd(8 * page);
	fill(memfd, 0, 4 * page, 1);
	OK(session.preserve(memfd.get(), 1));
	fill(memfd, 0, 2 * page, 2); // pages that were there
	fill(memfd, 5 * page, page, 3); // and a hole
	{
		Map map(memfd, 8 * page);
		std::memcpy(map.data() + 7 * page, "mapped", 6);
	}
	CHECK(has(memfd, 0, 2 * page, 2));
	CHECK(has(memfd, 2 * page, 2 * page, 1));
	CHECK(zero(memfd, 4 * page, page));
	CHECK(has(memfd, 5 * page, page, 3));
	session.close();
	char text[6];
	SYS(::pread(memfd.get(), text, 6, 7 * page));
	CHECK(!std::memcmp(text, "mapped", 6));
}

TEST("uapi", "preserved memfd/F_SEAL_WRITE EBUSY")
{
	auto device = open_device();
	auto session = VALUE(device.create("held-seal"));
	auto memfd = make_memfd(page);
	fill(memfd, 0, page, 1);
	OK(session.preserve(memfd.get(), 1));
	CHECK_ERRNO(::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
	session.close();
	SYS(::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_WRITE));
}

TEST("uapi", "preserved memfd/close of the session undoes it")
{
	auto device = open_device();
	auto memfd = make_memfd(4 * page);
	fill(memfd, 0, 4 * page, 1);
	for (int i = 0; i < 3; i++) {
		auto session = VALUE(device.create("undone"));
		OK(session.preserve(memfd.get(), 1));
		CHECK_ERRNO(::ftruncate(memfd.get(), 0), EPERM);
		session.close();
		SYS(::ftruncate(memfd.get(), 6 * page));
		SYS(::fallocate(memfd.get(), 0, 6 * page, page));
		SYS(::fallocate(memfd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * page,
				3 * page));
		SYS(::ftruncate(memfd.get(), 4 * page));
		CHECK(has(memfd, 0, 4 * page, 1));
	}
}

TEST("uapi", "preserved memfd/death of the owner undoes it")
{
	auto memfd = make_memfd(4 * page);
	fill(memfd, 0, 4 * page, 1);
	int child = SYS(::fork());
	if (!child) {
		auto device = Device::open();
		auto session = device ? device->create("dies") : liveupdate::failure(EIO);
		bool ok = session && session->preserve(memfd.get(), 1);
		::kill(ok ? ::getpid() : 0, SIGKILL);
		::_exit(1);
	}
	int result;
	SYS(::waitpid(child, &result, 0));
	CHECK(WIFSIGNALED(result));
	SYS(::ftruncate(memfd.get(), 5 * page));
	auto device = open_device();
	auto session = VALUE(device.create("dies"));
	OK(session.preserve(memfd.get(), 1));
}

TEST("uapi", "preserved memfd/holes cost nothing")
{
	if (mainline())
		ktap::skip("mainline fills holes when it preserves");
	auto device = open_device();
	auto session = VALUE(device.create("holes"));
	auto memfd = make_memfd(64 * GiB);
	fill(memfd, 32 * GiB, page, 1);
	auto before = status(memfd).st_blocks;
	OK(session.preserve(memfd.get(), 1));
	CHECK_EQ(status(memfd).st_blocks, before);
}

// ---- all at once ----

TEST("uapi", "threads/sessions, files and closes at the same time")
{
	auto device = open_device();
	std::atomic<bool> stop = false;
	std::atomic<int> errors = 0;
	std::atomic<long> rounds = 0;
	auto shared = make_memfd(page);
	auto work = [&](int id) {
		for (long i = 0; !stop; i++, rounds++) {
			auto own = device.create("thread-" + std::to_string(id));
			auto all = device.create("everybody");
			Fd memfd(::memfd_create("thread", MFD_CLOEXEC));
			if (!own || (!all && all.error().value() != EEXIST) ||
			    ::pwrite(memfd.get(), "x", 1, (i % 64) * page) != 1) {
				errors++;
				continue;
			}
			errors += !own->preserve(memfd.get(), 1);
			// Who gets the shared one is a matter of luck, and there are three answers
			// at most.
			auto got = own->preserve(shared.get(), 2);
			errors += !got && got.error().value() != EBUSY;
			errors += ::ftruncate(memfd.get(), 0) == 0;
			if (i % 2)
				own->close();
			(void)own->name();
		}
	};
	std::vector<std::thread> workers;
	for (int id = 0; id < 4; id++)
		workers.emplace_back(work, id);
	std::this_thread::sleep_for(std::chrono::seconds(2));
	wait_for([&] { return rounds > 0; });
	stop = true;
	for (auto &worker : workers)
		worker.join();
	ktap::print("# %ld rounds", rounds.load());
	CHECK_EQ(errors.load(), 0);
	CHECK(rounds > 0);
	SYS(::ftruncate(shared.get(), 2 * page));
	OK(device.create("everybody"));
}

TEST("uapi", "threads/one session from all sides")
{
	auto device = open_device();
	auto session = VALUE(device.create("all-sides"));
	std::atomic<int> preserved = 0, errors = 0;
	auto work = [&](int) {
		for (uint64_t token = 0; token < 64; token++) {
			auto memfd = Fd(::memfd_create("side", MFD_CLOEXEC));
			auto done = session.preserve(memfd.get(), token);
			preserved += bool(done);
			errors += !done && done.error().value() != EEXIST;
			errors += !session.name();
		}
	};
	std::vector<std::thread> workers;
	for (int id = 0; id < 4; id++)
		workers.emplace_back(work, id);
	for (auto &worker : workers)
		worker.join();
	CHECK_EQ(preserved.load(), 64);
	CHECK_EQ(errors.load(), 0);
}

// ---- modules ----

bool refused(const char *module)
{
	int error = unload_module(module);
	if (error != EWOULDBLOCK && error != EBUSY)
		ktap::print("# rmmod %s: %s", module, std::strerror(error));
	return error == EWOULDBLOCK || error == EBUSY;
}

TEST("uapi", "modules/cannot go while in use, can go after")
{
	if (mainline())
		ktap::skip("mainline's orchestrator is built in");
	auto device = VALUE(Device::open());
	CHECK(refused("luo"));
	CHECK(refused("kho"));
	auto session = VALUE(device.create("modules"));
	{
		auto gone = std::move(device);
	}
	CHECK(refused("luo"));
	CHECK(refused("kho"));
	auto memfd = make_memfd(page);
	OK(session.preserve(memfd.get(), 1));
	CHECK(refused("luo_memfd"));
	CHECK(refused("luo"));
	CHECK(refused("kho"));
	session.close();
	REQUIRE(!unload_module("luo_memfd"));
	// Without its handler a memfd is as any other file.
	{
		auto again = open_device();
		auto other = VALUE(again.create("modules"));
		FAILS(other.preserve(memfd.get(), 1), ENOENT);
	}
	REQUIRE(!unload_module("luo"));
	FAILS(Device::open(), ENOENT);
	REQUIRE(!unload_module("kho"));
	for (auto module : {"kho", "luo", "luo_memfd"})
		load_module(module);
	auto again = open_device();
	auto other = VALUE(again.create("modules"));
	OK(other.preserve(memfd.get(), 1));
}

} // namespace
