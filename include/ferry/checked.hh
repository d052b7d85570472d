// SPDX-License-Identifier: GPL-2.0
// Arithmetic on numbers that somebody else chose.
#pragma once

#include <ferry/result.hh>

namespace ferry {

template <class T> constexpr Result<T> add(T a, T b)
{
	T sum;
	if (__builtin_add_overflow(a, b, &sum))
		return fail(Errno::Overflow);
	return sum;
}

template <class T> constexpr Result<T> mul(T a, T b)
{
	T product;
	if (__builtin_mul_overflow(a, b, &product))
		return fail(Errno::Overflow);
	return product;
}

} // namespace ferry
