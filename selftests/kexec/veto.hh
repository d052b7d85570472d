// SPDX-License-Identifier: GPL-2.0
// The handler ferry_test.ko, whose operations fail on demand, and a kexec that is refused.
#pragma once

#include <linux/reboot.h>

#include "selftests/kexec/common.hh"

// Load the handler, if nobody has.
inline void need_handler()
{
	if (mainline())
		ktap::skip("the test handler is one of our orchestrator's");
	if (!::access("/dev/ferry_test", F_OK))
		return;
	if (::access("/lib/modules/ferry_test.ko", F_OK))
		ktap::skip("ferry_test.ko was not built (FERRY_TEST=m)");
	load_module("ferry_test");
}

// A file that the test handler preserves.
class TestFile {
    public:
	explicit TestFile(const std::string &name)
	{
		need_handler();
		fd_.reset(SYS(::open("/dev/ferry_test", O_RDWR | O_CLOEXEC)));
		command("name " + name);
	}
	explicit TestFile(Fd fd) : fd_(std::move(fd))
	{
	}

	void command(const std::string &text)
	{
		SYS(::write(fd_.get(), text.data(), text.size()));
	}
	void needs(const TestFile &other, const char *when = "needs")
	{
		command(when + (" " + std::to_string(other.get())));
	}
	void fail(const char *operation, int error, unsigned times = 1)
	{
		command("fail " + std::string(operation) + " " + std::to_string(error) + " " +
			std::to_string(times));
	}
	int get() const
	{
		return fd_.get();
	}
	Fd release()
	{
		return std::move(fd_);
	}

    private:
	Fd fd_;
};

inline void clear_log()
{
	need_handler();
	Fd fd(SYS(::open("/dev/ferry_test", O_RDWR | O_CLOEXEC)));
	SYS(::write(fd.get(), "clear", 5));
}

// The calls of operations, of those in ops ("freeze unfreeze"), on files whose name begins with
// prefix: "freeze a; freeze b -5".
inline std::string calls(const std::string &prefix, const std::string &ops)
{
	auto log = read_file("/dev/ferry_test");
	std::string all;
	for (size_t at = 0, end; at < log.size(); at = end + 1) {
		end = std::min(log.find('\n', at), log.size());
		auto line = log.substr(at, end - at);
		auto space = line.find(' ');
		auto op = line.substr(0, space), rest = line.substr(space + 1);
		if (rest.starts_with(prefix) && (" " + ops + " ").find(" " + op + " ") != ops.npos)
			all += (all.empty() ? "" : "; ") + op + " " + rest.substr(prefix.size());
	}
	return all;
}

inline bool called(const std::string &prefix, const std::string &ops, const std::string &want)
{
	auto is = calls(prefix, ops);
	if (is != want)
		ktap::print("# called: %s", is.c_str());
	return is == want;
}

// Try to jump into the next kernel; the errno with which this one refuses.
inline int jump()
{
	if (!kexec_loaded())
		REQUIRE(std::system("kexec-load") == 0);
	::syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC,
		  nullptr);
	return errno;
}

// Does the kernel's log name these?
inline bool logged(const std::string &what, const std::string &other = "")
{
	const auto log = kernel_log();
	for (size_t at = 0; (at = log.find(what, at)) != log.npos; at++) {
		auto line = log.substr(log.rfind('\n', at) + 1);
		if (line.substr(0, line.find('\n')).find(other) != line.npos)
			return true;
	}
	return false;
}
