// SPDX-License-Identifier: GPL-2.0
#include "selftests/tools/kernel.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/lib/sys.h"

namespace fake {

namespace {

Kernel *running;

ino_t inode_of(int fd)
{
	struct stat is{};
	return ::fstat(fd, &is) < 0 ? 0 : is.st_ino;
}

// A descriptor, and what tells when its last copy is closed.
int descriptor(liveupdate::Fd &watch, ino_t &inode)
{
	int ends[2];
	if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	watch.reset(ends[1]);
	inode = inode_of(ends[0]);
	return ends[0];
}

bool closed(const liveupdate::Fd &watch)
{
	pollfd is{watch.get(), 0, 0};
	return ::poll(&is, 1, 0) == 1 && (is.revents & POLLHUP);
}

template <typename T> T &argument(void *arg)
{
	return *static_cast<T *>(arg);
}

template <typename Text> std::string text(const Text &name)
{
	auto at = reinterpret_cast<const char *>(name);
	return {at, ::strnlen(at, sizeof(name))};
}

template <typename Arg> bool valid(const Arg &arg)
{
	return arg.size >= sizeof(arg.size) && !text(arg.name).empty() &&
	       text(arg.name).size() < sizeof(arg.name);
}

// A list of the kernel's, for a program that may know less of an entry.
template <typename Arg, typename Entry> int give(Arg &arg, const std::vector<Entry> &list)
{
	if (arg.entry_size < sizeof(Entry))
		return -EINVAL;
	unsigned int room = arg.nr;
	arg.nr = static_cast<unsigned int>(list.size());
	if (room < list.size())
		return -ENOSPC;
	auto to = reinterpret_cast<char *>(static_cast<std::uintptr_t>(arg.entries));
	for (const Entry &entry : list) {
		std::memset(to, 0, arg.entry_size);
		std::memcpy(to, &entry, sizeof(entry));
		to += arg.entry_size;
	}
	return 0;
}

bool keeps_on_close(const Session &session)
{
	return session.policy != LIVEUPDATE_FERRY_POLICY_FINISH && !session.finished;
}

} // namespace

Kernel::Kernel(bool is_ferry) : ferry(is_ferry)
{
	running = this;
}

Kernel::~Kernel()
{
	running = nullptr;
}

void Kernel::sweep()
{
	std::erase_if(openers_, [](auto &opener) { return closed(opener.watch); });
	std::erase_if(sessions_, [](auto &session) {
		if (!session->held || session->module || !closed(session->watch))
			return false;
		session->held = false;
		return !session->incoming || !keeps_on_close(*session);
	});
}

void Kernel::kexec()
{
	sweep();
	std::erase_if(sessions_, [](auto &session) { return session->incoming; });
	for (auto &session : sessions_) {
		session->incoming = true;
		session->held = false;
		session->watch.reset();
		session->inode = 0;
	}
	openers_.clear();
	++updates_;
}

void Kernel::make_box(const std::string &name, bool incoming, bool held)
{
	Session session{};
	session.name = "fdbox:" + name;
	session.incoming = incoming;
	session.module = true;
	session.held = held;
	session.policy = LIVEUPDATE_FERRY_POLICY_KEEP;
	sessions_.push_back(std::make_unique<Session>(std::move(session)));
}

Session *Kernel::find(const std::string &name, bool incoming)
{
	auto at = std::ranges::find_if(sessions_, [&](auto &session) {
		return session->name == name && session->incoming == incoming;
	});
	return at == sessions_.end() ? nullptr : at->get();
}

Session *Kernel::find(int fd)
{
	ino_t inode = inode_of(fd);
	auto at = std::ranges::find_if(
		sessions_, [&](auto &session) { return session->held && session->inode == inode; });
	return at == sessions_.end() ? nullptr : at->get();
}

const Session *Kernel::outgoing(const std::string &name)
{
	sweep();
	return find(name, false);
}

const Session *Kernel::incoming(const std::string &name)
{
	sweep();
	return find(name, true);
}

std::size_t Kernel::sessions()
{
	sweep();
	return sessions_.size();
}

void Kernel::arm(unsigned int nth, Fault fault, int error)
{
	armed_ = nth;
	fault_ = fault;
	error_ = error;
	calls_ = 0;
}

bool Kernel::disarm()
{
	bool struck = armed_ && calls_ >= armed_;
	armed_ = 0;
	return struck;
}

int Kernel::strike(bool before, int result)
{
	calls_ += before;
	if (!armed_ || calls_ != armed_)
		return result;
	if (fault_ == Fault::error && before)
		return -error_;
	if (fault_ == (before ? Fault::kill_before : Fault::kill_after)) {
		// What the process had just got, it takes along.
		if (!before && result > 0)
			::close(result);
		throw Killed();
	}
	return result;
}

int Kernel::open(bool shared)
{
	if (int error = strike(true, 0); error)
		return error;
	sweep();
	if (!present)
		return -ENOENT;
	if (!(shared && ferry) && (busy || !openers_.empty()))
		return -EBUSY;
	liveupdate::Fd watch;
	ino_t inode = 0;
	int fd = descriptor(watch, inode);
	if (fd >= 0)
		openers_.push_back({std::move(watch), inode});
	return strike(false, fd);
}

int Kernel::hand_out(Session &session, int &fd)
{
	fd = descriptor(session.watch, session.inode);
	session.held = fd >= 0;
	return fd < 0 ? fd : 0;
}

int Kernel::create(Session session, int &fd)
{
	if (find(session.name, false))
		return -EEXIST;
	sessions_.push_back(std::make_unique<Session>(std::move(session)));
	return hand_out(*sessions_.back(), fd);
}

int Kernel::retrieve(const std::string &name, const liveupdate::Key *key, int &fd)
{
	Session *session = find(name, true);
	if (!session)
		return -ENOENT;
	if (session->keyed && (!key || *key != session->key)) {
		++session->refused;
		return -EPERM;
	}
	if (session->held)
		return -EINVAL;
	return hand_out(*session, fd);
}

int Kernel::device_call(unsigned long request, void *arg)
{
	switch (request) {
	case LIVEUPDATE_IOCTL_CREATE_SESSION: {
		auto &create_arg = argument<liveupdate_ioctl_create_session>(arg);
		if (!valid(create_arg))
			return -EINVAL;
		Session session;
		session.name = text(create_arg.name);
		return create(std::move(session), create_arg.fd);
	}
	case LIVEUPDATE_IOCTL_RETRIEVE_SESSION: {
		auto &retrieve_arg = argument<liveupdate_ioctl_retrieve_session>(arg);
		if (!valid(retrieve_arg))
			return -EINVAL;
		return retrieve(text(retrieve_arg.name), nullptr, retrieve_arg.fd);
	}
	default:
		return ferry ? ferry_device_call(request, arg) : -EINVAL;
	}
}

liveupdate_ferry_session Kernel::describe(const Session &session) const
{
	liveupdate_ferry_session is{};
	session.name.copy(reinterpret_cast<char *>(is.name), sizeof(is.name) - 1);
	is.state = !session.incoming  ? LIVEUPDATE_FERRY_SESSION_OPEN
		   : !session.held    ? LIVEUPDATE_FERRY_SESSION_WAITING
		   : session.finished ? LIVEUPDATE_FERRY_SESSION_FINISHED
				      : LIVEUPDATE_FERRY_SESSION_RETRIEVED;
	is.flags = (session.incoming ? LIVEUPDATE_FERRY_INCOMING : 0) |
		   (session.keyed ? LIVEUPDATE_FERRY_KEYED : 0) |
		   (session.module ? LIVEUPDATE_FERRY_OF_MODULE : 0);
	is.policy = session.policy;
	is.refused = session.refused;
	is.deadline_ms = session.deadline_ms;
	is.left_ms = LIVEUPDATE_FERRY_NO_DEADLINE;
	is.files = session.files.size();
	for (const File &file : session.files) {
		struct stat stat{};
		if (!::fstat(file.file.get(), &stat))
			is.bytes += static_cast<std::uint64_t>(stat.st_blocks) * 512;
	}
	return is;
}

int Kernel::ferry_device_call(unsigned long request, void *arg)
{
	auto count = [&](auto &&what) {
		return static_cast<unsigned int>(std::ranges::count_if(
			sessions_, [&](auto &session) { return what(*session); }));
	};
	switch (request) {
	case LIVEUPDATE_FERRY_GET_INFO: {
		auto &info = argument<liveupdate_ferry_info>(arg);
		info.features = LIVEUPDATE_FERRY_FEATURE_KEYS |
				LIVEUPDATE_FERRY_FEATURE_SHARED_OPEN |
				LIVEUPDATE_FERRY_FEATURE_POLICIES | LIVEUPDATE_FERRY_FEATURE_RENEW |
				LIVEUPDATE_FERRY_FEATURE_STATISTICS;
		info.update = updates_;
		info.failures = failure.number;
		info.incoming = count([](auto &session) { return session.incoming; });
		info.outgoing = static_cast<unsigned int>(sessions_.size()) - info.incoming;
		info.waiting =
			count([](auto &session) { return session.incoming && !session.held; });
		info.openers = static_cast<unsigned int>(openers_.size());
		return 0;
	}
	case LIVEUPDATE_FERRY_CREATE_SESSION: {
		auto &create_arg = argument<liveupdate_ferry_create_session>(arg);
		if (!valid(create_arg) || (create_arg.policy == LIVEUPDATE_FERRY_POLICY_DEADLINE) !=
						  (create_arg.deadline_ms > 0))
			return -EINVAL;
		Session session;
		session.name = text(create_arg.name);
		session.policy = create_arg.policy;
		session.deadline_ms = create_arg.deadline_ms;
		session.keyed = create_arg.flags & LIVEUPDATE_FERRY_KEY;
		std::ranges::copy(create_arg.key, session.key.begin());
		return create(std::move(session), create_arg.fd);
	}
	case LIVEUPDATE_FERRY_RETRIEVE_SESSION: {
		auto &retrieve_arg = argument<liveupdate_ferry_retrieve_session>(arg);
		if (!valid(retrieve_arg))
			return -EINVAL;
		liveupdate::Key key;
		std::ranges::copy(retrieve_arg.key, key.begin());
		return retrieve(text(retrieve_arg.name),
				retrieve_arg.flags & LIVEUPDATE_FERRY_KEY ? &key : nullptr,
				retrieve_arg.fd);
	}
	case LIVEUPDATE_FERRY_DISCARD_SESSION: {
		auto &discard_arg = argument<liveupdate_ferry_discard_session>(arg);
		Session *session = find(text(discard_arg.name), true);
		if (!session)
			return -ENOENT;
		if (session->held)
			return -EBUSY;
		std::erase_if(sessions_, [&](auto &each) { return each.get() == session; });
		return 0;
	}
	case LIVEUPDATE_FERRY_LIST_SESSIONS: {
		std::vector<liveupdate_ferry_session> list;
		for (bool incoming : {false, true}) {
			for (auto &session : sessions_) {
				if (session->incoming == incoming)
					list.push_back(describe(*session));
			}
		}
		return give(argument<liveupdate_ferry_list_sessions>(arg), list);
	}
	case LIVEUPDATE_FERRY_LIST_FILES: {
		auto &files_arg = argument<liveupdate_ferry_list_files>(arg);
		Session *session =
			find(text(files_arg.name), files_arg.flags & LIVEUPDATE_FERRY_INCOMING);
		if (!session)
			return -ENOENT;
		std::vector<liveupdate_ferry_file> list;
		for (const File &file : session->files) {
			liveupdate_ferry_file is{};
			is.token = file.token;
			is.state = !session->incoming ? LIVEUPDATE_FERRY_FILE_PRESERVED
				   : file.retrieved   ? LIVEUPDATE_FERRY_FILE_RETRIEVED
						      : LIVEUPDATE_FERRY_FILE_WAITING;
			std::strcpy(reinterpret_cast<char *>(is.handler), "memfd-v1");
			list.push_back(is);
		}
		return give(files_arg, list);
	}
	case LIVEUPDATE_FERRY_GET_UPDATE: {
		auto &update = argument<liveupdate_ferry_update>(arg);
		if (!updates_)
			return -ENOENT;
		update.number = updates_;
		update.freeze_ns = 1'000'000;
		update.jump_ns = 2'000'000'000;
		update.boot_ns = 500'000'000;
		return 0;
	}
	case LIVEUPDATE_FERRY_GET_FAILURE: {
		auto &failure_arg = argument<liveupdate_ferry_failure>(arg);
		if (!failure.number)
			return -ENOENT;
		auto size = failure_arg.size;
		failure_arg = failure;
		failure_arg.size = size;
		return 0;
	}
	default:
		return -EINVAL;
	}
}

int Kernel::session_call(Session &session, unsigned long request, void *arg)
{
	auto file_of = [&](std::uint64_t token) {
		return std::ranges::find(session.files, token, &File::token);
	};
	switch (request) {
	case LIVEUPDATE_SESSION_PRESERVE_FD: {
		auto &preserve = argument<liveupdate_session_preserve_fd>(arg);
		if (session.incoming)
			return -EINVAL;
		if (file_of(preserve.token) != session.files.end())
			return -EEXIST;
		liveupdate::Fd file(::fcntl(preserve.fd, F_DUPFD_CLOEXEC, 0));
		if (!file)
			return -EBADF;
		// As a handler would: memfds only.
		if (::fcntl(file.get(), F_GET_SEALS) < 0)
			return -ENOENT;
		session.files.push_back({preserve.token, std::move(file)});
		return 0;
	}
	case LIVEUPDATE_SESSION_RETRIEVE_FD: {
		auto &retrieve_arg = argument<liveupdate_session_retrieve_fd>(arg);
		if (!session.incoming || session.finished)
			return -EINVAL;
		auto file = file_of(retrieve_arg.token);
		if (file == session.files.end())
			return -ENOENT;
		file->retrieved = true;
		retrieve_arg.fd = ::fcntl(file->file.get(), F_DUPFD_CLOEXEC, 0);
		return retrieve_arg.fd < 0 ? -errno : 0;
	}
	case LIVEUPDATE_SESSION_FINISH:
		if (!session.incoming)
			return -EINVAL;
		session.finished = true;
		return 0;
	case LIVEUPDATE_SESSION_GET_NAME: {
		auto &name = argument<liveupdate_session_get_name>(arg).name;
		std::memset(name, 0, sizeof(name));
		session.name.copy(reinterpret_cast<char *>(name), sizeof(name) - 1);
		return 0;
	}
	default:
		return ferry ? ferry_session_call(session, request, arg) : -EINVAL;
	}
}

int Kernel::ferry_session_call(Session &session, unsigned long request, void *arg)
{
	switch (request) {
	case LIVEUPDATE_FERRY_SESSION_GET_INFO:
		argument<liveupdate_ferry_session_get_info>(arg).session = describe(session);
		return 0;
	case LIVEUPDATE_FERRY_SESSION_SET_POLICY: {
		auto &policy = argument<liveupdate_ferry_session_set_policy>(arg);
		if ((policy.policy == LIVEUPDATE_FERRY_POLICY_DEADLINE) != (policy.deadline_ms > 0))
			return -EINVAL;
		session.policy = policy.policy;
		session.deadline_ms = policy.deadline_ms;
		return 0;
	}
	case LIVEUPDATE_FERRY_SESSION_RENEW: {
		auto &renew = argument<liveupdate_ferry_session_renew>(arg);
		if (!session.incoming)
			return -EINVAL;
		if (find(session.name, false))
			return -EEXIST;
		std::erase_if(session.files, [&](File &file) {
			return !file.retrieved || !(renew.flags & LIVEUPDATE_FERRY_RENEW_FILES);
		});
		session.incoming = session.finished = false;
		return 0;
	}
	default:
		return -EINVAL;
	}
}

int Kernel::do_ioctl(int fd, unsigned long request, void *arg)
{
	sweep();
	if (::fcntl(fd, F_GETFD) < 0)
		return -EBADF;
	if (std::ranges::any_of(openers_,
				[&](auto &opener) { return opener.inode == inode_of(fd); }))
		return device_call(request, arg);
	if (Session *session = find(fd))
		return session_call(*session, request, arg);
	return -ENOTTY;
}

int Kernel::ioctl(int fd, unsigned long request, void *arg)
{
	if (int error = strike(true, 0); error)
		return error;
	int result = do_ioctl(fd, request, arg);
	// A killed process does not keep what it was given.
	if (!result && armed_ && calls_ == armed_ && fault_ == Fault::kill_after) {
		if (request == LIVEUPDATE_IOCTL_CREATE_SESSION ||
		    request == LIVEUPDATE_IOCTL_RETRIEVE_SESSION ||
		    request == LIVEUPDATE_SESSION_RETRIEVE_FD ||
		    request == LIVEUPDATE_FERRY_CREATE_SESSION ||
		    request == LIVEUPDATE_FERRY_RETRIEVE_SESSION)
			::close(static_cast<std::int32_t *>(arg)[1]);
	}
	return strike(false, result);
}

} // namespace fake

int lu_sys_open(int shared)
{
	return fake::running->open(shared);
}

int lu_sys_ioctl(int fd, unsigned long request, void *arg)
{
	return fake::running->ioctl(fd, request, arg);
}

int lu_sys_has_module(const char *name)
{
	return fake::running->ferry && !std::strcmp(name, "luo");
}

void lu_sys_sleep(unsigned int ms)
{
	fake::running->slept_ms += ms;
	if (fake::running->on_sleep)
		fake::running->on_sleep();
}
