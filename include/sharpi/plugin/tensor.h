/* Tensors as a GGUF file stores them, and the status codes and error text that every call uses.
 *
 * Everything here is plain data or a static inline function: a plugin needs no library to use it.
 */
#ifndef SHARPI_PLUGIN_TENSOR_H
#define SHARPI_PLUGIN_TENSOR_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Status of a call: 0 or one of these. The numbers are frozen. */
enum sharpi_status {
    SHARPI_OK = 0,
    SHARPI_EINVAL = -1,  /* an argument or option that cannot be */
    SHARPI_ENOMEM = -2,  /* host or device memory ran out; only the request fails */
    SHARPI_EIO = -3,     /* a file could not be read or written */
    SHARPI_EFORMAT = -4, /* a file's content breaks its format */
    SHARPI_ENOTSUP = -5, /* valid, but nothing loaded can do it */
    SHARPI_ENOENT = -6,  /* no such file, key, tensor or plugin */
    SHARPI_EABI = -7,    /* a plugin does not fit this core */
    SHARPI_EFULL = -8,   /* no free KV pages or no room in the context */
    SHARPI_ECANCELLED = -9,
    SHARPI_EDEVICE = -10, /* the device or its driver failed */
    SHARPI_EBUG = -11,    /* a promise between core and plugin was broken */
};

/* Error text, owned by the caller. `err` parameters may be NULL. The first error wins: a callee that passes
 * an error on leaves the text as it is or puts context in front of it. */
struct sharpi_error {
    uint32_t size; /* sizeof(struct sharpi_error) */
    int32_t code;  /* enum sharpi_status */
    char text[1016];
};

#define SHARPI_ERROR_INIT                                                                                    \
    {                                                                                                        \
        (uint32_t)sizeof(struct sharpi_error), 0,                                                            \
        {                                                                                                    \
            0                                                                                                \
        }                                                                                                    \
    }

/* Fills `err` (if not NULL) with a printf-style sentence and returns `code`, so that a function can say
 * `return sharpi_fail(err, SHARPI_EINVAL, "...")`. Say file, key, value, limit and remedy. */
__attribute__((format(printf, 3, 4))) static inline int32_t sharpi_fail(struct sharpi_error *err,
                                                                        int32_t code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err->code = code;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return code;
}

/* Element types; the numbers are those of the GGUF file format. Types that are missing here are refused when
 * a file is opened. */
enum sharpi_type {
    SHARPI_TYPE_F32 = 0,
    SHARPI_TYPE_F16 = 1,
    SHARPI_TYPE_Q4_0 = 2,
    SHARPI_TYPE_Q4_1 = 3,
    SHARPI_TYPE_Q5_0 = 6,
    SHARPI_TYPE_Q5_1 = 7,
    SHARPI_TYPE_Q8_0 = 8,
    SHARPI_TYPE_Q2_K = 10,
    SHARPI_TYPE_Q3_K = 11,
    SHARPI_TYPE_Q4_K = 12,
    SHARPI_TYPE_Q5_K = 13,
    SHARPI_TYPE_Q6_K = 14,
    SHARPI_TYPE_IQ4_NL = 20,
    SHARPI_TYPE_IQ4_XS = 23,
    SHARPI_TYPE_BF16 = 30,
    SHARPI_TYPE_MXFP4 = 39,
};

/* Block geometry of a type: a row of n elements is n / block_elems blocks of block_bytes each. */
struct sharpi_type_info {
    const char *name; /* lower case, as files and people write it: "q4_k" */
    uint32_t block_elems;
    uint32_t block_bytes;
};

/* NULL for a type this version does not know. */
static inline const struct sharpi_type_info *sharpi_type_info(int32_t type)
{
    static const struct sharpi_type_info f32 = {"f32", 1, 4}, f16 = {"f16", 1, 2}, bf16 = {"bf16", 1, 2},
                                         q4_0 = {"q4_0", 32, 18}, q4_1 = {"q4_1", 32, 20},
                                         q5_0 = {"q5_0", 32, 22}, q5_1 = {"q5_1", 32, 24},
                                         q8_0 = {"q8_0", 32, 34}, q2_k = {"q2_k", 256, 84},
                                         q3_k = {"q3_k", 256, 110}, q4_k = {"q4_k", 256, 144},
                                         q5_k = {"q5_k", 256, 176}, q6_k = {"q6_k", 256, 210},
                                         iq4_nl = {"iq4_nl", 32, 18}, iq4_xs = {"iq4_xs", 256, 136},
                                         mxfp4 = {"mxfp4", 32, 17};
    switch (type) {
    case SHARPI_TYPE_F32:
        return &f32;
    case SHARPI_TYPE_F16:
        return &f16;
    case SHARPI_TYPE_BF16:
        return &bf16;
    case SHARPI_TYPE_Q4_0:
        return &q4_0;
    case SHARPI_TYPE_Q4_1:
        return &q4_1;
    case SHARPI_TYPE_Q5_0:
        return &q5_0;
    case SHARPI_TYPE_Q5_1:
        return &q5_1;
    case SHARPI_TYPE_Q8_0:
        return &q8_0;
    case SHARPI_TYPE_Q2_K:
        return &q2_k;
    case SHARPI_TYPE_Q3_K:
        return &q3_k;
    case SHARPI_TYPE_Q4_K:
        return &q4_k;
    case SHARPI_TYPE_Q5_K:
        return &q5_k;
    case SHARPI_TYPE_Q6_K:
        return &q6_k;
    case SHARPI_TYPE_IQ4_NL:
        return &iq4_nl;
    case SHARPI_TYPE_IQ4_XS:
        return &iq4_xs;
    case SHARPI_TYPE_MXFP4:
        return &mxfp4;
    default:
        return NULL;
    }
}

/* Bytes of a row of n elements; 0 if the type is unknown or n is not a whole number of blocks. */
static inline uint64_t sharpi_row_bytes(int32_t type, uint64_t n)
{
    const struct sharpi_type_info *info = sharpi_type_info(type);
    return info && n % info->block_elems == 0 ? n / info->block_elems * info->block_bytes : 0;
}

/* A weight as the file holds it. ne[0] is the contiguous (input) dimension, so a matrix [in, out] is `out`
 * rows of `in` elements; ne of unused dimensions is 1. Owned by the model, valid for its lifetime, immutable.
 * `data` points into the read-only file mapping and is NULL when only the header is there (planning). */
struct sharpi_tensor {
    uint32_t size;
    int32_t type; /* enum sharpi_type */
    uint32_t n_dims;
    uint32_t reserved;
    uint64_t ne[4];
    uint64_t n_bytes;
    const char *name;
    const void *data;
};

#ifdef __cplusplus
}
#endif
#endif
