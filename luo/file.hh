// SPDX-License-Identifier: GPL-2.0
// One file of a session: on its way out, or on its way in.
#pragma once

#include <abi/luo.h>
#include <ferry/file_ref.hh>
#include <ferry/list.hh>
#include <ferry/luo.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <uapi/linux/liveupdate_ferry.h>

#include "luo/linux.h"

#include "common.hh"

namespace luo {

class Session;

using ferry::FileRef;

// What one file needs of another one of its session.
struct Need : ferry::Linked<Need> {
	FileRef on; // outgoing: the other file
	unsigned long long token = 0; // of the other file; outgoing: found at the freeze
	bool late = false; // named by freeze(), and forgotten by its rollback
};

using Needs = ferry::List<Need>;

} // namespace luo

// The C interface knows it by this name; here it is luo::File. All of it is
// protected by the mutex of its session.
struct ferry_luo_file : ferry::Linked<ferry_luo_file>, luo::Held {
	ferry_luo_file(luo::Session &its_session, luo::Common &common)
		: session{its_session}, common_{common}
	{
	}
	~ferry_luo_file();

	// What people see of it; with the view of its session locked.
	void show(liveupdate_ferry_file &out) const;
	// What its handler said that it preserves.
	unsigned long long bytes() const;
	// For the handler: what it preserves.
	void set_usage(const ferry_usage &usage);

	// ---- outgoing ----

	// Preserves an open file. Errno::NoEnt: no handler; Errno::Busy: preserved
	// already; Errno::NoMem; or what the handler says.
	ferry::Result<void> preserve(luo::FileRef file, unsigned long long token,
				     const char *label);
	void unpreserve();
	ferry::Result<void> freeze();
	void unfreeze();
	// Writes the record, the needs and the state into the current node.
	ferry::Result<void> save(ferry_writer &writer);
	// For the handler, from preserve() and freeze(). Once is enough.
	ferry::Result<void> depend(file *on);
	// Forgets what freeze() said that the file needs.
	void forget_late_needs();
	// Whether what this outgoing file preserves is behind that one.
	bool is(file *on);

	// ---- incoming ----

	// Reads the record; the handler is looked for when it is needed.
	ferry::Result<void> load(ferry_node node);
	// Errno::NoEnt: the handler is not there; for what it was needed. Holds it until
	// the file is finished.
	ferry::Result<void> find_handler(luo::Operation purpose);
	// Lets the handler work ahead, once, if it is there.
	void prepare();
	// Makes the file anew, unless it is there; after find_handler(), and after
	// everything that it needs. An error of the handler's stays.
	ferry::Result<void> retrieve();
	bool is_retrieved() const
	{
		return status_ == FERRY_RETRIEVED;
	}
	// A reference to the file, which is_retrieved().
	luo::FileRef retrieved() const
	{
		return luo::FileRef::share(file_.get());
	}
	// For the handler, from retrieve(): a file that this one needs.
	// Errno::Range: it does not need so many.
	ferry::Result<luo::FileRef> dependency(unsigned int nr);
	ferry::Result<unsigned long long> dependency_token(unsigned int nr);
	// Also from prepare(): the handler's own of such a file, or null.
	void *dependency_priv(unsigned int nr, const ferry_luo_handler &handler);
	// Errno::NoEnt: the handler is not there; or what the handler says.
	ferry::Result<void> can_finish();
	// After can_finish().
	void finish();
	// A finished file that was retrieved becomes an outgoing one, under its token.
	// Errors: preserve()'s; then it is what it was.
	ferry::Result<void> renew();
	// Undoes renew().
	void lapse();

	unsigned long long token() const
	{
		return record_.token;
	}
	const char *label() const
	{
		return record_.label;
	}
	const char *handler_name() const
	{
		return record_.handler;
	}
	// Counts up with each need that is added.
	unsigned int nr_needs() const
	{
		return nr_needs_;
	}
	luo::Needs &needs()
	{
		return needs_;
	}
	// That the preserve call took.
	unsigned long long preserve_ns() const
	{
		return record_.preserve_ns;
	}

	luo::Session &session;

	// Of order_files(): its search, and the file that comes after this one.
	struct {
		ferry_luo_file *from = nullptr; // whose need led here
		luo::Need *need = nullptr; // that was followed last
		bool seen = false;
		bool open = false; // on the way from the start of the search to here
	} visit;
	ferry_luo_file *later = nullptr;
	// Of Session::freeze(): the file that was frozen before this one.
	ferry_luo_file *frozen_before = nullptr;

    private:
	ferry_luo_args args();
	ferry::Result<void> call_preserve();
	ferry::Result<void> load_needs(ferry_node node);
	ferry::Result<luo::Need *> add_need();
	void forget_needs();
	void set_status(ferry_retrieve_status status, ferry::Errno error = {});

	luo::Common &common_;
	// The figures in it under the session's view, too.
	ferry_file record_{};
	luo::HandlerRef handler_;
	luo::FileRef file_;
	void *priv_ = nullptr; // the handler's
	unsigned long long retrieve_ns_ = 0; // under the session's view, too
	luo::Needs needs_;
	unsigned int nr_needs_ = 0;
	ferry_node state_{-1};
	bool freezing_ = false; // in the handler's freeze()
	bool prepared_ = false;
	bool finished_ = false; // and kept, as its session is to be renewed
	// Under the session's view, too.
	ferry_retrieve_status status_ = FERRY_NOT_RETRIEVED;
	ferry::Errno retrieve_error_{};
};

namespace luo {

using File = ::ferry_luo_file;
using Files = ferry::List<File>;

// How files come that do not need each other.
enum class Otherwise : unsigned char {
	AsPreserved,
	Reversed,
};

// Links the files so that each comes before those that it needs. Needs of
// outgoing files are resolved to tokens on the way.
//
// Returns the first. Errno::NoEnt: something that is needed is not in the
// session; Errno::Loop: files need each other in a ring. The log names them.
ferry::Result<File *> order_files(Files &files, Otherwise otherwise);

// Links a file and everything that it needs, directly or not, so that each comes
// after those that it needs; the file itself is last. Errors: order_files()'s.
ferry::Result<File *> order_needs(Files &files, File &of);

} // namespace luo
