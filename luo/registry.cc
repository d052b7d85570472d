// SPDX-License-Identifier: GPL-2.0
#include "luo/registry.hh"

#include <ferry/log.hh>

#include <string_view>

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace luo {

Registry::~Registry()
{
	auto entries = entries_.lock();
	while (Entry *entry = entries->front()) {
		Entries::remove(*entry);
		ferry::destroy(entry);
	}
}

Result<void> Registry::add(const ferry_luo_handler &handler)
{
	const ferry_luo_ops *ops = handler.ops;
	std::string_view name = handler.compatible ? handler.compatible : "";
	if (name.empty() || name.size() >= FERRY_LUO_COMPATIBLE_SIZE || !ops ||
	    !ops->can_preserve || !ops->preserve || !ops->unpreserve || !ops->save ||
	    !ops->retrieve || !ops->finish)
		return fail(Errno::Inval);

	auto entry = TRY(ferry::make<Entry>(handler));
	auto entries = entries_.lock();
	for (const Entry &other : *entries) {
		if (name == other.handler.compatible) {
			log_err("there is a handler '%s' already", handler.compatible);
			return fail(Errno::Exist);
		}
	}
	entries->push_back(*entry.release());
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
