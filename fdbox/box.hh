// SPDX-License-Identifier: GPL-2.0
// A box: files by name, which can be sealed in, and cross the kexec then.
#pragma once

#include <ferry/file_ref.hh>
#include <ferry/list.hh>
#include <ferry/lock.hh>
#include <ferry/luo.h>
#include <ferry/own.hh>
#include <ferry/result.hh>
#include <uapi/linux/fdbox.h>

#include <utility>

#include "fdbox/linux.h"

namespace fdbox {

using ferry::FileRef;

using Name = char[FDBOX_NAME_SIZE];
// It is the label of a file in a session.
static_assert(FDBOX_NAME_SIZE == FERRY_LUO_NAME_SIZE);
static_assert(FDBOX_KEY_SIZE == sizeof(ferry_luo_lock::hash));
// FDBOX_KEY_SIZE bytes of the caller's; null: none.
using Key = const unsigned char *;

// A session of luo's that is closed when it goes.
class Session {
    public:
	Session() = default;
	explicit Session(ferry_luo_session *open) : session_{open}
	{
	}
	Session(Session &&other) noexcept : session_{std::exchange(other.session_, nullptr)}
	{
	}
	Session &operator=(Session &&other) noexcept
	{
		close();
		session_ = std::exchange(other.session_, nullptr);
		return *this;
	}
	~Session()
	{
		close();
	}
	void close()
	{
		if (session_)
			ferry_luo_session_close(std::exchange(session_, nullptr));
	}
	// The same between ferry_luo_enter() and _leave().
	void undo()
	{
		if (session_)
			ferry_luo_session_undo(std::exchange(session_, nullptr));
	}
	ferry_luo_session *get() const
	{
		return session_;
	}
	explicit operator bool() const
	{
		return session_ != nullptr;
	}

    private:
	ferry_luo_session *session_ = nullptr;
};

// What holds boxes together that are sealed, one or several: a session of luo's for each box,
// of which the first one has the files of all.
class Seal : public ferry::RefCounted<Seal> {
    public:
	Seal() = default;
	~Seal()
	{
		open();
	}

	// Takes the session over, unless it fails: Errno::NoMem. Only as long as nobody else
	// has it.
	ferry::Result<void> add(Session &session);
	// Likewise, between ferry_luo_enter() and _leave(): lets go of all of them.
	void undo();
	// The session with the files. For who knows that nobody opens or finishes it meanwhile:
	// whoever makes it, and a box of it that came and is sealed still.
	ferry_luo_session *files() const
	{
		return parts_first_;
	}

	bool closed();
	// Going out: undoes the preserving. Coming in: the sessions wait again.
	void open();

	// ---- that came ----

	// A box of it is there, and sealed. Errno::BadMsg: the place is taken.
	ferry::Result<void> join(unsigned int place);
	// A box was unsealed.
	void unsealed();
	// A box goes; it was sealed or not. The last one finishes it: then the errors are
	// finish()'s, and the box has not gone.
	ferry::Result<void> leave(bool sealed);
	// A box that joined could not come: its files stay with the others'.
	void forget(bool sealed);
	// All boxes are unsealed: the files are on their own from here. Errno::Busy: one is
	// not, or a file is not ready.
	ferry::Result<void> finish();

    private:
	struct Part : ferry::Linked<Part> {
		explicit Part(Session &&its_session) : session{std::move(its_session)}
		{
		}
		Session session;
	};
	ferry::Result<void> finish_locked();
	void open_locked();
	void forget_locked(bool sealed);

	// After a box's lock, before all of luo's.
	ferry::Mutex<"fdbox.seal"> mutex_;
	// Under mutex_.
	ferry::List<Part> parts_;
	ferry_luo_session *parts_first_ = nullptr;
	unsigned long long places_ = 0; // of the boxes that came, a bit for each
	unsigned int boxes_ = 0; // of these, that are there
	unsigned int sealed_ = 0; // of these, that nobody unsealed
};

struct Item : ferry::Linked<Item> {
	Name name = {};
	FileRef file; // null: not made anew yet
	unsigned long long token = 0; // in the session that it came with
};

// Which boxes came together; it crosses as the tag of their sessions.
struct Together {
	unsigned long long number = 0; // of the set; 0: the box was sealed alone
	unsigned int place = 0; // in the set
};

//	open <-> sealed (out_) -> kexec -> sealed (came_) -> open (came_) -> ...
//
// A box that came keeps its session until it is sealed anew or deleted: a virtual
// machine that was got out is complete only when its VMM says so, and the session
// cannot be finished before. That is so for all boxes that came together, until the
// first one of them is sealed anew, or the last one is deleted.
class Box : public ferry::Linked<Box>, public ferry::RefCounted<Box> {
    public:
	explicit Box(const ferry_luo_about &about) : about_{about}
	{
	}
	~Box();

	// For the caller. Errno::Inval: not a name for a box; Errno::NoMem.
	static ferry::Result<ferry::Ref<Box>> create(const Name &name, Key key);
	// One that came, with what was sealed together. Errno::BadMsg: what is handed over
	// is no box.
	static ferry::Result<ferry::Ref<Box>>
	carried(const ferry_luo_about &about, const Together &together, ferry::Ref<Seal> seal);
	// Of the tag of a session.
	static Together together(const ferry_luo_about &about);

	const char *name() const;
	bool keyed() const
	{
		return about_.lock.keyed;
	}
	// The user who created it.
	bool is_creators() const
	{
		return about_.uid == linux_caller();
	}
	// Errno::Perm, and the log says so.
	ferry::Result<void> unlock(Key key) const
	{
		return ferry::check_status(ferry_luo_lock_open(&about_.lock, about_.name, key));
	}

	// Each as the call of <uapi/linux/fdbox.h> says.
	ferry::Result<void> put_file(int fd, const Name &name);
	ferry::Result<FileRef> take_file(const Name &name);
	// Together, in whatever order; each once.
	static ferry::Result<void> seal(Box *const *boxes, unsigned int nr);
	ferry::Result<void> unseal();
	// Lets go of everything. From then on all calls fail with Errno::NoDev.
	ferry::Result<void> empty();

	// Calls for each name, with the lock held; before that, sets what the list says
	// of the box.
	template <class F> ferry::Result<void> list(fdbox_list &out, F see)
	{
		ferry::Guard guard{mutex_};
		TRY(check_there());
		out.sealed = sealed();
		out.came = came_ && came_->closed();
		for (const Item &item : items_)
			see(item.name);
		return {};
	}

	linux_box_device *device = nullptr; // under the lock of the list of boxes

    private:
	ferry::Result<void> check_there() const;
	ferry::Result<void> check_open();
	bool sealed();
	ferry::Result<void> begin_sealing();
	void end_sealing(ferry::Ref<Seal> seal);
	static ferry::Result<void> preserve(Seal &seal, Box *const *boxes, unsigned int nr);
	ferry::Result<void> add_session(Seal &seal, const Together &together) const;
	ferry::Result<Session> make_session(const Together &together) const;
	ferry::Result<void> preserve_items(ferry_luo_session *files, unsigned int place);
	ferry::Result<void> load_items(const Together &together);
	Item *find(const Name &name);
	void drop(Item &item);

	const ferry_luo_about about_;
	// Before all of luo's locks.
	ferry::Mutex<"fdbox.box"> mutex_;
	// Under mutex_. While somebody is sealing it nothing changes, and he needs no lock:
	// those of several boxes would have to be in an order.
	bool sealing_ = false;
	bool gone_ = false;
	bool unopened_ = false; // it came, and is sealed since
	ferry::Ref<Seal> out_; // when it was sealed, until it is again
	ferry::Ref<Seal> came_; // of the last kernel
	ferry::List<Item> items_;
};

} // namespace fdbox
