// SPDX-License-Identifier: GPL-2.0
// Who owns what: Owned<T> for one owner, Ref<T> for several.
//
// There is no `new` that could fail unseen: the only operator new is the one
// below, which make() uses, and plain `new` does not link.
#pragma once

#include <ferry/kernel.h>
#include <ferry/result.hh>

#include <atomic>
#include <new>
#include <type_traits>
#include <utility>

namespace ferry {
struct FromKernel {};
} // namespace ferry

// noexcept, so that the compiler tests for null before it constructs.
inline void *operator new(std::size_t bytes, ferry::FromKernel) noexcept
{
	return ferry_alloc(bytes);
}

inline void operator delete(void *memory, ferry::FromKernel) noexcept
{
	ferry_free(memory);
}

namespace ferry {

template <class T> void destroy(T *object)
{
	if (!object)
		return;
	object->~T();
	ferry_free(object);
}

// The one owner of a T that make() made. Null only when moved from, or made so.
template <class T> class [[nodiscard]] Owned {
    public:
	constexpr Owned() = default;
	explicit constexpr Owned(T *object) : object_{object}
	{
	}
	constexpr Owned(Owned &&other) noexcept : object_{std::exchange(other.object_, nullptr)}
	{
	}
	Owned &operator=(Owned &&other) noexcept
	{
		if (this != &other)
			destroy(std::exchange(object_, std::exchange(other.object_, nullptr)));
		return *this;
	}
	~Owned()
	{
		destroy(object_);
	}

	// Gives the object up; whoever takes it calls destroy().
	[[nodiscard]] T *release()
	{
		return std::exchange(object_, nullptr);
	}
	T *get() const
	{
		return object_;
	}
	T *operator->() const
	{
		return object_;
	}
	T &operator*() const
	{
		return *object_;
	}
	explicit operator bool() const
	{
		return object_ != nullptr;
	}

    private:
	T *object_ = nullptr;
};

// Constructors cannot fail; what can goes into a static create().
template <class T, class... Args> Result<Owned<T>> make(Args &&...args)
{
	static_assert(alignof(T) <= alignof(std::max_align_t));
	T *object = new (FromKernel{}) T(std::forward<Args>(args)...);
	if (!object)
		return fail(Errno::NoMem);
	return Owned<T>{object};
}

// Derive from this to be shared by Ref<T>. Born with one reference.
template <class T> class RefCounted {
    public:
	RefCounted() = default;
	RefCounted(const RefCounted &) = delete;
	RefCounted &operator=(const RefCounted &) = delete;

	void get() const
	{
		count_.fetch_add(1, std::memory_order_relaxed);
	}
	void put() const
	{
		if (count_.fetch_sub(1, std::memory_order_acq_rel) == 1)
			destroy(const_cast<T *>(static_cast<const T *>(this)));
	}

    protected:
	~RefCounted() = default;

    private:
	mutable std::atomic<unsigned int> count_{1};
};

// One of the owners of a T.
template <class T> class [[nodiscard]] Ref {
    public:
	constexpr Ref() = default;
	// Takes over the reference that a fresh object is born with.
	static Ref adopt(T *object)
	{
		Ref ref;
		ref.object_ = object;
		return ref;
	}
	// A further reference to an object that somebody else holds.
	explicit Ref(T &object) : object_{&object}
	{
		object.get();
	}
	Ref(const Ref &other) : object_{other.object_}
	{
		if (object_)
			object_->get();
	}
	Ref(Ref &&other) noexcept : object_{std::exchange(other.object_, nullptr)}
	{
	}
	Ref &operator=(Ref other) noexcept
	{
		std::swap(object_, other.object_);
		return *this;
	}
	~Ref()
	{
		if (object_)
			object_->put();
	}

	[[nodiscard]] T *release()
	{
		return std::exchange(object_, nullptr);
	}
	T *get() const
	{
		return object_;
	}
	T *operator->() const
	{
		return object_;
	}
	T &operator*() const
	{
		return *object_;
	}
	explicit operator bool() const
	{
		return object_ != nullptr;
	}

    private:
	T *object_ = nullptr;
};

template <class T, class... Args> Result<Ref<T>> make_ref(Args &&...args)
{
	auto object = TRY(make<T>(std::forward<Args>(args)...));
	return Ref<T>::adopt(object.release());
}

} // namespace ferry
