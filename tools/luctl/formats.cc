// SPDX-License-Identifier: GPL-2.0
#include "tools/luctl/formats.hh"

#include <algorithm>

#include <sys/utsname.h>

#include "tools/luctl/output.hh"

namespace luctl {

namespace {

bool read_version(const Json &from, unsigned int &version)
{
	if (!from.is_number_unsigned() || from.get<std::uint64_t>() - 1 >= 1'000'000)
		return false;
	version = from.get<unsigned int>();
	return true;
}

bool read_format(const Json &from, Format &format)
{
	if (!from.is_object() || !from.contains("name") || !from["name"].is_string() ||
	    !from.contains("writes") || !read_version(from["writes"], format.writes) ||
	    !from.contains("reads"))
		return false;
	format.name = from["name"].get<std::string>();
	const Json &reads = from["reads"];
	return reads.is_array() && reads.size() == 2 && read_version(reads[0], format.oldest) &&
	       read_version(reads[1], format.newest) && format.oldest <= format.newest;
}

// Catalogues did not have these as long as they were of version 1.
constexpr std::string_view unnamed[] = {"the root page", "the lists of runs", "the tree"};

std::string range(unsigned int oldest, unsigned int newest)
{
	if (!newest)
		return "nothing";
	std::string text = "v" + std::to_string(oldest);
	return oldest == newest ? text : text + " to v" + std::to_string(newest);
}

std::string whole(const Catalogue &catalogue, const char *otherwise)
{
	return catalogue.kernel.empty() ? otherwise : clean(catalogue.kernel);
}

Json to_json(const std::vector<Judgement> &all)
{
	Json list = Json::array();
	for (const auto &each : all) {
		Json entry = {{"name", each.name}, {"writes", each.writes}};
		entry["reads"] = each.newest ? Json::array({each.oldest, each.newest})
					     : Json(nullptr);
		entry["fits"] = each.fits;
		list.push_back(std::move(entry));
	}
	return list;
}

bool all_fit(const std::vector<Judgement> &all)
{
	return std::ranges::all_of(all, &Judgement::fits);
}

Outcome<> check(Context &context, const Catalogue &own, const Catalogue &other)
{
	auto there = judge(own, other), back = judge(other, own);
	bool fits = all_fit(there);
	if (context.json) {
		Json result = {{"from", own.kernel}, {"to", other.kernel}, {"fits", fits}};
		result["formats"] = to_json(there);
		result["back_fits"] = all_fit(back);
		result["back"] = to_json(back);
		context.out << result.dump(2) << "\n";
	} else {
		Table table({"RECORD", "WRITTEN HERE", "READ THERE", ""});
		for (const auto &each : there)
			table.add({clean(each.name), "v" + std::to_string(each.writes),
				   range(each.oldest, each.newest),
				   each.fits ? "fits" : "DOES NOT FIT"});
		table.print(context.out);
		context.out << "\n"
			    << whole(own, "this kernel") << " to "
			    << whole(other, "the other kernel")
			    << (fits ? ": everything fits.\n" : ": not everything fits.\n");
		for (const auto &each : back) {
			if (!each.fits)
				context.out << "No way back: " << clean(each.name)
					    << " would come as v" << each.writes
					    << ", and here is read "
					    << range(each.oldest, each.newest) << ".\n";
		}
		if (all_fit(back))
			context.out << "The way back fits, too.\n";
	}
	if (!fits)
		return fail(Exit::no, "");
	return {};
}

} // namespace

Outcome<Catalogue> parse_catalogue(const std::string &text, const std::string &whose)
{
	Json tree = Json::parse(text, nullptr, false);
	if (!tree.is_object() || !tree.contains("formats") || !tree["formats"].is_array())
		return fail(Exit::failed,
			    whose + ": is no catalogue of formats (luctl formats --json)");
	Catalogue catalogue;
	if (tree.contains("kernel") && tree["kernel"].is_string())
		catalogue.kernel = tree["kernel"].get<std::string>();
	for (const auto &each : tree["formats"]) {
		Format format{};
		if (!read_format(each, format))
			return fail(Exit::failed,
				    whose + ": format " +
					    std::to_string(catalogue.formats.size() + 1) +
					    " lacks a name, or has no sensible versions");
		auto twice = std::ranges::find(catalogue.formats, format.name, &Format::name);
		if (twice != catalogue.formats.end())
			return fail(Exit::failed,
				    whose + ": has '" + clean(format.name) + "' twice");
		catalogue.formats.push_back(std::move(format));
	}
	catalogue.text = std::move(tree);
	return catalogue;
}

Outcome<Catalogue> own_catalogue(const Context &context)
{
	std::string path = context.path("/sys/kernel/debug/ferry/formats");
	auto text = read_file(path);
	if (!text)
		return fail(Exit::missing,
			    text.error().text +
				    ". Only Ferry has this catalogue: is kho loaded, debugfs "
				    "mounted (mount -t debugfs none /sys/kernel/debug), and "
				    "are you root?");
	auto catalogue = parse_catalogue(*text, path);
	utsname is{};
	if (catalogue && !::uname(&is))
		catalogue->kernel = is.release;
	return catalogue;
}

std::vector<Judgement> judge(const Catalogue &writer, const Catalogue &reader)
{
	std::vector<Judgement> all;
	for (const auto &format : writer.formats) {
		auto known = std::ranges::find(reader.formats, format.name, &Format::name);
		if (known == reader.formats.end() && !reader.formats.empty() &&
		    std::ranges::find(unnamed, format.name) != std::end(unnamed))
			all.push_back({format.name, format.writes, 1, 1, format.writes == 1});
		else if (known == reader.formats.end())
			all.push_back({format.name, format.writes, 0, 0, false});
		else
			all.push_back(
				{format.name, format.writes, known->oldest, known->newest,
				 known->oldest <= format.writes && format.writes <= known->newest});
	}
	return all;
}

Outcome<> formats(Context &context, const std::string &other)
{
	auto own = TRY(own_catalogue(context));
	if (!other.empty())
		return check(context, own, TRY(parse_catalogue(TRY(read_file(other)), other)));
	if (context.json) {
		Json result = {{"kernel", own.kernel}};
		result["formats"] = own.text["formats"];
		context.out << result.dump(1) << "\n";
		return {};
	}
	Table table({"RECORD", "WRITES", "READS", "FIELDS"});
	for (std::size_t i = 0; i < own.formats.size(); ++i) {
		const auto &format = own.formats[i];
		const Json &entry = own.text["formats"][i];
		auto fields = entry.contains("fields") ? entry["fields"].size() : 0;
		table.add({clean(format.name), "v" + std::to_string(format.writes),
			   range(format.oldest, format.newest), std::to_string(fields)});
	}
	table.print(context.out);
	return {};
}

} // namespace luctl
