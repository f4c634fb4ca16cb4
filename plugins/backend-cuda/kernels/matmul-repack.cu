/* From the file's layout to the device's (matmul-layout.h) and back to numbers. Runs at load time; nothing is lost.
 *
 * Bytes moved: each weight read once and written once. One thread makes what one lane of a kernel will read of one slab.
 */
#include "matmul-decode.cuh"
#include "matmul.h"
#include "launch.h"

struct repack_params {
    const uint8_t *src; /* file rows from first_row on */
    uint8_t *dst;       /* the group of first_row */
    uint64_t row_bytes, group_bytes;
    uint32_t n_rows, n_in, n_groups, n_slabs;
};

static __device__ uint32_t bits_of(uint8_t byte, uint32_t shift, uint32_t n)
{
    return byte >> shift & ((1u << n) - 1);
}

/* Element i of a block, as the file codes it (unsigned). */
template <int TYPE> static __device__ uint32_t file_code(const uint8_t *p, uint32_t i)
{
    constexpr uint32_t qs32 = TYPE == SHARPI_TYPE_MXFP4                              ? 1
                              : TYPE == SHARPI_TYPE_Q4_1 || TYPE == SHARPI_TYPE_Q5_0 ? 4
                                                                                     : 2;
    if constexpr (TYPE == SHARPI_TYPE_Q8_0) {
        return p[2 + i];
    } else if constexpr (TYPE == SHARPI_TYPE_Q5_0 || TYPE == SHARPI_TYPE_Q5_1) {
        const uint8_t *high = p + (TYPE == SHARPI_TYPE_Q5_0 ? 2 : 4), *qs = high + 4;
        return bits_of(qs[i & 15], 4 * (i >> 4), 4) | bits_of(high[i >> 3], i & 7, 1) << 4;
    } else if constexpr (TYPE == SHARPI_TYPE_Q2_K || TYPE == SHARPI_TYPE_Q3_K) {
        const uint8_t *low = p + (TYPE == SHARPI_TYPE_Q2_K ? 16 : 32) + 32 * (i >> 7);
        uint32_t code = bits_of(low[i & 31], 2 * (i >> 5 & 3), 2);
        return TYPE == SHARPI_TYPE_Q2_K ? code : code | bits_of(p[i & 31], i >> 5, 1) << 2;
    } else if constexpr (TYPE == SHARPI_TYPE_Q4_K || TYPE == SHARPI_TYPE_Q5_K) {
        const uint8_t *qs = p + (TYPE == SHARPI_TYPE_Q4_K ? 16 : 48) + 32 * (i >> 6);
        uint32_t code = bits_of(qs[i & 31], 4 * (i >> 5 & 1), 4);
        return TYPE == SHARPI_TYPE_Q4_K ? code : code | bits_of(p[16 + (i & 31)], i >> 5, 1) << 4;
    } else if constexpr (TYPE == SHARPI_TYPE_Q6_K) {
        const uint8_t *low = p + 64 * (i >> 7), *high = p + 128 + 32 * (i >> 7);
        return bits_of(low[i & 63], 4 * (i >> 6 & 1), 4) | bits_of(high[i & 31], 2 * (i >> 5 & 3), 2) << 4;
    } else if constexpr (TYPE == SHARPI_TYPE_IQ4_XS) {
        return bits_of(p[8 + 16 * (i >> 5) + (i & 15)], 4 * (i >> 4 & 1), 4);
    } else {
        return bits_of(p[qs32 + (i & 15)], 4 * (i >> 4), 4);
    }
}

/* Adds the lane's codes of one block and row (code[4 * sub + j]) to its granules. */
template <int TYPE>
static __device__ void add_codes(uint32_t *low, uint32_t *high, int block, int row, const uint32_t code[8])
{
    constexpr uint32_t low_bits = weight_type<TYPE>::layout.low_bits,
                       high_bits = weight_type<TYPE>::layout.high_bits;
    for (int i = 0; i < 8; i++) {
        uint32_t sub = i >> 2, j = i & 3, combo = 2 * row + sub, l = code[i] & ((1u << low_bits) - 1),
                 h = code[i] >> low_bits;
        if (low_bits == 8)
            low[4 * block + combo] |= l << 8 * j;
        else if (low_bits == 4 && weight_type<TYPE>::has_table)
            low[2 * block + row] |= l << (16 * sub + 4 * j);
        else if (low_bits == 4)
            low[4 * (block >> 1) + 2 * sub + row] |= l << (8 * j + 4 * (block & 1));
        else
            low[block] |= l << (8 * j + 2 * combo);
        if (high_bits == 2)
            high[block] |= h << (8 * j + 2 * combo);
        else if (high_bits == 1)
            high[block >> 1] |= h << (8 * j + 4 * (block & 1) + combo);
    }
}

/* A row's part of a header with scales and mins of 6 bits. */
static __device__ void write_six_bits(uint8_t *to, uint32_t row, const uint8_t *p)
{
    const uint8_t *q = p + 4;
    for (uint32_t i = 0; i < 4; i++)
        to[4 * row + i] = p[i];
    for (uint32_t word = 0; word < 2; word++) {
        for (uint32_t j = 0; j < 2; j++) {
            uint32_t upper = 0;
            for (uint32_t k = 0; k < 2; k++) { /* lanes */
                const uint32_t block = 4 * word + 2 * k + j, i = block & 3;
                const uint32_t scale = block < 4 ? q[i] & 63 : (q[8 + i] & 15) | q[i] >> 6 << 4,
                               min = block < 4 ? q[4 + i] & 63 : q[8 + i] >> 4 | q[4 + i] >> 6 << 4;
                to[16 + 4 * (block >> 1) + 2 * row + j] = (uint8_t)((scale & 15) | (min & 15) << 4);
                upper |= (scale >> 4 | min >> 4 << 2) << 4 * k;
            }
            to[8 + 4 * word + 2 * row + j] = (uint8_t)upper;
        }
    }
}

static __device__ void copy_bytes(uint8_t *dst, const uint8_t *src, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        dst[i] = src[i];
}

/* The header's part of one row; p is its first block in the slab, NULL for a row that does not exist. n_blocks counts file
 * blocks. */
template <int TYPE>
static __device__ void write_header(uint8_t *header, uint32_t g, uint32_t row, const uint8_t *p,
                                    uint32_t n_blocks, uint32_t block_bytes)
{
    constexpr uint32_t in_header = TYPE == SHARPI_TYPE_MXFP4                              ? 1
                                   : TYPE == SHARPI_TYPE_Q4_1 || TYPE == SHARPI_TYPE_Q5_1 ? 4
                                                                                          : 2;
    uint32_t place = 2 * g + row;
    if constexpr (!weight_type<TYPE>::is_super) {
        for (uint32_t b = 0; b < 8; b++)
            for (uint32_t i = 0; i < in_header; i++)
                header[(8 * place + b) * in_header + i] = p && b < n_blocks ? p[b * block_bytes + i] : 0;
    } else {
        constexpr uint32_t bytes = TYPE == SHARPI_TYPE_IQ4_XS ? 8 : 16;
        uint8_t *to = header + place * bytes;
        if (weight_type<TYPE>::six_bits) {
            const uint8_t none[16] = {};
            write_six_bits(header + 32 * g, row, p ? p : none);
        } else if (!p) {
            for (uint32_t i = 0; i < bytes; i++)
                to[i] = 0;
        } else if (TYPE == SHARPI_TYPE_Q3_K) {
            copy_bytes(to, p + 96, 14);
            to[14] = to[15] = 0;
        } else {
            copy_bytes(to, p + (TYPE == SHARPI_TYPE_Q6_K ? 192 : 0), bytes);
        }
        if constexpr (TYPE == SHARPI_TYPE_Q2_K || TYPE == SHARPI_TYPE_Q6_K) {
            constexpr uint32_t d_bytes = TYPE == SHARPI_TYPE_Q2_K ? 4 : 2;
            for (uint32_t i = 0; i < d_bytes; i++)
                header[256 + place * d_bytes + i] = p ? p[(TYPE == SHARPI_TYPE_Q2_K ? 80 : 208) + i] : 0;
        }
    }
}

template <int TYPE> static __global__ void repack_kernel(struct repack_params a)
{
    using W = weight_type<TYPE>;
    constexpr uint32_t elems = W::is_super ? 256 : 32;
    uint64_t index = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t lane = index & 31, g = lane >> 2, t = lane & 3;
    uint64_t slab = (index >> 5) % a.n_slabs, group = (index >> 5) / a.n_slabs;
    if (group >= a.n_groups)
        return;
    uint32_t n_columns = min(256u, a.n_in - (uint32_t)slab * 256);
    uint32_t block_bytes = (uint32_t)(a.row_bytes / (a.n_in / elems));
    uint8_t *dst = a.dst + group * a.group_bytes + slab * slab_bytes(W::layout, 256);
    uint32_t low[64 * W::layout.low_bits / 8 / 2] = {}, high[4 * W::layout.high_bits + 1] = {};

    for (uint32_t row = 0; row < 2; row++) {
        uint64_t r = group * 16 + g + 8 * row;
        const uint8_t *p =
            r < a.n_rows ? a.src + r * a.row_bytes + slab * (256 / elems) * block_bytes : nullptr;
        if (t == 0)
            write_header<TYPE>(dst, g, row, p, n_columns / elems, block_bytes);
        for (uint32_t b = 0; b < 8; b++) {
            uint32_t code[8];
            for (uint32_t i = 0; i < 8; i++) {
                uint32_t column = 32 * b + 16 * (i >> 2) + 4 * t + (i & 3);
                code[i] =
                    p && column < n_columns
                        ? file_code<TYPE>(p + column / elems * block_bytes, column % elems) ^ W::layout.flip
                        : 0;
            }
            add_codes<TYPE>(low, high, b, row, code);
        }
    }
    uint4 *to = (uint4 *)(dst + W::layout.header) + lane;
    for (int i = 0; i < (int)W::layout.high_bits; i++)
        to[32 * i] = make_uint4(high[4 * i], high[4 * i + 1], high[4 * i + 2], high[4 * i + 3]);
    to = (uint4 *)(dst + W::low_offset) + lane;
    for (uint32_t i = 0; i < (n_columns * W::layout.low_bits + 255) / 256; i++)
        to[32 * i] = make_uint4(low[4 * i], low[4 * i + 1], low[4 * i + 2], low[4 * i + 3]);
}

/* 16-bit types: one thread per 16 bytes. */
static __global__ void repack_16_kernel(struct repack_params a)
{
    uint64_t index = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x, n = a.group_bytes / 16;
    uint64_t group = index / n, piece = index % n;
    if (group >= a.n_groups)
        return;
    uint32_t lane = piece & 31, g = lane >> 2, t = lane & 3;
    uint32_t column = (uint32_t)(piece >> 5) * 16 + 4 * t;
    uint32_t word[4];
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t r = group * 16 + g + 8 * (i >> 1);
        const uint16_t *src = (const uint16_t *)(a.src + r * a.row_bytes);
        uint32_t c = column + 2 * (i & 1);
        word[i] = r < a.n_rows && c < a.n_in ? src[c] : 0;
        word[i] |= r < a.n_rows && c + 1 < a.n_in ? (uint32_t)src[c + 1] << 16 : 0;
    }
    ((uint4 *)(a.dst + group * a.group_bytes))[piece] = make_uint4(word[0], word[1], word[2], word[3]);
}

extern "C" int matrix_repack(const struct cuda_matrix *m, uint32_t stack, const void *staging_dev,
                             uint64_t first_row, uint64_t n_rows, cudaStream_t stream)
{
    struct slab_layout l = slab_layout_of(m->type);
    uint8_t *dst = (uint8_t *)m->data + stack * m->stack_bytes;
    struct repack_params a = {};

    if (n_rows == 0)
        return 0;
    if (stack >= m->n_stack || first_row + n_rows > m->n_out || first_row % MATMUL_GROUP)
        return (int)cudaErrorInvalidValue;
    a.row_bytes = sharpi_row_bytes(m->type, m->n_in);
    if (l.columns == 0)
        return (int)cudaMemcpyAsync(dst + first_row * a.row_bytes, staging_dev, n_rows * a.row_bytes,
                                    cudaMemcpyDeviceToDevice, stream);
    a.group_bytes = group_bytes(l, m->n_in);
    a.src = (const uint8_t *)staging_dev;
    a.dst = dst + first_row / MATMUL_GROUP * a.group_bytes;
    a.n_rows = (uint32_t)n_rows;
    a.n_in = (uint32_t)m->n_in;
    a.n_groups = (uint32_t)((n_rows + 15) / 16);
    a.n_slabs = (uint32_t)((m->n_in + l.columns - 1) / l.columns);
    uint64_t n_threads =
        l.low_bits == 16 ? a.n_groups * (a.group_bytes / 16) : 32ull * a.n_groups * a.n_slabs;
    uint32_t n_blocks = (uint32_t)((n_threads + 127) / 128);
    switch (m->type) {
    case SHARPI_TYPE_F16:
    case SHARPI_TYPE_BF16:
        repack_16_kernel<<<n_blocks, 128, 0, stream>>>(a);
        break;
#define REPACK(TYPE)                                                                                         \
    case TYPE:                                                                                               \
        repack_kernel<TYPE><<<n_blocks, 128, 0, stream>>>(a);                                                \
        break;
        EACH_QUANTIZED_TYPE(REPACK)
    default:
        return (int)cudaErrorInvalidValue;
    }
    return (int)cudaGetLastError();
}

/* ---- Rows back to f32 ---- */

struct gather_params {
    const uint8_t *data;
    const int32_t *ids, *n_rows_dev;
    uint64_t first_row, n_in, n_out, group_bytes, out_stride;
    float *out;
    float scale;
    uint32_t n_rows;
};

template <int TYPE> static __device__ float4 four_weights(const gather_params &a, uint64_t r, uint32_t column)
{
    if constexpr (TYPE == SHARPI_TYPE_F32) {
        const float *row = (const float *)a.data + r * a.n_in;
        float v[4];
        for (uint32_t i = 0; i < 4; i++)
            v[i] = column + i < a.n_in ? row[column + i] : 0;
        return make_float4(v[0], v[1], v[2], v[3]);
    } else {
        using W = weight_type<TYPE>;
        const uint8_t *slab = a.data + r / 16 * a.group_bytes +
                              (uint64_t)(column / W::columns) * slab_bytes(W::layout, W::columns);
        int word = (column & 31) >> 2, lane = (int)(r & 7) * 4 + (word & 3);
        lane_header<TYPE> h = lane_header_load<TYPE>(slab, lane);
        return lane_weights<TYPE>(slab, h, column % W::columns / 32, r >> 3 & 1, word >> 2, lane);
    }
}

template <int TYPE> static __global__ void gather_kernel(gather_params a)
{
    uint32_t column = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    launch_next();
    launch_wait();
    uint32_t n_rows = a.n_rows_dev ? min(a.n_rows, (uint32_t)*a.n_rows_dev) : a.n_rows;
    if (column >= a.n_in)
        return;
    for (uint32_t i = blockIdx.y; i < n_rows; i += gridDim.y) {
        uint64_t r = a.ids ? (uint64_t)(int64_t)a.ids[i] : a.first_row + i;
        float4 v = r < a.n_out ? four_weights<TYPE>(a, r, column) : make_float4(0, 0, 0, 0);
        float w[4] = {v.x * a.scale, v.y * a.scale, v.z * a.scale, v.w * a.scale};
        float *out = a.out + i * a.out_stride + column;
        for (uint32_t j = 0; j < 4 && column + j < a.n_in; j++)
            out[j] = w[j];
    }
}

extern "C" int matrix_gather_launch(const struct cuda_matrix *m, const int32_t *ids, uint64_t first_row,
                                    uint32_t n_rows, const int32_t *n_rows_dev, float scale, float *out,
                                    uint64_t out_stride, cudaStream_t stream)
{
    struct slab_layout l = slab_layout_of(m->type);
    gather_params a = {};

    if (n_rows == 0)
        return 0;
    a.data = (const uint8_t *)m->data;
    a.ids = ids;
    a.n_rows_dev = n_rows_dev;
    a.first_row = first_row;
    a.n_in = m->n_in;
    a.n_out = m->n_out;
    a.group_bytes = l.columns ? group_bytes(l, m->n_in) : 0;
    a.out = out;
    a.out_stride = out_stride;
    a.scale = scale;
    a.n_rows = n_rows;
    dim3 grid((uint32_t)((m->n_in + 511) / 512), n_rows < 65535 ? n_rows : 65535);
    switch (m->type) {
#define GATHER(TYPE)                                                                                         \
    case TYPE:                                                                                               \
        gather_kernel<TYPE><<<grid, 128, 0, stream>>>(a);                                                    \
        break;
        EACH_SLAB_TYPE(GATHER)
        GATHER(SHARPI_TYPE_F32)
    default:
        return (int)cudaErrorInvalidValue;
    }
    return (int)cudaGetLastError();
}

/* ---- Activations ---- */

#include "matmul-act.cuh"

struct convert_params {
    const float *src;
    uint8_t *dst;
    const int32_t *n_rows_dev;
    uint64_t n, src_stride, dst_stride;
    uint32_t n_rows;
    int32_t format;
};

static __global__ void act_convert_kernel(convert_params a)
{
    uint32_t column = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    launch_next();
    launch_wait();
    uint32_t n_rows = a.n_rows_dev ? min(a.n_rows, (uint32_t)*a.n_rows_dev) : a.n_rows;
    uint64_t n = a.format == ACT_BF16 ? (a.n + 63) & ~63ull : a.n;
    uint32_t mask = __ballot_sync(~0u, column < n); /* whole octets: n is a multiple of 32 where it matters */
    if (column >= n)
        return;
    for (uint32_t r = blockIdx.y; r < n_rows; r += gridDim.y) {
        const float *src = a.src + r * a.src_stride;
        uint8_t *dst = a.dst + r * a.dst_stride;
        float v[4];
        for (uint32_t i = 0; i < 4; i++)
            v[i] = column + i < a.n ? src[column + i] : 0;
        if (a.format == ACT_Q8)
            act_store_q8(dst, a.n, column, make_float4(v[0], v[1], v[2], v[3]), mask);
        else if (a.format == ACT_BF16)
            act_store_bf16(dst, column, make_float4(v[0], v[1], v[2], v[3]));
        else
            for (uint32_t i = 0; i < 4 && column + i < a.n; i++)
                ((float *)dst)[column + i] = v[i];
    }
}

extern "C" int act_convert_launch(enum act_format format, void *dst, uint64_t dst_stride, const float *src,
                                  uint64_t src_stride, uint64_t n, uint32_t n_rows, const int32_t *n_rows_dev,
                                  cudaStream_t stream)
{
    if (n_rows == 0 || n == 0)
        return 0;
    convert_params a = {src, (uint8_t *)dst, n_rows_dev, n, src_stride, dst_stride, n_rows, (int32_t)format};
    dim3 grid((uint32_t)((act_row_bytes(ACT_BF16, n) / 2 + 511) / 512), n_rows < 65535 ? n_rows : 65535);
    act_convert_kernel<<<grid, 128, 0, stream>>>(a);
    return (int)cudaGetLastError();
}
