// SPDX-License-Identifier: GPL-2.0
/*
 * The fd store for machines without systemd: a process that does nothing but hold
 * luod's descriptors, start it, and start it again when it dies. It speaks
 * systemd's protocol (sd_notify(3), sd_listen_fds(3)), as far as luod uses it.
 */
#pragma once

#include <string>
#include <vector>

#include "tools/luod/store.hh"

namespace luod {

// What one datagram of the protocol says.
struct Notice {
	bool store = false, remove = false, ready = false;
	std::string name;
};
Notice parse_notice(std::string_view text);

// Runs command, with the socket at path for clients as "bus", until SIGTERM or SIGINT,
// or until the command exits with 0. Returns the exit status of this process.
int run_keeper(const std::string &path, const std::vector<std::string> &command);

} // namespace luod
