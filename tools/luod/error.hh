// SPDX-License-Identifier: GPL-2.0
// Errors that say in one line what could not be done, and why.
#pragma once

#include <cerrno>
#include <cstring>
#include <expected>
#include <string>
#include <system_error>

#include <liveupdate.hpp>

namespace luod {

struct Error {
	int code; // errno
	std::string text;
};

template <typename T = void> using Outcome = std::expected<T, Error>;

// Why something is refused, in words of ours.
inline std::unexpected<Error> refuse(int code, std::string text)
{
	return std::unexpected(Error{code, std::move(text)});
}

// Of a call of libliveupdate that just failed.
inline std::unexpected<Error> failed(const std::error_code &error)
{
	return refuse(error.value(), std::string(liveupdate::message()));
}

// Of any other call.
inline std::unexpected<Error> failed(const std::string &what, int code)
{
	return refuse(code, what + ": " + std::strerror(code));
}

} // namespace luod
