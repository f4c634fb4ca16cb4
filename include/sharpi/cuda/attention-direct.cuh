/* Decode of at most 8 rows (query heads of a group times tokens) and head_dim up to 256, in one launch, the cache going from device memory to
 * registers.
 *
 * The cache is the left operand of mma.sync: scores^T [positions, rows] = K Q^T and out^T [columns, rows] = V^T weights^T, so
 * that few rows waste little. A warp takes strips of 16 positions times 128 elements; head_dims above 128 have `split` warps
 * to a strip, which add up their scores. A group of warps has its own running maximum and sum: no barrier of the block is passed
 * on the way. Shared memory holds queries, then the groups' outputs: little, so that the next kernel of the stream finds room
 * beside this one.
 *
 * A block has one part of one (sequence, KV head): direct_job. A decode step's own K and V row (`fresh`) is stored in the cache by
 * the block that has the first part, but not read back: it is one more position with weight exp(score) when the groups'
 * outputs are added up. So everything that is read from the cache is read before the kernels before this one end.
 *
 * The parts of a (sequence, KV head) are put together by the block that comes last, in the parts' order, whichever it is; very many
 * of them are left to merge_kernel, which has more blocks for it.
 *
 * Arithmetic: f32 sums and softmax; operands f16 (formats that say so) or bf16. bf16 queries and weights are split into two bf16
 * each, so that the products are f32's but for 2^-17; f16 queries are scaled by a power of two per row first.
 *
 * The loop over strips must not run out of registers: what is loaded ahead would be spilled, which waits for it. So what only
 * the beginning and the end need lies in shared memory (job).
 */
#ifndef SHARPI_CUDA_ATTENTION_DIRECT_CUH
#define SHARPI_CUDA_ATTENTION_DIRECT_CUH

#include <sharpi/cuda/attention-heads.cuh>
#include <sharpi/cuda/attention-jobs.cuh>
#include <sharpi/cuda/attention-merge.cuh>
#include <sharpi/cuda/attention-operand.cuh>

namespace sharpi
{

constexpr uint32_t direct_warps = 4, direct_threads = 32 * direct_warps;
constexpr uint32_t strip_positions = 16, strip_width = 128;

template <class F, int D> struct direct_shape {
    static constexpr uint32_t m = 8;                           /* rows */
    static constexpr uint32_t split = D / strip_width;         /* warps of a group */
    static constexpr uint32_t groups = direct_warps / split;   /* strips of a unit */
    static constexpr uint32_t unit = strip_positions * groups; /* positions of a unit */
    static constexpr uint32_t parts = F::uses_f16 ? 1 : 2;     /* of a query or weight */
    static constexpr uint32_t acc_stride = D + 8;              /* against bank conflicts */
    /* As many as the registers for a strip allow. */
    static constexpr uint32_t blocks_per_sm = 3 + (sizeof(typename F::strip) <= 96);
    /* With 152 a block finds room on a multiprocessor beside another kernel's 384 threads of 120. */
    static constexpr uint32_t registers = blocks_per_sm == 3 ? 152 : 128;
};

constexpr uint32_t max_inline_parts = 128;

template <class F, int D> struct direct_memory {
    using shape = direct_shape<F, D>;
    union {
        struct {
            char q[shape::parts * shape::m * D * 2];
            float norms[3 * D]; /* weights of q's, k's and v's norms */
        };
        float acc[shape::groups * shape::m * shape::acc_stride];
        float part_weight[shape::m * max_inline_parts]; /* [row, part] */
    };
    float4 exchange[shape::split > 1 ? 2 * direct_threads : 1]; /* scores of parts of a strip, twice */
    float fresh_k[D], fresh_v[D];
    float row_scale[shape::m], fresh_score[shape::m];
    uint2 bounds[shape::m];               /* visible positions of a row, the fresh one aside */
    uint2 place[shape::m];                /* a row's token and query head */
    float2 sums[shape::groups][shape::m]; /* maximum, sum */
    direct_job job;
    uint32_t is_last;
};

template <class F, int D, int fixed_d> struct direct_block {
    using shape = direct_shape<F, D>;
    static constexpr uint32_t M = shape::m, parts = shape::parts;

    const sharpi_kv_cuda_args &a;
    const work_shape &w;
    direct_memory<F, D> &memory;
    uint32_t lane, warp, group, first_element, n_rows, n_exchanges;
    typename F::strip k, v;
    float s[4], o[2][4][4]; /* lane 4 g + t: positions or columns g, g + 8; rows 2 t, 2 t + 1 */
    float max[2], sum[2], scale[2];

    __device__ direct_block(const sharpi_kv_cuda_args &args, const work_shape &work,
                            direct_memory<F, D> &shared)
        : a(args), w(work), memory(shared), lane(threadIdx.x % 32), warp(threadIdx.x / 32),
          group(warp / shape::split), first_element(warp % shape::split * strip_width), n_exchanges(0)
    {
    }
    __device__ uint32_t head_dim() const
    {
        return fixed_d ? fixed_d : a.head_dim;
    }
    /* A row's piece of 8 query elements; odd rows have pieces exchanged, against bank conflicts: two rows' four pieces that are read
     * together fill 128 bytes. */
    __device__ char *query_piece(uint32_t part, uint32_t row, uint32_t piece) const
    {
        constexpr uint32_t other = F::k_piece(0, 1) == 1 ? 4 : 1;
        return memory.q + (part * M + row) * D * 2 + 16 * (piece ^ (row & 1) * other);
    }
    /* The byte of the K or V cache where the tile of the job's head begins that slot `slot` of its page table says. */
    __device__ uint64_t tile_at(const direct_job &job, uint32_t slot) const
    {
        const int32_t number = a.pages[(uint64_t)job.seq * a.page_stride + slot];
        return ((uint64_t)(uint32_t)number * a.n_kv_heads + job.kv_head) * F::tile_bytes(head_dim());
    }

    /* ---- The job begins */

    /* All that needs none of the kernels before: where the rows are, the weights of norms. */
    __device__ void prepare(const direct_job &job)
    {
        n_rows = job.n_tokens * w.ratio;
        if (threadIdx.x < M) {
            const row_view view = direct_view(a, w, job, threadIdx.x);
            memory.bounds[threadIdx.x] = make_uint2(view.low, view.end - w.appends);
            memory.place[threadIdx.x] = make_uint2(view.token, view.head);
            memory.row_scale[threadIdx.x] = 0.0f;
        }
        if (threadIdx.x == 0)
            memory.job = job;
        for (uint32_t i = threadIdx.x; i < sizeof memory.q / 16; i += direct_threads)
            *(uint4 *)(memory.q + 16 * i) = make_uint4(0, 0, 0, 0); /* rows that there are not */
        for (uint32_t i = threadIdx.x; a.has_heads && i < 3 * D; i += direct_threads) {
            const float *weight = a.heads[i / D].weight;
            memory.norms[i] = weight && i % D < head_dim() ? weight[i % D] : 1.0f;
        }
        __syncthreads();
    }

    static constexpr uint32_t per_lane = D / 128, my_rows = M / direct_warps;

    __device__ void load_head(float4 (&x)[per_lane], const float *row, uint32_t head) const
    {
        const float *from = row + (uint64_t)head * head_dim() + 4 * lane;
#pragma unroll
        for (uint32_t i = 0; i < per_lane; i++)
            x[i] =
                128 * i + 4 * lane < head_dim() ? *(const float4 *)(from + 128 * i) : make_float4(0, 0, 0, 0);
    }

    /* The step's own K or V, which all warps have, goes into the cache, and as it is there to shared memory: every fourth block of 32 by
     * a warp. */
    __device__ void store_fresh(char *tile, float *to, const float4 (&x)[per_lane])
    {
        const uint32_t d = head_dim(), row = memory.job.length % tile_rows;
#pragma unroll
        for (uint32_t i = 0; i < per_lane; i++) {
            const uint32_t col = (i * direct_warps + warp) * 32;
            if (col >= d)
                break;
            if (lane / 8 == warp)
                *(float4 *)(to + col + lane % 8 * 4) = x[i];
            __syncwarp();
            to[col + lane] = F::store32(tile, d, row, col, to[col + lane]);
        }
    }

    /* To shared memory in the operands' type. */
    __device__ void store_query(uint32_t row, const float4 (&value)[per_lane])
    {
        float up = 1.0f;
        if (F::uses_f16) {
            float greatest = 0.0f;
#pragma unroll
            for (uint32_t i = 0; i < per_lane; i++)
                greatest = fmaxf(greatest, fmaxf(fmaxf(fabsf(value[i].x), fabsf(value[i].y)),
                                                 fmaxf(fabsf(value[i].z), fabsf(value[i].w))));
            up = power_for_f16(warp_max(greatest));
        }
#pragma unroll
        for (uint32_t i = 0; i < per_lane; i++) {
            const float4 x = value[i];
            const uint32_t low = pack<F>(x.x * up, x.y * up), high = pack<F>(x.z * up, x.w * up);
            const uint32_t piece = 16 * i + lane / 2, at = lane % 2 * 8;
            *(uint2 *)(query_piece(0, row, piece) + at) = make_uint2(low, high);
            if (parts == 2)
                *(uint2 *)(query_piece(1, row, piece) + at) =
                    make_uint2(pack_rest(x.x, x.y, low), pack_rest(x.z, x.w, high));
        }
        if (lane == 0) /* scores are in units of log 2 */
            memory.row_scale[row] = __fdividef(a.scale * F::unit, up) * (a.softcap != 0.0f ? 1.0f : log2_e);
    }

    /* The fresh position's score, in f32. */
    __device__ void score_fresh(uint32_t row, const float4 (&value)[per_lane])
    {
        float dot = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < per_lane; i++)
            if (128 * i + 4 * lane < head_dim()) {
                const float4 x = value[i], y = *(const float4 *)(memory.fresh_k + 128 * i + 4 * lane);
                dot += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
            }
        for (uint32_t i = 16; i; i /= 2)
            dot += __shfl_xor_sync(~0u, dot, i);
        dot *= a.scale;
        if (lane == 0)
            memory.fresh_score[row] = (a.softcap != 0.0f ? softcapped_fast(dot, a.softcap) : dot) * log2_e;
    }

    /* The step's own K and V by all warps, then every fourth query by a warp. fresh_at: of the tile of the step's own row. All that
     * the kernels before wrote is loaded first; then one after the other, as the code is short then: it has to be fetched anew in
     * every launch. */
    __device__ void begin(uint64_t fresh_at)
    {
        const uint32_t first_token = memory.job.first_token, d = head_dim();
        const bool has_fresh = memory.job.has_fresh;
        float4 x[2 + my_rows][per_lane];
        head_turns turns = {};
        if (has_fresh) {
            load_head(x[0], a.k + first_token * a.k_stride, memory.job.kv_head);
            load_head(x[1], a.v + first_token * a.v_stride, memory.job.kv_head);
        }
#pragma unroll
        for (uint32_t r = 0; r < my_rows; r++) {
            const uint2 place = memory.place[r * direct_warps + warp];
            if (r * direct_warps + warp < n_rows)
                load_head(x[2 + r], a.q + place.x * a.q_stride, place.y);
        }
        if (a.has_heads && a.table)
            turns = load_turns(a, first_token, d);
#pragma unroll 1
        for (uint32_t i = 0; i < 2 + my_rows; i++) {
            const uint32_t row = (i - 2) * direct_warps + warp;
            const bool is_query = i >= 2;
            if (is_query ? row < n_rows : has_fresh) {
                if (a.has_heads)
                    make_head(x[0], a, is_query ? 0 : 1 + i, memory.norms, turns, d);
                if (!is_query) {
                    store_fresh((char *)(i ? a.v_cache : a.k_cache) + fresh_at,
                                i ? memory.fresh_v : memory.fresh_k, x[0]);
                } else {
                    store_query(row, x[0]);
                    if (has_fresh)
                        score_fresh(row, x[0]);
                }
            }
            if (i == 1 && has_fresh)
                __syncthreads();
#pragma unroll
            for (uint32_t k = 0; k + 1 < 2 + my_rows; k++)
#pragma unroll
                for (uint32_t c = 0; c < per_lane; c++)
                    x[k][c] = x[k + 1][c];
        }
        __syncthreads();
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            scale[i] = memory.row_scale[lane % 4 * 2 + i];
            max[i] = -INFINITY;
            sum[i] = 0.0f;
#pragma unroll
            for (uint32_t j = 0; j < 16; j++)
                o[i][j / 4][j % 4] = 0.0f;
        }
    }

    /* ---- A strip */

    __device__ void multiply_k()
    {
        float chain[2][4] = {};
#pragma unroll
        for (uint32_t block = 0; block < strip_width / 32; block++) {
            if (first_element + 8 * F::k_piece(block, 0) >= head_dim())
                break;
            uint32_t operand[2][4];
            F::k_operand(operand, k, block);
#pragma unroll
            for (uint32_t i = 0; i < parts; i++) {
                const uint4 q =
                    *(const uint4 *)query_piece(i, lane / 4, first_element / 8 + F::k_piece(block, lane % 4));
                mma<F>(chain[0], operand[0], q.x, q.y);
                mma<F>(chain[1], operand[1], q.z, q.w);
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            s[i] = chain[0][i] + chain[1][i];
    }

    /* Adds the scores of the strip's warps, in order; two sets of places, so that one barrier is enough. */
    __device__ void add_parts()
    {
        float4 *place = memory.exchange + n_exchanges++ % 2 * direct_threads + lane;
        float4 total = make_float4(0, 0, 0, 0);
        place[warp * 32] = make_float4(s[0], s[1], s[2], s[3]);
        if (group) /* so that the compiler sees which barriers are used */
            meet(2, 32 * shape::split);
        else
            meet(1, 32 * shape::split);
#pragma unroll
        for (uint32_t i = 0; i < shape::split; i++)
            add_scaled(total, place[(group * shape::split + i) * 32], 1.0f);
        s[0] = total.x, s[1] = total.y, s[2] = total.z, s[3] = total.w;
    }

    __device__ void scale_scores(uint32_t position)
    {
        const uint32_t last_low = memory.bounds[n_rows - 1].x, least_end = memory.bounds[0].y;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            s[i] *= scale[i % 2];
        if (a.softcap != 0.0f)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                s[i] = softcapped_fast(s[i], a.softcap) * log2_e;
        if (position < last_low || position + strip_positions > least_end)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint2 seen = memory.bounds[lane % 4 * 2 + i % 2];
                const uint32_t at = position + lane / 4 + i / 2 * 8;
                if (at < seen.x || at >= seen.y)
                    s[i] = -INFINITY;
            }
    }

    /* Scores to weights, as B operands: [positions, rows]. Outputs are brought to the new maximum. */
    __device__ void weights(uint32_t (&operand)[parts][2])
    {
        float shrink[2];
        bool grows = false;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            float now = fmaxf(max[i], fmaxf(s[i], s[2 + i]));
#pragma unroll
            for (uint32_t j = 4; j < 32; j *= 2)
                now = fmaxf(now, __shfl_xor_sync(~0u, now, j));
            const float reference = now == -INFINITY ? 0.0f : now;
            shrink[i] = exp2_fast(max[i] - reference);
            grows |= now != max[i];
            max[i] = now;
            s[i] = exp2_fast(s[i] - reference);
            s[2 + i] = exp2_fast(s[2 + i] - reference);
            sum[i] = sum[i] * shrink[i] + s[i] + s[2 + i];
        }
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            const uint32_t packed = pack<F>(s[2 * h], s[2 * h + 1]);
            operand[0][h] = transposed_matrix(packed);
            if (parts == 2)
                operand[parts - 1][h] = transposed_matrix(pack_rest(s[2 * h], s[2 * h + 1], packed));
        }
        if (__any_sync(~0u, grows))
#pragma unroll
            for (uint32_t i = 0; i < 32; i++)
                o[i / 16][i / 4 % 4][i % 4] *= shrink[i % 2];
    }

    /* n: positions of the strip that are in the cache; others may hold NaN, which a weight of 0 does not silence. */
    __device__ void accumulate(const uint32_t (&weight)[parts][2], uint32_t n_positions)
    {
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            if (first_element + F::v_first(half, 0) >= head_dim())
                break;
            uint32_t operand[4][4];
            F::v_operand(operand, v, half);
            if (n_positions < strip_positions) {
                const uint32_t first = lane % 4 * 2;
#pragma unroll
                for (uint32_t i = 0; i < 16; i++) {
                    const uint32_t at = first + i % 4 / 2 * 8;
                    operand[i / 4][i % 4] &=
                        (at < n_positions ? 0xffffu : 0u) | (at + 1 < n_positions ? 0xffff0000u : 0u);
                }
            }
#pragma unroll
            for (uint32_t j = 0; j < 4; j++)
#pragma unroll
                for (uint32_t i = 0; i < parts; i++)
                    mma<F>(o[half][j], operand[j], weight[i][0], weight[i][1]);
        }
    }

    /* ---- The job ends */

    __device__ void put_down()
    {
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            const uint32_t row = lane % 4 * 2 + r;
#pragma unroll
            for (uint32_t j = 4; j < 32; j *= 2)
                sum[r] += __shfl_xor_sync(~0u, sum[r], j);
            if (lane < 4 && first_element == 0)
                memory.sums[group][row] = make_float2(max[r], sum[r]);
            if (row >= n_rows)
                continue;
            float *to = memory.acc + (group * M + row) * shape::acc_stride + first_element;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const float(&y)[4][4] = o[i / 2];
                *(float4 *)(to + F::v_first(i / 2, lane / 4) + i % 2 * 4) = make_float4(
                    y[i % 2 * 2][r], y[i % 2 * 2][2 + r], y[i % 2 * 2 + 1][r], y[i % 2 * 2 + 1][2 + r]);
            }
        }
    }

    /* What the groups' outputs and the fresh value of a row are multiplied with. */
    struct row_weights {
        float group[shape::groups], fresh;
    };

    /* Where there are other parts and the caller says so, the part's maximum and sum go to scratch. */
    __device__ row_weights weigh_groups(uint32_t row, bool tells) const
    {
        const direct_job &job = memory.job;
        const float fresh = job.has_fresh ? memory.fresh_score[row] : -INFINITY;
        float2 sums[shape::groups];
        float greatest = fresh, factor = 1.0f;
        row_weights weight;
#pragma unroll
        for (uint32_t i = 0; i < shape::groups; i++) {
            sums[i] = memory.sums[i][row];
            greatest = fmaxf(greatest, sums[i].x);
        }
        const float reference = greatest == -INFINITY ? 0.0f : greatest;
        weight.fresh = exp2_fast(fresh - reference);
        float total = weight.fresh;
#pragma unroll
        for (uint32_t i = 0; i < shape::groups; i++) {
            weight.group[i] = exp2_fast(sums[i].x - reference);
            total += sums[i].y * weight.group[i];
        }
        if (job.n_parts == 1)
            factor = output_factor(a, memory.place[row].y, greatest, total);
        else if (tells)
            w.sums[(uint64_t)(job.first_partial + job.part) * M + row] = make_float2(greatest, total);
        weight.fresh *= factor;
#pragma unroll
        for (uint32_t i = 0; i < shape::groups; i++)
            weight.group[i] *= F::unit * factor;
        return weight;
    }

    /* Four columns of a row: the groups' outputs and the fresh position's value. */
    __device__ float4 gather(uint32_t row, uint32_t column, const row_weights &weight) const
    {
        float4 y = make_float4(0, 0, 0, 0);
#pragma unroll
        for (uint32_t i = 0; i < shape::groups; i++)
            add_scaled(y, *(const float4 *)(memory.acc + (i * M + row) * shape::acc_stride + column),
                       weight.group[i]);
        if (memory.job.has_fresh)
            add_scaled(y, *(const float4 *)(memory.fresh_v + column), weight.fresh);
        return y;
    }

    /* Of a row's columns, 128 to a warp: items of the rows one after the other. */
    __device__ uint32_t column_of(uint32_t item) const
    {
        return item % per_lane * 128 + 4 * lane;
    }

    __device__ void end()
    {
        const direct_job &job = memory.job;
        float *partial = w.acc + (uint64_t)(job.first_partial + job.part) * M * w.acc_width;
        __syncthreads();
        put_down();
        __syncthreads();
#pragma unroll 1
        for (uint32_t item = warp; item < n_rows * per_lane; item += direct_warps) {
            const uint32_t row = item / per_lane, column = column_of(item);
            const bool exists = column < head_dim();
            const float4 y = gather(row, column, weigh_groups(row, item % per_lane == 0 && lane == 0));
            if (job.n_parts == 1)
                store_row(a, memory.place[row].x, memory.place[row].y, column, y, exists);
            else if (exists)
                *(float4 *)(partial + row * w.acc_width + column) = y;
        }
        if (job.n_parts > 1 && job.n_parts <= w.inline_parts)
            merge_if_last();
    }

    /* A warp per row: the parts' weights, complete with the row's factor. */
    __device__ void weigh_parts(uint32_t row)
    {
        const direct_job &job = memory.job;
        const float2 *sums = w.sums + (uint64_t)job.first_partial * M + row;
        float2 part[max_inline_parts / 32];
        float greatest = -INFINITY, total = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < max_inline_parts / 32; i++) {
            const uint32_t at = 32 * i + lane;
            part[i] = at < job.n_parts ? __ldcg(sums + (uint64_t)at * M) : make_float2(-INFINITY, 0.0f);
            greatest = fmaxf(greatest, part[i].x);
        }
        greatest = warp_max(greatest);
        const float reference = greatest == -INFINITY ? 0.0f : greatest;
#pragma unroll
        for (uint32_t i = 0; i < max_inline_parts / 32; i++) {
            part[i].x = exp2_fast(part[i].x - reference);
            total += part[i].x * part[i].y;
        }
        for (uint32_t i = 16; i; i /= 2)
            total += __shfl_xor_sync(~0u, total, i);
        const float factor = output_factor(a, memory.place[row].y, greatest, total);
#pragma unroll
        for (uint32_t i = 0; i < max_inline_parts / 32; i++)
            memory.part_weight[row * max_inline_parts + 32 * i + lane] = part[i].x * factor;
    }

    /* Four columns of the parts first, first + 1, ...; not through L1, which may hold what others have overwritten. */
    static constexpr uint32_t parts_at_once = 16;

    __device__ void load_parts(float4 (&x)[parts_at_once], uint32_t item, uint32_t first) const
    {
        const uint32_t column = column_of(item), n_parts = memory.job.n_parts;
        const bool exists = item < n_rows * per_lane && column < head_dim();
        const float *from =
            w.acc + column +
            ((uint64_t)(memory.job.first_partial + first) * M + item / per_lane) * w.acc_width;
#pragma unroll
        for (uint32_t j = 0; j < parts_at_once; j++)
            x[j] = first + j < n_parts && exists
                       ? __ldcg((const float4 *)(from + (uint64_t)j * M * w.acc_width))
                       : make_float4(0, 0, 0, 0);
    }

    __device__ void merge_if_last()
    {
        const direct_job &job = memory.job;
        float4 x[parts_at_once];
        __syncthreads();
        if (threadIdx.x == 0)
            memory.is_last = comes_last(w.counters + job.seq * a.n_kv_heads + job.kv_head, job.n_parts);
        __syncthreads();
        if (!memory.is_last)
            return;
        load_parts(x, warp, 0); /* while the weights are made */
        for (uint32_t row = warp; row < n_rows; row += direct_warps)
            weigh_parts(row);
        __syncthreads();
        for (uint32_t item = warp; item < n_rows * per_lane; item += direct_warps) {
            const uint32_t row = item / per_lane, column = column_of(item);
            float4 y = make_float4(0, 0, 0, 0);
            for (uint32_t first = 0; first < job.n_parts; first += parts_at_once) {
                if (first || item >= direct_warps)
                    load_parts(x, item, first);
#pragma unroll
                for (uint32_t j = 0; j < parts_at_once; j++)
                    add_scaled(y, x[j], memory.part_weight[row * max_inline_parts + first + j]);
            }
            store_row(a, memory.place[row].x, memory.place[row].y, column, y, column < head_dim());
        }
    }

    /* ---- All of it */

    /* Scores of a strip whose products are in s, and its outputs. n: its positions that are in the cache. */
    __device__ void run_strip(uint32_t position, uint32_t n)
    {
        uint32_t weight[parts][2];
        if (shape::split > 1)
            add_parts();
        scale_scores(position);
        weights(weight);
        accumulate(weight, n);
    }

    __device__ void run(const direct_job &job)
    {
        const uint32_t ring_pages = a.ring / tile_rows, limit = job.end, d = head_dim();
        uint32_t position = job.begin + group * strip_positions;
        uint32_t slot = position / tile_rows % ring_pages;
        uint64_t at = 0; /* of the strip's tile, in both caches */
        const uint64_t fresh_at = job.has_fresh ? tile_at(job, job.length / tile_rows % ring_pages) : 0;

        if (position < limit)
            at = tile_at(job, slot);
        prepare(job);
        if (!w.appends) /* a kernel before may have written what is read next */
            launch_wait();
        if (position < limit) {
            F::load_k(k, (const char *)a.k_cache + at, d, position % tile_rows, first_element);
            F::load_v(v, (const char *)a.v_cache + at, d, position % tile_rows, first_element);
        }
        if (w.appends)
            launch_wait();
        begin(fresh_at);
        while (position < limit) {
            const uint32_t next = position + shape::unit;
            multiply_k();
            if (next < limit) {
                if (next / tile_rows != position / tile_rows) {
                    slot = slot + 1 == ring_pages ? 0 : slot + 1;
                    at = tile_at(job, slot);
                }
                F::load_k(k, (const char *)a.k_cache + at, d, next % tile_rows, first_element);
            }
            run_strip(position, limit - position);
            if (next < limit)
                F::load_v(v, (const char *)a.v_cache + at, d, next % tile_rows, first_element);
            position = next;
        }
        end();
    }
};

#if __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1204
#define SHARPI_DIRECT_BOUNDS(F, D) __maxnreg__((direct_shape<F, D>::registers))
#else
#define SHARPI_DIRECT_BOUNDS(F, D) __launch_bounds__(direct_threads, direct_shape<F, D>::blocks_per_sm)
#endif

template <class F, int D, int fixed_d>
__global__ SHARPI_DIRECT_BOUNDS(F, D) void direct_kernel(const sharpi_kv_cuda_args a, const work_shape w)
{
    __shared__ __align__(16) direct_memory<F, D> memory;
    launch_next();
    const direct_job job = find_job(a, w, blockIdx.x);
    if (job.n_parts) {
        direct_block<F, D, fixed_d> block(a, w, memory);
        block.run(job);
    } else if (blockIdx.x == 0) { /* this kernel must not end before the ones before it */
        launch_wait();
    }
}

} // namespace sharpi
#endif
