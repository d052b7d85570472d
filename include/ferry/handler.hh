// SPDX-License-Identifier: GPL-2.0
// A handler's operations of the kernel that preserves, on a class.
#pragma once

#include <ferry/luo.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

namespace ferry {

// T is what `priv` of a file points to while it is preserved:
//
//	static Result<Owned<T>> preserve(const ferry_luo_args &, ferry_owner *);
//	~T();						ends the preservation
//	Result<void> freeze();				or freeze(ferry_luo_file *)
//	void unfreeze();
//	Result<void> save(ferry_writer *);
//
// `owner` is the module's, and there as long as the handler is registered.
template <class T, ferry_owner *&owner> struct Outgoing {
	static T *of(ferry_luo_args *args)
	{
		return static_cast<T *>(args->priv);
	}
	static int preserve(ferry_luo_args *args)
	{
		auto made = T::preserve(*args, owner);
		if (made.has_value())
			args->priv = made->release();
		return to_errno(made);
	}
	static void unpreserve(ferry_luo_args *args)
	{
		destroy(of(args));
	}
	static int freeze(ferry_luo_args *args)
	{
		if constexpr (requires { of(args)->freeze(args->self); })
			return to_errno(of(args)->freeze(args->self));
		else
			return to_errno(of(args)->freeze());
	}
	static void unfreeze(ferry_luo_args *args)
	{
		of(args)->unfreeze();
	}
	static int save(ferry_luo_args *args, ferry_writer *writer)
	{
		return to_errno(of(args)->save(writer));
	}
};

} // namespace ferry
