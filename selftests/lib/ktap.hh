// SPDX-License-Identifier: GPL-2.0
/*
 * Test cases that report in KTAP.
 *
 *	TEST("group", "what is tested")
 *	{
 *		CHECK(one == other);
 *		REQUIRE(fd >= 0); // and do not go on without it
 *		ktap::skip("why this case cannot run here");
 *	}
 *	int main() { return ktap::run("group"); }
 */
#pragma once

#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <termios.h>
#include <unistd.h>

namespace ktap {

// One line in one write, all of it on its way before anything else happens:
// the kernel prints to the same console.
__attribute__((format(printf, 1, 2))) inline void print(const char *format, ...)
{
	char line[1024];
	va_list args;
	va_start(args, format);
	int length = std::vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	if (length > static_cast<int>(sizeof(line)) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	[[maybe_unused]] auto written = ::write(STDOUT_FILENO, line, length);
	::tcdrain(STDOUT_FILENO);
}

struct Stop {}; // ends a case

struct Status {
	bool failed = false;
	std::string skipped;
};

inline Status current;

inline void fail(const char *file, int line, const std::string &what)
{
	current.failed = true;
	auto name = std::strrchr(file, '/');
	print("# %s:%d: %s", name ? name + 1 : file, line, what.c_str());
}

[[noreturn]] inline void skip(std::string reason)
{
	current.skipped = std::move(reason);
	throw Stop();
}

inline std::string text(const std::error_code &error)
{
	return error ? error.message() : "success";
}

// ---- what a condition was made of ----

template <typename T> std::string value_text(const T &value)
{
	if constexpr (std::is_arithmetic_v<T>) {
		return std::to_string(value);
	} else if constexpr (!std::is_pointer_v<T> &&
			     std::is_convertible_v<const T &, std::string_view>) {
		std::string all(std::string_view(value).substr(0, 200));
		for (char &c : all)
			c = c < ' ' || c > '~' ? '.' : c;
		return "'" + all + "'";
	} else {
		return "?";
	}
}

// The outcome of `left OP right`, with both.
struct Compared {
	bool holds;
	std::string values;
	explicit operator bool() const
	{
		return holds;
	}
};

inline std::string values(const Compared &compared)
{
	return compared.values;
}
template <typename T> std::string values(const T &)
{
	return "";
}

// What a number is now: an atomic or volatile one may be another a moment later.
template <typename T> decltype(auto) settled(const T &value)
{
	using Plain = std::remove_cv_t<T>;
	if constexpr (std::is_arithmetic_v<Plain> || std::is_enum_v<Plain>)
		return Plain(value);
	else if constexpr (requires { value.load(); })
		return value.load();
	else
		return (value);
}

// The left side of what may become a comparison; in all else it is what it was made of.
template <typename T> struct Left {
	T value;

	explicit operator bool() const
	{
		return bool(value);
	}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-compare"
#define KTAP_COMPARE(op)                                                                           \
	template <typename U> Compared operator op(const U &other) const                           \
	{                                                                                          \
		decltype(auto) right = settled(other);                                             \
		if (value op right)                                                                \
			return {true, ""};                                                         \
		return {false, ": " + value_text(value) + " " #op " " + value_text(right)};        \
	}
	KTAP_COMPARE(==)
	KTAP_COMPARE(!=)
	KTAP_COMPARE(<)
	KTAP_COMPARE(<=)
	KTAP_COMPARE(>)
	KTAP_COMPARE(>=)
#undef KTAP_COMPARE
#pragma GCC diagnostic pop
	// Of `value & mask`, which binds less than a comparison does.
	template <typename U> auto operator&(const U &mask) const
	{
		return value & mask;
	}
};

// Takes the first operand: `Sides() << a == b` is `(Sides() << a) == b`.
struct Sides {
	template <typename T> auto operator<<(const T &value) const
	{
		return Left<decltype(settled(value))>{settled(value)};
	}
};

struct Case {
	std::string group, name;
	std::function<void()> body;

	Case(std::string group_, std::string name_, std::function<void()> body_);
};

inline std::vector<const Case *> &cases()
{
	static std::vector<const Case *> all;
	return all;
}

inline Case::Case(std::string group_, std::string name_, std::function<void()> body_)
	: group(std::move(group_)), name(std::move(name_)), body(std::move(body_))
{
	cases().push_back(this);
}

// Run one case, and say how it ended. after() sees the result.
inline Status run_case(int number, const std::string &name, const std::function<void()> &body)
{
	current = {};
	auto start = std::chrono::steady_clock::now();
	try {
		body();
	} catch (Stop) {
	} catch (const std::exception &error) {
		fail("exception", 0, error.what());
	}
	std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
	if (took.count() > 1)
		print("# took %.1f s", took.count());
	if (current.failed)
		print("not ok %d %s", number, name.c_str());
	else if (!current.skipped.empty())
		print("ok %d %s # SKIP %s", number, name.c_str(), current.skipped.c_str());
	else
		print("ok %d %s", number, name.c_str());
	return current;
}

inline void begin(int plan)
{
	print("KTAP version 1");
	print("1..%d", plan);
}

// Run the cases of a group; with a filter those that contain it in their name.
inline int run(std::string_view group, std::string_view filter = {})
{
	std::vector<const Case *> chosen;
	for (auto each : cases())
		if (each->group == group && each->name.find(filter) != std::string::npos)
			chosen.push_back(each);
	begin(chosen.size());
	int number = 0, failed = 0;
	for (auto each : chosen)
		failed += run_case(++number, each->name, each->body).failed;
	return failed ? 1 : 0;
}

} // namespace ktap

#define KTAP_JOIN2(name, line) name##_##line
#define KTAP_JOIN(name, line) KTAP_JOIN2(name, line)
#define KTAP_UNIQUE(name) KTAP_JOIN(name, __LINE__)

#define TEST(group, name)                                                                          \
	static void KTAP_UNIQUE(test)();                                                           \
	static const ktap::Case KTAP_UNIQUE(test_case)(group, name, KTAP_UNIQUE(test));            \
	static void KTAP_UNIQUE(test)()

// A comparison shows both sides when it fails.
#define CHECK(condition)                                                                           \
	[&](const auto &checked_) {                                                                \
		if (checked_)                                                                      \
			return true;                                                               \
		ktap::fail(__FILE__, __LINE__, #condition + ktap::values(checked_));               \
		return false;                                                                      \
	}(ktap::Sides() << condition)

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!CHECK(condition))                                                             \
			throw ktap::Stop();                                                        \
	} while (0)

// Both as numbers, shown when they differ.
#define CHECK_EQ(left, right)                                                                      \
	[&](long long l_, long long r_) {                                                          \
		if (l_ == r_)                                                                      \
			return true;                                                               \
		ktap::fail(__FILE__, __LINE__,                                                     \
			   #left " is " + std::to_string(l_) + ", not " #right " (" +              \
				   std::to_string(r_) + ")");                                      \
		return false;                                                                      \
	}(left, right)

// A system call that has to work; its result. Errno is shown when it does not.
#define SYS(expression)                                                                            \
	[&] {                                                                                      \
		auto r_ = (expression);                                                            \
		if (r_ == decltype(r_)(-1)) {                                                      \
			ktap::fail(__FILE__, __LINE__,                                             \
				   std::string(#expression ": ") + std::strerror(errno));          \
			throw ktap::Stop();                                                        \
		}                                                                                  \
		return r_;                                                                         \
	}()

// A system call that has to fail with this errno.
#define CHECK_ERRNO(expression, want_)                                                             \
	[&] {                                                                                      \
		errno = 0;                                                                         \
		auto r_ = (expression);                                                            \
		int e_ = errno;                                                                    \
		if (r_ == decltype(r_)(-1) && e_ == (want_))                                       \
			return true;                                                               \
		ktap::fail(__FILE__, __LINE__,                                                     \
			   std::string(#expression ": ") +                                         \
				   (r_ == decltype(r_)(-1) ? std::strerror(e_) : "success") +      \
				   " instead of " #want_);                                         \
		return false;                                                                      \
	}()

// A std::expected that has to hold a value; the value. For Result<void>: OK().
#define VALUE(expression)                                                                          \
	[&] {                                                                                      \
		auto r_ = (expression);                                                            \
		if (!r_) {                                                                         \
			ktap::fail(__FILE__, __LINE__, #expression ": " + ktap::text(r_.error())); \
			throw ktap::Stop();                                                        \
		}                                                                                  \
		return std::move(*r_);                                                             \
	}()

#define OK(expression)                                                                             \
	[&] {                                                                                      \
		auto r_ = (expression);                                                            \
		if (!r_)                                                                           \
			ktap::fail(__FILE__, __LINE__, #expression ": " + ktap::text(r_.error())); \
		return bool(r_);                                                                   \
	}()

#define FAILS(expression, want_)                                                                   \
	[&] {                                                                                      \
		auto r_ = (expression);                                                            \
		if (!r_ && r_.error().value() == (want_))                                          \
			return true;                                                               \
		ktap::fail(__FILE__, __LINE__,                                                     \
			   #expression ": " +                                                      \
				   (r_ ? std::string("success") : ktap::text(r_.error())) +        \
				   " instead of " #want_);                                         \
		return false;                                                                      \
	}()
