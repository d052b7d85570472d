// SPDX-License-Identifier: GPL-2.0
// What sd-bus and sd-event count references of, as owned types.
#pragma once

#include <memory>

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

namespace luod {

template <auto unref> struct Unref {
	void operator()(auto *object) const
	{
		unref(object);
	}
};

using Bus = std::unique_ptr<sd_bus, Unref<sd_bus_flush_close_unref>>;
using Message = std::unique_ptr<sd_bus_message, Unref<sd_bus_message_unref>>;
using Event = std::unique_ptr<sd_event, Unref<sd_event_unref>>;
using Source = std::unique_ptr<sd_event_source, Unref<sd_event_source_disable_unref>>;

// Of one call.
struct BusError : sd_bus_error {
	BusError() : sd_bus_error(SD_BUS_ERROR_NULL)
	{
	}
	~BusError()
	{
		::sd_bus_error_free(this);
	}
	BusError(const BusError &) = delete;
	BusError &operator=(const BusError &) = delete;
};

} // namespace luod
