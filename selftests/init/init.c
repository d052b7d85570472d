// SPDX-License-Identifier: GPL-2.0
/*
 * PID 1 of the test machine, and its helpers, in one static program:
 *
 *   /init          mounts what a test needs, loads the modules, runs this kernel's stage, and then
 *                  jumps into the next kernel or switches the machine off
 *   /bin/kexec-load [-c CMDLINE]
 *                  loads the next kernel (kexec_file_load), for the stage after this one; init does
 *                  it by itself when a stage has not. -c appends to its command line
 *   /bin/kexec-jump
 *                  jumps (reboot(2)); when the kernel refuses, says why and exits with the errno
 *   /bin/ferry-stage
 *                  runs this kernel's stage under systemd, and has systemd jump into the next kernel
 *
 * It understands these words of the kernel's command line:
 *
 *   ferry.stage=N        run /ferry/stageN with sh (default 1); no such file: an interactive shell
 *   ferry.modules=A,B,C  modules of /lib/modules to load before the stage, those that exist
 *   ferry.root=DEVICE    go on as systemd, of the ext4 file system there, after the modules were loaded;
 *                        all of this one is then in /run/ferry, its units are in /run/ferry/units, and
 *                        one of these has to run /run/ferry/bin/ferry-stage, which runs the stage
 *
 * It tells scripts/vm on the second serial port, away from whatever prints on the console:
 *
 *   stage N start
 *   stage N exit STATUS
 *   stage N failed WHAT: ERRNO TEXT       (a step of ours: mount, insmod, kexec)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <linux/reboot.h>

static char cmdline[4096];
static int stage = 1;

/* Copy the value of "name=value" on the command line; false when it is not there. */
static bool option(const char *name, char *value, size_t size)
{
	size_t len = strlen(name);

	for (const char *p = cmdline; (p = strstr(p, name)); p += len) {
		if ((p == cmdline || p[-1] == ' ') && p[len] == '=') {
			size_t n = strcspn(p + len + 1, " \n");

			if (n >= size)
				n = size - 1;
			memcpy(value, p + len + 1, n);
			value[n] = '\0';
			return true;
		}
	}
	return false;
}

static void read_cmdline(void)
{
	char value[16];
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, cmdline, sizeof(cmdline) - 1);

	if (n > 0)
		cmdline[n] = '\0';
	if (fd >= 0)
		close(fd);
	cmdline[strcspn(cmdline, "\n")] = '\0';
	if (option("ferry.stage", value, sizeof(value)))
		stage = atoi(value);
}

/* One line for scripts/vm. What the stage printed comes first. */
__attribute__((format(printf, 1, 2)))
static void tell(const char *fmt, ...)
{
	int fd = open("/dev/ttyS1", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	va_list ap;

	if (fd < 0)
		return;
	tcdrain(STDOUT_FILENO);
	va_start(ap, fmt);
	dprintf(fd, "stage %d ", stage);
	vdprintf(fd, fmt, ap);
	dprintf(fd, "\n");
	va_end(ap);
	tcdrain(fd);
	close(fd);
}

static void failed(const char *what)
{
	int err = errno;

	tell("failed %s: %d %s", what, err, strerror(err));
	errno = err;
}

/* Where this initramfs is: at the root, or under systemd in /run/ferry. */
#define AWAY "/run/ferry"

static const char *home(void)
{
	return access(AWAY "/init", F_OK) ? "" : AWAY;
}

/* Load the next kernel: the same image, the same initramfs, the next stage. */
static int load_kernel(const char *append)
{
	static char next[sizeof(cmdline) + 1024];
	char image[64];
	int kernel, initrd, n = 0;
	long ret;

	/* This kernel's command line, without its ferry.stage=; the new one is added at the end. */
	for (char *p = cmdline, *end; *p; p = end + strspn(end, " ")) {
		end = p + strcspn(p, " ");
		if (strncmp(p, "ferry.stage=", 12))
			n += snprintf(next + n, sizeof(next) - n, "%.*s ", (int)(end - p), p);
	}
	n += snprintf(next + n, sizeof(next) - n, "ferry.stage=%d%s%s", stage + 1, append ? " " : "", append ?: "");

	snprintf(image, sizeof(image), "%s/boot/bzImage", home());
	kernel = open(image, O_RDONLY | O_CLOEXEC);
	initrd = open("/sys/firmware/initrd", O_RDONLY | O_CLOEXEC);
	if (kernel < 0 || initrd < 0)
		return -1;
	ret = syscall(SYS_kexec_file_load, kernel, initrd, strlen(next) + 1, next, 0UL);
	close(kernel);
	close(initrd);
	return ret;
}

static int jump(void)
{
	return syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
}

static int main_kexec_load(int argc, char **argv)
{
	const char *append = NULL;

	if (argc == 3 && !strcmp(argv[1], "-c")) {
		append = argv[2];
	} else if (argc > 1) {
		fprintf(stderr, "usage: kexec-load [-c CMDLINE]\n");
		return 2;
	}
	read_cmdline();
	if (!load_kernel(append))
		return 0;
	fprintf(stderr, "kexec-load: %s (errno %d)\n", strerror(errno), errno);
	return errno;
}

static int main_kexec_jump(void)
{
	tcdrain(STDOUT_FILENO);
	jump();
	fprintf(stderr, "kexec-jump: refused: %s (errno %d)\n", strerror(errno), errno);
	return errno;
}

/* Is a kernel loaded already? */
static bool kexec_loaded(void)
{
	static const char *const files[] = { "/sys/kernel/kexec/loaded", "/sys/kernel/kexec_loaded" };

	for (int i = 0; i < 2; i++) {
		char c = '0';
		int fd = open(files[i], O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			continue;
		if (read(fd, &c, 1) < 0)
			c = '0';
		close(fd);
		return c == '1';
	}
	return false;
}

static void mount_all(void)
{
	static const struct {
		const char *type, *dir;
		bool optional;
	} mounts[] = {
		{ "proc", "/proc", false },
		{ "sysfs", "/sys", false },
		{ "devtmpfs", "/dev", false },
		{ "devpts", "/dev/pts", true },
		{ "tmpfs", "/dev/shm", false },
		{ "tmpfs", "/tmp", false },
		{ "tmpfs", "/run", false },
		{ "debugfs", "/sys/kernel/debug", true },
		{ "tracefs", "/sys/kernel/tracing", true },
		{ "cgroup2", "/sys/fs/cgroup", true },
		{ "hugetlbfs", "/dev/hugepages", true },
	};

	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		mkdir(mounts[i].dir, 0755);
		if (mount(mounts[i].type, mounts[i].dir, mounts[i].type, 0, NULL) && !mounts[i].optional)
			failed(mounts[i].dir);
	}
}

/* insmod the modules of ferry.modules= in that order; those that were not built are passed over. */
static bool load_modules(void)
{
	char list[1024], path[1100], *name, *rest = list;

	if (!option("ferry.modules", list, sizeof(list)))
		return true;
	while ((name = strsep(&rest, ","))) {
		int fd;

		snprintf(path, sizeof(path), "/lib/modules/%s.ko", name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (syscall(SYS_finit_module, fd, "", 0)) {
			snprintf(path, sizeof(path), "insmod %s", name);
			failed(path);
			return false;
		}
		close(fd);
	}
	return true;
}

/* Give the console to a new session, so that a shell has job control, and run argv. */
static int run(char *const argv[])
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		setsid();
		ioctl(STDIN_FILENO, TIOCSCTTY, 1);
		execv(argv[0], argv);
		dprintf(STDERR_FILENO, "init: %s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	for (;;) {
		pid_t dead = wait(&status);

		if (dead == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		if (dead < 0 && errno == ECHILD)
			return 126;
	}
}

static void power_off(void)
{
	sync();
	tcdrain(STDOUT_FILENO);
	reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

/* The way from an initramfs to its root file system, as switch_root(8) goes it, but all of this stays in sight. */
static bool become_systemd(const char *device)
{
	static const char *const mounts[] = { "/dev", "/proc", "/sys", "/run" };
	char target[64];

	mkdir("/sysroot", 0755);
	if (mount(device, "/sysroot", "ext4", 0, NULL))
		return false;
	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		snprintf(target, sizeof(target), "/sysroot%s", mounts[i]);
		if (mount(mounts[i], target, NULL, MS_MOVE, NULL))
			return false;
	}
	mkdir("/sysroot" AWAY, 0755);
	if (mount("/", "/sysroot" AWAY, NULL, MS_BIND, NULL) || chdir("/sysroot") ||
	    mount(".", "/", NULL, MS_MOVE, NULL) || chroot("."))
		return false;
	/* The colon at the end: and where it looks by itself. */
	setenv("SYSTEMD_UNIT_PATH", AWAY "/units:", 1);
	execl("/usr/lib/systemd/systemd", "systemd", NULL);
	return false;
}

/* Run this kernel's stage, and say how it ended. Is there a next one to go on to? */
static bool run_stage(void)
{
	char script[64];
	int status;

	snprintf(script, sizeof(script), "%s/ferry/stage%d", home(), stage);
	status = run((char *[]){ "/bin/sh", script, NULL });
	tell("exit %d", status);
	snprintf(script, sizeof(script), "%s/ferry/stage%d", home(), stage + 1);
	return !status && !access(script, R_OK);
}

static void set_environment(const char *path)
{
	char number[16];

	setenv("PATH", path, 1);
	setenv("HOME", "/", 1);
	setenv("TERM", "linux", 1);
	snprintf(number, sizeof(number), "%d", stage);
	setenv("STAGE", number, 1);
}

/* A service of systemd: the machine goes on, or off, as systemd does it. */
static int main_ferry_stage(void)
{
	read_cmdline();
	set_environment("/usr/bin:/usr/sbin:" AWAY "/bin");
	if (!run_stage())
		power_off();
	if (!kexec_loaded() && load_kernel(NULL))
		failed("kexec_file_load");
	else if (run((char *[]){ "/usr/bin/systemctl", "kexec", NULL }))
		failed("systemctl kexec");
	else
		return 0;
	power_off();
	return 1;
}

int main(int argc, char **argv)
{
	const char *self = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
	char script[32], root[64];

	if (!strcmp(self, "kexec-load"))
		return main_kexec_load(argc, argv);
	if (!strcmp(self, "kexec-jump"))
		return main_kexec_jump();
	if (!strcmp(self, "ferry-stage"))
		return main_ferry_stage();

	mount_all();
	read_cmdline();
	tell("start");
	set_environment("/bin:/sbin:/usr/bin:/usr/sbin");
	chdir("/");

	if (!load_modules())
		power_off();

	snprintf(script, sizeof(script), "/ferry/stage%d", stage);
	if (access(script, R_OK)) {
		run((char *[]){ "/bin/sh", "-l", NULL });
		power_off();
	}

	if (option("ferry.root", root, sizeof(root))) {
		if (!become_systemd(root))
			failed(root);
	} else if (run_stage()) {
		if (!kexec_loaded() && load_kernel(NULL))
			failed("kexec_file_load");
		else if (jump())
			failed("kexec");
	}
	power_off();
}
