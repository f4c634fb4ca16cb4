/* Products with few activation rows (decode), bound by the reading of weights.
 *
 * The unit of work is a group of 16 weight rows (with glu: the gate's and the up's). A team of 1, 2, 4 or 8 warps of a
 * block shares a unit: each takes every n-th slab, prefetched through the warp's own ring in shared memory, and the team adds up
 * in a fixed order. Rings are filled before launch_wait(), so that a kernel's first weights arrive while its predecessor
 * still computes. Moves each weight once; activations come from the caches.
 */
#include "launch.h"
#include "matmul-epilogue.cuh"
#include "matmul-gemv.cuh"
#include "matmul-internal.h"
#include "matmul-ring.cuh"

enum { GEMV_WARPS = 8, GEMV_THREADS = 32 * GEMV_WARPS, GEMV_MAX_STAGES = 16 };
/* Two blocks of this size, with what the system reserves, fill an SM of 228 KiB: the next kernel starts beside this one. */
enum { GEMV_SHARED = 115712 };

struct gemv_part {
    const uint8_t *data;
    const float *bias;
    float *out;
    uint64_t out_stride, group_bytes, stack_bytes;
    uint32_t n_out, first_unit, slab_bytes, last_slab_bytes;
    int32_t type, epilogue;
};

struct gemv_params {
    struct gemv_part part[MATMUL_MAX_PARTS];
    const uint8_t *act;
    uint64_t act_stride;
    const int32_t *n_rows_dev, *expert_of;
    uint32_t n_parts, n_passes, n_units, n_slabs, n_in, n_rows;
    uint32_t team;                       /* warps that share a unit */
    uint32_t stage_bytes, n_stages;      /* of a warp's ring */
    uint32_t units_per_pair, in_divisor; /* grouped */
    uint32_t n_experts;
    int32_t glu;
    float glu_clamp;
};

/* A warp's way through its slabs: units, in them passes (glu: gate, up), in them slabs. */
struct gemv_walk {
    uint32_t unit, pass, slab;
    uint32_t part, group; /* of unit and pass */
    uint32_t expert, pair;
    const uint8_t *base; /* of the group */
};

template <bool GROUPED> static __device__ __forceinline__ void walk_locate(gemv_walk &w, const gemv_params &a)
{
    uint32_t unit = w.unit;
    if (unit >= a.n_units)
        return;
    w.part = w.pass;
    w.expert = 0;
    if (GROUPED) {
        w.pair = unit / a.units_per_pair;
        unit -= w.pair * a.units_per_pair;
        w.expert = (uint32_t)a.expert_of[w.pair];
    } else if (a.n_passes == 1) {
        while (w.part + 1 < a.n_parts && unit >= a.part[w.part + 1].first_unit)
            w.part++;
        unit -= a.part[w.part].first_unit;
    }
    w.group = unit;
    const gemv_part &p = a.part[w.part];
    w.base = p.data + unit * p.group_bytes;
    if (GROUPED && w.expert < a.n_experts)
        w.base += w.expert * p.stack_bytes;
}

/* To the warp's next slab; 1 if it is in another pass or unit. */
template <bool GROUPED>
static __device__ __forceinline__ bool walk_next(gemv_walk &w, const gemv_params &a, uint32_t member,
                                                 uint32_t stride)
{
    w.slab += a.team;
    if (w.slab < a.n_slabs)
        return false;
    w.slab = member;
    if (++w.pass == a.n_passes) {
        w.pass = 0;
        w.unit += stride;
    }
    walk_locate<GROUPED>(w, a);
    return true;
}

static __device__ __forceinline__ void walk_fill(const gemv_walk &w, const gemv_params &a, uint8_t *buffer,
                                                 uint64_t *full, int lane)
{
    const gemv_part &p = a.part[w.part];
    if (w.unit < a.n_units)
        ring_fill(buffer, w.base + (uint64_t)w.slab * p.slab_bytes,
                  w.slab + 1 < a.n_slabs ? p.slab_bytes : p.last_slab_bytes, full, lane);
}

/* Tokens of a kernel, and sums of a lane per row. */
static constexpr __host__ __device__ int mode_tokens(int mode)
{
    return mode == GEMV_MMA || mode == GEMV_FLOAT_MMA ? 8 : 1;
}
static constexpr __host__ __device__ int mode_sums(int mode)
{
    return mode == GEMV_MMA || mode == GEMV_FLOAT_MMA ? 2 : 1;
}

template <int MODE>
static __device__ __forceinline__ void slab_quantized(int32_t type, const uint8_t *slab,
                                                      const act_slab<mode_sums(MODE)> &x, int lane,
                                                      float acc[2][mode_sums(MODE)])
{
    switch (type) {
#define SLAB_DOT(TYPE)                                                                                       \
    case TYPE:                                                                                               \
        if constexpr (MODE == GEMV_MMA)                                                                      \
            dot_mma<TYPE>(slab, x, lane, acc);                                                               \
        else                                                                                                 \
            dot_dp4a<TYPE>(slab, x, lane, acc);                                                              \
        break;
        EACH_QUANTIZED_TYPE(SLAB_DOT)
    }
}

/* Loads the slab's activations, waits for its weights, and adds their product to acc. */
template <int MODE>
static __device__ __forceinline__ void slab_product(int32_t type, const uint8_t *slab, uint64_t *full,
                                                    uint32_t parity, uint32_t index, const gemv_input &in,
                                                    int lane, float acc[2][mode_sums(MODE)])
{
    const int g = lane >> 2, t = lane & 3, last = (int)in.n_rows - 1;
    const uint8_t *row = mode_tokens(MODE) == 1 ? in.act : in.act + min(g, last) * in.stride;

    if constexpr (MODE == GEMV_DP4A || MODE == GEMV_MMA) {
        act_slab<mode_sums(MODE)> x;
        const uint8_t *scale_row[2] = {in.act + min(2 * t, last) * in.stride,
                                       in.act + min(2 * t + 1, last) * in.stride};
        if (MODE == GEMV_DP4A)
            scale_row[0] = in.act;
        act_load<mode_sums(MODE)>(x, row, scale_row, in.n_in, index, t);
        ring_wait(full, parity);
        slab_quantized<MODE>(type, slab, x, lane, acc);
    } else {
        float4 x[8];
        if (index * 128 + 128 <= in.n_in) {
#pragma unroll
            for (int p = 0; p < 8; p++)
                x[p] = *(const float4 *)(row + (index * 128 + p * 16 + 4 * t) * 4);
        }
        ring_wait(full, parity);
        if (type == SHARPI_TYPE_BF16)
            dot_float<SHARPI_TYPE_BF16, MODE>(slab, index, x, row, in.n_in, lane, acc);
        else
            dot_float<SHARPI_TYPE_F16, MODE>(slab, index, x, row, in.n_in, lane, acc);
    }
}

/* The warp's sums of a pass to shared memory, sums[token][row]. */
template <int MODE>
static __device__ __forceinline__ void deposit(float *sums, float acc[2][mode_sums(MODE)], int lane)
{
    const int g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int n = 0; n < mode_sums(MODE); n++) {
            if constexpr (mode_tokens(MODE) == 8) {
                sums[(2 * t + n) * 16 + g + 8 * r] = acc[r][n];
            } else {
                float sum = acc[r][n];
                sum += __shfl_xor_sync(~0u, sum, 1);
                sum += __shfl_xor_sync(~0u, sum, 2);
                if (t == 0)
                    sums[n * 16 + g + 8 * r] = sum;
            }
            acc[r][n] = 0;
        }
    }
}

static __device__ __forceinline__ float team_sum(const float *sums, uint32_t team, uint32_t stride,
                                                 uint32_t i)
{
    float sum = 0;
    for (uint32_t m = 0; m < team; m++)
        sum += sums[m * stride + i];
    return sum;
}

/* Adds the team's deposits and writes the unit's outputs. `sums`: [member][pass][token][16 rows]. */
template <int NT, bool GROUPED>
static __device__ void finish_unit(const gemv_params &a, const gemv_walk &w, const float *sums,
                                   uint32_t n_rows, uint32_t thread)
{
    const uint32_t stride = a.n_passes * NT * 16;
    const gemv_part &p = a.part[a.n_passes == 2 ? 0 : w.part];
    if (GROUPED && w.expert >= a.n_experts)
        return;
    for (uint32_t i = thread; i < NT * 16; i += 32 * a.team) {
        uint32_t row = w.group * 16 + (i & 15), token = i >> 4;
        if (row >= p.n_out || token >= n_rows)
            continue;
        float value = team_sum(sums, a.team, stride, i);
        const uint64_t bias_at = (GROUPED ? (uint64_t)w.expert * p.n_out : 0) + row;
        if (p.bias)
            value += p.bias[bias_at];
        if (a.n_passes == 2) {
            float up = team_sum(sums + NT * 16, a.team, stride, i);
            if (a.part[1].bias)
                up += a.part[1].bias[bias_at];
            value = gated(a.glu, a.glu_clamp, value, up);
        }
        float *out = p.out + (GROUPED ? w.pair : token) * p.out_stride + row;
        *out = p.epilogue == MATMUL_ADD ? *out + value : value;
    }
}

static __device__ __forceinline__ void team_barrier(uint32_t id, uint32_t team)
{
    if (team == 1)
        __syncwarp();
    else
        asm volatile("bar.sync %0, %1;" ::"r"(id + 1), "r"(team * 32) : "memory");
}

template <int MODE, bool GROUPED>
static __global__ void __launch_bounds__(GEMV_THREADS, 2) gemv_kernel(const __grid_constant__ gemv_params a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ uint64_t barriers[GEMV_WARPS][GEMV_MAX_STAGES];
    constexpr int NT = mode_tokens(MODE);
    const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    const uint32_t member = warp % a.team, team = warp / a.team, n_teams = GEMV_WARPS / a.team;
    const uint32_t stride = gridDim.x * n_teams, deposit_floats = a.n_passes * NT * 16;
    uint8_t *ring = shared + (uint64_t)warp * a.n_stages * a.stage_bytes;
    float *sums = (float *)(shared + (uint64_t)GEMV_WARPS * a.n_stages * a.stage_bytes) +
                  2 * team * a.team * deposit_floats;
    uint64_t *full = barriers[warp];
    gemv_walk use = {team * gridDim.x + blockIdx.x, 0, member, 0, 0, 0, 0, nullptr}, fill;

    launch_next();
    if (lane < (int)a.n_stages)
        ring_init(full + lane);
    __syncwarp();
    if (GROUPED) /* which experts is what the predecessor computed */
        launch_wait();
    walk_locate<GROUPED>(use, a);
    fill = use;
    for (uint32_t i = 0; i < a.n_stages; i++) {
        walk_fill(fill, a, ring + i * a.stage_bytes, full + i, lane);
        walk_next<GROUPED>(fill, a, member, stride);
    }
    if (!GROUPED)
        launch_wait();
    uint32_t limit = a.n_rows_dev ? min(a.n_rows, (uint32_t)max(0, *a.n_rows_dev)) : a.n_rows;
    gemv_input in = {a.act, a.act_stride, a.n_in, GROUPED ? 1 : a.n_rows};
    float acc[2][mode_sums(MODE)] = {};
    uint32_t stage = 0, parity = 0, half = 0;

    while (use.unit < a.n_units) {
        if (GROUPED)
            in.act = a.act + use.pair / a.in_divisor * a.act_stride;
        slab_product<MODE>(a.part[use.part].type, ring + stage * a.stage_bytes, full + stage, parity,
                           use.slab, in, lane, acc);
        __syncwarp();
        walk_fill(fill, a, ring + stage * a.stage_bytes, full + stage, lane);
        walk_next<GROUPED>(fill, a, member, stride);
        if (++stage == a.n_stages) {
            stage = 0;
            parity ^= 1;
        }
        gemv_walk now = use;
        if (!walk_next<GROUPED>(use, a, member, stride))
            continue;
        float *half_sums = sums + half * a.team * deposit_floats;
        deposit<MODE>(half_sums + member * deposit_floats + now.pass * NT * 16, acc, lane);
        if (now.pass + 1 < a.n_passes)
            continue;
        team_barrier(team, a.team);
        finish_unit<NT, GROUPED>(a, now, half_sums, GROUPED ? now.pair < limit : limit, member * 32 + lane);
        half ^= 1; /* the other half is free: all passed the last barrier after reading it */
    }
}

/* ---- Host ---- */

typedef void (*gemv_fn)(gemv_params);

static gemv_fn gemv_pick(int mode, int grouped)
{
    if (grouped)
        return mode == GEMV_FLOAT ? gemv_kernel<GEMV_FLOAT, true> : gemv_kernel<GEMV_DP4A, true>;
    switch (mode) {
    case GEMV_DP4A:
        return gemv_kernel<GEMV_DP4A, false>;
    case GEMV_MMA:
        return gemv_kernel<GEMV_MMA, false>;
    case GEMV_FLOAT:
        return gemv_kernel<GEMV_FLOAT, false>;
    default:
        return gemv_kernel<GEMV_FLOAT_MMA, false>;
    }
}

extern "C" int matmul_gemv_prepare(const struct matmul_context *ctx)
{
    for (int mode = GEMV_DP4A; mode <= GEMV_FLOAT_MMA; mode++) {
        for (int grouped = 0; grouped < 2; grouped++) {
            int e = (int)cudaFuncSetAttribute((const void *)gemv_pick(mode, grouped),
                                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              min((int)GEMV_SHARED, ctx->shared_bytes) - 1024);
            if (e)
                return e;
        }
    }
    return 0;
}

static void fill_part(gemv_part *to, const struct matmul_part *part)
{
    const struct cuda_matrix *m = part->w;
    struct slab_layout l = slab_layout_of(m->type);
    uint32_t tail = (uint32_t)(m->n_in % l.columns);

    to->data = (const uint8_t *)m->data;
    to->bias = part->bias;
    to->out = part->out;
    to->out_stride = part->out_stride;
    to->group_bytes = group_bytes(l, m->n_in);
    to->stack_bytes = m->stack_bytes;
    to->n_out = (uint32_t)m->n_out;
    to->slab_bytes = slab_bytes(l, l.columns);
    to->last_slab_bytes = slab_bytes(l, tail ? tail : l.columns);
    to->type = m->type;
    to->epilogue = part->epilogue;
}

/* Warps per unit: the fewest slabs in a row for the busiest warp. */
static uint32_t pick_team(const struct matmul_context *ctx, uint32_t n_units, uint32_t n_slabs)
{
    uint32_t best = 1, best_cost = ~0u, warps = (uint32_t)ctx->n_sms * GEMV_WARPS;
    for (uint32_t team = 1; team <= GEMV_WARPS && team <= n_slabs; team *= 2) {
        uint64_t rounds = ((uint64_t)n_units * team + warps - 1) / warps;
        uint32_t cost = (uint32_t)(rounds * ((n_slabs + team - 1) / team));
        if (cost < best_cost) {
            best = team;
            best_cost = cost;
        }
    }
    return best;
}

static int gemv_go(const struct matmul_context *ctx, gemv_params *a, int mode, int grouped,
                   cudaStream_t stream)
{
    uint32_t tokens = (uint32_t)mode_tokens(mode), stage = 0, columns = mode >= GEMV_FLOAT ? 128 : 256;
    uint32_t shared =
        min(GEMV_SHARED, ctx->shared_bytes) - 1024 - sizeof(uint64_t) * GEMV_WARPS * GEMV_MAX_STAGES;

    a->n_slabs = (a->n_in + columns - 1) / columns;
    a->team = pick_team(ctx, a->n_units, a->n_slabs * a->n_passes);
    while (a->team > a->n_slabs)
        a->team /= 2;
    for (uint32_t i = 0; i < a->n_parts; i++)
        stage = max(stage, a->part[i].slab_bytes);
    uint32_t sums = 2 * GEMV_WARPS * a->n_passes * tokens * 16 * sizeof(float);
    a->stage_bytes = stage;
    a->n_stages = min((uint32_t)GEMV_MAX_STAGES, (shared - sums) / GEMV_WARPS / stage);
    uint32_t blocks = min((uint32_t)ctx->n_sms, (a->n_units * a->team + GEMV_WARPS - 1) / GEMV_WARPS);
    if (GEMV_WARPS / a->team > 1)
        blocks = min((uint32_t)ctx->n_sms, a->n_units);
    return launch_kernel(gemv_pick(mode, grouped), dim3(blocks), dim3(GEMV_THREADS),
                         (size_t)GEMV_WARPS * a->n_stages * stage + sums, stream, ctx->overlap, a);
}

static int is_16_bit(int32_t type)
{
    return type == SHARPI_TYPE_F16 || type == SHARPI_TYPE_BF16;
}

/* The parts of one mode (all of them when glu) as one launch. */
static int gemv_mode_launch(const struct matmul_args *args, int is_float)
{
    int mode = is_float            ? args->n_rows <= 1 ? GEMV_FLOAT : GEMV_FLOAT_MMA
               : args->n_rows <= 1 ? GEMV_DP4A
                                   : GEMV_MMA;
    enum act_format format = is_float ? ACT_F32 : ACT_Q8;
    gemv_params a = {};

    for (uint32_t i = 0; i < args->n_parts; i++) {
        const struct cuda_matrix *m = args->part[i].w;
        if (is_16_bit(m->type) != is_float)
            continue;
        gemv_part *p = &a.part[a.n_parts++];
        fill_part(p, &args->part[i]);
        p->first_unit = a.n_units;
        if (!args->glu || a.n_parts == 1)
            a.n_units += (uint32_t)((m->n_out + 15) / 16);
        a.n_in = (uint32_t)m->n_in;
    }
    if (a.n_parts == 0)
        return 0;
    a.act = (const uint8_t *)args->act[format];
    a.act_stride = args->act_stride[format];
    a.n_rows_dev = args->n_rows_dev;
    a.n_passes = args->glu ? 2 : 1;
    a.n_rows = args->n_rows;
    a.glu = args->glu;
    a.glu_clamp = args->glu_clamp;
    return gemv_go(args->ctx, &a, mode, 0, args->stream);
}

extern "C" int matmul_gemv_launch(const struct matmul_args *args)
{
    int e = gemv_mode_launch(args, 0);
    return e ? e : gemv_mode_launch(args, 1);
}

extern "C" int matmul_gemv_grouped_launch(const struct matmul_grouped_args *args)
{
    const struct cuda_matrix *m = args->part[0].w;
    gemv_params a = {};

    for (uint32_t i = 0; i < args->n_parts; i++)
        fill_part(&a.part[i], &args->part[i]);
    a.n_parts = args->n_parts;
    a.act = (const uint8_t *)args->act;
    a.act_stride = args->act_stride;
    a.n_rows_dev = args->n_pairs_dev;
    a.expert_of = args->expert_of;
    a.n_passes = args->n_parts;
    a.n_in = (uint32_t)m->n_in;
    a.n_rows = args->n_pairs;
    a.units_per_pair = (uint32_t)((m->n_out + 15) / 16);
    a.n_units = a.units_per_pair * args->n_pairs;
    a.in_divisor = args->in_divisor ? args->in_divisor : 1;
    a.n_experts = m->n_stack;
    a.glu = args->glu;
    a.glu_clamp = args->glu_clamp;
    return gemv_go(args->ctx, &a, is_16_bit(m->type) ? GEMV_FLOAT : GEMV_DP4A, 1, args->stream);
}
