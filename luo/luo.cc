// SPDX-License-Identifier: GPL-2.0
// The edges of the module: the ioctls, and what C calls.
#include <ferry/log.hh>
#include <ferry/luo.h>
#include <uapi/linux/liveupdate.h>

#include <algorithm>
#include <span>

#include "luo/call.hh"
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

Result<void> create_session(Orchestrator &orchestrator, void *user)
{
	Call<liveupdate_ioctl_create_session> call;
	TRY(call.read(user, sizeof(call.arg)));
	return respond_with_fd(call,
			       [&] { return orchestrator.create_session(text(call.arg.name)); });
}

Result<void> retrieve_session(Orchestrator &orchestrator, void *user)
{
	Call<liveupdate_ioctl_retrieve_session> call;
	TRY(call.read(user, sizeof(call.arg)));
	return respond_with_fd(call,
			       [&] { return orchestrator.retrieve_session(text(call.arg.name)); });
}

Result<void> preserve_fd(Orchestrator &orchestrator, Session &session, void *user)
{
	Call<liveupdate_session_preserve_fd> call;
	TRY(call.read(user, sizeof(call.arg)));
	auto gate = orchestrator.enter();
	TRY(session.preserve(call.arg.fd, call.arg.token));
	return call.respond();
}

Result<void> retrieve_fd(Orchestrator &orchestrator, Session &session, void *user)
{
	Call<liveupdate_session_retrieve_fd> call;
	TRY(call.read(user, sizeof(call.arg)));
	auto gate = orchestrator.enter();
	return respond_with_fd(call, [&] { return session.retrieve(call.arg.token); });
}

Result<void> finish(Orchestrator &orchestrator, Session &session, void *user)
{
	Call<liveupdate_session_finish> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	auto gate = orchestrator.enter();
	TRY(session.finish());
	return call.respond();
}

Result<void> get_name(Orchestrator &, Session &session, void *user)
{
	Call<liveupdate_session_get_name> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	ferry_format(text(call.arg.name), sizeof(call.arg.name), "%s", session.name());
	return call.respond();
}

constexpr SessionCommand session_commands[] = {
	{LIVEUPDATE_SESSION_PRESERVE_FD, For::Outgoing, preserve_fd},
	{LIVEUPDATE_SESSION_RETRIEVE_FD, For::Incoming, retrieve_fd},
	{LIVEUPDATE_SESSION_FINISH, For::Incoming, finish},
	{LIVEUPDATE_SESSION_GET_NAME, For::Both, get_name},
};

constexpr DeviceCommand device_commands[] = {
	{LIVEUPDATE_IOCTL_CREATE_SESSION, create_session},
	{LIVEUPDATE_IOCTL_RETRIEVE_SESSION, retrieve_session},
};

// As mainline looks at it: -EINVAL for a number that there is not, -ENOTTY for one
// that is in a wrong command.
template <class Entry> Result<void> check(const Entry *entry, unsigned int command, void *user)
{
	if (!entry)
		return fail(Errno::Inval);
	unsigned int ignored;
	TRY(ferry::check_status(linux_user_size(user, &ignored)));
	if (entry->command != command)
		return fail(Errno::NotTty);
	return {};
}

Result<void> run_device(unsigned int command, void *user)
{
	const DeviceCommand *entry = find_number(device_commands, command);
	if (!entry)
		entry = find_extension(command);
	TRY(check(entry, command, user));
	return entry->run(*orchestrator, user);
}

Result<void> run_session(Session &session, unsigned int command, void *user)
{
	const SessionCommand *entry = find_number(session_commands, command);
	if (!entry)
		entry = find_session_extension(command);
	TRY(check(entry, command, user));
	if (entry->sessions != For::Both &&
	    (entry->sessions == For::Incoming) != session.incoming())
		return fail(Errno::Inval);
	return entry->run(*orchestrator, session, user);
}

Session &session_of(luo_session *session)
{
	return *reinterpret_cast<Session *>(session);
}

// As other modules know it.
Session &inside(ferry_luo_session *session)
{
	return *reinterpret_cast<Session *>(session);
}

ferry_luo_session *outside(Session *session)
{
	return reinterpret_cast<ferry_luo_session *>(session);
}

} // namespace
} // namespace luo

using luo::orchestrator;

extern "C" {

int luo_module_init()
{
	auto made = Orchestrator::create();
	if (made.has_value()) {
		orchestrator = made->release();
		// Not before: a deadline may be over at once.
		orchestrator->arm();
	}
	return ferry::to_errno(made);
}

void luo_module_exit()
{
	ferry::destroy(orchestrator);
	orchestrator = nullptr;
}

int luo_device_open(bool shared)
{
	return ferry::to_errno(orchestrator->open(shared));
}

void luo_device_release(bool shared)
{
	orchestrator->close(shared);
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

void luo_deadline(void)
{
	orchestrator->expire();
}

/* ---- handlers ---- */

int ferry_luo_register_all(const ferry_luo_handler *handlers, unsigned int nr)
{
	const std::span all{handlers, nr};
	const int err = ferry::to_errno(orchestrator->common.registry.add(all));
	if (!err && std::ranges::any_of(all, [](auto &its) { return its.ops->prepare; }))
		linux_background();
	return err;
}

int ferry_luo_register(const ferry_luo_handler *handler)
{
	return ferry_luo_register_all(handler, 1);
}

void ferry_luo_unregister(const ferry_luo_handler *handler)
{
	orchestrator->common.registry.remove(*handler);
}

int ferry_luo_depend(ferry_luo_file *self, file *on)
{
	return ferry::to_errno(self->depend(on));
}

bool ferry_luo_preserved(ferry_luo_file *self, file *on)
{
	return self->session.preserves(on);
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

void *ferry_luo_dependency_priv(ferry_luo_file *self, unsigned int nr,
				const ferry_luo_handler *handler)
{
	return self->dependency_priv(nr, *handler);
}

/* ---- sessions of other modules ---- */

void ferry_luo_lock_make(ferry_luo_lock *lock, const unsigned char *key)
{
	*lock = luo::make_lock(key);
}

int ferry_luo_lock_open(const ferry_luo_lock *lock, const char *name, const unsigned char *key)
{
	if (luo::opens(*lock, key))
		return 0;
	if (linux_may_log())
		log_warn("'%s' is not given to who has not its key", name);
	return -int(Errno::Perm);
}

void ferry_luo_enter()
{
	orchestrator->gate().lock_shared();
}

void ferry_luo_leave()
{
	orchestrator->gate().unlock_shared();
}

int ferry_luo_session_create(const ferry_luo_about *about, ferry_luo_session **session)
{
	auto made = orchestrator->create_session(*about);
	*session = made.has_value() ? luo::outside(*made) : nullptr;
	return ferry::to_errno(made);
}

void ferry_luo_session_undo(ferry_luo_session *session)
{
	orchestrator->undo_session(luo::inside(session));
}

int ferry_luo_session_take(const char *maker, ferry_luo_session **session, ferry_luo_about *about)
{
	auto taken = orchestrator->take_session(maker);
	*session = taken.has_value() ? luo::outside(*taken) : nullptr;
	if (taken.has_value())
		*about = (*taken)->about();
	return ferry::to_errno(taken);
}

int ferry_luo_session_preserve(ferry_luo_session *session, file *file, unsigned long long token,
			       const char *label)
{
	return ferry::to_errno(luo::inside(session).preserve(FileRef::share(file), token, label));
}

int ferry_luo_session_check(ferry_luo_session *session)
{
	return ferry::to_errno(luo::inside(session).check_needs());
}

int ferry_luo_session_file(ferry_luo_session *session, unsigned int nr, unsigned long long *token,
			   char *label)
{
	auto &text = *reinterpret_cast<char(*)[FERRY_LUO_NAME_SIZE]>(label);
	return ferry::to_errno(luo::inside(session).file(nr, *token, text));
}

int ferry_luo_session_retrieve(ferry_luo_session *session, unsigned long long token, file **file)
{
	auto gate = orchestrator->enter();
	auto made = luo::inside(session).retrieve(token);
	*file = made.has_value() ? made->release() : nullptr;
	return ferry::to_errno(made);
}

int ferry_luo_session_finish(ferry_luo_session *session)
{
	auto gate = orchestrator->enter();
	return ferry::to_errno(luo::inside(session).finish());
}

void ferry_luo_session_close(ferry_luo_session *session)
{
	orchestrator->release_session(luo::inside(session));
}

/* ---- for people ---- */

void ferry_luo_progress(ferry_luo_file *self, unsigned long long done, unsigned long long total)
{
	self->session.progress(done, total ? total : self->bytes());
}

void ferry_luo_usage(ferry_luo_file *self, const ferry_usage *usage)
{
	self->set_usage(*usage);
}

} /* extern "C" */
