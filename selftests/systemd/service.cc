// SPDX-License-Identifier: GPL-2.0
/*
 * A service of an unmodified systemd that has its files over a kexec:
 *
 *	ferry-service STAGE
 *
 * systemd runs it in each kernel. Its file descriptors wait in systemd's fd store
 * (FileDescriptorStorePreserve=yes), which systemd carries with /dev/liveupdate, and a
 * session of its own is there as well (LUOSession=). It tests what it was given,
 * reports that in KTAP, and leaves something for the next kernel.
 */
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "selftests/lib/ktap.hh"
#include "selftests/lib/liveupdate.hh"

using liveupdate::Fd;
using liveupdate::Session;

namespace {

constexpr int all_seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
// Not a multiple of a page, and more than one.
constexpr size_t data_bytes = 5 * 4096 + 123;
constexpr std::uint64_t token = 7;

std::string data()
{
	std::string text(data_bytes, 0);
	std::uint32_t value = 1;
	for (char &c : text)
		c = char((value = value * 1664525 + 1013904223) >> 24);
	return text;
}

// What the fd store gave back, by name.
class Store {
    public:
	Store()
	{
		char **names = nullptr;
		const int count = sd_listen_fds_with_names(true, &names);
		for (int i = 0; i < count; i++) {
			fds_[names[i]] = SD_LISTEN_FDS_START + i;
			std::free(names[i]);
		}
		std::free(names);
	}

	bool has(const std::string &name) const
	{
		return fds_.contains(name);
	}
	int get(const std::string &name) const
	{
		return fds_.at(name);
	}

	// Hands a descriptor to systemd, to be there in the next start of this service.
	static void put(const std::string &name, int fd)
	{
		const std::string state = "FDSTORE=1\nFDNAME=" + name;
		if (sd_pid_notify_with_fds(0, false, state.c_str(), &fd, 1) <= 0)
			ktap::fail(__FILE__, __LINE__, "the fd store does not take " + name);
	}

    private:
	std::map<std::string, int> fds_;
};

std::string contents(int fd)
{
	struct stat st;
	SYS(::fstat(fd, &st));
	std::string text(st.st_size, 0);
	REQUIRE(::pread(fd, text.data(), text.size(), 0) == ssize_t(text.size()));
	return text;
}

Fd memfd(const char *name, const std::string &text)
{
	Fd fd(SYS(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)));
	REQUIRE(::write(fd.get(), text.data(), text.size()) == ssize_t(text.size()));
	return fd;
}

// ---- the cases: each has its part in every kernel ----

void data_case(const Store &store, int stage)
{
	if (stage == 1) {
		REQUIRE(!store.has("data"));
		Fd fd = memfd("data", data());
		SYS(::fcntl(fd.get(), F_ADD_SEALS, all_seals));
		Store::put("data", fd.get());
		return;
	}
	REQUIRE(store.has("data"));
	CHECK(contents(store.get("data")) == data());
	CHECK_EQ(SYS(::fcntl(store.get("data"), F_GET_SEALS)), all_seals);
}

// Written in each kernel: what comes back is what was written last.
void counter_case(const Store &store, int stage)
{
	std::uint64_t count = 1;
	if (stage == 1) {
		Fd fd = memfd("counter",
			      std::string(reinterpret_cast<char *>(&count), sizeof(count)));
		Store::put("counter", fd.get());
		return;
	}
	REQUIRE(store.has("counter"));
	const int fd = store.get("counter");
	REQUIRE(::pread(fd, &count, sizeof(count), 0) == ssize_t(sizeof(count)));
	CHECK_EQ(count, stage - 1);
	count++;
	REQUIRE(::pwrite(fd, &count, sizeof(count), 0) == ssize_t(sizeof(count)));
}

// What cannot be carried is not there, and has not kept the others from being carried.
void socket_case(const Store &store, int)
{
	CHECK(!store.has("socket"));
	int ends[2];
	SYS(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
	Store::put("socket", ends[0]);
	::close(ends[0]);
	::close(ends[1]);
}

// The session that LUOSession= made is the service's own, to fill and to empty.
void session_case(const Store &store, int stage)
{
	REQUIRE(store.has("own"));
	Session session{Fd(::fcntl(store.get("own"), F_DUPFD_CLOEXEC, 0))};
	if (stage == 1) {
		Fd fd = memfd("inside", data());
		OK(session.preserve(fd.get(), token));
		return;
	}
	if (stage == 2) {
		Fd fd = VALUE(session.retrieve(token));
		CHECK(contents(fd.get()) == data());
		OK(session.finish());
	}
}

} // namespace

int main(int argc, char **argv)
{
	if (argc != 2) {
		std::fprintf(stderr, "usage: ferry-service STAGE\n");
		return 2;
	}
	const int stage = std::atoi(argv[1]);
	const Store store;
	struct {
		const char *name;
		void (*part)(const Store &store, int stage);
	} const all[] = {
		{"systemd/a sealed memfd of a service", data_case},
		{"systemd/a memfd that is written in each kernel", counter_case},
		{"systemd/a socket in the fd store does no harm", socket_case},
		{"systemd/a session of a service", session_case},
	};
	// systemd may have left something on the line.
	ktap::print("%s", "");
	ktap::begin(std::size(all));
	int number = 0;
	bool failed = false;
	for (const auto &each : all)
		failed |= ktap::run_case(++number, each.name, [&] {
				  each.part(store, stage);
			  }).failed;
	// The stage waits for this, whatever came out.
	sd_notify(false, failed ? "READY=1\nSTATUS=failed" : "READY=1");
	for (;;)
		::pause();
}
