// SPDX-License-Identifier: GPL-2.0
/*
 * The data of the demonstration, and a service that luod asks, in the test machine:
 *
 *	ferry-demo before DEVICE BYTES	puts data into memfds and preserves them, in
 *					sessions that luod keeps
 *	ferry-demo after		retrieves them in the next kernel, and proves
 *					every byte by its SHA-256
 *	ferry-demo attend SOCKET	has the ferry-vmm of that socket save its guest
 *					when an update is prepared
 *
 * Four sessions: "archive", the first BYTES of DEVICE in three parts; "sparse",
 * a file of 6 GiB with little in it; "small", files with all kinds of seals; and
 * "manifest", a file with the digests of all.
 */
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/luod/client.hh"
#include "tools/luod/protocol.hh"

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

using liveupdate::Fd;
using liveupdate::Session;

namespace {

constexpr std::uint64_t KiB = 1 << 10, MiB = 1 << 20, GiB = 1 << 30;
constexpr std::size_t chunk = 1 * MiB;
constexpr unsigned int parts = 3;
constexpr std::uint64_t sparse_size = 6 * GiB + 123;
constexpr unsigned int max_files = 32;
constexpr char manifest_name[] = "manifest";

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
	unsigned int nr;
	Entry entry[max_files];
};

// This program goes on only if all goes well.
[[noreturn]] void die(const std::string &what, const std::string &why)
{
	std::fprintf(stderr, "ferry-demo: %s: %s\n", what.c_str(), why.c_str());
	std::exit(1);
}

template <typename T> T must(const std::string &what, luod::Outcome<T> result)
{
	if (!result)
		die(what, result.error().text);
	if constexpr (!std::is_void_v<T>)
		return std::move(*result);
}

template <typename T> T must(const std::string &what, liveupdate::Result<T> result)
{
	if (!result)
		die(what, std::string(liveupdate::message()));
	if constexpr (!std::is_void_v<T>)
		return std::move(*result);
}

// Of a system call: what it returned, if that is not negative.
long long must_call(const std::string &what, long long result)
{
	if (result < 0)
		die(what, std::strerror(errno));
	return result;
}

std::uint64_t clock_ns()
{
	timespec now{};
	::clock_gettime(CLOCK_MONOTONIC, &now);
	return std::uint64_t(now.tv_sec) * 1'000'000'000 + std::uint64_t(now.tv_nsec);
}

// luod may be on its way up still.
luod::Client connect()
{
	constexpr unsigned int tries = 200, try_us = 100'000;
	auto client = luod::Client::connect(luod::default_socket);
	for (unsigned int i = 0; !client && i < tries; ++i) {
		::usleep(try_us);
		client = luod::Client::connect(luod::default_socket);
	}
	return must("luod", std::move(client));
}

double mib(std::uint64_t bytes)
{
	return static_cast<double>(bytes) / static_cast<double>(MiB);
}

void say_time(const char *what, std::uint64_t since_ns)
{
	std::printf("%-28s %.1f s\n", what, static_cast<double>(clock_ns() - since_ns) / 1e9);
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
			die("read", std::strerror(EIO));
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

// The file of the manifest, mapped.
Manifest *map_manifest(int fd)
{
	void *at = ::mmap(nullptr, sizeof(Manifest), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		die("map the manifest", std::strerror(errno));
	return static_cast<Manifest *>(at);
}

// luod keeps the sessions: this program ends before the kexec.
int before(const char *path, std::uint64_t bytes)
{
	auto files = make_files(path, bytes);
	digest_all(files);

	auto luod = connect();
	std::map<std::string, Session> sessions;
	Fd manifest_fd = make_memfd(sizeof(Manifest));
	Manifest *manifest = map_manifest(manifest_fd.get());
	for (const File &file : files) {
		if (!sessions.contains(file.session))
			sessions.emplace(file.session, must("session " + file.session,
							    luod.create(file.session, {})));
		must("preserve", sessions[file.session].preserve(file.fd.get(), file.token));
		manifest->entry[manifest->nr++] = describe(file);
	}
	must("preserve",
	     must(manifest_name, luod.create(manifest_name, {})).preserve(manifest_fd.get(), 1));
	std::printf("%-28s %zu files in %zu sessions\n", "preserved", files.size() + 1,
		    sessions.size() + 1);
	return 0;
}

// ---- after ----

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

int after()
{
	auto luod = connect();
	auto get = [&](const std::string &name) {
		return must("session " + name, luod.get(name, luod::Direction::in));
	};
	Fd manifest_fd = must("manifest", get(manifest_name).retrieve(1));
	const Manifest &manifest = *map_manifest(manifest_fd.get());

	std::vector<File> files;
	std::map<std::string, Session> sessions;
	for (unsigned int i = 0; i < manifest.nr; ++i) {
		const Entry &entry = manifest.entry[i];
		if (!sessions.contains(entry.session))
			sessions.emplace(entry.session, get(entry.session));
		files.push_back({entry.session,
				 entry.token,
				 must("retrieve", sessions[entry.session].retrieve(entry.token)),
				 {}});
	}
	for (auto &[name, session] : sessions)
		must("finish " + name, luod.finish(name));
	must("finish", luod.finish(manifest_name));
	std::printf("%-28s %zu files\n", "retrieved", files.size());
	digest_all(files);

	std::printf("\n  %-8s %5s %12s  %-4s  %s\n", "session", "token", "bytes", "seal",
		    "SHA-256");
	unsigned int wrong = 0;
	std::uint64_t size = 0, carried = 0;
	for (unsigned int i = 0; i < manifest.nr; ++i) {
		struct stat st;
		must_call("fstat", ::fstat(files[i].fd.get(), &st));
		carried += static_cast<std::uint64_t>(st.st_blocks) * 512;
		size += manifest.entry[i].size;
		wrong += !same(files[i], manifest.entry[i]);
	}
	if (wrong)
		std::printf("\nFAILED: %u of %u files came back different\n", wrong, manifest.nr);
	else
		std::printf("\nPASSED: %u files of %.1f GiB, %.1f MiB of them data, are the same "
			    "in the new kernel, to the byte\n",
			    manifest.nr, mib(size) / 1024, mib(carried));
	return wrong ? 1 : 0;
}

// ---- the service ----

bool tell_vmm(const char *socket, const char *word)
{
	const pid_t child = static_cast<pid_t>(must_call("fork", ::fork()));
	if (!child) {
		::execlp("ferry-vmm", "ferry-vmm", "ctl", socket, word, nullptr);
		::_exit(127);
	}
	int status = 0;
	must_call("wait", ::waitpid(child, &status, 0));
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

int attend(const char *socket)
{
	// The slow part comes before anybody waits for it, while the guest runs.
	auto luod = connect();
	if (!tell_vmm(socket, "prepare"))
		die("prepare", "the VMM cannot preserve its guest");
	must("join", luod.join("the VMM"));
	for (;;) {
		auto event = must("luod", luod.wait(std::chrono::hours(1)));
		if (!event)
			continue;
		if (!event->prepare)
			tell_vmm(socket, "cancel");
		else if (tell_vmm(socket, "save"))
			must("ready", luod.ready(event->id));
		else
			must("refuse", luod.refuse(event->id, "the guest cannot be saved"));
	}
}

} // namespace

int main(int argc, char **argv)
{
	std::string what = argc > 1 ? argv[1] : "";
	if (what == "before" && argc == 4)
		return before(argv[2], std::strtoull(argv[3], nullptr, 10));
	if (what == "after" && argc == 2)
		return after();
	if (what == "attend" && argc == 3)
		return attend(argv[2]);
	std::fprintf(stderr, "usage: ferry-demo before DEVICE BYTES | after | attend SOCKET\n");
	return 2;
}
