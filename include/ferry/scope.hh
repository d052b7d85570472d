// SPDX-License-Identifier: GPL-2.0
// What has to be undone unless everything went well.
#pragma once

#include <utility>

namespace ferry {

// Calls `undo` at the end of the scope, unless dismissed.
template <class F> class [[nodiscard]] Undo {
    public:
	explicit Undo(F undo) : undo_{std::move(undo)}
	{
	}
	~Undo()
	{
		if (armed_)
			undo_();
	}
	Undo(const Undo &) = delete;
	Undo &operator=(const Undo &) = delete;

	void dismiss()
	{
		armed_ = false;
	}

    private:
	F undo_;
	bool armed_ = true;
};

} // namespace ferry
