// SPDX-License-Identifier: GPL-2.0
/*
 * The barrier before a kexec: services that joined it are told, do what they have
 * to do first, and say that they are ready, or refuse. Decisions only: who is told
 * and how is server.cc's.
 */
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tools/luod/error.hh"

namespace luod {

class Barrier {
    public:
	using Client = std::uint64_t; // a connection

	enum class State { idle, preparing, ready };

	// How a barrier that was begun ended, for whoever began it.
	struct Verdict {
		bool ready;
		std::string reason; // why not
	};

	void join(Client client, std::string label);
	void leave(Client client);

	// The id of the new barrier, from 1. EBUSY: there is one already.
	Outcome<std::uint64_t> begin(Client by);
	// Of one who joined. ESTALE: not the id of the barrier that waits for it.
	Outcome<> ready(Client client, std::uint64_t id);
	Outcome<> refuse(Client client, std::uint64_t id, const std::string &reason);
	// Whoever began it goes back. ESTALE likewise.
	Outcome<> cancel(Client by, std::uint64_t id);
	// The time is over.
	void expire();
	// A connection is closed: a service that is waited for has refused thereby,
	// and who began the barrier has cancelled it.
	void gone(Client client);

	// What was decided since the last call; then everybody who joined is told:
	// a barrier that is not ready is cancelled.
	std::optional<Verdict> take_verdict();

	State state() const
	{
		return state_;
	}
	std::uint64_t id() const
	{
		return id_;
	}
	Client begun_by() const
	{
		return by_;
	}
	std::size_t joined() const
	{
		return labels_.size();
	}
	std::size_t pending() const
	{
		return pending_.size();
	}
	// Who is waited for, by label.
	std::vector<std::string> waited_for() const;

    private:
	Outcome<> answer(Client client, std::uint64_t id);
	void end(bool ready, std::string reason);

	std::map<Client, std::string> labels_;
	std::set<Client> pending_;
	State state_ = State::idle;
	std::uint64_t id_ = 0;
	Client by_ = 0;
	std::optional<Verdict> verdict_;
};

} // namespace luod
