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

struct Item : ferry::Linked<Item> {
	Name name = {};
	FileRef file; // null: not made anew yet
	unsigned long long token = 0; // in the session that it came with
};

//	open <-> sealed (out_) -> kexec -> sealed (in_) -> open (in_) -> ...
//
// A box that came keeps its session until it is sealed anew or deleted: a virtual
// machine that was got out is complete only when its VMM says so, and the session
// cannot be finished before.
class Box : public ferry::Linked<Box>, public ferry::RefCounted<Box> {
    public:
	explicit Box(const ferry_luo_about &about) : about_{about}
	{
	}
	~Box();

	// For the caller. Errno::Inval: not a name for a box; Errno::NoMem.
	static ferry::Result<ferry::Ref<Box>> create(const Name &name, Key key);
	// One that came. Errno::BadMsg: what is handed over is no box.
	static ferry::Result<ferry::Ref<Box>> carried(const ferry_luo_about &about,
						      Session session);

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
	ferry::Result<void> seal();
	ferry::Result<void> unseal();
	// Lets go of everything. From then on all calls fail with Errno::NoDev.
	ferry::Result<void> empty();

	// Calls for each name, with the lock held; before that, sets what the list says
	// of the box.
	template <class F> ferry::Result<void> list(fdbox_list &out, F see)
	{
		ferry::Guard guard{mutex_};
		TRY(check_there());
		out.sealed = sealed_;
		out.came = bool(came_);
		for (const Item &item : items_)
			see(item.name);
		return {};
	}

	linux_box_device *device = nullptr; // under the lock of the list of boxes

    private:
	ferry::Result<void> check_there() const;
	ferry::Result<void> check_open() const;
	ferry::Result<void> finish_came();
	ferry::Result<void> load_items();
	Item *find(const Name &name);
	void drop(Item &item);

	const ferry_luo_about about_;
	// Before all of luo's locks.
	ferry::Mutex<"fdbox.box"> mutex_;
	// Under mutex_.
	bool sealed_ = false;
	bool gone_ = false;
	Session out_; // when it is sealed
	Session came_; // of the last kernel
	ferry::List<Item> items_;
};

} // namespace fdbox
