// SPDX-License-Identifier: GPL-2.0
// What every command of luctl gets, and how it fails.
#pragma once

#include <cstring>
#include <expected>
#include <iosfwd>
#include <optional>
#include <string>

#include <liveupdate.hpp>
#include <nlohmann/json.hpp>

#include "tools/luod/client.hh"

namespace luctl {

// The order of fields is that in which they were put.
using Json = nlohmann::ordered_json;

// luctl(1) documents them.
enum class Exit {
	done = 0,
	failed = 1, // it was tried, and did not work
	usage = 2, // the command line makes no sense
	missing = 3, // what is asked is not on this machine: no live update, no luod, no debugfs
	no = 4, // the answer is no: formats do not fit, a check failed, somebody refused
};

struct Failure {
	Exit exit;
	std::string text;
};

template <typename T = void> using Outcome = std::expected<T, Failure>;

inline std::unexpected<Failure> fail(Exit exit, std::string text)
{
	return std::unexpected(Failure{exit, std::move(text)});
}

// Of a call of libliveupdate that just failed.
std::unexpected<Failure> failed(const std::error_code &error);
std::unexpected<Failure> failed(const luod::Error &error);
std::unexpected<Failure> failed(const std::string &what, int code);

struct Context {
	std::ostream &out;
	std::ostream &notes; // for people: progress, remarks
	bool json = false;
	bool terminal = false; // notes go to one, with cursor movements
	unsigned int width = 80;
	std::string root; // before the paths of /proc, /sys, /lib; tests have their own
	std::string socket; // of luod

	std::string path(const std::string &absolute) const
	{
		return root + absolute;
	}
};

// missing: there is no live update.
Outcome<liveupdate::Device> open_device();

// luod, if it runs; nothing if it does not.
Outcome<std::optional<luod::Client>> find_luod(const Context &context);

// A text of the kernel's, which may fill its room.
template <typename Text> std::string text(const Text &bytes)
{
	auto at = reinterpret_cast<const char *>(bytes);
	return {at, ::strnlen(at, sizeof(bytes))};
}

// The whole of a file, or why not.
Outcome<std::string> read_file(const std::string &path);

// The value; or return the failure from this function.
#define TRY(expression)                                                                            \
	({                                                                                         \
		auto result_ = (expression);                                                       \
		if (!result_)                                                                      \
			return std::unexpected(std::move(result_.error()));                        \
		*std::move(result_);                                                               \
	})
// The same for what has no value.
#define CHECK(expression)                                                                          \
	do {                                                                                       \
		if (auto result_ = (expression); !result_)                                         \
			return std::unexpected(std::move(result_.error()));                        \
	} while (0)

} // namespace luctl
