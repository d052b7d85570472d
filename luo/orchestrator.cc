// SPDX-License-Identifier: GPL-2.0
#include "luo/orchestrator.hh"

#include <ferry/checked.hh>
#include <ferry/log.hh>

#include <string_view>

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace luo {
namespace {

constexpr char tree_node[] = "luo";

// Of an update, as its record bounds it; then it starts again.
constexpr unsigned long long max_number = 1ull << 48;

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
	if (made->sessions_.lock()->incoming.empty())
		ferry_incoming_done();
	else
		made->pinned_ = ferry_module_get(linux_this_module());
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
		ferry::destroy(session);
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
	auto session = Session::carried(node, registry, held_);
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
	pinned_ = false;
	ferry_module_put(linux_this_module());
}

/* ---- the device ---- */

Result<void> Orchestrator::open()
{
	bool free = false;
	if (!opened_.compare_exchange_strong(free, true))
		return fail(Errno::Busy);
	return {};
}

void Orchestrator::close()
{
	opened_.store(false);
}

Result<FileRef> Orchestrator::create_session(const char (&name)[64])
{
	if (bounded(name).empty())
		return fail(Errno::Inval);
	auto gate = enter();
	auto session = TRY(Session::create(name, registry, held_));
	auto sessions = sessions_.lock();
	if (find(sessions->outgoing, name))
		return fail(Errno::Exist);
	file *made = nullptr;
	TRY(ferry::check_status(linux_session_file(reinterpret_cast<luo_session *>(session.get()),
						   session->name(), &made)));
	sessions->outgoing.push_back(*session.release());
	return FileRef{made};
}

Result<FileRef> Orchestrator::retrieve_session(const char (&name)[64])
{
	auto gate = enter();
	auto sessions = sessions_.lock();
	Session *session = find(sessions->incoming, bounded(name));
	if (!session)
		return fail(Errno::NoEnt);
	TRY(session->claim());
	file *made = nullptr;
	if (int err = linux_session_file(reinterpret_cast<luo_session *>(session), session->name(),
					 &made)) {
		session->disclaim();
		return fail(Errno(-err));
	}
	return FileRef{made};
}

void Orchestrator::release_session(Session &session)
{
	auto gate = enter();
	if (session.incoming()) {
		auto finished = session.finish();
		if (!finished.has_value()) {
			// Its files are all there still: whoever retrieves it goes on.
			log_warn("session '%s' was closed, but cannot be finished yet (error %d): "
				 "it waits",
				 session.name(), int(finished.error()));
			session.disclaim();
			return;
		}
	} else {
		session.unpreserve();
	}
	bool last = false;
	{
		auto sessions = sessions_.lock();
		ferry::List<Session>::remove(session);
		last = session.incoming() && sessions->incoming.empty();
	}
	ferry::destroy(&session);
	if (last)
		carried_done();
}

void Orchestrator::work_ahead()
{
	// One session at a time, so that who wants one waits for no more than one.
	// Where some go meanwhile, others may be passed over: nothing is lost by it.
	for (unsigned int nr = 0;; ++nr) {
		auto gate = enter();
		auto sessions = sessions_.lock();
		auto at = sessions->incoming.begin();
		for (unsigned int i = 0; i < nr && at != sessions->incoming.end(); ++i)
			++at;
		if (at == sessions->incoming.end())
			return;
		at->prepare();
	}
}

/* ---- the way into the next kernel ---- */

Result<void> Orchestrator::prepare(bool kho)
{
	gate_.lock();
	freeze_start_ = ferry_now();
	auto frozen = freeze_all(kho);
	if (frozen.has_value()) {
		auto written = ferry::check_status(ferry_kho_finalize());
		if (written.has_value())
			return {};
		log_err("cannot write the tree for the next kernel, error %d",
			int(written.error()));
		unfreeze_all();
		frozen = written;
	}
	gate_.unlock();
	return frozen;
}

void Orchestrator::abort()
{
	ferry_kho_abort();
	unfreeze_all();
	gate_.unlock();
}

Result<void> Orchestrator::freeze_all(bool kho)
{
	auto sessions = sessions_.lock();
	auto &outgoing = sessions->outgoing;
	for (Session &session : sessions->incoming)
		log_warn(
			"session '%s' of the last kernel was not finished: it does not cross again",
			session.name());
	if (!kho && !outgoing.empty()) {
		log_err("the kernel was loaded so that it gets nothing handed over: load it with "
			"kexec_file_load(2), as kexec -s does");
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
	};
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
