// SPDX-License-Identifier: GPL-2.0
// Result<T>: a value, or the errno for which there is none.
//
// Errors leave a function by TRY. Only the functions that C calls turn them
// into negative errnos, with to_errno(); errors of C come in with check().
#pragma once

#include <expected>
#include <type_traits>
#include <utility>

namespace ferry {

// The kernel's errnos, as positive numbers. A handler of another module may
// return any errno, so a value need not be one of those named here.
enum class Errno : int {
	Perm = 1,
	NoEnt = 2,
	Intr = 4,
	Io = 5,
	TooBig = 7,
	BadF = 9,
	Again = 11,
	NoMem = 12,
	Acces = 13,
	Fault = 14,
	Busy = 16,
	Exist = 17,
	NoDev = 19,
	Inval = 22,
	NotTty = 25,
	FBig = 27,
	NoSpc = 28,
	Range = 34,
	Loop = 40,
	BadMsg = 74,
	Overflow = 75,
	OpNotSupp = 95,
	ProtoNoSupport = 93,
	Already = 114,
};

template <class T> struct [[nodiscard]] Result : std::expected<T, Errno> {
	using std::expected<T, Errno>::expected;
};

inline constexpr std::unexpected<Errno> fail(Errno error)
{
	return std::unexpected(error);
}

// A negative errno of the kernel's becomes an error, anything else the value.
inline constexpr Result<int> check(int value)
{
	if (value < 0)
		return fail(Errno(-value));
	return value;
}

inline constexpr Result<void> check_status(int value)
{
	if (value < 0)
		return fail(Errno(-value));
	return {};
}

// The only way back to C: 0 or a negative errno.
template <class T> constexpr int to_errno(const Result<T> &result)
{
	return result.has_value() ? 0 : -int(result.error());
}

namespace detail {
template <class T> constexpr T take(Result<T> &result)
{
	if constexpr (!std::is_void_v<T>)
		return std::move(*result);
}
} // namespace detail

} // namespace ferry

// The value of a Result, or a return of its error from this function. The value
// is moved out; a Result has no references.
#define TRY(...)                                                                                   \
	({                                                                                         \
		auto try_result_ = (__VA_ARGS__);                                                  \
		if (!try_result_.has_value()) [[unlikely]]                                         \
			return ::ferry::fail(try_result_.error());                                 \
		::ferry::detail::take(try_result_);                                                \
	})
