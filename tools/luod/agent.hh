// SPDX-License-Identifier: GPL-2.0
/*
 * The custody of sessions: luod holds a descriptor of each, so that a service can
 * die and come again, and knows whose it is, so that nobody else gets it.
 *
 * luod can be killed between any two calls. What it has to know then is in the
 * fd store, where the names are
 *
 *	registry-out, self-out	the registry of the sessions for the next kernel,
 *				and the session "luod" that carries it there
 *	registry-in, self-in	the same of the last kernel; the session only until
 *				the registry is in the store
 *	out-NAME, in-NAME	the sessions of services
 *
 * systemd carries its store over a kexec, and takes the sessions in it for us: then
 * those of the next kernel come back, as those of the last one.
 *
 * The store is changed in this order: the registry first, then the kernel, then the
 * store. So no session is carried that the next luod does not know; and what is
 * in the registry only, is not there yet, or not any more.
 */
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tools/luod/registry.hh"
#include "tools/luod/store.hh"

namespace luod {

enum class Direction { out, in }; // for the next kernel, of the last one

// How a session is to be made; see <linux/liveupdate_ferry.h>.
struct Terms {
	// Where the kernel has policies. Not FINISH: a luod that is killed while it
	// takes a session of the last kernel must not finish it thereby.
	unsigned int policy = LIVEUPDATE_FERRY_POLICY_DEADLINE;
	std::uint64_t deadline_ms = 3'600'000;
	std::optional<liveupdate::Key> key;
	bool by_default = true; // nothing was asked for: a kernel without policies will do
};

// Of one session, for a list.
struct Listed {
	std::string name;
	Direction direction;
	Owner owner;
	bool held; // luod has it; if not, it needs its key, or somebody else has it
};

class Agent {
    public:
	static constexpr std::size_t max_of_user = 64; // sessions; root may have all

	using Log = std::function<void(const std::string &)>;

	// With what the store kept. In a new kernel it takes over what the last one
	// handed over. An error leaves everything as it was found.
	static Outcome<Agent> start(Store &store, std::vector<Kept> kept, Log log);

	// A new session for the next kernel, and one descriptor of it for the caller.
	Outcome<Fd> create(Owner caller, const std::string &name, const Terms &terms);
	// One more descriptor of a session. One of the last kernel that luod does not
	// hold yet is taken now, with the key if it is given.
	Outcome<Fd> get(Owner caller, const std::string &name, Direction direction,
			const std::optional<liveupdate::Key> &key = {});
	// Let go of a session for the next kernel. It is undone when its owner closes it, too.
	Outcome<> drop(Owner caller, const std::string &name);
	// Finish a session of the last kernel, and let go of it.
	Outcome<> finish(Owner caller, const std::string &name);
	// Make one of the last kernel one for the next, with the files that were retrieved.
	Outcome<> renew(Owner caller, const std::string &name);

	std::vector<Listed> list();
	// Sessions that a kexec would lose.
	std::vector<std::string> unfinished();
	int implementation() const
	{
		return implementation_;
	}

    private:
	struct Session {
		Owner owner;
		Fd fd;
	};
	using Sessions = std::map<std::string, Session, std::less<>>;

	Agent(Store &store, Log log) : store_(&store), log_(std::move(log))
	{
	}
	// Sessions of services that the store gave back, by their names.
	struct Found {
		std::map<std::string, Fd> out, in;
	};
	void rename_carried(std::vector<Kept> &kept);
	Outcome<Found> sort(std::vector<Kept> kept);
	void recognize(std::map<std::string, Fd> found, Direction direction);
	Outcome<> take_over(liveupdate::Device &device, std::map<std::string, Fd> found);
	Outcome<> retrieve_registry(liveupdate::Device &device);
	void retrieve_sessions(liveupdate::Device &device);
	Outcome<> begin(liveupdate::Device &device);
	Outcome<> take(liveupdate::Device &device, const std::string &name, Session &session,
		       const std::optional<liveupdate::Key> &key);
	bool keep(const std::string &name, int fd);
	void refresh();
	void let_go(const std::string &name);
	void forget(const std::string &name);
	void forget_last_kernel_if_done();
	Outcome<liveupdate::Session> make(liveupdate::Device &device, const std::string &name,
					  const Terms &terms) const;
	Outcome<Session *> find(Owner caller, std::string_view name, Direction direction);
	Sessions &sessions(Direction direction)
	{
		return direction == Direction::out ? out_ : in_;
	}

	Store *store_;
	Log log_;
	int implementation_ = 0;
	std::optional<Registry> out_registry_, in_registry_;
	bool registry_in_kept_ = false; // in_registry_ is in the store
	liveupdate::Session self_out_, self_in_;
	Sessions out_, in_;
};

} // namespace luod
