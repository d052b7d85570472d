// SPDX-License-Identifier: GPL-2.0
// What tests of luo.ko share: two kinds of files whose handlers do as they are
// told, and leave a trace of their calls.
#pragma once

#include "failures.hh"
#include "fake/kho.hh"
#include "fake/luo.hh"

#include <ferry/luo.h>
#include <uapi/linux/liveupdate.h>
#include <uapi/linux/liveupdate_ferry.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "kho/linux.h"
#include "luo/linux.h"

#define THING_FIELDS(F, T)                                                                         \
	F(T, STR, name, 1, 1, 31, 32)                                                              \
	F(T, U32, needs, 1, 0, 100, 0)
FERRY_RECORD(thing, "thing", 1, 1, THING_FIELDS);

using Trace = std::vector<std::string>;

inline Trace trace;
// What an operation returns, by its line in the trace ("freeze a").
inline std::map<std::string, int> results;
// Statuses seen by finish(), by file.
inline std::map<std::string, int> statuses;
// Files that the handlers have frozen.
inline std::set<std::string> frozen;
inline long things; // the handlers' own data
// What prepare() left something for.
inline std::set<std::string> prepared;
inline bool retrieve_nothing;
// retrieve() asks for as many dependencies, whatever the state says.
inline unsigned int ask_for;
// And gives the file this id.
inline unsigned long retrieve_as;
// What a file needs, as its freeze() finds out; and what "b" needs, one more with
// each freeze.
inline std::map<std::string, std::vector<file *>> late_needs;
inline std::vector<file *> later_needs;
// Called in an operation, with its line in the trace.
inline std::function<void(const std::string &what, ferry_luo_file *self)> during;
// Calls of retrieve() inside each other, and the most there were.
inline int depth, deepest;

// The handler's data of a file, as it is preserved or retrieved.
struct Thing {
	char name[32];
	unsigned int needs;
};

struct Kind : ferry_luo_handler {
	::module its_module;
};

inline int result_of(const std::string &line)
{
	trace.push_back(line);
	auto at = results.find(line);
	return at == results.end() ? 0 : at->second;
}

inline std::string name_of(const ferry_luo_args *args)
{
	if (args->priv)
		return static_cast<Thing *>(args->priv)->name;
	thing saved;
	return ferry_get(args->state, &thing_record, &saved) ? "?" : saved.name;
}

inline Thing *new_thing(const std::string &name)
{
	auto made = static_cast<Thing *>(ferry_alloc(sizeof(Thing)));
	if (!made)
		return nullptr;
	std::strncpy(made->name, name.c_str(), sizeof(made->name) - 1);
	++things;
	return made;
}

inline void drop_thing(ferry_luo_args *args)
{
	if (!args->priv)
		return;
	--things;
	ferry_free(args->priv);
}

template <int kind> struct Handler {
	static bool can_preserve(file *file)
	{
		return file->kind == kind;
	}
	static unsigned long id(file *file)
	{
		return file->id ? file->id : reinterpret_cast<unsigned long>(file);
	}
	static int preserve(ferry_luo_args *args)
	{
		EXPECT_NE(args->file, nullptr);
		EXPECT_EQ(args->priv, nullptr);
		for (file *need : args->file->needs) {
			if (int err = ferry_luo_depend(args->self, need))
				return err;
		}
		if (during)
			during("preserve " + args->file->name, args->self);
		if (int err = result_of("preserve " + args->file->name))
			return err;
		Thing *made = new_thing(args->file->name);
		if (!made)
			return -ENOMEM;
		made->needs = static_cast<unsigned int>(args->file->needs.size());
		args->priv = made;
		return 0;
	}
	static void unpreserve(ferry_luo_args *args)
	{
		EXPECT_EQ(frozen.count(name_of(args)), 0u);
		result_of("unpreserve " + name_of(args));
		drop_thing(args);
	}
	static int freeze(ferry_luo_args *args)
	{
		int err = result_of("freeze " + name_of(args));
		for (file *need : late_needs[name_of(args)])
			err = err ? err : ferry_luo_depend(args->self, need);
		if (name_of(args) == "b" && !later_needs.empty() && !err) {
			err = ferry_luo_depend(args->self, later_needs.back());
			later_needs.pop_back();
		}
		if (fake::inject("freeze"))
			err = -EBUSY;
		if (!err)
			EXPECT_TRUE(frozen.insert(name_of(args)).second);
		return err;
	}
	static void unfreeze(ferry_luo_args *args)
	{
		EXPECT_EQ(frozen.erase(name_of(args)), 1u);
		result_of("unfreeze " + name_of(args));
	}
	static int save(ferry_luo_args *args, ferry_writer *writer)
	{
		if (int err = result_of("save " + name_of(args)))
			return err;
		thing saved{};
		std::strncpy(saved.name, name_of(args).c_str(), sizeof(saved.name) - 1);
		saved.needs = static_cast<Thing *>(args->priv)->needs;
		return ferry_put(writer, &thing_record, &saved);
	}
	static int retrieve(ferry_luo_args *args)
	{
		deepest = std::max(deepest, ++depth);
		int err = retrieve_at_depth(args);
		--depth;
		return err;
	}
	static int retrieve_at_depth(ferry_luo_args *args)
	{
		thing saved;
		EXPECT_EQ(args->file, nullptr);
		EXPECT_EQ(args->status, FERRY_NOT_RETRIEVED);
		if (int err = ferry_get(args->state, &thing_record, &saved))
			return err;
		EXPECT_EQ(args->priv != nullptr, prepared.erase(saved.name) > 0);
		if (int err = result_of("retrieve " + std::string(saved.name)))
			return err;
		if (retrieve_nothing)
			return 0;
		std::vector<file *> needs;
		auto put_needs = [&] {
			for (file *need : needs)
				linux_file_put(need);
		};
		for (unsigned int nr = 0; nr < std::max(saved.needs, ask_for); ++nr) {
			file *need = nullptr;
			if (int err = ferry_luo_dependency(args->self, nr, &need)) {
				EXPECT_EQ(need, nullptr);
				put_needs();
				return err;
			}
			needs.push_back(need);
		}
		if (!args->priv)
			args->priv = new_thing(saved.name);
		if (!args->priv) {
			put_needs();
			return -ENOMEM;
		}
		args->file = fake::new_file(saved.name, kind);
		args->file->needs = needs;
		args->file->id = retrieve_as;
		return 0;
	}
	static void prepare(ferry_luo_args *args)
	{
		thing saved;
		EXPECT_EQ(args->file, nullptr);
		EXPECT_EQ(args->priv, nullptr);
		ASSERT_EQ(ferry_get(args->state, &thing_record, &saved), 0);
		if (during)
			during("prepare " + std::string(saved.name), args->self);
		if (result_of("prepare " + std::string(saved.name)))
			return;
		args->priv = new_thing(saved.name);
		if (args->priv)
			prepared.insert(saved.name);
	}
	static int can_finish(ferry_luo_args *args)
	{
		return result_of("can_finish " + name_of(args));
	}
	static void finish(ferry_luo_args *args)
	{
		statuses[name_of(args)] = args->status;
		EXPECT_EQ(args->status == FERRY_RETRIEVED, args->file != nullptr);
		result_of("finish " + name_of(args));
		drop_thing(args);
	}

	static constexpr ferry_luo_ops ops{can_preserve, id,	     preserve, unpreserve,
					   freeze,	 unfreeze,   save,     prepare,
					   retrieve,	 can_finish, finish};
	// Without what may be absent.
	static constexpr ferry_luo_ops least{can_preserve, nullptr, preserve, unpreserve,
					     nullptr,	   nullptr, save,     nullptr,
					     retrieve,	   nullptr, finish};
};

enum { MEMORY, DEVICE, PLAIN, NR_KINDS };
inline Kind kinds[NR_KINDS] = {
	{{"memory-v1", &kinds[MEMORY].its_module, &Handler<MEMORY>::ops}, {.name = "memory"}},
	{{"device-v1", &kinds[DEVICE].its_module, &Handler<DEVICE>::ops}, {.name = "device"}},
	{{"plain-v1", &kinds[PLAIN].its_module, &Handler<PLAIN>::least}, {.name = "plain"}},
};

inline const bool counted = [] {
	fake::add_counter("things", [] { return things; });
	fake::add_counter("frozen", [] { return long(frozen.size()); });
	fake::add_counter("references to handlers", [] {
		long refs = 0;
		for (Kind &kind : kinds)
			refs += kind.its_module.refs;
		return refs;
	});
	fake::add_reset([] {
		trace.clear();
		results.clear();
		statuses.clear();
		prepared.clear();
		retrieve_nothing = false;
		ask_for = 0;
		retrieve_as = 0;
		late_needs.clear();
		later_needs.clear();
		during = {};
		depth = deepest = 0;
		for (Kind &kind : kinds)
			kind.its_module.going = false;
	});
	return true;
}();

// A structure of an ioctl, in user memory of exactly its size.
template <class Arg>
int call(Arg &arg, const std::function<long(void *)> &ioctl, std::size_t room = sizeof(Arg))
{
	std::vector<unsigned char> user(room);
	std::memcpy(user.data(), &arg, std::min(room, sizeof(arg)));
	const unsigned int locks = fake::locks_held();
	fake::user_memory(user.data(), user.size());
	long result = ioctl(user.data());
	fake::user_memory_gone(user.data());
	fake::run_releases();
	std::memcpy(&arg, user.data(), std::min(room, sizeof(arg)));
	EXPECT_EQ(fake::locks_held(), locks);
	return static_cast<int>(result);
}

template <class Arg> int device_call(unsigned int command, Arg &arg)
{
	return call(arg, [&](void *user) { return luo_device_ioctl(command, user); });
}

template <class Arg> int session_call(int fd, unsigned int command, Arg &arg)
{
	return call(arg, [&](void *user) {
		return luo_session_ioctl(fake::file_of(fd)->session, command, user);
	});
}

// kho.ko and luo.ko, loaded; handlers for memory and devices.
class Luo : public testing::Test {
    protected:
	void SetUp() override
	{
		load();
	}

	void TearDown() override
	{
		unload();
		fake::power_off();
	}

	void load(std::vector<int> with = {MEMORY, DEVICE})
	{
		ASSERT_EQ(kho_module_init(), 0);
		ASSERT_EQ(luo_module_init(), 0);
		loaded_ = true;
		for (int kind : with)
			add_kind(kind);
	}

	void unload()
	{
		if (!loaded_)
			return;
		loaded_ = false;
		while (!registered_.empty())
			remove_kind(*registered_.begin());
		EXPECT_EQ(fake::luo_module().refs, 0) << "sessions still wait";
		luo_module_exit();
		kho_module_exit();
	}

	void add_kind(int kind)
	{
		EXPECT_EQ(ferry_luo_register(&kinds[kind]), 0);
		registered_.insert(kind);
	}

	void remove_kind(int kind)
	{
		EXPECT_EQ(kinds[kind].its_module.refs, 0);
		ferry_luo_unregister(&kinds[kind]);
		registered_.erase(kind);
	}

	// The descriptor of a new session, or an error.
	static int create(const std::string &name)
	{
		liveupdate_ioctl_create_session arg{};
		arg.size = sizeof(arg);
		std::strncpy(reinterpret_cast<char *>(arg.name), name.c_str(),
			     sizeof(arg.name) - 1);
		int err = device_call(LIVEUPDATE_IOCTL_CREATE_SESSION, arg);
		return err ? err : arg.fd;
	}

	static int retrieve_session(const std::string &name)
	{
		liveupdate_ioctl_retrieve_session arg{};
		arg.size = sizeof(arg);
		std::strncpy(reinterpret_cast<char *>(arg.name), name.c_str(),
			     sizeof(arg.name) - 1);
		int err = device_call(LIVEUPDATE_IOCTL_RETRIEVE_SESSION, arg);
		return err ? err : arg.fd;
	}

	static int preserve(int session, int fd, unsigned long long token)
	{
		liveupdate_session_preserve_fd arg{};
		arg.size = sizeof(arg);
		arg.fd = fd;
		arg.token = token;
		return session_call(session, LIVEUPDATE_SESSION_PRESERVE_FD, arg);
	}

	static int retrieve(int session, unsigned long long token)
	{
		liveupdate_session_retrieve_fd arg{};
		arg.size = sizeof(arg);
		arg.token = token;
		int err = session_call(session, LIVEUPDATE_SESSION_RETRIEVE_FD, arg);
		return err ? err : arg.fd;
	}

	static int finish(int session)
	{
		liveupdate_session_finish arg{};
		arg.size = sizeof(arg);
		return session_call(session, LIVEUPDATE_SESSION_FINISH, arg);
	}

	template <class Arg> static Arg named(const std::string &name)
	{
		Arg arg{};
		arg.size = sizeof(arg);
		std::strncpy(reinterpret_cast<char *>(arg.name), name.c_str(),
			     sizeof(arg.name) - 1);
		return arg;
	}

	// A key, each of whose bytes is this; 0: none.
	template <class Arg> static void set_key(Arg &arg, unsigned char key)
	{
		arg.flags = key ? LIVEUPDATE_FERRY_KEY : 0;
		std::memset(arg.key, key, sizeof(arg.key));
	}

	static int create_with(const std::string &name, unsigned char key,
			       unsigned int policy = LIVEUPDATE_FERRY_POLICY_FINISH,
			       unsigned long long deadline_ms = 0)
	{
		auto arg = named<liveupdate_ferry_create_session>(name);
		set_key(arg, key);
		arg.policy = policy;
		arg.deadline_ms = deadline_ms;
		int err = device_call(LIVEUPDATE_FERRY_CREATE_SESSION, arg);
		return err ? err : arg.fd;
	}

	static int retrieve_with(const std::string &name, unsigned char key)
	{
		auto arg = named<liveupdate_ferry_retrieve_session>(name);
		set_key(arg, key);
		int err = device_call(LIVEUPDATE_FERRY_RETRIEVE_SESSION, arg);
		return err ? err : arg.fd;
	}

	static int discard(const std::string &name)
	{
		auto arg = named<liveupdate_ferry_discard_session>(name);
		return device_call(LIVEUPDATE_FERRY_DISCARD_SESSION, arg);
	}

	static int set_policy(int session, unsigned int policy, unsigned long long deadline_ms = 0)
	{
		liveupdate_ferry_session_set_policy arg{sizeof(arg), policy, deadline_ms};
		return session_call(session, LIVEUPDATE_FERRY_SESSION_SET_POLICY, arg);
	}

	static int renew(int session, unsigned int flags = LIVEUPDATE_FERRY_RENEW_FILES)
	{
		liveupdate_ferry_session_renew arg{sizeof(arg), flags};
		return session_call(session, LIVEUPDATE_FERRY_SESSION_RENEW, arg);
	}

	static liveupdate_ferry_session info_of(int session)
	{
		liveupdate_ferry_session_get_info arg{};
		arg.size = sizeof(arg);
		EXPECT_EQ(session_call(session, LIVEUPDATE_FERRY_SESSION_GET_INFO, arg), 0);
		return arg.session;
	}

	// The same, while an operation of the session runs.
	static liveupdate_ferry_session info_of_unlocked(int session)
	{
		liveupdate_ferry_session_get_info arg{};
		arg.size = sizeof(arg);
		fake::user_memory(&arg, sizeof(arg));
		EXPECT_EQ(luo_session_ioctl(fake::file_of(session)->session,
					    LIVEUPDATE_FERRY_SESSION_GET_INFO, &arg),
			  0);
		fake::user_memory_gone(&arg);
		return arg.session;
	}

	// A descriptor of a new file.
	static int open(const std::string &name, int kind = MEMORY,
			const std::vector<int> &needs = {})
	{
		file *made = fake::new_file(name, kind);
		for (int need : needs) {
			linux_file_get(fake::file_of(need));
			made->needs.push_back(fake::file_of(need));
		}
		return fake::install(made);
	}

	// Preserves a new file, and closes it: the session has it.
	static void preserve_new(int session, const std::string &name, unsigned long long token,
				 int kind = MEMORY, const std::vector<int> &needs = {})
	{
		int fd = open(name, kind, needs);
		EXPECT_EQ(preserve(session, fd, token), 0);
		fake::close(fd);
	}

	// Freezes, and boots into the next kernel; closes these descriptors, which a
	// kexec would not.
	void kexec(const std::vector<int> &fds,
		   const std::function<void(fake::Handover &)> &damage = {},
		   std::vector<int> with = {MEMORY, DEVICE})
	{
		ASSERT_EQ(luo_prepare(true), 0) << fake::log_text();
		fake::Handover handover = fake::handover();
		luo_abort();
		for (int fd : fds)
			fake::close(fd);
		unload();
		if (damage)
			damage(handover);
		fake::boot(handover);
		trace.clear();
		load(with);
	}

	// Lines of the trace that begin with this.
	static Trace only(const std::string &what)
	{
		Trace found;
		for (const std::string &line : trace) {
			if (line.compare(0, what.size() + 1, what + " ") == 0)
				found.push_back(line.substr(what.size() + 1));
		}
		return found;
	}

    private:
	bool loaded_ = false;
	std::set<int> registered_;
};
