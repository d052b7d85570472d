// SPDX-License-Identifier: GPL-2.0
#include "tools/luod/agent.hh"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <sys/mman.h>

using liveupdate::Device;

namespace luod {

namespace {

constexpr char self[] = "luod"; // luod's own session
constexpr std::uint64_t registry_token = 0;
// Linux lets one program at a time have the device, and others have it only briefly.
constexpr auto device_wait = std::chrono::seconds(1);

constexpr std::string_view out_prefix = "out-", in_prefix = "in-";

std::string kept_as(Direction direction, std::string_view name)
{
	return std::string(direction == Direction::out ? out_prefix : in_prefix).append(name);
}

Outcome<Fd> duplicate(const Fd &fd)
{
	Fd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
	if (!copy)
		return failed("pass the session on", errno);
	return copy;
}

Outcome<Device> open_device()
{
	auto device = Device::open(device_wait);
	if (!device)
		return failed(device.error());
	return std::move(*device);
}

std::string quoted(std::string_view name)
{
	return "session '" + std::string(name) + "'";
}

} // namespace

// ---- start ----

// Was this session made by the last kernel? PRESERVE_FD is not for those, in whichever
// implementation; and what it is asked to preserve here is nothing.
static bool of_last_kernel(const Fd &session)
{
	return ::lu_preserve_fd(session.get(), -1, ~std::uint64_t{}) == -EINVAL;
}

// After a kexec over which the service manager carried its store: what was for the next
// kernel is of the last one now. luod's own session goes last, as it tells that
// this is still to be done.
void Agent::rename_carried(std::vector<Kept> &kept)
{
	auto own = std::ranges::find(kept, "self-out", &Kept::name);
	if (own == kept.end() || !of_last_kernel(own->fd))
		return;
	auto rename = [&](Kept &each, const std::string &name) {
		keep(name, each.fd.get());
		store_->remove(each.name);
		each.name = name;
	};
	for (auto &each : kept) {
		// The registry is in luod's session; one that was in the store is of the kernel
		// before.
		if (each.name.starts_with("registry-")) {
			store_->remove(each.name);
			each.fd.reset();
		} else if (each.name.starts_with(out_prefix)) {
			rename(each, kept_as(Direction::in, each.name.substr(out_prefix.size())));
		}
	}
	rename(*own, "self-in");
	std::erase_if(kept, [](auto &each) { return !each.fd; });
}

// Each descriptor to its place, but for those of services.
Outcome<Agent::Found> Agent::sort(std::vector<Kept> kept)
{
	Found found;
	for (auto &[name, fd] : kept) {
		std::string_view rest = name;
		if (name == "registry-out" || name == "registry-in") {
			auto opened = Registry::open(std::move(fd));
			if (!opened)
				return failed("read " + name + " out of the fd store",
					      opened.error().value());
			(name == "registry-out" ? out_registry_ : in_registry_)
				.emplace(std::move(*opened));
		} else if (name == "self-out" || name == "self-in") {
			(name == "self-out" ? self_out_ : self_in_) =
				liveupdate::Session(std::move(fd));
		} else if (rest.starts_with(out_prefix)) {
			found.out[std::string(rest.substr(out_prefix.size()))] = std::move(fd);
		} else if (rest.starts_with(in_prefix)) {
			found.in[std::string(rest.substr(in_prefix.size()))] = std::move(fd);
		}
	}
	registry_in_kept_ = in_registry_.has_value();
	return found;
}

// What the registry does not know is no session of ours.
void Agent::recognize(std::map<std::string, Fd> found, Direction direction)
{
	auto &registry = direction == Direction::out ? out_registry_ : in_registry_;
	for (auto &[name, fd] : found) {
		const Owners none;
		const Owners &owners = registry ? registry->owners() : none;
		auto owner = owners.find(name);
		if (owner == owners.end()) {
			log_(quoted(name) + " is in the fd store, but it is nobody's: let go of");
			store_->remove(kept_as(direction, name));
			continue;
		}
		sessions(direction)[name] = {owner->second, std::move(fd)};
	}
}

// What the store refuses is held nevertheless: to let go of it would be to finish it.
bool Agent::keep(const std::string &name, int fd)
{
	auto kept = store_->add(name, fd);
	if (!kept)
		log_(kept.error().text + ": it is lost if luod dies now");
	return kept.has_value();
}

Outcome<> Agent::retrieve_registry(Device &device)
{
	if (self_in_.get() < 0) {
		auto session = device.retrieve(self);
		if (!session && session.error() == std::errc::no_such_file_or_directory)
			return {};
		if (!session)
			return failed(session.error());
		keep("self-in", session->get());
		self_in_ = std::move(*session);
	}
	auto fd = self_in_.retrieve(registry_token);
	if (!fd)
		return failed(fd.error());
	auto registry = Registry::open(std::move(*fd));
	if (!registry) {
		log_("the registry of the last kernel's luod is damaged, or of another version: "
		     "its "
		     "sessions wait in the kernel, for root");
		return {};
	}
	registry_in_kept_ = keep("registry-in", registry->fd());
	in_registry_.emplace(std::move(*registry));
	return {};
}

Outcome<> Agent::take(Device &device, const std::string &name, Session &session,
		      const std::optional<liveupdate::Key> &key)
{
	auto found = key ? device.retrieve(name, *key) : device.retrieve(name);
	if (!found)
		return failed(found.error());
	keep(kept_as(Direction::in, name), found->get());
	session.fd = found->release();
	return {};
}

// What cannot be taken now may be later, when somebody asks for it.
void Agent::retrieve_sessions(Device &device)
{
	// Asking without the key would count as an attempt.
	auto keyed = [&, list = device.sessions()](const std::string &name) {
		return list && std::ranges::any_of(*list, [&](auto &each) {
			       return (each.flags & LIVEUPDATE_FERRY_INCOMING) &&
				      (each.flags & LIVEUPDATE_FERRY_KEYED) &&
				      name == reinterpret_cast<const char *>(each.name);
		       });
	};
	auto owners = in_registry_->owners();
	for (const auto &[name, owner] : owners) {
		auto &session = in_[name];
		session.owner = owner;
		if (session.fd || keyed(name))
			continue;
		auto taken = take(device, name, session, {});
		if (taken)
			continue;
		log_(taken.error().text);
		if (taken.error().code == ENOENT)
			forget(name);
	}
}

Outcome<> Agent::take_over(Device &device, std::map<std::string, Fd> found)
{
	if (!in_registry_) {
		if (auto done = retrieve_registry(device); !done)
			return done;
	}
	recognize(std::move(found), Direction::in);
	// The registry in the store needs no session any more.
	if (registry_in_kept_ && self_in_.get() >= 0) {
		if (auto done = self_in_.finish(); !done)
			log_("the last kernel's luod: " + std::string(liveupdate::message()));
		store_->remove("self-in");
		self_in_.close();
	}
	if (in_registry_)
		retrieve_sessions(device);
	forget_last_kernel_if_done();
	return {};
}

// The session that carries the registry. Where one of the two is missing, both are made
// anew, for the sessions that there are.
Outcome<> Agent::begin(Device &device)
{
	if (out_registry_ && self_out_.get() >= 0)
		return {};
	store_->remove("registry-out");
	store_->remove("self-out");
	out_registry_.reset();
	self_out_.close();
	auto registry = Registry::create();
	if (!registry)
		return failed("create the registry", registry.error().value());
	for (const auto &[name, session] : out_) {
		if (auto added = registry->add(name, session.owner); !added)
			return failed("note " + quoted(name), added.error().value());
	}
	auto session = make(device, self, {});
	if (!session)
		return std::unexpected(session.error());
	if (auto done = session->preserve(registry->fd(), registry_token); !done)
		return failed(done.error());
	if (auto kept = store_->add("registry-out", registry->fd()); !kept)
		return kept;
	if (auto kept = store_->add("self-out", session->get()); !kept)
		return kept;
	out_registry_.emplace(std::move(*registry));
	self_out_ = std::move(*session);
	return {};
}

// A session can change without luod: its owner finishes it, or makes it one for the next
// kernel; and luod may have been killed while it did so. Where the kernel tells, it is
// believed.
void Agent::refresh()
{
	if (implementation_ != LU_FERRY)
		return;
	auto info_of = [](const Session &session) {
		liveupdate_ferry_session_get_info info{};
		info.size = sizeof(info);
		bool known = session.fd && !::lu_session_get_info(session.fd.get(), &info);
		return std::pair(known, info.session);
	};
	std::vector<std::string> strayed, done;
	for (const auto &[name, session] : out_) {
		auto [known, is] = info_of(session);
		if (known && (is.flags & LIVEUPDATE_FERRY_INCOMING))
			strayed.push_back(name);
	}
	for (const auto &name : strayed)
		let_go(name);
	for (auto &[name, session] : in_) {
		auto [known, is] = info_of(session);
		if (!known)
			continue;
		if (!(is.flags & LIVEUPDATE_FERRY_INCOMING) && !out_.contains(name)) {
			if (auto noted = out_registry_->add(name, session.owner); !noted)
				continue;
			keep(kept_as(Direction::out, name), session.fd.get());
			out_[name] = {session.owner, std::move(session.fd)};
		} else if ((is.flags & LIVEUPDATE_FERRY_INCOMING) &&
			   is.state != LIVEUPDATE_FERRY_SESSION_FINISHED) {
			continue;
		}
		done.push_back(name);
	}
	for (const auto &name : done)
		forget(name);
	forget_last_kernel_if_done();
}

Outcome<Agent> Agent::start(Store &store, std::vector<Kept> kept, Log log)
{
	Agent agent(store, std::move(log));
	agent.rename_carried(kept);
	auto found = agent.sort(std::move(kept));
	if (!found)
		return std::unexpected(found.error());
	auto device = open_device();
	if (!device)
		return std::unexpected(device.error());
	auto is = device->implementation();
	if (!is)
		return failed(is.error());
	agent.implementation_ = *is;
	if (auto done = agent.take_over(*device, std::move(found->in)); !done)
		return std::unexpected(done.error());
	agent.recognize(std::move(found->out), Direction::out);
	if (auto done = agent.begin(*device); !done)
		return std::unexpected(done.error());
	// Of the last process: what it had only announced.
	auto owners = agent.out_registry_->owners();
	for (const auto &[name, owner] : owners) {
		if (!agent.out_.contains(name))
			agent.out_registry_->remove(name);
	}
	agent.refresh();
	return agent;
}

// ---- sessions ----

Outcome<liveupdate::Session> Agent::make(Device &device, const std::string &name,
					 const Terms &terms) const
{
	bool plain = implementation_ != LU_FERRY;
	if (plain && !terms.by_default)
		return refuse(EOPNOTSUPP, "this kernel has neither keys nor policies");
	lu_session_options options{};
	options.size = sizeof(options);
	options.policy = terms.policy;
	options.deadline_ms = terms.deadline_ms;
	options.key = terms.key ? terms.key->data() : nullptr;
	auto made = plain ? device.create(name) : device.create(name, options);
	if (!made)
		return failed(made.error());
	return std::move(*made);
}

Outcome<Fd> Agent::create(Owner caller, const std::string &name, const Terms &terms)
{
	if (!valid_name(name))
		return refuse(EINVAL,
			      "'" + name +
				      "' is no name for a session: 1 to 63 of A-Z a-z 0-9 . _ -, "
				      "and neither luod nor systemd");
	refresh();
	if (out_.contains(name))
		return refuse(EEXIST, "there is a " + quoted(name) + " for the next kernel");
	auto mine = std::ranges::count_if(
		out_, [&](auto &each) { return each.second.owner.uid == caller.uid; });
	if (caller.uid && static_cast<std::size_t>(mine) >= max_of_user)
		return refuse(EDQUOT, "user " + std::to_string(caller.uid) + " has " +
					      std::to_string(mine) + " sessions");
	auto device = open_device();
	if (!device)
		return std::unexpected(device.error());
	if (auto noted = out_registry_->add(name, caller); !noted)
		return failed("note " + quoted(name), noted.error().value());
	auto give_up = [&](Error error) {
		out_registry_->remove(name);
		return std::unexpected(std::move(error));
	};
	auto session = make(*device, name, terms);
	if (!session)
		return give_up(session.error());
	Fd fd = session->release();
	auto copy = duplicate(fd);
	if (!copy)
		return give_up(copy.error());
	if (auto kept = store_->add(kept_as(Direction::out, name), fd.get()); !kept)
		return give_up(kept.error());
	out_[name] = {caller, std::move(fd)};
	return copy;
}

Outcome<Agent::Session *> Agent::find(Owner caller, std::string_view name, Direction direction)
{
	refresh();
	auto &all = sessions(direction);
	auto found = all.find(name);
	if (found == all.end())
		return refuse(ENOENT,
			      direction == Direction::in
				      ? "the last kernel handed over no " + quoted(name) +
						", or it is finished"
				      : "there is no " + quoted(name) + " for the next kernel");
	if (caller.uid && caller.uid != found->second.owner.uid)
		return refuse(EACCES, quoted(name) + " belongs to user " +
					      std::to_string(found->second.owner.uid));
	return &found->second;
}

Outcome<Fd> Agent::get(Owner caller, const std::string &name, Direction direction,
		       const std::optional<liveupdate::Key> &key)
{
	auto session = find(caller, name, direction);
	if (!session)
		return std::unexpected(session.error());
	if (!(*session)->fd) {
		auto device = open_device();
		if (!device)
			return std::unexpected(device.error());
		if (auto taken = take(*device, name, **session, key); !taken)
			return std::unexpected(taken.error());
	}
	return duplicate((*session)->fd);
}

void Agent::let_go(const std::string &name)
{
	store_->remove(kept_as(Direction::out, name));
	out_.erase(name);
	out_registry_->remove(name);
}

Outcome<> Agent::drop(Owner caller, const std::string &name)
{
	auto session = find(caller, name, Direction::out);
	if (!session)
		return std::unexpected(session.error());
	let_go(name);
	return {};
}

void Agent::forget(const std::string &name)
{
	store_->remove(kept_as(Direction::in, name));
	in_.erase(name);
	if (in_registry_)
		in_registry_->remove(name);
}

void Agent::forget_last_kernel_if_done()
{
	if (!in_.empty() || !in_registry_)
		return;
	store_->remove("registry-in");
	in_registry_.reset();
	if (self_in_.get() < 0)
		return;
	// Its registry could not be kept, and so it was.
	static_cast<void>(self_in_.finish());
	store_->remove("self-in");
	self_in_.close();
}

Outcome<> Agent::finish(Owner caller, const std::string &name)
{
	auto session = find(caller, name, Direction::in);
	if (!session)
		return std::unexpected(session.error());
	if (!(*session)->fd)
		return refuse(EBUSY, quoted(name) + " is not in luod's hands: it needs its key, or "
						    "somebody else has it");
	if (int error = ::lu_finish((*session)->fd.get()); error < 0)
		return refuse(-error, ::lu_message());
	forget(name);
	forget_last_kernel_if_done();
	return {};
}

Outcome<> Agent::renew(Owner caller, const std::string &name)
{
	auto session = find(caller, name, Direction::in);
	if (!session)
		return std::unexpected(session.error());
	if (!(*session)->fd)
		return refuse(EBUSY, quoted(name) + " is not in luod's hands");
	if (out_.contains(name))
		return refuse(EEXIST, "there is a " + quoted(name) + " for the next kernel");
	Owner owner = (*session)->owner;
	if (auto noted = out_registry_->add(name, owner); !noted)
		return failed("note " + quoted(name), noted.error().value());
	// Kept under both names, it is there whatever it is when luod is killed.
	auto kept = store_->add(kept_as(Direction::out, name), (*session)->fd.get());
	if (!kept) {
		out_registry_->remove(name);
		return kept;
	}
	if (int error = ::lu_renew((*session)->fd.get(), LIVEUPDATE_FERRY_RENEW_FILES); error < 0) {
		Error why{-error, ::lu_message()};
		store_->remove(kept_as(Direction::out, name));
		out_registry_->remove(name);
		return std::unexpected(std::move(why));
	}
	out_[name] = {owner, std::move((*session)->fd)};
	forget(name);
	forget_last_kernel_if_done();
	return {};
}

std::vector<Listed> Agent::list()
{
	refresh();
	std::vector<Listed> all;
	for (const auto &[name, session] : out_)
		all.push_back({name, Direction::out, session.owner, true});
	for (const auto &[name, session] : in_)
		all.push_back({name, Direction::in, session.owner, bool(session.fd)});
	return all;
}

std::vector<std::string> Agent::unfinished()
{
	refresh();
	std::vector<std::string> names;
	for (const auto &[name, session] : in_)
		names.push_back(name);
	return names;
}

} // namespace luod
