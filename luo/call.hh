// SPDX-License-Identifier: GPL-2.0
// How an ioctl is answered.
#pragma once

#include <ferry/ioctl.hh>
#include <ferry/result.hh>
#include <uapi/linux/liveupdate.h>

#include "luo/linux.h"
#include "luo/orchestrator.hh"

namespace luo {

using ferry::Call;
using ferry::find_number;
using ferry::respond_with_fd;
using ferry::text;

// Which sessions an ioctl is for.
enum class For : unsigned char {
	Outgoing,
	Incoming,
	Both,
};

struct SessionCommand {
	unsigned int command;
	For sessions;
	ferry::Result<void> (*run)(Orchestrator &orchestrator, Session &session, void *user);
};

struct DeviceCommand {
	unsigned int command;
	ferry::Result<void> (*run)(Orchestrator &orchestrator, void *user);
};

// Those of <uapi/linux/liveupdate_ferry.h>, in extension.cc. Null: it has no such number.
const DeviceCommand *find_extension(unsigned int command);
const SessionCommand *find_session_extension(unsigned int command);

} // namespace luo
