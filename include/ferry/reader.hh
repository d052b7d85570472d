// SPDX-License-Identifier: GPL-2.0
// Reads bytes that somebody else wrote, and never beyond their end.
#pragma once

#include <ferry/result.hh>

#include <cstddef>
#include <span>

namespace ferry {

class Reader {
    public:
	explicit constexpr Reader(std::span<const unsigned char> bytes) : left_{bytes}
	{
	}
	Reader(const void *bytes, std::size_t size)
		: left_{static_cast<const unsigned char *>(bytes), size}
	{
	}

	constexpr std::size_t left() const
	{
		return left_.size();
	}

	// Errno::BadMsg, and nothing is taken, where there is not enough left.
	constexpr Result<std::span<const unsigned char>> take(std::size_t size)
	{
		if (size > left_.size())
			return fail(Errno::BadMsg);
		auto taken = left_.first(size);
		left_ = left_.subspan(size);
		return taken;
	}

	// A number as a device tree has it: big-endian.
	template <class T> constexpr Result<T> big()
	{
		T value = 0;
		for (unsigned char byte : TRY(take(sizeof(T))))
			value = static_cast<T>(value << 8 | byte);
		return value;
	}

    private:
	std::span<const unsigned char> left_;
};

} // namespace ferry
