// SPDX-License-Identifier: GPL-2.0
// Locks, each with a name and with that a lockdep class of its own.
//
// Data that a mutex protects lives in a Locked<T>, and is reached through its
// guard only. A function that needs a lock held takes the guard.
#pragma once

#include <ferry/kernel.h>

#include <cstddef>
#include <utility>

namespace ferry {

// A string that can be a template argument.
template <std::size_t size> struct Name {
	char text[size];
	constexpr Name(const char (&from)[size])
	{
		for (std::size_t i = 0; i < size; ++i)
			text[i] = from[i];
	}
};

template <Name name> class Mutex {
    public:
	Mutex()
	{
		ferry_mutex_init(&lock_, name.text, &key_);
	}
	Mutex(const Mutex &) = delete;
	Mutex &operator=(const Mutex &) = delete;

	void lock()
	{
		ferry_mutex_lock(&lock_);
	}
	void unlock()
	{
		ferry_mutex_unlock(&lock_);
	}

    private:
	::mutex lock_;
	static inline constinit lock_class_key key_{};
};

template <Name name> class RwSem {
    public:
	RwSem()
	{
		ferry_rwsem_init(&lock_, name.text, &key_);
	}
	RwSem(const RwSem &) = delete;
	RwSem &operator=(const RwSem &) = delete;

	void lock()
	{
		ferry_rwsem_write_lock(&lock_);
	}
	void unlock()
	{
		ferry_rwsem_write_unlock(&lock_);
	}
	void lock_shared()
	{
		ferry_rwsem_read_lock(&lock_);
	}
	void unlock_shared()
	{
		ferry_rwsem_read_unlock(&lock_);
	}

    private:
	::rw_semaphore lock_;
	static inline constinit lock_class_key key_{};
};

template <class L> class [[nodiscard]] Guard {
    public:
	explicit Guard(L &lock) : lock_{lock}
	{
		lock_.lock();
	}
	~Guard()
	{
		lock_.unlock();
	}
	Guard(const Guard &) = delete;
	Guard &operator=(const Guard &) = delete;

    private:
	L &lock_;
};

template <class L> class [[nodiscard]] SharedGuard {
    public:
	explicit SharedGuard(L &lock) : lock_{lock}
	{
		lock_.lock_shared();
	}
	~SharedGuard()
	{
		lock_.unlock_shared();
	}
	SharedGuard(const SharedGuard &) = delete;
	SharedGuard &operator=(const SharedGuard &) = delete;

    private:
	L &lock_;
};

// A T that cannot be touched without its mutex.
template <class T, Name name> class Locked {
    public:
	class [[nodiscard]] Access {
	    public:
		explicit Access(Locked &owner) : owner_{owner}
		{
			owner_.mutex_.lock();
		}
		~Access()
		{
			owner_.mutex_.unlock();
		}
		Access(const Access &) = delete;
		Access &operator=(const Access &) = delete;

		T *operator->()
		{
			return &owner_.data_;
		}
		T &operator*()
		{
			return owner_.data_;
		}

	    private:
		Locked &owner_;
	};

	template <class... Args> explicit Locked(Args &&...args)
		: data_(std::forward<Args>(args)...)
	{
	}

	Access lock()
	{
		return Access{*this};
	}

    private:
	Mutex<name> mutex_;
	T data_;
};

} // namespace ferry
