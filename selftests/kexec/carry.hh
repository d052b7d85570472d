// SPDX-License-Identifier: GPL-2.0
// Test cases that have a part in each kernel.
#pragma once

#include <functional>
#include <memory>

#include "selftests/kexec/common.hh"

// What a case has at hand in one of its stages.
class Stage {
    public:
	Stage(Device &device, std::map<std::string, std::string> &notes, std::string name,
	      bool first)
		: device(device), notes_(notes), name_(std::move(name)), first_(first)
	{
	}

	Device &device;

	// The case's own session: of the next kernel in the first stage, of the
	// last one later. It lives until the end of the stage's case, or, in the
	// first, until the kexec.
	Session &session()
	{
		if (!session_)
			session_ = std::make_shared<Session>(
				first_ ? VALUE(device.create(session_name()))
				       : VALUE(device.retrieve(session_name())));
		if (first_)
			keep(session_);
		return *session_;
	}

	std::string session_name() const
	{
		return ("carry:" + name_).substr(0, LIVEUPDATE_SESSION_NAME_LENGTH - 1);
	}

	// Hold on to something until the kexec.
	template <typename T> static void keep(T &&what)
	{
		kept().push_back(std::make_shared<std::decay_t<T>>(std::forward<T>(what)));
	}

	// Notes for the stages after this one.
	std::string &note(const std::string &key)
	{
		return notes_[name_ + ":" + key];
	}
	void note(const std::string &key, long long value)
	{
		note(key) = std::to_string(value);
	}
	long long number(const std::string &key)
	{
		return std::atoll(note(key).c_str());
	}

    private:
	static std::vector<std::shared_ptr<void>> &kept()
	{
		static std::vector<std::shared_ptr<void>> all;
		return all;
	}

	std::map<std::string, std::string> &notes_;
	std::string name_;
	bool first_;
	std::shared_ptr<Session> session_;
};

struct Carried {
	using Part = std::function<void(Stage &)>;

	std::string name;
	std::vector<Part> parts; // one for each kernel

	Carried(std::string name, std::vector<Part> parts);
};

std::vector<Carried *> &carried();

/*
 *	BEFORE("what is tested")
 *	{
 *		... stage.session() ...
 *	}
 *
 *	AFTER()
 *	{
 *		... and what is left of it, in the next kernel
 *	}
 *
 * and one more AFTER() for the kernel after that.
 */
#define BEFORE(name)                                                                               \
	static void KTAP_UNIQUE(before)(Stage & stage);                                            \
	static Carried KTAP_UNIQUE(carried_case)(name, {KTAP_UNIQUE(before)});                     \
	static void KTAP_UNIQUE(before)([[maybe_unused]] Stage & stage)

#define AFTER()                                                                                    \
	static void KTAP_UNIQUE(after)(Stage & stage);                                             \
	static const bool KTAP_UNIQUE(added) =                                                     \
		(carried().back()->parts.push_back(KTAP_UNIQUE(after)), true);                     \
	static void KTAP_UNIQUE(after)([[maybe_unused]] Stage & stage)

// The same case for each row of a table; a row has a name.
template <typename Row> class Table {
    public:
	using Part = void (*)(Stage &stage, const Row &row);

	Table(const std::string &prefix, std::vector<Row> rows, Part before, Part after)
		: rows_(std::move(rows))
	{
		for (const Row &row : rows_)
			cases_.push_back(std::make_unique<Carried>(
				prefix + row.name,
				std::vector<Carried::Part>{
					[&row, before](Stage &stage) { before(stage, row); },
					[&row, after](Stage &stage) { after(stage, row); }}));
	}

    private:
	std::vector<Row> rows_;
	std::vector<std::unique_ptr<Carried>> cases_;
};

// Run that stage of all cases whose name begins with prefix and contains filter.
int run_stage(int stage, const char *prefix, const char *filter);
