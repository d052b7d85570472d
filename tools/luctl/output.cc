// SPDX-License-Identifier: GPL-2.0
#include "tools/luctl/output.hh"

#include <algorithm>
#include <cstdio>
#include <numeric>

namespace luctl {

namespace {

std::string print(const char *format, double value, const char *unit)
{
	char text[48];
	std::snprintf(text, sizeof(text), format, value, unit);
	return text;
}

// Columns of a terminal: of UTF-8, what is not a continuation.
std::size_t columns(std::string_view text)
{
	return static_cast<std::size_t>(
		std::ranges::count_if(text, [](unsigned char c) { return (c & 0xc0) != 0x80; }));
}

std::string repeat(const char *what, std::size_t times)
{
	std::string text;
	while (times--)
		text += what;
	return text;
}

} // namespace

std::string bytes(std::uint64_t number)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	if (number < 1024)
		return std::to_string(number) + " B";
	double value = static_cast<double>(number) / 1024;
	std::size_t unit = 0;
	while (value >= 1023.95 && unit + 1 < std::size(units)) {
		value /= 1024;
		++unit;
	}
	return print("%.1f %s", value, units[unit]);
}

std::string duration(std::uint64_t ns)
{
	if (ns < 1000)
		return std::to_string(ns) + " ns";
	auto value = static_cast<double>(ns);
	if (ns < 1'000'000)
		return print("%.1f %s", value / 1e3, "us");
	if (ns < 1'000'000'000)
		return print("%.1f %s", value / 1e6, "ms");
	if (ns < 120'000'000'000)
		return print("%.2f %s", value / 1e9, "s");
	if (ns < 7200'000'000'000)
		return print("%.0f %s", value / 60e9, "min");
	return print("%.1f %s", value / 3600e9, "h");
}

std::string clean(std::string_view text)
{
	std::string safe(text);
	for (char &c : safe) {
		if (static_cast<unsigned char>(c) < ' ' || c == 0x7f)
			c = '?';
	}
	return safe;
}

std::string count(std::uint64_t number, const char *one, const char *many)
{
	return std::to_string(number) + " " + (number == 1 ? one : many);
}

Table::Table(std::vector<std::string> heads) : right_(heads.size())
{
	rows_.push_back(std::move(heads));
}

Table &Table::right(std::size_t column)
{
	right_[column] = true;
	return *this;
}

void Table::add(std::vector<std::string> row)
{
	rows_.push_back(std::move(row));
}

namespace {

// At spaces, where there are some; what comes next is indented as far.
std::string fold(const std::string &line, std::size_t indent, std::size_t width)
{
	std::string folded, rest = line;
	std::size_t before = 0;
	while (columns(rest) + before > width) {
		auto at = rest.rfind(' ', width - before);
		if (at == rest.npos || at + before <= indent)
			break;
		folded += rest.substr(0, at) + "\n" + std::string(indent, ' ');
		rest.erase(0, at + 1);
		before = indent;
	}
	return folded + rest;
}

} // namespace

void Table::print(std::ostream &to, std::size_t width) const
{
	std::vector<std::size_t> widths(right_.size());
	for (const auto &row : rows_) {
		for (std::size_t i = 0; i < row.size(); ++i)
			widths[i] = std::max(widths[i], columns(row[i]));
	}
	for (const auto &row : rows_) {
		std::string line;
		for (std::size_t i = 0; i < row.size(); ++i) {
			std::string pad(widths[i] - columns(row[i]), ' ');
			line += (i ? "  " : "") + (right_[i] ? pad + row[i] : row[i] + pad);
		}
		line.erase(line.find_last_not_of(' ') + 1);
		std::size_t last =
			std::accumulate(widths.begin(), widths.end() - 1, 2 * (widths.size() - 1));
		to << (width ? fold(line, last, width) : line) << "\n";
	}
}

std::string draw_bar(const std::string &what, std::uint64_t done, std::uint64_t total,
		     const std::string &remark, unsigned int width, unsigned int turn)
{
	std::string tail = remark.empty() ? "" : "  " + remark;
	done = std::min(done, total ? total : done);
	if (total) {
		char percent[8];
		std::snprintf(percent, sizeof(percent), " %3u%%",
			      static_cast<unsigned int>(static_cast<double>(done) * 100 /
							static_cast<double>(total)));
		tail = percent + tail;
	}
	std::size_t taken = columns(what) + 3 + columns(tail);
	std::size_t room = width > taken + 8 ? std::min<std::size_t>(width - taken - 1, 40) : 8;
	std::string bar;
	if (total) {
		auto full = static_cast<std::size_t>(static_cast<double>(done) /
						     static_cast<double>(total) *
						     static_cast<double>(room));
		bar = repeat("█", full) + repeat("░", room - full);
	} else {
		std::size_t at = turn % (room - 2);
		bar = repeat("░", at) + "███" + repeat("░", room - 3 - std::min(at, room - 3));
	}
	std::string line = what + " " + bar + " " + tail;
	// What does not fit would break the line, and then each step would print a new one.
	while (columns(line) >= width) {
		do
			line.pop_back();
		while (!line.empty() && (static_cast<unsigned char>(line.back()) & 0xc0) == 0x80);
	}
	return line;
}

Bar::Bar(std::ostream &to, bool terminal, unsigned int width, std::string what)
	: to_(to), terminal_(terminal), width_(width), what_(std::move(what))
{
}

Bar::~Bar()
{
	if (terminal_ && shown_)
		to_ << "\r\x1b[K" << std::flush;
}

void Bar::show(std::uint64_t done, std::uint64_t total, const std::string &remark)
{
	auto now = std::chrono::steady_clock::now();
	auto least = terminal_ ? std::chrono::milliseconds(50) : std::chrono::milliseconds(1000);
	if (shown_ && now - last_ < least)
		return;
	shown_ = true;
	last_ = now;
	if (terminal_) {
		to_ << "\r\x1b[K" << draw_bar(what_, done, total, remark, width_, turn_++)
		    << std::flush;
		return;
	}
	to_ << what_;
	if (total)
		to_ << ": " << done * 100 / total << "%";
	to_ << (remark.empty() ? "" : ": ") << remark << std::endl;
}

} // namespace luctl
