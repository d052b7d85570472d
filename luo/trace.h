/* SPDX-License-Identifier: GPL-2.0 */
/* The tracepoints of luo.ko: luo/linux.h says what they are about. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM ferry_luo

#if !defined(FERRY_LUO_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define FERRY_LUO_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(ferry_luo_file,
	TP_PROTO(int operation, const char *session, u64 token, const char *handler, int error,
		 u64 ns),
	TP_ARGS(operation, session, token, handler, error, ns),
	TP_STRUCT__entry(
		__field(int, operation)
		__string(session, session)
		__field(u64, token)
		__string(handler, handler)
		__field(int, error)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->operation = operation;
		__assign_str(session);
		__entry->token = token;
		__assign_str(handler);
		__entry->error = error;
		__entry->ns = ns;
	),
	TP_printk("%s session=%s token=%#llx handler=%s error=%d ns=%llu",
		  __print_symbolic(__entry->operation,
				   { 1, "preserve" }, { 2, "freeze" }, { 3, "save" },
				   { 4, "unpreserve" }, { 5, "prepare" }, { 6, "retrieve" },
				   { 7, "finish" }, { 8, "kexec" }),
		  __get_str(session), __entry->token, __get_str(handler), __entry->error,
		  __entry->ns)
);

TRACE_EVENT(ferry_luo_session,
	TP_PROTO(const char *event, const char *session, int error),
	TP_ARGS(event, session, error),
	TP_STRUCT__entry(
		__string(event, event)
		__string(session, session)
		__field(int, error)
	),
	TP_fast_assign(
		__assign_str(event);
		__assign_str(session);
		__entry->error = error;
	),
	TP_printk("%s session=%s error=%d", __get_str(event), __get_str(session), __entry->error)
);

TRACE_EVENT(ferry_luo_update,
	TP_PROTO(const char *stage, int error, u64 ns),
	TP_ARGS(stage, error, ns),
	TP_STRUCT__entry(
		__string(stage, stage)
		__field(int, error)
		__field(u64, ns)
	),
	TP_fast_assign(
		__assign_str(stage);
		__entry->error = error;
		__entry->ns = ns;
	),
	TP_printk("%s error=%d ns=%llu", __get_str(stage), __entry->error, __entry->ns)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH luo
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
