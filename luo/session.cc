// SPDX-License-Identifier: GPL-2.0
#include "luo/session.hh"

#include <ferry/log.hh>

#include <algorithm>

using ferry::Errno;
using ferry::fail;
using ferry::Ref;
using ferry::Result;

namespace luo {
namespace {

using Lock = ferry::Guard<ferry::Mutex<"luo.session">>;

// How often freezes may name needs that were not known; each time costs one.
constexpr unsigned int max_freezes = 4;

} // namespace

Result<Ref<Session>> Session::create(const ferry_luo_about &about, const Terms &terms,
				     Common &common)
{
	auto session = TRY(ferry::make_ref<Session>(common));
	ferry_session &record = session->record_;
	ferry_format(record.session_name, sizeof(record.session_name), "%s", about.name);
	record.policy = static_cast<unsigned int>(terms.policy);
	record.deadline_ms = terms.deadline_ms;
	ferry_format(record.maker, sizeof(record.maker), "%s", about.maker);
	record.uid = about.uid;
	record.tag = about.tag;
	record.keyed = about.lock.keyed;
	static_assert(sizeof(record.salt) == sizeof(about.lock.salt));
	static_assert(sizeof(record.key_hash) == sizeof(about.lock.hash));
	memcpy(record.salt, about.lock.salt, sizeof(record.salt));
	memcpy(record.key_hash, about.lock.hash, sizeof(record.key_hash));
	return session;
}

ferry_luo_about Session::about() const
{
	ferry_luo_about about{};
	ferry_format(about.name, sizeof(about.name), "%s", name());
	ferry_format(about.maker, sizeof(about.maker), "%s", maker());
	about.uid = record_.uid;
	about.tag = record_.tag;
	about.lock.keyed = record_.keyed;
	memcpy(about.lock.salt, record_.salt, sizeof(about.lock.salt));
	memcpy(about.lock.hash, record_.key_hash, sizeof(about.lock.hash));
	return about;
}

Session::~Session()
{
	while (File *file = files_.back())
		drop(*file);
}

void Session::add(File &file)
{
	Guard guard{view_};
	files_.push_back(file);
}

void Session::drop(File &file)
{
	{
		Guard guard{view_};
		Files::remove(file);
	}
	ferry::destroy(&file);
}

File *Session::find(unsigned long long token)
{
	for (File &file : files_) {
		if (file.token() == token)
			return &file;
	}
	return nullptr;
}

Terms Session::terms()
{
	Guard guard{view_};
	return {Policy(record_.policy), record_.deadline_ms};
}

void Session::set_terms(const Terms &terms)
{
	Lock lock{mutex_};
	Guard guard{view_};
	record_.policy = static_cast<unsigned int>(terms.policy);
	record_.deadline_ms = terms.deadline_ms;
}

/* ---- what people see ---- */

unsigned int Session::nr_files()
{
	Guard guard{view_};
	unsigned int nr = 0;
	for ([[maybe_unused]] const File &file : files_)
		++nr;
	return nr;
}

Result<void> Session::file(unsigned int nr, unsigned long long &token,
			   char (&label)[FERRY_LUO_NAME_SIZE])
{
	Guard guard{view_};
	for (const File &file : files_) {
		if (nr--)
			continue;
		token = file.token();
		ferry_format(label, sizeof(label), "%s", file.label());
		return {};
	}
	return fail(Errno::NoEnt);
}

void Session::show(liveupdate_ferry_session &out)
{
	Guard guard{view_};
	out = {};
	ferry_format(reinterpret_cast<char *>(out.name), sizeof(out.name), "%s", name());
	out.state = static_cast<unsigned int>(state());
	out.flags = (incoming() ? LIVEUPDATE_FERRY_INCOMING : 0) |
		    (record_.keyed ? LIVEUPDATE_FERRY_KEYED : 0) |
		    (maker()[0] ? LIVEUPDATE_FERRY_OF_MODULE : 0);
	out.policy = record_.policy;
	out.refused = refused_.load();
	out.deadline_ms = record_.deadline_ms;
	const unsigned long long due = this->due(), now = ferry_now();
	out.left_ms = due == never ? LIVEUPDATE_FERRY_NO_DEADLINE
				   : (due > now ? (due - now) / 1'000'000 : 0);
	for (const File &file : files_) {
		liveupdate_ferry_file entry{};
		file.show(entry);
		++out.files;
		out.bytes += entry.bytes;
		out.runs += entry.runs;
		out.metadata += entry.metadata;
		out.preserve_ns += entry.preserve_ns;
		out.freeze_ns += entry.freeze_ns;
		out.retrieve_ns += entry.retrieve_ns;
	}
	out.operation = static_cast<unsigned int>(current_.operation);
	out.token = current_.token;
	out.done = done_.load(std::memory_order_relaxed);
	out.total = total_.load(std::memory_order_relaxed);
	out.since_ns = current_.since;
	ferry_format(reinterpret_cast<char *>(out.handler), sizeof(out.handler), "%s",
		     current_.handler);
}

unsigned long long Session::begin(Operation operation, File &file)
{
	Guard guard{view_};
	current_.operation = operation;
	current_.token = file.token();
	current_.since = ferry_now();
	ferry_format(current_.handler, sizeof(current_.handler), "%s", file.handler_name());
	progress(0, 0);
	return current_.since;
}

void Session::end(Operation operation, File &file, const Result<void> &result,
		  unsigned long long start, unsigned long long &ns)
{
	const unsigned long long took = ferry_now() - start;
	{
		Guard guard{view_};
		current_ = {};
		progress(0, 0);
		ns = took;
	}
	linux_trace_file(static_cast<int>(operation), name(), file.token(), file.handler_name(),
			 ferry::to_errno(result), took);
	if (!result.has_value())
		common_.journal.failed(operation, result.error(), name(), file.handler_name(),
				       file.token());
}

/* ---- outgoing ---- */

Result<void> Session::preserve(int fd, unsigned long long token)
{
	Lock lock{mutex_};
	if (find(token))
		return fail(Errno::Exist);
	FileRef open{linux_file_of(fd)};
	if (!open)
		return fail(Errno::BadF);
	return preserve_locked(std::move(open), token, "");
}

Result<void> Session::preserve(FileRef open, unsigned long long token, const char *label)
{
	Lock lock{mutex_};
	if (find(token))
		return fail(Errno::Exist);
	return preserve_locked(std::move(open), token, label);
}

Result<void> Session::preserve_locked(FileRef open, unsigned long long token, const char *label)
{
	auto file = TRY(ferry::make<File>(*this, common_));
	TRY(file->preserve(std::move(open), token, label));
	add(*file.release());
	return {};
}

Result<void> Session::check_needs()
{
	Lock lock{mutex_};
	TRY(order_files(files_, Otherwise::AsPreserved));
	return {};
}

// Calls for each file, one that needs another before the other, and drops it
// where that returns true.
template <class F> void Session::for_each_leaving(F leave)
{
	auto ordered = order_files(files_, Otherwise::Reversed);
	if (ordered.has_value()) {
		for (File *at = *ordered, *later; at; at = later) {
			later = at->later;
			if (leave(*at))
				drop(*at);
		}
		return;
	}
	// Where needs are not there, or in a ring, any order is as good, and nothing
	// may be kept for it.
	for (auto at = files_.end(); at != files_.begin();) {
		--at;
		File &file = *at;
		if (leave(file)) {
			++at;
			drop(file);
		}
	}
}

void Session::unpreserve()
{
	Lock lock{mutex_};
	for_each_leaving([](File &file) {
		file.unpreserve();
		return true;
	});
}

Result<void> Session::freeze()
{
	Lock lock{mutex_};
	// A handler may learn only now what its file needs, and then the order was
	// not the right one: everything is undone, and done again with what is known.
	for (unsigned int tries = 0; tries < max_freezes; ++tries) {
		unsigned int known = count_needs();
		auto frozen = freeze_once();
		if (!frozen.has_value()) {
			forget_late_needs();
			return frozen;
		}
		if (count_needs() == known) {
			state_ = SessionState::Frozen;
			return {};
		}
		unfreeze_locked();
	}
	log_err("session '%s': what its files need changes each time they are frozen", name());
	common_.journal.failed(Operation::Freeze, Errno::Busy, name());
	forget_late_needs();
	return fail(Errno::Busy);
}

Result<void> Session::freeze_once()
{
	auto ordered = order_files(files_, Otherwise::AsPreserved);
	if (!ordered.has_value()) {
		common_.journal.failed(Operation::Freeze, ordered.error(), name());
		return fail(ordered.error());
	}
	for (File *file = *ordered; file; file = file->later) {
		auto frozen = file->freeze();
		if (!frozen.has_value()) {
			unfreeze_locked();
			return frozen;
		}
		file->frozen_before = frozen_last_;
		frozen_last_ = file;
	}
	return {};
}

unsigned int Session::count_needs()
{
	unsigned int nr = 0;
	for (const File &file : files_)
		nr += file.nr_needs();
	return nr;
}

void Session::forget_late_needs()
{
	for (File &file : files_)
		file.forget_late_needs();
}

void Session::unfreeze_locked()
{
	for (; frozen_last_; frozen_last_ = frozen_last_->frozen_before)
		frozen_last_->unfreeze();
	state_ = SessionState::Open;
}

void Session::unfreeze()
{
	Lock lock{mutex_};
	unfreeze_locked();
	forget_late_needs();
}

void Session::count(SessionTotals &totals)
{
	Lock lock{mutex_};
	for (const File &file : files_) {
		++totals.files;
		totals.preserve_ns += file.preserve_ns();
	}
}

Result<void> Session::save(ferry_writer &writer)
{
	Lock lock{mutex_};
	TRY(ferry::check_status(ferry_put(&writer, &ferry_session_record, &record_)));
	unsigned int nr = 0;
	for (File &file : files_) {
		char name[16];
		ferry_format(name, sizeof(name), "file@%x", nr++);
		TRY(ferry::check_status(ferry_begin(&writer, name)));
		TRY(file.save(writer));
		TRY(ferry::check_status(ferry_end(&writer)));
	}
	return {};
}

/* ---- incoming ---- */

Result<Ref<Session>> Session::carried(ferry_node node, Common &common)
{
	auto session = TRY(ferry::make_ref<Session>(common));
	TRY(ferry::check_status(ferry_get(node, &ferry_session_record, &session->record_)));
	const ferry_session &record = session->record_;
	if ((Policy(record.policy) == Policy::Deadline) != (record.deadline_ms != 0)) {
		log_err("session '%s': has a deadline that does not fit its policy",
			session->name());
		return fail(Errno::BadMsg);
	}
	TRY(session->load_files(node));
	session->wait();
	return session;
}

Result<void> Session::load_files(ferry_node node)
{
	// Siblings in their order, and not by name: looking for a name starts at
	// the first one each time.
	for (ferry_node at = ferry_first(node); at.offset >= 0; at = ferry_next(at)) {
		auto file = TRY(ferry::make<File>(*this, common_));
		auto loaded = file->load(at);
		if (!loaded.has_value() && loaded.error() == Errno::NoMem)
			return loaded;
		if (loaded.has_value() && find(file->token())) {
			log_err("session '%s': token %#llx is there twice", name(), file->token());
			loaded = fail(Errno::BadMsg);
		}
		if (!loaded.has_value()) {
			log_err("session '%s': one file is left out, and its memory stays reserved",
				name());
			continue;
		}
		add(*file.release());
	}
	return {};
}

Result<void> Session::admit(Key key)
{
	if (opens(about().lock, key))
		return {};
	const unsigned int attempts = refused_.fetch_add(1) + 1;
	if (linux_may_log())
		log_warn("session '%s' is not given to who has not its key (attempt %u)", name(),
			 attempts);
	linux_trace_session("refused", name(), -int(Errno::Perm));
	return fail(Errno::Perm);
}

Result<void> Session::claim()
{
	auto waiting = SessionState::Carried;
	if (!state_.compare_exchange_strong(waiting, SessionState::Retrieved))
		return fail(Errno::Inval);
	return {};
}

void Session::wait(unsigned long long least_ms)
{
	const Terms now = terms();
	// Below 2^40 ms, or 2^60 ns: that overflows in some centuries.
	due_ = now.policy == Policy::Deadline
		       ? ferry_now() + std::max(now.deadline_ms, least_ms) * 1'000'000
		       : never;
	state_ = SessionState::Carried;
}

void Session::prepare()
{
	Lock lock{mutex_};
	// One that was renewed meanwhile has files of this kernel.
	if (!incoming())
		return;
	for (File &file : files_)
		file.prepare();
}

Result<FileRef> Session::retrieve(unsigned long long token)
{
	Lock lock{mutex_};
	// It was, when the call began.
	if (!incoming())
		return fail(Errno::Inval);
	File *file = find(token);
	if (!file)
		return fail(Errno::NoEnt);
	// Here and not from handler to handler: how deep it goes is up to whoever
	// preserved, and nothing is begun before all handlers are there.
	File *first = TRY(order_needs(files_, *file));
	for (File *at = first; at; at = at->later)
		TRY(at->find_handler(Operation::Retrieve));
	for (File *at = first; at; at = at->later)
		TRY(at->retrieve());
	return file->retrieved();
}

bool Session::preserves(struct file *on)
{
	for (File &file : files_) {
		if (file.is(on))
			return true;
	}
	return false;
}

Result<FileRef> Session::retrieved(unsigned long long token)
{
	File *file = find(token);
	if (!file || !file->is_retrieved())
		return fail(Errno::NoEnt);
	return file->retrieved();
}

Result<void> Session::can_finish()
{
	for (File &file : files_)
		TRY(file.can_finish());
	return {};
}

Result<void> Session::finish()
{
	Lock lock{mutex_};
	if (!incoming())
		return fail(Errno::Inval);
	TRY(can_finish());
	for_each_leaving([](File &file) {
		file.finish();
		return true;
	});
	state_ = SessionState::Finished;
	return {};
}

Result<void> Session::renew(bool files)
{
	Lock lock{mutex_};
	if (!incoming())
		return fail(Errno::Inval);
	TRY(can_finish());
	for_each_leaving([files](File &file) {
		file.finish();
		return !files || !file.is_retrieved();
	});
	for (auto at = files_.begin(); at != files_.end(); ++at) {
		auto renewed = at->renew();
		if (renewed.has_value())
			continue;
		while (at != files_.begin()) {
			--at;
			at->lapse();
		}
		return renewed;
	}
	state_ = SessionState::Open;
	return {};
}

} // namespace luo
