// SPDX-License-Identifier: GPL-2.0
#include "tools/luod/store.hh"

#include <cstdlib>

#include <systemd/sd-daemon.h>

namespace luod {

Outcome<> ManagerStore::add(const std::string &name, int fd)
{
	// FDPOLL=0: a store that looks whether a descriptor hung up would drop sessions.
	std::string state = "FDSTORE=1\nFDPOLL=0\nFDNAME=" + name;
	int sent = ::sd_pid_notify_with_fds(0, 0, state.c_str(), &fd, 1);
	if (sent < 0)
		return failed("keep '" + name + "' in the fd store", -sent);
	if (!sent)
		return failed("keep '" + name + "' in the fd store", ENOTCONN);
	return {};
}

void ManagerStore::remove(const std::string &name)
{
	std::string state = "FDSTOREREMOVE=1\nFDNAME=" + name;
	::sd_notify(0, state.c_str());
}

std::vector<Kept> take_kept()
{
	char **names = nullptr;
	int count = ::sd_listen_fds_with_names(1, &names);
	std::vector<Kept> kept;
	for (int i = 0; i < count; ++i) {
		kept.push_back({names[i], liveupdate::Fd(SD_LISTEN_FDS_START + i)});
		std::free(names[i]);
	}
	std::free(names);
	return kept;
}

} // namespace luod
