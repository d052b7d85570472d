// SPDX-License-Identifier: GPL-2.0
// A reference to a struct file. For modules whose linux.h has these functions.
#pragma once

#include <utility>

extern "C" {
struct file;
void(linux_file_get)(struct file *file);
void(linux_file_put)(struct file *file);
}

namespace ferry {

class FileRef {
    public:
	FileRef() = default;
	// Takes over a reference.
	explicit FileRef(file *taken) : file_{taken}
	{
	}
	static FileRef share(file *held)
	{
		linux_file_get(held);
		return FileRef{held};
	}
	FileRef(FileRef &&other) noexcept : file_{other.release()}
	{
	}
	FileRef &operator=(FileRef &&other) noexcept
	{
		std::swap(file_, other.file_);
		return *this;
	}
	~FileRef()
	{
		if (file_)
			linux_file_put(file_);
	}

	[[nodiscard]] file *release()
	{
		return std::exchange(file_, nullptr);
	}
	file *get() const
	{
		return file_;
	}
	explicit operator bool() const
	{
		return file_ != nullptr;
	}

    private:
	file *file_ = nullptr;
};

} // namespace ferry
