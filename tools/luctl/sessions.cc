// SPDX-License-Identifier: GPL-2.0
// The commands that change sessions.
#include "tools/luctl/sessions.hh"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <thread>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/luctl/output.hh"

using liveupdate::Device;
using liveupdate::Fd;
using liveupdate::Session;

namespace luctl {

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

// A box's session is fdbox's, whatever key is given.
Outcome<> check_no_box(const Device &device, const std::string &name)
{
	for (const auto &session :
	     device.sessions().value_or(std::vector<liveupdate_ferry_session>())) {
		auto box = box_of(session);
		if (!box || text(session.name) != name ||
		    !(session.flags & LIVEUPDATE_FERRY_INCOMING))
			continue;
		// One that waits fdbox does not have: its module is not loaded, or refused it.
		if (session.state == LIVEUPDATE_FERRY_SESSION_WAITING)
			return fail(Exit::failed,
				    "'" + name +
					    "' is a box: load fdbox, which gives it back; or "
					    "release it (finish --discard)");
		return fail(Exit::failed, "'" + name +
						  "' is a box: it is got out, and released, at "
						  "/dev/fdbox/" +
						  *box);
	}
	return {};
}

// A file to write. One that is new goes again, unless all of it was written.
class Output {
    public:
	// Before anything is retrieved: what cannot be written must not cost the session, nor
	// must a session that cannot be retrieved cost what is there.
	static Outcome<Output> open(const std::string &path, bool force)
	{
		if (path == "-")
			return Output(Fd(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)), {});
		Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
		if (file)
			return Output(std::move(file), path);
		if (force && errno == EEXIST)
			file.reset(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
		if (!file)
			return failed(path, errno);
		return Output(std::move(file), {});
	}
	Output(Output &&other) noexcept
		: file_(std::move(other.file_)), made_(std::exchange(other.made_, {}))
	{
	}
	Output &operator=(Output &&) = delete;
	~Output()
	{
		if (!made_.empty())
			::unlink(made_.c_str());
	}
	int get() const
	{
		return file_.get();
	}
	void done()
	{
		made_.clear();
	}

    private:
	Output(Fd file, std::string made) : file_(std::move(file)), made_(std::move(made))
	{
	}

	Fd file_;
	std::string made_;
};

// The file as it is, with its holes.
Outcome<> copy_out(Context &context, int from, Output &file, const std::string &path)
{
	struct stat is;
	if (::fstat(from, &is) < 0)
		return failed("look at the file", errno);
	bool to_stdout = path == "-";
	// Empty first, so that what was there does not show through the holes.
	if (!to_stdout &&
	    (::ftruncate(file.get(), 0) < 0 || ::ftruncate(file.get(), is.st_size) < 0))
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
	file.done();
	return {};
}

} // namespace

Outcome<> retrieve(Context &context, const RetrieveOptions &options)
{
	auto files = TRY(parse_files(options.files));
	std::optional<liveupdate::Key> key;
	if (!options.key_file.empty())
		key = TRY(read_key(options.key_file));
	std::vector<Output> outputs;
	for (const auto &file : files)
		outputs.push_back(TRY(Output::open(file.path, options.force)));
	auto luod = TRY(find_luod(context));
	bool kept = false;
	if (luod) {
		auto all = luod->list();
		kept = all && find_kept(*all, options.session, true);
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
		CHECK(check_no_box(device, options.session));
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
		if (all && find_kept(*all, name, true)) {
			if (auto done = luod->finish(name); !done)
				return failed(done.error());
			return {};
		}
	}
	auto device = TRY(open_device());
	if (discard) {
		auto done = device.discard(name);
		if (!done && done.error() == std::errc::device_or_resource_busy)
			CHECK(check_no_box(device, name));
		if (!done)
			return failed(done.error());
		return {};
	}
	CHECK(check_no_box(device, name));
	auto session = device.retrieve(name);
	if (!session)
		return failed(session.error());
	if (auto done = session->finish(); !done)
		return failed(done.error());
	return {};
}

Outcome<> drop(Context &context, const std::string &name)
{
	auto luod = TRY(find_luod(context));
	if (!luod)
		return fail(Exit::missing, "luod does not run at " + context.socket);
	if (auto done = luod->drop(name); !done)
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
