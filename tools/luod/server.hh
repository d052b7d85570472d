// SPDX-License-Identifier: GPL-2.0
/*
 * luod's socket: D-Bus from peer to peer, by sd-bus, without a bus daemon between.
 * Who is at the other end the kernel says (SO_PEERCRED).
 */
#pragma once

#include <map>
#include <memory>

#include "tools/luod/agent.hh"
#include "tools/luod/barrier.hh"
#include "tools/luod/bus.hh"

namespace luod {

class Server {
    public:
	// listening: a bound and listening stream socket. Runs on that event loop.
	static Outcome<std::unique_ptr<Server>> create(sd_event *event, Agent &agent, Fd listening);
	~Server();

	std::size_t clients() const
	{
		return clients_.size();
	}

    private:
	struct Client;
	friend struct Client;
	friend struct Methods;

	Server(sd_event *event, Agent &agent, Fd listening);
	static int on_connect(sd_event_source *, int fd, std::uint32_t, void *server);
	static int on_expiry(sd_event_source *, std::uint64_t, void *server);
	static int on_departure(sd_event_source *, void *server);
	Outcome<> accept(Fd fd);

	void watch_expiry(std::uint64_t timeout_ms);
	void announce(std::uint64_t timeout_ms);
	void report_progress();
	void settle();

	sd_event *event_;
	Agent &agent_;
	Fd listening_;
	Source source_, expiry_, departure_;
	Barrier barrier_;
	Message asked_; // the call of Prepare that waits for its answer
	std::map<Barrier::Client, std::unique_ptr<Client>> clients_;
	Barrier::Client last_client_ = 0;
};

// A socket at path for Server::create(), which only its owner and group can reach.
// What is left of an earlier one is removed, unless somebody listens there: EADDRINUSE.
Outcome<Fd> listen_at(const std::string &path);

} // namespace luod
