// SPDX-License-Identifier: GPL-2.0
#include "tools/luod/client.hh"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tools/luod/protocol.hh"

namespace luod {

namespace {

std::unexpected<Error> failed_bus(int error)
{
	return failed("talk to luod", -error);
}

Error error_of(const sd_bus_error &error, int code)
{
	int number = ::sd_bus_error_is_set(&error) ? ::sd_bus_error_get_errno(&error) : -code;
	return {number, error.message ? error.message : std::strerror(number)};
}

Outcome<Message> call_and_wait(sd_bus *bus, sd_bus_message *message)
{
	BusError error;
	sd_bus_message *reply = nullptr;
	if (int bad = ::sd_bus_call(bus, message, 0, &error, &reply); bad < 0)
		return std::unexpected(error_of(error, bad));
	return Message(reply);
}

int append_options(sd_bus_message *message, const Client::Options &options)
{
	int bad = ::sd_bus_message_open_container(message, 'a', "{sv}");
	if (bad >= 0 && !options.policy.empty())
		bad = ::sd_bus_message_append(message, "{sv}", "policy", "s",
					      options.policy.c_str());
	if (bad >= 0 && options.deadline_ms)
		bad = ::sd_bus_message_append(message, "{sv}", "deadline_ms", "t",
					      *options.deadline_ms);
	if (bad >= 0 && options.key) {
		bad = ::sd_bus_message_open_container(message, 'e', "sv");
		if (bad >= 0)
			bad = ::sd_bus_message_append(message, "s", "key");
		if (bad >= 0)
			bad = ::sd_bus_message_open_container(message, 'v', "ay");
		if (bad >= 0)
			bad = ::sd_bus_message_append_array(message, 'y', options.key->data(),
							    options.key->size());
		if (bad >= 0)
			bad = ::sd_bus_message_close_container(message);
		if (bad >= 0)
			bad = ::sd_bus_message_close_container(message);
	}
	return bad < 0 ? bad : ::sd_bus_message_close_container(message);
}

} // namespace

Outcome<Client> Client::connect(const std::string &path)
{
	sockaddr_un address{};
	address.sun_family = AF_UNIX;
	if (path.empty() || path.size() >= sizeof(address.sun_path))
		return luod::refuse(EINVAL, "'" + path + "' is no path of a socket");
	path.copy(address.sun_path, path.size());
	Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	if (!fd ||
	    ::connect(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof(address)) < 0)
		return failed("connect to luod at " + path, errno);
	::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
	sd_bus *made = nullptr;
	int bad = ::sd_bus_new(&made);
	Bus bus(made);
	if (bad >= 0)
		bad = ::sd_bus_set_fd(made, fd.get(), fd.get());
	if (bad < 0)
		return failed_bus(bad);
	fd.release();
	bad = ::sd_bus_negotiate_fds(made, 1);
	if (bad >= 0)
		bad = ::sd_bus_start(made);
	if (bad < 0)
		return failed_bus(bad);
	return Client(std::move(bus));
}

Outcome<Message> Client::request(const char *method)
{
	sd_bus_message *made = nullptr;
	int bad = ::sd_bus_message_new_method_call(bus_.get(), &made, nullptr, object_path,
						   interface_name, method);
	if (bad < 0)
		return failed_bus(bad);
	return Message(made);
}

template <typename... Args>
Outcome<Message> Client::call(const char *method, const char *types, Args... args)
{
	auto message = request(method);
	if (!message)
		return message;
	if constexpr (sizeof...(args) > 0) {
		if (int bad = ::sd_bus_message_append(message->get(), types, args...); bad < 0)
			return failed_bus(bad);
	}
	return call_and_wait(bus_.get(), message->get());
}

Outcome<liveupdate::Session> Client::session_of(Outcome<Message> reply)
{
	if (!reply)
		return std::unexpected(reply.error());
	int fd = -1;
	if (int bad = ::sd_bus_message_read(reply->get(), "h", &fd); bad < 0)
		return failed_bus(bad);
	// The message closes its own.
	Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
	if (!copy)
		return failed("take the session", errno);
	return liveupdate::Session(std::move(copy));
}

Outcome<liveupdate::Session> Client::create(const std::string &name, const Options &options)
{
	auto message = request("CreateSession");
	if (!message)
		return std::unexpected(message.error());
	int bad = ::sd_bus_message_append(message->get(), "s", name.c_str());
	if (bad >= 0)
		bad = append_options(message->get(), options);
	if (bad < 0)
		return failed_bus(bad);
	return session_of(call_and_wait(bus_.get(), message->get()));
}

Outcome<liveupdate::Session> Client::get(const std::string &name, Direction direction,
					 const std::optional<liveupdate::Key> &key)
{
	auto message = request("GetSession");
	if (!message)
		return std::unexpected(message.error());
	int bad = ::sd_bus_message_append(message->get(), "ss", name.c_str(),
					  direction == Direction::in ? "in" : "out");
	if (bad >= 0)
		bad = append_options(message->get(), {.policy = {}, .deadline_ms = {}, .key = key});
	if (bad < 0)
		return failed_bus(bad);
	return session_of(call_and_wait(bus_.get(), message->get()));
}

namespace {

Outcome<> nothing(const Outcome<Message> &reply)
{
	if (!reply)
		return std::unexpected(reply.error());
	return {};
}

} // namespace

Outcome<> Client::drop(const std::string &name)
{
	return nothing(call("DropSession", "s", name.c_str()));
}

Outcome<> Client::finish(const std::string &name)
{
	return nothing(call("FinishSession", "s", name.c_str()));
}

Outcome<> Client::renew(const std::string &name)
{
	return nothing(call("RenewSession", "s", name.c_str()));
}

Outcome<> Client::join(const std::string &label)
{
	return nothing(call("Join", "s", label.c_str()));
}

Outcome<> Client::leave()
{
	return nothing(call("Leave", ""));
}

Outcome<> Client::ready(std::uint64_t id)
{
	return nothing(call("Ready", "t", id));
}

Outcome<> Client::refuse(std::uint64_t id, const std::string &reason)
{
	return nothing(call("Refuse", "ts", id, reason.c_str()));
}

Outcome<> Client::cancel(std::uint64_t id)
{
	return nothing(call("Cancel", "t", id));
}

Outcome<std::vector<Listed>> Client::list()
{
	auto reply = call("ListSessions", "");
	if (!reply)
		return std::unexpected(reply.error());
	std::vector<Listed> all;
	int bad = ::sd_bus_message_enter_container(reply->get(), 'a', "(ssuub)");
	for (;;) {
		const char *name = nullptr, *direction = nullptr;
		Owner owner{};
		int held = 0;
		if (bad >= 0)
			bad = ::sd_bus_message_read(reply->get(), "(ssuub)", &name, &direction,
						    &owner.uid, &owner.gid, &held);
		if (bad < 0)
			return failed_bus(bad);
		if (!bad)
			return all;
		all.push_back({name, std::strcmp(direction, "in") ? Direction::out : Direction::in,
			       owner, held != 0});
	}
}

Outcome<std::string> Client::property(const char *name)
{
	BusError error;
	char *text = nullptr;
	int bad = ::sd_bus_get_property_string(bus_.get(), nullptr, object_path, interface_name,
					       name, &error, &text);
	if (bad < 0)
		return std::unexpected(error_of(error, bad));
	std::string is = text;
	std::free(text);
	return is;
}

// ---- the barrier ----

namespace {

struct Answer {
	std::optional<Outcome<std::uint64_t>> verdict;

	static int take(sd_bus_message *reply, void *data, sd_bus_error *)
	{
		auto &answer = *static_cast<Answer *>(data);
		std::uint64_t id = 0;
		if (const auto *error = ::sd_bus_message_get_error(reply))
			answer.verdict = std::unexpected(error_of(*error, -EIO));
		else if (int bad = ::sd_bus_message_read(reply, "t", &id); bad < 0)
			answer.verdict = failed_bus(bad);
		else
			answer.verdict = id;
		return 1;
	}
};

std::optional<Client::Progress> read_progress(sd_bus_message *message)
{
	if (!::sd_bus_message_is_signal(message, interface_name, "Progress"))
		return {};
	std::uint64_t id = 0;
	Client::Progress progress{};
	if (::sd_bus_message_read(message, "tuu", &id, &progress.ready, &progress.all) < 0 ||
	    ::sd_bus_message_enter_container(message, 'a', "s") < 0)
		return {};
	const char *label = nullptr;
	while (::sd_bus_message_read(message, "s", &label) > 0)
		progress.waited_for.emplace_back(label);
	return progress;
}

} // namespace

Outcome<std::uint64_t> Client::prepare(std::chrono::milliseconds timeout, bool lose,
				       const std::function<void(const Progress &)> &show)
{
	Answer answer;
	auto message = request("Prepare");
	if (!message)
		return std::unexpected(message.error());
	auto ms = static_cast<std::uint64_t>(timeout.count());
	int bad = ::sd_bus_message_append(message->get(), "tb", ms, int(lose));
	// luod answers when the time is over: this is only for one that does not.
	std::uint64_t patience = (ms + 10'000) * 1000;
	if (bad >= 0)
		bad = ::sd_bus_call_async(bus_.get(), nullptr, message->get(), Answer::take,
					  &answer, patience);
	while (bad >= 0 && !answer.verdict) {
		sd_bus_message *got = nullptr;
		bad = ::sd_bus_process(bus_.get(), &got);
		Message owned(got);
		if (got) {
			if (auto progress = read_progress(got))
				show(*progress);
		} else if (!bad && !answer.verdict) {
			bad = ::sd_bus_wait(bus_.get(), UINT64_MAX);
			if (bad == -EINTR)
				bad = 0;
		}
	}
	if (!answer.verdict)
		return failed_bus(bad);
	return *answer.verdict;
}

Outcome<std::optional<Client::Event>> Client::wait(std::chrono::milliseconds timeout)
{
	auto end = std::chrono::steady_clock::now() + timeout;
	for (;;) {
		sd_bus_message *got = nullptr;
		int bad = ::sd_bus_process(bus_.get(), &got);
		Message owned(got);
		if (bad < 0)
			return failed_bus(bad);
		std::uint64_t id = 0;
		for (const char *name : {"PrepareUpdate", "Cancelled"}) {
			if (got && ::sd_bus_message_is_signal(got, interface_name, name) &&
			    ::sd_bus_message_read(got, "t", &id) > 0)
				return Event{*name == 'P', id};
		}
		if (bad)
			continue;
		auto left = std::chrono::duration_cast<std::chrono::microseconds>(
			end - std::chrono::steady_clock::now());
		if (left.count() <= 0)
			return std::nullopt;
		bad = ::sd_bus_wait(bus_.get(), static_cast<std::uint64_t>(left.count()));
		if (bad < 0 && bad != -EINTR)
			return failed_bus(bad);
	}
}

} // namespace luod
