// SPDX-License-Identifier: GPL-2.0
#include "luo/registry.hh"

#include <ferry/log.hh>
#include <ferry/scope.hh>

#include <string_view>

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace luo {

Registry::~Registry()
{
	clear(*entries_.lock());
}

void Registry::clear(Entries &entries)
{
	while (Entry *entry = entries.front()) {
		Entries::remove(*entry);
		ferry::destroy(entry);
	}
}

namespace {

bool is_whole(const ferry_luo_handler &handler)
{
	const ferry_luo_ops *ops = handler.ops;
	std::string_view name = handler.compatible ? handler.compatible : "";
	return !name.empty() && name.size() < FERRY_LUO_COMPATIBLE_SIZE && ops &&
	       ops->can_preserve && ops->preserve && ops->unpreserve && ops->save &&
	       ops->retrieve && ops->finish;
}

} // namespace

Result<void> Registry::add(std::span<const ferry_luo_handler> handlers)
{
	Entries added;
	ferry::Undo drop{[&] { clear(added); }};
	for (const ferry_luo_handler &handler : handlers) {
		if (!is_whole(handler))
			return fail(Errno::Inval);
		added.push_back(*TRY(ferry::make<Entry>(handler)).release());
	}
	auto entries = entries_.lock();
	for (const Entry &other : *entries) {
		for (const ferry_luo_handler &handler : handlers) {
			if (std::string_view(handler.compatible) != other.handler.compatible)
				continue;
			log_err("there is a handler '%s' already", handler.compatible);
			return fail(Errno::Exist);
		}
	}
	while (Entry *entry = added.front()) {
		Entries::remove(*entry);
		entries->push_back(*entry);
	}
	return {};
}

void Registry::remove(const ferry_luo_handler &handler)
{
	auto entries = entries_.lock();
	for (Entry &entry : *entries) {
		if (&entry.handler == &handler) {
			Entries::remove(entry);
			ferry::destroy(&entry);
			return;
		}
	}
}

Result<HandlerRef> Registry::for_file(file *file)
{
	auto entries = entries_.lock();
	for (const Entry &entry : *entries) {
		if (!entry.handler.ops->can_preserve(file))
			continue;
		auto handler = HandlerRef::hold(entry.handler);
		if (handler)
			return handler;
	}
	return fail(Errno::NoEnt);
}

Result<HandlerRef> Registry::named(const char *compatible)
{
	auto entries = entries_.lock();
	for (const Entry &entry : *entries) {
		if (std::string_view(compatible) != entry.handler.compatible)
			continue;
		auto handler = HandlerRef::hold(entry.handler);
		if (handler)
			return handler;
	}
	return fail(Errno::NoEnt);
}

unsigned long id_of(const HandlerRef &handler, file *file)
{
	return handler->id ? handler->id(file) : reinterpret_cast<unsigned long>(file);
}

} // namespace luo
