// SPDX-License-Identifier: GPL-2.0
// The files that luo holds, by what they stand for: none is held twice.
#pragma once

#include <ferry/list.hh>
#include <ferry/lock.hh>
#include <ferry/result.hh>

#include <array>

namespace luo {

// What is held; a file derives from it.
struct Held : ferry::Linked<Held> {
	unsigned long id = 0;
};

class HeldFiles {
    public:
	// Errno::Busy when something of this id is held already.
	ferry::Result<void> insert(Held &file, unsigned long id)
	{
		auto buckets = buckets_.lock();
		Bucket &bucket = (*buckets)[hash(id)];
		for (const Held &other : bucket) {
			if (other.id == id)
				return ferry::fail(ferry::Errno::Busy);
		}
		file.id = id;
		bucket.push_back(file);
		return {};
	}
	// Does nothing when the file is not held.
	void remove(Held &file)
	{
		auto buckets = buckets_.lock();
		if (file.linked())
			Bucket::remove(file);
	}

    private:
	using Bucket = ferry::List<Held>;
	static constexpr unsigned int nr_buckets = 256;

	static unsigned int hash(unsigned long id)
	{
		// Ids are addresses of objects: their low bits are all alike.
		return static_cast<unsigned int>(id * 0x9e3779b97f4a7c15ull >> 56) % nr_buckets;
	}

	// A leaf.
	ferry::Locked<std::array<Bucket, nr_buckets>, "luo.held"> buckets_;
};

} // namespace luo
