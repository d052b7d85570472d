// SPDX-License-Identifier: GPL-2.0
// The calls of <uapi/linux/liveupdate_ferry.h>.
#include <ferry/scope.hh>
#include <uapi/linux/liveupdate_ferry.h>

#include "luo/call.hh"
#include "luo/linux.h"
#include "luo/orchestrator.hh"

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace luo {
namespace {

static_assert(LIVEUPDATE_FERRY_KEY_SIZE == LINUX_KEY_SIZE);

template <class Arg> auto &name_of(Arg &arg)
{
	return reinterpret_cast<char(&)[LIVEUPDATE_SESSION_NAME_LENGTH]>(arg.name);
}

Result<Terms> terms_of(unsigned int policy, unsigned long long deadline_ms)
{
	if (policy > LIVEUPDATE_FERRY_POLICY_KEEP)
		return fail(Errno::OpNotSupp);
	if (deadline_ms > FERRY_MAX_DEADLINE_MS ||
	    (Policy(policy) == Policy::Deadline) != (deadline_ms != 0))
		return fail(Errno::Inval);
	return Terms{Policy(policy), deadline_ms};
}

/* ---- sessions ---- */

Result<void> create_with_key(Orchestrator &orchestrator, void *user)
{
	Call<liveupdate_ferry_create_session> call;
	ferry::Undo wipe{[&] { linux_wipe(&call.arg, sizeof(call.arg)); }};
	TRY(call.read(user, sizeof(call.arg)));
	Key key = TRY(ferry::key_of<LIVEUPDATE_FERRY_KEY>(call.arg));
	Terms terms = TRY(terms_of(call.arg.policy, call.arg.deadline_ms));
	return respond_with_fd(
		call, [&] { return orchestrator.create_session(name_of(call.arg), key, terms); });
}

Result<void> retrieve_with_key(Orchestrator &orchestrator, void *user)
{
	Call<liveupdate_ferry_retrieve_session> call;
	ferry::Undo wipe{[&] { linux_wipe(&call.arg, sizeof(call.arg)); }};
	TRY(call.read(user, sizeof(call.arg)));
	Key key = TRY(ferry::key_of<LIVEUPDATE_FERRY_KEY>(call.arg));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	return respond_with_fd(
		call, [&] { return orchestrator.retrieve_session(name_of(call.arg), key); });
}

Result<void> discard(Orchestrator &orchestrator, void *user)
{
	Call<liveupdate_ferry_discard_session> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	return orchestrator.discard_session(name_of(call.arg));
}

Result<void> set_policy(Orchestrator &orchestrator, Session &session, void *user)
{
	Call<liveupdate_ferry_session_set_policy> call;
	TRY(call.read(user, sizeof(call.arg)));
	Terms terms = TRY(terms_of(call.arg.policy, call.arg.deadline_ms));
	auto gate = orchestrator.enter();
	session.set_terms(terms);
	return {};
}

Result<void> renew(Orchestrator &orchestrator, Session &session, void *user)
{
	Call<liveupdate_ferry_session_renew> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.flags & ~LIVEUPDATE_FERRY_RENEW_FILES)
		return fail(Errno::OpNotSupp);
	auto gate = orchestrator.enter();
	return orchestrator.renew_session(session, call.arg.flags & LIVEUPDATE_FERRY_RENEW_FILES);
}

/* ---- seeing ---- */

// Entries on their way to the caller's array, whose entries may be larger or
// smaller than ours.
template <class Entry> class Entries {
    public:
	// What each version has.
	static constexpr unsigned int least = sizeof(Entry);

	Entries(unsigned long long at, unsigned int entry_size)
		: at_{reinterpret_cast<char *>(at)}, entry_size_{entry_size}
	{
	}
	Result<void> put(const Entry &entry)
	{
		const std::size_t both = std::min<std::size_t>(entry_size_, sizeof(entry));
		TRY(ferry::check_status(linux_user_write(at_, &entry, both)));
		static constexpr char zeros[64] = {};
		for (std::size_t done = both; done < entry_size_;) {
			const auto part = std::min(entry_size_ - done, sizeof(zeros));
			TRY(ferry::check_status(linux_user_write(at_ + done, zeros, part)));
			done += part;
		}
		at_ += entry_size_;
		return {};
	}

    private:
	char *at_;
	std::size_t entry_size_;
};

// How large an entry may be: what a program could sensibly know.
constexpr unsigned int max_entry = 4096;

template <class Entry> Result<void> check_entry_size(unsigned int size)
{
	if (size < Entries<Entry>::least || size > max_entry)
		return fail(Errno::Inval);
	return {};
}

// The entries are collected before any is written: user space may take its time,
// and no lock waits for it.
template <class Entry> class Collected {
    public:
	Collected() = default;
	Collected(const Collected &) = delete;
	Collected &operator=(const Collected &) = delete;
	~Collected()
	{
		ferry_free(entries_);
	}

	// Once, before the first add().
	Result<void> make_room(unsigned int nr)
	{
		if (!nr)
			return {};
		entries_ = static_cast<Entry *>(ferry_alloc(std::size_t{nr} * sizeof(Entry)));
		if (!entries_)
			return fail(Errno::NoMem);
		room_ = nr;
		return {};
	}

	// Counts also what there is no room for.
	void add(const Entry &entry)
	{
		if (nr_ < room_)
			entries_[nr_] = entry;
		++nr_;
	}
	unsigned int nr() const
	{
		return nr_;
	}
	Result<void> write(unsigned long long at, unsigned int entry_size) const
	{
		Entries<Entry> out{at, entry_size};
		for (unsigned int i = 0; i < nr_; ++i)
			TRY(out.put(entries_[i]));
		return {};
	}

    private:
	Entry *entries_ = nullptr;
	unsigned int room_ = 0;
	unsigned int nr_ = 0;
};

// Answers with what `collect` adds. `there`: how much that is about, so that no
// more room is made for it than it needs.
template <class Entry, class Arg, class F>
[[gnu::noinline]] Result<void> respond_with_list(Call<Arg> &call, unsigned int there, F collect)
{
	const unsigned int room = std::min(call.arg.nr, there);
	Collected<Entry> collected;
	TRY(collected.make_room(room));
	TRY(collect(collected));
	call.arg.nr = collected.nr();
	// More may have come since they were counted.
	const bool fits = collected.nr() <= room;
	if (fits)
		TRY(collected.write(call.arg.entries, call.arg.entry_size));
	TRY(call.respond());
	return fits ? Result<void>{} : fail(Errno::NoSpc);
}

Result<void> get_info(Orchestrator &orchestrator, void *user)
{
	Call<liveupdate_ferry_info> call;
	TRY(call.read(user, sizeof(call.arg)));
	orchestrator.show(call.arg);
	return call.respond();
}

Result<void> list_sessions(Orchestrator &orchestrator, void *user)
{
	using Entry = liveupdate_ferry_session;
	Call<liveupdate_ferry_list_sessions> call;
	TRY(call.read(user, sizeof(call.arg)));
	TRY(check_entry_size<Entry>(call.arg.entry_size));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	unsigned int there = 0;
	TRY(orchestrator.for_each_session([&](Session &) -> Result<void> {
		++there;
		return {};
	}));
	return respond_with_list<Entry>(call, there, [&](Collected<Entry> &collected) {
		return orchestrator.for_each_session([&](Session &session) -> Result<void> {
			Entry entry;
			session.show(entry);
			collected.add(entry);
			return {};
		});
	});
}

Result<void> list_files(Orchestrator &orchestrator, void *user)
{
	using Entry = liveupdate_ferry_file;
	Call<liveupdate_ferry_list_files> call;
	TRY(call.read(user, sizeof(call.arg)));
	TRY(check_entry_size<Entry>(call.arg.entry_size));
	if (call.arg.flags & ~LIVEUPDATE_FERRY_INCOMING)
		return fail(Errno::OpNotSupp);
	auto session = TRY(orchestrator.find_session(name_of(call.arg),
						     call.arg.flags & LIVEUPDATE_FERRY_INCOMING));
	return respond_with_list<Entry>(
		call, session->nr_files(), [&](Collected<Entry> &collected) {
			return session->show_files([&](const Entry &entry) -> Result<void> {
				collected.add(entry);
				return {};
			});
		});
}

Result<void> get_update(Orchestrator &orchestrator, void *user)
{
	Call<liveupdate_ferry_update> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	TRY(orchestrator.show(call.arg));
	return call.respond();
}

Result<void> get_failure(Orchestrator &orchestrator, void *user)
{
	Call<liveupdate_ferry_failure> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	const Failure last = orchestrator.common.journal.last_failure();
	if (!last.number)
		return fail(Errno::NoEnt);
	auto &out = call.arg;
	out.error = static_cast<unsigned int>(last.error);
	out.number = last.number;
	out.when_ns = last.when_ns;
	out.operation = static_cast<unsigned int>(last.operation);
	out.token = last.token;
	static_assert(sizeof(out.session) == sizeof(last.session));
	static_assert(sizeof(out.handler) == sizeof(last.handler));
	memcpy(out.session, last.session, sizeof(out.session));
	memcpy(out.handler, last.handler, sizeof(out.handler));
	return call.respond();
}

Result<void> get_session_info(Orchestrator &, Session &session, void *user)
{
	Call<liveupdate_ferry_session_get_info> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	session.show(call.arg.session);
	return call.respond();
}

constexpr DeviceCommand extensions[] = {
	{LIVEUPDATE_FERRY_GET_INFO, get_info},
	{LIVEUPDATE_FERRY_CREATE_SESSION, create_with_key},
	{LIVEUPDATE_FERRY_RETRIEVE_SESSION, retrieve_with_key},
	{LIVEUPDATE_FERRY_DISCARD_SESSION, discard},
	{LIVEUPDATE_FERRY_LIST_SESSIONS, list_sessions},
	{LIVEUPDATE_FERRY_LIST_FILES, list_files},
	{LIVEUPDATE_FERRY_GET_UPDATE, get_update},
	{LIVEUPDATE_FERRY_GET_FAILURE, get_failure},
};

constexpr SessionCommand session_extensions[] = {
	{LIVEUPDATE_FERRY_SESSION_GET_INFO, For::Both, get_session_info},
	{LIVEUPDATE_FERRY_SESSION_SET_POLICY, For::Both, set_policy},
	{LIVEUPDATE_FERRY_SESSION_RENEW, For::Incoming, renew},
};

} // namespace

const DeviceCommand *find_extension(unsigned int command)
{
	return find_number(extensions, command);
}

const SessionCommand *find_session_extension(unsigned int command)
{
	return find_number(session_extensions, command);
}

} // namespace luo
