// SPDX-License-Identifier: GPL-2.0
#include "tools/luctl/report.hh"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <fstream>

#include "tools/luctl/output.hh"

namespace luctl {

namespace {

std::uint64_t end_of(const std::vector<Stage> &all)
{
	std::uint64_t end = 0;
	for (const auto &stage : all)
		end = std::max(end, stage.start + stage.length);
	return end;
}

std::string when(const liveupdate_ferry_update &update)
{
	auto seconds = static_cast<std::time_t>(update.frozen_at / 1'000'000'000);
	std::tm is{};
	char shown[32];
	if (!update.frozen_at || !::localtime_r(&seconds, &is) ||
	    !std::strftime(shown, sizeof(shown), "%F %T", &is))
		return "";
	return shown;
}

std::string title(const liveupdate_ferry_update &update)
{
	std::string from = clean(text(update.from)), to = clean(text(update.to));
	std::string line = "Update " + std::to_string(update.number);
	if (!from.empty())
		line += ": " + from + " to " + to;
	if (auto at = when(update); !at.empty())
		line += ", " + at;
	return line;
}

std::string carried(const liveupdate_ferry_update &update)
{
	return count(update.sessions, "session", "sessions") + ", " +
	       count(update.files, "file", "files") + ", " + bytes(update.pages * 4096) + " in " +
	       count(update.runs, "run", "runs");
}

std::string outcome(const liveupdate_ferry_update &update)
{
	std::string line = std::to_string(update.retrieved) + " retrieved";
	if (update.released)
		line += ", " + std::to_string(update.released) + " released, as nobody took them";
	if (update.failed)
		line += ", " + std::to_string(update.failed) + " FAILED";
	auto done = update.retrieved + update.released + update.failed;
	if (done < update.files)
		line += ", " + std::to_string(update.files - done) + " still wait";
	return line;
}

std::string escape(std::string_view plain)
{
	std::string safe;
	for (char c : plain) {
		switch (c) {
		case '<':
			safe += "&lt;";
			break;
		case '&':
			safe += "&amp;";
			break;
		case '"':
			safe += "&quot;";
			break;
		default:
			safe += c;
		}
	}
	return safe;
}

template <typename... Args> std::string format(const char *pattern, Args... args)
{
	char line[512];
	std::snprintf(line, sizeof(line), pattern, args...);
	return line;
}

// The distance of marks on the axis: 1, 2 or 5 times a power of ten, at most 10 of them.
std::uint64_t mark_distance(std::uint64_t end)
{
	for (std::uint64_t power = 1000;; power *= 10) {
		for (std::uint64_t step : {1, 2, 5}) {
			if (end / (step * power) <= 10 || power > UINT64_MAX / 100)
				return step * power;
		}
	}
}

} // namespace

std::vector<Stage> stages(const liveupdate_ferry_update &update)
{
	std::vector<Stage> all;
	std::uint64_t at = 0;
	auto add = [&](const char *name, const char *what, std::uint64_t length, Stage::Of of) {
		if (!length)
			return;
		all.push_back({name, what, at, length, of});
		at += length;
	};
	add("freeze", "state is written", update.freeze_ns, Stage::Of::kernels);
	add("jump", "old kernel stops, new one starts", update.jump_ns, Stage::Of::kernels);
	// From here on, times are those of the new kernel's clock.
	std::uint64_t zero = at;
	add("boot", "until luo is loaded", update.boot_ns, Stage::Of::kernels);
	if (!update.first_retrieve_ns)
		return all;
	at = std::max(at, zero);
	std::uint64_t first = zero + update.first_retrieve_ns;
	if (first > at)
		add("start", "until a program asks for its files", first - at, Stage::Of::user);
	// Others may still be at work while somebody retrieves: a span, not a sum.
	if (update.finished_ns > update.first_retrieve_ns)
		add("resume", "files are retrieved, sessions finished",
		    update.finished_ns - update.first_retrieve_ns, Stage::Of::user);
	else
		add("retrieve", "in the kernel, so far", update.retrieve_ns, Stage::Of::user);
	return all;
}

std::string draw_text(const std::vector<Stage> &all, unsigned int width)
{
	std::string lines;
	std::uint64_t end = std::max<std::uint64_t>(end_of(all), 1);
	unsigned int room = std::max(width, 48u) - 24;
	for (const auto &stage : all) {
		auto place = [&](std::uint64_t ns) {
			return static_cast<unsigned int>(static_cast<double>(ns) /
							 static_cast<double>(end) * room);
		};
		unsigned int from = std::min(place(stage.start), room - 1);
		unsigned int to = std::clamp(place(stage.start + stage.length), from + 1, room);
		lines += format("%-9s %10s  ", stage.name.c_str(), duration(stage.length).c_str());
		for (unsigned int i = 0; i < to; ++i)
			lines += i < from ? " " : stage.of == Stage::Of::kernels ? "█" : "▒";
		lines += "\n";
	}
	return lines;
}

std::string draw_svg(const liveupdate_ferry_update &update, const std::vector<Stage> &all)
{
	constexpr unsigned int left = 320, width = 560, row = 26, top = 92;
	auto height = static_cast<unsigned int>(top + row * all.size() + 64);
	double end = static_cast<double>(std::max<std::uint64_t>(end_of(all), 1));
	auto x = [&](std::uint64_t ns) { return left + static_cast<double>(ns) / end * width; };
	std::string svg =
		format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" "
		       "viewBox=\"0 0 %u %u\" font-family=\"sans-serif\" font-size=\"13\">\n"
		       "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
		       left + width + 100, height, left + width + 100, height);
	svg += "<text x=\"16\" y=\"28\" font-size=\"17\" font-weight=\"bold\">" +
	       escape(title(update)) + "</text>\n";
	svg += "<text x=\"16\" y=\"49\">" + escape(carried(update)) + "; " +
	       escape(outcome(update)) + "</text>\n";
	svg += "<text x=\"16\" y=\"69\" fill=\"#555\">Before it, while everything ran: preserve " +
	       duration(update.preserve_ns) + "</text>\n";
	std::uint64_t step = mark_distance(end_of(all));
	bool seconds = end_of(all) >= 1'000'000'000;
	double bottom = top + static_cast<double>(row * all.size());
	for (std::uint64_t mark = 0; mark <= end_of(all); mark += step) {
		svg += format(
			"<line x1=\"%.1f\" y1=\"%u\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n",
			x(mark), top - 6, x(mark), bottom + 4);
		svg += format("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" font-size=\"11\" "
			      "fill=\"#555\">%s</text>\n",
			      x(mark), bottom + 19,
			      format(seconds ? "%g s" : "%g ms",
				     static_cast<double>(mark) / (seconds ? 1e9 : 1e6))
				      .c_str());
	}
	for (std::size_t i = 0; i < all.size(); ++i) {
		const Stage &stage = all[i];
		double y = top + static_cast<double>(row * i);
		// Also what is too short to be seen is there.
		double long_as = std::max(static_cast<double>(stage.length) / end * width, 1.0);
		svg += format("<text x=\"%u\" y=\"%.1f\" text-anchor=\"end\"><tspan "
			      "font-weight=\"bold\">%s"
			      "</tspan> <tspan fill=\"#555\">%s</tspan></text>\n",
			      left - 12, y + 16, stage.name.c_str(), escape(stage.what).c_str());
		svg += format(
			"<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%u\" fill=\"%s\"/>\n",
			x(stage.start), y + 3, long_as, row - 8,
			stage.of == Stage::Of::kernels ? "#bab0ac" : "#4c78a8");
		svg += format("<text x=\"%.1f\" y=\"%.1f\">%s</text>\n",
			      x(stage.start) + long_as + 5, y + 16, duration(stage.length).c_str());
	}
	svg += format("<rect x=\"16\" y=\"%.1f\" width=\"12\" height=\"12\" "
		      "fill=\"#bab0ac\"/><text x=\"34\" "
		      "y=\"%.1f\">the kernels</text>\n",
		      bottom + 36, bottom + 47);
	svg += format("<rect x=\"130\" y=\"%.1f\" width=\"12\" height=\"12\" "
		      "fill=\"#4c78a8\"/><text x=\"148\" "
		      "y=\"%.1f\">user space</text>\n</svg>\n",
		      bottom + 36, bottom + 47);
	return svg;
}

namespace {

Json to_json(const liveupdate_ferry_update &update, const std::vector<Stage> &all)
{
	Json json = {{"number", update.number},
		     {"from", text(update.from)},
		     {"to", text(update.to)},
		     {"frozen_at_ns", update.frozen_at},
		     {"sessions", update.sessions},
		     {"files", update.files},
		     {"pages", update.pages},
		     {"runs", update.runs},
		     {"metadata", update.metadata},
		     {"refusals", update.refusals},
		     {"retrieved", update.retrieved},
		     {"released", update.released},
		     {"failed", update.failed},
		     {"preserve_ns", update.preserve_ns},
		     {"freeze_ns", update.freeze_ns},
		     {"jump_ns", update.jump_ns},
		     {"boot_ns", update.boot_ns},
		     {"first_retrieve_ns", update.first_retrieve_ns},
		     {"retrieve_ns", update.retrieve_ns},
		     {"finish_ns", update.finish_ns},
		     {"finished_ns", update.finished_ns}};
	json["stages"] = Json::array();
	for (const auto &stage : all)
		json["stages"].push_back({{"name", stage.name},
					  {"what", stage.what},
					  {"start_ns", stage.start},
					  {"length_ns", stage.length}});
	return json;
}

void print(Context &context, const liveupdate_ferry_update &update, const std::vector<Stage> &all)
{
	auto &out = context.out;
	out << title(update) << "\n";
	out << "Carried    " << carried(update) << ", " << bytes(update.metadata)
	    << " to describe them\n";
	out << "Since then " << outcome(update) << "\n";
	if (update.refusals)
		out << "Refused    " << count(update.refusals, "kexec", "kexecs")
		    << " before this one\n";
	out << "Before     preserve " << duration(update.preserve_ns)
	    << ", while everything ran\n\n";
	out << draw_text(all, context.width);
	out << "\n"
	    << duration(end_of(all)) << " from the freeze on; retrieving took the kernel "
	    << duration(update.retrieve_ns) << ", finishing " << duration(update.finish_ns) << "\n";
}

} // namespace

Outcome<> report(Context &context, const std::string &svg)
{
	auto device = TRY(open_device());
	auto update = device.update();
	if (!update)
		return failed(update.error());
	auto all = stages(*update);
	if (!svg.empty()) {
		std::ofstream file(svg);
		file << draw_svg(*update, all);
		if (!file.flush())
			return failed(svg, errno);
	}
	if (context.json)
		context.out << to_json(*update, all).dump(2) << "\n";
	else
		print(context, *update, all);
	return {};
}

} // namespace luctl
