/* SPDX-License-Identifier: GPL-2.0 */
/*
 * kho.ko: memory and records that the next kernel gets.
 *
 * The C interface that crosses the edge of kho.ko; every other module of the
 * suite stands on it, and a handler in C may as well. Errors are negative
 * errnos. All functions may sleep unless they say otherwise.
 *
 * What the last kernel handed over is untrusted until it was checked. The
 * functions here that read it check it, refuse it with -EBADMSG (damaged),
 * -EPROTONOSUPPORT (of a version that this kernel does not read) or -ENOENT
 * (not there), and say in the log which record it was and why.
 */
#ifndef FERRY_KHO_H
#define FERRY_KHO_H

#include <ferry/record.h>
#include <abi/runs.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dentry;
struct ferry_owner;
struct ferry_runs;
struct ferry_runs_in;
struct ferry_writer;
struct module;

/* ---- owners ---- */

/**
 * struct ferry_usage - what an owner, or one list of runs, preserves
 * @pages:    pages of 4 KiB in runs
 * @runs:     runs that describe them
 * @metadata: bytes of preserved memory that only describes: blocks of runs
 * @blobs:    bytes of preserved memory in blobs
 */
struct ferry_usage {
	unsigned long long pages;
	unsigned long long runs;
	unsigned long long metadata;
	unsigned long long blobs;
};

/**
 * ferry_owner_create - introduce somebody who preserves memory
 * @name: shown in statistics and messages; must outlive the owner
 *
 * Each preserved thing has one owner, and the statistics go by it.
 *
 * Return: the owner, or NULL when out of memory.
 */
struct ferry_owner *(ferry_owner_create)(const char *name);

/* Everything that the owner preserved must be gone (or handed over) by then. */
void (ferry_owner_destroy)(struct ferry_owner *owner);

void (ferry_owner_usage)(struct ferry_owner *owner, struct ferry_usage *usage);

/* Of all owners together. */
void (ferry_kho_usage)(struct ferry_usage *usage);

/* ---- outgoing: runs of pages ---- */

/**
 * ferry_runs_create - begin a list of page runs
 * Return: the list, or NULL when out of memory.
 */
struct ferry_runs *(ferry_runs_create)(struct ferry_owner *owner);

/**
 * ferry_runs_append - preserve folios, and describe them
 * @runs:  the list
 * @run:   @count folios of @order, contiguous in memory from @pfn (aligned to
 *         @order) and in the file from @index (in pages, a multiple of the
 *         folio's size), all in one NUMA node; appended in the order of @index
 *         for the best result. With FERRY_RUN_DESCENDING, which takes at least
 *         two folios, the first one in the file is the last one in memory
 *
 * A run that continues the last one in both, with the same order and flags,
 * becomes part of it. One of up to four folios, after single ones that lie apart,
 * may be written, and arrive, as single folios. The caller keeps the folios in place (pinned), and in
 * the order that they have, until ferry_runs_destroy(). They are preserved when
 * many have come together, and by ferry_runs_seal().
 *
 * Return: 0, -ENOMEM, -EINVAL (@run is not as described above), or what
 * kho_preserve_runs() says. After an error the list is as it was.
 */
int (ferry_runs_append)(struct ferry_runs *runs, const struct ferry_run *run);

/**
 * struct ferry_folios - folios that follow each other in the file
 * @pfn:   first page frame of each
 * @index: place of the first one in the file, in pages
 * @nr:    folios
 * @order: of each
 * @flags: the owner's, not FERRY_RUN_DESCENDING
 */
struct ferry_folios {
	const unsigned long long *pfn;
	unsigned long long index;
	unsigned int nr;
	unsigned short order;
	unsigned short flags;
};

/**
 * ferry_runs_append_folios - ferry_runs_append() for many folios
 * @done: how many are appended: all, or those before the first that fails
 *
 * Finds out which of them make runs. What lies apart becomes part of a list, which
 * takes four bytes for each folio.
 *
 * Return: as ferry_runs_append().
 */
int (ferry_runs_append_folios)(struct ferry_runs *runs, const struct ferry_folios *folios,
			       unsigned int *done);

/**
 * ferry_runs_seal - complete the list for now
 * @ref: how the next kernel finds it; put it into a record
 *
 * May be called again after more was appended; it only has to be called after
 * the last ferry_runs_append() and before the reference is written.
 *
 * Return: 0 or a negative errno of ferry_runs_append().
 */
int (ferry_runs_seal)(struct ferry_runs *runs, struct ferry_bulk *ref);

void (ferry_runs_usage)(const struct ferry_runs *runs, struct ferry_usage *usage);

/**
 * ferry_runs_walk - call for each run, in the order of appending
 * @visit: a result other than 0 ends the walk
 * Return: the last result of @visit.
 */
int (ferry_runs_walk)(const struct ferry_runs *runs,
		      int (*visit)(void *ctx, const struct ferry_run *run), void *ctx);

/* Ends the preservation of all pages of the list, and frees the list. */
void (ferry_runs_destroy)(struct ferry_runs *runs);

/* ---- incoming: runs of pages ---- */

/**
 * ferry_runs_open - check a list that the last kernel handed over
 * @ref:  from a record
 * @what: names it in messages
 * @in:   the list, on success
 *
 * Checks the chain of blocks and all of its runs: bounds, checksums, and that
 * each page was really preserved. Nothing is restored before the first
 * ferry_runs_next() or ferry_runs_close().
 *
 * Return: 0, -ENOMEM or -EBADMSG.
 */
int (ferry_runs_open)(const struct ferry_bulk *ref, const char *what,
		      struct ferry_runs_in **in);

/**
 * ferry_runs_next - take the next runs out of the list
 * @run:  set to them
 * @room: for so many, at least 1
 *
 * Their pages now belong to the caller: folios of the run's order, each with one
 * reference.
 *
 * Return: how many runs, also fewer than there is room for; 0 at the end; -EIO
 * when the kernel would not restore a page of the next run; that run is lost then,
 * and the walk can go on. -EBADMSG: the list is somebody else's by now, and nothing
 * comes of it.
 */
int (ferry_runs_next)(struct ferry_runs_in *in, struct ferry_run *run, unsigned int room);

/* Frees the folios of a run of ferry_runs_next(), one that the caller cannot use. May sleep. */
void (ferry_run_free)(const struct ferry_run *run);

/**
 * ferry_runs_leave - leave everything where it is, for another ferry_runs_open()
 *
 * For a caller that lacks something else, and will try again. Frees the list
 * only; not after ferry_runs_next().
 */
void (ferry_runs_leave)(struct ferry_runs_in *in);

/* Frees the list, and every page that was not taken. */
void (ferry_runs_close)(struct ferry_runs_in *in);

/* ---- blobs: bytes, of any length ---- */

struct ferry_blob;

/**
 * ferry_blob_save - preserve a copy of @size bytes
 * @ref: how the next kernel finds it; @ref.bytes is @size
 */
int (ferry_blob_save)(struct ferry_owner *owner, const void *data, __SIZE_TYPE__ size,
		      struct ferry_bulk *ref, struct ferry_blob **blob);
void (ferry_blob_destroy)(struct ferry_blob *blob);

/**
 * ferry_blob_load - copy a blob that the last kernel handed over, and free it
 * @max:  greatest size that is taken, in bytes
 * @data: the copy, of ref->bytes; free with ferry_free()
 * Return: 0, -ENOMEM (it can be tried again), or -EBADMSG.
 */
int (ferry_blob_load)(const struct ferry_bulk *ref, const char *what,
		      __SIZE_TYPE__ max, void **data);

/* ---- the tree, outgoing ---- */

/**
 * ferry_put - write a record into the current node
 * @obj: of the record's structure
 * Return: 0, -ENOMEM, or -EINVAL when a field is out of its own bounds.
 */
int (ferry_put)(struct ferry_writer *writer, const struct ferry_record *record, const void *obj);

/* Begins a child of the current node, and makes it the current one. */
int (ferry_begin)(struct ferry_writer *writer, const char *name);
int (ferry_end)(struct ferry_writer *writer);

/**
 * struct ferry_provider - who fills one node at the top of the tree
 * @name:   of the node
 * @module: held while @save runs
 * @save:   writes the node, under no lock of kho.ko's. @final: called by
 *          ferry_kho_finalize(), with whatever locks its caller holds; else by
 *          a reader of a dump in debugfs, with none
 * @ctx:    for @save
 */
struct ferry_provider {
	const char *name;
	struct module *module;
	int (*save)(void *ctx, struct ferry_writer *writer, bool final);
	void *ctx;
};

int (ferry_kho_register)(const struct ferry_provider *provider);
void (ferry_kho_unregister)(const struct ferry_provider *provider);

#define FERRY_MAX_PROVIDERS	8

/* Records of a module that the format catalogue names; until unregistered. */
int (ferry_formats_register)(const struct ferry_record *const *records, unsigned int nr);
void (ferry_formats_unregister)(const struct ferry_record *const *records);

/**
 * ferry_kho_finalize - write the tree, and hand it to the next kernel
 * Return: 0 or a negative errno; then there is no tree.
 */
int (ferry_kho_finalize)(void);

/* Takes the tree back. */
void (ferry_kho_abort)(void);

/* ---- the tree, incoming ---- */

/* A node of the incoming tree; @offset is negative where there is none. */
struct ferry_node {
	int offset;
};

/* The node of a provider of the last kernel. */
struct ferry_node (ferry_incoming)(const char *name);

struct ferry_node (ferry_child)(struct ferry_node node, const char *name);
struct ferry_node (ferry_first)(struct ferry_node node);
struct ferry_node (ferry_next)(struct ferry_node node);

/**
 * ferry_get - read a record, checked
 * @obj: of the record's structure; zeroed first
 * Return: 0, -ENOENT, -EPROTONOSUPPORT or -EBADMSG.
 */
int (ferry_get)(struct ferry_node node, const struct ferry_record *record, void *obj);

/* Where a node is, for messages: "/luo/session@0". Returns @buf. */
const char *(ferry_node_path)(struct ferry_node node, char *buf, __SIZE_TYPE__ size);

/**
 * ferry_incoming_done - nothing of the incoming tree is needed any more
 *
 * Until then kho.ko, which keeps it, cannot be unloaded. Nodes end with it.
 */
void (ferry_incoming_done)(void);

/* The suite's directory in debugfs, for files of other modules. */
struct dentry *(ferry_debugfs)(void);

#ifdef __cplusplus
}
#endif
#endif
