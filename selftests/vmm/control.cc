// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/control.hh"

#include <sys/socket.h>
#include <sys/un.h>

namespace vmm {

using liveupdate::Fd;

namespace {

Result<sockaddr_un> address_of(const std::string &path)
{
	sockaddr_un address{};
	address.sun_family = AF_UNIX;
	if (path.empty() || path.size() >= sizeof(address.sun_path))
		return failure("not a name for a socket");
	path.copy(address.sun_path, path.size());
	return address;
}

template <typename Call> Result<Fd> make_socket(const std::string &path, Call bind_or_connect)
{
	auto address = TRY(path, address_of(path));
	Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
	if (!fd ||
	    bind_or_connect(fd.get(), reinterpret_cast<sockaddr *>(&address), sizeof(address)) < 0)
		return failed_call(path);
	return fd;
}

Result<std::string> receive(const Fd &fd)
{
	char text[1024];
	auto length = ::recv(fd.get(), text, sizeof(text), 0);
	if (length < 0)
		return failed_call("recv");
	if (length == 0)
		return failure("the other end is gone");
	return std::string(text, static_cast<std::size_t>(length));
}

Result<std::string> ask(const Fd &fd, const std::string &word)
{
	if (::send(fd.get(), word.data(), word.size(), MSG_NOSIGNAL) < 0)
		return failed_call("send");
	return receive(fd);
}

} // namespace

Result<Control> Control::listen(const std::string &path)
{
	// By its name it is found when it listens, and not before.
	const std::string unready = path + ".new";
	::unlink(unready.c_str());
	auto fd = TRY("control socket", make_socket(unready, ::bind));
	if (::listen(fd.get(), 4) < 0 || ::rename(unready.c_str(), path.c_str()) < 0)
		return failed_call(path);
	return Control(std::move(fd));
}

Result<Control::Request> Control::accept() const
{
	Fd connection(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
	if (!connection)
		return failed_call("accept");
	auto word = TRY("control", receive(connection));
	return Request{std::move(connection), std::move(word)};
}

void Control::answer(const Request &request, const std::string &text)
{
	// Who asked need not wait for it.
	[[maybe_unused]] auto sent =
		::send(request.connection.get(), text.data(), text.size(), MSG_NOSIGNAL);
}

Result<std::string> ask(const std::string &path, const std::string &word)
{
	constexpr unsigned int tries = 6'000, try_us = 10'000;
	for (unsigned int i = 0; ::access(path.c_str(), F_OK) < 0 && i < tries; ++i)
		::usleep(try_us);
	auto fd = TRY("control socket", make_socket(path, ::connect));
	return TRY(path, ask(fd, word));
}

} // namespace vmm
