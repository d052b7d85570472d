// SPDX-License-Identifier: GPL-2.0
// The handlers: one for each kind of file.
#pragma once

#include <ferry/list.hh>
#include <ferry/lock.hh>
#include <ferry/luo.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <span>
#include <utility>

namespace luo {

// A handler, and a hold on its module.
class HandlerRef {
    public:
	HandlerRef() = default;
	HandlerRef(HandlerRef &&other) noexcept : handler_{std::exchange(other.handler_, nullptr)}
	{
	}
	HandlerRef &operator=(HandlerRef &&other) noexcept
	{
		std::swap(handler_, other.handler_);
		return *this;
	}
	~HandlerRef()
	{
		if (handler_)
			ferry_module_put(handler_->module);
	}
	// Null when the module is on its way out.
	static HandlerRef hold(const ferry_luo_handler &handler)
	{
		HandlerRef ref;
		if (ferry_module_get(handler.module))
			ref.handler_ = &handler;
		return ref;
	}

	const ferry_luo_handler *get() const
	{
		return handler_;
	}
	const ferry_luo_ops *operator->() const
	{
		return handler_->ops;
	}
	explicit operator bool() const
	{
		return handler_ != nullptr;
	}

    private:
	const ferry_luo_handler *handler_ = nullptr;
};

class Registry {
    public:
	~Registry();
	// All of them, or none.
	ferry::Result<void> add(std::span<const ferry_luo_handler> handlers);
	void remove(const ferry_luo_handler &handler);

	// The handler that says it can preserve this file, or Errno::NoEnt.
	ferry::Result<HandlerRef> for_file(file *file);
	// The handler of this compatible string, or Errno::NoEnt.
	ferry::Result<HandlerRef> named(const char *compatible);

    private:
	struct Entry : ferry::Linked<Entry> {
		explicit Entry(const ferry_luo_handler &its) : handler{its}
		{
		}
		const ferry_luo_handler &handler;
	};
	using Entries = ferry::List<Entry>;
	static void clear(Entries &entries);

	// A leaf: can_preserve() is called under it, and takes no locks.
	ferry::Locked<Entries, "luo.registry"> entries_;
};

// What the file stands for, as its handler says.
unsigned long id_of(const HandlerRef &handler, file *file);

} // namespace luo
