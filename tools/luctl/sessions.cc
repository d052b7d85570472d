// SPDX-License-Identifier: GPL-2.0
#include "tools/luctl/sessions.hh"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <thread>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "tools/luctl/output.hh"

using liveupdate::Device;
using liveupdate::Fd;
using liveupdate::Session;

namespace luctl {

namespace {

constexpr auto device_wait = std::chrono::seconds(2);

template <typename Text> std::string text(const Text &bytes)
{
	auto at = reinterpret_cast<const char *>(bytes);
	return {at, ::strnlen(at, sizeof(bytes))};
}

const char *const session_states[] = {"open", "frozen", "waiting", "retrieved", "finished"};
const char *const file_states[] = {"preserved", "frozen", "waiting", "retrieved", "failed"};
const char *const policies[] = {"finish", "deadline", "keep"};
const char *const operations[] = {"nothing", "preserve", "freeze", "save", "unpreserve",
				  "prepare", "retrieve", "finish", "kexec"};

// A later kernel may have more.
template <std::size_t size>
std::string name_of(const char *const (&names)[size], std::uint32_t number)
{
	return number < size ? names[number] : std::to_string(number);
}

Outcome<Device> open_device()
{
	auto device = Device::open(device_wait);
	if (!device && device.error() == std::errc::no_such_file_or_directory)
		return fail(Exit::missing, std::string(liveupdate::message()));
	if (!device)
		return failed(device.error());
	return std::move(*device);
}

// luod, if it runs; nothing if it does not.
Outcome<std::optional<luod::Client>> find_luod(const Context &context)
{
	auto client = luod::Client::connect(context.socket);
	if (client)
		return std::optional(std::move(*client));
	if (client.error().code == ENOENT || client.error().code == ECONNREFUSED)
		return std::nullopt;
	return failed(client.error());
}

Json to_json(const liveupdate_ferry_failure &failure)
{
	Json json = {{"number", failure.number},
		     {"operation", name_of(operations, failure.operation)},
		     {"error", ::strerrorname_np(static_cast<int>(failure.error))
				       ? ::strerrorname_np(static_cast<int>(failure.error))
				       : std::to_string(failure.error)},
		     {"session", text(failure.session)},
		     {"handler", text(failure.handler)},
		     {"when_ns", failure.when_ns}};
	if (failure.handler[0])
		json["token"] = failure.token;
	return json;
}

} // namespace

std::string describe(const liveupdate_ferry_failure &failure)
{
	std::string what = name_of(operations, failure.operation);
	if (failure.session[0])
		what += " of session '" + clean(text(failure.session)) + "'";
	if (failure.handler[0])
		what += ", token " + std::to_string(failure.token) + " (" +
			clean(text(failure.handler)) + ")";
	return what + ": " + std::strerror(static_cast<int>(failure.error));
}

Outcome<std::vector<TokenFile>> parse_files(const std::vector<std::string> &words)
{
	std::vector<TokenFile> files;
	std::uint64_t next = 1;
	for (const auto &word : words) {
		TokenFile file{next, word};
		auto equals = word.find('=');
		if (equals != word.npos) {
			auto [end, error] =
				std::from_chars(word.data(), word.data() + equals, file.token);
			if (error != std::errc() || end != word.data() + equals)
				return fail(Exit::usage,
					    "'" + word +
						    "': before = comes a token, a number "
						    "from 0 to 2^64-1");
			file.path = word.substr(equals + 1);
		}
		if (file.path.empty())
			return fail(Exit::usage, "'" + word + "': there is no path");
		if (std::ranges::find(files, file.token, &TokenFile::token) != files.end())
			return fail(Exit::usage, "token " + std::to_string(file.token) + " twice");
		next = file.token + 1;
		files.push_back(std::move(file));
	}
	return files;
}

Outcome<liveupdate::Key> read_key(const std::string &path)
{
	auto bytes = TRY(read_file(path));
	liveupdate::Key key;
	if (bytes.size() == key.size()) {
		std::ranges::copy(bytes, key.begin());
		return key;
	}
	while (!bytes.empty() && (bytes.back() == '\n' || bytes.back() == '\r'))
		bytes.pop_back();
	bool hex = bytes.size() == 2 * key.size();
	for (std::size_t i = 0; hex && i < key.size(); ++i) {
		auto at = bytes.data() + 2 * i;
		hex = std::from_chars(at, at + 2, key[i], 16).ptr == at + 2;
	}
	if (!hex)
		return fail(Exit::failed, path + ": a key is 32 bytes, or 64 hexadecimal digits "
						 "(openssl rand -hex 32)");
	return key;
}

// ---- what there is ----

namespace {

struct Status {
	std::string kernel, implementation, reason;
	bool loaded = false;
	std::optional<liveupdate_ferry_info> info;
	std::optional<liveupdate_ferry_failure> failure;
	std::optional<std::string> agent;
	std::size_t agent_sessions = 0;
};

Outcome<Status> look(Context &context)
{
	Status status;
	utsname is{};
	::uname(&is);
	status.kernel = is.release;
	auto loaded = read_file(context.path("/sys/kernel/kexec_loaded"));
	if (!loaded)
		loaded = read_file(context.path("/sys/kernel/kexec/loaded"));
	status.loaded = loaded && loaded->starts_with("1");
	if (auto device = Device::open(); device) {
		auto implementation = device->implementation();
		if (!implementation)
			return failed(implementation.error());
		status.implementation = ::lu_implementation_name(*implementation);
		if (auto info = device->info())
			status.info = *info;
		if (auto failure = device->last_failure())
			status.failure = *failure;
	} else {
		status.reason = liveupdate::message();
	}
	auto luod = TRY(find_luod(context));
	if (luod) {
		auto state = luod->property("State");
		status.agent = state ? *state : "does not answer";
		if (auto sessions = luod->list())
			status.agent_sessions = sessions->size();
	}
	return status;
}

Json to_json(const Status &is)
{
	Json json = {{"kernel", is.kernel}};
	json["implementation"] = is.implementation.empty() ? Json(nullptr)
							   : Json(is.implementation);
	if (!is.reason.empty())
		json["reason"] = is.reason;
	json["next_kernel_loaded"] = is.loaded;
	if (is.info) {
		json["updates"] = is.info->update;
		json["outgoing"] = is.info->outgoing;
		json["incoming"] = is.info->incoming;
		json["waiting"] = is.info->waiting;
		json["frozen"] = is.info->frozen != 0;
		json["openers"] = is.info->openers - 1;
		json["failures"] = is.info->failures;
	}
	json["last_failure"] = is.failure ? to_json(*is.failure) : Json(nullptr);
	json["luod"] = is.agent ? Json({{"state", *is.agent}, {"sessions", is.agent_sessions}})
				: Json(nullptr);
	return json;
}

} // namespace

Outcome<> status(Context &context)
{
	auto is = TRY(look(context));
	if (context.json) {
		context.out << to_json(is).dump(2) << "\n";
	} else {
		auto &out = context.out;
		out << "Kernel       " << is.kernel << "\n";
		out << "Live update  "
		    << (is.implementation.empty() ? is.reason : is.implementation) << "\n";
		if (is.info) {
			out << "Updates      " << is.info->update << " since the last cold boot\n";
			out << "Sessions     " << is.info->outgoing << " for the next kernel, "
			    << is.info->incoming << " of the last one (" << is.info->waiting
			    << " of them waiting)\n";
		}
		out << "Next kernel  " << (is.loaded ? "loaded" : "not loaded") << "\n";
		out << "luod         "
		    << (is.agent ? clean(*is.agent) + ", keeps " +
					   count(is.agent_sessions, "session", "sessions")
				 : "does not run")
		    << "\n";
		if (is.failure)
			out << "Last failure " << describe(*is.failure) << "\n";
	}
	if (is.implementation.empty())
		return fail(Exit::missing, "");
	return {};
}

namespace {

std::string policy_of(const liveupdate_ferry_session &session)
{
	std::string policy = name_of(policies, session.policy);
	if (session.left_ms != LIVEUPDATE_FERRY_NO_DEADLINE)
		policy += ", " + duration(session.left_ms * 1'000'000) + " left";
	else if (session.deadline_ms)
		policy += " " + duration(session.deadline_ms * 1'000'000);
	return policy;
}

Json to_json(const liveupdate_ferry_session &session, const luod::Listed *kept)
{
	Json json = {{"name", text(session.name)},
		     {"direction", session.flags & LIVEUPDATE_FERRY_INCOMING ? "in" : "out"},
		     {"state", name_of(session_states, session.state)},
		     {"keyed", (session.flags & LIVEUPDATE_FERRY_KEYED) != 0},
		     {"refused", session.refused},
		     {"policy", name_of(policies, session.policy)},
		     {"deadline_ms", session.deadline_ms}};
	json["left_ms"] = session.left_ms == LIVEUPDATE_FERRY_NO_DEADLINE ? Json(nullptr)
									  : Json(session.left_ms);
	json["files"] = session.files;
	json["bytes"] = session.bytes;
	json["runs"] = session.runs;
	json["metadata"] = session.metadata;
	json["preserve_ns"] = session.preserve_ns;
	json["freeze_ns"] = session.freeze_ns;
	json["retrieve_ns"] = session.retrieve_ns;
	if (session.operation)
		json["operation"] = {{"what", name_of(operations, session.operation)},
				     {"token", session.token},
				     {"handler", text(session.handler)},
				     {"done", session.done},
				     {"total", session.total}};
	if (kept)
		json["owner"] = {{"uid", kept->owner.uid}, {"gid", kept->owner.gid}};
	return json;
}

Json to_json(const liveupdate_ferry_file &file)
{
	return {{"token", file.token},
		{"handler", text(file.handler)},
		{"label", text(file.label)},
		{"state", name_of(file_states, file.state)},
		{"error", file.error},
		{"bytes", file.bytes},
		{"runs", file.runs},
		{"metadata", file.metadata},
		{"preserve_ns", file.preserve_ns},
		{"freeze_ns", file.freeze_ns},
		{"retrieve_ns", file.retrieve_ns},
		{"needs", file.needs}};
}

std::string state_of(const liveupdate_ferry_session &session)
{
	std::string state = name_of(session_states, session.state);
	if (session.flags & LIVEUPDATE_FERRY_KEYED)
		state += ", key";
	if (session.operation)
		state = name_of(operations, session.operation) + " " +
			std::to_string(session.token);
	if (session.operation && session.total)
		state += " " +
			 std::to_string(static_cast<double>(session.done) * 100 /
					static_cast<double>(session.total))
				 .substr(0, 4) +
			 "%";
	return state;
}

const luod::Listed *find(const std::vector<luod::Listed> &kept, const std::string &name,
			 bool incoming)
{
	auto at = std::ranges::find_if(kept, [&](auto &each) {
		return each.name == name && (each.direction == luod::Direction::in) == incoming;
	});
	return at == kept.end() ? nullptr : &*at;
}

// What luod has, where the kernel cannot say.
void show_kept(Context &context, const std::vector<luod::Listed> &kept)
{
	Json json = Json::array();
	Table table({"SESSION", "WAY", "OWNER", "HELD"});
	for (const auto &each : kept) {
		bool in = each.direction == luod::Direction::in;
		json.push_back({{"name", each.name},
				{"direction", in ? "in" : "out"},
				{"owner", {{"uid", each.owner.uid}, {"gid", each.owner.gid}}},
				{"held", each.held}});
		table.add({each.name, in ? "in" : "out", std::to_string(each.owner.uid),
			   each.held ? "yes" : "no"});
	}
	if (context.json)
		context.out << Json({{"sessions", json}}).dump(2) << "\n";
	else
		table.print(context.out);
}

Outcome<> show_all(Context &context, const std::vector<liveupdate_ferry_session> &sessions,
		   const std::vector<luod::Listed> &kept)
{
	Json json = Json::array();
	Table table({"SESSION", "WAY", "STATE", "FILES", "MEMORY", "POLICY", "OWNER"});
	table.right(3).right(4);
	for (const auto &session : sessions) {
		bool in = session.flags & LIVEUPDATE_FERRY_INCOMING;
		auto *owner = find(kept, text(session.name), in);
		json.push_back(to_json(session, owner));
		table.add({clean(text(session.name)), in ? "in" : "out", state_of(session),
			   std::to_string(session.files), bytes(session.bytes), policy_of(session),
			   owner ? std::to_string(owner->owner.uid) : "-"});
	}
	if (context.json)
		context.out << Json({{"sessions", json}}).dump(2) << "\n";
	else if (sessions.empty())
		context.out << "There are no sessions.\n";
	else
		table.print(context.out);
	return {};
}

Outcome<> show_files(Context &context, Device &device,
		     const std::vector<liveupdate_ferry_session> &sessions, const std::string &name)
{
	Json json = Json::array();
	for (const auto &session : sessions) {
		if (text(session.name) != name)
			continue;
		bool in = session.flags & LIVEUPDATE_FERRY_INCOMING;
		auto files = device.files(name, in);
		if (!files)
			return failed(files.error());
		Json entry = to_json(session, nullptr);
		entry["files"] = Json::array();
		Table table({"TOKEN", "KIND", "STATE", "MEMORY", "RUNS", "PRESERVE", "FREEZE",
			     "RETRIEVE"});
		for (std::size_t column : {0, 3, 4, 5, 6, 7})
			table.right(column);
		for (const auto &file : *files) {
			entry["files"].push_back(to_json(file));
			table.add({std::to_string(file.token), clean(text(file.handler)),
				   name_of(file_states, file.state), bytes(file.bytes),
				   std::to_string(file.runs), duration(file.preserve_ns),
				   duration(file.freeze_ns), duration(file.retrieve_ns)});
		}
		json.push_back(std::move(entry));
		if (context.json)
			continue;
		context.out << "Session " << clean(name)
			    << (in ? ", of the last kernel: " : ", for the next kernel: ")
			    << state_of(session) << ", policy " << policy_of(session) << "\n";
		table.print(context.out);
	}
	if (json.empty())
		return fail(Exit::failed, "there is no session '" + clean(name) + "'");
	if (context.json)
		context.out << Json({{"sessions", json}}).dump(2) << "\n";
	return {};
}

} // namespace

Outcome<> list(Context &context, const std::string &name)
{
	std::vector<luod::Listed> kept;
	auto luod = TRY(find_luod(context));
	if (luod) {
		if (auto all = luod->list())
			kept = std::move(*all);
	}
	auto device = TRY(open_device());
	auto sessions = device.sessions();
	if (!sessions && sessions.error() == std::errc::operation_not_supported && luod &&
	    name.empty()) {
		context.notes << "This kernel does not list its sessions; these are luod's.\n";
		show_kept(context, kept);
		return {};
	}
	if (!sessions)
		return failed(sessions.error());
	if (name.empty())
		return show_all(context, *sessions, kept);
	return show_files(context, device, *sessions, name);
}

// ---- preserve ----

namespace {

// Shows how far the kernel is with a session while something else works on it.
class Watch {
    public:
	Watch(Context &context, const Session &session, std::string what)
		: bar_(context.notes, context.terminal, context.width, std::move(what))
	{
		thread_ = std::jthread([this, &session](std::stop_token stop) {
			while (!stop.stop_requested()) {
				// Not for what is done at once.
				std::this_thread::sleep_for(std::chrono::milliseconds(100));
				auto info = session.info();
				if (info && info->operation)
					bar_.show(info->done, info->total, bytes(info->done));
				else if (!info)
					bar_.show(0, 0, "");
			}
		});
	}

    private:
	Bar bar_;
	std::jthread thread_; // ends before the bar
};

Outcome<> preserve_files(Context &context, Session &session, const std::vector<TokenFile> &files,
			 std::vector<Fd> &opened)
{
	for (std::size_t i = 0; i < files.size(); ++i) {
		Watch watch(context, session, "Preserving " + clean(files[i].path));
		if (auto done = session.preserve(opened[i].get(), files[i].token); !done) {
			auto why = failed(done.error());
			why.error().text = files[i].path + ": " + why.error().text;
			return why;
		}
	}
	return {};
}

Outcome<> hold(Context &context, const std::string &name)
{
	context.notes << "Session '" << name
		      << "' is held; it is undone when this ends (Ctrl-C, SIGTERM).\n"
		      << std::flush;
	sigset_t ends;
	::sigemptyset(&ends);
	for (int signal : {SIGINT, SIGTERM, SIGHUP})
		::sigaddset(&ends, signal);
	::sigprocmask(SIG_BLOCK, &ends, nullptr);
	int got = 0;
	::sigwait(&ends, &got);
	return {};
}

Outcome<Session> create(Context &context, std::optional<luod::Client> &luod,
			const PreserveOptions &options)
{
	luod::Client::Options terms{.policy = options.policy, .deadline_ms = {}, .key = {}};
	if (options.deadline_s)
		terms.deadline_ms = *options.deadline_s * 1000;
	if (!options.key_file.empty())
		terms.key = TRY(read_key(options.key_file));
	if (luod) {
		auto session = luod->create(options.session, terms);
		if (!session)
			return failed(session.error());
		return std::move(*session);
	}
	if (!options.hold)
		return fail(Exit::missing,
			    "luod does not run at " + context.socket +
				    ", and a session lives as long as somebody holds it: "
				    "start luod, or give --hold");
	auto device = TRY(open_device());
	lu_session_options plain{};
	plain.size = sizeof(plain);
	plain.policy = terms.policy == "keep"	    ? LIVEUPDATE_FERRY_POLICY_KEEP
		       : terms.policy == "deadline" ? LIVEUPDATE_FERRY_POLICY_DEADLINE
						    : LIVEUPDATE_FERRY_POLICY_FINISH;
	plain.deadline_ms = terms.deadline_ms.value_or(0);
	plain.key = terms.key ? terms.key->data() : nullptr;
	bool ordinary = terms.policy.empty() && !terms.key && !terms.deadline_ms;
	auto session = ordinary ? device.create(options.session)
				: device.create(options.session, plain);
	if (!session)
		return failed(session.error());
	return std::move(*session);
}

} // namespace

Outcome<> preserve(Context &context, const PreserveOptions &options)
{
	auto files = TRY(parse_files(options.files));
	std::vector<Fd> opened;
	for (const auto &file : files) {
		// Also for writing where that is allowed: as which it comes back, anyway.
		Fd fd(::open(file.path.c_str(), O_RDWR | O_CLOEXEC));
		if (!fd)
			fd.reset(::open(file.path.c_str(), O_RDONLY | O_CLOEXEC));
		if (!fd)
			return failed(file.path, errno);
		opened.push_back(std::move(fd));
	}
	std::optional<luod::Client> luod;
	if (!options.hold)
		luod = TRY(find_luod(context));
	auto session = TRY(create(context, luod, options));
	auto done = preserve_files(context, session, files, opened);
	if (!done) {
		// All or nothing.
		if (luod)
			static_cast<void>(luod->drop(options.session));
		return done;
	}
	if (context.json)
		context.out << Json({{"session", options.session}, {"files", files.size()}}).dump()
			    << "\n";
	else
		context.notes << "Session '" << options.session << "' has "
			      << count(files.size(), "file", "files") << " for the next kernel.\n";
	return options.hold ? hold(context, options.session) : Outcome<>{};
}

// ---- retrieve ----

namespace {

// Before anything is retrieved: what cannot be written must not cost the session.
Outcome<Fd> open_output(const std::string &path, bool force)
{
	int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (force ? O_TRUNC : O_EXCL);
	Fd file(path == "-" ? ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
			    : ::open(path.c_str(), flags, 0600));
	if (!file)
		return failed(path, errno);
	return file;
}

// The file as it is, with its holes.
Outcome<> copy_out(Context &context, int from, const Fd &file, const std::string &path)
{
	struct stat is;
	if (::fstat(from, &is) < 0)
		return failed("look at the file", errno);
	bool to_stdout = path == "-";
	if (!to_stdout && ::ftruncate(file.get(), is.st_size) < 0)
		return failed(path, errno);
	Bar bar(context.notes, context.terminal, context.width, "Writing " + clean(path));
	std::vector<char> part(1 << 20);
	for (off_t at = 0; at < is.st_size;) {
		if (!to_stdout) {
			off_t data = ::lseek(from, at, SEEK_DATA);
			if (data < 0 && errno == ENXIO)
				break;
			at = data < 0 ? at : data;
		}
		auto size = ::pread(from, part.data(), part.size(), at);
		if (size < 0)
			return failed("read the file", errno);
		if (!size)
			break;
		auto put =
			to_stdout ? ::write(file.get(), part.data(), static_cast<std::size_t>(size))
				  : ::pwrite(file.get(), part.data(),
					     static_cast<std::size_t>(size), at);
		if (put <= 0)
			return failed(path, put < 0 ? errno : EIO);
		at += put;
		bar.show(static_cast<std::uint64_t>(at), static_cast<std::uint64_t>(is.st_size),
			 bytes(static_cast<std::uint64_t>(at)));
	}
	return {};
}

} // namespace

Outcome<> retrieve(Context &context, const RetrieveOptions &options)
{
	auto files = TRY(parse_files(options.files));
	std::optional<liveupdate::Key> key;
	if (!options.key_file.empty())
		key = TRY(read_key(options.key_file));
	std::vector<Fd> outputs;
	for (const auto &file : files)
		outputs.push_back(TRY(open_output(file.path, options.force)));
	auto luod = TRY(find_luod(context));
	bool kept = false;
	if (luod) {
		auto all = luod->list();
		kept = all && find(*all, options.session, true);
	}
	Session session;
	if (kept) {
		auto got = luod->get(options.session, luod::Direction::in, key);
		if (!got)
			return failed(got.error());
		session = std::move(*got);
	} else {
		if (!options.finish)
			return fail(Exit::usage,
				    "luod does not keep this session, and so it is finished when "
				    "luctl ends: say that with --finish");
		auto device = TRY(open_device());
		auto got = key ? device.retrieve(options.session, *key)
			       : device.retrieve(options.session);
		if (!got)
			return failed(got.error());
		session = std::move(*got);
		// If it goes wrong, the session waits again; Linux's cannot do that.
		static_cast<void>(session.set_policy(LIVEUPDATE_FERRY_POLICY_DEADLINE,
						     std::chrono::hours(1)));
	}
	for (std::size_t i = 0; i < files.size(); ++i) {
		const auto &file = files[i];
		Outcome<Fd> fd = [&]() -> Outcome<Fd> {
			Watch watch(context, session,
				    "Retrieving token " + std::to_string(file.token));
			auto got = session.retrieve(file.token);
			if (!got)
				return failed(got.error());
			return std::move(*got);
		}();
		if (!fd)
			return std::unexpected(fd.error());
		CHECK(copy_out(context, fd->get(), outputs[i], file.path));
	}
	if (!options.finish)
		return {};
	if (kept) {
		if (auto done = luod->finish(options.session); !done)
			return failed(done.error());
	} else if (auto done = session.finish(); !done) {
		return failed(done.error());
	}
	return {};
}

Outcome<> finish(Context &context, const std::string &name, bool discard)
{
	auto luod = TRY(find_luod(context));
	if (luod && !discard) {
		auto all = luod->list();
		if (all && find(*all, name, true)) {
			if (auto done = luod->finish(name); !done)
				return failed(done.error());
			return {};
		}
	}
	auto device = TRY(open_device());
	if (discard) {
		if (auto done = device.discard(name); !done)
			return failed(done.error());
		return {};
	}
	auto session = device.retrieve(name);
	if (!session)
		return failed(session.error());
	if (auto done = session->finish(); !done)
		return failed(done.error());
	return {};
}

Outcome<> renew(Context &context, const std::string &name)
{
	auto luod = TRY(find_luod(context));
	if (!luod)
		return fail(Exit::missing,
			    "luod does not run at " + context.socket +
				    ": nobody else could hold the session afterwards");
	if (auto done = luod->renew(name); !done)
		return failed(done.error());
	return {};
}

} // namespace luctl
