// SPDX-License-Identifier: GPL-2.0
/*
 * The guest's /init: it keeps CPUs, timers, memory and a file system busy, and
 * reports on the console what it sees. Lines (see report.hh; times in us):
 *
 *	seq N cpu=I n=ROUNDS sum=X	worker I, of one for each CPU; they take turns
 *	      late= 			timer: the worst lateness of a tick since the last line
 *	      ticks=T/W			timer: ticks that came, of those that were due
 *	      gap= tgap=		the longest time in which nothing ran since the last
 *					line: by CLOCK_MONOTONIC, by the time-stamp counter
 *	      files=F			files verified
 *	clock mono= real= tsc=		each second
 *	complaint: ...			the kernel's log has something that it should not
 *	error: ...			a file has not what was written into it
 *
 * On the kernel's command line: workload.seconds=N ends it with power off;
 * workload.ms=N is the time between two lines (50).
 */
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <termios.h>
#include <unistd.h>
#include <x86intrin.h>

#include "selftests/vmm/guest/report.hh"

namespace {

using std::uint64_t;

uint64_t now_ns(clockid_t clock = CLOCK_MONOTONIC)
{
	timespec now{};
	::clock_gettime(clock, &now);
	return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

struct Instant {
	uint64_t ns, tsc;
};

// Both clocks at the same time. Who is held up between the two readings, as on a busy
// machine, would see a gap in only one of them; so the quickest of some tries counts.
Instant both_clocks()
{
	constexpr unsigned int tries = 8;
	constexpr uint64_t quick_ticks = 200'000;
	Instant best{};
	uint64_t quickest = ~0ull;
	for (unsigned int i = 0; i < tries && quickest > quick_ticks; ++i) {
		uint64_t before = __rdtsc(), ns = now_ns(), took = __rdtsc() - before;
		if (took < quickest) {
			best = {ns, before + took / 2};
			quickest = took;
		}
	}
	return best;
}

void sleep_us(unsigned int us)
{
	timespec time{us / 1'000'000, us % 1'000'000 * 1000};
	::nanosleep(&time, nullptr);
}

// A line with its checksum, in one write.
__attribute__((format(printf, 1, 2))) void print(const char *format, ...)
{
	char line[400];
	va_list args;
	va_start(args, format);
	int length = std::vsnprintf(line, sizeof(line) - 16, format, args);
	va_end(args);
	length = length < int(sizeof(line)) - 16 ? length : int(sizeof(line)) - 17;
	length += std::snprintf(line + length, 16, " #%08x\n",
				report::line_sum({line, std::size_t(length)}));
	[[maybe_unused]] auto written = ::write(STDOUT_FILENO, line, std::size_t(length));
}

// The highest value since it was last taken.
class Worst {
    public:
	void see(uint64_t value)
	{
		uint64_t old = value_;
		while (value > old && !value_.compare_exchange_weak(old, value))
			;
	}
	uint64_t take()
	{
		return value_.exchange(0);
	}

    private:
	std::atomic<uint64_t> value_ = 0;
};

// ---- computation: on each CPU, half of the time ----

struct Worker {
	std::mutex mutex; // count and state belong together
	uint64_t count = 0;
	uint64_t state = 0;
};

// The steps are counted in floating point beside it, whose registers are apart.
uint64_t do_round(uint64_t state)
{
	double steps = 0;
	for (unsigned int i = 0; i < report::steps_per_round; ++i) {
		state = report::next_state(state);
		steps += 0.5;
	}
	if (steps != report::steps_per_round * 0.5)
		print("error: floating point has counted %f", steps);
	return state;
}

void compute(Worker &worker, unsigned int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	::sched_setaffinity(0, sizeof(set), &set);
	for (;;) {
		uint64_t start = now_ns();
		for (; now_ns() - start < 5'000'000;) {
			uint64_t state = do_round(worker.state);
			std::lock_guard lock(worker.mutex);
			worker.state = state;
			++worker.count;
		}
		sleep_us(5000);
	}
}

// ---- timers ----

constexpr uint64_t tick_ns = 10'000'000;
Worst lateness_us;
std::atomic<uint64_t> ticks, ticks_due;

void watch_timer()
{
	int fd = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	uint64_t start = now_ns() + tick_ns, count;
	itimerspec when{{0, tick_ns}, {time_t(start / 1'000'000'000), long(start % 1'000'000'000)}};
	::timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, nullptr);
	while (::read(fd, &count, sizeof(count)) == sizeof(count)) {
		uint64_t now = now_ns();
		// How long ago the first of these ticks was due.
		lateness_us.see((now - (start + ticks * tick_ns)) / 1000);
		ticks += count;
		ticks_due = (now - start) / tick_ns + 1;
	}
}

// ---- gaps: somebody who looks at both clocks each millisecond ----

// The longest one since it was last taken, by each clock: both of the same moments.
class Gaps {
    public:
	void see(const Instant &from, const Instant &to)
	{
		std::lock_guard lock(mutex_);
		worst_.ns = std::max(worst_.ns, to.ns - from.ns);
		worst_.tsc = std::max(worst_.tsc, to.tsc - from.tsc);
	}
	Instant take()
	{
		std::lock_guard lock(mutex_);
		return std::exchange(worst_, {});
	}

    private:
	std::mutex mutex_;
	Instant worst_{};
};

Gaps gaps;

void watch_gaps()
{
	Instant last = both_clocks();
	for (;;) {
		sleep_us(1000);
		Instant is = both_clocks();
		gaps.see(last, is);
		last = is;
	}
}

// Ticks of the time-stamp counter in a millisecond, by this kernel's clock.
uint64_t measure_tsc_khz()
{
	Instant from = both_clocks();
	sleep_us(200'000);
	Instant to = both_clocks();
	return (to.tsc - from.tsc) * 1'000'000 / (to.ns - from.ns);
}

// ---- files ----

std::atomic<uint64_t> files_verified;

void pattern(std::vector<uint64_t> &words, uint64_t seed)
{
	for (std::size_t i = 0; i < words.size(); ++i)
		words[i] = (seed + i) * 0xbf58476d1ce4e5b9ull ^ seed << 32;
}

bool write_file(const std::string &path, const std::vector<uint64_t> &words)
{
	int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	auto bytes = ssize_t(words.size() * sizeof(words[0]));
	bool done = fd >= 0 && ::write(fd, words.data(), std::size_t(bytes)) == bytes;
	::close(fd);
	return done;
}

bool verify_file(const std::string &path, const std::vector<uint64_t> &want)
{
	std::vector<uint64_t> is(want.size());
	int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
	auto bytes = ssize_t(is.size() * sizeof(is[0]));
	bool same = fd >= 0 && ::read(fd, is.data(), std::size_t(bytes)) == bytes && is == want;
	::close(fd);
	return same;
}

// A ring of files of 64 to 120 KiB. The oldest one is read, removed, and made anew.
void churn_files()
{
	constexpr uint64_t ring = 64;
	auto size_of = [](uint64_t number) { return 8192 + number % 8 * 1024; };
	for (uint64_t number = 0;; ++number) {
		std::string path = "/work/" + std::to_string(number % ring);
		if (number >= ring) {
			std::vector<uint64_t> old(size_of(number - ring));
			pattern(old, number - ring);
			if (!verify_file(path, old))
				print("error: file %" PRIu64 " is not what was written",
				      number - ring);
			++files_verified;
			::unlink(path.c_str());
		}
		std::vector<uint64_t> words(size_of(number));
		pattern(words, number);
		if (!write_file(path, words))
			print("error: write file %" PRIu64 ": %s", number, std::strerror(errno));
		sleep_us(10'000);
	}
}

// ---- the kernel's log ----

// Not "hrtimer: interrupt took": that is how a slow machine looks from inside.
bool is_complaint(const char *text)
{
	static const char *const words[] = {"soft lockup",
					    "hard LOCKUP",
					    "blocked for more than",
					    "rcu_preempt detected",
					    "rcu_sched",
					    "self-detected",
					    "clocksource: timekeeping watchdog",
					    "Marking clocksource",
					    "as unstable",
					    "WARNING:",
					    "BUG:",
					    "Oops",
					    "general protection",
					    "Call Trace",
					    "lockup",
					    "unexpected NMI",
					    "stalls on",
					    "Time went backwards",
					    "spurious"};
	for (auto word : words)
		if (std::strstr(text, word))
			return true;
	return false;
}

void watch_log()
{
	int fd = ::open("/dev/kmsg", O_RDONLY | O_CLOEXEC);
	char record[1024];
	for (;;) {
		auto length = ::read(fd, record, sizeof(record) - 1);
		if (length < 0 && errno == EPIPE)
			continue; // some records were overwritten
		if (length <= 0)
			return;
		record[length] = '\0';
		char *text = std::strchr(record, ';');
		if (!text || !is_complaint(++text))
			continue;
		text[std::strcspn(text, "\n")] = '\0';
		print("complaint: %.200s", text);
	}
}

// ---- the report ----

uint64_t option(const char *name, uint64_t otherwise)
{
	char line[2048] = {};
	int fd = ::open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	[[maybe_unused]] auto length = ::read(fd, line, sizeof(line) - 1);
	::close(fd);
	const char *at = std::strstr(line, name);
	return at ? std::strtoull(at + std::strlen(name), nullptr, 10) : otherwise;
}

std::string clocksource()
{
	char name[64] = {};
	int fd = ::open("/sys/devices/system/clocksource/clocksource0/current_clocksource",
			O_RDONLY | O_CLOEXEC);
	[[maybe_unused]] auto length = ::read(fd, name, sizeof(name) - 1);
	::close(fd);
	name[std::strcspn(name, "\n")] = '\0';
	return name;
}

uint64_t print_seq(uint64_t number, uint64_t chain, Worker &worker, std::size_t cpu, uint64_t khz)
{
	char text[300];
	std::unique_lock lock(worker.mutex);
	uint64_t count = worker.count, state = worker.state;
	lock.unlock();
	const Instant gap = gaps.take();
	int length = std::snprintf(
		text, sizeof(text),
		"seq %" PRIu64 " cpu=%zu n=%" PRIu64 " sum=%016" PRIx64 " late=%" PRIu64
		" ticks=%" PRIu64 "/%" PRIu64 " gap=%" PRIu64 " tgap=%" PRIu64 " files=%" PRIu64,
		number, cpu, count, state, lateness_us.take(), ticks.load(), ticks_due.load(),
		gap.ns / 1000, gap.tsc * 1000 / khz, files_verified.load());
	chain = report::hash({text, std::size_t(length)}, chain);
	print("%s chain=%016" PRIx64, text, chain);
	return chain;
}

// Nothing that was printed before is on its way: the VMM looks at its own clock when this line
// comes.
void print_clock()
{
	::tcdrain(STDOUT_FILENO);
	Instant is = both_clocks();
	print("clock mono=%" PRIu64 " real=%" PRIu64 " tsc=%" PRIu64, is.ns / 1000,
	      now_ns(CLOCK_REALTIME) / 1000, is.tsc);
}

void report_all(std::vector<Worker> &workers, uint64_t khz)
{
	uint64_t end = option("workload.seconds=", 0) * 1'000'000'000, start = now_ns();
	auto pause_us = static_cast<unsigned int>(option("workload.ms=", 50) * 1000);
	uint64_t chain = 0, clock_due = 0;
	for (uint64_t number = 0; !end || now_ns() - start < end; ++number) {
		std::size_t cpu = number % workers.size();
		chain = print_seq(number, chain, workers[cpu], cpu, khz);
		if (now_ns() >= clock_due) {
			print_clock();
			clock_due = now_ns() + 1'000'000'000;
		}
		sleep_us(pause_us);
	}
}

void mount_all()
{
	for (auto [type, dir] : {std::pair{"proc", "/proc"},
				 {"sysfs", "/sys"},
				 {"devtmpfs", "/dev"},
				 {"tmpfs", "/work"}}) {
		::mkdir(dir, 0755);
		::mount(type, dir, type, 0, nullptr);
	}
}

} // namespace

int main()
{
	mount_all();
	uint64_t khz = measure_tsc_khz();
	std::vector<Worker> workers(static_cast<std::size_t>(::sysconf(_SC_NPROCESSORS_ONLN)));
	print("start cpus=%zu tsc_khz=%" PRIu64 " clocksource=%s up=%" PRIu64, workers.size(), khz,
	      clocksource().c_str(), now_ns() / 1000);
	for (unsigned int cpu = 0; cpu < workers.size(); ++cpu) {
		workers[cpu].state = report::first_state(cpu);
		std::thread(compute, std::ref(workers[cpu]), cpu).detach();
	}
	for (auto work : {watch_timer, watch_gaps, churn_files, watch_log})
		std::thread(work).detach();
	report_all(workers, khz);
	print("end");
	::sync();
	::sleep(1); // the console is not buffered by the machine, but by the kernel
	::reboot(RB_POWER_OFF);
}
