// SPDX-License-Identifier: GPL-2.0
// The dependency graph of a session: a depth-first search without recursion,
// as the depth is up to who preserves.
#include <ferry/log.hh>

#include "luo/file.hh"
#include "luo/session.hh"

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace luo {
namespace {

// The file that is needed; null when the session does not have it.
File *find_target(Files &files, Need &need)
{
	for (File &file : files) {
		if (need.on ? file.is(need.on.get()) : file.token() == need.token)
			return &file;
	}
	return nullptr;
}

Need *after(Needs &needs, Need *need)
{
	if (!need)
		return needs.front();
	auto next = ++Needs::Iterator{need};
	return next == needs.end() ? nullptr : &*next;
}

Result<File *> resolve(Files &files, File &file, Need &need)
{
	File *target = find_target(files, need);
	if (!target) {
		log_err("session '%s', token %#llx (%s): needs a file that is not in the session",
			file.session.name(), file.token(), file.handler_name());
		return fail(Errno::NoEnt);
	}
	need.token = target->token();
	if (target->visit.open) {
		log_err("session '%s': tokens %#llx (%s) and %#llx (%s) need each other",
			file.session.name(), file.token(), file.handler_name(), target->token(),
			target->handler_name());
		return fail(Errno::Loop);
	}
	return target;
}

// Calls for everything that `start` needs, and then for itself: each file once
// per search, after those that it needs.
template <class Emit> Result<void> visit(Files &files, File *start, Emit emit)
{
	File *at = start;
	at->visit.seen = at->visit.open = true;
	while (at) {
		Need *need = after(at->needs(), at->visit.need);
		if (!need) {
			at->visit.open = false;
			emit(at);
			at = at->visit.from;
			continue;
		}
		at->visit.need = need;
		File *target = TRY(resolve(files, *at, *need));
		if (!target->visit.seen) {
			target->visit.seen = target->visit.open = true;
			target->visit.from = at;
			at = target;
		}
	}
	return {};
}

void forget(Files &files)
{
	for (File &file : files) {
		file.visit = {};
		file.later = nullptr;
	}
}

} // namespace

Result<File *> order_files(Files &files, Otherwise otherwise)
{
	forget(files);
	File *first = nullptr;
	auto put_first = [&](File *file) {
		file->later = first;
		first = file;
	};
	// Each search puts its files in front of those of the searches before it.
	if (otherwise == Otherwise::Reversed) {
		for (File &file : files) {
			if (!file.visit.seen)
				TRY(visit(files, &file, put_first));
		}
		return first;
	}
	for (auto at = files.end(); at != files.begin();) {
		--at;
		if (!at->visit.seen)
			TRY(visit(files, &*at, put_first));
	}
	return first;
}

Result<File *> order_needs(Files &files, File &of)
{
	forget(files);
	File *first = nullptr, *last = nullptr;
	TRY(visit(files, &of, [&](File *file) {
		(last ? last->later : first) = file;
		last = file;
	}));
	return first;
}

} // namespace luo
