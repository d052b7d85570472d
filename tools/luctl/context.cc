// SPDX-License-Identifier: GPL-2.0
#include "tools/luctl/context.hh"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

namespace luctl {

namespace {

// For others who have the device, briefly.
constexpr auto device_wait = std::chrono::seconds(2);

Exit exit_of(int code)
{
	switch (code) {
	case ENODEV:
	case ENXIO:
	case EOPNOTSUPP:
	case ECONNREFUSED:
		return Exit::missing;
	case ECANCELED:
		return Exit::no;
	default:
		return Exit::failed;
	}
}

} // namespace

std::unexpected<Failure> failed(const std::error_code &error)
{
	return fail(exit_of(error.value()), std::string(liveupdate::message()));
}

std::unexpected<Failure> failed(const luod::Error &error)
{
	return fail(exit_of(error.code), error.text);
}

std::unexpected<Failure> failed(const std::string &what, int code)
{
	return fail(exit_of(code), what + ": " + std::strerror(code));
}

Outcome<liveupdate::Device> open_device()
{
	auto device = liveupdate::Device::open(device_wait);
	if (!device && device.error() == std::errc::no_such_file_or_directory)
		return fail(Exit::missing, std::string(liveupdate::message()));
	if (!device)
		return failed(device.error());
	return std::move(*device);
}

Outcome<std::optional<luod::Client>> find_luod(const Context &context)
{
	auto client = luod::Client::connect(context.socket);
	if (client)
		return std::optional(std::move(*client));
	if (client.error().code == ENOENT || client.error().code == ECONNREFUSED)
		return std::nullopt;
	return failed(client.error());
}

Outcome<std::string> read_file(const std::string &path)
{
	liveupdate::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
	if (!fd)
		return failed(path, errno);
	std::string text;
	char part[65536];
	ssize_t size;
	while ((size = ::read(fd.get(), part, sizeof(part))) > 0)
		text.append(part, static_cast<std::size_t>(size));
	if (size < 0)
		return failed(path, errno);
	return text;
}

} // namespace luctl
