// SPDX-License-Identifier: GPL-2.0
// The calls of <linux/liveupdate_ferry.h>, for the self-tests.
#pragma once

#include <array>

#include <linux/liveupdate_ferry.h>

#include "selftests/kexec/common.hh"

namespace ferry {

using Key = std::array<unsigned char, LIVEUPDATE_FERRY_KEY_SIZE>;

// Any 32 bytes, by a number.
inline Key key(unsigned seed)
{
	Key key;
	for (size_t i = 0; i < key.size(); i++)
		key[i] = static_cast<unsigned char>(word_at(seed, i) >> 16);
	return key;
}

struct Terms {
	unsigned policy = LIVEUPDATE_FERRY_POLICY_FINISH;
	uint64_t deadline_ms = 0;
};

template <typename Arg> Arg named(const std::string &name)
{
	Arg arg{};
	name.copy(reinterpret_cast<char *>(arg.name), sizeof(arg.name) - 1);
	return arg;
}

template <typename Arg>
liveupdate::Result<Session> with_key(int device, unsigned long request, Arg arg, const Key *key)
{
	if (key) {
		arg.flags = LIVEUPDATE_FERRY_KEY;
		std::memcpy(arg.key, key->data(), key->size());
	}
	if (auto done = liveupdate::call(device, request, arg); !done)
		return std::unexpected(done.error());
	return Session(Fd(arg.fd));
}

inline liveupdate::Result<Session> create(const Device &device, const std::string &name,
					  const Key *key = nullptr, Terms terms = {})
{
	auto arg = named<liveupdate_ferry_create_session>(name);
	arg.policy = terms.policy;
	arg.deadline_ms = terms.deadline_ms;
	return with_key(device.get(), LIVEUPDATE_FERRY_CREATE_SESSION, arg, key);
}

inline liveupdate::Result<Session> retrieve(const Device &device, const std::string &name,
					    const Key *key = nullptr)
{
	return with_key(device.get(), LIVEUPDATE_FERRY_RETRIEVE_SESSION,
			named<liveupdate_ferry_retrieve_session>(name), key);
}

inline liveupdate::Result<void> discard(const Device &device, const std::string &name)
{
	auto arg = named<liveupdate_ferry_discard_session>(name);
	return liveupdate::call(device.get(), LIVEUPDATE_FERRY_DISCARD_SESSION, arg);
}

inline liveupdate::Result<void> set_terms(const Session &session, Terms terms)
{
	liveupdate_ferry_session_set_policy arg{0, terms.policy, terms.deadline_ms};
	return liveupdate::call(session.get(), LIVEUPDATE_FERRY_SESSION_SET_POLICY, arg);
}

inline liveupdate::Result<void> renew(const Session &session,
				      unsigned flags = LIVEUPDATE_FERRY_RENEW_FILES)
{
	liveupdate_ferry_session_renew arg{0, flags};
	return liveupdate::call(session.get(), LIVEUPDATE_FERRY_SESSION_RENEW, arg);
}

inline liveupdate_ferry_session info(const Session &session)
{
	liveupdate_ferry_session_get_info arg{};
	OK(liveupdate::call(session.get(), LIVEUPDATE_FERRY_SESSION_GET_INFO, arg));
	return arg.session;
}

template <typename Arg> liveupdate::Result<Arg> get(const Device &device, unsigned long request)
{
	Arg arg{};
	if (auto done = liveupdate::call(device.get(), request, arg); !done)
		return std::unexpected(done.error());
	return arg;
}

// As many entries as there are.
template <typename Entry, typename Arg>
liveupdate::Result<std::vector<Entry>> list(const Device &device, unsigned long request, Arg arg)
{
	std::vector<Entry> entries;
	for (;;) {
		arg.entry_size = sizeof(Entry);
		arg.nr = entries.size();
		arg.entries = reinterpret_cast<uint64_t>(entries.data());
		auto done = liveupdate::call(device.get(), request, arg);
		if (!done && done.error().value() != ENOSPC)
			return std::unexpected(done.error());
		entries.resize(arg.nr);
		if (done)
			return entries;
	}
}

inline std::vector<liveupdate_ferry_session> sessions(const Device &device)
{
	return VALUE(list<liveupdate_ferry_session>(device, LIVEUPDATE_FERRY_LIST_SESSIONS,
						    liveupdate_ferry_list_sessions{}));
}

inline liveupdate::Result<std::vector<liveupdate_ferry_file>>
files(const Device &device, const std::string &name, unsigned flags = 0)
{
	auto arg = named<liveupdate_ferry_list_files>(name);
	arg.flags = flags;
	return list<liveupdate_ferry_file>(device, LIVEUPDATE_FERRY_LIST_FILES, arg);
}

inline std::string text(const unsigned char *chars)
{
	return reinterpret_cast<const char *>(chars);
}

// Of the files of a session of the last kernel that were not retrieved. A case that saw how they
// are released tells of it then: selftests/run finds out which handler nobody saw.
inline std::vector<std::string> handlers_of(const Device &device, const std::string &name)
{
	std::vector<std::string> handlers;
	for (auto &file : VALUE(files(device, name, LIVEUPDATE_FERRY_INCOMING)))
		if (file.state == LIVEUPDATE_FERRY_FILE_WAITING)
			handlers.push_back(text(file.handler));
	return handlers;
}
inline void tell_released(const std::vector<std::string> &handlers)
{
	for (auto &handler : handlers)
		if (!ktap::current.failed)
			ktap::print("# released %s", handler.c_str());
}

// The state of a session of the last kernel; -1: there is none.
inline int state_of(const Device &device, const std::string &name)
{
	for (auto &each : sessions(device))
		if (each.flags & LIVEUPDATE_FERRY_INCOMING && text(each.name) == name)
			return each.state;
	return -1;
}

inline liveupdate::Result<Fd> open_shared()
{
	Fd fd(::open("/dev/liveupdate", O_RDWR | O_CLOEXEC | O_NONBLOCK));
	if (!fd)
		return liveupdate::failure(errno);
	return fd;
}

} // namespace ferry
