// SPDX-License-Identifier: GPL-2.0
// A service that luod asks before an update, for the scenario "tools":
//
//	tools-service LABEL ready|refuse|die|late
//
// Prints "joined" when it has joined, and "asked" and "off" as it is told. Ends when luod does.
#include <cstdio>
#include <cstdlib>
#include <string>

#include <unistd.h>

#include "tools/luod/client.hh"
#include "tools/luod/protocol.hh"

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	std::string manner = argv[2];
	auto client = luod::Client::connect(luod::default_socket);
	if (!client || !client->join(argv[1]))
		return 1;
	std::setvbuf(stdout, nullptr, _IOLBF, 0);
	std::puts("joined");
	for (;;) {
		auto event = client->wait(std::chrono::hours(1));
		if (!event)
			return 1;
		if (!*event)
			continue;
		std::puts((*event)->prepare ? "asked" : "off");
		if (!(*event)->prepare)
			continue;
		if (manner == "die")
			::_exit(9);
		if (manner == "ready")
			static_cast<void>(client->ready((*event)->id));
		if (manner == "refuse")
			static_cast<void>(client->refuse((*event)->id, "a backup runs"));
	}
}
