// SPDX-License-Identifier: GPL-2.0
// All sessions, and their way into the next kernel.
//
// Lock order:
//	1. gate_: shared by everything that changes a session, exclusive from the
//	   freeze until the kexec, or until it is called off.
//	2. sessions_ ("luo.sessions"): the lists.
//	3. a session's mutex, and what handlers take under it.
//	4. leaves: luo.registry, luo.held, and kho.ko's.
#pragma once

#include <abi/luo.h>
#include <ferry/list.hh>
#include <ferry/lock.hh>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <atomic>
#include <string_view>

#include "session.hh"

namespace luo {

class Orchestrator {
    public:
	// Takes over what the last kernel carried here.
	static ferry::Result<ferry::Owned<Orchestrator>> create();

	Orchestrator();
	~Orchestrator();

	Common common;

	// The device. Of those that do not share it one at a time: Errno::Busy.
	// Errno::Perm: not privileged enough to share it.
	ferry::Result<void> open(bool shared);
	void close(bool shared);

	// A new session, and a file for it. Errno::Inval: the name is empty or does
	// not end; Errno::Exist.
	ferry::Result<FileRef> create_session(const char (&name)[64], Key key = nullptr,
					      const Terms &terms = {});
	// A file for a carried session. Errno::NoEnt; Errno::Perm: not with this key;
	// Errno::Inval: it has one.
	ferry::Result<FileRef> retrieve_session(const char (&name)[64], Key key = nullptr);
	// The same for a module, without a file; with the gate held.
	ferry::Result<Session *> create_session(const ferry_luo_about &about);
	// Undoes it again; with the gate held, too.
	void undo_session(Session &session);
	// One that a module made in the last kernel.
	ferry::Result<Session *> take_session(const char *maker);
	// Finishes a carried session that nobody has. Errno::NoEnt; Errno::Busy:
	// somebody has it; Errno::Perm; and Session::finish()'s.
	ferry::Result<void> discard_session(const char (&name)[64]);
	// The last reference to a session's file is gone.
	void release_session(Session &session);
	// Session::renew(); the gate is held. Errno::Exist: an outgoing session has
	// this name.
	ferry::Result<void> renew_session(Session &session, bool files);

	// Has luo_deadline() called when the next session is due.
	void arm();
	// Lets handlers work ahead on carried files; in a kernel thread.
	void work_ahead();
	// Releases what waits for longer than its policy allows; in a kernel thread.
	void expire();

	void show(liveupdate_ferry_info &out);
	// The update that led to this kernel. Errno::NoEnt.
	ferry::Result<void> show(liveupdate_ferry_update &out);
	// Calls for each session, outgoing ones first.
	template <class F> ferry::Result<void> for_each_session(F visit)
	{
		auto sessions = sessions_.lock();
		for (Session &session : sessions->outgoing)
			TRY(visit(session));
		for (Session &session : sessions->incoming)
			TRY(visit(session));
		return {};
	}
	// Errno::NoEnt.
	ferry::Result<ferry::Ref<Session>> find_session(const char (&name)[64], bool incoming);

	using Gate = ferry::RwSem<"luo.gate">;
	// Held by every operation on a session.
	auto enter()
	{
		return ferry::SharedGuard{gate_};
	}
	// For a module, which may do several at once.
	Gate &gate()
	{
		return gate_;
	}

	// In reboot(2): freeze all, and write the tree. All or nothing; on success
	// the gate stays shut. Errno::Inval: there are sessions, but the kernel that
	// was loaded would not get them.
	ferry::Result<void> prepare(bool kho);
	// Opens it again.
	void abort();
	void show_update(seq_file *to);

    private:
	struct Sessions {
		ferry::List<Session> outgoing;
		ferry::List<Session> incoming;
	};

	// Finishes a session that its owner left, or lets it wait. True: finished.
	bool leave(Session &session);
	// What is finished, or undone, leaves its list, and luo.
	void remove(Session &session);
	bool taken(Sessions &sessions, std::string_view name);
	ferry::Result<void> check_left(Sessions &sessions);
	ferry::Result<void> take_carried();
	ferry::Result<void> take_session(ferry_node node);
	void carried_done();
	ferry::Result<void> freeze_all(bool kho);
	void unfreeze_all();
	ferry::Result<void> save(ferry_writer &writer, bool final);
	ferry::Result<void> write_all(ferry_writer &writer, unsigned long long freeze_ns);
	static int provide(void *self, ferry_writer *writer, bool final);

	Gate gate_;
	ferry::Locked<Sessions, "luo.sessions"> sessions_;
	// Somebody has the device open and does not share it; and all who have.
	std::atomic<bool> exclusive_{false};
	std::atomic<unsigned int> openers_{0};
	std::atomic<bool> frozen_{false};
	// This module is held while carried sessions wait; set by create() and by
	// the release of the last one.
	bool pinned_ = false;
	const ferry_provider provider_;

	// Of the update that led to this kernel, number 0: of none; constant after
	// create().
	ferry_update last_{};
	unsigned long long jump_ns_ = 0;
	unsigned long long boot_ns_ = 0;
	// Of the one that may come; under the gate.
	unsigned long long freeze_start_ = 0;
};

} // namespace luo
