// SPDX-License-Identifier: GPL-2.0
#include "tools/luod/keeper.hh"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/luod/server.hh"

namespace luod {

Notice parse_notice(std::string_view text)
{
	Notice notice;
	while (!text.empty()) {
		auto line = text.substr(0, text.find('\n'));
		text.remove_prefix(std::min(text.size(), line.size() + 1));
		if (line == "FDSTORE=1")
			notice.store = true;
		else if (line == "FDSTOREREMOVE=1")
			notice.remove = true;
		else if (line == "READY=1")
			notice.ready = true;
		else if (line.starts_with("FDNAME="))
			notice.name = line.substr(7);
	}
	return notice;
}

namespace {

constexpr std::size_t max_kept = 4096;
// A luod that dies at once is not started more often than this.
constexpr timespec pause_between = {.tv_sec = 0, .tv_nsec = 100'000'000};

class Keeper {
    public:
	Keeper(std::string path, const std::vector<std::string> &command)
		: path_(std::move(path)), command_(command)
	{
	}
	int run();

    private:
	Outcome<> prepare();
	Outcome<> start();
	[[noreturn]] void become_child();
	void hear();
	void take(const Notice &notice, std::vector<liveupdate::Fd> fds);
	// The exit status, when that was the end.
	std::optional<int> on_signal();
	std::optional<int> on_exit(int status);

	std::string path_;
	const std::vector<std::string> &command_;
	liveupdate::Fd bus_, notices_, signals_;
	std::string notices_name_;
	sigset_t before_{};
	std::vector<Kept> kept_;
	pid_t child_ = -1;
	bool stopping_ = false;
};

Outcome<> Keeper::prepare()
{
	auto bus = listen_at(path_);
	if (!bus)
		return std::unexpected(bus.error());
	bus_ = std::move(*bus);
	// Bound by the kernel to an abstract name of its choice; whose datagrams are heard,
	// credentials decide.
	notices_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	sockaddr_un address{};
	address.sun_family = AF_UNIX;
	socklen_t size = sizeof(address.sun_family);
	int on = 1;
	auto at = reinterpret_cast<sockaddr *>(&address);
	if (!notices_ ||
	    ::setsockopt(notices_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
	    ::bind(notices_.get(), at, size) < 0)
		return failed("listen to luod", errno);
	size = sizeof(address);
	if (::getsockname(notices_.get(), at, &size) < 0)
		return failed("listen to luod", errno);
	notices_name_.assign("@").append(address.sun_path + 1,
					 size - offsetof(sockaddr_un, sun_path) - 1);
	sigset_t wanted;
	::sigemptyset(&wanted);
	for (int signal : {SIGTERM, SIGINT, SIGCHLD})
		::sigaddset(&wanted, signal);
	if (::sigprocmask(SIG_BLOCK, &wanted, &before_) < 0)
		return failed("block signals", errno);
	signals_.reset(::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
	if (!signals_)
		return failed("wait for signals", errno);
	return {};
}

// In the child: descriptors from 3 on, without gaps, as sd_listen_fds(3) says.
void Keeper::become_child()
{
	std::vector<int> given = {bus_.get()};
	std::string names = "bus";
	for (auto &[name, fd] : kept_) {
		given.push_back(fd.get());
		names += ":" + name;
	}
	// First all out of the way of the places that they are to have.
	int count = static_cast<int>(given.size());
	for (int &fd : given)
		fd = ::fcntl(fd, F_DUPFD_CLOEXEC, 3 + count);
	for (int i = 0; i < count; ++i) {
		if (given[static_cast<std::size_t>(i)] < 0 ||
		    ::dup2(given[static_cast<std::size_t>(i)], 3 + i) < 0)
			::_exit(EXIT_FAILURE);
	}
	::setenv("LISTEN_FDS", std::to_string(count).c_str(), 1);
	::setenv("LISTEN_FDNAMES", names.c_str(), 1);
	::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
	::setenv("NOTIFY_SOCKET", notices_name_.c_str(), 1);
	::sigprocmask(SIG_SETMASK, &before_, nullptr);
	std::vector<char *> argv;
	for (const auto &word : command_)
		argv.push_back(const_cast<char *>(word.c_str()));
	argv.push_back(nullptr);
	::execv(argv[0], argv.data());
	std::fprintf(stderr, "luod: cannot run %s: %s\n", argv[0], std::strerror(errno));
	::_exit(127);
}

Outcome<> Keeper::start()
{
	child_ = ::fork();
	if (child_ < 0)
		return failed("start luod", errno);
	if (!child_) {
		// Without its keeper luod would not be found again.
		::prctl(PR_SET_PDEATHSIG, SIGTERM);
		become_child();
	}
	return {};
}

void Keeper::take(const Notice &notice, std::vector<liveupdate::Fd> fds)
{
	if (notice.remove)
		std::erase_if(kept_, [&](auto &each) { return each.name == notice.name; });
	bool named = !notice.name.empty() && !notice.name.contains(':');
	if (!notice.store || !named)
		return;
	for (auto &fd : fds) {
		if (kept_.size() < max_kept)
			kept_.push_back({notice.name, std::move(fd)});
		else
			std::fprintf(stderr, "luod: the fd store is full\n");
	}
}

// Everything that has been said so far.
void Keeper::hear()
{
	for (;;) {
		std::array<char, 4096> text;
		alignas(cmsghdr)
			std::array<char, CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(64 * sizeof(int))>
				control;
		iovec data{text.data(), text.size()};
		msghdr message{};
		message.msg_iov = &data;
		message.msg_iovlen = 1;
		message.msg_control = control.data();
		message.msg_controllen = control.size();
		ssize_t size = ::recvmsg(notices_.get(), &message, MSG_CMSG_CLOEXEC);
		if (size < 0)
			return;
		std::vector<liveupdate::Fd> fds;
		ucred from{};
		for (auto *at = CMSG_FIRSTHDR(&message); at; at = CMSG_NXTHDR(&message, at)) {
			std::size_t length = at->cmsg_len - CMSG_LEN(0);
			if (at->cmsg_type == SCM_CREDENTIALS && length >= sizeof(from))
				std::memcpy(&from, CMSG_DATA(at), sizeof(from));
			for (std::size_t i = 0;
			     at->cmsg_type == SCM_RIGHTS && i < length / sizeof(int); ++i) {
				int fd;
				std::memcpy(&fd, CMSG_DATA(at) + i * sizeof(int), sizeof(fd));
				fds.emplace_back(fd);
			}
		}
		if (from.pid == child_)
			take(parse_notice({text.data(), static_cast<std::size_t>(size)}),
			     std::move(fds));
	}
}

std::optional<int> Keeper::on_exit(int status)
{
	// What it said last still counts.
	hear();
	child_ = -1;
	bool well = WIFEXITED(status) && !WEXITSTATUS(status);
	if (well || stopping_)
		return well ? 0 : EXIT_FAILURE;
	std::fprintf(stderr, "luod: ended with %s %d: starting it again, with %zu descriptors\n",
		     WIFSIGNALED(status) ? "signal" : "status",
		     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), kept_.size());
	::nanosleep(&pause_between, nullptr);
	if (auto started = start(); !started) {
		std::fprintf(stderr, "luod: %s\n", started.error().text.c_str());
		return EXIT_FAILURE;
	}
	return {};
}

std::optional<int> Keeper::on_signal()
{
	signalfd_siginfo info;
	while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGCHLD) {
			int status = 0;
			if (::waitpid(child_, &status, WNOHANG) != child_)
				continue;
			if (auto end = on_exit(status))
				return end;
		} else {
			stopping_ = true;
			::kill(child_, SIGTERM);
		}
	}
	return {};
}

int Keeper::run()
{
	auto ready = prepare();
	if (ready)
		ready = start();
	if (!ready) {
		std::fprintf(stderr, "luod: %s\n", ready.error().text.c_str());
		return EXIT_FAILURE;
	}
	for (;;) {
		pollfd wanted[] = {{notices_.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}};
		if (::poll(wanted, 2, -1) < 0 && errno != EINTR)
			return EXIT_FAILURE;
		hear();
		if (auto end = on_signal()) {
			::unlink(path_.c_str());
			return *end;
		}
	}
}

} // namespace

int run_keeper(const std::string &path, const std::vector<std::string> &command)
{
	return Keeper(path, command).run();
}

} // namespace luod
