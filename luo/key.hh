// SPDX-License-Identifier: GPL-2.0
// Keys: what of them is kept, and whether one fits.
#pragma once

#include <ferry/luo.h>
#include <ferry/result.hh>

#include "luo/linux.h"

namespace luo {

// LINUX_KEY_SIZE bytes of the caller's; null: none.
using Key = const unsigned char *;

inline ferry_luo_lock make_lock(Key key)
{
	ferry_luo_lock lock{};
	static_assert(sizeof(lock.salt) == LINUX_SALT_SIZE);
	static_assert(sizeof(lock.hash) == LINUX_KEY_SIZE);
	if (!key)
		return lock;
	lock.keyed = 1;
	linux_random(lock.salt, sizeof(lock.salt));
	linux_key_hash(key, lock.salt, lock.hash);
	return lock;
}

inline bool opens(const ferry_luo_lock &lock, Key key)
{
	if (!lock.keyed)
		return true;
	unsigned char hash[LINUX_KEY_SIZE] = {};
	if (key)
		linux_key_hash(key, lock.salt, hash);
	const bool fits = key && !linux_differ(hash, lock.hash, sizeof(hash));
	linux_wipe(hash, sizeof(hash));
	return fits;
}

} // namespace luo
