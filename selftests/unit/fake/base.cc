// SPDX-License-Identifier: GPL-2.0
// include/ferry/kernel.h on the host, with what a kernel with all of its
// debugging options would notice: leaks, locks in the wrong order, and so on.
#include "fake.hh"

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <pthread.h>
#include <set>
#include <string_view>
#include <utility>

namespace fake {
namespace {

std::mutex big_lock;

std::string vformat(const char *format, va_list args)
{
	va_list copy;
	va_copy(copy, args);
	int length = std::vsnprintf(nullptr, 0, format, copy);
	va_end(copy);
	std::string text(length, '\0');
	std::vsnprintf(text.data(), length + 1, format, args);
	return text;
}

void abort_with(const std::string &what)
{
	std::fprintf(stderr, "BUG: %s\n", what.c_str());
	std::abort();
}

void (*report_bug)(const std::string &) = abort_with;

} // namespace

void bug(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	std::string what = vformat(format, args);
	va_end(args);
	report_bug(what);
}

void on_bug(void (*report)(const std::string &))
{
	report_bug = report;
}

// ---- failures on demand ----

namespace {
unsigned long nr_calls;
unsigned long fail_at;
bool fail_lasts;
const char *failed;
} // namespace

bool inject(const char *what)
{
	std::lock_guard guard{big_lock};
	++nr_calls;
	if (!fail_at || nr_calls < fail_at || (nr_calls > fail_at && !fail_lasts))
		return false;
	if (!failed)
		failed = what;
	return true;
}

void arm(unsigned long nth, bool lasting)
{
	std::lock_guard guard{big_lock};
	nr_calls = 0;
	fail_at = nth;
	fail_lasts = lasting;
	failed = nullptr;
}

const char *disarm()
{
	std::lock_guard guard{big_lock};
	fail_at = 0;
	return std::exchange(failed, nullptr);
}

unsigned long calls()
{
	return nr_calls;
}

// ---- counters ----

namespace {

struct Allocation {
	ferry_size bytes;
	unsigned long number;
};

std::map<const void *, Allocation> allocated;
unsigned long nr_allocated;

std::vector<std::pair<const char *, std::function<long()>>> &all_counters()
{
	static std::vector<std::pair<const char *, std::function<long()>>> counters{
		{"allocations", [] { return long(allocated.size()); }},
		{"locks held", [] { return long(locks_held()); }},
	};
	return counters;
}

} // namespace

void add_counter(const char *name, std::function<long()> value)
{
	all_counters().emplace_back(name, std::move(value));
}

namespace {
std::vector<std::function<void()>> &all_resets()
{
	static std::vector<std::function<void()>> resets;
	return resets;
}
} // namespace

void add_reset(std::function<void()> reset)
{
	all_resets().push_back(std::move(reset));
}

void reset()
{
	disarm();
	clear_log();
	clock = {};
	for (auto &one : all_resets())
		one();
}

Counters counters()
{
	Counters values;
	for (auto &[name, value] : all_counters())
		values[name] = value();
	return values;
}

std::string allocations()
{
	std::string text;
	for (auto &[at, allocation] : allocated) {
		text += "  allocation " + std::to_string(allocation.number) + ": " +
			std::to_string(allocation.bytes) + " bytes\n";
	}
	return text;
}

// ---- messages ----

namespace {
std::vector<Line> lines;
}

const std::vector<Line> &log()
{
	return lines;
}

void clear_log()
{
	lines.clear();
}

bool logged(ferry_level level, const std::string &text)
{
	return std::any_of(lines.begin(), lines.end(), [&](const Line &line) {
		return line.level == level && line.text.find(text) != std::string::npos;
	});
}

std::string log_text()
{
	std::string text;
	for (const Line &line : lines)
		text += "<" + std::to_string(line.level) + ">" + line.module + ": " + line.text +
			"\n";
	return text;
}

Clock clock;

// ---- locks ----

namespace {

enum class Kind { mutex, rwsem };

constexpr unsigned int lock_magic = 0x4c4f434b;

struct Lock {
	unsigned int magic;
	Kind kind;
	const char *name;
	const lock_class_key *key;
	union {
		pthread_mutex_t mutex;
		pthread_rwlock_t rwsem;
	};
};
static_assert(sizeof(Lock) <= FERRY_SIZEOF_mutex && alignof(Lock) <= FERRY_ALIGNOF_mutex);
static_assert(sizeof(Lock) <= FERRY_SIZEOF_rw_semaphore &&
	      alignof(Lock) <= FERRY_ALIGNOF_rw_semaphore);

struct Held {
	Lock *lock;
	bool shared;
};

thread_local std::vector<Held> held;

// Which class of locks was taken while which other one was held.
std::map<const lock_class_key *, std::set<const lock_class_key *>> taken_after;
std::map<const lock_class_key *, std::string> class_names;

bool leads_to(const lock_class_key *from, const lock_class_key *to)
{
	std::set<const lock_class_key *> seen{from};
	std::vector<const lock_class_key *> next{from};
	while (!next.empty()) {
		auto at = next.back();
		next.pop_back();
		if (at == to)
			return true;
		for (auto after : taken_after[at]) {
			if (seen.insert(after).second)
				next.push_back(after);
		}
	}
	return false;
}

Lock *as_lock(void *storage, Kind kind)
{
	auto lock = static_cast<Lock *>(storage);
	if (lock->magic != lock_magic || lock->kind != kind)
		abort_with("a lock is used that was not initialised");
	return lock;
}

void lock_init(void *storage, Kind kind, const char *name, const lock_class_key *key)
{
	auto lock = static_cast<Lock *>(storage);
	lock->magic = lock_magic;
	lock->kind = kind;
	lock->name = name;
	lock->key = key;
	if (kind == Kind::mutex)
		pthread_mutex_init(&lock->mutex, nullptr);
	else
		pthread_rwlock_init(&lock->rwsem, nullptr);
	std::lock_guard guard{big_lock};
	class_names[key] = name;
}

void lock_take(Lock *lock, bool shared)
{
	{
		std::lock_guard guard{big_lock};
		for (const Held &other : held) {
			if (other.lock->key == lock->key)
				abort_with(std::string("recursive locking of ") + lock->name);
			if (leads_to(lock->key, other.lock->key))
				abort_with(std::string("circular locking: ") + lock->name +
					   " after " + other.lock->name);
			taken_after[other.lock->key].insert(lock->key);
		}
	}
	if (lock->kind == Kind::mutex)
		pthread_mutex_lock(&lock->mutex);
	else if (shared)
		pthread_rwlock_rdlock(&lock->rwsem);
	else
		pthread_rwlock_wrlock(&lock->rwsem);
	held.push_back({lock, shared});
}

void lock_release(Lock *lock, bool shared)
{
	auto at = std::find_if(held.begin(), held.end(), [&](const Held &one) {
		return one.lock == lock && one.shared == shared;
	});
	if (at == held.end())
		abort_with(std::string("unlock of ") + lock->name + ", which is not held");
	held.erase(at);
	if (lock->kind == Kind::mutex)
		pthread_mutex_unlock(&lock->mutex);
	else
		pthread_rwlock_unlock(&lock->rwsem);
}

} // namespace

unsigned int locks_held()
{
	return held.size();
}

} // namespace fake

using namespace fake;

extern "C" {

// ---- memory ----

void *ferry_alloc(ferry_size bytes)
{
	// The kernel's own limit, so that the host does not try either.
	if (inject("ferry_alloc") || bytes > (1ul << 31))
		return nullptr;
	void *memory = std::calloc(1, bytes);
	if (!memory)
		return nullptr;
	std::lock_guard guard{big_lock};
	allocated[memory] = {bytes, ++nr_allocated};
	return memory;
}

void ferry_free(const void *memory)
{
	if (!memory)
		return;
	{
		std::lock_guard guard{big_lock};
		auto at = allocated.find(memory);
		if (at == allocated.end())
			abort_with("ferry_free() of what is not allocated");
		auto begin = static_cast<const char *>(memory);
		for (const Held &one : held) {
			auto lock = reinterpret_cast<const char *>(one.lock);
			if (lock >= begin && lock < begin + at->second.bytes)
				abort_with(std::string("freed while its lock is held: ") +
					   one.lock->name);
		}
		allocated.erase(at);
	}
	std::free(const_cast<void *>(memory));
}

unsigned int ferry_crc32c(unsigned int crc, const void *data, ferry_size bytes)
{
	// Castagnoli's polynomial, bits reversed.
	static const auto table = [] {
		std::array<unsigned int, 256> table{};
		for (unsigned int i = 0; i < table.size(); ++i) {
			unsigned int entry = i;
			for (int bit = 0; bit < 8; ++bit)
				entry = entry >> 1 ^ (entry & 1 ? 0x82f63b78u : 0);
			table[i] = entry;
		}
		return table;
	}();

	auto at = static_cast<const unsigned char *>(data);
	while (bytes--)
		crc = crc >> 8 ^ table[(crc ^ *at++) & 0xff];
	return crc;
}

// ---- locks ----

void ferry_mutex_init(struct mutex *lock, const char *name, struct lock_class_key *key)
{
	lock_init(lock, Kind::mutex, name, key);
}

void ferry_mutex_lock(struct mutex *lock)
{
	lock_take(as_lock(lock, Kind::mutex), false);
}

void ferry_mutex_unlock(struct mutex *lock)
{
	lock_release(as_lock(lock, Kind::mutex), false);
}

void ferry_rwsem_init(struct rw_semaphore *lock, const char *name, struct lock_class_key *key)
{
	lock_init(lock, Kind::rwsem, name, key);
}

void ferry_rwsem_read_lock(struct rw_semaphore *lock)
{
	lock_take(as_lock(lock, Kind::rwsem), true);
}

void ferry_rwsem_read_unlock(struct rw_semaphore *lock)
{
	lock_release(as_lock(lock, Kind::rwsem), true);
}

void ferry_rwsem_write_lock(struct rw_semaphore *lock)
{
	lock_take(as_lock(lock, Kind::rwsem), false);
}

void ferry_rwsem_write_unlock(struct rw_semaphore *lock)
{
	lock_release(as_lock(lock, Kind::rwsem), false);
}

// ---- modules ----

bool ferry_module_get(struct module *module)
{
	if (!module)
		return true;
	if (module->going)
		return false;
	++module->refs;
	return true;
}

void ferry_module_put(struct module *module)
{
	if (module && --module->refs < 0)
		bug("module %s is put more often than it was taken", module->name);
}

// ---- time ----

unsigned long long ferry_now(void)
{
	return fake::clock.now += fake::clock.step;
}

unsigned long long ferry_tsc(void)
{
	return fake::clock.tsc += fake::clock.step;
}

unsigned int ferry_tsc_khz(void)
{
	return fake::clock.tsc_khz;
}

// ---- messages ----

void ferry_log(enum ferry_level level, const char *module, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	std::string text = vformat(format, args);
	va_end(args);
	if (std::string_view(format).find('\n') != std::string_view::npos)
		bug("a message with a newline: %s", format);
	// Names come from users and from the last kernel.
	for (char &letter : text) {
		if (letter < ' ' || letter > '~')
			letter = '?';
	}
	std::lock_guard guard{big_lock};
	if (lines.size() < 100'000)
		lines.push_back({level, module, text});
}

int ferry_format(char *buffer, ferry_size size, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int length = std::vsnprintf(buffer, size, format, args);
	va_end(args);
	if (!size)
		return 0;
	return ferry_size(length) < size ? length : int(size - 1);
}

void ferry_seq_printf(struct seq_file *file, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	file->text += vformat(format, args);
	va_end(args);
}

} // extern "C"
