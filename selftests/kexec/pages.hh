// SPDX-License-Identifier: GPL-2.0
// Preserved pages that do not stay where they are: ferry_pages.ko does that to them, and a freeze
// finds them.
#pragma once

#include <memory>
#include <optional>

#include "selftests/kexec/carry.hh"
#include "selftests/kexec/veto.hh"

namespace astray {

constexpr char command[] = "/sys/module/ferry_pages/parameters/wrong";

// What a file is made of: folios, one of which goes astray.
struct Kind {
	int flags; // of memfd_create()
	uint64_t folio, folios, victim;

	uint64_t size() const
	{
		return folios * folio;
	}
	uint64_t at() const // of the victim
	{
		return victim * folio;
	}
};

inline const Kind small{0, page, 16, 11}, huge{0, 2 * MiB, 2, 1},
	hugetlb{MFD_HUGETLB | 21 << 26, 2 * MiB, 2, 1};

// A file that is preserved, with what is in it.
struct File {
	const Kind &kind;
	Fd fd;

	// hugetlbfs has no write(2).
	void write(uint64_t at, uint64_t length, uint64_t seed) const
	{
		Map map(fd, length, PROT_READ | PROT_WRITE, at);
		std::vector<uint64_t> words(length / 8);
		pattern(words, at, seed);
		std::memcpy(map.data(), words.data(), length);
	}
	// A command of ferry_pages.ko on the folio at that byte: 0 or an errno.
	int wrong(const char *what, uint64_t at) const
	{
		auto text = std::string(what) + " " + std::to_string(fd.get()) + " " +
			    std::to_string(at / page);
		return write_file(command, text) ? 0 : errno;
	}
	int wrong(const char *what) const
	{
		return wrong(what, kind.at());
	}
	// By the kernel's own means, which refuses what is pinned.
	void split() const
	{
		char text[80];
		std::snprintf(text, sizeof(text), "/proc/self/fd/%d,%#llx,%#llx", fd.get(),
			      (unsigned long long)kind.at() / page,
			      (unsigned long long)(kind.at() + kind.folio) / page);
		CHECK(write_file("/sys/kernel/debug/split_huge_pages", text));
	}
};

enum class Left { whole, hole, written };

struct Row {
	const char *name;
	const Kind &kind;
	void (*resists)(const File &); // what does not happen to a page that is pinned
	void (*happens)(const File &);
	const char *said;
	Left left = Left::whole; // what becomes of the contents
	void (*before)(const File &) = nullptr; // what preserve puts right
};

// ---- what happens ----

inline void unpin(const File &file)
{
	CHECK_EQ(file.wrong("unpin"), 0);
}

inline void stays(const File &file)
{
	CHECK_EQ(file.wrong("move"), EBUSY);
}

inline void move(const File &file)
{
	unpin(file);
	// Somebody else may look at the page just now.
	int error = file.wrong("move");
	for (int tries = 0; error == EBUSY && tries < 10; tries++) {
		::usleep(10000);
		error = file.wrong("move");
	}
	CHECK_EQ(error, 0);
}

inline void stays_whole(const File &file)
{
	long before = meminfo("ShmemHugePages");
	file.split();
	CHECK(near(meminfo("ShmemHugePages"), before));
}

inline void split(const File &file)
{
	long before = meminfo("ShmemHugePages");
	unpin(file);
	file.split();
	CHECK(near(meminfo("ShmemHugePages"), before - long(file.kind.folio / KiB)));
}

inline void keeps(const File &file)
{
	CHECK_ERRNO(::fallocate(file.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				file.kind.at(), file.kind.folio),
		    EPERM);
}

inline void punch(const File &file)
{
	CHECK_EQ(file.wrong("free"), 0);
}

inline void write_anew(const File &file)
{
	CHECK_EQ(file.wrong("take"), 0);
	file.write(file.kind.at(), file.kind.folio, 8);
}

// Before it is preserved: then it is moved out.
inline void settle(const File &file)
{
	CHECK_EQ(file.wrong("settle"), 0);
}

inline void scratch(const File &file)
{
	CHECK_EQ(file.wrong("scratch"), 0);
}

// ---- the case ----

constexpr char unpinned[] = "is not pinned any more", gone[] = "is not in the file any more",
	       split_up[] = "was split, or became part of another one",
	       replaced[] = "was replaced by another one",
	       in_scratch[] = "lies in memory that the next kernel may overwrite";

// What a file of sysfs says, changed for a while.
class Setting {
    public:
	Setting(const char *path, const char *text) : path_(path), before_(read_file(path))
	{
		// Of a choice, "always [never]", the one that holds.
		if (auto at = before_.find('['); at != before_.npos)
			before_ = before_.substr(at + 1, before_.find(']') - at - 1);
		REQUIRE(write_file(path, text));
	}
	Setting(const Setting &) = delete;
	~Setting()
	{
		write_file(path_, before_);
	}

    private:
	const char *path_;
	std::string before_;
};

// At its end at the latest, and so before the file's, no wrong is left that has to be undone.
struct Mend {
	void now() const
	{
		CHECK(write_file(command, "mend"));
	}
	~Mend()
	{
		now();
	}
};

inline File make(const char *name, const Kind &kind)
{
	constexpr char thp[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
	if (&kind == &huge && ::access(thp, F_OK))
		ktap::skip("no huge pages for shmem in this kernel");
	std::optional<Setting> force;
	if (&kind == &huge)
		force.emplace(thp, "force");
	File file{kind, Fd(SYS(::memfd_create(name, MFD_CLOEXEC | kind.flags)))};
	SYS(::ftruncate(file.fd.get(), kind.size()));
	long before = meminfo("ShmemHugePages");
	for (uint64_t at = 0; at < kind.size(); at += kind.folio)
		file.write(at, kind.folio, 5);
	if (&kind == &huge && !near(meminfo("ShmemHugePages"), before + long(kind.size() / KiB)))
		ktap::skip("the kernel gave no huge pages");
	return file;
}

// Was the file given back with its contents, no pin on it, and may it be preserved again?
inline void check_afterwards(Stage &stage, const File &file, Left left, TestFile &last)
{
	const Kind &kind = file.kind;
	for (uint64_t at = 0; at < kind.size(); at += kind.folio) {
		if (at != kind.at() || left == Left::whole)
			CHECK(has(file.fd, at, kind.folio, 5));
		else if (left == Left::written)
			CHECK(has(file.fd, at, kind.folio, 8));
		else
			CHECK(zero(file.fd, at, kind.folio));
	}
	for (uint64_t at = 0; at < kind.size(); at += kind.folio) {
		file.write(at, kind.folio, 7);
		CHECK_EQ(file.wrong("unpin", at), EINVAL);
	}
	auto session = VALUE(stage.device.create("astray-again"));
	OK(session.preserve(file.fd.get(), 1));
	OK(session.preserve(last.get(), 2));
	last.fail("save", EXFULL);
	CHECK_EQ(jump(), EXFULL);
	session.close();
	for (uint64_t at = 0; at < kind.size(); at += kind.folio)
		CHECK(has(file.fd, at, kind.folio, 7));
	SYS(::ftruncate(file.fd.get(), 0));
}

inline void check(Stage &stage, const Row &row)
{
	need_handler();
	if (::access("/sys/module/ferry_pages", F_OK))
		load_module("ferry_pages");
	Setting look("/sys/module/luo_memfd/parameters/check", "1");
	auto file = make(row.name, row.kind);
	auto other = make_memfd(16 * page);
	fill(other, 0, page, 6);
	const Mend mend;
	if (row.before)
		row.before(file);
	TestFile last("astray:");
	const auto name = std::string("astray-") + row.name;
	auto session = VALUE(stage.device.create(name)),
	     guard = VALUE(stage.device.create(name + "-guard"));
	OK(session.preserve(other.get(), 1));
	OK(session.preserve(file.fd.get(), 0xa57));
	OK(guard.preserve(last.get(), 1));

	// Without it the freeze goes through, up to the one that calls it off.
	if (row.resists)
		row.resists(file);
	last.fail("save", EXFULL);
	CHECK_EQ(jump(), EXFULL);
	CHECK(!logged("memfd:" + std::string(row.name) + ":"));

	row.happens(file);
	last.fail("save", EXFULL);
	CHECK_EQ(jump(), EIO);
	CHECK(logged("memfd:" + std::string(row.name) + ": the page at byte " +
			     std::to_string(row.kind.at()) + ", which is preserved, ",
		     row.said));
	CHECK(logged("session '" + name + "', token 0xa57", "refuses the kexec with error 5"));

	// All is rolled back.
	fill(other, page, 15 * page, 6);
	CHECK(has(other, 0, 16 * page, 6));
	mend.now();
	session.close();
	guard.close();
	check_afterwards(stage, file, row.left, last);
}

// A case for each row.
class Cases {
    public:
	Cases(const std::string &prefix, std::vector<Row> rows) : rows_(std::move(rows))
	{
		for (const Row &row : rows_)
			cases_.push_back(std::make_unique<Carried>(
				prefix + row.name, std::vector<Carried::Part>{[&row](Stage &stage) {
					check(stage, row);
				}}));
	}

    private:
	std::vector<Row> rows_;
	std::vector<std::unique_ptr<Carried>> cases_;
};

} // namespace astray
