// SPDX-License-Identifier: GPL-2.0
#include "tools/luod/server.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tools/luod/protocol.hh"

namespace luod {

namespace {

// Besides those that sessions take.
constexpr std::size_t max_clients = 512;
constexpr std::uint64_t max_timeout_ms = 3'600'000;

int fail(sd_bus_error *to, const Error &error)
{
	return ::sd_bus_error_set_errnof(to, error.code, "%s", error.text.c_str());
}

int fail(sd_bus_error *to, int code, const char *text)
{
	return ::sd_bus_error_set_errnof(to, code, "%s", text);
}

int read_key(sd_bus_message *message, std::optional<liveupdate::Key> &key, sd_bus_error *error)
{
	const void *bytes = nullptr;
	std::size_t size = 0;
	if (int bad = ::sd_bus_message_enter_container(message, 'v', "ay"); bad < 0)
		return bad;
	if (int bad = ::sd_bus_message_read_array(message, 'y', &bytes, &size); bad < 0)
		return bad;
	if (size != key.emplace().size())
		return fail(error, EINVAL, "a key has 32 bytes");
	std::memcpy(key->data(), bytes, size);
	return ::sd_bus_message_exit_container(message);
}

int read_policy(sd_bus_message *message, Terms &terms, sd_bus_error *error)
{
	static const std::map<std::string_view, unsigned int> policies = {
		{"finish", LIVEUPDATE_FERRY_POLICY_FINISH},
		{"deadline", LIVEUPDATE_FERRY_POLICY_DEADLINE},
		{"keep", LIVEUPDATE_FERRY_POLICY_KEEP}};
	const char *text = nullptr;
	if (int bad = ::sd_bus_message_read(message, "v", "s", &text); bad < 0)
		return bad;
	auto found = policies.find(text);
	if (found == policies.end())
		return fail(error, EINVAL, "policy: finish, deadline or keep");
	terms.policy = found->second;
	return 1;
}

// a{sv}: the options of a session. One that is not known is an error, as it may be
// one that protects something.
int read_terms(sd_bus_message *message, Terms &terms, sd_bus_error *error)
{
	bool deadline = false;
	if (int bad = ::sd_bus_message_enter_container(message, 'a', "{sv}"); bad < 0)
		return bad;
	int more;
	while ((more = ::sd_bus_message_enter_container(message, 'e', "sv")) > 0) {
		const char *name = nullptr;
		int bad = ::sd_bus_message_read(message, "s", &name);
		if (bad < 0)
			return bad;
		terms.by_default = false;
		if (!std::strcmp(name, "policy"))
			bad = read_policy(message, terms, error);
		else if (!std::strcmp(name, "deadline_ms"))
			deadline = (bad = ::sd_bus_message_read(message, "v", "t",
								&terms.deadline_ms)) >= 0;
		else if (!std::strcmp(name, "key"))
			bad = read_key(message, terms.key, error);
		else
			return ::sd_bus_error_set_errnof(error, EOPNOTSUPP, "unknown option '%s'",
							 name);
		if (bad < 0)
			return bad;
		if (bad = ::sd_bus_message_exit_container(message); bad < 0)
			return bad;
	}
	if (more < 0)
		return more;
	// The time by default is only for the policy that has one.
	if (!deadline && terms.policy != LIVEUPDATE_FERRY_POLICY_DEADLINE)
		terms.deadline_ms = 0;
	return ::sd_bus_message_exit_container(message);
}

const char *name_of(Barrier::State state)
{
	switch (state) {
	case Barrier::State::idle:
		return "idle";
	case Barrier::State::preparing:
		return "preparing";
	case Barrier::State::ready:
		return "ready";
	}
	return "";
}

} // namespace

struct Server::Client {
	Client(Server &its_server, Barrier::Client its_id, Owner its_user)
		: server(its_server), id(its_id), user(its_user)
	{
	}

	Server &server;
	Barrier::Client id;
	Owner user;
	bool left = false;
	Bus bus;
};

Server::Server(sd_event *event, Agent &agent, Fd listening)
	: event_(event), agent_(agent), listening_(std::move(listening))
{
}

// ---- the methods ----

struct Methods {
	using Client = Server::Client;

	static Client &client(void *data)
	{
		return *static_cast<Client *>(data);
	}

	// For what is done and has no answer.
	static int done(sd_bus_message *call, const Outcome<> &outcome, sd_bus_error *error)
	{
		return outcome ? ::sd_bus_reply_method_return(call, nullptr)
			       : fail(error, outcome.error());
	}

	static int pass(sd_bus_message *call, Outcome<Fd> session, sd_bus_error *error)
	{
		if (!session)
			return fail(error, session.error());
		return ::sd_bus_reply_method_return(call, "h", session->get());
	}

	static int create_session(sd_bus_message *call, void *data, sd_bus_error *error)
	{
		const char *name = nullptr;
		Terms terms;
		if (int bad = ::sd_bus_message_read(call, "s", &name); bad < 0)
			return bad;
		if (int bad = read_terms(call, terms, error); bad < 0)
			return bad;
		return pass(call, client(data).server.agent_.create(client(data).user, name, terms),
			    error);
	}

	static int get_session(sd_bus_message *call, void *data, sd_bus_error *error)
	{
		const char *name = nullptr, *direction = nullptr;
		Terms terms;
		if (int bad = ::sd_bus_message_read(call, "ss", &name, &direction); bad < 0)
			return bad;
		if (int bad = read_terms(call, terms, error); bad < 0)
			return bad;
		bool in = !std::strcmp(direction, "in");
		if (!in && std::strcmp(direction, "out"))
			return fail(error, EINVAL, "direction: in or out");
		return pass(call,
			    client(data).server.agent_.get(client(data).user, name,
							   in ? Direction::in : Direction::out,
							   terms.key),
			    error);
	}

	using Change = Outcome<> (Agent::*)(Owner, const std::string &);
	template <Change change>
	static int change_session(sd_bus_message *call, void *data, sd_bus_error *error)
	{
		const char *name = nullptr;
		if (int bad = ::sd_bus_message_read(call, "s", &name); bad < 0)
			return bad;
		return done(call, (client(data).server.agent_.*change)(client(data).user, name),
			    error);
	}

	static int list_sessions(sd_bus_message *call, void *data, sd_bus_error *)
	{
		sd_bus_message *made = nullptr;
		if (int bad = ::sd_bus_message_new_method_return(call, &made); bad < 0)
			return bad;
		Message reply(made);
		if (int bad = ::sd_bus_message_open_container(made, 'a', "(ssuub)"); bad < 0)
			return bad;
		const Owner &user = client(data).user;
		for (const auto &each : client(data).server.agent_.list()) {
			if (user.uid && user.uid != each.owner.uid)
				continue;
			int bad = ::sd_bus_message_append(
				made, "(ssuub)", each.name.c_str(),
				each.direction == Direction::in ? "in" : "out", each.owner.uid,
				each.owner.gid, int(each.held));
			if (bad < 0)
				return bad;
		}
		if (int bad = ::sd_bus_message_close_container(made); bad < 0)
			return bad;
		return ::sd_bus_send(nullptr, made, nullptr);
	}

	static int join(sd_bus_message *call, void *data, sd_bus_error *error)
	{
		const char *label = nullptr;
		if (int bad = ::sd_bus_message_read(call, "s", &label); bad < 0)
			return bad;
		// It is shown to the operator.
		std::string_view text = label;
		if (text.empty() || text.size() > 64 ||
		    !std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; }))
			return fail(error, EINVAL, "a label has 1 to 64 printable characters");
		client(data).server.barrier_.join(client(data).id, label);
		return ::sd_bus_reply_method_return(call, nullptr);
	}

	static int leave(sd_bus_message *call, void *data, sd_bus_error *)
	{
		client(data).server.barrier_.leave(client(data).id);
		client(data).server.settle();
		return ::sd_bus_reply_method_return(call, nullptr);
	}

	static int ready(sd_bus_message *call, void *data, sd_bus_error *error)
	{
		std::uint64_t id = 0;
		if (int bad = ::sd_bus_message_read(call, "t", &id); bad < 0)
			return bad;
		auto said = client(data).server.barrier_.ready(client(data).id, id);
		client(data).server.report_progress();
		client(data).server.settle();
		return done(call, said, error);
	}

	static int refuse(sd_bus_message *call, void *data, sd_bus_error *error)
	{
		std::uint64_t id = 0;
		const char *reason = nullptr;
		if (int bad = ::sd_bus_message_read(call, "ts", &id, &reason); bad < 0)
			return bad;
		auto said = client(data).server.barrier_.refuse(client(data).id, id, reason);
		client(data).server.settle();
		return done(call, said, error);
	}

	static int prepare(sd_bus_message *call, void *data, sd_bus_error *error)
	{
		Server &server = client(data).server;
		std::uint64_t timeout_ms = 0;
		int lose = 0;
		if (int bad = ::sd_bus_message_read(call, "tb", &timeout_ms, &lose); bad < 0)
			return bad;
		if (client(data).user.uid)
			return fail(error, EPERM, "only root prepares an update");
		if (!timeout_ms || timeout_ms > max_timeout_ms)
			return fail(error, EINVAL, "the timeout is 1 ms to 1 hour");
		if (auto names = server.agent_.unfinished(); !names.empty() && !lose)
			return ::sd_bus_error_set_errnof(
				error, EBUSY,
				"session '%s' of the last kernel is not finished, and the "
				"update would lose it (%zu such)",
				names[0].c_str(), names.size());
		auto id = server.barrier_.begin(client(data).id);
		if (!id)
			return fail(error, id.error());
		server.asked_.reset(::sd_bus_message_ref(call));
		server.watch_expiry(timeout_ms);
		server.announce(timeout_ms);
		server.report_progress();
		server.settle();
		return 1;
	}

	static int cancel(sd_bus_message *call, void *data, sd_bus_error *error)
	{
		std::uint64_t id = 0;
		if (int bad = ::sd_bus_message_read(call, "t", &id); bad < 0)
			return bad;
		auto said = client(data).server.barrier_.cancel(client(data).id, id);
		client(data).server.settle();
		return done(call, said, error);
	}

	static int get_property(sd_bus *, const char *, const char *, const char *property,
				sd_bus_message *reply, void *data, sd_bus_error *)
	{
		Server &server = client(data).server;
		if (!std::strcmp(property, "Joined"))
			return ::sd_bus_message_append(
				reply, "u", static_cast<std::uint32_t>(server.barrier_.joined()));
		const char *text =
			!std::strcmp(property, "State")
				? name_of(server.barrier_.state())
				: ::lu_implementation_name(server.agent_.implementation());
		return ::sd_bus_message_append(reply, "s", text);
	}

	// busctl(1) and others begin every connection with it, as if this were a bus.
	static int hello(sd_bus_message *call, void *data, sd_bus_error *)
	{
		std::string name = ":1." + std::to_string(client(data).id);
		return ::sd_bus_reply_method_return(call, "s", name.c_str());
	}

	static int departed(sd_bus_message *message, void *data, sd_bus_error *)
	{
		if (!::sd_bus_message_is_signal(message, "org.freedesktop.DBus.Local",
						"Disconnected"))
			return 0;
		client(data).left = true;
		::sd_event_source_set_enabled(client(data).server.departure_.get(),
					      SD_EVENT_ONESHOT);
		return 1;
	}

	static const sd_bus_vtable table[], bus_table[];
};

const sd_bus_vtable Methods::table[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD_WITH_ARGS("CreateSession", SD_BUS_ARGS("s", name, "a{sv}", options),
				SD_BUS_RESULT("h", session), create_session,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS(
		"GetSession", SD_BUS_ARGS("s", name, "s", direction, "a{sv}", options),
		SD_BUS_RESULT("h", session), get_session, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("DropSession", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT,
				change_session<&Agent::drop>, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("FinishSession", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT,
				change_session<&Agent::finish>, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("RenewSession", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT,
				change_session<&Agent::renew>, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("ListSessions", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssuub)", sessions),
				list_sessions, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("Join", SD_BUS_ARGS("s", label), SD_BUS_NO_RESULT, join,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("Leave", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, leave,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("Ready", SD_BUS_ARGS("t", id), SD_BUS_NO_RESULT, ready,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("Refuse", SD_BUS_ARGS("t", id, "s", reason), SD_BUS_NO_RESULT,
				refuse, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("Prepare", SD_BUS_ARGS("t", timeout_ms, "b", lose),
				SD_BUS_RESULT("t", id), prepare, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("Cancel", SD_BUS_ARGS("t", id), SD_BUS_NO_RESULT, cancel,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_PROPERTY("Implementation", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("State", "s", get_property, 0, 0),
	SD_BUS_PROPERTY("Joined", "u", get_property, 0, 0),
	SD_BUS_SIGNAL_WITH_ARGS("PrepareUpdate", SD_BUS_ARGS("t", id, "t", timeout_ms), 0),
	SD_BUS_SIGNAL_WITH_ARGS("Cancelled", SD_BUS_ARGS("t", id, "s", reason), 0),
	SD_BUS_SIGNAL_WITH_ARGS("Progress",
				SD_BUS_ARGS("t", id, "u", ready, "u", all, "as", waited_for), 0),
	SD_BUS_VTABLE_END,
};

const sd_bus_vtable Methods::bus_table[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD("Hello", "", "s", hello, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_VTABLE_END,
};

// ---- connections ----

Outcome<std::unique_ptr<Server>> Server::create(sd_event *event, Agent &agent, Fd listening)
{
	std::unique_ptr<Server> server(new Server(event, agent, std::move(listening)));
	sd_event_source *source = nullptr;
	if (int bad = ::sd_event_add_io(event, &source, server->listening_.get(), EPOLLIN,
					on_connect, server.get());
	    bad < 0)
		return failed("listen", -bad);
	server->source_.reset(source);
	// A connection cannot be freed while a message of it is being looked at.
	if (int bad = ::sd_event_add_defer(event, &source, on_departure, server.get()); bad < 0)
		return failed("listen", -bad);
	server->departure_.reset(source);
	::sd_event_source_set_enabled(source, SD_EVENT_OFF);
	return server;
}

Server::~Server() = default;

int Server::on_connect(sd_event_source *, int fd, std::uint32_t, void *data)
{
	auto &server = *static_cast<Server *>(data);
	Fd connection(::accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
	// Whoever is too many, or went away, has to come again.
	if (connection && server.clients_.size() < max_clients)
		static_cast<void>(server.accept(std::move(connection)));
	return 0;
}

Outcome<> Server::accept(Fd fd)
{
	ucred peer{};
	socklen_t size = sizeof(peer);
	if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return failed("ask who connects", errno);
	auto client = std::make_unique<Client>(*this, ++last_client_, Owner{peer.uid, peer.gid});
	sd_id128_t id;
	sd_bus *bus = nullptr;
	int bad = ::sd_bus_new(&bus);
	client->bus.reset(bus);
	if (bad >= 0)
		bad = ::sd_id128_randomize(&id);
	if (bad >= 0)
		bad = ::sd_bus_set_fd(bus, fd.get(), fd.get());
	if (bad < 0)
		return failed("serve a connection", -bad);
	fd.release();
	for (auto *table : {&Methods::table[0], &Methods::bus_table[0]}) {
		bool ours = table == &Methods::table[0];
		if (bad >= 0)
			bad = ::sd_bus_add_object_vtable(
				bus, nullptr, ours ? object_path : "/org/freedesktop/DBus",
				ours ? interface_name : "org.freedesktop.DBus", table,
				client.get());
	}
	if (bad >= 0)
		bad = ::sd_bus_set_server(bus, 1, id);
	if (bad >= 0)
		bad = ::sd_bus_set_anonymous(bus, 1);
	if (bad >= 0)
		bad = ::sd_bus_negotiate_fds(bus, 1);
	if (bad >= 0)
		bad = ::sd_bus_add_filter(bus, nullptr, Methods::departed, client.get());
	if (bad >= 0)
		bad = ::sd_bus_start(bus);
	if (bad >= 0)
		bad = ::sd_bus_attach_event(bus, event_, SD_EVENT_PRIORITY_NORMAL);
	if (bad < 0)
		return failed("serve a connection", -bad);
	clients_[client->id] = std::move(client);
	return {};
}

int Server::on_departure(sd_event_source *, void *data)
{
	auto &server = *static_cast<Server *>(data);
	for (auto at = server.clients_.begin(); at != server.clients_.end();) {
		if (!at->second->left) {
			++at;
			continue;
		}
		server.barrier_.gone(at->first);
		at = server.clients_.erase(at);
	}
	server.settle();
	return 0;
}

// ---- the barrier ----

int Server::on_expiry(sd_event_source *, std::uint64_t, void *data)
{
	auto &server = *static_cast<Server *>(data);
	server.barrier_.expire();
	server.settle();
	return 0;
}

void Server::watch_expiry(std::uint64_t timeout_ms)
{
	sd_event_source *source = nullptr;
	// Without a clock there would be no end: so the barrier ends at once.
	if (::sd_event_add_time_relative(event_, &source, CLOCK_MONOTONIC, timeout_ms * 1000, 0,
					 on_expiry, this) < 0)
		barrier_.expire();
	expiry_.reset(source);
}

void Server::announce(std::uint64_t timeout_ms)
{
	for (auto &[id, client] : clients_)
		::sd_bus_emit_signal(client->bus.get(), object_path, interface_name,
				     "PrepareUpdate", "tt", barrier_.id(), timeout_ms);
}

void Server::report_progress()
{
	auto operator_client = clients_.find(barrier_.begun_by());
	if (operator_client == clients_.end() || barrier_.state() == Barrier::State::idle)
		return;
	auto labels = barrier_.waited_for();
	std::vector<char *> list;
	for (auto &label : labels)
		list.push_back(label.data());
	list.push_back(nullptr);
	sd_bus_message *made = nullptr;
	if (::sd_bus_message_new_signal(operator_client->second->bus.get(), &made, object_path,
					interface_name, "Progress") < 0)
		return;
	Message message(made);
	auto all = static_cast<std::uint32_t>(barrier_.joined());
	auto pending = static_cast<std::uint32_t>(barrier_.pending());
	if (::sd_bus_message_append(made, "tuu", barrier_.id(), all - pending, all) >= 0 &&
	    ::sd_bus_message_append_strv(made, list.data()) >= 0)
		::sd_bus_send(nullptr, made, nullptr);
}

// What the barrier has decided goes to whoever asked, and to all if it is off.
void Server::settle()
{
	auto verdict = barrier_.take_verdict();
	if (!verdict)
		return;
	expiry_.reset();
	if (asked_) {
		if (verdict->ready)
			::sd_bus_reply_method_return(asked_.get(), "t", barrier_.id());
		else
			::sd_bus_reply_method_errnof(asked_.get(), ECANCELED, "%s",
						     verdict->reason.c_str());
		asked_.reset();
	}
	if (verdict->ready)
		return;
	for (auto &[id, client] : clients_)
		::sd_bus_emit_signal(client->bus.get(), object_path, interface_name, "Cancelled",
				     "ts", barrier_.id(), verdict->reason.c_str());
}

// ---- the socket ----

Outcome<Fd> listen_at(const std::string &path)
{
	sockaddr_un address{};
	address.sun_family = AF_UNIX;
	if (path.empty() || path.size() >= sizeof(address.sun_path))
		return refuse(EINVAL, "'" + path + "' is no path for a socket: 1 to 107 bytes");
	path.copy(address.sun_path, path.size());
	auto at = reinterpret_cast<const sockaddr *>(&address);
	Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	if (!fd)
		return failed("socket", errno);
	if (::connect(fd.get(), at, sizeof(address)) == 0)
		return failed("listen at " + path, EADDRINUSE);
	struct stat is;
	if (::lstat(path.c_str(), &is) == 0 && S_ISSOCK(is.st_mode))
		::unlink(path.c_str());
	if (auto slash = path.rfind('/'); slash && slash != path.npos)
		::mkdir(path.substr(0, slash).c_str(), 0755);
	fd.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	// The mode is there before anybody can connect.
	if (!fd || ::bind(fd.get(), at, sizeof(address)) < 0 || ::chmod(path.c_str(), 0660) < 0 ||
	    ::listen(fd.get(), SOMAXCONN) < 0)
		return failed("listen at " + path, errno);
	return fd;
}

} // namespace luod
