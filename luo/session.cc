// SPDX-License-Identifier: GPL-2.0
#include "luo/session.hh"

#include <ferry/log.hh>

using ferry::Errno;
using ferry::fail;
using ferry::Guard;
using ferry::Result;

namespace luo {
namespace {

// How often freezes may name needs that were not known; each time costs one.
constexpr unsigned int max_freezes = 4;

} // namespace

Result<ferry::Owned<Session>> Session::create(const char *name, Registry &registry, HeldFiles &held)
{
	auto session = TRY(ferry::make<Session>(registry, held));
	ferry_format(session->record_.session_name, sizeof(session->record_.session_name), "%s",
		     name);
	return session;
}

Session::~Session()
{
	while (File *file = files_.back())
		drop(*file);
}

void Session::drop(File &file)
{
	Files::remove(file);
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

/* ---- outgoing ---- */

Result<void> Session::preserve(int fd, unsigned long long token)
{
	Guard guard{mutex_};
	if (find(token))
		return fail(Errno::Exist);
	FileRef open{linux_file_of(fd)};
	if (!open)
		return fail(Errno::BadF);
	auto file = TRY(ferry::make<File>(*this, registry_, held_));
	TRY(file->preserve(std::move(open), token));
	files_.push_back(*file.release());
	return {};
}

// Calls for each file, one that needs another before the other, and drops it.
template <class F> void Session::for_each_leaving(F leave)
{
	// Where needs are not there, or in a ring, any order is as good, and nothing
	// may be kept for it.
	auto ordered = order_files(files_, Otherwise::Reversed);
	File *first = ordered.has_value() ? *ordered : nullptr;
	while (first) {
		File *later = first->later;
		leave(*first);
		drop(*first);
		first = later;
	}
	while (File *file = files_.back()) {
		leave(*file);
		drop(*file);
	}
}

void Session::unpreserve()
{
	Guard guard{mutex_};
	for_each_leaving([](File &file) { file.unpreserve(); });
}

Result<void> Session::freeze()
{
	Guard guard{mutex_};
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
	forget_late_needs();
	return fail(Errno::Busy);
}

Result<void> Session::freeze_once()
{
	File *first = TRY(order_files(files_, Otherwise::AsPreserved));
	for (File *file = first; file; file = file->later) {
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
	Guard guard{mutex_};
	unfreeze_locked();
	forget_late_needs();
}

void Session::count(SessionTotals &totals)
{
	Guard guard{mutex_};
	for (const File &file : files_) {
		++totals.files;
		totals.preserve_ns += file.preserve_ns();
	}
}

Result<void> Session::save(ferry_writer &writer)
{
	Guard guard{mutex_};
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

Result<ferry::Owned<Session>> Session::carried(ferry_node node, Registry &registry, HeldFiles &held)
{
	auto session = TRY(ferry::make<Session>(registry, held));
	session->incoming_ = true;
	session->state_ = SessionState::Carried;
	TRY(ferry::check_status(ferry_get(node, &ferry_session_record, &session->record_)));
	TRY(session->load_files(node));
	return session;
}

Result<void> Session::load_files(ferry_node node)
{
	// Siblings in their order, and not by name: looking for a name starts at
	// the first one each time.
	for (ferry_node at = ferry_first(node); at.offset >= 0; at = ferry_next(at)) {
		auto file = TRY(ferry::make<File>(*this, registry_, held_));
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
		files_.push_back(*file.release());
	}
	return {};
}

Result<void> Session::claim()
{
	Guard guard{mutex_};
	if (state_ != SessionState::Carried)
		return fail(Errno::Inval);
	state_ = SessionState::Retrieved;
	return {};
}

void Session::prepare()
{
	Guard guard{mutex_};
	for (File &file : files_)
		file.prepare();
}

void Session::disclaim()
{
	Guard guard{mutex_};
	state_ = SessionState::Carried;
}

Result<FileRef> Session::retrieve(unsigned long long token)
{
	Guard guard{mutex_};
	File *file = find(token);
	if (!file)
		return fail(Errno::NoEnt);
	// Here and not from handler to handler: how deep it goes is up to whoever
	// preserved, and nothing is begun before all handlers are there.
	File *first = TRY(order_needs(files_, *file));
	for (File *at = first; at; at = at->later)
		TRY(at->find_handler());
	for (File *at = first; at; at = at->later)
		TRY(at->retrieve());
	return file->retrieved();
}

Result<FileRef> Session::retrieved(unsigned long long token)
{
	File *file = find(token);
	if (!file || !file->is_retrieved())
		return fail(Errno::NoEnt);
	return file->retrieved();
}

Result<void> Session::finish()
{
	Guard guard{mutex_};
	for (File &file : files_)
		TRY(file.can_finish());
	for_each_leaving([](File &file) { file.finish(); });
	return {};
}

} // namespace luo
