// SPDX-License-Identifier: GPL-2.0
#include "luo/session.hh"

#include <ferry/log.hh>

using ferry::Errno;
using ferry::fail;
using ferry::Guard;
using ferry::Result;

namespace luo {

Result<ferry::Owned<Session>> Session::create(const char *name, Registry &registry, HeldFiles &held)
{
	auto session = TRY(ferry::make<Session>(registry, held));
	ferry_format(session->record_.name, sizeof(session->record_.name), "%s", name);
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

void Session::unpreserve()
{
	Guard guard{mutex_};
	while (File *file = files_.back()) {
		file->unpreserve();
		drop(*file);
	}
}

Result<void> Session::freeze()
{
	Guard guard{mutex_};
	File *first = TRY(order_files(files_));
	for (File *file = first; file; file = file->later) {
		auto frozen = file->freeze();
		if (!frozen.has_value()) {
			unfreeze_locked();
			return frozen;
		}
		file->frozen_before = frozen_last_;
		frozen_last_ = file;
	}
	state_ = SessionState::Frozen;
	return {};
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

void Session::disclaim()
{
	Guard guard{mutex_};
	state_ = SessionState::Carried;
}

Result<FileRef> Session::retrieve(unsigned long long token)
{
	Guard guard{mutex_};
	return retrieve_locked(token);
}

Result<FileRef> Session::retrieve_locked(unsigned long long token)
{
	File *file = find(token);
	if (!file)
		return fail(Errno::NoEnt);
	return file->retrieve();
}

Result<void> Session::finish()
{
	Guard guard{mutex_};
	for (File &file : files_)
		TRY(file.can_finish());
	// What came damaged may name needs that are not there, or in a ring; then
	// any order is as good, and nothing may be kept for it.
	auto ordered = order_files(files_);
	File *first = ordered.has_value() ? *ordered : nullptr;
	while (first) {
		File *later = first->later;
		first->finish();
		drop(*first);
		first = later;
	}
	while (File *file = files_.back()) {
		file->finish();
		drop(*file);
	}
	return {};
}

} // namespace luo
