/* Products with few activation rows (decode), bound by the reading of weights.
 *
 * The unit of work is a group of 16 weight rows (with glu: the gate's and the up's). A team of 1, 2, 4 or 8 warps of a
 * block shares a unit: each takes every n-th slab, copied ahead through the warp's own ring in shared memory, and the team adds up
 * in a fixed order. Rings are filled before launch_wait(), so that a kernel's first weights arrive while its predecessor
 * still computes. Moves each weight once; activations come from the caches.
 */
#include "launch.h"
#include "matmul-epilogue.cuh"
#include "matmul-gemv.cuh"
#include "matmul-internal.h"
#include "matmul-ring.cuh"
#include "sequence.h"

enum { GEMV_WARPS = 8, GEMV_THREADS = 32 * GEMV_WARPS, GEMV_MAX_STAGES = 4 };
enum { GEMV_MAX_SLAB = 4352 };

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

/* A warp's way through units and, in them, passes (glu: gate, up). */
struct gemv_walk {
    uint32_t unit, pass;
    uint32_t part, group; /* of unit and pass */
    uint32_t expert, pair;
};

/* The next slab to be copied. */
struct gemv_fill {
    gemv_walk walk;
    const uint8_t *at;
    uint32_t left; /* slabs of this pass, this one included */
};

/* What is the same for all of a warp's slabs. */
struct gemv_warp {
    uint32_t member, stride; /* in the team; from unit to unit */
    uint32_t n_slabs;        /* of a pass that are this warp's */
    bool has_last;           /* the last of them is the group's last */
    int lane;
    uint8_t *ring;
};

template <bool GROUPED> static __device__ __forceinline__ void walk_locate(gemv_walk &w, const gemv_params &a)
{
    uint32_t unit = w.unit;
    w.part = w.pass;
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
}

template <bool GROUPED>
static __device__ __forceinline__ void walk_next(gemv_walk &w, const gemv_params &a, uint32_t stride)
{
    if (++w.pass == a.n_passes) {
        w.pass = 0;
        w.unit += stride;
    }
    if (w.unit < a.n_units)
        walk_locate<GROUPED>(w, a);
}

static __device__ __forceinline__ void fill_begin(gemv_fill &f, const gemv_params &a, const gemv_warp &w)
{
    const gemv_part &p = a.part[f.walk.part];
    f.left = w.n_slabs;
    f.at = p.data + f.walk.group * p.group_bytes + w.member * p.slab_bytes;
    if (f.walk.expert < a.n_experts)
        f.at += f.walk.expert * p.stack_bytes;
}

/* Starts the copy of the next slab, if there is one, as one group. */
template <bool GROUPED>
static __device__ __forceinline__ void fill_next(gemv_fill &f, const gemv_params &a, const gemv_warp &w,
                                                 uint8_t *buffer)
{
    if (f.walk.unit < a.n_units) {
        const gemv_part &p = a.part[f.walk.part];
        copy_warp<GEMV_MAX_SLAB>(buffer, f.at, f.left == 1 && w.has_last ? p.last_slab_bytes : p.slab_bytes,
                                 w.lane);
        f.at += a.team * p.slab_bytes;
        if (--f.left == 0) {
            walk_next<GROUPED>(f.walk, a, w.stride);
            fill_begin(f, a, w);
        }
    }
    copy_commit();
}

/* Blocks that fit an SM. */
static constexpr __host__ __device__ int mode_blocks(int mode)
{
    return mode == GEMV_Q1 || mode == GEMV_FLOAT ? 3 : 2;
}

/* The warp's slabs of a pass: acc += weights times activations. Up to four tokens, the next slab's activations are loaded
 * while this one's products run. */
template <int TYPE, int MODE, bool GROUPED>
static __device__ __forceinline__ void pass_quantized(const gemv_params &a, const gemv_warp &w,
                                                      const gemv_input &in, gemv_fill &fill, uint32_t &stage,
                                                      float acc[2][2])
{
    constexpr int NT = mode_tokens(MODE);
    constexpr bool ahead = NT <= 4;
    const gemv_lane<NT> l = gemv_lane_of<NT>(in, w.lane);
    act_slab<NT> x, next;

    slab_load(x, l, w.member);
    for (uint32_t i = 0, index = w.member; i < w.n_slabs; i++, index += a.team) {
        uint8_t *slab = w.ring + stage * a.stage_bytes;
        const bool more = i + 1 < w.n_slabs;
        if (ahead && more)
            slab_load(next, l, index + a.team);
        copy_wait(a.n_stages - 1);
        __syncwarp();
        if constexpr (NT == 1)
            slab_dot_one<TYPE>(shared_address(slab), x.f[0], l.lane, acc);
        else
            slab_dot<TYPE, NT>(slab, x, l, acc);
        __syncwarp();
        if (!ahead && more)
            slab_load(x, l, index + a.team);
        fill_next<GROUPED>(fill, a, w, slab);
        stage = stage + 1 == a.n_stages ? 0 : stage + 1;
        if (ahead)
            x = next;
    }
}

template <int TYPE, int MODE, bool GROUPED>
static __device__ __forceinline__ void pass_float(const gemv_params &a, const gemv_warp &w,
                                                  const gemv_input &in, gemv_fill &fill, uint32_t &stage,
                                                  float acc[2][mode_sums(MODE)])
{
    const int g = w.lane >> 2, t = w.lane & 3;
    const uint8_t *row = mode_tokens(MODE) == 1 ? in.act : in.act + min(g, (int)in.n_rows - 1) * in.stride;

    for (uint32_t i = 0, index = w.member; i < w.n_slabs; i++, index += a.team) {
        uint8_t *slab = w.ring + stage * a.stage_bytes;
        float4 x[8];
        if (index * 128 + 128 <= in.n_in) {
#pragma unroll
            for (int p = 0; p < 8; p++)
                x[p] = *(const float4 *)(row + (index * 128 + p * 16 + 4 * t) * 4);
        }
        copy_wait(a.n_stages - 1);
        __syncwarp();
        dot_float<TYPE, MODE>(slab, index, x, row, in.n_in, w.lane, acc);
        __syncwarp();
        fill_next<GROUPED>(fill, a, w, slab);
        stage = stage + 1 == a.n_stages ? 0 : stage + 1;
    }
}

template <int TYPE, int MODE, bool GROUPED>
static __device__ __forceinline__ void run_pass(const gemv_params &a, const gemv_warp &w,
                                                const gemv_input &in, gemv_fill &fill, uint32_t &stage,
                                                float acc[2][mode_sums(MODE)])
{
    if constexpr (MODE <= GEMV_Q8)
        pass_quantized<TYPE, MODE, GROUPED>(a, w, in, fill, stage, acc);
    else
        pass_float<TYPE, MODE, GROUPED>(a, w, in, fill, stage, acc);
}

template <int MODE, bool GROUPED>
static __device__ __forceinline__ void run_pass_of(int32_t type, const gemv_params &a, const gemv_warp &w,
                                                   const gemv_input &in, gemv_fill &fill, uint32_t &stage,
                                                   float acc[2][mode_sums(MODE)])
{
#define RUN_PASS(TYPE)                                                                                       \
    case TYPE:                                                                                               \
        run_pass<TYPE, MODE, GROUPED>(a, w, in, fill, stage, acc);                                           \
        break;
    if constexpr (MODE <= GEMV_Q8) {
        switch (type) {
            EACH_QUANTIZED_TYPE(RUN_PASS)
        }
    } else {
        switch (type) {
            RUN_PASS(SHARPI_TYPE_F16)
            RUN_PASS(SHARPI_TYPE_BF16)
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
static __global__ void __launch_bounds__(GEMV_THREADS, mode_blocks(MODE))
    gemv_kernel(const __grid_constant__ gemv_params a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    constexpr int NT = mode_tokens(MODE);
    const uint32_t warp = threadIdx.x / 32, ring_bytes = a.n_stages * a.stage_bytes;
    const uint32_t team = warp / a.team, n_teams = GEMV_WARPS / a.team, deposit_floats = a.n_passes * NT * 16;
    gemv_warp w = {warp % a.team, gridDim.x * n_teams,     0,
                   false,         (int)(threadIdx.x & 31), shared + warp * ring_bytes};
    float *sums = (float *)(shared + GEMV_WARPS * ring_bytes) + 2 * team * a.team * deposit_floats;
    gemv_walk use = {team * gridDim.x + blockIdx.x, 0, 0, 0, 0, 0};

    w.n_slabs = (a.n_slabs - w.member + a.team - 1) / a.team;
    w.has_last = (a.n_slabs - 1) % a.team == w.member;
    launch_next();
    if (GROUPED) /* which experts is what the predecessor computed */
        launch_wait();
    if (use.unit < a.n_units)
        walk_locate<GROUPED>(use, a);
    gemv_fill fill = {use, nullptr, 0};
    fill_begin(fill, a, w);
    for (uint32_t i = 0; i < a.n_stages; i++)
        fill_next<GROUPED>(fill, a, w, w.ring + i * a.stage_bytes);
    if (!GROUPED)
        launch_wait();
    uint32_t limit = a.n_rows_dev ? min(a.n_rows, (uint32_t)max(0, *a.n_rows_dev)) : a.n_rows;
    gemv_input in = {a.act, a.act_stride, a.n_in, GROUPED ? 1 : a.n_rows};
    uint32_t stage = 0, half = 0;

    while (use.unit < a.n_units) {
        float acc[2][mode_sums(MODE)] = {};
        if (GROUPED)
            in.act = a.act + use.pair / a.in_divisor * a.act_stride;
        run_pass_of<MODE, GROUPED>(a.part[use.part].type, a, w, in, fill, stage, acc);
        gemv_walk now = use;
        walk_next<GROUPED>(use, a, w.stride);
        float *half_sums = sums + half * a.team * deposit_floats;
        deposit<MODE>(half_sums + w.member * deposit_floats + now.pass * NT * 16, acc, w.lane);
        if (now.pass + 1 < a.n_passes)
            continue;
        team_barrier(team, a.team);
        finish_unit<NT, GROUPED>(a, now, half_sums, GROUPED ? now.pair < limit : limit,
                                 w.member * 32 + w.lane);
        half ^= 1; /* the other half is free: all passed the last barrier after reading it */
    }
}

/* ---- Host ---- */

typedef void (*gemv_fn)(gemv_params);

static gemv_fn gemv_pick(int mode, int grouped)
{
    if (grouped)
        return mode == GEMV_FLOAT ? gemv_kernel<GEMV_FLOAT, true> : gemv_kernel<GEMV_Q1, true>;
    switch (mode) {
    case GEMV_Q1:
        return gemv_kernel<GEMV_Q1, false>;
    case GEMV_Q2:
        return gemv_kernel<GEMV_Q2, false>;
    case GEMV_Q4:
        return gemv_kernel<GEMV_Q4, false>;
    case GEMV_Q8:
        return gemv_kernel<GEMV_Q8, false>;
    case GEMV_FLOAT:
        return gemv_kernel<GEMV_FLOAT, false>;
    default:
        return gemv_kernel<GEMV_FLOAT_MMA, false>;
    }
}

/* The kernel with the fewest tokens that has n_rows. */
static int mode_of(uint32_t n_rows, int is_float)
{
    if (is_float)
        return n_rows <= 1 ? GEMV_FLOAT : GEMV_FLOAT_MMA;
    return n_rows <= 1 ? GEMV_Q1 : n_rows <= 2 ? GEMV_Q2 : n_rows <= 4 ? GEMV_Q4 : GEMV_Q8;
}

extern "C" int matmul_gemv_prepare(const struct matmul_context *ctx)
{
    for (int mode = GEMV_Q1; mode <= GEMV_FLOAT_MMA; mode++) {
        for (int grouped = 0; grouped < 2; grouped++) {
            const void *kernel = (const void *)gemv_pick(mode, grouped);
            int e = (int)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              ctx->device_shared);
            if (!e) /* or an SM would have to be empty before it changes its split and this kernel can begin */
                e = (int)cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                              cudaSharedmemCarveoutMaxShared);
            if (e)
                return e;
        }
    }
    return sequence_prepare(ctx);
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
    uint32_t best = 1, best_cost = ~0u, warps = (uint32_t)(ctx->n_sms * ctx->gemv_blocks) * GEMV_WARPS;
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

    a->n_slabs = (a->n_in + columns - 1) / columns;
    a->team = pick_team(ctx, a->n_units, a->n_slabs * a->n_passes);
    while (a->team > a->n_slabs)
        a->team /= 2;
    for (uint32_t i = 0; i < a->n_parts; i++)
        stage = max(stage, a->part[i].slab_bytes);
    uint32_t sums = 2 * GEMV_WARPS * a->n_passes * tokens * 16 * sizeof(float);
    a->stage_bytes = stage;
    for (int per_sm = mode_blocks(mode); per_sm > 0 && a->n_stages < 2; per_sm--)
        a->n_stages = min((uint32_t)GEMV_MAX_STAGES,
                          (sharpi::shared_share((uint32_t)ctx->shared_bytes, (uint32_t)per_sm) - sums) /
                              GEMV_WARPS / stage);
    if (a->n_stages == 0)
        return (int)cudaErrorInvalidConfiguration;
    uint32_t blocks = min((uint32_t)(ctx->n_sms * ctx->gemv_blocks), a->n_units);
    return launch_kernel(gemv_pick(mode, grouped), dim3(blocks), dim3(GEMV_THREADS),
                         (size_t)GEMV_WARPS * a->n_stages * stage + sums, stream, ctx->overlap, a);
}

/* The parts of one mode (all of them when glu) as one launch. */
static int gemv_mode_launch(const struct matmul_args *args, int is_float)
{
    int mode = mode_of(args->n_rows, is_float);
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
    return gemv_go(args->ctx, &a, is_16_bit(m->type) ? GEMV_FLOAT : GEMV_Q1, 1, args->stream);
}
