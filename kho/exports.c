// SPDX-License-Identifier: GPL-2.0
/*
 * What kho.ko offers the suite. Here and not beside the functions because
 * modversions reads prototypes from C only.
 */
#include <linux/export.h>
#include <linux/types.h>

#include <ferry/kho.h>

EXPORT_SYMBOL_NS_GPL(ferry_owner_create, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_owner_destroy, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_owner_usage, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_kho_usage, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_runs_create, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_runs_append, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_runs_append_folios, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_runs_seal, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_runs_usage, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_runs_walk, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_runs_destroy, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_runs_open, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_runs_next, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_run_free, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_runs_leave, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_runs_close, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_blob_save, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_blob_destroy, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_blob_load, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_put, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_begin, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_end, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_kho_register, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_kho_unregister, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_formats_register, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_formats_unregister, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_kho_finalize, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_kho_abort, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_incoming, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_child, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_first, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_next, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_get, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_node_path, "FERRY");
EXPORT_SYMBOL_NS_GPL(ferry_incoming_done, "FERRY");
