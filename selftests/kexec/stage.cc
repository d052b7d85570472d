// SPDX-License-Identifier: GPL-2.0
// Runs the stages of test cases that have a part in each kernel.

#include <algorithm>

#include <poll.h>
#include <sys/wait.h>

#include "selftests/kexec/carry.hh"

std::vector<Carried *> &carried()
{
	static std::vector<Carried *> all;
	return all;
}

Carried::Carried(std::string name_, std::vector<Part> parts_)
	: name(std::move(name_)), parts(std::move(parts_))
{
	carried().push_back(this);
}

namespace {

using Notes = std::map<std::string, std::string>;

const char *const notes_session = "ferry-tests";

// The notes travel as text in a memfd of their own: a key, a value, each with a NUL.
bool save(Device &device, const Notes &notes)
{
	std::string text;
	for (auto &[key, value] : notes)
		text += key + '\0' + value + '\0';
	Fd memfd(::memfd_create("notes", MFD_CLOEXEC));
	if (::write(memfd.get(), text.data(), text.size()) != ssize_t(text.size()))
		return false;
	auto session = device.create(notes_session);
	if (!session || !session->preserve(memfd.get(), 0))
		return false;
	Stage::keep(std::move(*session));
	return true;
}

bool load(Device &device, Notes &notes)
{
	auto session = device.retrieve(notes_session);
	if (!session)
		return false;
	auto memfd = session->retrieve(0);
	struct stat st;
	if (!memfd || ::fstat(memfd->get(), &st))
		return false;
	std::string text(st.st_size, 0);
	if (::pread(memfd->get(), text.data(), text.size(), 0) != ssize_t(text.size()))
		return false;
	for (size_t at = 0; at < text.size();) {
		std::string key = text.c_str() + at;
		at += key.size() + 1;
		notes[key] = text.c_str() + at;
		at += notes[key].size() + 1;
	}
	return bool(session->finish());
}

// What a stage leaves behind lives as long as its process does: a child, until the kexec. It goes
// on with this, all of its threads with it, when told has been told.
[[noreturn]] void hold(const Fd &told)
{
	::setsid();
	SYS(::write(told.get(), "", 1));
	for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
		::close(fd);
	for (;;)
		::pause();
}

// Cases of scenarios of their own; all others are of the scenario carry.
bool elsewhere(const Carried &each)
{
	static constexpr const char *prefixes[] = {"veto/",    "kvm/",	   "session/",	"dma/",
						   "refused/", "traffic/", "dma-soak/", "hugetlb/",
						   "scratch/", "pieces/"};
	return std::ranges::any_of(prefixes,
				   [&](auto prefix) { return each.name.starts_with(prefix); });
}

int run_here(int stage, const char *prefix, const char *filter, const Fd &told)
{
	std::vector<Carried *> chosen;
	for (auto each : carried())
		if (each->name.starts_with(prefix) &&
		    each->name.find(filter) != std::string::npos &&
		    each->parts.size() >= size_t(stage) && (*prefix || !elsewhere(*each)))
			chosen.push_back(each);
	ktap::begin(chosen.size());
	if (chosen.empty())
		return 0;
	auto device = Device::open();
	if (!device) {
		ktap::print("Bail out! /dev/liveupdate: %s", ktap::text(device.error()).c_str());
		return 1;
	}
	Notes notes;
	if (stage > 1 && !load(*device, notes)) {
		ktap::print("Bail out! the notes of the last stage are not there");
		return 1;
	}
	int number = 0;
	for (auto each : chosen) {
		auto &skipped = notes["skipped " + each->name];
		auto &failed = notes["failed " + each->name];
		Stage here(*device, notes, each->name, stage == 1);
		auto result = ktap::run_case(++number, each->name, [&] {
			if (!skipped.empty())
				ktap::skip(skipped);
			if (!failed.empty())
				ktap::skip("failed before the kexec");
			each->parts[stage - 1](here);
		});
		skipped = result.skipped;
		if (result.failed)
			failed = "yes";
	}
	// After the last stage nothing stays: see the group "unload". A slow kernel may
	// be the last one before all cases have come to their end.
	bool more = false;
	for (auto each : chosen)
		more |= each->parts.size() > size_t(stage) && !std::getenv("FERRY_LAST");
	if (!more)
		return 0;
	if (!save(*device, notes)) {
		ktap::print("Bail out! the notes for the next stage cannot be saved");
		return 1;
	}
	{
		auto closed = std::move(*device);
	}
	// Failed cases are no reason to skip the kexec: others want to be tested in the next stage.
	hold(told);
}

} // namespace

int run_stage(int stage, const char *prefix, const char *filter)
{
	int ends[2];
	SYS(::pipe2(ends, O_CLOEXEC));
	Fd listen(ends[0]), told(ends[1]);
	const pid_t child = SYS(::fork());
	if (!child) {
		listen.reset();
		std::exit(run_here(stage, prefix, filter, told));
	}
	told.reset();
	// What a case has forked keeps the pipe open, too: so look after the child as well.
	for (;;) {
		pollfd poll{listen.get(), POLLIN, 0};
		if (::poll(&poll, 1, 100) == 1 && poll.revents & POLLIN)
			return 0;
		int status;
		if (SYS(::waitpid(child, &status, WNOHANG)))
			return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
	}
}
