// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/update.hh"

#include <cinttypes>
#include <cstring>

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
constexpr std::uint32_t record_version = 1;
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

double ms(std::uint64_t ticks, const Times &times)
{
	return static_cast<double>(static_cast<std::int64_t>(ticks)) /
	       static_cast<double>(times.khz);
}

void say_stage(const char *what, std::uint64_t from, std::uint64_t to, const Times &times)
{
	char text[100];
	std::snprintf(text, sizeof(text), "  %-36s %10.2f ms", what, ms(to - from, times));
	say(text);
}

void say_report(const Times &times)
{
	// This kernel's clock began at 0.
	std::uint64_t now = __rdtsc(), ns = clock_ns();
	std::uint64_t zero = now - ns * times.khz / 1'000'000,
		      init = zero + init_ns() * times.khz / 1'000'000;
	char text[160];
	std::snprintf(text, sizeof(text),
		      "the guest stood still for %.1f ms; its time-stamp counter is off by %.1f us",
		      ms(times.exited - times.pause, times),
		      1000 * ms(times.guest_after - times.guest_before, times));
	say(text);
	say_stage("pause the vCPUs", times.pause, times.paused, times);
	say_stage("save", times.paused, times.saved, times);
	say_stage("write out the console", times.saved, times.jump, times);
	say_stage("kexec, until the new kernel's time 0", times.jump, zero, times);
	say_stage("kernel, until init", zero, init, times);
	say_stage("init and modules, until this VMM", init, times.start, times);
	say_stage("retrieve the record", times.start, times.record, times);
	say_stage("retrieve and build the machine", times.record, times.machine, times);
	say_stage("devices", times.machine, times.run, times);
	say_stage("vCPU threads, until the first exit", times.run, times.exited, times);
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
	auto device = TRY("/dev/liveupdate", liveupdate::Device::open());
	auto session = TRY("session " + session_name_, device.create(session_name_));
	if (auto done = preserve(session); !done) {
		record_.reset();
		return done;
	}
	session_ = std::move(session);
	return {};
}

void Update::cancel()
{
	session_.reset();
	record_.reset();
}

Result<> Update::save()
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
	if (record.config.carrier == Carrier::own)
		TRY("save", own::save(system_, machine_, record_->all().subspan(sizeof(Record))));
	return {};
}

Result<> Update::jump()
{
	TRY("prepare", prepare());
	Times &times = record_in(*record_).times;
	times.pause = __rdtsc();
	machine_.vcpus().pause();
	times.paused = __rdtsc();
	auto done = save();
	times.saved = __rdtsc();
	if (done) {
		// The terminal has a buffer, which does not survive.
		::tcdrain(STDOUT_FILENO);
		times.jump = __rdtsc();
		::syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
			  LINUX_REBOOT_CMD_KEXEC, nullptr);
		done = failed_call("reboot");
	}
	machine_.vcpus().resume();
	cancel();
	return done;
}

// ---- after it ----

Result<Arrival> take_over(const kvm::System &system, const std::string &session_name)
{
	std::uint64_t start = __rdtsc();
	auto device = TRY("/dev/liveupdate", liveupdate::Device::open());
	auto session = TRY("session " + session_name, device.retrieve(session_name));
	auto fd = TRY("retrieve the record", session.retrieve(token::record));
	auto map = TRY("record", map_record(fd));
	TRY("record", check(map));
	Record &record = record_in(map);
	record.times.start = start;
	record.times.record = __rdtsc();
	auto state = map.all().subspan(sizeof(Record));
	auto machine = record.config.carrier == Carrier::own
			       ? own::retrieve(system, session, record.config, state)
			       : luo::retrieve(system, session, record.config);
	if (!machine)
		return std::unexpected(in_context("retrieve", machine.error()));
	record.times.machine = __rdtsc();
	(*machine)->devices().load(record.devices);
	TRY("resume", tell_paused(**machine));
	record.times.guest_after = guest_tsc_offset(**machine);
	return Arrival{std::move(session), std::move(*machine), record.times};
}

Result<> continue_and_report(Arrival &arrival)
{
	arrival.times.run = __rdtsc();
	arrival.machine->vcpus().start();
	arrival.times.exited = wait_for_exit(*arrival.machine);
	TRY("finish the session", arrival.session.finish());
	arrival.session.close();
	say_report(arrival.times);
	return {};
}

} // namespace vmm
