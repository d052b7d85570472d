// SPDX-License-Identifier: GPL-2.0
// Bytes of any length, in preserved pages that a list of runs describes.
#pragma once

#include <ferry/kho.h>
#include <ferry/own.hh>

#include "runs.hh"

struct ferry_blob {
	static ferry::Result<ferry::Owned<ferry_blob>> create(ferry_owner &owner, const void *data,
							      std::size_t size);

	explicit ferry_blob(ferry_owner &owner) : owner_{owner}, runs_{owner}
	{
	}
	~ferry_blob();
	ferry_blob(const ferry_blob &) = delete;
	ferry_blob &operator=(const ferry_blob &) = delete;

	const ferry_bulk &ref() const
	{
		return ref_;
	}

    private:
	ferry::Result<void> add_page(const void *data, std::size_t size, std::size_t index);

	ferry_owner &owner_;
	ferry_runs runs_;
	ferry_bulk ref_{};
	void **pages_ = nullptr;
	std::size_t nr_pages_ = 0;
};

namespace kho {

// The bytes of a blob, to be freed with ferry_free(). Out of memory leaves the
// blob as it is, so that it can be tried again.
ferry::Result<void *> load_blob(const ferry_bulk &ref, const char *what, std::size_t max);

} // namespace kho
