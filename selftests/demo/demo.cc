// SPDX-License-Identifier: GPL-2.0
/*
 * The data of the demonstration, in the test machine:
 *
 *	ferry-demo before DEVICE BYTES	puts data into memfds and preserves them; a
 *					process of it keeps them until the kexec
 *	ferry-demo after		retrieves them in the next kernel, and proves
 *					every byte by its SHA-256
 *
 * Three sessions: "archive", the first BYTES of DEVICE in three parts; "sparse",
 * a file of 6 GiB with little in it; "small", files with all kinds of seals. The
 * digests and the time cross in a memfd of their own.
 */
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include "selftests/lib/stamps.hh"

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

using liveupdate::Device;
using liveupdate::Fd;
using liveupdate::Session;

namespace {

constexpr std::uint64_t KiB = 1 << 10, MiB = 1 << 20, GiB = 1 << 30;
constexpr std::size_t chunk = 1 * MiB;
constexpr unsigned int parts = 3;
constexpr std::uint64_t sparse_size = 6 * GiB + 123;
constexpr unsigned int max_files = 32;

using Digest = unsigned char[32];

// What the next kernel's program has to find.
struct Entry {
	char session[16];
	std::uint64_t token;
	std::uint64_t size;
	unsigned int seals;
	Digest digest;
};

struct Manifest {
	std::uint64_t preserve_ns;
	unsigned int nr;
	Entry entry[max_files];
};

double ms(std::uint64_t ns)
{
	return static_cast<double>(ns) / 1e6;
}

double mib(std::uint64_t bytes)
{
	return static_cast<double>(bytes) / static_cast<double>(MiB);
}

// Whole lines: the guest prints to the same console.
void say_time(const char *what, std::uint64_t since_ns)
{
	std::printf("%-28s %.1f s\n", what, ms(clock_ns() - since_ns) / 1000);
	std::fflush(stdout);
}

// ---- contents ----

Fd make_memfd(std::uint64_t size)
{
	Fd fd(static_cast<int>(must_call("memfd_create",
					 ::memfd_create("demo", MFD_CLOEXEC | MFD_ALLOW_SEALING))));
	must_call("ftruncate", ::ftruncate(fd.get(), static_cast<off_t>(size)));
	return fd;
}

void write_all(int fd, const void *data, std::size_t size, std::uint64_t at)
{
	for (std::size_t done = 0; done < size;)
		done += static_cast<std::size_t>(
			must_call("write", ::pwrite(fd, static_cast<const char *>(data) + done,
						    size - done, static_cast<off_t>(at + done))));
}

void copy(int from, std::uint64_t at, std::uint64_t size, int to)
{
	std::vector<char> buffer(chunk);
	for (std::uint64_t done = 0; done < size;) {
		auto part = std::min<std::uint64_t>(chunk, size - done);
		auto got = must_call(
			"read", ::pread(from, buffer.data(), part, static_cast<off_t>(at + done)));
		if (!got)
			die("read", std::make_error_code(std::errc::io_error));
		write_all(to, buffer.data(), static_cast<std::size_t>(got), done);
		done += static_cast<std::uint64_t>(got);
	}
}

void scatter(int fd, std::uint64_t size)
{
	std::vector<char> data(32 * KiB);
	constexpr unsigned int places = 64;
	for (unsigned int i = 0; i < places; ++i) {
		std::memset(data.data(), static_cast<int>('a' + i % 26), data.size());
		// The last place ends where the file ends.
		write_all(fd, data.data(), data.size(), (size - data.size()) / (places - 1) * i);
	}
}

// The SHA-256 of a file: of where its data lies, and of the data. What lies
// between is a hole, and so zeros.
void digest_of(int fd, Digest &digest)
{
	std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
									EVP_MD_CTX_free);
	EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
	std::vector<char> buffer(chunk);
	for (off_t end = 0;;) {
		off_t at = ::lseek(fd, end, SEEK_DATA);
		if (at < 0)
			break;
		end = ::lseek(fd, at, SEEK_HOLE);
		off_t extent[2] = {at, end};
		EVP_DigestUpdate(context.get(), extent, sizeof(extent));
		while (at < end) {
			auto part =
				std::min<std::size_t>(chunk, static_cast<std::size_t>(end - at));
			auto got = must_call("read", ::pread(fd, buffer.data(), part, at));
			EVP_DigestUpdate(context.get(), buffer.data(),
					 static_cast<std::size_t>(got));
			at += got;
		}
	}
	EVP_DigestFinal_ex(context.get(), digest, nullptr);
}

struct File {
	std::string session;
	std::uint64_t token;
	Fd fd;
	Digest digest;
};

// The digests of all files, on all CPUs.
void digest_all(std::vector<File> &files)
{
	std::uint64_t start = clock_ns();
	std::vector<std::jthread> workers;
	std::atomic<std::size_t> next{0};
	for (unsigned int i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) {
		workers.emplace_back([&] {
			for (std::size_t at; (at = next++) < files.size();)
				digest_of(files[at].fd.get(), files[at].digest);
		});
	}
	workers.clear();
	say_time("computed SHA-256", start);
}

// ---- before ----

std::vector<File> make_files(const char *path, std::uint64_t bytes)
{
	std::vector<File> files;
	std::uint64_t start = clock_ns();
	Fd device(static_cast<int>(must_call(path, ::open(path, O_RDONLY | O_CLOEXEC))));
	for (unsigned int i = 0; i < parts; ++i) {
		std::uint64_t from = bytes / parts * i,
			      to = i + 1 == parts ? bytes : bytes / parts * (i + 1);
		files.push_back({"archive", i + 1, make_memfd(to - from), {}});
		copy(device.get(), from, to - from, files.back().fd.get());
	}
	say_time("read the archive", start);
	files.push_back({"sparse", 1, make_memfd(sparse_size), {}});
	scatter(files.back().fd.get(), sparse_size);

	constexpr unsigned int seals[] = {
		0,
		F_SEAL_SHRINK,
		F_SEAL_GROW,
		F_SEAL_WRITE,
		F_SEAL_FUTURE_WRITE,
		F_SEAL_SHRINK | F_SEAL_GROW,
		F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE,
		F_SEAL_SEAL,
		F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE,
	};
	for (unsigned int with : seals) {
		std::string text = "sealed with " + std::to_string(with) + "\n";
		files.push_back({"small", 100 + with, make_memfd(text.size()), {}});
		int fd = files.back().fd.get();
		write_all(fd, text.data(), text.size(), 0);
		must_call("F_ADD_SEALS", ::fcntl(fd, F_ADD_SEALS, with));
	}
	return files;
}

Entry describe(const File &file)
{
	Entry entry{};
	struct stat st;
	must_call("fstat", ::fstat(file.fd.get(), &st));
	std::snprintf(entry.session, sizeof(entry.session), "%s", file.session.c_str());
	entry.token = file.token;
	entry.size = static_cast<std::uint64_t>(st.st_size);
	entry.seals = static_cast<unsigned int>(
		must_call("F_GET_SEALS", ::fcntl(file.fd.get(), F_GET_SEALS)));
	std::memcpy(entry.digest, file.digest, sizeof(entry.digest));
	return entry;
}

int before(const char *path, std::uint64_t bytes)
{
	auto files = make_files(path, bytes);
	digest_all(files);

	std::optional device = must("/dev/liveupdate", Device::open());
	auto manifest = must("manifest", Stamps<Manifest>::create(*device));
	std::map<std::string, Session> sessions;
	for (const File &file : files) {
		if (!sessions.contains(file.session))
			sessions.emplace(file.session, must("session " + file.session,
							    device->create(file.session)));
		std::uint64_t start = clock_ns();
		must("preserve", sessions[file.session].preserve(file.fd.get(), file.token));
		manifest->preserve_ns += clock_ns() - start;
		manifest->entry[manifest->nr++] = describe(file);
	}
	std::printf("%-28s %zu files in %zu sessions\n", "preserved", files.size(),
		    sessions.size());
	std::fflush(stdout);
	// Others need it, too.
	device.reset();
	must_call("daemon", ::daemon(0, 0));
	::pause();
	return 1;
}

// ---- after ----

std::map<std::string, std::uint64_t> read_update()
{
	std::map<std::string, std::uint64_t> values;
	std::ifstream file("/sys/kernel/debug/ferry/update");
	std::string key;
	std::uint64_t value;
	while (file >> key >> value)
		values[key] = value;
	return values;
}

bool same(const File &file, const Entry &entry)
{
	Entry is = describe(file);
	bool right = is.size == entry.size && is.seals == entry.seals &&
		     !std::memcmp(is.digest, entry.digest, sizeof(is.digest));
	std::printf("  %-8s %5llu %12llu  %04x  ", entry.session,
		    static_cast<unsigned long long>(entry.token),
		    static_cast<unsigned long long>(entry.size), is.seals);
	for (unsigned int i = 0; i < 8; ++i)
		std::printf("%02x", is.digest[i]);
	std::printf("...  %s\n", right ? "the same" : "DIFFERENT");
	return right;
}

void row(const char *stage, double time, const char *rest = "")
{
	std::printf("  %-24s %10.2f %s\n", stage, time, rest);
}

void show_stages(const Manifest &manifest, std::uint64_t carried, std::uint64_t retrieve_ns,
		 std::uint64_t finish_ns)
{
	auto update = read_update();
	char what[80];
	std::printf("\n  %-24s %10s %10s %8s %10s\n", "data", "ms", "MiB", "runs", "metadata");
	std::snprintf(what, sizeof(what), "%10.1f %8llu %8llu B", mib(update["pages"] * 4096),
		      static_cast<unsigned long long>(update["runs"]),
		      static_cast<unsigned long long>(update["metadata"]));
	row("preserve", ms(manifest.preserve_ns), what);
	std::snprintf(what, sizeof(what), "%10.1f", mib(carried));
	row("retrieve", ms(retrieve_ns), what);
	row("finish", ms(finish_ns));
}

int after()
{
	auto device = must("/dev/liveupdate", Device::open());
	auto manifest = must("manifest", Stamps<Manifest>::retrieve(device));

	std::vector<File> files;
	std::map<std::string, Session> sessions;
	std::uint64_t start = clock_ns(), carried = 0;
	for (unsigned int i = 0; i < manifest->nr; ++i) {
		const Entry &entry = manifest->entry[i];
		if (!sessions.contains(entry.session))
			sessions.emplace(entry.session,
					 must(entry.session, device.retrieve(entry.session)));
		files.push_back({entry.session,
				 entry.token,
				 must("retrieve", sessions[entry.session].retrieve(entry.token)),
				 {}});
	}
	std::uint64_t retrieved = clock_ns();
	for (auto &[name, session] : sessions)
		must("finish " + name, session.finish());
	std::uint64_t finished = clock_ns();
	std::printf("%-28s %zu files\n", "retrieved", files.size());
	digest_all(files);

	std::printf("\n  %-8s %5s %12s  %-4s  %s\n", "session", "token", "bytes", "seal",
		    "SHA-256");
	unsigned int wrong = 0;
	std::uint64_t size = 0;
	for (unsigned int i = 0; i < manifest->nr; ++i) {
		struct stat st;
		must_call("fstat", ::fstat(files[i].fd.get(), &st));
		carried += static_cast<std::uint64_t>(st.st_blocks) * 512;
		size += manifest->entry[i].size;
		wrong += !same(files[i], manifest->entry[i]);
	}
	show_stages(*manifest.operator->(), carried, retrieved - start, finished - retrieved);
	if (wrong)
		std::printf("\nFAILED: %u of %u files came back different\n", wrong, manifest->nr);
	else
		std::printf("\nPASSED: %u files of %.1f GiB, %.1f MiB of them data, are the same "
			    "in the new kernel, to the byte\n",
			    manifest->nr, mib(size) / 1024, mib(carried));
	return wrong ? 1 : 0;
}

} // namespace

int main(int argc, char **argv)
{
	std::string what = argc > 1 ? argv[1] : "";
	if (what == "before" && argc == 4)
		return before(argv[2], std::strtoull(argv[3], nullptr, 10));
	if (what == "after" && argc == 2)
		return after();
	std::fprintf(stderr, "usage: ferry-demo before DEVICE BYTES | after\n");
	return 2;
}
