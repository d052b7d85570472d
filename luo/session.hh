// SPDX-License-Identifier: GPL-2.0
// A session: named files that cross the kexec together.
#pragma once

#include <abi/luo.h>
#include <ferry/list.hh>
#include <ferry/lock.hh>
#include <ferry/own.hh>
#include <ferry/result.hh>
#include <uapi/linux/liveupdate_ferry.h>

#include <atomic>

#include "file.hh"
#include "key.hh"

namespace luo {

//	outgoing: Open <-> Frozen -> (kexec)
//	incoming: Carried <-> Retrieved -> Finished
//	renewed:  Retrieved, Finished -> Open
//
// A retrieved session whose last reference is closed is finished, or else
// carried again. Carried and Retrieved change by whoever wins; all else under the
// session's mutex.
enum class SessionState : unsigned char {
	Open,
	Frozen,
	Carried,
	Retrieved,
	Finished,
};

enum class Policy : unsigned int {
	Finish = LIVEUPDATE_FERRY_POLICY_FINISH,
	Deadline = LIVEUPDATE_FERRY_POLICY_DEADLINE,
	Keep = LIVEUPDATE_FERRY_POLICY_KEEP,
};

// What becomes of what nobody takes. The deadline is not 0 for that policy only.
struct Terms {
	Policy policy = Policy::Finish;
	unsigned long long deadline_ms = 0;
};

// What the files of sessions come to.
struct SessionTotals {
	unsigned long long files = 0;
	unsigned long long preserve_ns = 0;
};

class Session : public ferry::Linked<Session>, public ferry::RefCounted<Session> {
    public:
	// An outgoing one. The name was checked: 1 to 63 bytes and a NUL.
	static ferry::Result<ferry::Ref<Session>> create(const ferry_luo_about &about,
							 const Terms &terms, Common &common);
	// An incoming one. A file whose record is bad is left out, with a message.
	static ferry::Result<ferry::Ref<Session>> carried(ferry_node node, Common &common);

	explicit Session(Common &common) : common_{common}
	{
	}
	~Session();

	const char *name() const
	{
		return record_.session_name;
	}
	// The module that made it; empty: a program.
	const char *maker() const
	{
		return record_.maker;
	}
	ferry_luo_about about() const;
	SessionState state() const
	{
		return state_.load();
	}
	bool incoming() const
	{
		return state() >= SessionState::Carried;
	}
	Terms terms();
	void set_terms(const Terms &terms);

	// What people see of it, whatever is being done to it.
	void show(liveupdate_ferry_session &out);
	// Calls with what people see of each file.
	template <class F> ferry::Result<void> show_files(F see)
	{
		Guard guard{view_};
		for (File &file : files_) {
			liveupdate_ferry_file entry{};
			file.show(entry);
			TRY(see(entry));
		}
		return {};
	}
	unsigned int nr_files();
	// Errno::NoEnt: it has not so many.
	ferry::Result<void> file(unsigned int nr, unsigned long long &token,
				 char (&label)[FERRY_LUO_NAME_SIZE]);

	// ---- outgoing ----

	// Errno::Exist: the token is used; Errno::BadF; and File::preserve()'s.
	ferry::Result<void> preserve(int fd, unsigned long long token);
	ferry::Result<void> preserve(FileRef open, unsigned long long token, const char *label);
	// Errors: order_files()'s.
	ferry::Result<void> check_needs();
	// All or nothing.
	ferry::Result<void> freeze();
	void unfreeze();
	void count(SessionTotals &totals);
	// The record and all files. Needs the freeze only for the tokens of needs.
	ferry::Result<void> save(ferry_writer &writer);
	// Undoes preserve() for all files. Nothing is left.
	void unpreserve();

	// ---- incoming ----

	// Errno::Perm: it has a key, and this is not it. Counted, and logged.
	ferry::Result<void> admit(Key key);
	// Errno::Inval: it is retrieved already.
	ferry::Result<void> claim();
	// Undoes claim(), so that somebody else can.
	void disclaim()
	{
		state_.store(SessionState::Carried);
	}
	// The same, and where it has a deadline this starts again, for so long at least.
	void wait(unsigned long long least_ms = 0);
	// When it has to be released, by ferry_now(); `never`.
	unsigned long long due() const
	{
		return state() == SessionState::Carried ? due_.load() : never;
	}
	static constexpr unsigned long long never = ~0ull;
	// Lets handlers work ahead.
	void prepare();
	// A file, after everything that it needs. Errno::NoEnt: no such token, or a
	// handler is not there; order_needs()'s; and File::retrieve()'s.
	ferry::Result<FileRef> retrieve(unsigned long long token);
	// For a handler: the mutex is held. Whether it preserves this file.
	bool preserves(struct file *on);
	// For a handler whose file needs this one: the mutex is held.
	ferry::Result<FileRef> retrieved(unsigned long long token);
	// A file, or null; for one of its files, the same.
	File *find(unsigned long long token);
	// Lets go of all files, or, where one cannot be, of none.
	ferry::Result<void> finish();
	// finish(), and becomes an outgoing one, with the files that were retrieved
	// or with none. After an error of File::renew() it is incoming still, with
	// these files.
	ferry::Result<void> renew(bool files);
	// Somebody renews it; under the lock of the lists.
	bool renewing = false;

	// ---- for its files ----

	// What people see while an operation runs, and what they saw of it.
	using View = ferry::Mutex<"luo.view">;
	using Guard = ferry::Guard<View>;
	View &view()
	{
		return view_;
	}
	// Calls a handler; `ns`, one of the file's figures, is how long it took.
	template <class F>
	ferry::Result<void> watch(Operation operation, File &file, unsigned long long &ns, F call)
	{
		const unsigned long long start = begin(operation, file);
		ferry::Result<void> result = call();
		end(operation, file, result, start, ns);
		return result;
	}
	void progress(unsigned long long done, unsigned long long total)
	{
		done_.store(done, std::memory_order_relaxed);
		total_.store(total, std::memory_order_relaxed);
	}

    private:
	// What is being done right now.
	struct Current {
		Operation operation = Operation::None;
		unsigned long long token = 0;
		unsigned long long since = 0;
		char handler[LIVEUPDATE_FERRY_HANDLER_SIZE] = {};
	};

	unsigned long long begin(Operation operation, File &file);
	void end(Operation operation, File &file, const ferry::Result<void> &result,
		 unsigned long long start, unsigned long long &ns);
	ferry::Result<void> preserve_locked(FileRef open, unsigned long long token,
					    const char *label);
	ferry::Result<void> load_files(ferry_node node);
	ferry::Result<void> freeze_once();
	void unfreeze_locked();
	unsigned int count_needs();
	void forget_late_needs();
	ferry::Result<void> can_finish();
	template <class F> void for_each_leaving(F leave);
	void add(File &file);
	void drop(File &file);

	Common &common_;
	// After the gate and luo.sessions; before all of kho.ko's and handlers'.
	ferry::Mutex<"luo.session"> mutex_;
	// A leaf. What both protect is changed under both, and read under one.
	View view_;
	std::atomic<SessionState> state_{SessionState::Open};
	std::atomic<unsigned long long> due_{never};
	std::atomic<unsigned int> refused_{0};
	// Under view_.
	Current current_;
	std::atomic<unsigned long long> done_{0};
	std::atomic<unsigned long long> total_{0};
	// The terms under both; the rest does not change.
	ferry_session record_{};
	// The list and the figures of the files under both.
	Files files_;
	// The last one that was frozen; File::frozen_before leads back. Under mutex_.
	File *frozen_last_ = nullptr;
};

} // namespace luo
