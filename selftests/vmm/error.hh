// SPDX-License-Identifier: GPL-2.0
// Errors that say in one line what could not be done, and why.
#pragma once

#include <cstdio>
#include <string>
#include <utility>

#include "selftests/lib/liveupdate.hh"

namespace vmm {

struct Error {
	std::string text;
};

template <typename T = void> using Result = std::expected<T, Error>;

inline Error in_context(const std::string &what, const std::error_code &error)
{
	return {what + ": " + error.message()};
}
inline Error in_context(const std::string &what, const Error &error)
{
	return {what + ": " + error.text};
}

inline std::unexpected<Error> failure(const std::string &text)
{
	return std::unexpected(Error{text});
}
// Of a system call: with errno.
inline std::unexpected<Error> failed_call(const std::string &what)
{
	return std::unexpected(in_context(what, std::error_code(errno, std::system_category())));
}

// To the operator. One write, as the guest prints to the same terminal.
inline void say(const std::string &text)
{
	std::string line = "ferry-vmm: " + text + "\n";
	[[maybe_unused]] auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

} // namespace vmm

// The value; or return the error from this function, with what was tried.
#define TRY(what, expression)                                                                      \
	({                                                                                         \
		auto result_ = (expression);                                                       \
		if (!result_)                                                                      \
			return std::unexpected(vmm::in_context(what, result_.error()));            \
		*std::move(result_);                                                               \
	})
