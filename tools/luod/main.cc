// SPDX-License-Identifier: GPL-2.0
// luod: keeps the sessions of services over their own death, over its own, and over a
// kexec. See luod(8).
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include <CLI/CLI.hpp>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "tools/luod/keeper.hh"
#include "tools/luod/protocol.hh"
#include "tools/luod/server.hh"

namespace {

using namespace luod;

int die(const Error &error)
{
	std::fprintf(stderr, SD_ERR "luod: %s\n", error.text.c_str());
	return EXIT_FAILURE;
}

void say(const std::string &text)
{
	std::fprintf(stderr, SD_NOTICE "luod: %s\n", text.c_str());
}

// The socket for clients is among what the service manager passed, or is made here.
Outcome<Fd> take_socket(std::vector<Kept> &kept, const std::string &path)
{
	for (auto &each : kept) {
		if (each.name == "bus" || each.name == "luod.socket")
			return std::move(each.fd);
	}
	return listen_at(path);
}

int serve(const std::string &path)
{
	auto kept = take_kept();
	auto socket = take_socket(kept, path);
	if (!socket)
		return die(socket.error());
	std::erase_if(kept,
		      [](auto &each) { return each.name == "bus" || each.name == "luod.socket"; });

	ManagerStore manager;
	NoStore none;
	bool managed = std::getenv("NOTIFY_SOCKET");
	if (!managed)
		say("no fd store: what it keeps is gone with it (luod --keep has one)");
	Store &store = managed ? static_cast<Store &>(manager) : none;
	auto agent = Agent::start(store, std::move(kept), say);
	if (!agent)
		return die(agent.error());

	sd_event *made = nullptr;
	if (int bad = ::sd_event_new(&made); bad < 0)
		return die({-bad, "no event loop"});
	Event event(made);
	sigset_t signals;
	::sigemptyset(&signals);
	::sigaddset(&signals, SIGTERM);
	::sigaddset(&signals, SIGINT);
	::sigprocmask(SIG_BLOCK, &signals, nullptr);
	::sd_event_add_signal(made, nullptr, SIGTERM, nullptr, nullptr);
	::sd_event_add_signal(made, nullptr, SIGINT, nullptr, nullptr);
	::sd_event_set_watchdog(made, 1);
	auto server = Server::create(made, *agent, std::move(*socket));
	if (!server)
		return die(server.error());
	std::string status = "READY=1\nSTATUS=" +
			     std::string(::lu_implementation_name(agent->implementation())) + ", " +
			     std::to_string(agent->list().size()) + " sessions";
	::sd_notify(0, status.c_str());
	int ended = ::sd_event_loop(made);
	::sd_notify(0, "STOPPING=1");
	return ended < 0 ? die({-ended, "the event loop failed"}) : EXIT_SUCCESS;
}

} // namespace

int main(int argc, char **argv)
{
	CLI::App app("Keeps the sessions of services over a live update", "luod");
	std::string path = default_socket;
	bool keep = false;
	app.add_option("--socket", path, "where services connect, without socket activation")
		->capture_default_str();
	app.add_flag("--keep", keep,
		     "be the fd store, for machines without systemd, and run luod below");
	app.set_version_flag("--version", LU_VERSION);
	CLI11_PARSE(app, argc, argv);
	std::signal(SIGPIPE, SIG_IGN);
	if (!keep)
		return serve(path);
	// By its path: after an upgrade the next one is the new one.
	std::error_code error;
	auto self = std::filesystem::read_symlink("/proc/self/exe", error);
	if (error)
		return die({error.value(), "/proc/self/exe: " + error.message()});
	return run_keeper(path, {self.string(), "--socket", path});
}
