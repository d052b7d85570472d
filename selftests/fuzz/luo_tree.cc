// SPDX-License-Identifier: GPL-2.0
// Sessions out of any tree: retrieved in any order, with handlers that come,
// go and fail, and finished; nothing is left over.
//
// The first byte says how, the second which call of the kernel fails; the rest
// is the tree.
#include "fake/carry.hh"
#include "fake/luo.hh"

#include <abi/luo.h>
#include <ferry/luo.h>
#include <uapi/linux/liveupdate.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "kho/linux.h"
#include "luo/linux.h"

namespace {

enum { needs_dependencies = 1, late_handler = 2, no_finish = 4, twice = 8, backwards = 16 };
unsigned char how;

int finish_later;

bool can_preserve(file *)
{
	return false;
}

int preserve(ferry_luo_args *)
{
	return -EINVAL;
}

void unpreserve(ferry_luo_args *)
{
}

int save(ferry_luo_args *, ferry_writer *)
{
	return 0;
}

int retrieve(ferry_luo_args *args)
{
	args->file = fake::new_file("file");
	for (unsigned int nr = 0; how & needs_dependencies && nr < 4; ++nr) {
		file *need = nullptr;
		if (!ferry_luo_dependency(args->self, nr, &need))
			args->file->needs.push_back(need);
	}
	if (!fake::inject("retrieve"))
		return 0;
	linux_file_put(args->file);
	args->file = nullptr;
	return -EIO;
}

int can_finish(ferry_luo_args *)
{
	return finish_later-- > 0 ? -EBUSY : 0;
}

void finish(ferry_luo_args *args)
{
	if ((args->status == FERRY_RETRIEVED) != (args->file != nullptr))
		fake::bug("a file of status %d is finished", args->status);
}

constexpr ferry_luo_ops ops{can_preserve, nullptr, preserve, unpreserve, nullptr, nullptr,
			    save,	  nullptr, retrieve, can_finish, finish};
::module memory_module, other_module;
constexpr ferry_luo_handler handlers[] = {
	{"memfd-v1", &memory_module, &ops},
	{"other-v1", &other_module, &ops},
};

template <class Arg> long call(Arg &arg, unsigned int command, luo_session *session)
{
	arg.size = sizeof(arg);
	fake::user_memory(&arg, sizeof(arg));
	long result = session ? luo_session_ioctl(session, command, &arg)
			      : luo_device_ioctl(command, &arg);
	fake::user_memory_gone(&arg);
	fake::run_releases();
	return result;
}

struct Named {
	std::string session;
	std::vector<unsigned long long> tokens;
};

// What there is to be retrieved; a bad record is left out.
std::vector<Named> sessions()
{
	std::vector<Named> all;
	for (ferry_node at = ferry_first(ferry_incoming("luo")); at.offset >= 0 && all.size() < 16;
	     at = ferry_next(at)) {
		ferry_session session;
		if (ferry_get(at, &ferry_session_record, &session))
			continue;
		Named named{session.session_name, {}};
		for (ferry_node child = ferry_first(at);
		     child.offset >= 0 && named.tokens.size() < 16; child = ferry_next(child)) {
			ferry_file file;
			if (!ferry_get(child, &ferry_file_record, &file))
				named.tokens.push_back(file.token);
		}
		if (how & backwards)
			std::reverse(named.tokens.begin(), named.tokens.end());
		all.push_back(named);
	}
	return all;
}

void use_session(const Named &named, bool close_only)
{
	liveupdate_ioctl_retrieve_session arg{};
	std::strncpy(reinterpret_cast<char *>(arg.name), named.session.c_str(),
		     sizeof(arg.name) - 1);
	if (call(arg, LIVEUPDATE_IOCTL_RETRIEVE_SESSION, nullptr))
		return;
	luo_session *session = fake::file_of(arg.fd)->session;
	std::vector<int> fds;
	for (int again = 0; !close_only && again <= (how & twice ? 1 : 0); ++again) {
		for (unsigned long long token : named.tokens) {
			liveupdate_session_retrieve_fd fd{};
			fd.token = token;
			if (!call(fd, LIVEUPDATE_SESSION_RETRIEVE_FD, session))
				fds.push_back(fd.fd);
		}
	}
	if (!(how & no_finish) && !close_only) {
		liveupdate_session_finish finish{};
		call(finish, LIVEUPDATE_SESSION_FINISH, session);
	}
	fake::close(arg.fd);
	for (int fd : fds)
		fake::close(fd);
}

void use_all()
{
	std::vector<Named> all = sessions();
	for (const Named &named : all)
		use_session(named, false);
	// Whatever is left: handlers are there now, and nobody is busy.
	fake::disarm();
	finish_later = 0;
	if (how & late_handler)
		ferry_luo_register(&handlers[1]);
	for (const Named &named : all)
		use_session(named, true);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char *data, std::size_t size)
{
	if (size < 2)
		return 0;
	how = data[0];
	finish_later = how >> 6;
	fake::reset();
	fake::boot(fake::carry_tree({data + 2, size - 2}));
	if (kho_module_init())
		fake::bug("kho.ko was not loaded");
	if (luo_module_init())
		fake::bug("luo.ko was not loaded");
	ferry_luo_register(&handlers[0]);
	if (!(how & late_handler))
		ferry_luo_register(&handlers[1]);
	fake::arm(data[1]);
	use_all();
	for (auto &handler : handlers)
		ferry_luo_unregister(&handler);

	// Sessions whose handler is neither of these wait for it for ever.
	bool waits = fake::luo_module().refs;
	luo_module_exit();
	fake::run_releases();
	ferry_incoming_done();
	kho_module_exit();
	for (auto &[name, value] : fake::counters()) {
		if (value && name != "folios not restored" &&
		    !(waits && name.starts_with("references")))
			fake::bug("%s: %ld left\n%s", name.c_str(), value,
				  fake::allocations().c_str());
	}
	fake::power_off();
	return 0;
}
