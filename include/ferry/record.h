/* SPDX-License-Identifier: GPL-2.0 */
/*
 * State records: what one object hands to the next kernel, field by field.
 *
 * A record type is declared once, as a list of fields in include/abi/, and
 * everything else comes from that list: the C structure, the writer, the
 * checked reader, the text dump and the format catalogue. The idea is that of
 * QEMU's VMState.
 *
 *	#define FERRY_EXAMPLE_FIELDS(F, T)			\
 *		F(T, U64, size,  1, 0, FERRY_MAX_FILE_SIZE, 0)	\
 *		F(T, U32, flags, 2, 0, 3, 0)			\
 *		F(T, STR, name,  1, 1, 63, 64)
 *	FERRY_RECORD(ferry_example, "example", 2, 1, FERRY_EXAMPLE_FIELDS);
 *
 * declares struct ferry_example and ferry_example_record, version 2, readable
 * from version 1. The columns of a field are its kind, its name, the version
 * that brought it, the least and the greatest value that a reader takes (the
 * length for a string or bytes), and the room of a string or bytes.
 *
 * On the way a record is a node of the tree with a property for each field,
 * named after it, and a "compatible" property "ferry,<name>-v<version>".
 */
#ifndef FERRY_RECORD_H
#define FERRY_RECORD_H

#ifdef __cplusplus
#include <cstddef>
#else
#include <linux/types.h>
#include <linux/stddef.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum ferry_field_kind {
	FERRY_U32,	/* one cell */
	FERRY_U64,	/* two cells */
	FERRY_STR,	/* NUL-terminated; bounds count without the NUL */
	FERRY_BYTES,	/* as they are; shorter ones are filled up with zeros */
};

/**
 * struct ferry_field - one field of a record type
 * @name:   of the property
 * @kind:   enum ferry_field_kind
 * @since:  version of the record that brought it; absent before, read as 0
 * @offset: in the structure, in bytes
 * @room:   in the structure, in bytes
 * @min:    least value, or length in bytes, that a reader takes
 * @max:    greatest value, or length in bytes, that a reader takes
 */
struct ferry_field {
	const char *name;
	unsigned int kind;
	unsigned int since;
	unsigned int offset;
	unsigned int room;
	unsigned long long min;
	unsigned long long max;
};

/**
 * struct ferry_record - a record type
 * @name:      unique in the suite
 * @version:   that is written
 * @oldest:    version that is still read
 * @size:      of the structure, in bytes
 * @nr_fields: length of @fields
 * @fields:    the fields, in the order of the structure
 */
struct ferry_record {
	const char *name;
	unsigned int version;
	unsigned int oldest;
	unsigned int size;
	unsigned int nr_fields;
	const struct ferry_field *fields;
};

#define FERRY_MEMBER_U32(name, room)	unsigned int name;
#define FERRY_MEMBER_U64(name, room)	unsigned long long name;
#define FERRY_MEMBER_STR(name, room)	char name[room];
#define FERRY_MEMBER_BYTES(name, room)	unsigned char name[room];
#define FERRY_MEMBER(type, kind, name, since, min, max, room) \
	FERRY_MEMBER_##kind(name, room)

#define FERRY_ENTRY(type, kind, name, since, min, max, room) \
	{ #name, FERRY_##kind, since, offsetof(struct type, name), \
	  sizeof(((struct type *)0)->name), min, max },

#ifdef __cplusplus
#define FERRY_RECORD_CONST	inline constexpr
#else
#define FERRY_RECORD_CONST	static const __attribute__((unused))
#endif

#define FERRY_RECORD(type, tag, version, oldest, FIELDS) \
	struct type { \
		FIELDS(FERRY_MEMBER, type) \
	}; \
	FERRY_RECORD_CONST struct ferry_field type##_fields[] = { \
		FIELDS(FERRY_ENTRY, type) \
	}; \
	FERRY_RECORD_CONST struct ferry_record type##_record = { \
		tag, version, oldest, sizeof(struct type), \
		sizeof(type##_fields) / sizeof(type##_fields[0]), \
		type##_fields, \
	}

#ifdef __cplusplus
}
#endif
#endif
