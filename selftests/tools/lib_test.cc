// SPDX-License-Identifier: GPL-2.0
// libliveupdate, through its C++ face: every call, against both kernels, and what it says
// when something goes wrong.
#include "selftests/tools/kernel.hh"

#include <cerrno>
#include <string>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>

using liveupdate::Device;
using liveupdate::Fd;

namespace {

int error_of(const auto &result)
{
	return result ? 0 : result.error().value();
}

Fd memfd(const std::string &text)
{
	Fd fd(::memfd_create("test", MFD_CLOEXEC));
	EXPECT_EQ(::pwrite(fd.get(), text.data(), text.size(), 0), ssize_t(text.size()));
	return fd;
}

std::string contents(const Fd &fd)
{
	char text[64] = {};
	EXPECT_GE(::pread(fd.get(), text, sizeof(text) - 1, 0), 0);
	return text;
}

bool said(std::string_view what)
{
	return liveupdate::message().contains(what);
}

class Lib : public testing::TestWithParam<bool> {
    protected:
	fake::Kernel kernel{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Kernels, Lib, testing::Bool(),
			 [](auto &info) { return info.param ? "Ferry" : "Mainline"; });

TEST_P(Lib, CarriesAFile)
{
	auto device = Device::open();
	ASSERT_TRUE(device) << liveupdate::message();
	auto session = device->create("vm");
	ASSERT_TRUE(session) << liveupdate::message();
	EXPECT_EQ(session->name().value(), "vm");
	ASSERT_TRUE(session->preserve(memfd("memory").get(), 7)) << liveupdate::message();
	kernel.kexec();

	device = Device::open();
	auto carried = device->retrieve("vm");
	ASSERT_TRUE(carried) << liveupdate::message();
	auto memory = carried->retrieve(7);
	ASSERT_TRUE(memory) << liveupdate::message();
	EXPECT_EQ(contents(*memory), "memory");
	EXPECT_TRUE(carried->finish());
	carried->close();
	EXPECT_EQ(kernel.sessions(), 0u);
}

TEST_P(Lib, SaysWhichKernelThisIs)
{
	auto device = Device::open();
	auto is = device->implementation();
	ASSERT_TRUE(is);
	EXPECT_EQ(*is, GetParam() ? LU_FERRY : LU_MAINLINE);
	EXPECT_STREQ(lu_implementation_name(*is), GetParam() ? "Ferry" : "Linux");
	EXPECT_STREQ(lu_implementation_name(99), "unknown");
	EXPECT_EQ(lu_get_implementation(memfd("").get()), -ENOTTY);
}

TEST_P(Lib, RefusesNames)
{
	auto device = Device::open();
	EXPECT_EQ(error_of(device->create("")), EINVAL);
	EXPECT_TRUE(said("1 to 63 bytes")) << liveupdate::message();
	EXPECT_EQ(error_of(device->create(std::string(64, 'x'))), EINVAL);
	EXPECT_EQ(error_of(device->create(std::string_view("a\0b", 3))), EINVAL);
	EXPECT_EQ(error_of(device->retrieve(std::string(64, 'x'))), EINVAL);
	EXPECT_EQ(lu_create_session(device->get(), nullptr), -EINVAL);
	EXPECT_EQ(lu_retrieve_session(device->get(), nullptr), -EINVAL);
	auto longest = device->create(std::string(63, 'x'));
	EXPECT_TRUE(longest);
}

TEST_P(Lib, SaysWhatWentWrong)
{
	auto device = Device::open();
	auto session = device->create("vm");
	auto file = memfd("");
	EXPECT_EQ(error_of(device->create("vm")), EEXIST);
	EXPECT_TRUE(said("create session 'vm': File exists; there is one"))
		<< liveupdate::message();
	EXPECT_EQ(error_of(device->retrieve("vm")), ENOENT);
	ASSERT_TRUE(session->preserve(file.get(), 1));
	EXPECT_EQ(error_of(session->preserve(file.get(), 1)), EEXIST);
	EXPECT_EQ(error_of(session->preserve(-1, 2)), EBADF);
	EXPECT_EQ(error_of(session->preserve(STDERR_FILENO, 2)), ENOENT);
	EXPECT_TRUE(said("nothing that is loaded carries")) << liveupdate::message();
	EXPECT_EQ(error_of(session->retrieve(1)), EINVAL);
	EXPECT_EQ(error_of(session->finish()), EINVAL);
	EXPECT_EQ(lu_get_name(file.get(), nullptr, 0), -ENOTTY);
	char small[2];
	EXPECT_EQ(lu_get_name(session->get(), small, sizeof(small)), -ENOSPC);
	EXPECT_EQ(lu_get_name(session->get(), nullptr, 99), -ENOSPC);
	kernel.kexec();

	device = Device::open();
	auto carried = device->retrieve("vm");
	EXPECT_EQ(error_of(device->retrieve("vm")), EBUSY);
	EXPECT_TRUE(said("another program has it")) << liveupdate::message();
	EXPECT_EQ(error_of(carried->preserve(file.get(), 3)), EINVAL);
	EXPECT_EQ(error_of(carried->retrieve(3)), ENOENT);
}

TEST_P(Lib, AMessageIsOneLine)
{
	auto device = Device::open();
	EXPECT_EQ(error_of(device->retrieve("a\nb\x7f")), ENOENT);
	EXPECT_TRUE(said("'a?b?'")) << liveupdate::message();
	EXPECT_EQ(error_of(device->retrieve(std::string(63, 'x'))), ENOENT);
	EXPECT_TRUE(said("'" + std::string(63, 'x') + "': No such")) << liveupdate::message();
}

TEST_P(Lib, LeavesErrnoAlone)
{
	errno = 77;
	EXPECT_EQ(lu_open(LU_WAIT_MAX + 1), -EINVAL);
	kernel.present = false;
	EXPECT_EQ(lu_open(0), -ENOENT);
	EXPECT_TRUE(said("is luo loaded")) << liveupdate::message();
	EXPECT_EQ(errno, 77);
}

TEST_P(Lib, ASessionCanGoToAnotherProcess)
{
	auto device = Device::open();
	auto session = device->create("vm");
	liveupdate::Session other{Fd(::dup(session->get()))};
	session->close();
	EXPECT_EQ(kernel.sessions(), 1u);
	EXPECT_EQ(other.name().value(), "vm");
	other.close();
	EXPECT_EQ(kernel.sessions(), 0u);
}

TEST_P(Lib, EveryCallPassesErrorsOn)
{
	auto device = Device::open();
	kernel.arm(1, fake::Kernel::Fault::error);
	EXPECT_EQ(error_of(Device::open()), ENOMEM);
	kernel.arm(1, fake::Kernel::Fault::error);
	EXPECT_EQ(error_of(device->create("vm")), ENOMEM);
	EXPECT_EQ(kernel.sessions(), 0u);
	auto session = device->create("vm");
	auto file = memfd("");
	kernel.arm(1, fake::Kernel::Fault::error, EINTR);
	EXPECT_EQ(error_of(session->preserve(file.get(), 1)), EINTR);
	kernel.arm(1, fake::Kernel::Fault::error);
	EXPECT_EQ(error_of(session->name()), ENOMEM);
	EXPECT_TRUE(session->preserve(file.get(), 1));
	kernel.kexec();
	device = Device::open();
	kernel.arm(1, fake::Kernel::Fault::error);
	EXPECT_EQ(error_of(device->retrieve("vm")), ENOMEM);
	auto carried = device->retrieve("vm");
	kernel.arm(1, fake::Kernel::Fault::error);
	EXPECT_EQ(error_of(carried->retrieve(1)), ENOMEM);
	kernel.arm(1, fake::Kernel::Fault::error, EBUSY);
	EXPECT_EQ(error_of(carried->finish()), EBUSY);
	EXPECT_TRUE(carried->retrieve(1));
}

// ---- one opener at a time, and several ----

TEST(LibOpen, WaitsForTheOther)
{
	fake::Kernel kernel(false);
	kernel.busy = true;
	EXPECT_EQ(error_of(Device::open()), EBUSY);
	EXPECT_TRUE(said("another program has it open")) << liveupdate::message();
	EXPECT_EQ(error_of(Device::open(std::chrono::milliseconds(50))), EBUSY);
	EXPECT_EQ(kernel.slept_ms, 50u);
	kernel.on_sleep = [&] { kernel.busy = kernel.slept_ms < 100; };
	EXPECT_TRUE(Device::open(std::chrono::seconds(1)));
	EXPECT_LT(kernel.slept_ms, 200u);
}

TEST(LibOpen, SharesFerrys)
{
	fake::Kernel kernel;
	kernel.busy = true;
	auto device = Device::open(), other = Device::open();
	ASSERT_TRUE(device && other);
	EXPECT_EQ(device->info()->openers, 2u);
}

TEST(LibOpen, WithoutCapabilitiesAsInLinux)
{
	fake::Kernel kernel;
	kernel.arm(1, fake::Kernel::Fault::error, EPERM);
	EXPECT_TRUE(Device::open());
	EXPECT_TRUE(kernel.disarm());
}

// ---- what only Ferry's has ----

TEST(LibFerry, MainlineHasNone)
{
	fake::Kernel kernel(false);
	auto device = Device::open();
	auto session = device->create("vm");
	lu_session_options options{};
	options.size = sizeof(options);
	EXPECT_EQ(error_of(device->info()), EOPNOTSUPP);
	EXPECT_TRUE(said("this kernel's live update does not have it")) << liveupdate::message();
	EXPECT_EQ(error_of(device->create("other", options)), EOPNOTSUPP);
	EXPECT_EQ(error_of(device->retrieve("other", liveupdate::Key{})), EOPNOTSUPP);
	EXPECT_EQ(error_of(device->discard("other")), EOPNOTSUPP);
	EXPECT_EQ(error_of(device->sessions()), EOPNOTSUPP);
	EXPECT_EQ(error_of(device->files("vm", false)), EOPNOTSUPP);
	EXPECT_EQ(error_of(device->update()), EOPNOTSUPP);
	EXPECT_EQ(error_of(device->last_failure()), EOPNOTSUPP);
	EXPECT_EQ(error_of(session->info()), EOPNOTSUPP);
	EXPECT_EQ(error_of(session->set_policy(LIVEUPDATE_FERRY_POLICY_KEEP)), EOPNOTSUPP);
	EXPECT_EQ(error_of(session->renew(true)), EOPNOTSUPP);
}

TEST(LibFerry, KeysAndPolicies)
{
	fake::Kernel kernel;
	auto device = Device::open();
	liveupdate::Key key{1, 2, 3}, other{1, 2, 4};
	lu_session_options options{};
	options.size = sizeof(options);
	options.policy = LIVEUPDATE_FERRY_POLICY_DEADLINE;
	EXPECT_EQ(error_of(device->create("vm", options)), EINVAL);
	options.deadline_ms = 5000;
	options.key = key.data();
	options.size = sizeof(options) - 1;
	EXPECT_EQ(error_of(device->create("vm", options)), EINVAL);
	options.size = sizeof(options);
	auto session = device->create("vm", options);
	ASSERT_TRUE(session) << liveupdate::message();
	EXPECT_EQ(session->info()->deadline_ms, 5000u);
	EXPECT_TRUE(session->info()->flags & LIVEUPDATE_FERRY_KEYED);
	EXPECT_TRUE(session->set_policy(LIVEUPDATE_FERRY_POLICY_KEEP));
	EXPECT_EQ(error_of(session->renew(false)), EINVAL);
	kernel.kexec();

	device = Device::open();
	EXPECT_EQ(error_of(device->retrieve("vm")), EPERM);
	EXPECT_EQ(error_of(device->retrieve("vm", other)), EPERM);
	EXPECT_EQ(device->sessions()->at(0).refused, 2u);
	auto carried = device->retrieve("vm", key);
	ASSERT_TRUE(carried) << liveupdate::message();
	EXPECT_EQ(error_of(device->retrieve("vm", key)), EBUSY);
	EXPECT_EQ(error_of(device->discard("vm")), EBUSY);
	EXPECT_EQ(error_of(device->discard("none")), ENOENT);
	EXPECT_EQ(error_of(device->discard("")), EINVAL);
	EXPECT_TRUE(carried->renew(true));
	EXPECT_NE(kernel.outgoing("vm"), nullptr);
	carried->close();
	EXPECT_EQ(kernel.sessions(), 0u);
}

// A program that was built with a later library may have more fields, if they are zero.
TEST(LibFerry, LaterOptions)
{
	fake::Kernel kernel;
	auto device = Device::open();
	struct {
		lu_session_options known;
		std::uint64_t later;
	} options{};
	options.known.size = sizeof(options);
	EXPECT_TRUE(device->create("vm", options.known));
	options.later = 1;
	EXPECT_EQ(error_of(device->create("vm", options.known)), E2BIG);
}

TEST(LibFerry, ListsHaveAnyLength)
{
	fake::Kernel kernel;
	auto device = Device::open();
	std::vector<liveupdate::Session> held;
	EXPECT_EQ(device->sessions()->size(), 0u);
	for (int i = 0; i < 20; ++i)
		held.push_back(*device->create("vm" + std::to_string(i)));
	auto file = memfd("x");
	for (std::uint64_t token = 0; token < 20; ++token)
		ASSERT_TRUE(held[3].preserve(file.get(), token));
	auto sessions = device->sessions();
	ASSERT_TRUE(sessions);
	ASSERT_EQ(sessions->size(), 20u);
	EXPECT_STREQ(reinterpret_cast<char *>(sessions->at(7).name), "vm7");
	EXPECT_EQ(device->files("vm3", false)->size(), 20u);
	EXPECT_EQ(error_of(device->files("vm3", true)), ENOENT);
	EXPECT_EQ(error_of(device->files("", true)), EINVAL);
	unsigned int nr = 3;
	liveupdate_ferry_session few[3];
	EXPECT_EQ(lu_list_sessions(device->get(), few, sizeof(few[0]), &nr), -ENOSPC);
	EXPECT_EQ(nr, 20u);
}

TEST(LibFerry, TheUpdateAndTheFailure)
{
	fake::Kernel kernel;
	auto device = Device::open();
	EXPECT_EQ(error_of(device->update()), ENOENT);
	EXPECT_EQ(error_of(device->last_failure()), ENOENT);
	kernel.failure.number = 3;
	kernel.failure.error = EBUSY;
	EXPECT_EQ(device->last_failure()->error, unsigned(EBUSY));
	kernel.kexec();
	device = Device::open();
	EXPECT_EQ(device->update()->number, 1u);
	EXPECT_EQ(device->info()->update, 1u);
}

} // namespace
