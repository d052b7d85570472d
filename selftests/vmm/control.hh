// SPDX-License-Identifier: GPL-2.0
// A socket on which the VMM is told what to do: a word, answered by a line.
#pragma once

#include <string>

#include "selftests/lib/liveupdate.hh"
#include "selftests/vmm/error.hh"

namespace vmm {

// The VMM's end.
class Control {
    public:
	static Result<Control> listen(const std::string &path);

	int fd() const
	{
		return fd_.get();
	}
	// One who connected; it has its request ready.
	struct Request {
		liveupdate::Fd connection;
		std::string word;
	};
	Result<Request> accept() const;
	static void answer(const Request &request, const std::string &text);

    private:
	explicit Control(liveupdate::Fd fd) : fd_(std::move(fd))
	{
	}
	liveupdate::Fd fd_;
};

// The other end: say the word, and get the answer. One who is not there yet is waited for,
// half a minute.
Result<std::string> ask(const std::string &path, const std::string &word);

} // namespace vmm
