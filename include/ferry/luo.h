/* SPDX-License-Identifier: GPL-2.0 */
/*
 * luo.ko: what a handler of one kind of file implements, and may call.
 *
 * The C interface that crosses the edge of luo.ko. docs/handler.md shows how a
 * handler is written. Errors are negative errnos.
 */
#ifndef FERRY_LUO_H
#define FERRY_LUO_H

#include <ferry/kho.h>

#ifdef __cplusplus
extern "C" {
#endif

struct file;
struct module;
struct ferry_luo_handler;
struct ferry_luo_file;		/* luo's own; a handler passes it on */

/* How far the retrieval of a file has come, for can_finish() and finish(). */
enum ferry_retrieve_status {
	FERRY_NOT_RETRIEVED,
	FERRY_RETRIEVED,
	FERRY_RETRIEVE_FAILED,
};

/**
 * struct ferry_luo_args - what an operation works on
 * @handler: whose operation it is
 * @self:    names the file to ferry_luo_depend() and ferry_luo_dependency()
 * @file:    the file; NULL while it was not retrieved
 * @token:   of the file, in its session
 * @priv:    the handler's own: set by preserve() for the operations before the
 *           kexec, by retrieve(), also when it fails, for those after it
 * @state:   incoming: the node that save() wrote; else none
 * @status:  incoming: enum ferry_retrieve_status
 */
struct ferry_luo_args {
	const struct ferry_luo_handler *handler;
	struct ferry_luo_file *self;
	struct file *file;
	unsigned long long token;
	void *priv;
	struct ferry_node state;
	int status;
};

/**
 * struct ferry_luo_ops - a handler's operations
 *
 * All but can_preserve() and id() are called in process context with the mutex
 * of the session held, and may sleep. Those marked (*) may be absent.
 *
 * @can_preserve: Is the file of this kind? Quick, and without side effects.
 * @id:           (*) What the file stands for, where several files may stand
 *                for the same (the inode of a memfd). Default: the file.
 * @preserve:     Begin to preserve, while the owner still runs: the heavy part.
 *                On error nothing is left of it.
 * @unpreserve:   Undo preserve().
 * @freeze:       (*) In reboot(2): stop changes for good, and catch up with
 *                those since preserve(). An error calls the kexec off. From
 *                here to the end of save(), and in unfreeze(), nobody may take
 *                a mmap lock or an inode lock, or touch memory of user space:
 *                tasks that wait for a frozen memfd hold them.
 * @unfreeze:     (*) Undo freeze().
 * @save:         Write the state into the current node. Called after freeze()
 *                for the next kernel, and any time after preserve() for a dump;
 *                then changes may go on.
 * @prepare:      (*) In the next kernel, in a kernel thread, soon after the handler
 *                was registered: do what takes time and needs neither a process
 *                nor other files, so that nobody waits for it. May set @priv,
 *                which then goes to retrieve() or to finish().
 * @retrieve:     Make the file anew from @state, and set @file, with one
 *                reference that goes to the caller. An error is final, and
 *                finish() is called in the end; only after -ENOMEM with @priv
 *                not set, which means that nothing of @state was touched, it
 *                is called again when the file is asked for again.
 * @can_finish:   (*) 0, or why finish() has to wait (-EBUSY).
 * @finish:       Let go of what is left: with status FERRY_NOT_RETRIEVED,
 *                everything that the file had.
 */
struct ferry_luo_ops {
	bool (*can_preserve)(struct file *file);
	unsigned long (*id)(struct file *file);
	int (*preserve)(struct ferry_luo_args *args);
	void (*unpreserve)(struct ferry_luo_args *args);
	int (*freeze)(struct ferry_luo_args *args);
	void (*unfreeze)(struct ferry_luo_args *args);
	int (*save)(struct ferry_luo_args *args, struct ferry_writer *writer);
	void (*prepare)(struct ferry_luo_args *args);
	int (*retrieve)(struct ferry_luo_args *args);
	int (*can_finish)(struct ferry_luo_args *args);
	void (*finish)(struct ferry_luo_args *args);
};

#define FERRY_LUO_COMPATIBLE_SIZE	48

/**
 * struct ferry_luo_handler - a kind of file
 * @compatible: what files of this kind are called in the tree, with version
 *              ("memfd-v1"); shorter than FERRY_LUO_COMPATIBLE_SIZE
 * @module:     that is held while a file of this kind is preserved, and from its
 *              prepare() or retrieval until it is finished; a file that waits for
 *              its retrieval also waits for a handler to be loaded
 * @ops:        operations
 */
struct ferry_luo_handler {
	const char *compatible;
	struct module *module;
	const struct ferry_luo_ops *ops;
};

/**
 * ferry_luo_register - introduce a handler
 *
 * Files of this kind that wait from the last kernel can be retrieved from now
 * on.
 *
 * Return: 0, -EINVAL (an operation or the name is missing), -EEXIST, -ENOMEM.
 */
int (ferry_luo_register)(const struct ferry_luo_handler *handler);

/**
 * ferry_luo_register_all - introduce several handlers at once
 * @handlers: an array
 * @nr:       of how many
 *
 * For a module with more than one: its handlers are called, and it is held, as soon
 * as they are there; so its init must not fail after that.
 *
 * Return: as ferry_luo_register(); after an error none of them is there.
 */
int (ferry_luo_register_all)(const struct ferry_luo_handler *handlers, unsigned int nr);
void (ferry_luo_unregister)(const struct ferry_luo_handler *handler);

/**
 * ferry_luo_depend - say that a file needs another one
 * @self: from preserve() or freeze()
 * @on:   the other one; it may be preserved later, in the same session, but
 *        has to be by the time of the freeze
 *
 * A file is frozen before those that it needs, and unfrozen after them; it is
 * unpreserved or finished before them: a device is quiet before the memory that
 * it writes is let go. Where freeze() names a file that was not known to be
 * needed, everything is unfrozen, and frozen again in the right order. What
 * freeze() names is forgotten when the kexec is called off.
 *
 * A file counts once, at the first call that names it.
 *
 * Return: 0, -ENOMEM, -E2BIG (too many).
 */
int (ferry_luo_depend)(struct ferry_luo_file *self, struct file *on);

/**
 * ferry_luo_preserved - ask whether a file is preserved already, in the same session
 * @self: from preserve()
 * @on:   the other one
 *
 * It stays so until @self is unpreserved.
 */
bool (ferry_luo_preserved)(struct ferry_luo_file *self, struct file *on);

/**
 * ferry_luo_dependency - get what a file needs
 * @self: from retrieve()
 * @nr:   which, in the order of the first calls of ferry_luo_depend()
 * @file: the other file, with a reference for the caller
 *
 * The files that are needed were all retrieved before; where one cannot be,
 * retrieve() is not called.
 *
 * Return: 0, or -ERANGE (there are not so many).
 */
int (ferry_luo_dependency)(struct ferry_luo_file *self, unsigned int nr, struct file **file);

/* Its token, by which user space knows it. Return: 0, or -ERANGE. */
int (ferry_luo_dependency_token)(struct ferry_luo_file *self, unsigned int nr,
				 unsigned long long *token);

/**
 * ferry_luo_dependency_priv - get what prepare() has left of a file that is needed
 * @self:    from prepare() or retrieve()
 * @nr:      which, as of ferry_luo_dependency()
 * @handler: the caller's, that it has to be of
 *
 * In prepare() the order of the files is that in which they were preserved.
 *
 * Return: its @priv, which stays for as long as the operation takes; NULL if there
 * is none, or if the file is of another handler.
 */
void *(ferry_luo_dependency_priv)(struct ferry_luo_file *self, unsigned int nr,
				  const struct ferry_luo_handler *handler);

/* ---- sessions of other modules ---- */

struct ferry_luo_session;	/* luo's own */

/**
 * struct ferry_luo_lock - what a key has to fit
 * @keyed: 0: every key does, and none
 */
struct ferry_luo_lock {
	unsigned int keyed;
	unsigned char salt[16];
	unsigned char hash[32];
};

/* @key: 32 bytes, or NULL. */
void (ferry_luo_lock_make)(struct ferry_luo_lock *lock, const unsigned char *key);

/**
 * ferry_luo_lock_open - does a key fit?
 * @name: of what is locked, for the log, which gets at most ten lines in five seconds
 * Return: 0, or -EPERM. Takes the same time for all keys that do not fit.
 */
int (ferry_luo_lock_open)(const struct ferry_luo_lock *lock, const char *name,
			  const unsigned char *key);

#define FERRY_LUO_NAME_SIZE	64
#define FERRY_LUO_MAKER_SIZE	16

/**
 * struct ferry_luo_about - whose session it is
 * @name:  as in LIVEUPDATE_IOCTL_CREATE_SESSION
 * @maker: the module, not empty; it alone gets the session in the next kernel
 * @uid:   the maker's own
 * @tag:   the maker's own
 * @lock:  the maker's own; programs do not get the session, with whatever key
 */
struct ferry_luo_about {
	char name[FERRY_LUO_NAME_SIZE];
	char maker[FERRY_LUO_MAKER_SIZE];
	unsigned int uid;
	unsigned long long tag;
	struct ferry_luo_lock lock;
};

/*
 * These do for a module what the calls of <linux/liveupdate.h> do for a program; the errors
 * are the same. They take luo's locks: none of them may be called from a handler's
 * operation. What is carried is kept in the next kernel, as by
 * LIVEUPDATE_FERRY_POLICY_KEEP.
 */

/*
 * No kexec comes between these two: it waits. So what is made there crosses as a whole, or
 * not at all. _create(), _undo(), _preserve() and _check() are called there only, the others
 * not; and no lock of the caller's is taken there that is held elsewhere around one of these
 * calls. Both by the same task.
 */
void (ferry_luo_enter)(void);
void (ferry_luo_leave)(void);

int (ferry_luo_session_create)(const struct ferry_luo_about *about,
			       struct ferry_luo_session **session);
/* As _close(), of one that was created. */
void (ferry_luo_session_undo)(struct ferry_luo_session *session);
/* A session of the last kernel that the maker has not taken yet. -ENOENT: no more. */
int (ferry_luo_session_take)(const char *maker, struct ferry_luo_session **session,
			     struct ferry_luo_about *about);
/* @label: for people, and for the next kernel; shorter than FERRY_LUO_NAME_SIZE. */
int (ferry_luo_session_preserve)(struct ferry_luo_session *session, struct file *file,
				 unsigned long long token, const char *label);
/* Is everything that its files need in it? -ENOENT, -ELOOP. */
int (ferry_luo_session_check)(struct ferry_luo_session *session);
/* Token and label of the nr-th file, from 0. -ENOENT: there are not so many. */
int (ferry_luo_session_file)(struct ferry_luo_session *session, unsigned int nr,
			     unsigned long long *token, char *label);
/* With a reference for the caller. */
int (ferry_luo_session_retrieve)(struct ferry_luo_session *session, unsigned long long token,
				 struct file **file);
int (ferry_luo_session_finish)(struct ferry_luo_session *session);
/* As the last close of its descriptor. */
void (ferry_luo_session_close)(struct ferry_luo_session *session);

/**
 * ferry_luo_progress - say how far a long operation is
 * @self:  from preserve(), freeze() or retrieve()
 * @done:  bytes of @total
 * @total: as far as is known now; 0 in retrieve(): what ferry_luo_usage() said in
 *         the last kernel
 *
 * For people, who see it while the operation runs. Two plain stores: cheap enough
 * for each batch of pages. May be left out.
 */
void (ferry_luo_progress)(struct ferry_luo_file *self, unsigned long long done,
			  unsigned long long total);

/**
 * ferry_luo_usage - say how much memory a file preserves
 * @self: from preserve() or freeze()
 *
 * For people, and for the record of the file. May be left out, or called again: the last call
 * counts.
 */
void (ferry_luo_usage)(struct ferry_luo_file *self, const struct ferry_usage *usage);

#ifdef __cplusplus
}
#endif
#endif
