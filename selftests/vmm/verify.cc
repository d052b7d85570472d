// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/verify.hh"

#include <algorithm>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <istream>
#include <map>
#include <optional>
#include <string>

#include "selftests/vmm/guest/report.hh"

namespace vmm {

namespace {

using std::int64_t;
using std::uint64_t;

// What passes as an effect of a slow machine: a worker with nothing new in so many of
// its lines, ticks of 10 ms, and us between the reading of two clocks.
constexpr unsigned int idle_lines = 20;
constexpr uint64_t ticks_late = 50, clock_slack_us = 20'000;
// By how many us the guest's CLOCK_REALTIME may have moved against that of the host:
// it is read before it is printed, and the host's when that begins to come; the best of
// some lines counts.
constexpr int64_t real_slack_us = 100'000;

// The fields of a line "seq ...".
struct Seq {
	uint64_t number, count, sum, late, ticks, due, gap, tsc_gap, files, chain;
	unsigned int cpu;
	std::string_view chained; // the text that the chain covers
};

std::optional<Seq> parse(const std::string &line)
{
	Seq seq{};
	int end = 0;
	int fields = std::sscanf(line.c_str(),
				 "seq %" SCNu64 " cpu=%u n=%" SCNu64 " sum=%" SCNx64
				 " late=%" SCNu64 " ticks=%" SCNu64 "/%" SCNu64 " gap=%" SCNu64
				 " tgap=%" SCNu64 " files=%" SCNu64 "%n chain=%" SCNx64,
				 &seq.number, &seq.cpu, &seq.count, &seq.sum, &seq.late, &seq.ticks,
				 &seq.due, &seq.gap, &seq.tsc_gap, &seq.files, &end, &seq.chain);
	if (fields != 11)
		return std::nullopt;
	seq.chained = std::string_view(line).substr(0, static_cast<std::size_t>(end));
	return seq;
}

class Check {
    public:
	void line(std::string text);
	bool report();

    private:
	__attribute__((format(printf, 2, 3))) void complain(const char *format, ...);
	void seq(const std::string &text);
	void order(const Seq &seq);
	void computation(const Seq &seq);
	void clocks(const Seq &seq);
	void real_time(const std::string &text);
	void end_of_host();

	struct Worker {
		uint64_t count; // how far it is
		unsigned int idle; // so many lines say the same
	};
	std::map<unsigned int, Worker> workers_;
	std::optional<uint64_t> first_, last_;
	uint64_t chain_ = 0, lines_ = 0, complaints_ = 0;
	int64_t guest_real_ = 0; // of the last line "clock ...", in us
	std::optional<int64_t> behind_; // the host's, at the best since the last update
	std::optional<int64_t> behind_at_first_; // on the first host
	int64_t moved_ = 0; // at the most since then
	uint64_t late_ = 0, gap_ = 0, tsc_gap_ = 0, files_ = 0, last_ticks_ = 0, last_due_ = 0;
};

void Check::complain(const char *format, ...)
{
	// Of thousands, the first ones tell as much.
	if (++complaints_ > 20)
		return;
	va_list args;
	va_start(args, format);
	std::vprintf(format, args);
	va_end(args);
	std::putchar('\n');
}

// The guest's wall clock, and then the host's, which the VMM adds.
void Check::real_time(const std::string &text)
{
	if (auto at = text.find("clock mono="); at != std::string::npos) {
		if (std::sscanf(text.c_str() + at, "clock mono=%*u real=%" SCNd64, &guest_real_) !=
		    1)
			guest_real_ = 0;
		return;
	}
	auto at = text.find("host real=");
	int64_t host;
	if (!guest_real_ || at == std::string::npos ||
	    std::sscanf(text.c_str() + at, "host real=%" SCNd64, &host) != 1)
		return;
	auto behind = host - guest_real_;
	if (!behind_ || std::abs(behind) < std::abs(*behind_))
		behind_ = behind;
}

// The guest goes to another host, or ends. It may have been behind all the time: a
// kernel that boots loses some ticks.
void Check::end_of_host()
{
	if (!behind_)
		return;
	if (!behind_at_first_)
		behind_at_first_ = behind_;
	const auto moved = *behind_ - *behind_at_first_;
	// Where an update takes long, so does a line.
	if (std::abs(moved) > real_slack_us + static_cast<int64_t>(gap_ / 100))
		complain("verify: up to line %" PRIu64 " the guest's time of day is %" PRId64
			 " us behind the host's, and was %" PRId64,
			 last_.value_or(0), *behind_, *behind_at_first_);
	if (std::abs(moved) > std::abs(moved_))
		moved_ = moved;
	behind_.reset();
}

// A line of the workload, if it is one; its checksum is cut off.
void Check::line(std::string text)
{
	while (!text.empty() && (text.back() == '\r' || text.back() == ' '))
		text.pop_back();
	if (text.find("the guest stood still for") != std::string::npos)
		end_of_host();
	real_time(text);
	auto begin = std::min({text.find("seq "), text.find("complaint: "), text.find("error: ")});
	auto sum = text.rfind(" #");
	if (begin == std::string::npos || sum == std::string::npos || sum < begin)
		return;
	auto said = std::strtoul(text.c_str() + sum + 2, nullptr, 16);
	text = text.substr(begin, sum - begin);
	if (report::line_sum(text) != said)
		complain("verify: a damaged line: %s", text.c_str());
	else if (text.starts_with("seq "))
		seq(text);
	else
		complain("verify: the guest says: %s", text.c_str());
}

void Check::seq(const std::string &text)
{
	auto seq = parse(text);
	if (!seq)
		return complain("verify: not a line of this workload: %s", text.c_str());
	++lines_;
	order(*seq);
	computation(*seq);
	clocks(*seq);
	late_ = std::max(late_, seq->late);
	gap_ = std::max(gap_, seq->gap);
	tsc_gap_ = std::max(tsc_gap_, seq->tsc_gap);
	files_ = seq->files;
	last_ticks_ = seq->ticks;
	last_due_ = seq->due;
}

// Both clocks saw the same gap: no time was lost, none was made up.
void Check::clocks(const Seq &seq)
{
	auto apart = seq.gap > seq.tsc_gap ? seq.gap - seq.tsc_gap : seq.tsc_gap - seq.gap;
	if (apart > clock_slack_us + seq.gap / 100)
		complain("verify: line %" PRIu64 ": a gap of %" PRIu64 " us, but %" PRIu64
			 " us by the TSC",
			 seq.number, seq.gap, seq.tsc_gap);
}

// Each number once, in order, and the chain goes on. A console may begin late.
void Check::order(const Seq &seq)
{
	if (last_ && seq.number != *last_ + 1)
		complain("verify: after line %" PRIu64 " comes line %" PRIu64, *last_, seq.number);
	bool whole = last_ || seq.number == 0;
	if (whole && report::hash(seq.chained, chain_) != seq.chain)
		complain("verify: line %" PRIu64 " does not continue the chain", seq.number);
	if (!first_)
		first_ = seq.number;
	last_ = seq.number;
	chain_ = seq.chain;
}

// The same computation, made here.
void Check::computation(const Seq &seq)
{
	auto &worker = workers_[seq.cpu];
	if (seq.count < worker.count)
		complain("verify: line %" PRIu64 ": worker %u went back", seq.number, seq.cpu);
	worker.idle = seq.count == worker.count ? worker.idle + 1 : 0;
	if (worker.idle == idle_lines)
		complain("verify: line %" PRIu64 ": worker %u stands still", seq.number, seq.cpu);
	worker.count = seq.count;
	auto first = report::first_state(seq.cpu);
	if (report::state_after(first, seq.count * report::steps_per_round) != seq.sum)
		complain("verify: line %" PRIu64 ": worker %u has computed something else",
			 seq.number, seq.cpu);
}

bool Check::report()
{
	end_of_host();
	if (lines_ && !behind_at_first_)
		complain("verify: the clocks of guest and host are never told");
	if (!lines_)
		complain("verify: no line of the workload");
	if (last_due_ > last_ticks_ + ticks_late)
		complain("verify: the timer ticked %" PRIu64 " times of %" PRIu64, last_ticks_,
			 last_due_);
	std::printf("verify: %s: lines %" PRIu64 "-%" PRIu64 ", %zu workers, longest gap %.1f ms "
		    "(by the TSC %.1f ms), time of day off by %.1f ms, latest timer %.1f ms, "
		    "%" PRIu64 " files, %" PRIu64 " complaints\n",
		    complaints_ ? "FAILED" : "passed", first_.value_or(0), last_.value_or(0),
		    workers_.size(), double(gap_) / 1000, double(tsc_gap_) / 1000,
		    double(moved_) / 1000, double(late_) / 1000, files_, complaints_);
	return !complaints_;
}

} // namespace

bool verify(std::istream &console)
{
	Check check;
	for (std::string line; std::getline(console, line);)
		check.line(std::move(line));
	return check.report();
}

} // namespace vmm
