// SPDX-License-Identifier: GPL-2.0
// The edges of the module: the ioctls, and what C calls.
#include <ferry/log.hh>
#include <ferry/luo.h>
#include <uapi/linux/liveupdate.h>

#include <algorithm>
#include <utility>

#include "luo/linux.h"
#include "luo/orchestrator.hh"

using ferry::Errno;
using ferry::fail;
using ferry::Result;
using luo::FileRef;
using luo::Orchestrator;
using luo::Session;

namespace luo {
namespace {

constinit Orchestrator *orchestrator;

// The argument of an ioctl: in, out, and how much of it the caller knows.
template <class Arg> class Call {
    public:
	// Errno::Inval: the caller's structure ends before the field at `needed`;
	// Errno::TooBig: it has more than this kernel knows of, and not zeros.
	Result<void> read(void *user, std::size_t needed)
	{
		user_ = user;
		TRY(ferry::check_status(linux_user_size(user, &size_)));
		if (size_ < needed)
			return fail(Errno::Inval);
		return ferry::check_status(linux_user_read(&arg, sizeof(arg), user, size_));
	}
	Result<void> respond()
	{
		return ferry::check_status(
			linux_user_write(user_, &arg, std::min<std::size_t>(size_, sizeof(arg))));
	}

	Arg arg{};

    private:
	void *user_ = nullptr;
	unsigned int size_ = 0;
};

// Answers with a descriptor. The answer goes out first: what was made or taken
// over for somebody who then cannot be told would have to be undone, and a
// session that is closed is finished.
template <class Arg, class Make> Result<void> respond_with_fd(Call<Arg> &call, Make make)
{
	int fd = TRY(ferry::check(linux_fd_reserve()));
	int before = std::exchange(call.arg.fd, fd);
	auto made = call.respond();
	if (made.has_value()) {
		Result<FileRef> file = make();
		if (file.has_value()) {
			linux_fd_install(fd, file->release());
			return {};
		}
		made = fail(file.error());
		// An error leaves the caller's structure as it was.
		call.arg.fd = before;
		(void)call.respond();
	}
	linux_fd_abandon(fd);
	return made;
}

template <std::size_t size> auto &text(__u8 (&name)[size])
{
	return reinterpret_cast<char(&)[size]>(name);
}

Result<void> create_session(void *user)
{
	Call<liveupdate_ioctl_create_session> call;
	TRY(call.read(user, sizeof(call.arg)));
	return respond_with_fd(call,
			       [&] { return orchestrator->create_session(text(call.arg.name)); });
}

Result<void> retrieve_session(void *user)
{
	Call<liveupdate_ioctl_retrieve_session> call;
	TRY(call.read(user, sizeof(call.arg)));
	return respond_with_fd(call,
			       [&] { return orchestrator->retrieve_session(text(call.arg.name)); });
}

Result<void> preserve_fd(Session &session, void *user)
{
	Call<liveupdate_session_preserve_fd> call;
	TRY(call.read(user, sizeof(call.arg)));
	auto gate = orchestrator->enter();
	TRY(session.preserve(call.arg.fd, call.arg.token));
	return call.respond();
}

Result<void> retrieve_fd(Session &session, void *user)
{
	Call<liveupdate_session_retrieve_fd> call;
	TRY(call.read(user, sizeof(call.arg)));
	auto gate = orchestrator->enter();
	return respond_with_fd(call, [&] { return session.retrieve(call.arg.token); });
}

Result<void> finish(Session &session, void *user)
{
	Call<liveupdate_session_finish> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	auto gate = orchestrator->enter();
	TRY(session.finish());
	return call.respond();
}

Result<void> get_name(Session &session, void *user)
{
	Call<liveupdate_session_get_name> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	ferry_format(text(call.arg.name), sizeof(call.arg.name), "%s", session.name());
	return call.respond();
}

// Which sessions an ioctl is for.
enum class For : unsigned char {
	Outgoing,
	Incoming,
	Both,
};

struct SessionCommand {
	unsigned int command;
	For sessions;
	Result<void> (*run)(Session &session, void *user);
};

// Without holes in the numbers: mainline answers -EINVAL to a number that it
// does not have, and -ENOTTY to one that it has in a wrong command.
constexpr SessionCommand session_commands[] = {
	{LIVEUPDATE_SESSION_PRESERVE_FD, For::Outgoing, preserve_fd},
	{LIVEUPDATE_SESSION_RETRIEVE_FD, For::Incoming, retrieve_fd},
	{LIVEUPDATE_SESSION_FINISH, For::Incoming, finish},
	{LIVEUPDATE_SESSION_GET_NAME, For::Both, get_name},
};

struct DeviceCommand {
	unsigned int command;
	Result<void> (*run)(void *user);
};

constexpr DeviceCommand device_commands[] = {
	{LIVEUPDATE_IOCTL_CREATE_SESSION, create_session},
	{LIVEUPDATE_IOCTL_RETRIEVE_SESSION, retrieve_session},
};

// The entry for a command, as mainline looks for it: see session_commands.
template <class Entry, std::size_t size>
Result<const Entry *> look_up(const Entry (&entries)[size], unsigned int command, void *user)
{
	for (const Entry &entry : entries) {
		if (_IOC_NR(entry.command) != _IOC_NR(command))
			continue;
		unsigned int ignored;
		TRY(ferry::check_status(linux_user_size(user, &ignored)));
		if (entry.command != command)
			return fail(Errno::NotTty);
		return &entry;
	}
	return fail(Errno::Inval);
}

Result<void> run_device(unsigned int command, void *user)
{
	return TRY(look_up(device_commands, command, user))->run(user);
}

Result<void> run_session(Session &session, unsigned int command, void *user)
{
	const SessionCommand *entry = TRY(look_up(session_commands, command, user));
	if (entry->sessions != For::Both &&
	    (entry->sessions == For::Incoming) != session.incoming())
		return fail(Errno::Inval);
	return entry->run(session, user);
}

Session &session_of(luo_session *session)
{
	return *reinterpret_cast<Session *>(session);
}

} // namespace
} // namespace luo

using luo::orchestrator;

extern "C" {

int luo_module_init()
{
	auto made = Orchestrator::create();
	if (made.has_value())
		orchestrator = made->release();
	return ferry::to_errno(made);
}

void luo_module_exit()
{
	ferry::destroy(orchestrator);
	orchestrator = nullptr;
}

int luo_device_open()
{
	return ferry::to_errno(orchestrator->open());
}

void luo_device_release()
{
	orchestrator->close();
}

long luo_device_ioctl(unsigned int command, void *user)
{
	return ferry::to_errno(luo::run_device(command, user));
}

long luo_session_ioctl(luo_session *session, unsigned int command, void *user)
{
	return ferry::to_errno(luo::run_session(luo::session_of(session), command, user));
}

void luo_session_release(luo_session *session)
{
	orchestrator->release_session(luo::session_of(session));
}

int luo_prepare(bool kho)
{
	return ferry::to_errno(orchestrator->prepare(kho));
}

void luo_abort()
{
	orchestrator->abort();
}

void luo_show_update(seq_file *file)
{
	orchestrator->show_update(file);
}

void luo_background(void)
{
	orchestrator->work_ahead();
}

/* ---- handlers ---- */

int ferry_luo_register(const ferry_luo_handler *handler)
{
	const int err = ferry::to_errno(orchestrator->registry.add(*handler));
	if (!err && handler->ops->prepare)
		linux_background();
	return err;
}

void ferry_luo_unregister(const ferry_luo_handler *handler)
{
	orchestrator->registry.remove(*handler);
}

int ferry_luo_depend(ferry_luo_file *self, file *on)
{
	return ferry::to_errno(self->depend(on));
}

int ferry_luo_dependency(ferry_luo_file *self, unsigned int nr, file **on)
{
	auto found = self->dependency(nr);
	*on = found.has_value() ? found->release() : nullptr;
	return ferry::to_errno(found);
}

int ferry_luo_dependency_token(ferry_luo_file *self, unsigned int nr, unsigned long long *token)
{
	auto of = self->dependency_token(nr);
	if (of.has_value())
		*token = *of;
	return ferry::to_errno(of);
}

} /* extern "C" */
