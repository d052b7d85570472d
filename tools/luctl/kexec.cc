// SPDX-License-Identifier: GPL-2.0
#include "tools/luctl/kexec.hh"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/luctl/formats.hh"
#include "tools/luctl/output.hh"
#include "tools/luctl/sessions.hh"

namespace luctl {

namespace {

using Verdict = Check::Verdict;

// What luctl loaded, until the next boot: the kernel itself does not tell.
constexpr char record_path[] = "/run/luctl/next-kernel.json";
// Catalogues of other kernels, NAME.json after their release; luctl formats --json writes them.
constexpr char catalogues_path[] = "/var/lib/luctl/formats/";

std::string kexec_file(const Context &context, const char *name)
{
	// Linux has them in a folder of their own since 7.0, and in the old place, too.
	std::string path = context.path("/sys/kernel/kexec_") + name;
	return ::access(path.c_str(), R_OK) ? context.path("/sys/kernel/kexec/") + name : path;
}

bool loaded(const Context &context)
{
	auto text = read_file(kexec_file(context, "loaded"));
	return text && text->starts_with("1");
}

Outcome<> write_record(const Context &context, const LoadOptions &options,
		       const std::string &release)
{
	std::string path = context.path(record_path);
	std::error_code error;
	std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
	std::ofstream file(path);
	file << Json({{"release", release}, {"kernel", options.kernel}, {"initrd", options.initrd}})
			.dump(2)
	     << "\n";
	if (!file.flush())
		return failed(path, errno);
	return {};
}

std::optional<std::string> recorded_release(const Context &context)
{
	auto text = read_file(context.path(record_path));
	Json record = text ? Json::parse(*text, nullptr, false) : Json();
	if (!record.is_object() || !record.contains("release") || !record["release"].is_string())
		return {};
	return record["release"].get<std::string>();
}

// Of a release as Debian names files, or of a path.
Outcome<LoadOptions> resolve(const Context &context, LoadOptions options)
{
	if (!options.kernel.contains('/')) {
		std::string release = options.kernel;
		options.kernel = context.path("/boot/vmlinuz-" + release);
		std::string initrd = context.path("/boot/initrd.img-" + release);
		if (options.initrd.empty() && !::access(initrd.c_str(), R_OK))
			options.initrd = initrd;
	}
	if (options.cmdline_given)
		return options;
	options.cmdline = TRY(read_file(context.path("/proc/cmdline")));
	while (!options.cmdline.empty() && options.cmdline.back() == '\n')
		options.cmdline.pop_back();
	// What the boot loader put in for itself.
	if (options.cmdline.starts_with("BOOT_IMAGE="))
		options.cmdline.erase(
			0, std::min(options.cmdline.find(' '), options.cmdline.size() - 1) + 1);
	return options;
}

} // namespace

std::string release_of(const std::string &image)
{
	// Documentation/arch/x86/boot.rst: "HdrS" at 0x202; at 0x20e where the text is, from 0x200
	// on.
	if (image.size() < 0x210 || image.compare(0x202, 4, "HdrS"))
		return {};
	auto byte = [&](std::size_t at) { return static_cast<unsigned char>(image[at]); };
	std::size_t at = byte(0x20e) | std::size_t(byte(0x20f)) << 8;
	if (!at || at + 0x200 >= image.size())
		return {};
	std::string text = image.substr(at + 0x200, 128);
	text.erase(std::min(text.find_first_of(std::string_view("\0 ", 2)), text.size()));
	return clean(text);
}

// ---- load ----

Outcome<> kexec_load(Context &context, const LoadOptions &given)
{
	auto options = TRY(resolve(context, given));
	liveupdate::Fd kernel(::open(options.kernel.c_str(), O_RDONLY | O_CLOEXEC));
	if (!kernel)
		return failed(options.kernel, errno);
	std::string start(65536, '\0');
	auto size = ::pread(kernel.get(), start.data(), start.size(), 0);
	if (size < 0)
		return failed(options.kernel, errno);
	start.resize(static_cast<std::size_t>(size));
	std::string release = release_of(start);
	if (release.empty())
		return fail(Exit::failed, options.kernel + ": this is no kernel for x86 (bzImage)");
	liveupdate::Fd initrd;
	if (!options.initrd.empty()) {
		initrd.reset(::open(options.initrd.c_str(), O_RDONLY | O_CLOEXEC));
		if (!initrd)
			return failed(options.initrd, errno);
	}
	unsigned long flags = initrd ? 0 : KEXEC_FILE_NO_INITRAMFS;
	context.notes << "Loading Linux " << release << " ..." << std::endl;
	if (::syscall(SYS_kexec_file_load, kernel.get(), initrd ? initrd.get() : -1,
		      options.cmdline.size() + 1, options.cmdline.c_str(), flags) < 0) {
		if (errno == ENOSYS)
			return fail(Exit::missing,
				    "this kernel has no kexec_file_load(2) (CONFIG_KEXEC_FILE)");
		return failed("load " + options.kernel, errno);
	}
	CHECK(write_record(context, options, release));
	if (context.json)
		context.out << Json({{"release", release},
				     {"kernel", options.kernel},
				     {"initrd", options.initrd},
				     {"cmdline", options.cmdline}})
				       .dump(2)
			    << "\n";
	else
		context.notes << "Linux " << release << " is loaded.\n";
	return {};
}

Outcome<> kexec_unload(Context &context)
{
	if (::syscall(SYS_kexec_file_load, -1, -1, 0UL, nullptr, KEXEC_FILE_UNLOAD) < 0)
		return failed("unload the next kernel", errno);
	::unlink(context.path(record_path).c_str());
	return {};
}

// ---- preflight ----

namespace {

void check_device(std::vector<Check> &checks)
{
	auto device = liveupdate::Device::open();
	if (!device && device.error() == std::errc::device_or_resource_busy) {
		checks.push_back(
			{"live update", Verdict::doubtful,
			 "/dev/liveupdate is taken: whoever has it may be changing sessions"});
		return;
	}
	if (!device) {
		checks.push_back({"live update", Verdict::bad, std::string(liveupdate::message())});
		return;
	}
	auto is = device->implementation();
	checks.push_back({"live update", Verdict::good,
			  is ? lu_implementation_name(*is) : std::string(liveupdate::message())});
	auto sessions = device->sessions();
	if (!sessions)
		return;
	std::uint64_t out = 0, files = 0, size = 0;
	std::string unfinished, boxes;
	for (const auto &session : *sessions) {
		if (!(session.flags & LIVEUPDATE_FERRY_INCOMING)) {
			++out;
			files += session.files;
			size += session.bytes;
		} else if (session.state != LIVEUPDATE_FERRY_SESSION_FINISHED) {
			auto &list = box_of(session) ? boxes : unfinished;
			list += (list.empty() ? "" : ", ") + clean(text(session.name));
		}
	}
	checks.push_back({"sessions", out ? Verdict::good : Verdict::doubtful,
			  count(out, "session", "sessions") + " with " +
				  count(files, "file", "files") + ", " + bytes(size) +
				  (out ? "" : ": nothing will be carried")});
	if (!unfinished.empty())
		checks.push_back({"unfinished", Verdict::bad,
				  unfinished + ": of the last kernel, and lost with this update"});
	if (!boxes.empty())
		checks.push_back({"boxes", Verdict::bad,
				  boxes + ": came from the last kernel; the kernel refuses the "
					  "update until they are sealed anew, or deleted"});
}

bool has_module(const std::string &folder)
{
	std::error_code error;
	for (auto at = std::filesystem::recursive_directory_iterator(
		     folder, std::filesystem::directory_options::skip_permission_denied, error);
	     !error && at != std::filesystem::recursive_directory_iterator(); at.increment(error)) {
		if (at->path().filename().string().starts_with("luo.ko"))
			return true;
	}
	return false;
}

void check_modules(const Context &context, const std::string &release, std::vector<Check> &checks)
{
	std::string folder = context.path("/lib/modules/" + release);
	bool there = has_module(folder);
	checks.push_back(
		{"modules", there ? Verdict::good : Verdict::doubtful,
		 there ? "luo.ko is installed for " + release
		       : "no luo.ko in " + folder +
				 ": fine only if the initramfs has it, or the kernel its own"});
}

void check_formats(Context &context, const std::string &release, const std::string &given,
		   std::vector<Check> &checks)
{
	auto own = own_catalogue(context);
	if (!own) {
		checks.push_back({"formats", Verdict::doubtful, own.error().text});
		return;
	}
	if (given.empty() && own->kernel == release) {
		checks.push_back(
			{"formats", Verdict::good, "the next kernel is this one: " + release});
		return;
	}
	std::string path = given.empty() ? context.path(catalogues_path) + release + ".json"
					 : given;
	auto text = read_file(path);
	if (!text) {
		checks.push_back({"formats", given.empty() ? Verdict::doubtful : Verdict::bad,
				  text.error().text + ": on a machine with that kernel, "
						      "luctl formats --json writes it"});
		return;
	}
	auto other = parse_catalogue(*text, path);
	if (!other) {
		checks.push_back({"formats", Verdict::bad, other.error().text});
		return;
	}
	std::string misfits;
	for (const auto &each : judge(*own, *other)) {
		if (!each.fits)
			misfits += (misfits.empty() ? "" : ", ") + clean(each.name) + " v" +
				   std::to_string(each.writes);
	}
	checks.push_back({"formats", misfits.empty() ? Verdict::good : Verdict::bad,
			  misfits.empty() ? release + " reads all that this kernel writes"
					  : release + " does not read: " + misfits});
}

void check_luod(const Context &context, std::vector<Check> &checks)
{
	auto client = luod::Client::connect(context.socket);
	if (!client) {
		checks.push_back({"luod", Verdict::doubtful,
				  client.error().text + ": no service is asked before the jump"});
		return;
	}
	auto state = client->property("State");
	bool idle = state && *state == "idle";
	checks.push_back({"luod", idle ? Verdict::good : Verdict::bad,
			  !state ? state.error().text
			  : idle ? "runs; it will ask the services"
				 : "somebody else prepares an update"});
}

const char *name_of(Verdict verdict)
{
	switch (verdict) {
	case Verdict::good:
		return "ok";
	case Verdict::doubtful:
		return "warning";
	case Verdict::bad:
		return "BAD";
	}
	return "";
}

void show(Context &context, const std::vector<Check> &checks)
{
	if (context.json) {
		Json json = Json::array();
		for (const auto &each : checks)
			json.push_back(
				{{"name", each.name},
				 {"verdict",
				  each.verdict == Verdict::bad ? "bad" : name_of(each.verdict)},
				 {"text", each.text}});
		context.out << Json({{"checks", json}}).dump(2) << "\n";
		return;
	}
	Table table({"CHECK", "", ""});
	for (const auto &each : checks)
		table.add({each.name, name_of(each.verdict), clean(each.text)});
	table.print(context.out, context.width);
}

Outcome<> judge_checks(const std::vector<Check> &checks)
{
	auto bad = std::ranges::count(checks, Verdict::bad, &Check::verdict);
	if (bad)
		return fail(Exit::no,
			    count(static_cast<std::uint64_t>(bad), "check", "checks") + " failed");
	return {};
}

} // namespace

std::vector<Check> check_all(Context &context, const PreflightOptions &options)
{
	std::vector<Check> checks;
	check_device(checks);
	bool there = loaded(context);
	auto release = recorded_release(context);
	checks.push_back({"next kernel",
			  !there    ? Verdict::bad
			  : release ? Verdict::good
				    : Verdict::doubtful,
			  !there    ? "none is loaded: luctl kexec load"
			  : release ? "Linux " + *release
				    : "not loaded by luctl: if kexec_load(2) did, it gets nothing "
				      "handed over (kexec -s -l)"});
	if (there && release) {
		check_modules(context, *release, checks);
		check_formats(context, *release, options.formats, checks);
	}
	check_luod(context, checks);
	return checks;
}

Outcome<> kexec_preflight(Context &context, const PreflightOptions &options)
{
	auto checks = check_all(context, options);
	show(context, checks);
	return judge_checks(checks);
}

// ---- go ----

namespace {

// The reason of the kernel, in words, as far as it tells.
std::string last_failure(std::uint64_t before)
{
	auto device = liveupdate::Device::open();
	auto failure =
		device ? device->last_failure()
		       : liveupdate::Result<liveupdate_ferry_failure>(liveupdate::failure(ENODEV));
	if (!failure || failure->number == before)
		return "the kernel's log says why (dmesg)";
	return describe(*failure);
}

std::uint64_t failures()
{
	auto device = liveupdate::Device::open();
	if (!device)
		return 0;
	auto failure = device->last_failure();
	return failure ? failure->number : 0;
}

Outcome<> jump(const Context &context, bool now)
{
	// Everything else is stopped first then, and file systems are unmounted.
	if (!now && ::access(context.path("/run/systemd/system").c_str(), F_OK) == 0) {
		pid_t child = ::fork();
		if (!child) {
			::execlp("systemctl", "systemctl", "kexec", nullptr);
			::_exit(127);
		}
		int status = 0;
		if (child < 0 || ::waitpid(child, &status, 0) != child || status)
			return fail(Exit::failed, "systemctl kexec failed");
		return {};
	}
	::sync();
	::reboot(LINUX_REBOOT_CMD_KEXEC);
	return failed("kexec", errno);
}

} // namespace

Outcome<> kexec_go(Context &context, const GoOptions &options)
{
	auto checks = check_all(context, options.preflight);
	if (options.lose)
		std::erase_if(checks, [](auto &each) { return each.name == "unfinished"; });
	show(context, checks);
	if (auto judged = judge_checks(checks); !judged && !options.force)
		return fail(Exit::no, judged.error().text + "; --force goes nevertheless");
	std::uint64_t before = failures();
	auto luod = luod::Client::connect(context.socket);
	std::uint64_t id = 0;
	if (luod) {
		Bar bar(context.notes, context.terminal, context.width, "Preparing");
		auto ready = luod->prepare(
			std::chrono::seconds(options.timeout_s), options.lose, [&](auto &progress) {
				std::string waits;
				for (const auto &label : progress.waited_for)
					waits += (waits.empty() ? "waits for " : ", ") +
						 clean(label);
				bar.show(progress.all ? progress.ready : 1,
					 std::max(progress.all, 1u),
					 waits.empty() ? "all are ready" : waits);
			});
		if (!ready)
			return fail(ready.error().code == EPERM ? Exit::failed : Exit::no,
				    "not now: " + clean(ready.error().text));
		id = *ready;
	} else if (luod.error().code != ENOENT && luod.error().code != ECONNREFUSED) {
		return failed(luod.error());
	}
	context.notes << "Jumping ..." << std::endl;
	auto gone = jump(context, options.now);
	if (gone) {
		// systemd is at it; luod has to think so until then.
		if (luod)
			::pause();
		return {};
	}
	if (luod)
		static_cast<void>(luod->cancel(id));
	return fail(Exit::no, gone.error().text + ": " + last_failure(before) +
				      ". Everything goes on as before.");
}

} // namespace luctl
