// SPDX-License-Identifier: GPL-2.0
// A client of luod, for luctl and the tests: org.ferry.LiveUpdate1(5) as functions.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tools/luod/agent.hh"
#include "tools/luod/bus.hh"

namespace luod {

class Client {
    public:
	// ENOENT, ECONNREFUSED: luod does not run.
	static Outcome<Client> connect(const std::string &path);

	struct Options {
		std::string policy; // "": luod's
		std::optional<std::uint64_t> deadline_ms;
		std::optional<liveupdate::Key> key;
	};
	Outcome<liveupdate::Session> create(const std::string &name, const Options &options);
	Outcome<liveupdate::Session> get(const std::string &name, Direction direction,
					 const std::optional<liveupdate::Key> &key = {});
	Outcome<> drop(const std::string &name);
	Outcome<> finish(const std::string &name);
	Outcome<> renew(const std::string &name);
	Outcome<std::vector<Listed>> list();
	// "Implementation" or "State".
	Outcome<std::string> property(const char *name);

	struct Progress {
		std::uint32_t ready, all;
		std::vector<std::string> waited_for;
	};
	// All who joined are ready when this returns; it is off when this client goes away.
	Outcome<std::uint64_t> prepare(std::chrono::milliseconds timeout, bool lose,
				       const std::function<void(const Progress &)> &show);
	Outcome<> cancel(std::uint64_t id);

	// Of a service.
	Outcome<> join(const std::string &label);
	Outcome<> leave();
	// Waits for the next update that is prepared, or is off; nothing: the time was over.
	struct Event {
		bool prepare; // or else it is off
		std::uint64_t id;
	};
	Outcome<std::optional<Event>> wait(std::chrono::milliseconds timeout);
	Outcome<> ready(std::uint64_t id);
	Outcome<> refuse(std::uint64_t id, const std::string &reason);

    private:
	explicit Client(Bus bus) : bus_(std::move(bus))
	{
	}
	template <typename... Args>
	Outcome<Message> call(const char *method, const char *types, Args... args);
	Outcome<Message> send(Message message);
	Outcome<Message> request(const char *method);
	Outcome<liveupdate::Session> session_of(Outcome<Message> reply);

	Bus bus_;
};

} // namespace luod
