// SPDX-License-Identifier: GPL-2.0
// How luctl shows things to people.
#pragma once

#include <chrono>
#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

namespace luctl {

// "0 B", "1.5 GiB"
std::string bytes(std::uint64_t count);
// Of nanoseconds: "850 ns", "1.2 ms", "2.31 s", "60 min"
std::string duration(std::uint64_t ns);
// What somebody else wrote, without what would move the cursor.
std::string clean(std::string_view text);
std::string count(std::uint64_t number, const char *one, const char *many);

// Columns as wide as what is in them; the last one is not padded.
class Table {
    public:
	explicit Table(std::vector<std::string> heads);
	// right: columns of numbers
	Table &right(std::size_t column);
	void add(std::vector<std::string> row);
	// width: fold the last column there; 0: nowhere
	void print(std::ostream &to, std::size_t width = 0) const;

    private:
	std::vector<std::vector<std::string>> rows_;
	std::vector<bool> right_;
};

// One line that grows on a terminal, or else some lines at most once a second.
class Bar {
    public:
	Bar(std::ostream &to, bool terminal, unsigned int width, std::string what);
	~Bar();
	// total 0: not known, shows that something moves. remark comes after the figures.
	void show(std::uint64_t done, std::uint64_t total, const std::string &remark);

    private:
	std::ostream &to_;
	bool terminal_, shown_ = false;
	unsigned int width_, turn_ = 0;
	std::string what_;
	std::chrono::steady_clock::time_point last_{};
};

// What a bar looks like, at most that wide.
std::string draw_bar(const std::string &what, std::uint64_t done, std::uint64_t total,
		     const std::string &remark, unsigned int width, unsigned int turn);

} // namespace luctl
