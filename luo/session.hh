// SPDX-License-Identifier: GPL-2.0
// A session: named files that cross the kexec together.
#pragma once

#include <abi/luo.h>
#include <ferry/list.hh>
#include <ferry/lock.hh>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include "file.hh"

namespace luo {

//	outgoing: Open <-> Frozen -> (kexec)
//	incoming: Carried <-> Retrieved
//
// A retrieved session whose last reference is closed is finished, or else
// carried again. Changed under the session's mutex only.
enum class SessionState : unsigned char {
	Open,
	Frozen,
	Carried,
	Retrieved,
};

// What the files of sessions come to.
struct SessionTotals {
	unsigned long long files = 0;
	unsigned long long preserve_ns = 0;
};

class Session : public ferry::Linked<Session> {
    public:
	// An outgoing one. The name was checked: 1 to 63 bytes and a NUL.
	static ferry::Result<ferry::Owned<Session>> create(const char *name, Registry &registry,
							   HeldFiles &held);
	// An incoming one. A file whose record is bad is left out, with a message.
	static ferry::Result<ferry::Owned<Session>> carried(ferry_node node, Registry &registry,
							    HeldFiles &held);

	Session(Registry &registry, HeldFiles &held) : registry_{registry}, held_{held}
	{
	}
	~Session();

	const char *name() const
	{
		return record_.session_name;
	}
	bool incoming() const
	{
		return incoming_;
	}

	// ---- outgoing ----

	// Errno::Exist: the token is used; Errno::BadF; and File::preserve()'s.
	ferry::Result<void> preserve(int fd, unsigned long long token);
	// All or nothing.
	ferry::Result<void> freeze();
	void unfreeze();
	void count(SessionTotals &totals);
	// The record and all files. Needs the freeze only for the tokens of needs.
	ferry::Result<void> save(ferry_writer &writer);
	// Undoes preserve() for all files. Nothing is left.
	void unpreserve();

	// ---- incoming ----

	// Errno::Inval: it is retrieved already.
	ferry::Result<void> claim();
	// Lets handlers work ahead.
	void prepare();
	// Undoes claim(), so that somebody else can.
	void disclaim();
	// A file, after everything that it needs. Errno::NoEnt: no such token, or a
	// handler is not there; order_needs()'s; and File::retrieve()'s.
	ferry::Result<FileRef> retrieve(unsigned long long token);
	// For a handler whose file needs this one: the mutex is held.
	ferry::Result<FileRef> retrieved(unsigned long long token);
	// Lets go of all files, or, where one cannot be, of none.
	ferry::Result<void> finish();

    private:
	ferry::Result<void> load_files(ferry_node node);
	ferry::Result<void> freeze_once();
	void unfreeze_locked();
	unsigned int count_needs();
	void forget_late_needs();
	template <class F> void for_each_leaving(F leave);
	File *find(unsigned long long token);
	void drop(File &file);

	Registry &registry_;
	HeldFiles &held_;
	ferry_session record_{};
	bool incoming_ = false;
	// After the gate and luo.sessions; before all of kho.ko's and handlers'.
	ferry::Mutex<"luo.session"> mutex_;
	// Protected by mutex_.
	SessionState state_ = SessionState::Open;
	Files files_;
	// The last one that was frozen; File::frozen_before leads back.
	File *frozen_last_ = nullptr;
};

} // namespace luo
