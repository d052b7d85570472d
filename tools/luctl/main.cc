// SPDX-License-Identifier: GPL-2.0
// luctl: live update from the command line. See luctl(1).
#include <csignal>
#include <iostream>

#include <CLI/CLI.hpp>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tools/luctl/formats.hh"
#include "tools/luctl/kexec.hh"
#include "tools/luctl/report.hh"
#include "tools/luctl/sessions.hh"
#include "tools/luctl/tree.hh"
#include "tools/luod/protocol.hh"

namespace {

using namespace luctl;

// One command: how it is written, and what runs it.
class Commands {
    public:
	Commands(CLI::App &app, Context &context) : context_(context)
	{
		add_looking(app);
		add_sessions(app);
		add_kexec(app);
	}

	Outcome<> run()
	{
		return run_();
	}

    private:
	template <typename Run>
	CLI::App *add(CLI::App &to, const char *name, const char *what, Run run)
	{
		auto *command = to.add_subcommand(name, what);
		command->add_flag("--json", context_.json, "for programs");
		command->final_callback([this, run] { run_ = run; });
		return command;
	}

	void add_looking(CLI::App &app)
	{
		add(app, "status", "which live update there is, and how it stands",
		    [this] { return status(context_); });
		add(app, "list", "the sessions, or one of them with its files", [this] {
			return list(context_, session_);
		})->add_option("session", session_, "only this one");
		auto *formats_command = add(app, "formats",
					    "what this kernel writes and reads across a kexec",
					    [this] { return formats(context_, path_); });
		formats_command->add_option(
			"--check", path_,
			"does what this kernel writes suit that one? A file that "
			"luctl formats --json wrote there");
		add(app, "dump", "the tree that crosses the kexec",
		    [this] { return dump(context_, direction_ == "in"); })
			->add_option("direction", direction_,
				     "out: would be handed over now; in: the last kernel did")
			->check(CLI::IsMember({"in", "out"}));
		add(app, "report", "the last update: where its time went", [this] {
			return report(context_, path_);
		})->add_option("--svg", path_, "draw it into that file, too");
	}

	void add_sessions(CLI::App &app)
	{
		auto *preserve_command = add(app, "preserve",
					     "have files carried into the next kernel",
					     [this] { return preserve(context_, preserve_); });
		preserve_command
			->add_option("session", preserve_.session, "name of the new session")
			->required();
		preserve_command
			->add_option("files", preserve_.files,
				     "PATH, or TOKEN=PATH; a memfd is /proc/PID/fd/NUMBER")
			->required();
		preserve_command
			->add_option("--policy", preserve_.policy,
				     "what becomes of what nobody takes")
			->check(CLI::IsMember({"finish", "deadline", "keep"}));
		preserve_command->add_option("--deadline", preserve_.deadline_s,
					     "in seconds, for --policy deadline");
		preserve_command->add_option("--key-file", preserve_.key_file,
					     "only with this key it is given back");
		preserve_command->add_flag("--hold", preserve_.hold,
					   "without luod: hold it until a signal comes");

		add(app, "drop", "undo preserve: luod lets go of the session",
		    [this] { return drop(context_, session_); })
			->add_option("session", session_)
			->required();

		auto *retrieve_command = add(app, "retrieve",
					     "write files of a carried session to disk",
					     [this] { return retrieve(context_, retrieve_); });
		retrieve_command->add_option("session", retrieve_.session)->required();
		retrieve_command
			->add_option("files", retrieve_.files,
				     "TOKEN=PATH, where PATH - is the standard output")
			->required();
		retrieve_command->add_option("--key-file", retrieve_.key_file, "the session's key");
		retrieve_command->add_flag("--finish", retrieve_.finish, "and finish the session");
		retrieve_command->add_flag("--force", retrieve_.force,
					   "also over files that exist");

		auto *finish_command = add(app, "finish",
					   "let the kernel release a carried session",
					   [this] { return finish(context_, session_, discard_); });
		finish_command->add_option("session", session_)->required();
		finish_command->add_flag("--discard", discard_,
					 "one that nobody has, without its key");

		add(app, "renew", "have a carried session carried again, with what was retrieved",
		    [this] { return renew(context_, session_); })
			->add_option("session", session_)
			->required();
	}

	void add_preflight(CLI::App *command, PreflightOptions &options)
	{
		command->add_option("--formats", options.formats,
				    "the next kernel's catalogue (luctl formats --json there)");
	}

	void add_kexec(CLI::App &app)
	{
		auto *kexec = app.add_subcommand("kexec", "load the next kernel, check, and jump");
		kexec->require_subcommand(1);
		auto *load = add(*kexec, "load", "load the next kernel",
				 [this] { return kexec_load(context_, load_); });
		load->add_option("kernel", load_.kernel,
				 "a path, or a release: /boot/vmlinuz-RELEASE with its initrd")
			->required();
		load->add_option("--initrd", load_.initrd, "its initramfs");
		load->add_option_function<std::string>(
			"--append",
			[this](const std::string &text) {
				load_.cmdline = text;
				load_.cmdline_given = true;
			},
			"its command line, instead of this kernel's");
		add(*kexec, "unload", "forget the next kernel",
		    [this] { return kexec_unload(context_); });
		add_preflight(add(*kexec, "preflight", "would it go well?",
				  [this] { return kexec_preflight(context_, go_.preflight); }),
			      go_.preflight);
		auto *go = add(*kexec, "go", "ask the services, and jump",
			       [this] { return kexec_go(context_, go_); });
		add_preflight(go, go_.preflight);
		go->add_option("--timeout", go_.timeout_s,
			       "seconds that the services may take (60)")
			->check(CLI::Range(1, 3600));
		go->add_flag("--force", go_.force, "also if a check failed");
		go->add_flag("--lose", go_.lose, "also if it loses sessions of the last kernel");
		go->add_flag("--now", go_.now, "by reboot(2), also where systemd runs");
	}

	Context &context_;
	std::function<Outcome<>()> run_;
	std::string session_, path_, direction_ = "out";
	bool discard_ = false;
	PreserveOptions preserve_;
	RetrieveOptions retrieve_;
	LoadOptions load_;
	GoOptions go_;
};

unsigned int terminal_width()
{
	winsize size{};
	if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20)
		return size.ws_col;
	return 80;
}

} // namespace

int main(int argc, char **argv)
{
	std::signal(SIGPIPE, SIG_IGN);
	Context context{
		.out = std::cout, .notes = std::cerr, .root = {}, .socket = luod::default_socket};
	context.terminal = ::isatty(STDERR_FILENO);
	context.width = terminal_width();
	CLI::App app("Live update: carry files over a kexec", "luctl");
	app.require_subcommand(1);
	app.set_version_flag("--version", LU_VERSION);
	app.add_option("--socket", context.socket, "of luod")->capture_default_str();
	Commands commands(app, context);
	try {
		app.parse(argc, argv);
	} catch (const CLI::ParseError &error) {
		return app.exit(error) ? static_cast<int>(Exit::usage) : 0;
	}
	auto done = commands.run();
	if (!done) {
		if (!done.error().text.empty())
			std::cerr << "luctl: " << done.error().text << "\n";
		return static_cast<int>(done.error().exit);
	}
	return std::cout.flush() ? 0 : static_cast<int>(Exit::failed);
}
