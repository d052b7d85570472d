// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/update.hh"

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include <linux/liveupdate_ferry.h>
#include <linux/reboot.h>
#include <sys/syscall.h>
#include <termios.h>
#include <x86intrin.h>

#include "selftests/lib/stamps.hh"
#include "selftests/vmm/luo.hh"
#include "selftests/vmm/own.hh"

namespace vmm {

namespace {

constexpr std::uint64_t record_magic = 0x4d4d565952524546; // "FERRYVMM"
constexpr std::uint32_t record_version = 2;
constexpr std::uint32_t msr_tsc = 0x10;

// The head of the record. Carrier::own has its state behind it.
struct Record {
	std::uint64_t magic;
	std::uint32_t version;
	std::uint32_t bytes; // of this structure
	Config config;
	Devices::State devices;
	Times times;
};

std::size_t record_bytes(const Config &config)
{
	constexpr std::size_t page = 4096;
	std::size_t bytes = sizeof(Record);
	if (config.carrier == Carrier::own)
		bytes += own::state_bytes(config);
	return (bytes + page - 1) / page * page;
}

Record &record_in(const Mapping &map)
{
	return *reinterpret_cast<Record *>(map.all().data());
}

// One process at a time can have it, and VMMs of the same host come at the same time.
Result<liveupdate::Device> open_device()
{
	constexpr unsigned int tries = 10'000, try_us = 1'000;
	for (unsigned int i = 0;; ++i) {
		auto device = liveupdate::Device::open();
		if (device)
			return std::move(*device);
		if (i == tries || device.error().value() != EBUSY)
			return std::unexpected(in_context("/dev/liveupdate", device.error()));
		::usleep(try_us);
	}
}

// fallocate: so that nothing has to be allocated for it after the freeze.
Result<liveupdate::Fd> new_record(std::size_t bytes)
{
	liveupdate::Fd fd(::memfd_create("ferry-vmm", MFD_CLOEXEC));
	if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(bytes)) < 0 ||
	    ::fallocate(fd.get(), 0, 0, static_cast<off_t>(bytes)) < 0)
		return failed_call("memfd");
	return fd;
}

Result<Mapping> map_record(const liveupdate::Fd &fd)
{
	auto bytes = ::lseek(fd.get(), 0, SEEK_END);
	if (bytes < static_cast<off_t>(sizeof(Record)))
		return failure("cut short");
	return Mapping::of(fd.get(), static_cast<std::size_t>(bytes));
}

// What the last kernel's VMM wrote was written by a program of this version, or
// it is not for this one.
Result<> check(const Mapping &map)
{
	const Record &record = record_in(map);
	if (record.magic != record_magic)
		return failure("not of this VMM");
	if (record.version != record_version || record.bytes != sizeof(Record))
		return failure("of another version of this VMM");
	const Config &config = record.config;
	if (!config.vcpus || config.vcpus > max_vcpus || map.all().size() < record_bytes(config))
		return failure("damaged");
	return {};
}

// Both counters cannot be read at once: that of the host is read before and after,
// and the quickest of some tries is the most exact one.
std::uint64_t guest_tsc_offset(const Machine &machine)
{
	constexpr unsigned int tries = 8;
	std::uint64_t offset = 0, quickest = ~0ull;
	for (unsigned int i = 0; i < tries; ++i) {
		std::uint64_t before = __rdtsc();
		auto guest = machine.vcpus().all().front().msr(msr_tsc);
		std::uint64_t took = __rdtsc() - before;
		if (!guest || took >= quickest)
			continue;
		quickest = took;
		offset = *guest - before - took / 2;
	}
	return offset;
}

// Have the guest's watchdogs look away for once. EINVAL: it has not asked for kvmclock.
Result<> tell_paused(const Machine &machine)
{
	for (const auto &vcpu : machine.vcpus().all())
		if (auto done = vcpu.call(KVM_KVMCLOCK_CTRL);
		    !done && done.error().value() != EINVAL)
			return std::unexpected(in_context("KVM_KVMCLOCK_CTRL", done.error()));
	return {};
}

// ---- the report ----

// When did this kernel start PID 1? Its log says so; in ns of its clock.
std::uint64_t init_ns()
{
	liveupdate::Fd fd(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
	char text[2048];
	for (ssize_t length;
	     (length = ::read(fd.get(), text, sizeof(text) - 1)) > 0 || errno == EPIPE;) {
		std::uint64_t us;
		text[std::max<ssize_t>(length, 0)] = '\0';
		if (std::strstr(text, ";Run /init") &&
		    std::sscanf(text, "%*u,%*u,%" SCNu64, &us) == 1)
			return us * 1000;
	}
	return 0;
}

// How long the freeze before the kexec took; mainline's live update does not tell.
std::optional<std::uint64_t> freeze_ns()
{
	std::ifstream file("/sys/kernel/debug/ferry/update");
	std::string key;
	for (std::uint64_t value; file >> key >> value;) {
		if (key == "freeze_ns")
			return value;
	}
	return std::nullopt;
}

// And of that, how long the VM and its vCPUs took, where they were preserved.
Result<std::uint64_t> machine_freeze_ns(const liveupdate::Session &session)
{
	const std::string name = TRY("its name", session.name());
	auto device = TRY("/dev/liveupdate", open_device());
	std::array<liveupdate_ferry_file, token::vcpus> files{};
	liveupdate_ferry_list_files arg{};
	arg.entry_size = sizeof(files[0]);
	arg.nr = static_cast<std::uint32_t>(files.size());
	arg.entries = reinterpret_cast<std::uintptr_t>(files.data());
	arg.flags = LIVEUPDATE_FERRY_INCOMING;
	std::memcpy(arg.name, name.data(), std::min(name.size(), sizeof(arg.name) - 1));
	TRY("list files", liveupdate::call(device.get(), LIVEUPDATE_FERRY_LIST_FILES, arg));
	std::uint64_t ns = 0;
	for (const auto &file : std::span(files).first(std::min<std::size_t>(arg.nr, files.size())))
		if (file.token == token::vm || file.token >= token::vcpus)
			ns += file.freeze_ns;
	return ns;
}

double ms(std::uint64_t ticks, const Times &times)
{
	return static_cast<double>(static_cast<std::int64_t>(ticks)) /
	       static_cast<double>(times.khz);
}

struct Row {
	const char *name, *what;
	std::uint64_t end;
};

// By Stage.
const char *const stages[][2] = {
	{"pause", "the vCPUs leave the guest"},
	{"save", "the VMM's devices"},
	{"read", "KVM's state, in this VMM"},
	{"console", "write it out"},
	{"boot", "from reboot(2) to this VMM"},
	{"start", "open the session and the record"},
	{"machine", "VM and vCPUs"},
	{"memory", "retrieve and map it"},
	{"load", "KVM's state"},
	{"devices", "the VMM's"},
	{"run", "vCPU threads, until the first exit"},
};

// What was between the two kernels' parts of this VMM.
std::vector<Row> rows_of_boot(const Times &times, std::uint64_t jump, std::uint64_t start,
			      std::uint64_t machine_ns)
{
	// This kernel's clock began at 0.
	std::uint64_t now = __rdtsc(), ns = clock_ns();
	auto ticks = [&](std::uint64_t of_ns) { return of_ns * times.khz / 1'000'000; };
	std::uint64_t zero = now - ticks(ns), init = zero + ticks(init_ns());
	std::vector<Row> rows;
	if (auto frozen = freeze_ns()) {
		if (machine_ns)
			rows.push_back(
				{"freeze", "KVM's state, in the kernel", jump + ticks(machine_ns)});
		rows.push_back(
			{"files", "freeze the others, and the session", jump + ticks(*frozen)});
	}
	rows.push_back({"kexec", "until the new kernel's time 0", zero});
	rows.push_back({"kernel", "until it starts init", init});
	rows.push_back({"init", "and modules, until this VMM", start});
	return rows;
}

std::vector<Row> rows_of(const Times &times, std::uint64_t machine_ns)
{
	std::vector<Row> rows;
	std::uint64_t last = times.begin;
	for (const auto &lap : std::span(times.laps, std::min(times.nr, Times::max_laps))) {
		auto [name, text] = stages[static_cast<std::size_t>(lap.stage)];
		if (lap.stage == Stage::boot)
			std::ranges::move(rows_of_boot(times, last, lap.end, machine_ns),
					  std::back_inserter(rows));
		else
			rows.push_back({name, text, lap.end});
		last = lap.end;
	}
	return rows;
}

// scripts/gap.py reads it, too.
void say_report(const Times &times, std::uint64_t machine_ns)
{
	char text[160];
	std::snprintf(text, sizeof(text),
		      "the guest stood still for %.1f ms; its time-stamp counter is off by %.1f us",
		      ms(times.last() - times.begin, times),
		      1000 * ms(times.guest_after - times.guest_before, times));
	say(text);
	std::uint64_t last = times.begin;
	for (const Row &row : rows_of(times, machine_ns)) {
		std::snprintf(text, sizeof(text), "  %-8s %10.2f ms, at %10.2f ms  %s", row.name,
			      ms(row.end - last, times), ms(last - times.begin, times), row.what);
		say(text);
		last = row.end;
	}
}

// A guest with nothing to do makes none; then this is as good a time as any.
std::uint64_t wait_for_exit(const Machine &machine)
{
	constexpr unsigned int tries = 2'000, try_us = 1'000;
	for (unsigned int i = 0; i < tries; ++i) {
		if (auto exited = machine.vcpus().first_exit())
			return exited;
		::usleep(try_us);
	}
	say("no vCPU has had anything for this VMM yet");
	return __rdtsc();
}

} // namespace

// ---- before the kexec ----

namespace {

Result<liveupdate::Session> create_session(const std::string &name)
{
	auto device = TRY("create", open_device());
	return TRY("create", device.create(name));
}

} // namespace

Result<> Update::preserve(liveupdate::Session &session)
{
	const Config &config = machine_.config();
	if (config.carrier == Carrier::own)
		TRY("preserve", own::preserve(session, machine_));
	else
		TRY("preserve", luo::preserve(session, machine_));
	auto fd = TRY("record", new_record(record_bytes(config)));
	record_.emplace(TRY("record", map_record(fd)));
	TRY("preserve the record", session.preserve(fd.get(), token::record));
	return {};
}

Result<> Update::prepare()
{
	if (session_)
		return {};
	auto session = TRY("session " + session_name_, create_session(session_name_));
	if (auto done = preserve(session); !done) {
		record_.reset();
		return done;
	}
	session_ = std::move(session);
	return {};
}

void Update::cancel()
{
	if (std::exchange(saved_, false))
		machine_.vcpus().resume();
	session_.reset();
	record_.reset();
}

Result<> Update::write_record()
{
	Record &record = record_in(*record_);
	record.magic = record_magic;
	record.version = record_version;
	record.bytes = sizeof(Record);
	record.config = machine_.config();
	record.devices = machine_.devices().save();
	record.times.khz = static_cast<std::uint64_t>(
		TRY("KVM_GET_TSC_KHZ", machine_.vcpus().all().front().call(KVM_GET_TSC_KHZ)));
	record.times.guest_before = guest_tsc_offset(machine_);
	record.times.end(Stage::save);
	if (record.config.carrier == Carrier::own) {
		TRY("save", own::save(system_, machine_, record_->all().subspan(sizeof(Record))));
		record.times.end(Stage::read);
	}
	return {};
}

Result<> Update::save()
{
	if (saved_)
		return {};
	TRY("prepare", prepare());
	Times &times = record_in(*record_).times;
	times.start();
	machine_.vcpus().pause();
	saved_ = true;
	times.end(Stage::pause);
	if (auto done = write_record(); !done) {
		cancel();
		return done;
	}
	// The terminal has a buffer, which does not survive.
	::tcdrain(STDOUT_FILENO);
	times.end(Stage::console);
	return {};
}

Result<> Update::jump()
{
	TRY("save", save());
	::syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC,
		  nullptr);
	auto failed = failed_call("reboot");
	cancel();
	return failed;
}

// ---- after it ----

namespace {

Result<liveupdate::Session> retrieve_session(const std::string &name)
{
	auto device = TRY("retrieve", open_device());
	return TRY("retrieve", device.retrieve(name));
}

} // namespace

Result<Arrival> take_over(const kvm::System &system, const std::string &session_name)
{
	std::uint64_t start = __rdtsc();
	auto session = TRY("session " + session_name, retrieve_session(session_name));
	auto fd = TRY("retrieve the record", session.retrieve(token::record));
	auto map = TRY("record", map_record(fd));
	TRY("record", check(map));
	Record &record = record_in(map);
	Times &times = record.times;
	times.end(Stage::boot, start);
	times.end(Stage::start);
	auto state = map.all().subspan(sizeof(Record));
	auto machine = record.config.carrier == Carrier::own
			       ? own::retrieve(system, session, record.config, state, times)
			       : luo::retrieve(system, session, record.config, times);
	if (!machine)
		return std::unexpected(in_context("retrieve", machine.error()));
	(*machine)->devices().load(record.devices);
	TRY("resume", tell_paused(**machine));
	times.guest_after = guest_tsc_offset(**machine);
	times.end(Stage::devices);
	return Arrival{std::move(session), std::move(*machine), times};
}

Result<> continue_and_report(Arrival &arrival)
{
	arrival.machine->vcpus().start();
	arrival.times.end(Stage::run, wait_for_exit(*arrival.machine));
	// The guest runs: it is only that there is less to tell.
	const std::uint64_t machine_ns =
		freeze_ns() ? machine_freeze_ns(arrival.session).value_or(0) : 0;
	TRY("finish the session", arrival.session.finish());
	arrival.session.close();
	say_report(arrival.times, machine_ns);
	return {};
}

} // namespace vmm
