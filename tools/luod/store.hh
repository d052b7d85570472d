// SPDX-License-Identifier: GPL-2.0
/*
 * Where luod's descriptors are when luod is not: the fd store of the service
 * manager, by systemd's protocol (sd_pid_notify_with_fds(3)). keeper.hh has one
 * for machines without systemd.
 */
#pragma once

#include <string>
#include <vector>

#include "tools/luod/error.hh"

namespace luod {

// One that came back from the store.
struct Kept {
	std::string name;
	liveupdate::Fd fd;
};

class Store {
    public:
	virtual ~Store() = default;
	// When it returns, the store has a descriptor of the same file, and gives it
	// to luod's next process under that name.
	virtual Outcome<> add(const std::string &name, int fd) = 0;
	virtual void remove(const std::string &name) = 0;
};

// The one that $NOTIFY_SOCKET leads to.
class ManagerStore : public Store {
    public:
	Outcome<> add(const std::string &name, int fd) override;
	void remove(const std::string &name) override;
};

// Without any: what luod has is gone with it. For tests by hand.
class NoStore : public Store {
    public:
	Outcome<> add(const std::string &, int) override
	{
		return {};
	}
	void remove(const std::string &) override
	{
	}
};

// What the service manager passed to this process. Only once.
std::vector<Kept> take_kept();

} // namespace luod
