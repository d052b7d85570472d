// SPDX-License-Identifier: GPL-2.0
#include "tools/luod/barrier.hh"

namespace luod {

void Barrier::join(Client client, std::string label)
{
	// Who joins while a barrier is under way is asked at the next one.
	labels_[client] = std::move(label);
}

void Barrier::leave(Client client)
{
	labels_.erase(client);
	if (pending_.erase(client) && pending_.empty())
		end(true, {});
}

void Barrier::end(bool ready, std::string reason)
{
	state_ = ready ? State::ready : State::idle;
	pending_.clear();
	verdict_ = Verdict{ready, std::move(reason)};
}

Outcome<std::uint64_t> Barrier::begin(Client by)
{
	if (state_ != State::idle)
		return luod::refuse(EBUSY, "an update is being prepared already");
	++id_;
	by_ = by;
	state_ = State::preparing;
	verdict_.reset();
	for (const auto &[client, label] : labels_)
		pending_.insert(client);
	if (pending_.empty())
		end(true, {});
	return id_;
}

Outcome<> Barrier::answer(Client client, std::uint64_t id)
{
	if (state_ != State::preparing || id != id_ || !pending_.contains(client))
		return luod::refuse(ESTALE, "no update with that number waits for this service");
	return {};
}

Outcome<> Barrier::ready(Client client, std::uint64_t id)
{
	auto due = answer(client, id);
	if (due && pending_.erase(client) && pending_.empty())
		end(true, {});
	return due;
}

Outcome<> Barrier::refuse(Client client, std::uint64_t id, const std::string &reason)
{
	auto due = answer(client, id);
	if (due)
		end(false, labels_[client] + ": " + reason);
	return due;
}

Outcome<> Barrier::cancel(Client by, std::uint64_t id)
{
	if (state_ == State::idle || id != id_ || by != by_)
		return luod::refuse(ESTALE, "this is not the update that is being prepared");
	end(false, "called off");
	return {};
}

void Barrier::expire()
{
	if (state_ != State::preparing)
		return;
	std::string late;
	for (const auto &label : waited_for())
		late += (late.empty() ? "" : ", ") + label;
	end(false, "not ready in time: " + late);
}

void Barrier::gone(Client client)
{
	bool due = pending_.contains(client);
	std::string label = due ? labels_[client] : "";
	labels_.erase(client);
	if (state_ != State::idle && client == by_)
		end(false, "who prepared the update is gone");
	else if (due)
		end(false, label + ": it died, or closed its connection");
}

std::optional<Barrier::Verdict> Barrier::take_verdict()
{
	return std::exchange(verdict_, std::nullopt);
}

std::vector<std::string> Barrier::waited_for() const
{
	std::vector<std::string> labels;
	for (Client client : pending_)
		labels.push_back(labels_.at(client));
	return labels;
}

} // namespace luod
