// SPDX-License-Identifier: GPL-2.0
// The same session over many updates: nothing may get lost, and nothing grow.

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <fstream>

#include "selftests/kexec/common.hh"

namespace {

constexpr char session_name[] = "soak";
constexpr unsigned max_updates = 128;
// What each kernel found.
enum Figure { memory_kib, metadata, runs, retrieve_us, figures };

struct Record {
	uint64_t updates;
	std::array<std::array<int64_t, figures>, max_updates> seen;
};

struct File {
	const char *name;
	uint64_t size;
	uint64_t stride; // one page of so many is written
	bool apart; // from its neighbours in memory
};

constexpr File files[] = {
	{"contiguous", 64 * MiB, 1, false},
	{"fragments", 16 * MiB, 1, true},
	{"sparse", 1024 * MiB, 100, false},
};

// Of the last update, in debugfs.
int64_t of_update(const std::string &key)
{
	std::ifstream text("/sys/kernel/debug/ferry/update");
	std::string name;
	int64_t value;
	while (text >> name >> value) {
		if (name == key)
			return value;
	}
	ktap::fail(__FILE__, __LINE__, ("no " + key + " of the last update").c_str());
	return -1;
}

Fd make(const File &file)
{
	auto memfd = make_memfd(file.size), other = make_memfd(file.size);
	for (uint64_t at = 0; at < file.size; at += file.stride * page) {
		fill(memfd, at, page, file.size);
		if (file.apart)
			fill(other, at, page, 1);
	}
	return memfd;
}

bool intact(const File &file, const Fd &memfd)
{
	if (uint64_t(status(memfd).st_size) != file.size)
		return false;
	for (uint64_t at = 0; at < file.size; at += file.stride * page) {
		if (!has(memfd, at, page, file.size))
			return false;
	}
	return true;
}

// Of some updates the median; of memory the least: a kernel takes 7 MiB more in one boot
// than in the other, once or twice, and what is lost is missing in each.
int64_t typical(const Record &record, Figure figure, unsigned first, unsigned end)
{
	std::vector<int64_t> values;
	for (unsigned i = first; i < end; ++i)
		values.push_back(record.seen[i][figure]);
	const size_t nth = figure == memory_kib ? 0 : values.size() / 2;
	std::ranges::nth_element(values, values.begin() + nth);
	return values[nth];
}

void check_growth(const Record &record)
{
	const unsigned some = std::max<unsigned>(record.updates / 5, 1);
	auto first = [&](Figure figure) { return typical(record, figure, 0, some); };
	auto last = [&](Figure figure) {
		return typical(record, figure, record.updates - some, record.updates);
	};
	ktap::print("# first and last %u of %u updates: memory used %lld and %lld KiB, metadata "
		    "%lld and "
		    "%lld bytes, runs %lld and %lld, retrieved in %lld and %lld us",
		    some, unsigned(record.updates), (long long)first(memory_kib),
		    (long long)last(memory_kib), (long long)first(metadata),
		    (long long)last(metadata), (long long)first(runs), (long long)last(runs),
		    (long long)first(retrieve_us), (long long)last(retrieve_us));
	// The rest of a kernel's own use differs by some hundred KiB from boot to boot.
	CHECK(last(memory_kib) < first(memory_kib) + 2048);
	CHECK(last(metadata) <= first(metadata));
	CHECK(last(runs) <= first(runs));
	// The machine is noisy; what grows by an update is more after so many.
	CHECK(last(retrieve_us) < 3 * first(retrieve_us));
}

// What the kernel has in use besides these files: MemTotal lacks what is not restored yet.
int64_t used_kib()
{
	return meminfo("MemTotal") - meminfo("MemAvailable");
}

void update(unsigned stage, unsigned last, Session &session, std::vector<Fd> &memfds)
{
	auto device = open_device();
	Record record{};
	if (stage > 1) {
		auto from = VALUE(device.retrieve(session_name));
		auto start = std::chrono::steady_clock::now();
		for (uint64_t token = 0; token < std::size(files); ++token)
			memfds.push_back(VALUE(from.retrieve(token + 1)));
		auto took = std::chrono::steady_clock::now() - start;
		auto notes = VALUE(from.retrieve(0));
		OK(from.finish());
		CHECK_EQ(::pread(notes.get(), &record, sizeof(record), 0), sizeof(record));
		CHECK_EQ(record.updates, stage - 2);
		record.seen[record.updates++] = {
			used_kib(), of_update("metadata"), of_update("runs"),
			std::chrono::duration_cast<std::chrono::microseconds>(took).count()};
		auto &seen = record.seen[record.updates - 1];
		ktap::print(
			"# update %u: memory used %lld of %ld KiB, metadata %lld bytes, runs %lld, "
			"retrieved in %lld us",
			unsigned(record.updates), (long long)seen[memory_kib], meminfo("MemTotal"),
			(long long)seen[metadata], (long long)seen[runs],
			(long long)seen[retrieve_us]);
		for (size_t i = 0; i < std::size(files); ++i) {
			if (!intact(files[i], memfds[i]))
				ktap::fail(__FILE__, __LINE__, files[i].name);
		}
	} else {
		for (const File &file : files)
			memfds.push_back(make(file));
	}
	if (stage == last) {
		check_growth(record);
		return;
	}
	auto notes = make_memfd();
	CHECK_EQ(::pwrite(notes.get(), &record, sizeof(record), 0), sizeof(record));
	session = VALUE(device.create(session_name));
	OK(session.preserve(notes.get(), 0));
	for (uint64_t token = 0; token < std::size(files); ++token)
		OK(session.preserve(memfds[token].get(), token + 1));
}

} // namespace

// Kernel `stage` of `last`. What it leaves for the next one is held by a child of it.
int soak_stage(unsigned stage, unsigned last)
{
	if (!stage || stage > last || last > max_updates) {
		std::fprintf(stderr, "ferry-tests: at most %u kernels\n", max_updates);
		return 2;
	}
	Session session;
	std::vector<Fd> memfds;
	ktap::begin(1);
	auto result = ktap::run_case(1, "soak/the same files over many updates",
				     [&] { update(stage, last, session, memfds); });
	if (result.failed || stage == last)
		return result.failed ? 1 : 0;
	if (!SYS(::fork())) {
		::setsid();
		for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
			::close(fd);
		for (;;)
			::pause();
	}
	return 0;
}
