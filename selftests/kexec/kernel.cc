// SPDX-License-Identifier: GPL-2.0
// Did the kernel complain while the tests of this stage ran? And did it lose memory?

#include "selftests/kexec/common.hh"

namespace {

const char *const complaints[] = {
	"WARNING: ",
	"BUG: ",
	"Oops: ",
	"UBSAN: ",
	"KASAN: ",
	"INFO: task ",
	"general protection fault",
	"possible circular locking",
	"INFO: possible recursive",
	"suspicious RCU usage",
	"Bad page state",
	"Bad page map",
	"nobody cared",
	// Those of a test that does that to its pages on purpose have other names.
	"pages of memfd:ferry-test did not stay",
};

TEST("kernel", "kernel/no complaint in the log")
{
	auto all = kernel_log();
	for (size_t at = 0, end; at < all.size(); at = end + 1) {
		end = std::min(all.find('\n', at), all.size());
		auto line = all.substr(at, end - at);
		for (auto complaint : complaints)
			if (line.find(complaint) != line.npos) {
				ktap::fail("log", 0, line);
				break;
			}
	}
}

TEST("kernel", "kernel/taint")
{
	// Out-of-tree (4096) and unsigned (8192) modules are what we are; nothing else.
	CHECK_EQ(std::atol(read_file("/proc/sys/kernel/tainted").c_str()) & ~(4096 | 8192), 0);
}

TEST("kernel", "kernel/kmemleak")
{
	const char *file = "/sys/kernel/debug/kmemleak";
	if (::access(file, W_OK))
		ktap::skip("this kernel has no kmemleak");
	// What it does anyway, which is refused where it does nothing.
	if (!write_file(file, "stack=on"))
		ktap::skip("kmemleak is off");
	// What was allocated in the last five seconds does not count as lost yet,
	// and what is lost has to look the same in two scans.
	::sleep(5);
	REQUIRE(write_file(file, "scan"));
	write_file(file, "scan");
	auto all = read_file(file);
	for (size_t at = 0, end, lines = 0; at < all.size() && lines < 60; at = end + 1, lines++) {
		end = std::min(all.find('\n', at), all.size());
		ktap::print("# %s", all.substr(at, end - at).c_str());
	}
	CHECK(all.empty());
}

} // namespace

int kernel_cases(const char *filter)
{
	return ktap::run("kernel", filter);
}
