// SPDX-License-Identifier: GPL-2.0
/*
 * A kernel for the tools' tests: what libliveupdate asks of the system
 * (tools/lib/sys.h), Linux's live update or Ferry's, in this process.
 *
 * Sessions are real descriptors, one end of a socket pair: they can be passed,
 * duplicated, and their last close is seen. Files are real, too.
 */
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <liveupdate.hpp>

namespace fake {

// The process dies: thrown out of a call of the kernel.
struct Killed {};

struct File {
	std::uint64_t token;
	liveupdate::Fd file;
	bool retrieved = false;
};

struct Session {
	std::string name;
	std::vector<File> files;
	liveupdate::Fd watch; // the other end of the descriptor's socket pair
	ino_t inode = 0; // of the descriptor
	bool incoming = false, finished = false, held = false;
	bool keyed = false, module = false;
	liveupdate::Key key{};
	unsigned int policy = LIVEUPDATE_FERRY_POLICY_FINISH;
	std::uint64_t deadline_ms = 0;
	unsigned int refused = 0;
};

class Kernel {
    public:
	explicit Kernel(bool ferry = true);
	~Kernel();
	Kernel(const Kernel &) = delete;
	Kernel &operator=(const Kernel &) = delete;

	// All descriptors of sessions die with the old kernel; what was preserved waits.
	void kexec();

	// A box of fdbox's; its module has it, or does not.
	void make_box(const std::string &name, bool incoming, bool held = true);

	// Looks after what was closed, first.
	const Session *outgoing(const std::string &name);
	const Session *incoming(const std::string &name);
	std::size_t sessions();

	// The nth call from now on, from 1, fails with an errno; or kills the caller,
	// before or after it is done.
	enum class Fault { error, kill_before, kill_after };
	void arm(unsigned int nth, Fault fault, int error = ENOMEM);
	// Whether it came to that.
	bool disarm();

	// Somebody else has the device open.
	bool busy = false;
	bool present = true;
	unsigned int slept_ms = 0;
	std::function<void()> on_sleep;
	liveupdate_ferry_failure failure{};

	// tools/lib/sys.h
	int open(bool shared);
	int ioctl(int fd, unsigned long request, void *arg);
	const bool ferry;

	// For other things that a program asks for, before and after they are done: what
	// is armed strikes here, too.
	int strike(bool before, int result);

    private:
	void sweep();
	Session *find(const std::string &name, bool incoming);
	Session *find(int fd);
	int create(Session session, int &fd);
	int hand_out(Session &session, int &fd);
	int retrieve(const std::string &name, const liveupdate::Key *key, int &fd);
	int device_call(unsigned long request, void *arg);
	int session_call(Session &session, unsigned long request, void *arg);
	int ferry_device_call(unsigned long request, void *arg);
	int ferry_session_call(Session &session, unsigned long request, void *arg);
	int do_ioctl(int fd, unsigned long request, void *arg);
	liveupdate_ferry_session describe(const Session &session) const;
	std::vector<std::unique_ptr<Session>> sessions_;
	struct Opener {
		liveupdate::Fd watch;
		ino_t inode;
	};
	std::vector<Opener> openers_;
	unsigned int updates_ = 0, calls_ = 0, armed_ = 0;
	Fault fault_ = Fault::error;
	int error_ = 0;
};

} // namespace fake
