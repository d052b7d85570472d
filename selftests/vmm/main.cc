// SPDX-License-Identifier: GPL-2.0
/*
 * ferry-vmm: a small VMM that boots Linux, and that lives through a kexec of its
 * host together with its guest.
 *
 *	ferry-vmm run --kernel bzImage --initrd F --control /run/vmm &
 *	ferry-vmm ctl /run/vmm jump		# the next kernel is loaded already
 *
 * and in the next kernel
 *
 *	ferry-vmm resume --control /run/vmm &
 *
 * What the guest prints goes to standard output. The exit code is 0 if the guest
 * switched itself off, or somebody said "quit"; 1 after an error, or a reset by
 * the guest; 2 for a wrong command line.
 *
 * Where things are:
 *
 *	update.cc	the live update, before and after the kexec; begin here
 *	luo.cc own.cc	the two ways to get KVM's state over
 *	machine.cc	what a virtual machine is: memory.cc, vcpus.cc, devices.cc
 *	devices.cc	serial.cc, ioapic.cc
 *	boot.cc		how Linux starts: acpi.cc, cpuid.cc
 *	control.cc	the socket
 *	guest/		what runs in the guest; verify.cc checks what it prints
 */
#include <fstream>
#include <iostream>
#include <map>

#include <CLI/CLI.hpp>
#include <poll.h>

#include "selftests/vmm/control.hh"
#include "selftests/vmm/update.hh"
#include "selftests/vmm/verify.hh"

using namespace vmm;

namespace {

struct Options {
	std::string session = "ferry-vmm";
	std::string control;

	// of run
	std::uint64_t ram = 128 * MiB;
	unsigned int vcpus = 1;
	Backing backing = Backing::memfd;
	Carrier carrier = Carrier::luo;
	std::optional<Irqchip> irqchip;
	Linux guest{.kernel = {}, .initrd = {}, .cmdline = "console=ttyS0"};

	// of ctl and verify
	std::vector<std::string> words;
	std::string file;
};

// ---- the VMM ----

std::string text_of(const Result<> &result)
{
	return result ? "ok" : "error: " + result.error().text;
}

// Until the guest has printed so many more lines.
Result<> wait_for_lines(Machine &machine, const std::string &number)
{
	constexpr unsigned int try_ms = 10, most_ms = 80'000;
	auto until = machine.devices().lines() + std::strtoull(number.c_str(), nullptr, 10);
	for (unsigned int ms = 0; machine.devices().lines() < until; ms += try_ms) {
		pollfd ended{machine.ended(), POLLIN, 0};
		if (::poll(&ended, 1, try_ms) > 0)
			return failure("the guest has ended");
		if (ms == most_ms)
			return failure("the guest is silent");
	}
	return {};
}

// One request; false: quit.
bool serve(const Control::Request &request, Machine &machine, Update &update)
{
	auto answer = [&](const Result<> &result) { Control::answer(request, text_of(result)); };
	if (request.word == "prepare") {
		answer(update.prepare());
	} else if (request.word == "cancel") {
		update.cancel();
		answer({});
	} else if (request.word == "save") {
		answer(update.save());
	} else if (request.word == "jump") {
		answer(update.jump());
	} else if (request.word == "pause") {
		machine.vcpus().pause();
		answer({});
	} else if (request.word == "continue") {
		machine.vcpus().resume();
		answer({});
	} else if (request.word.starts_with("wait ")) {
		answer(wait_for_lines(machine, request.word.substr(5)));
	} else if (request.word == "quit") {
		answer({});
		return false;
	} else {
		answer(failure("not a request: " + request.word));
	}
	return true;
}

// How the guest ended, as the result of the program.
Result<> judge(const End &end)
{
	if (!end.error.empty())
		return failure(end.error);
	if (end.ending == Ending::reset)
		return failure("the guest made a reset, or crashed");
	return {};
}

// Until the guest ends, or somebody says so.
Result<> serve_all(const Control *control, Machine &machine, Update &update)
{
	for (;;) {
		pollfd fds[] = {{machine.ended(), POLLIN, 0},
				{control ? control->fd() : -1, POLLIN, 0}};
		if (::poll(fds, std::size(fds), -1) < 0 && errno != EINTR)
			return failed_call("poll");
		if (fds[0].revents)
			return judge(machine.vcpus().end());
		if (!fds[1].revents)
			continue;
		auto request = control->accept();
		if (!request)
			say(request.error().text);
		else if (!serve(*request, machine, update))
			return {};
	}
}

Result<> serve_machine(const kvm::System &system, Machine &machine, const Options &options)
{
	std::optional<Control> control;
	if (!options.control.empty())
		control.emplace(TRY("control", Control::listen(options.control)));
	Update update(system, machine, options.session);
	return serve_all(control ? &*control : nullptr, machine, update);
}

Result<> run(const Options &options)
{
	auto system = TRY("/dev/kvm", kvm::System::open());
	Config config{.ram = options.ram,
		      .vcpus = options.vcpus,
		      .backing = options.backing,
		      .irqchip = TRY("irqchip",
				     options.irqchip ? *options.irqchip : best_irqchip(system)),
		      .carrier = options.carrier};
	auto machine = TRY("machine", Machine::create(system, config));
	TRY("machine", machine->boot(system, options.guest));
	machine->vcpus().start();
	return serve_machine(system, *machine, options);
}

Result<> resume(const Options &options)
{
	auto system = TRY("/dev/kvm", kvm::System::open());
	auto arrival = TRY("resume", take_over(system, options.session));
	TRY("resume", continue_and_report(arrival));
	return serve_machine(system, *arrival.machine, options);
}

Result<> ctl(const Options &options)
{
	std::string request;
	for (const auto &word : options.words)
		request += (request.empty() ? "" : " ") + word;
	auto answer = TRY(request, ask(options.control, request));
	if (answer != "ok")
		return failure(answer);
	return {};
}

Result<> verify_file(const Options &options)
{
	std::ifstream file;
	if (!options.file.empty() && options.file != "-") {
		file.open(options.file);
		if (!file)
			return failed_call(options.file);
	}
	if (!verify(file.is_open() ? file : std::cin))
		return failure("the workload was disturbed");
	return {};
}

// ---- the command line ----

template <typename T> auto choice(std::map<std::string, T> names)
{
	return CLI::CheckedTransformer(std::move(names), CLI::ignore_case);
}

void add_common(CLI::App &command, Options &options)
{
	command.add_option("--session", options.session,
			   "name of the live update session (ferry-vmm)")
		->option_text("NAME");
	command.add_option("--control", options.control, "socket to be told at; see ctl")
		->option_text("SOCKET");
}

CLI::App *add_run(CLI::App &app, Options &options)
{
	auto command = app.add_subcommand("run", "boot a guest");
	command->add_option("--kernel", options.guest.kernel, "bzImage")
		->required()
		->option_text("FILE");
	command->add_option("--initrd", options.guest.initrd, "initramfs")->option_text("FILE");
	command->add_option("--append", options.guest.cmdline,
			    "the guest's command line (console=ttyS0)")
		->option_text("STR");
	command->add_option("--ram", options.ram, "memory of the guest, 64M to 3G (128M)")
		->transform(CLI::AsSizeValue(false))
		->check(CLI::Range(64 * MiB, layout::ram_max))
		->option_text("SIZE");
	command->add_option("--vcpus", options.vcpus, "its CPUs, 1 to 64 (1)")
		->check(CLI::Range(1u, max_vcpus))
		->option_text("N");
	command->add_option("--memory", options.backing, "the file behind its memory (memfd)")
		->transform(choice<Backing>(
			{{"memfd", Backing::memfd}, {"guest_memfd", Backing::guest_memfd}}))
		->option_text("memfd|guest_memfd");
	command->add_option("--state", options.carrier,
			    "who carries KVM's state over the kexec: the kernel, with KVM's "
			    "files, or the VMM, which reads and writes all of it (luo)")
		->transform(choice<Carrier>({{"own", Carrier::own}, {"luo", Carrier::luo}}))
		->option_text("luo|own");
	command->add_option("--irqchip", options.irqchip,
			    "who has the I/O APIC (the kernel if it can)")
		->transform(
			choice<Irqchip>({{"kernel", Irqchip::kernel}, {"split", Irqchip::split}}))
		->option_text("kernel|split");
	add_common(*command, options);
	return command;
}

CLI::App *add_ctl(CLI::App &app, Options &options)
{
	auto command = app.add_subcommand(
		"ctl", "tell a VMM; wait for it if it is not there yet:\n"
		       "  prepare   preserve all, while the guest runs\n"
		       "  save      the same; and pause the guest, and save the rest\n"
		       "  jump      the same; and start the next kernel, which is loaded\n"
		       "  cancel    undo that; the guest runs on\n"
		       "  wait N    until the guest has printed N more lines\n"
		       "  pause, continue, quit");
	command->add_option("socket", options.control, "its --control")
		->required()
		->option_text("PATH");
	command->add_option("word", options.words, "one of these")->required()->option_text(" ");
	return command;
}

int finish(const Result<> &result)
{
	if (result)
		return 0;
	say(result.error().text);
	return 1;
}

} // namespace

int main(int argc, char **argv)
{
	Options options;
	CLI::App app("A small VMM that lives through a kexec of its host", "ferry-vmm");
	app.require_subcommand(1);
	auto run_command = add_run(app, options);
	auto resume_command =
		app.add_subcommand("resume", "in the next kernel: go on with the guest");
	add_common(*resume_command, options);
	auto ctl_command = add_ctl(app, options);
	auto verify_command = app.add_subcommand(
		"verify", "read a console: was the workload of the guest disturbed?");
	verify_command->add_option("file", options.file, "the console (standard input)")
		->option_text("FILE");
	try {
		app.parse(argc, argv);
	} catch (const CLI::ParseError &error) {
		return app.exit(error) ? 2 : 0;
	}

	if (*run_command)
		return finish(run(options));
	if (*resume_command)
		return finish(resume(options));
	if (*ctl_command)
		return finish(ctl(options));
	if (*verify_command)
		return finish(verify_file(options));
}
