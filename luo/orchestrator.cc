// SPDX-License-Identifier: GPL-2.0
#include "luo/orchestrator.hh"

#include <ferry/checked.hh>
#include <ferry/log.hh>

#include <algorithm>
#include <string_view>

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace luo {
namespace {

constexpr char tree_node[] = "luo";

// Of an update, as its record bounds it; then it starts again.
constexpr unsigned long long max_number = 1ull << 48;

// Until what could not be released in time is tried again, at least: its handler may
// have to be loaded first.
constexpr unsigned long long retry_ms = 2000;

const ferry_record *const records[] = {
	&ferry_update_record,
	&ferry_session_record,
	&ferry_file_record,
	&ferry_need_record,
};

// The name in an ioctl's argument; nothing when it does not end.
std::string_view bounded(const char (&name)[64])
{
	for (std::size_t length = 0; length < sizeof(name); ++length) {
		if (!name[length])
			return {name, length};
	}
	return {};
}

// Nanoseconds since a reading of the time-stamp counter; 0 where it makes none.
unsigned long long since(unsigned long long tsc, unsigned int khz)
{
	unsigned long long now = ferry_tsc();
	if (!khz || now < tsc)
		return 0;
	unsigned long long ms = (now - tsc) / khz;
	unsigned long long rest = (now - tsc) % khz;
	auto ns = ferry::mul(ms, 1'000'000ull);
	return ns.has_value() ? *ns + rest * 1'000'000 / khz : 0;
}

Session *find(ferry::List<Session> &sessions, std::string_view name)
{
	for (Session &session : sessions) {
		if (name == session.name())
			return &session;
	}
	return nullptr;
}

} // namespace

Orchestrator::Orchestrator()
	: provider_{.name = tree_node, .module = linux_this_module(), .save = provide, .ctx = this}
{
}

Result<ferry::Owned<Orchestrator>> Orchestrator::create()
{
	auto made = TRY(ferry::make<Orchestrator>());
	TRY(made->take_carried());
	TRY(ferry::check_status(
		ferry_formats_register(records, sizeof(records) / sizeof(records[0]))));
	if (int err = ferry_kho_register(&made->provider_)) {
		ferry_formats_unregister(records);
		return fail(Errno(-err));
	}
	// Nothing can fail any more: hold the module while sessions wait here.
	if (made->sessions_.lock()->incoming.empty()) {
		ferry_incoming_done();
		made->common.journal.arrive(
			[](Arrival &arrival) { arrival.finished_ns = ferry_now(); });
	} else {
		made->pinned_ = ferry_module_get(linux_this_module());
	}
	return made;
}

Orchestrator::~Orchestrator()
{
	ferry_kho_unregister(&provider_);
	ferry_formats_unregister(records);
	// Sessions are left only where the module could not be loaded; they are in
	// the tree still, for the next try.
	auto sessions = sessions_.lock();
	while (Session *session = sessions->incoming.front()) {
		sessions->incoming.remove(*session);
		session->put();
	}
	if (pinned_)
		ferry_module_put(linux_this_module());
}

/* ---- what the last kernel carried here ---- */

Result<void> Orchestrator::take_carried()
{
	ferry_node node = ferry_incoming(tree_node);
	if (node.offset < 0)
		return {};
	if (ferry_get(node, &ferry_update_record, &last_)) {
		log_err("the sessions of the last kernel are not taken; their memory stays "
			"reserved");
		return {};
	}
	boot_ns_ = ferry_now();
	jump_ns_ = since(last_.tsc, last_.tsc_khz);
	jump_ns_ -= jump_ns_ > boot_ns_ ? boot_ns_ : jump_ns_;
	for (ferry_node at = ferry_first(node); at.offset >= 0; at = ferry_next(at))
		TRY(take_session(at));
	return {};
}

Result<void> Orchestrator::take_session(ferry_node node)
{
	auto session = Session::carried(node, common);
	if (!session.has_value()) {
		if (session.error() == Errno::NoMem)
			return fail(Errno::NoMem);
		log_err("one session is left out, and its memory stays reserved");
		return {};
	}
	auto sessions = sessions_.lock();
	if (find(sessions->incoming, (*session)->name())) {
		log_err("session '%s' is there twice; the second one is left out",
			(*session)->name());
		return {};
	}
	sessions->incoming.push_back(*session->release());
	return {};
}

// The last carried session is gone.
void Orchestrator::carried_done()
{
	ferry_incoming_done();
	common.journal.arrive([](Arrival &arrival) { arrival.finished_ns = ferry_now(); });
	pinned_ = false;
	ferry_module_put(linux_this_module());
}

// Whether a new session cannot have this name.
bool Orchestrator::taken(Sessions &sessions, std::string_view name)
{
	const Session *last = find(sessions.incoming, name);
	return find(sessions.outgoing, name) || (last && last->renewing);
}

/* ---- the device ---- */

Result<void> Orchestrator::open(bool shared)
{
	bool free = false;
	if (shared && !linux_privileged())
		return fail(Errno::Perm);
	if (!shared && !exclusive_.compare_exchange_strong(free, true))
		return fail(Errno::Busy);
	++openers_;
	return {};
}

void Orchestrator::close(bool shared)
{
	--openers_;
	if (!shared)
		exclusive_.store(false);
}

Result<FileRef> Orchestrator::create_session(const char (&name)[64], Key key, const Terms &terms)
{
	if (bounded(name).empty())
		return fail(Errno::Inval);
	auto gate = enter();
	ferry_luo_about about{};
	memcpy(about.name, name, sizeof(about.name));
	about.lock = make_lock(key);
	auto session = TRY(Session::create(about, terms, common));
	auto sessions = sessions_.lock();
	if (taken(*sessions, name))
		return fail(Errno::Exist);
	file *made = nullptr;
	TRY(ferry::check_status(linux_session_file(reinterpret_cast<luo_session *>(session.get()),
						   session->name(), &made)));
	linux_trace_session("created", session->name(), 0);
	sessions->outgoing.push_back(*session.release());
	return FileRef{made};
}

Result<Session *> Orchestrator::create_session(const ferry_luo_about &about)
{
	if (bounded(about.name).empty() || !about.maker[0])
		return fail(Errno::Inval);
	auto session = TRY(Session::create(about, {Policy::Keep, 0}, common));
	auto sessions = sessions_.lock();
	if (taken(*sessions, about.name))
		return fail(Errno::Exist);
	linux_trace_session("created", session->name(), 0);
	Session *made = session.release();
	sessions->outgoing.push_back(*made);
	return made;
}

Result<Session *> Orchestrator::take_session(const char *maker)
{
	auto gate = enter();
	auto sessions = sessions_.lock();
	for (Session &session : sessions->incoming) {
		if (std::string_view(maker) == session.maker() && session.claim().has_value())
			return &session;
	}
	return fail(Errno::NoEnt);
}

Result<FileRef> Orchestrator::retrieve_session(const char (&name)[64], Key key)
{
	auto gate = enter();
	auto sessions = sessions_.lock();
	Session *session = find(sessions->incoming, bounded(name));
	if (!session)
		return fail(Errno::NoEnt);
	TRY(session->admit(key));
	if (session->maker()[0])
		return fail(Errno::Inval);
	TRY(session->claim());
	file *made = nullptr;
	if (int err = linux_session_file(reinterpret_cast<luo_session *>(session), session->name(),
					 &made)) {
		session->disclaim();
		return fail(Errno(-err));
	}
	linux_trace_session("retrieved", session->name(), 0);
	return FileRef{made};
}

Result<void> Orchestrator::discard_session(const char (&name)[64])
{
	if (!linux_privileged())
		return fail(Errno::Perm);
	auto gate = enter();
	auto session = TRY(find_session(name, true));
	if (!session->claim().has_value())
		return fail(Errno::Busy);
	auto finished = session->finish();
	if (!finished.has_value()) {
		session->disclaim();
		// Its deadline was passed over meanwhile.
		arm();
		return finished;
	}
	log_info("session '%s' is discarded", session->name());
	remove(*session);
	return {};
}

void Orchestrator::release_session(Session &session)
{
	auto gate = enter();
	if (!session.incoming())
		undo_session(session);
	else if (leave(session))
		remove(session);
}

void Orchestrator::undo_session(Session &session)
{
	session.unpreserve();
	remove(session);
}

bool Orchestrator::leave(Session &session)
{
	if (session.state() == SessionState::Finished)
		return true;
	if (session.terms().policy == Policy::Finish) {
		auto finished = session.finish();
		if (finished.has_value())
			return true;
		// Its files are all there still: whoever retrieves it goes on.
		log_warn("session '%s' was closed, but cannot be finished yet (error %d): it waits",
			 session.name(), int(finished.error()));
	} else {
		log_info("session '%s' was closed and not finished: it waits", session.name());
	}
	linux_trace_session("waits", session.name(), 0);
	session.wait();
	arm();
	return false;
}

void Orchestrator::remove(Session &session)
{
	bool last = false;
	{
		auto sessions = sessions_.lock();
		ferry::List<Session>::remove(session);
		last = session.incoming() && sessions->incoming.empty();
	}
	linux_trace_session("gone", session.name(), 0);
	// That of the list.
	session.put();
	if (last)
		carried_done();
}

Result<void> Orchestrator::renew_session(Session &session, bool files)
{
	{
		auto sessions = sessions_.lock();
		if (session.renewing || find(sessions->outgoing, session.name()))
			return fail(Errno::Exist);
		session.renewing = true;
	}
	auto renewed = session.renew(files);
	bool last = false;
	{
		auto sessions = sessions_.lock();
		session.renewing = false;
		if (renewed.has_value()) {
			ferry::List<Session>::remove(session);
			sessions->outgoing.push_back(session);
			last = sessions->incoming.empty();
		}
	}
	linux_trace_session("renewed", session.name(), ferry::to_errno(renewed));
	if (last)
		carried_done();
	return renewed;
}

/* ---- in kernel threads ---- */

void Orchestrator::work_ahead()
{
	// Where some go meanwhile, others may be passed over: nothing is lost by it.
	for (unsigned int nr = 0;; ++nr) {
		auto gate = enter();
		ferry::Ref<Session> session;
		{
			auto sessions = sessions_.lock();
			auto at = sessions->incoming.begin();
			for (unsigned int i = 0; i < nr && at != sessions->incoming.end(); ++i)
				++at;
			if (at == sessions->incoming.end())
				return;
			session = ferry::Ref<Session>{*at};
		}
		// One that is finished meanwhile has no files any more.
		session->prepare();
	}
}

void Orchestrator::arm()
{
	unsigned long long next = Session::never;
	// To the end, so that of two calls the last one has seen all.
	auto sessions = sessions_.lock();
	for (const Session &session : sessions->incoming)
		next = std::min(next, session.due());
	if (next == Session::never)
		return;
	const unsigned long long now = ferry_now();
	linux_deadline(next > now ? (next - now) / 1'000'000 + 1 : 0);
}

void Orchestrator::expire()
{
	auto gate = enter();
	for (;;) {
		ferry::Ref<Session> session;
		{
			auto sessions = sessions_.lock();
			const unsigned long long now = ferry_now();
			for (Session &each : sessions->incoming) {
				// Somebody may take it first.
				if (each.due() <= now && each.claim().has_value()) {
					session = ferry::Ref<Session>{each};
					break;
				}
			}
		}
		if (!session)
			break;
		auto finished = session->finish();
		linux_trace_session("expired", session->name(), ferry::to_errno(finished));
		if (finished.has_value()) {
			log_warn("nobody took session '%s' in time: it is released",
				 session->name());
			remove(*session);
		} else {
			log_warn("nobody took session '%s' in time, but it cannot be released yet "
				 "(error %d): it waits once more",
				 session->name(), int(finished.error()));
			session->wait(retry_ms);
		}
	}
	arm();
}

/* ---- the way into the next kernel ---- */

Result<void> Orchestrator::prepare(bool kho)
{
	gate_.lock();
	freeze_start_ = ferry_now();
	auto frozen = freeze_all(kho);
	if (frozen.has_value()) {
		linux_trace_update("frozen", 0, ferry_now() - freeze_start_);
		auto written = ferry::check_status(ferry_kho_finalize());
		if (written.has_value()) {
			linux_trace_update("written", 0, ferry_now() - freeze_start_);
			frozen_ = true;
			return {};
		}
		log_err("cannot write the tree for the next kernel, error %d",
			int(written.error()));
		common.journal.failed(Operation::Kexec, written.error());
		unfreeze_all();
		frozen = written;
	}
	common.journal.refused();
	linux_trace_update("refused", ferry::to_errno(frozen), ferry_now() - freeze_start_);
	gate_.unlock();
	return frozen;
}

void Orchestrator::abort()
{
	frozen_ = false;
	ferry_kho_abort();
	unfreeze_all();
	common.journal.refused();
	linux_trace_update("called off", 0, ferry_now() - freeze_start_);
	gate_.unlock();
}

// What of the last kernel is here still would be lost.
Result<void> Orchestrator::check_left(Sessions &sessions)
{
	for (Session &session : sessions.incoming) {
		if (session.state() == SessionState::Finished ||
		    session.terms().policy != Policy::Keep)
			continue;
		log_err("session '%s' of the last kernel is to be kept, and would be lost: finish "
			"or discard it first",
			session.name());
		common.journal.failed(Operation::Kexec, Errno::Busy, session.name());
		return fail(Errno::Busy);
	}
	for (const Session &session : sessions.incoming) {
		if (session.state() != SessionState::Finished)
			log_warn("session '%s' of the last kernel was not finished: it does not "
				 "cross again",
				 session.name());
	}
	return {};
}

Result<void> Orchestrator::freeze_all(bool kho)
{
	auto sessions = sessions_.lock();
	auto &outgoing = sessions->outgoing;
	TRY(check_left(*sessions));
	if (!kho && !outgoing.empty()) {
		log_err("the kernel was loaded so that it gets nothing handed over: load it with "
			"kexec_file_load(2), as kexec -s does");
		common.journal.failed(Operation::Kexec, Errno::Inval);
		return fail(Errno::Inval);
	}
	for (auto at = outgoing.begin(); at != outgoing.end(); ++at) {
		auto frozen = at->freeze();
		if (frozen.has_value())
			continue;
		while (at != outgoing.begin()) {
			--at;
			at->unfreeze();
		}
		return frozen;
	}
	return {};
}

void Orchestrator::unfreeze_all()
{
	auto sessions = sessions_.lock();
	auto &outgoing = sessions->outgoing;
	for (auto at = outgoing.end(); at != outgoing.begin();) {
		--at;
		at->unfreeze();
	}
}

int Orchestrator::provide(void *self, ferry_writer *writer, bool final)
{
	return ferry::to_errno(static_cast<Orchestrator *>(self)->save(*writer, final));
}

Result<void> Orchestrator::save(ferry_writer &writer, bool final)
{
	// prepare() has the gate already.
	if (final)
		return write_all(writer, ferry_now() - freeze_start_);
	auto gate = enter();
	return write_all(writer, 0);
}

Result<void> Orchestrator::write_all(ferry_writer &writer, unsigned long long freeze_ns)
{
	auto sessions = sessions_.lock();
	SessionTotals totals;
	unsigned int nr = 0;
	for (Session &session : sessions->outgoing) {
		session.count(totals);
		++nr;
	}

	ferry_usage usage;
	ferry_kho_usage(&usage);
	ferry_update update{
		.number = last_.number % max_number + 1,
		.sessions = nr,
		.files = totals.files,
		.pages = usage.pages,
		.runs = usage.runs,
		.metadata = usage.metadata,
		.preserve_ns = totals.preserve_ns,
		.freeze_ns = freeze_ns,
		.tsc = ferry_tsc(),
		.tsc_khz = ferry_tsc_khz(),
		.refusals = common.journal.refusals(),
		.frozen_at = linux_realtime(),
		.from = {},
	};
	ferry_format(update.from, sizeof(update.from), "%s", linux_kernel_release());
	TRY(ferry::check_status(ferry_put(&writer, &ferry_update_record, &update)));
	nr = 0;
	for (Session &session : sessions->outgoing) {
		char name[24];
		ferry_format(name, sizeof(name), "session@%x", nr++);
		TRY(ferry::check_status(ferry_begin(&writer, name)));
		TRY(session.save(writer));
		TRY(ferry::check_status(ferry_end(&writer)));
	}
	return {};
}

/* ---- what people see ---- */

Result<ferry::Ref<Session>> Orchestrator::find_session(const char (&name)[64], bool incoming)
{
	auto sessions = sessions_.lock();
	Session *found = find(incoming ? sessions->incoming : sessions->outgoing, bounded(name));
	if (!found)
		return fail(Errno::NoEnt);
	return ferry::Ref<Session>{*found};
}

void Orchestrator::show(liveupdate_ferry_info &out)
{
	out.frozen = frozen_;
	out.features = LIVEUPDATE_FERRY_FEATURE_KEYS | LIVEUPDATE_FERRY_FEATURE_SHARED_OPEN |
		       LIVEUPDATE_FERRY_FEATURE_POLICIES | LIVEUPDATE_FERRY_FEATURE_RENEW |
		       LIVEUPDATE_FERRY_FEATURE_STATISTICS;
	out.update = last_.number;
	out.failures = common.journal.last_failure().number;
	out.openers = openers_;
	out.outgoing = out.incoming = out.waiting = 0;
	(void)for_each_session([&](Session &session) -> Result<void> {
		++(session.incoming() ? out.incoming : out.outgoing);
		out.waiting += session.state() == SessionState::Carried;
		return {};
	});
}

Result<void> Orchestrator::show(liveupdate_ferry_update &out)
{
	if (!last_.number)
		return fail(Errno::NoEnt);
	out.number = last_.number;
	out.sessions = last_.sessions;
	out.files = last_.files;
	out.pages = last_.pages;
	out.runs = last_.runs;
	out.metadata = last_.metadata;
	out.refusals = last_.refusals;
	out.frozen_at = last_.frozen_at;
	out.preserve_ns = last_.preserve_ns;
	out.freeze_ns = last_.freeze_ns;
	out.jump_ns = jump_ns_;
	out.boot_ns = boot_ns_;
	const Arrival arrival = common.journal.arrival();
	out.first_retrieve_ns = arrival.first_retrieve_ns;
	out.retrieve_ns = arrival.retrieve_ns;
	out.finish_ns = arrival.finish_ns;
	out.finished_ns = arrival.finished_ns;
	out.retrieved = arrival.retrieved;
	out.released = arrival.released;
	out.failed = arrival.failed;
	ferry_format(reinterpret_cast<char *>(out.from), sizeof(out.from), "%s", last_.from);
	ferry_format(reinterpret_cast<char *>(out.to), sizeof(out.to), "%s",
		     linux_kernel_release());
	return {};
}

void Orchestrator::show_update(seq_file *to)
{
	ferry_seq_printf(to, "number %llu\nsessions %llu\nfiles %llu\n", last_.number,
			 last_.sessions, last_.files);
	ferry_seq_printf(to, "pages %llu\nruns %llu\nmetadata %llu\n", last_.pages, last_.runs,
			 last_.metadata);
	ferry_seq_printf(to, "preserve_ns %llu\nfreeze_ns %llu\njump_ns %llu\nboot_ns %llu\n",
			 last_.preserve_ns, last_.freeze_ns, jump_ns_, boot_ns_);
}

} // namespace luo
