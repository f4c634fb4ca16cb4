/* The ops of row steps on one block's columns. A block's accumulator is acc[NV], four columns each; rows_block says where
 * everything else is.
 *
 * Every thread of the block runs every op, whatever columns it has: ops exchange columns by shuffles and barriers.
 */
#ifndef SHARPI_BACKEND_CUDA_ROWS_OPS_CUH
#define SHARPI_BACKEND_CUDA_ROWS_OPS_CUH

#include "rows-device.cuh"
#include "matmul-act.cuh"
#include "matmul.h"

struct rows_block {
    rows_view view;
    const rows_batch *batch;
    float4 *slots;    /* locals and exchange */
    float4 *ahead;    /* fetched ahead; NULL: nothing is */
    float4 *exchange; /* the last of the slots */
    float *part;      /* [2][ROWS_WARPS_MAX] */
    uint32_t parity;
};

static __device__ __forceinline__ float *block_part(rows_block &b)
{
    b.parity ^= 1;
    return b.part + b.parity * ROWS_WARPS_MAX;
}

static __device__ __forceinline__ const float *row_at(const uint8_t *base, uint32_t stride, uint32_t row)
{
    return (const float *)(base + (uint64_t)row * stride);
}

/* ---- Operands */

template <int NV>
static __device__ __forceinline__ float4 read1(const rows_block &b, const rows_dev_op &op, int i, float4 own)
{
    if (op.source1 == ROWS_ACC)
        return own;
    uint32_t count = view_count(b.view, i, op.width);
    if (b.ahead && op.ahead1 != ROWS_NO_SLOT)
        return count ? b.ahead[op.ahead1 * b.view.tile + view_slot(b.view, i)] : zero4();
    if (op.source1 == ROWS_SHARED) {
        const float *slot = (const float *)(b.slots + op.slot1 * b.view.tile);
        return load4(slot + op.column1 + 4 * view_slot(b.view, i), count, true);
    }
    return load4(row_at(op.in1, op.stride1, b.view.row) + view_column(b.view, i), count,
                 op.aligned & ROWS_ALIGNED_IN1);
}

template <int NV>
static __device__ __forceinline__ void read0(const rows_block &b, const rows_dev_op &op, float4 acc[NV])
{
    if (b.ahead && op.ahead0 != ROWS_NO_SLOT) {
#pragma unroll
        for (int i = 0; i < NV; i++)
            acc[i] = view_count(b.view, i, op.width) ? b.ahead[op.ahead0 * b.view.tile + view_slot(b.view, i)]
                                                     : zero4();
    } else if (op.source0 == ROWS_SHARED) {
        const float *slot = (const float *)(b.slots + op.slot0 * b.view.tile) + op.column0;
#pragma unroll
        for (int i = 0; i < NV; i++)
            acc[i] = load4(slot + 4 * view_slot(b.view, i), view_count(b.view, i, op.width), true);
    } else if (op.source0 == ROWS_MEMORY && op.kind != ROW_COMBINE) {
        uint32_t row = op.kind == ROW_SELECT ? (uint32_t)b.batch->logit_rows[b.view.row] : b.view.row;
        const float *in = row_at(op.in0, op.stride0, row);
        bool aligned = op.aligned & ROWS_ALIGNED_IN0;
        if (op.kind == ROW_EMBED && b.batch->has_embeddings && *b.batch->has_embeddings) {
            in = (const float *)((const uint8_t *)b.batch->embeddings + row * b.batch->embedding_stride);
            aligned = ((uint64_t)in % 16) == 0;
        }
#pragma unroll
        for (int i = 0; i < NV; i++)
            acc[i] = load4(in + view_column(b.view, i), view_count(b.view, i, op.width), aligned);
    }
}

/* Elements of a vector that repeats every `period` columns. */
static __device__ __forceinline__ float4 read_vector(const rows_block &b, const rows_dev_op &op,
                                                     uint32_t period, int i)
{
    uint32_t count = view_count(b.view, i, op.width), column = view_column(b.view, i);
    if (b.ahead && op.ahead_vector != ROWS_NO_SLOT)
        return count ? b.ahead[op.ahead_vector * b.view.tile + view_slot(b.view, i)] : zero4();
    if (period % 4 == 0 || period == op.width)
        return load4(op.vector + (period == op.width ? column : column % period), count,
                     op.aligned & ROWS_ALIGNED_VECTOR);
    float4 x = zero4();
    x.x = count > 0 ? op.vector[column % period] : 0.0f;
    x.y = count > 1 ? op.vector[(column + 1) % period] : 0.0f;
    x.z = count > 2 ? op.vector[(column + 2) % period] : 0.0f;
    x.w = count > 3 ? op.vector[(column + 3) % period] : 0.0f;
    return x;
}

/* Writes the accumulator to the exchange slot and waits for everybody. */
template <int NV> static __device__ __forceinline__ void exchange(const rows_block &b, const float4 acc[NV])
{
#pragma unroll
    for (int i = 0; i < NV; i++) {
        if (view_slot(b.view, i) < b.view.tile)
            b.exchange[view_slot(b.view, i)] = acc[i];
    }
    __syncthreads();
}

/* Columns from `column` of the row, in the exchange slot. */
static __device__ __forceinline__ const float *exchanged(const rows_block &b, uint32_t column)
{
    return (const float *)b.exchange + (column - 4 * b.view.first);
}

/* ---- Norms: the factor of each chunk */

template <int NV>
static __device__ __forceinline__ void norm_row(rows_block &b, const rows_dev_op &op, const float4 acc[NV],
                                                float factor[NV])
{
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < NV; i++)
        sum += dot4(acc[i], view_count(b.view, i, op.width));
    sum = sum_block(sum, block_part(b), own_block());
    sum = 1.0f / sqrtf(sum / (float)op.width + op.eps);
#pragma unroll
    for (int i = 0; i < NV; i++)
        factor[i] = sum;
}

template <int NV>
static __device__ __forceinline__ void norm_lanes(const rows_block &b, const rows_dev_op &op,
                                                  const float4 acc[NV], float factor[NV])
{
#pragma unroll
    for (int i = 0; i < NV; i++) {
        float sum = sum_lanes(dot4(acc[i], view_count(b.view, i, op.width)), op.group / 4);
        factor[i] = 1.0f / sqrtf(sum / (float)op.group + op.eps);
    }
}

template <int NV>
static __device__ __forceinline__ void norm_warps(rows_block &b, const rows_dev_op &op, const float4 acc[NV],
                                                  float factor[NV])
{
    float *part = block_part(b);
    uint32_t n = op.group / 128;
#pragma unroll
    for (int i = 0; i < NV; i++) {
        float sum = sum_warp(dot4(acc[i], view_count(b.view, i, op.width)));
        if (threadIdx.x % 32 == 0)
            part[view_slot(b.view, i) / 32] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t first = view_slot(b.view, i) / 32 / n * n;
        float sum = 0.0f;
        for (uint32_t k = 0; k < n; k++)
            sum += part[first + k];
        factor[i] = 1.0f / sqrtf(sum / (float)op.group + op.eps);
    }
}

/* `group`: the exchanged columns of one group. */
static __device__ __noinline__ float exchanged_factor(const float *group, uint32_t n, float eps)
{
    float sum = 0.0f;
    for (uint32_t k = 0; k < n; k++)
        sum += group[k] * group[k];
    return 1.0f / sqrtf(sum / (float)n + eps);
}

static __device__ __forceinline__ float column_factor(const rows_block &b, const rows_dev_op &op,
                                                      uint32_t column)
{
    return exchanged_factor(exchanged(b, column - column % op.group), op.group, op.eps);
}

/* Groups that fit neither lanes nor warps: every chunk adds its group up by itself. Slow, and nobody's common head size. */
template <int NV>
static __device__ __forceinline__ void norm_exchange(const rows_block &b, const rows_dev_op &op,
                                                     float4 acc[NV])
{
    exchange<NV>(b, acc);
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t count = view_count(b.view, i, op.width), column = view_column(b.view, i);
        if (count == 0)
            continue;
        float x = column_factor(b, op, column), y = x, z = x, w = x;
        if (op.group % 4) {
            y = count > 1 ? column_factor(b, op, column + 1) : x;
            z = count > 2 ? column_factor(b, op, column + 2) : x;
            w = count > 3 ? column_factor(b, op, column + 3) : x;
        }
        acc[i] = mul4(acc[i], make_float4(x, y, z, w));
    }
}

template <int NV>
static __device__ __forceinline__ void rms_norm(rows_block &b, const rows_dev_op &op, float4 acc[NV])
{
    if (op.method == ROWS_NORM_EXCHANGE) {
        norm_exchange<NV>(b, op, acc);
    } else {
        float factor[NV];
        if (op.method == ROWS_NORM_ROW)
            norm_row<NV>(b, op, acc, factor);
        else if (op.method == ROWS_NORM_LANES)
            norm_lanes<NV>(b, op, acc, factor);
        else
            norm_warps<NV>(b, op, acc, factor);
#pragma unroll
        for (int i = 0; i < NV; i++)
            acc[i] = scale4(acc[i], factor[i]);
    }
    if (!op.vector)
        return;
#pragma unroll
    for (int i = 0; i < NV; i++)
        acc[i] = mul4(acc[i], read_vector(b, op, op.group, i));
}

/* ---- Rope */

/* Turns the pairs (x, partner) of a chunk that lies in the first or in the second half of the turned part. */
static __device__ __forceinline__ float4 turn4(float4 x, float4 partner, float4 c, float4 s, bool second)
{
    float t = second ? 1.0f : -1.0f;
    return make_float4(x.x * c.x + t * partner.x * s.x, x.y * c.y + t * partner.y * s.y,
                       x.z * c.z + t * partner.z * s.z, x.w * c.w + t * partner.w * s.w);
}

/* cos and sin for columns column .. column + 3 of a head, NEOX, or for their two pairs, NORM, as (c0 c0 c1 c1). */
static __device__ __forceinline__ void read_turns(const rows_block &b, const rows_dev_op &op,
                                                  uint32_t in_head, int i, float4 *c, float4 *s)
{
    uint32_t half = op.n / 2, j = op.mode == SHARPI_ROPE_NORM ? in_head / 2
                                  : in_head < half            ? in_head
                                                              : in_head - half;
    const float *table = row_at(op.in1, op.stride1, b.view.row);
    if (b.ahead && op.ahead1 != ROWS_NO_SLOT) {
        *c = b.ahead[op.ahead1 * b.view.tile + view_slot(b.view, i)];
        *s = b.ahead[(op.ahead1 + 1) * b.view.tile + view_slot(b.view, i)];
    } else if (op.mode == SHARPI_ROPE_NORM) {
        float2 c2 = *(const float2 *)(table + j), s2 = *(const float2 *)(table + half + j);
        *c = make_float4(c2.x, c2.y, 0.0f, 0.0f);
        *s = make_float4(s2.x, s2.y, 0.0f, 0.0f);
    } else {
        *c = *(const float4 *)(table + j);
        *s = *(const float4 *)(table + half + j);
    }
    if (op.mode == SHARPI_ROPE_NORM) {
        *c = make_float4(c->x, c->x, c->y, c->y);
        *s = make_float4(s->x, s->x, s->y, s->y);
    }
}

/* Column r of a head whose columns are at `head`. */
static __device__ __noinline__ float rope_one(const float *head, const float *table, uint32_t r,
                                              uint32_t n_rot, int mode)
{
    uint32_t half = n_rot / 2, j, other;
    bool second;
    if (r >= n_rot)
        return head[r];
    second = mode == SHARPI_ROPE_NORM ? r % 2 : r >= half;
    j = mode == SHARPI_ROPE_NORM ? r / 2 : r % half;
    other = mode == SHARPI_ROPE_NORM ? r ^ 1 : second ? r - half : r + half;
    return head[r] * table[j] + (second ? 1.0f : -1.0f) * head[other] * table[half + j];
}

static __device__ __forceinline__ float rope_column(const rows_block &b, const rows_dev_op &op,
                                                    uint32_t column)
{
    uint32_t r = column % op.group;
    return rope_one(exchanged(b, column - r), row_at(op.in1, op.stride1, b.view.row), r, op.n, op.mode);
}

template <int NV>
static __device__ __forceinline__ void rope_scalar(const rows_block &b, const rows_dev_op &op, float4 acc[NV])
{
    exchange<NV>(b, acc);
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t count = view_count(b.view, i, op.width), column = view_column(b.view, i);
        acc[i].x = count > 0 ? rope_column(b, op, column) : 0.0f;
        acc[i].y = count > 1 ? rope_column(b, op, column + 1) : 0.0f;
        acc[i].z = count > 2 ? rope_column(b, op, column + 2) : 0.0f;
        acc[i].w = count > 3 ? rope_column(b, op, column + 3) : 0.0f;
    }
}

static __device__ __forceinline__ float4 shuffle4(float4 x, uint32_t distance)
{
    return make_float4(
        __shfl_xor_sync(0xffffffffu, x.x, (int)distance), __shfl_xor_sync(0xffffffffu, x.y, (int)distance),
        __shfl_xor_sync(0xffffffffu, x.z, (int)distance), __shfl_xor_sync(0xffffffffu, x.w, (int)distance));
}

template <int NV>
static __device__ __forceinline__ void rope(rows_block &b, const rows_dev_op &op, float4 acc[NV])
{
    if (op.method == ROWS_ROPE_SCALAR) {
        rope_scalar<NV>(b, op, acc);
        return;
    }
    if (op.method == ROWS_ROPE_EXCHANGE)
        exchange<NV>(b, acc);
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t count = view_count(b.view, i, op.width), half = op.n / 2;
        uint32_t column = view_column(b.view, i), in_head = column % op.group;
        bool turns = count == 4 && in_head < op.n, second = in_head >= half;
        float4 partner = make_float4(acc[i].y, acc[i].x, acc[i].w, acc[i].z), c, s;
        if (op.mode != SHARPI_ROPE_NORM) {
            if (op.method == ROWS_ROPE_LANES)
                partner = shuffle4(acc[i], op.group / 8);
            else if (turns)
                partner = b.exchange[view_slot(b.view, i) + half / 4 - (second ? half / 2 : 0)];
        }
        if (!turns)
            continue;
        read_turns(b, op, in_head, i, &c, &s);
        if (op.mode == SHARPI_ROPE_NORM) {
            partner.x = -partner.x;
            partner.z = -partner.z;
            second = true;
        }
        acc[i] = turn4(acc[i], partner, c, s, second);
    }
}

/* ---- Quantize */

template <int NV>
static __device__ __forceinline__ void quantize(const rows_block &b, const rows_dev_op &op,
                                                const float4 acc[NV])
{
    uint8_t *row = op.out + (uint64_t)b.view.row * op.stride_out;
    uint32_t padded = (op.width + 63) / 64 * 64;
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t column = view_column(b.view, i), count = view_count(b.view, i, op.width);
        if (op.format == ACT_Q8) {
            uint32_t mask = __ballot_sync(0xffffffffu, count != 0);
            if (count)
                act_store_q8(row, op.width, column, acc[i], mask);
        } else if (op.format == ACT_BF16) {
            if (view_count(b.view, i, padded))
                act_store_bf16(row, column, first4(acc[i], count));
        } else
            store4((float *)row + column, acc[i], count, op.aligned & ROWS_ALIGNED_OUT);
    }
}

/* ---- Other ops */

static __device__ __noinline__ float turn_of(double angle, int is_sine, double factor)
{
    double sine, cosine;
    sincos(angle, &sine, &cosine);
    return (float)((is_sine ? sine : cosine) * factor);
}

template <int NV>
static __device__ __forceinline__ void rope_table(const rows_block &b, const rows_dev_op &op, float4 acc[NV])
{
    const double *frequencies = (const double *)op.extra;
    double position = b.batch->positions[b.view.row];
    uint32_t half = op.width / 2;
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t column = view_column(b.view, i), count = view_count(b.view, i, op.width);
        float x[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (uint32_t e = 0; e < 4; e++) {
            uint32_t j = column + e;
            if (e < count)
                x[e] = turn_of(position * frequencies[j < half ? j : j - half], j >= half, (double)op.scale);
        }
        acc[i] = make_float4(x[0], x[1], x[2], x[3]);
    }
}

template <int NV>
static __device__ __forceinline__ void combine(const rows_block &b, const rows_dev_op &op, float4 acc[NV])
{
    const int32_t *slots = (const int32_t *)op.extra;
    uint64_t first = (uint64_t)b.view.row * op.n;
#pragma unroll
    for (int i = 0; i < NV; i++)
        acc[i] = zero4();
#pragma unroll 4
    for (uint32_t j = 0; j < op.n; j++) {
        uint32_t slot = slots ? (uint32_t)slots[first + j] : (uint32_t)first + j;
        const float *row = row_at(op.in0, op.stride0, slot);
        float weight = op.weights[first + j];
#pragma unroll
        for (int i = 0; i < NV; i++)
            acc[i] = add4(acc[i], scale4(load4(row + view_column(b.view, i), view_count(b.view, i, op.width),
                                               op.aligned & ROWS_ALIGNED_IN0),
                                         weight));
    }
}

template <int NV>
static __device__ __forceinline__ void glu(const rows_block &b, const rows_dev_op &op, float4 acc[NV])
{
#pragma unroll
    for (int i = 0; i < NV; i++) {
        float4 up = read1<NV>(b, op, i, acc[i]), x = acc[i];
        if (op.limit > 0.0f) {
            x = make_float4(limited(x.x, op.limit), limited(x.y, op.limit), limited(x.z, op.limit),
                            limited(x.w, op.limit));
            up = make_float4(limited(up.x, op.limit), limited(up.y, op.limit), limited(up.z, op.limit),
                             limited(up.w, op.limit));
        }
        acc[i] = make_float4(activate(x.x, op.activation) * up.x, activate(x.y, op.activation) * up.y,
                             activate(x.z, op.activation) * up.z, activate(x.w, op.activation) * up.w);
    }
}

/* One input, element by element. */
template <int NV>
static __device__ __forceinline__ void map(const rows_block &b, const rows_dev_op &op, float4 acc[NV])
{
    float factor = op.scale;
    if (op.kind == ROW_SCALE && op.vector)
        factor *= op.vector[0];
#pragma unroll
    for (int i = 0; i < NV; i++) {
        float4 x = acc[i];
        switch (op.kind) {
        case ROW_ACTIVATION:
            acc[i] = make_float4(activate(x.x, op.activation), activate(x.y, op.activation),
                                 activate(x.z, op.activation), activate(x.w, op.activation));
            break;
        case ROW_MUL_VECTOR:
            acc[i] = mul4(x, read_vector(b, op, op.width, i));
            break;
        case ROW_SCALE:
            acc[i] = scale4(x, factor);
            break;
        default: /* ROW_SOFTCAP */
            acc[i] = make_float4(op.limit * tanhf(x.x / op.limit), op.limit * tanhf(x.y / op.limit),
                                 op.limit * tanhf(x.z / op.limit), op.limit * tanhf(x.w / op.limit));
        }
    }
}

template <int NV>
static __device__ __forceinline__ void run_op(rows_block &b, const rows_dev_op &op, float4 acc[NV])
{
    switch (op.kind) {
    case ROW_RMS_NORM:
        rms_norm<NV>(b, op, acc);
        break;
    case ROW_ROPE:
        rope<NV>(b, op, acc);
        break;
    case ROW_GLU:
        glu<NV>(b, op, acc);
        break;
    case ROW_ADD:
#pragma unroll
        for (int i = 0; i < NV; i++)
            acc[i] = add4(acc[i], read1<NV>(b, op, i, acc[i]));
        break;
    case ROW_MUL:
#pragma unroll
        for (int i = 0; i < NV; i++)
            acc[i] = mul4(acc[i], read1<NV>(b, op, i, acc[i]));
        break;
    case ROW_ROPE_TABLE:
        rope_table<NV>(b, op, acc);
        break;
    case ROW_COMBINE:
        combine<NV>(b, op, acc);
        break;
    case ROW_EMBED:
    case ROW_SELECT:
    case ROW_COPY:
        break;
    case ROW_QUANTIZE:
        quantize<NV>(b, op, acc);
        break;
    default:
        map<NV>(b, op, acc);
    }
}

template <int NV>
static __device__ __forceinline__ void write_out(const rows_block &b, const rows_dev_op &op,
                                                 const float4 acc[NV])
{
    if (op.store & ROWS_STORE_MEMORY) {
        float *out = (float *)(op.out + (uint64_t)b.view.row * op.stride_out);
#pragma unroll
        for (int i = 0; i < NV; i++)
            store4(out + view_column(b.view, i), acc[i], view_count(b.view, i, op.width),
                   op.aligned & ROWS_ALIGNED_OUT);
    }
    if (op.store & ROWS_STORE_SHARED) {
#pragma unroll
        for (int i = 0; i < NV; i++) {
            if (view_slot(b.view, i) < b.view.tile)
                b.slots[op.slot_out * b.view.tile + view_slot(b.view, i)] = acc[i];
        }
    }
}

/* ---- Fetching ahead */

template <int NV>
static __device__ __forceinline__ void fetch_vector(const rows_block &b, const rows_dev_op &op)
{
    uint32_t period = op.kind == ROW_RMS_NORM ? op.group : op.width;
    if (op.ahead_vector == ROWS_NO_SLOT)
        return;
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t count = view_count(b.view, i, op.width), column = view_column(b.view, i);
        if (count)
            fetch4(b.ahead + op.ahead_vector * b.view.tile + view_slot(b.view, i),
                   op.vector + column % period, count);
    }
}

static __device__ __forceinline__ void fetch_turns(const rows_block &b, const rows_dev_op &op, int i)
{
    uint32_t half = op.n / 2, r = view_column(b.view, i) % op.group, j;
    const float *table = row_at(op.in1, op.stride1, b.view.row);
    float4 *to = b.ahead + op.ahead1 * b.view.tile + view_slot(b.view, i);
    if (view_count(b.view, i, op.width) == 0 || r >= op.n)
        return;
    if (op.mode == SHARPI_ROPE_NORM) { /* two pairs; 8 bytes cannot be copied this way */
        *to = make_float4(table[r / 2], table[r / 2 + 1], 0.0f, 0.0f);
        to[b.view.tile] = make_float4(table[half + r / 2], table[half + r / 2 + 1], 0.0f, 0.0f);
        return;
    }
    j = r < half ? r : r - half;
    fetch4(to, table + j, 4);
    fetch4(to + b.view.tile, table + half + j, 4);
}

template <int NV>
static __device__ __forceinline__ void fetch_inputs(const rows_block &b, const rows_dev_op &op)
{
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t count = view_count(b.view, i, op.width), column = view_column(b.view, i);
        float4 *to = b.ahead + view_slot(b.view, i);
        if (op.ahead0 != ROWS_NO_SLOT && count)
            fetch4(to + op.ahead0 * b.view.tile, row_at(op.in0, op.stride0, b.view.row) + column, count);
        if (op.ahead1 == ROWS_NO_SLOT)
            continue;
        if (op.kind == ROW_ROPE)
            fetch_turns(b, op, i);
        else if (count)
            fetch4(to + op.ahead1 * b.view.tile, row_at(op.in1, op.stride1, b.view.row) + column, count);
    }
}

#endif
