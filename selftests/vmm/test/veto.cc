// SPDX-License-Identifier: GPL-2.0
/*
 * Somebody else on the host, because of whom a kexec is called off: it preserves
 * a file of ferry_test.ko whose freeze fails once, and keeps it until it is killed.
 */
#include <cstdio>
#include <string_view>

#include "selftests/lib/liveupdate.hh"

namespace {

liveupdate::Result<liveupdate::Session> preserve(int fd)
{
	auto device = liveupdate::Device::open();
	if (!device)
		return std::unexpected(device.error());
	auto session = device->create("veto");
	if (!session)
		return session;
	if (auto done = session->preserve(fd, 1); !done)
		return std::unexpected(done.error());
	return session;
}

} // namespace

int main()
{
	constexpr std::string_view command = "fail freeze 5"; // EIO
	liveupdate::Fd file(::open("/dev/ferry_test", O_RDWR | O_CLOEXEC));
	if (!file || ::write(file.get(), command.data(), command.size()) < 0) {
		std::perror("ferry-veto: /dev/ferry_test");
		return 1;
	}
	auto session = preserve(file.get());
	if (!session) {
		std::fprintf(stderr, "ferry-veto: %s\n", session.error().message().c_str());
		return 1;
	}
	// The sign that all is set.
	if (::daemon(0, 1) < 0)
		return 1;
	::pause();
}
