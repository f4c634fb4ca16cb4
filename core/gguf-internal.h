/* What the files of the GGUF reader share: parts of a model, their parsed headers, the name index.
 *
 * Invariant: every sharpi_str in these structures lies inside the bytes of the part that it was read from.
 */
#ifndef SHARPI_CORE_GGUF_INTERNAL_H
#define SHARPI_CORE_GGUF_INTERNAL_H

#include "gguf.h"

/* A name as it is shown in messages: control characters replaced, long names cut. */
struct sharpi_gguf_shown {
    char text[104];
};

/* A keyed hash table from names to item numbers, so that a hostile file cannot make look-ups slow. */
struct sharpi_gguf_index {
    uint64_t key[2];
    uint64_t mask; /* slots - 1 */
    struct sharpi_gguf_slot *slots;
};

/* A tensor as the header states it, checked. */
struct sharpi_gguf_info {
    struct sharpi_str name;
    uint32_t type;
    uint32_t n_dims;
    uint64_t ne[4];
    uint64_t offset; /* from the start of the data section */
    uint64_t n_bytes;
};

struct sharpi_gguf_header {
    uint32_t version;
    uint64_t alignment;
    uint64_t data_start; /* byte in the file; past its end when there are no tensors */
    uint64_t n_values;
    struct sharpi_gguf_value *values;
    struct sharpi_gguf_index keys;
    uint64_t n_infos;
    struct sharpi_gguf_info *infos; /* freed once the tensors are made */
};

/* One file of a model. `shown` is the path's tail, so that a long path cannot push the message out of the text. */
struct sharpi_gguf_part {
    char *path;
    const char *shown;
    const uint8_t *bytes;
    uint64_t n_bytes;
    int32_t mapped;
    struct sharpi_gguf_header header;
};

struct sharpi_gguf {
    uint32_t n_parts;
    struct sharpi_gguf_part *parts;
    uint64_t n_tensors;
    struct sharpi_tensor *tensors;
    char *names; /* NUL-terminated tensor names, one after the other */
    struct sharpi_gguf_index tensor_index;
};

/* A place in a part. Reading functions check against the part's end and move `at`. */
struct sharpi_gguf_reader {
    const struct sharpi_gguf_part *part;
    uint64_t at;
    struct sharpi_error *err;
};

/* gguf-parse.c: header and metadata */
int32_t sharpi_gguf_parse(struct sharpi_gguf_part *part, uint32_t flags, struct sharpi_error *err);
void sharpi_gguf_header_free(struct sharpi_gguf_header *header);
const struct sharpi_gguf_value *sharpi_gguf_header_find(const struct sharpi_gguf_header *header,
                                                        const char *key);

/* gguf-reader.c: checked reads and names for messages. `what` says in messages what is being read. */
const char *sharpi_gguf_show(struct sharpi_str text, struct sharpi_gguf_shown *buffer);
uint64_t sharpi_gguf_left(const struct sharpi_gguf_reader *reader);
int32_t sharpi_gguf_need(const struct sharpi_gguf_reader *reader, uint64_t n_bytes, const char *what);
int32_t sharpi_gguf_read_u32(struct sharpi_gguf_reader *reader, uint32_t *out, const char *what);
int32_t sharpi_gguf_read_u64(struct sharpi_gguf_reader *reader, uint64_t *out, const char *what);
int32_t sharpi_gguf_read_str(struct sharpi_gguf_reader *reader, struct sharpi_str *out, const char *what);
/* Makes room for one more item of an array that holds n: capacities are powers of two, so that memory follows
 * what was really read and never what a count claims. */
int32_t sharpi_gguf_grow(struct sharpi_gguf_reader *reader, void **items, uint64_t n, uint64_t item_bytes);

/* gguf-tensors.c: tensor descriptions of one part, and the tensors of all parts */
int32_t sharpi_gguf_parse_infos(struct sharpi_gguf_reader *reader, struct sharpi_gguf_header *header,
                                uint64_t n, uint32_t flags);
int32_t sharpi_gguf_make_tensors(struct sharpi_gguf *gguf, uint32_t flags, struct sharpi_error *err);

/* gguf.c: conversions, for values of any part */
const char *sharpi_gguf_type_name(uint32_t type);
uint64_t sharpi_gguf_type_bytes(uint32_t type); /* 0 for strings, arrays and unknown types */
int32_t sharpi_gguf_value_u64(const struct sharpi_gguf_part *part, const struct sharpi_gguf_value *value,
                              uint64_t *out, struct sharpi_error *err);

/* gguf-index.c */
int32_t sharpi_gguf_index_init(struct sharpi_gguf_index *index, uint64_t n_items);
/* 1 if added, 0 if the name was there already (*item is then the older one). */
int32_t sharpi_gguf_index_add(struct sharpi_gguf_index *index, struct sharpi_str name, uint64_t *item);
/* 1 and *item if found, else 0. */
int32_t sharpi_gguf_index_find(const struct sharpi_gguf_index *index, struct sharpi_str name, uint64_t *item);
void sharpi_gguf_index_free(struct sharpi_gguf_index *index);

/* gguf-foreign.c: says what a file that is not a readable GGUF file is. 0 when its first bytes are those of GGUF 2 or 3. */
int32_t sharpi_gguf_check_magic(const struct sharpi_gguf_part *part, struct sharpi_error *err);

#endif
