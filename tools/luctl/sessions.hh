// SPDX-License-Identifier: GPL-2.0
// What luctl does to sessions, and what it says of them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/luctl/context.hh"

namespace luctl {

// A file of a session, and the path that it is read from or written to.
struct TokenFile {
	std::uint64_t token;
	std::string path;
};

// "7=PATH", or "PATH" for the next token.
Outcome<std::vector<TokenFile>> parse_files(const std::vector<std::string> &words);
// 32 bytes, or 64 hexadecimal digits.
Outcome<liveupdate::Key> read_key(const std::string &path);

// What failed, where, and why, in one line.
std::string describe(const liveupdate_ferry_failure &failure);

// The name of the box that a session is of; or nothing.
std::optional<std::string> box_of(const liveupdate_ferry_session &session);

// Of that name, among those that luod keeps; or nothing.
const luod::Listed *find_kept(const std::vector<luod::Listed> &kept, const std::string &name,
			      bool incoming);

Outcome<> status(Context &context);
// All sessions; or one, with its files.
Outcome<> list(Context &context, const std::string &session);

struct PreserveOptions {
	std::string session, policy, key_file;
	std::optional<std::uint64_t> deadline_s;
	std::vector<std::string> files;
	bool hold = false; // without luod: until a signal comes
};
Outcome<> preserve(Context &context, const PreserveOptions &options);

// Undo it: luod lets go of a session for the next kernel.
Outcome<> drop(Context &context, const std::string &session);

struct RetrieveOptions {
	std::string session, key_file;
	std::vector<std::string> files;
	bool finish = false, force = false;
};
Outcome<> retrieve(Context &context, const RetrieveOptions &options);

Outcome<> finish(Context &context, const std::string &session, bool discard);
// With the files that were retrieved, for the next kernel.
Outcome<> renew(Context &context, const std::string &session);

} // namespace luctl
