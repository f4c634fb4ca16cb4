/* GGUF files: metadata and tensors of a model, read once, mapped for the model's lifetime.
 *
 * Invariant: after sharpi_gguf_open succeeded, every string, array and tensor that these functions hand out lies
 * inside the mapping, every tensor's shape and byte count agree with its type, and no two tensors overlap.
 * A file is untrusted until then. Not changed after opening, so any thread may read.
 */
#ifndef SHARPI_CORE_GGUF_H
#define SHARPI_CORE_GGUF_H

#include <sharpi/plugin/tensor.h>

struct sharpi_gguf;

enum sharpi_gguf_type { /* value types of metadata, numbers of the file format */
                        SHARPI_GGUF_U8 = 0,
                        SHARPI_GGUF_I8 = 1,
                        SHARPI_GGUF_U16 = 2,
                        SHARPI_GGUF_I16 = 3,
                        SHARPI_GGUF_U32 = 4,
                        SHARPI_GGUF_I32 = 5,
                        SHARPI_GGUF_F32 = 6,
                        SHARPI_GGUF_BOOL = 7,
                        SHARPI_GGUF_STRING = 8,
                        SHARPI_GGUF_ARRAY = 9,
                        SHARPI_GGUF_U64 = 10,
                        SHARPI_GGUF_I64 = 11,
                        SHARPI_GGUF_F64 = 12,
};

/* A string inside the mapping: not NUL-terminated. */
struct sharpi_str {
    const char *data;
    uint64_t n;
};

/* One metadata value. For an array: element type, count, and the packed elements in the file (strings are
 * reached with sharpi_gguf_strings). */
struct sharpi_gguf_value {
    struct sharpi_str key;
    uint32_t type;      /* enum sharpi_gguf_type */
    uint32_t elem_type; /* of an array, else 0 */
    uint64_t n;         /* elements of an array, 1 for a scalar */
    const void *data;   /* scalar or packed elements, unaligned, little-endian; for a string its characters */
    uint64_t n_bytes;   /* bytes at data */
};

enum sharpi_gguf_flags {
    SHARPI_GGUF_HEADER_ONLY =
        1, /* tensor data may be missing (truncated download, plan): data pointers are NULL */
};

/* Opens `path`; a first split file (-00001-of-0000N) opens all of them. */
int32_t sharpi_gguf_open(const char *path, uint32_t flags, struct sharpi_gguf **out,
                         struct sharpi_error *err);

/* The same over bytes in memory (tests, fuzzing); `name` is for messages. The bytes are borrowed. */
int32_t sharpi_gguf_open_memory(const void *bytes, uint64_t n_bytes, const char *name, uint32_t flags,
                                struct sharpi_gguf **out, struct sharpi_error *err);
void sharpi_gguf_close(struct sharpi_gguf *gguf); /* NULL is fine */

/* Gives back the memory of the metadata's pages once what was needed is copied; they come back from the file when touched. */
void sharpi_gguf_forget_metadata(const struct sharpi_gguf *gguf);

const char *sharpi_gguf_path(const struct sharpi_gguf *gguf);
uint32_t sharpi_gguf_version(const struct sharpi_gguf *gguf);
uint64_t sharpi_gguf_file_bytes(const struct sharpi_gguf *gguf); /* all split files together */

/* Metadata in file order; look-ups take a NUL-terminated key. NULL when absent. */
uint64_t sharpi_gguf_n_values(const struct sharpi_gguf *gguf);
const struct sharpi_gguf_value *sharpi_gguf_value_at(const struct sharpi_gguf *gguf, uint64_t index);
const struct sharpi_gguf_value *sharpi_gguf_find(const struct sharpi_gguf *gguf, const char *key);

/* Typed look-ups. Return 0 when found, SHARPI_ENOENT when absent (err untouched, *out untouched), SHARPI_EFORMAT
 * when the value has another type or does not fit (message names file, key, type). Integers of any width and bool
 * convert; a float is not an integer. */
int32_t sharpi_gguf_u64(const struct sharpi_gguf *gguf, const char *key, uint64_t *out,
                        struct sharpi_error *err);
int32_t sharpi_gguf_f64(const struct sharpi_gguf *gguf, const char *key, double *out,
                        struct sharpi_error *err);
int32_t sharpi_gguf_string(const struct sharpi_gguf *gguf, const char *key, struct sharpi_str *out,
                           struct sharpi_error *err);
/* All strings of an array: *out is a new array of *n entries (free() it); the characters stay in the mapping. */
int32_t sharpi_gguf_strings(const struct sharpi_gguf *gguf, const char *key, struct sharpi_str **out,
                            uint64_t *n, struct sharpi_error *err);
/* Element `index` of a numeric or bool array, converted. */
int32_t sharpi_gguf_array_u64(const struct sharpi_gguf *gguf, const struct sharpi_gguf_value *array,
                              uint64_t index, uint64_t *out, struct sharpi_error *err);
int32_t sharpi_gguf_array_f64(const struct sharpi_gguf *gguf, const struct sharpi_gguf_value *array,
                              uint64_t index, double *out, struct sharpi_error *err);

/* Tensors in file order. The pointers are stable until close. */
uint64_t sharpi_gguf_n_tensors(const struct sharpi_gguf *gguf);
const struct sharpi_tensor *sharpi_gguf_tensor_at(const struct sharpi_gguf *gguf, uint64_t index);
const struct sharpi_tensor *sharpi_gguf_tensor(const struct sharpi_gguf *gguf, const char *name);

#endif
