/* KV-cache formats: how K and V rows are stored, and the kernels that read and write them, per backend.
 *
 * Storage. A page holds SHARPI_KV_PAGE positions of one layer, first of K or of V (separate buffers, same page number):
 * [SHARPI_KV_PAGE, row_bytes(n)] with n = n_kv_heads * head_dim elements in a row, head-major. A format may arrange the
 * bytes inside a page differently for a backend as long as its own kernels alone read them and the size stays the same.
 * The core owns page numbers, reference counts and tables; it never looks inside a page.
 *
 * Position p of a sequence lives at slot s = p % ring of the layer's class, in page table[s / SHARPI_KV_PAGE], row
 * s % SHARPI_KV_PAGE. For a class without window ring is the context length and the modulo the identity.
 */
#ifndef SHARPI_PLUGIN_KV_H
#define SHARPI_PLUGIN_KV_H

#include <sharpi/plugin/host.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SHARPI_KV_PAGE 64u

struct sharpi_kv {
    uint32_t size;
    uint32_t reserved;
    const char *name;    /* "bf16": what `kv =` takes */
    const char *summary; /* one line for people */
    /* Bytes of a row of n elements. Required. */
    uint64_t (*row_bytes)(void *ctx, uint64_t n);
    /* 0 if the format can hold a layer of this geometry, else SHARPI_ENOTSUP with the rule, the value and the remedy.
     * Asked only for layers that would really use the format. NULL: any geometry. */
    int32_t (*check)(void *ctx, uint32_t layer, uint32_t n_kv_heads, uint32_t head_dim,
                     struct sharpi_error *err);
    /* Reference: one row of n f32 to its stored form and back. Required. */
    void (*encode)(void *ctx, void *row, const float *src, uint64_t n);
    void (*decode)(void *ctx, const void *row, float *dst, uint64_t n);
    /* Kernels for the backend of that name: for "cpu" a struct sharpi_kv_cpu for instruction set `variant`
     * ("scalar", "avx2", "avx512", "avx512bf16" or weaker), for "cuda" what <sharpi/cuda/attention.cuh> defines; NULL when the
     * format has none, and then a backend that can use encode and decode (the CPU's can) does so, slowly and with a line
     * in the log. May be NULL. */
    const void *(*kernels)(void *ctx, const char *backend, const char *variant);
};

/* Kernels of a format for the CPU backend. Rows lie row_bytes(n) apart inside a page; `first` and `count` choose the
 * elements [first, first + count) of each row: one KV head (first = g * head_dim, count = head_dim). All f32 arithmetic. */
struct sharpi_kv_cpu {
    uint32_t size;
    uint32_t reserved;
    /* One row of n f32 to its stored form. Required. */
    void (*append)(void *row, const float *src, uint64_t n);
    /* n_rows rows' elements to f32, dst [n_rows, dst_stride]. Required. */
    void (*load)(float *dst, uint64_t dst_stride, const void *rows, uint64_t row_stride, uint64_t first,
                 uint64_t count, uint32_t n_rows);
    /* scores[h * score_stride + r] = sum_i q[h * q_stride + i] * row_r[first + i], for n_q query heads that share the KV
     * head. NULL: the backend uses load. */
    void (*score)(float *scores, uint64_t score_stride, const float *q, uint64_t q_stride, uint32_t n_q,
                  const void *rows, uint64_t row_stride, uint64_t first, uint64_t count, uint32_t n_rows);
    /* acc[h * acc_stride + i] += sum_r p[h * p_stride + r] * row_r[first + i]. NULL likewise. */
    void (*accumulate)(float *acc, uint64_t acc_stride, const float *p, uint64_t p_stride, uint32_t n_q,
                       const void *rows, uint64_t row_stride, uint64_t first, uint64_t count,
                       uint32_t n_rows);
};

/* A layer's cache as a backend gets it: format, geometry and storage. Layers with kv_source have none (kv == NULL). */
struct sharpi_kv_layer {
    uint32_t size;
    uint32_t class_index; /* which page table of the batch */
    const struct sharpi_kv *kv;
    void *kv_ctx;
    uint32_t n_kv_heads, head_dim;
    uint32_t ring;    /* positions; a multiple of SHARPI_KV_PAGE */
    uint32_t n_pages; /* pages that K and V have room for, each */
    void *k, *v;      /* from sharpi_backend.alloc; NULL while only planning */
};

#ifdef __cplusplus
}
#endif
#endif
