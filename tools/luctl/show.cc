// SPDX-License-Identifier: GPL-2.0
// The commands that only look: status and list.
#include <algorithm>
#include <cstring>

#include <sys/utsname.h>

#include "tools/luctl/output.hh"
#include "tools/luctl/sessions.hh"

using liveupdate::Device;

namespace luctl {

namespace {

const char *const session_states[] = {"open", "frozen", "waiting", "retrieved", "finished"};
const char *const file_states[] = {"preserved", "frozen", "waiting", "retrieved", "failed"};
const char *const policies[] = {"finish", "deadline", "keep"};
const char *const operations[] = {"nothing", "preserve", "freeze", "save", "unpreserve",
				  "prepare", "retrieve", "finish", "kexec"};

// A later kernel may have more.
template <std::size_t size>
std::string name_of(const char *const (&names)[size], std::uint32_t number)
{
	return number < size ? names[number] : std::to_string(number);
}

Json to_json(const liveupdate_ferry_failure &failure)
{
	Json json = {{"number", failure.number},
		     {"operation", name_of(operations, failure.operation)},
		     {"error", ::strerrorname_np(static_cast<int>(failure.error))
				       ? ::strerrorname_np(static_cast<int>(failure.error))
				       : std::to_string(failure.error)},
		     {"session", text(failure.session)},
		     {"handler", text(failure.handler)},
		     {"when_ns", failure.when_ns}};
	if (failure.handler[0])
		json["token"] = failure.token;
	return json;
}

} // namespace

std::string describe(const liveupdate_ferry_failure &failure)
{
	std::string what = name_of(operations, failure.operation);
	if (failure.session[0])
		what += " of session '" + clean(text(failure.session)) + "'";
	if (failure.handler[0])
		what += ", token " + std::to_string(failure.token) + " (" +
			clean(text(failure.handler)) + ")";
	return what + ": " + std::strerror(static_cast<int>(failure.error));
}

std::optional<std::string> box_of(const liveupdate_ferry_session &session)
{
	constexpr std::string_view prefix = "fdbox:";
	std::string name = text(session.name);
	if (!(session.flags & LIVEUPDATE_FERRY_OF_MODULE) || !name.starts_with(prefix))
		return std::nullopt;
	return name.substr(prefix.size());
}

const luod::Listed *find_kept(const std::vector<luod::Listed> &kept, const std::string &name,
			      bool incoming)
{
	auto at = std::ranges::find_if(kept, [&](auto &each) {
		return each.name == name && (each.direction == luod::Direction::in) == incoming;
	});
	return at == kept.end() ? nullptr : &*at;
}

namespace {

struct Status {
	std::string kernel, implementation, reason;
	bool loaded = false;
	std::optional<liveupdate_ferry_info> info;
	std::optional<liveupdate_ferry_failure> failure;
	std::size_t sealed_boxes = 0, boxes_that_came = 0;
	std::optional<std::string> agent;
	std::size_t agent_sessions = 0;
};

Outcome<Status> look(Context &context)
{
	Status status;
	utsname is{};
	::uname(&is);
	status.kernel = is.release;
	auto loaded = read_file(context.path("/sys/kernel/kexec_loaded"));
	if (!loaded)
		loaded = read_file(context.path("/sys/kernel/kexec/loaded"));
	status.loaded = loaded && loaded->starts_with("1");
	if (auto device = Device::open(); device) {
		auto implementation = device->implementation();
		if (!implementation)
			return failed(implementation.error());
		status.implementation = ::lu_implementation_name(*implementation);
		if (auto info = device->info())
			status.info = *info;
		if (auto failure = device->last_failure())
			status.failure = *failure;
		for (const auto &session :
		     device->sessions().value_or(std::vector<liveupdate_ferry_session>())) {
			if (box_of(session))
				++(session.flags & LIVEUPDATE_FERRY_INCOMING
					   ? status.boxes_that_came
					   : status.sealed_boxes);
		}
	} else {
		status.reason = liveupdate::message();
	}
	auto luod = TRY(find_luod(context));
	if (luod) {
		auto state = luod->property("State");
		status.agent = state ? *state : "does not answer";
		if (auto sessions = luod->list())
			status.agent_sessions = sessions->size();
	}
	return status;
}

Json to_json(const Status &is)
{
	Json json = {{"kernel", is.kernel}};
	json["implementation"] = is.implementation.empty() ? Json(nullptr)
							   : Json(is.implementation);
	if (!is.reason.empty())
		json["reason"] = is.reason;
	json["next_kernel_loaded"] = is.loaded;
	if (is.info) {
		json["updates"] = is.info->update;
		json["outgoing"] = is.info->outgoing;
		json["incoming"] = is.info->incoming;
		json["waiting"] = is.info->waiting;
		json["boxes"] = {{"sealed", is.sealed_boxes}, {"came", is.boxes_that_came}};
		json["frozen"] = is.info->frozen != 0;
		json["openers"] = is.info->openers - 1;
		json["failures"] = is.info->failures;
	}
	json["last_failure"] = is.failure ? to_json(*is.failure) : Json(nullptr);
	json["luod"] = is.agent ? Json({{"state", *is.agent}, {"sessions", is.agent_sessions}})
				: Json(nullptr);
	return json;
}

} // namespace

Outcome<> status(Context &context)
{
	auto is = TRY(look(context));
	if (context.json) {
		context.out << to_json(is).dump(2) << "\n";
	} else {
		auto &out = context.out;
		out << "Kernel       " << is.kernel << "\n";
		out << "Live update  "
		    << (is.implementation.empty() ? is.reason : is.implementation) << "\n";
		if (is.info) {
			out << "Updates      " << is.info->update << " since the last cold boot\n";
			out << "Sessions     " << is.info->outgoing << " for the next kernel, "
			    << is.info->incoming << " of the last one (" << is.info->waiting
			    << " of them waiting)\n";
		}
		if (is.sealed_boxes || is.boxes_that_came)
			out << "Of these     " << count(is.sealed_boxes, "box", "boxes")
			    << " for the next kernel, " << is.boxes_that_came
			    << " of the last one\n";
		out << "Next kernel  " << (is.loaded ? "loaded" : "not loaded") << "\n";
		out << "luod         "
		    << (is.agent ? clean(*is.agent) + ", keeps " +
					   count(is.agent_sessions, "session", "sessions")
				 : "does not run")
		    << "\n";
		if (is.failure)
			out << "Last failure " << describe(*is.failure) << "\n";
	}
	if (is.implementation.empty())
		return fail(Exit::missing, "");
	return {};
}

namespace {

std::string policy_of(const liveupdate_ferry_session &session)
{
	std::string policy = name_of(policies, session.policy);
	if (session.left_ms != LIVEUPDATE_FERRY_NO_DEADLINE)
		policy += ", " + duration(session.left_ms * 1'000'000) + " left";
	else if (session.deadline_ms)
		policy += " " + duration(session.deadline_ms * 1'000'000);
	return policy;
}

Json to_json(const liveupdate_ferry_session &session, const luod::Listed *kept)
{
	Json json = {{"name", text(session.name)},
		     {"direction", session.flags & LIVEUPDATE_FERRY_INCOMING ? "in" : "out"},
		     {"state", name_of(session_states, session.state)},
		     {"keyed", (session.flags & LIVEUPDATE_FERRY_KEYED) != 0},
		     {"refused", session.refused},
		     {"policy", name_of(policies, session.policy)},
		     {"deadline_ms", session.deadline_ms}};
	json["left_ms"] = session.left_ms == LIVEUPDATE_FERRY_NO_DEADLINE ? Json(nullptr)
									  : Json(session.left_ms);
	json["files"] = session.files;
	json["bytes"] = session.bytes;
	json["runs"] = session.runs;
	json["metadata"] = session.metadata;
	json["preserve_ns"] = session.preserve_ns;
	json["freeze_ns"] = session.freeze_ns;
	json["retrieve_ns"] = session.retrieve_ns;
	if (session.operation)
		json["operation"] = {{"what", name_of(operations, session.operation)},
				     {"token", session.token},
				     {"handler", text(session.handler)},
				     {"done", session.done},
				     {"total", session.total}};
	if (auto box = box_of(session))
		json["box"] = *box;
	if (kept)
		json["owner"] = {{"uid", kept->owner.uid}, {"gid", kept->owner.gid}};
	return json;
}

Json to_json(const liveupdate_ferry_file &file)
{
	return {{"token", file.token},
		{"handler", text(file.handler)},
		{"label", text(file.label)},
		{"state", name_of(file_states, file.state)},
		{"error", file.error},
		{"bytes", file.bytes},
		{"runs", file.runs},
		{"metadata", file.metadata},
		{"preserve_ns", file.preserve_ns},
		{"freeze_ns", file.freeze_ns},
		{"retrieve_ns", file.retrieve_ns},
		{"needs", file.needs}};
}

std::string state_of(const liveupdate_ferry_session &session)
{
	std::string state = name_of(session_states, session.state);
	if (session.flags & LIVEUPDATE_FERRY_KEYED)
		state += ", key";
	if (session.operation)
		state = name_of(operations, session.operation) + " " +
			std::to_string(session.token);
	if (session.operation && session.total)
		state += " " +
			 std::to_string(static_cast<double>(session.done) * 100 /
					static_cast<double>(session.total))
				 .substr(0, 4) +
			 "%";
	return state;
}

// What luod has, where the kernel cannot say.
void show_kept(Context &context, const std::vector<luod::Listed> &kept)
{
	Json json = Json::array();
	Table table({"SESSION", "WAY", "OWNER", "HELD"});
	for (const auto &each : kept) {
		bool in = each.direction == luod::Direction::in;
		json.push_back({{"name", each.name},
				{"direction", in ? "in" : "out"},
				{"owner", {{"uid", each.owner.uid}, {"gid", each.owner.gid}}},
				{"held", each.held}});
		table.add({each.name, in ? "in" : "out", std::to_string(each.owner.uid),
			   each.held ? "yes" : "no"});
	}
	if (context.json)
		context.out << Json({{"sessions", json}}).dump(2) << "\n";
	else
		table.print(context.out);
}

Outcome<> show_all(Context &context, const std::vector<liveupdate_ferry_session> &sessions,
		   const std::vector<luod::Listed> &kept)
{
	Json json = Json::array();
	Table table({"SESSION", "WAY", "STATE", "FILES", "MEMORY", "POLICY", "OWNER"});
	table.right(3).right(4);
	for (const auto &session : sessions) {
		bool in = session.flags & LIVEUPDATE_FERRY_INCOMING;
		auto *owner = find_kept(kept, text(session.name), in);
		json.push_back(to_json(session, owner));
		table.add({clean(text(session.name)), in ? "in" : "out", state_of(session),
			   std::to_string(session.files), bytes(session.bytes), policy_of(session),
			   box_of(session) ? "box"
			   : owner	   ? std::to_string(owner->owner.uid)
					   : "-"});
	}
	if (context.json)
		context.out << Json({{"sessions", json}}).dump(2) << "\n";
	else if (sessions.empty())
		context.out << "There are no sessions.\n";
	else
		table.print(context.out);
	return {};
}

Outcome<> show_files(Context &context, Device &device,
		     const std::vector<liveupdate_ferry_session> &sessions, const std::string &name)
{
	Json json = Json::array();
	for (const auto &session : sessions) {
		if (text(session.name) != name)
			continue;
		bool in = session.flags & LIVEUPDATE_FERRY_INCOMING;
		auto files = device.files(name, in);
		if (!files)
			return failed(files.error());
		Json entry = to_json(session, nullptr);
		entry["files"] = Json::array();
		Table table({"TOKEN", "KIND", "STATE", "MEMORY", "RUNS", "PRESERVE", "FREEZE",
			     "RETRIEVE", "NAME"});
		for (std::size_t column : {0, 3, 4, 5, 6, 7})
			table.right(column);
		for (const auto &file : *files) {
			entry["files"].push_back(to_json(file));
			table.add({std::to_string(file.token), clean(text(file.handler)),
				   name_of(file_states, file.state), bytes(file.bytes),
				   std::to_string(file.runs), duration(file.preserve_ns),
				   duration(file.freeze_ns), duration(file.retrieve_ns),
				   clean(text(file.label))});
		}
		json.push_back(std::move(entry));
		if (context.json)
			continue;
		auto box = box_of(session);
		context.out << (box ? "Box /dev/fdbox/" + clean(*box) : "Session " + clean(name))
			    << (in ? ", of the last kernel: " : ", for the next kernel: ")
			    << state_of(session) << ", policy " << policy_of(session) << "\n";
		table.print(context.out);
	}
	if (json.empty())
		return fail(Exit::failed, "there is no session '" + clean(name) + "'");
	if (context.json)
		context.out << Json({{"sessions", json}}).dump(2) << "\n";
	return {};
}

} // namespace

Outcome<> list(Context &context, const std::string &name)
{
	std::vector<luod::Listed> kept;
	auto luod = TRY(find_luod(context));
	if (luod) {
		if (auto all = luod->list())
			kept = std::move(*all);
	}
	auto device = TRY(open_device());
	auto sessions = device.sessions();
	if (!sessions && sessions.error() == std::errc::operation_not_supported && luod &&
	    name.empty()) {
		context.notes << "This kernel does not list its sessions; these are luod's.\n";
		show_kept(context, kept);
		return {};
	}
	if (!sessions)
		return failed(sessions.error());
	if (name.empty())
		return show_all(context, *sessions, kept);
	return show_files(context, device, *sessions, name);
}

} // namespace luctl
