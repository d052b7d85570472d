// SPDX-License-Identifier: GPL-2.0
// luctl: what it says of a faked kernel and a faked /sys, to people and to programs, and how it
// fails.
#include "selftests/tools/kernel.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>
#include <libfdt.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/luctl/formats.hh"
#include "tools/luctl/kexec.hh"
#include "tools/luctl/output.hh"
#include "tools/luctl/report.hh"
#include "tools/luctl/sessions.hh"
#include "tools/luctl/tree.hh"

using namespace luctl;

namespace {

constexpr char catalogue[] = R"({"formats": [
  {"name": "session", "writes": 2, "reads": [1, 2], "fields": [
    {"name": "session_name", "kind": "str", "since": 1, "min": 1, "max": 63}]},
  {"name": "memfd", "writes": 1, "reads": [1, 1], "fields": [
    {"name": "size", "kind": "u64", "since": 1, "min": 0, "max": 9},
    {"name": "seals", "kind": "u32", "since": 1, "min": 0, "max": 63}]}]})";

class Luctl : public testing::Test {
    protected:
	Luctl()
	{
		char path[] = "/tmp/luctl-test-XXXXXX";
		EXPECT_TRUE(::mkdtemp(path));
		context.root = path;
		context.socket = context.root + "/no-luod";
	}
	~Luctl() override
	{
		std::filesystem::remove_all(context.root);
	}
	std::string write(const std::string &name, const std::string &text)
	{
		std::filesystem::path path = context.root + name;
		std::filesystem::create_directories(path.parent_path());
		std::ofstream(path) << text;
		return path;
	}
	Json json()
	{
		Json tree = Json::parse(out.str(), nullptr, false);
		EXPECT_FALSE(tree.is_discarded()) << out.str();
		return tree;
	}
	// A session for the next kernel with one file, held for as long as the test.
	void carry(const std::string &name, const std::string &text)
	{
		liveupdate::Fd fd(::memfd_create("test", MFD_CLOEXEC));
		EXPECT_EQ(::write(fd.get(), text.data(), text.size()), ssize_t(text.size()));
		auto session = liveupdate::Device::open()->create(name);
		EXPECT_TRUE(session->preserve(fd.get(), 1));
		held.push_back(std::move(*session));
	}

	fake::Kernel kernel;
	std::ostringstream out, notes;
	Context context{.out = out, .notes = notes, .root = {}, .socket = {}};
	std::vector<liveupdate::Session> held;
};

Exit exit_of(const auto &outcome)
{
	return outcome ? Exit::done : outcome.error().exit;
}

// ---- figures ----

TEST(Output, Figures)
{
	EXPECT_EQ(bytes(0), "0 B");
	EXPECT_EQ(bytes(1023), "1023 B");
	EXPECT_EQ(bytes(1536), "1.5 KiB");
	EXPECT_EQ(bytes((1ull << 20) - 1), "1.0 MiB");
	EXPECT_EQ(bytes(UINT64_MAX), "16.0 EiB");
	EXPECT_EQ(duration(999), "999 ns");
	EXPECT_EQ(duration(1'234'567), "1.2 ms");
	EXPECT_EQ(duration(2'345'000'000), "2.35 s");
	EXPECT_EQ(duration(3'600'000'000'000), "60 min");
	EXPECT_EQ(duration(86'400'000'000'000), "24.0 h");
	EXPECT_EQ(clean("a\x1b[2Jb\n"), "a?[2Jb?");
}

TEST(Output, BarsFitTheTerminal)
{
	auto columns = [](const std::string &line) {
		return std::ranges::count_if(line,
					     [](unsigned char c) { return (c & 0xc0) != 0x80; });
	};
	for (unsigned int width : {20u, 40u, 80u, 200u}) {
		for (std::uint64_t total : {0ull, 1ull, 100ull}) {
			for (std::uint64_t done : {0ull, 1ull, 99ull, 100ull, 200ull}) {
				auto line = draw_bar("Preparing", done, total,
						     "waits for ärger, a long name and another",
						     width, 7);
				EXPECT_LT(columns(line), width) << line;
			}
		}
	}
	EXPECT_TRUE(draw_bar("x", 1, 2, "", 80, 0).contains(" 50%"));
	EXPECT_TRUE(draw_bar("x", 5, 2, "", 80, 0).contains("100%"));
}

TEST(Output, Tables)
{
	std::ostringstream to;
	Table table({"NAME", "SIZE", "X"});
	table.right(1);
	table.add({"ä", "12", ""});
	table.add({"long one", "3", "y"});
	table.print(to);
	EXPECT_EQ(to.str(), "NAME      SIZE  X\nä           12\nlong one     3  y\n");
	to.str("");
	Table wide({"A", "B"});
	wide.add({"xx", "one two three"});
	wide.print(to, 12);
	EXPECT_EQ(to.str(), "A   B\nxx  one two\n    three\n");
	to.str("");
	wide.print(to, 4);
	EXPECT_TRUE(to.str().contains("one")) << "no room is no reason to lose something";
}

// ---- formats ----

TEST_F(Luctl, FormatsOfThisKernel)
{
	EXPECT_EQ(exit_of(formats(context, "")), Exit::missing);
	write("/sys/kernel/debug/ferry/formats", catalogue);
	ASSERT_TRUE(formats(context, ""));
	EXPECT_TRUE(out.str().contains("session  v2      v1 to v2  1")) << out.str();
	out.str("");
	context.json = true;
	ASSERT_TRUE(formats(context, ""));
	EXPECT_FALSE(json()["kernel"].get<std::string>().empty());
	// What it writes it reads, and says that it fits itself.
	auto path = write("/own.json", out.str());
	out.str("");
	ASSERT_TRUE(formats(context, path));
	EXPECT_TRUE(json()["fits"] == true && json()["back_fits"] == true);
}

TEST_F(Luctl, FormatsOfAnotherKernel)
{
	write("/sys/kernel/debug/ferry/formats", catalogue);
	auto check = [&](const std::string &other) {
		out.str("");
		auto path = write("/other.json", other);
		return exit_of(formats(context, path));
	};
	// Reads all, and comes back with what is not read here.
	EXPECT_EQ(check(R"({"kernel": "7.4", "formats": [
		{"name": "session", "writes": 3, "reads": [1, 3]},
		{"name": "memfd", "writes": 1, "reads": [1, 1]}]})"),
		  Exit::done);
	EXPECT_TRUE(out.str().contains("to 7.4: everything fits")) << out.str();
	EXPECT_TRUE(out.str().contains("No way back: session would come as v3")) << out.str();
	// Too old; and does not know one.
	EXPECT_EQ(check(R"({"formats": [{"name": "session", "writes": 1, "reads": [1, 1]}]})"),
		  Exit::no);
	EXPECT_TRUE(out.str().contains("memfd    v1            nothing     DOES NOT FIT"))
		<< out.str();
	EXPECT_TRUE(out.str().contains("session  v2            v1          DOES NOT FIT"))
		<< out.str();
	// The frame of the records, which catalogues of version 1 did not name.
	const std::string memfd = R"({"name": "memfd", "writes": 1, "reads": [1, 1]})";
	auto tree = [&](int version) {
		auto is = std::to_string(version);
		return R"({"formats": [{"name": "the tree", "writes": )" + is + R"(, "reads": [)" +
		       is + ", " + is + "]}, " + memfd + "]}";
	};
	for (auto [version, exit] : {std::pair(1, Exit::done), {2, Exit::no}}) {
		write("/sys/kernel/debug/ferry/formats", tree(version));
		EXPECT_EQ(check("{\"formats\": [" + memfd + "]}"), exit) << out.str();
		EXPECT_EQ(check(tree(version)), Exit::done) << out.str();
	}
	write("/sys/kernel/debug/ferry/formats", catalogue);
	context.json = true;
	EXPECT_EQ(check(R"({"formats": []})"), Exit::no);
	EXPECT_TRUE(json()["formats"][0]["reads"].is_null());
	EXPECT_EQ(json()["fits"], false);

	for (const char *bad : {"", "7", "[]", "{}", R"({"formats": {}})", R"({"formats": [1]})",
				R"({"formats": [{"name": "x"}]})",
				R"({"formats": [{"name": "x", "writes": 0, "reads": [1, 1]}]})",
				R"({"formats": [{"name": "x", "writes": -1, "reads": [1, 1]}]})",
				R"({"formats": [{"name": "x", "writes": 1, "reads": [2, 1]}]})",
				R"({"formats": [{"name": "x", "writes": 1, "reads": [1]}]})",
				R"({"formats": [{"name": "x", "writes": 1, "reads": [1, 1]},
			      {"name": "x", "writes": 1, "reads": [1, 1]}]})"})
		EXPECT_EQ(check(bad), Exit::failed) << bad;
	EXPECT_EQ(exit_of(formats(context, context.root + "/none")), Exit::failed);
}

// ---- the tree ----

std::string make_tree()
{
	std::string fdt(4096, '\0');
	fdt_create(fdt.data(), int(fdt.size()));
	fdt_finish_reservemap(fdt.data());
	fdt_begin_node(fdt.data(), "");
	fdt_property_string(fdt.data(), "compatible", "ferry,tree-v1");
	fdt_begin_node(fdt.data(), "file@0");
	fdt_property_string(fdt.data(), "compatible", "ferry,memfd-v1");
	fdt_property_u64(fdt.data(), "size", 1ull << 40);
	fdt_property_u32(fdt.data(), "seals", 3);
	fdt_property_u32(fdt.data(), "unknown", 0x01020304);
	fdt_property_string(fdt.data(), "text", "a b");
	fdt_end_node(fdt.data());
	fdt_end_node(fdt.data());
	fdt_finish(fdt.data());
	fdt.resize(fdt_totalsize(fdt.data()));
	return fdt;
}

TEST_F(Luctl, TheTree)
{
	EXPECT_EQ(exit_of(dump(context, false)), Exit::missing);
	write("/sys/kernel/debug/ferry/formats", catalogue);
	write("/sys/kernel/debug/ferry/out/fdt", make_tree());
	write("/sys/kernel/debug/ferry/in/fdt", "");
	ASSERT_TRUE(dump(context, true));
	EXPECT_EQ(out.str(), "The last kernel handed nothing over.\n");
	out.str("");
	ASSERT_TRUE(dump(context, false));
	EXPECT_EQ(out.str(),
		  "out  (ferry,tree-v1)\n"
		  "└─ file@0  (ferry,memfd-v1)\n"
		  "       size=1099511627776 seals=3 unknown=\"01020304\" text=\"a b\"\n");
	out.str("");
	context.json = true;
	ASSERT_TRUE(dump(context, false));
	EXPECT_EQ(json()["file@0"]["size"], 1ull << 40);
}

TEST_F(Luctl, ADamagedTree)
{
	std::string tree = make_tree();
	for (std::size_t size : {std::size_t(0), std::size_t(1), std::size_t(39), tree.size() / 2})
		EXPECT_EQ(exit_of(read_tree(tree.substr(0, size), Json())), Exit::failed) << size;
	// Whatever is in it, it is read without harm, or refused.
	for (std::size_t i = 0; i < tree.size(); ++i) {
		for (int flip : {1, 0x80, 0xff}) {
			std::string damaged = tree;
			damaged[i] = static_cast<char>(damaged[i] ^ flip);
			static_cast<void>(read_tree(damaged, Json::parse(catalogue)["formats"]));
		}
	}
}

// ---- sessions ----

TEST_F(Luctl, Files)
{
	auto files = parse_files({"/a", "7=/b=c", "/d"});
	ASSERT_TRUE(files);
	EXPECT_EQ((*files)[0].token, 1u);
	EXPECT_EQ((*files)[1].token, 7u);
	EXPECT_EQ((*files)[1].path, "/b=c");
	EXPECT_EQ((*files)[2].token, 8u);
	EXPECT_EQ((*parse_files({"18446744073709551615=x"}))[0].token, UINT64_MAX);
	for (const char *bad : {"", "1=", "x=y", "-1=y", "=y", "18446744073709551616=x", "1 =x"})
		EXPECT_EQ(exit_of(parse_files({bad})), Exit::usage) << bad;
	EXPECT_EQ(exit_of(parse_files({"1=a", "1=b"})), Exit::usage);
}

TEST_F(Luctl, Keys)
{
	std::string hex(64, '0');
	hex[63] = 'f';
	liveupdate::Key last{};
	last[31] = 0xf;
	EXPECT_EQ(*read_key(write("/key", hex + "\n")), last);
	EXPECT_EQ(*read_key(write("/key", std::string(31, '\0') + "\x0f")), last);
	for (const std::string &bad : {std::string(), std::string(64, 'g'), std::string(63, '0')})
		EXPECT_EQ(exit_of(read_key(write("/key", bad))), Exit::failed) << bad;
}

TEST_F(Luctl, StatusAndList)
{
	kernel.failure.number = 1;
	kernel.failure.error = EBUSY;
	kernel.failure.operation = LIVEUPDATE_FERRY_OP_FREEZE;
	std::strcpy(reinterpret_cast<char *>(kernel.failure.session), "v\nm");
	std::strcpy(reinterpret_cast<char *>(kernel.failure.handler), "memfd-v1");
	carry("vm", "memory");
	ASSERT_TRUE(status(context));
	EXPECT_TRUE(out.str().contains("Live update  Ferry\n")) << out.str();
	EXPECT_TRUE(out.str().contains(
		"freeze of session 'v?m', token 0 (memfd-v1): Device or resource busy"))
		<< out.str();
	out.str("");
	ASSERT_TRUE(list(context, ""));
	EXPECT_TRUE(out.str().contains("vm       out  open       1")) << out.str();
	out.str("");
	ASSERT_TRUE(list(context, "vm"));
	EXPECT_TRUE(out.str().contains("    1  memfd-v1  preserved")) << out.str();
	EXPECT_EQ(exit_of(list(context, "none")), Exit::failed);
	context.json = true;
	for (auto &&show : {status(context), list(context, ""), list(context, "vm")})
		EXPECT_TRUE(show);
	out.str("");
	ASSERT_TRUE(list(context, "vm"));
	EXPECT_EQ(json()["sessions"][0]["files"][0]["handler"], "memfd-v1");
	out.str("");
	ASSERT_TRUE(status(context));
	EXPECT_EQ(json()["last_failure"]["error"], "EBUSY");
	EXPECT_EQ(json()["outgoing"], 1);
	EXPECT_TRUE(json()["luod"].is_null());
	kernel.present = false;
	EXPECT_EQ(exit_of(status(context)), Exit::missing);
	EXPECT_EQ(exit_of(list(context, "")), Exit::missing);
}

TEST_F(Luctl, Retrieve)
{
	carry("vm", "memory");
	kernel.kexec();
	RetrieveOptions options;
	options.session = "vm";
	options.files = {context.root + "/out"};
	EXPECT_EQ(exit_of(retrieve(context, options)), Exit::usage) << "nobody would hold it";
	options.finish = true;
	options.files = {"2=" + context.root + "/other"};
	EXPECT_EQ(exit_of(retrieve(context, options)), Exit::failed) << "no such token";
	EXPECT_FALSE(std::filesystem::exists(context.root + "/other"))
		<< "nothing half done is left";
	write("/there", "precious");
	options.files = {context.root + "/there"};
	EXPECT_EQ(exit_of(retrieve(context, options)), Exit::failed) << "over a file";
	EXPECT_NE(kernel.incoming("vm"), nullptr) << "nothing is lost by all that";
	options.force = true;
	options.files = {"2=" + context.root + "/there"};
	EXPECT_EQ(exit_of(retrieve(context, options)), Exit::failed) << "no such token";
	EXPECT_EQ(*read_file(context.root + "/there"), "precious");
	options.files = {context.root + "/there"};
	ASSERT_TRUE(retrieve(context, options));
	EXPECT_EQ(*read_file(context.root + "/there"), "memory");
	EXPECT_EQ(kernel.incoming("vm"), nullptr);
}

TEST_F(Luctl, HolesStayHoles)
{
	liveupdate::Fd fd(::memfd_create("sparse", MFD_CLOEXEC));
	constexpr off_t size = 64 << 20;
	ASSERT_EQ(::ftruncate(fd.get(), size), 0);
	ASSERT_EQ(::pwrite(fd.get(), "x", 1, size / 2), 1);
	auto session = liveupdate::Device::open()->create("vm");
	ASSERT_TRUE(session->preserve(fd.get(), 1));
	kernel.kexec();
	RetrieveOptions options;
	options.session = "vm";
	options.files = {context.root + "/out"};
	options.finish = true;
	ASSERT_TRUE(retrieve(context, options));
	EXPECT_EQ(std::filesystem::file_size(context.root + "/out"), std::uintmax_t(size));
	struct stat is;
	ASSERT_EQ(::stat((context.root + "/out").c_str(), &is), 0);
	EXPECT_LT(is.st_blocks * 512, 4 << 20);
	auto text = read_file(context.root + "/out");
	EXPECT_EQ(text->find('x'), std::size_t(size / 2));
}

TEST_F(Luctl, PreserveNeedsSomebodyWhoHolds)
{
	PreserveOptions options;
	options.session = "vm";
	options.files = {write("/file", "x")};
	EXPECT_EQ(exit_of(preserve(context, options)), Exit::missing);
	options.files = {context.root + "/none"};
	EXPECT_EQ(exit_of(preserve(context, options)), Exit::failed);
	options.files = {"1="};
	EXPECT_EQ(exit_of(preserve(context, options)), Exit::usage);
	options.files = {context.root + "/file"};
	options.hold = true;
	auto failed = preserve(context, options);
	EXPECT_EQ(exit_of(failed), Exit::failed) << "not a memfd";
	EXPECT_TRUE(failed.error().text.contains("/file: preserve file")) << failed.error().text;
	EXPECT_EQ(kernel.sessions(), 0u);
	EXPECT_EQ(exit_of(renew(context, "vm")), Exit::missing);
	EXPECT_EQ(exit_of(drop(context, "vm")), Exit::missing);
}

TEST_F(Luctl, FinishAndDiscard)
{
	carry("a", "");
	carry("b", "");
	kernel.kexec();
	EXPECT_TRUE(finish(context, "a", false));
	EXPECT_TRUE(finish(context, "b", true));
	EXPECT_EQ(kernel.sessions(), 0u);
	EXPECT_EQ(exit_of(finish(context, "a", false)), Exit::failed);
	EXPECT_EQ(exit_of(finish(context, "b", true)), Exit::failed);
}

// ---- report ----

TEST(Report, Stages)
{
	liveupdate_ferry_update update{};
	update.freeze_ns = 10;
	update.jump_ns = 1000;
	update.boot_ns = 500;
	auto all = stages(update);
	ASSERT_EQ(all.size(), 3u) << "nobody has retrieved yet";
	EXPECT_EQ(all[2].start, 1010u);
	update.first_retrieve_ns = 700;
	update.retrieve_ns = 40;
	all = stages(update);
	ASSERT_EQ(all.size(), 5u);
	EXPECT_EQ(all[3].start, 1510u);
	EXPECT_EQ(all[3].length, 200u);
	EXPECT_EQ(all[4].length, 40u);
	update.finished_ns = 900;
	all = stages(update);
	EXPECT_EQ(all[4].start + all[4].length, 1010u + 900);
	// What cannot be is drawn without harm: the figures come from another kernel.
	for (std::uint64_t huge : {std::uint64_t(1) << 63, UINT64_MAX}) {
		update.first_retrieve_ns = huge;
		update.jump_ns = huge;
		for (unsigned int width : {1u, 80u})
			EXPECT_FALSE(draw_text(stages(update), width).empty());
		EXPECT_TRUE(draw_svg(update, stages(update)).ends_with("</svg>\n"));
	}
	EXPECT_EQ(draw_text({}, 80), "");
}

TEST_F(Luctl, Report)
{
	EXPECT_EQ(exit_of(report(context, "")), Exit::failed) << "no update yet";
	kernel.kexec();
	ASSERT_TRUE(report(context, context.root + "/it.svg"));
	EXPECT_TRUE(out.str().contains("jump          2.00 s  ")) << out.str();
	for (std::istringstream lines(out.str()); !lines.eof();) {
		std::string line;
		std::getline(lines, line);
		EXPECT_LE(std::ranges::count_if(line,
						[](unsigned char c) { return (c & 0xc0) != 0x80; }),
			  80)
			<< line;
	}
	EXPECT_TRUE(read_file(context.root + "/it.svg")->contains(">jump</tspan>"));
	EXPECT_EQ(exit_of(report(context, "/nowhere/it.svg")), Exit::failed);
	out.str("");
	context.json = true;
	ASSERT_TRUE(report(context, ""));
	EXPECT_EQ(json()["stages"][1]["length_ns"], 2'000'000'000);
}

TEST(ReportMainline, HasNone)
{
	fake::Kernel kernel(false);
	std::ostringstream out;
	Context context{.out = out, .notes = out, .root = {}, .socket = "/no-luod"};
	EXPECT_EQ(exit_of(report(context, "")), Exit::missing);
	EXPECT_EQ(exit_of(list(context, "")), Exit::missing);
	EXPECT_TRUE(status(context));
}

// ---- kexec ----

std::string image(const std::string &version)
{
	std::string bytes(0x1000, '\0');
	bytes.replace(0x202, 4, "HdrS");
	bytes[0x20e] = '\0';
	bytes[0x20f] = 3; // 0x300 from 0x200 on
	bytes.replace(0x500, version.size(), version);
	return bytes;
}

TEST(Kexec, ReleaseOfAnImage)
{
	EXPECT_EQ(release_of(image("7.3.4-amd64 (me@here) #1 SMP")), "7.3.4-amd64");
	EXPECT_EQ(release_of(image("7.3.4")), "7.3.4");
	EXPECT_EQ(release_of(""), "");
	EXPECT_EQ(release_of(std::string(0x1000, 'x')), "");
	auto cut = image("7.3.4");
	EXPECT_EQ(release_of(cut.substr(0, 0x20f)), "");
	EXPECT_EQ(release_of(cut.substr(0, 0x400)), "");
}

TEST_F(Luctl, LoadRefusesWhatIsNoKernel)
{
	LoadOptions options;
	options.kernel = write("/kernel", "not one");
	options.cmdline_given = true;
	EXPECT_EQ(exit_of(kexec_load(context, options)), Exit::failed);
	options.kernel = "9.9.9";
	EXPECT_EQ(exit_of(kexec_load(context, options)), Exit::failed);
	options.kernel = write("/kernel", image("7.3"));
	options.initrd = context.root + "/none";
	EXPECT_EQ(exit_of(kexec_load(context, options)), Exit::failed);
}

Check::Verdict verdict(const std::vector<Check> &checks, const std::string &name)
{
	auto at = std::ranges::find(checks, name, &Check::name);
	EXPECT_NE(at, checks.end()) << name;
	return at == checks.end() ? Check::Verdict::bad : at->verdict;
}

TEST_F(Luctl, Preflight)
{
	using enum Check::Verdict;
	auto checks = check_all(context, {});
	EXPECT_EQ(verdict(checks, "live update"), good);
	EXPECT_EQ(verdict(checks, "sessions"), doubtful);
	EXPECT_EQ(verdict(checks, "next kernel"), bad);
	EXPECT_EQ(verdict(checks, "luod"), doubtful);

	carry("vm", "memory");
	kernel.kexec();
	carry("vm", "memory");
	write("/sys/kernel/kexec_loaded", "1\n");
	checks = check_all(context, {});
	EXPECT_EQ(verdict(checks, "sessions"), good);
	EXPECT_EQ(verdict(checks, "unfinished"), bad);
	EXPECT_EQ(verdict(checks, "next kernel"), doubtful);

	write("/run/luctl/next-kernel.json", R"({"release": "7.4.1"})");
	write("/sys/kernel/debug/ferry/formats", catalogue);
	checks = check_all(context, {});
	EXPECT_EQ(verdict(checks, "next kernel"), good);
	EXPECT_EQ(verdict(checks, "modules"), doubtful);
	EXPECT_EQ(verdict(checks, "formats"), doubtful);
	write("/lib/modules/7.4.1/updates/luo.ko.xz", "");
	auto path = write("/var/lib/luctl/formats/7.4.1.json", catalogue);
	checks = check_all(context, {});
	EXPECT_EQ(verdict(checks, "modules"), good);
	EXPECT_EQ(verdict(checks, "formats"), good);
	EXPECT_EQ(verdict(check_all(context, {.formats = write("/old.json", R"({"formats": []})")}),
			  "formats"),
		  bad);
	EXPECT_EQ(verdict(check_all(context, {.formats = context.root + "/none"}), "formats"), bad);

	EXPECT_EQ(exit_of(kexec_preflight(context, {})), Exit::no) << "a session is not finished";
	GoOptions go;
	EXPECT_EQ(exit_of(kexec_go(context, go)), Exit::no);
	EXPECT_TRUE(kernel.outgoing("vm"));
	context.json = true;
	out.str("");
	static_cast<void>(kexec_preflight(context, {}));
	EXPECT_EQ(json()["checks"].size(), 7u);
	kernel.present = false;
	EXPECT_EQ(verdict(check_all(context, {}), "live update"), bad);
}

// ---- boxes ----

TEST_F(Luctl, Boxes)
{
	kernel.make_box("new", false);
	kernel.make_box("old", true);
	kernel.make_box("waits", true, false);
	ASSERT_TRUE(status(context));
	EXPECT_TRUE(out.str().contains("1 box for the next kernel, 2 of the last one"))
		<< out.str();
	out.str("");
	ASSERT_TRUE(list(context, ""));
	EXPECT_TRUE(out.str().contains("fdbox:new    out  open ")) << out.str();
	EXPECT_TRUE(out.str().contains("keep    box\n")) << out.str();
	out.str("");
	ASSERT_TRUE(list(context, "fdbox:old"));
	EXPECT_TRUE(out.str().starts_with("Box /dev/fdbox/old, of the last kernel")) << out.str();

	RetrieveOptions options;
	options.session = "fdbox:old";
	options.files = {"1=" + context.root + "/out"};
	options.finish = true;
	auto done = retrieve(context, options);
	ASSERT_FALSE(done);
	EXPECT_TRUE(done.error().text.contains("at /dev/fdbox/old")) << done.error().text;
	for (bool discard : {false, true}) {
		done = finish(context, "fdbox:old", discard);
		ASSERT_FALSE(done);
		EXPECT_TRUE(done.error().text.contains("/dev/fdbox/old")) << done.error().text;
	}
	done = finish(context, "fdbox:waits", false);
	ASSERT_FALSE(done);
	EXPECT_TRUE(done.error().text.contains("load fdbox")) << done.error().text;
	EXPECT_EQ(verdict(check_all(context, {}), "boxes"), Check::Verdict::bad);
	EXPECT_TRUE(finish(context, "fdbox:waits", true));

	context.json = true;
	out.str("");
	ASSERT_TRUE(status(context));
	EXPECT_EQ(json()["boxes"]["came"], 1);
	out.str("");
	ASSERT_TRUE(list(context, ""));
	EXPECT_EQ(json()["sessions"][0]["box"], "new");
}

} // namespace
