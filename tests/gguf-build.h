/* A small GGUF writer for tests: appends to a buffer exactly what it is told, however wrong.
 *
 * The writer does not check or count anything, so a test can break each field by itself. Out of memory ends the test
 * program. All numbers are written little-endian.
 */
#ifndef TESTS_GGUF_BUILD_H
#define TESTS_GGUF_BUILD_H

#include "core/gguf.h"

struct build {
    uint8_t *bytes;
    uint64_t n;
    uint64_t capacity;
};

void build_free(struct build *b);
void build_bytes(struct build *b, const void *bytes, uint64_t n);
void build_fill(struct build *b, int byte, uint64_t n);
void build_u8(struct build *b, uint8_t value);
void build_u16(struct build *b, uint16_t value);
void build_u32(struct build *b, uint32_t value);
void build_u64(struct build *b, uint64_t value);
void build_f32(struct build *b, float value);
void build_f64(struct build *b, double value);
void build_str(struct build *b, const char *text);
void build_align(struct build *b, uint64_t alignment);

void build_header(struct build *b, uint32_t version, uint64_t n_tensors, uint64_t n_values);
void build_key(struct build *b, const char *key, uint32_t type);                    /* the value follows */
void build_array(struct build *b, const char *key, uint32_t elem_type, uint64_t n); /* the elements follow */
void build_value_u32(struct build *b, const char *key, uint32_t value);
void build_value_str(struct build *b, const char *key, const char *value);
void build_info(struct build *b, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
                uint64_t offset);
void build_info_1d(struct build *b, const char *name, uint64_t n, uint32_t type, uint64_t offset);

/* A valid model: two values, tensors "a" [32, 2] f32 (bytes 0x11) and "b" [64] q8_0 (bytes 0x22); no byte behind. */
void build_small_model(struct build *b, uint32_t version);
/* Part `no` of a split of that model in `count` parts: part 0 has the metadata, the last two parts one tensor each. */
void build_small_part(struct build *b, uint32_t no, uint32_t count);
/* One key of each value type, named after it, arrays of each, an array of arrays; no tensors. */
void build_all_values(struct build *b);
/* A tensor of 512 elements of each of the n types, named after it. */
void build_all_tensors(struct build *b, const int32_t *types, uint64_t n);

/* 0, or -1 with errno set. */
int build_save(const struct build *b, const char *path);

#endif
