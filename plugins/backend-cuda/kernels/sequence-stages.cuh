/* What the sequence kernel reads from its parameters, and where in it a block finds its part.
 *
 * A product's units (16 weight rows, of f32 weights one; with glu the gate's and the up's) are dealt to blocks in contiguous runs of n or n + 1; which
 * blocks have the longer runs turns from product to product. The slabs of a block's units in a row, (unit, pass, slab), are
 * dealt to its warps in contiguous ranges that differ by one slab at most.
 * Products of a mixture's chosen experts: units of gate and up are 16 rows of a pair (a chosen expert for the row), pair after pair;
 * a unit of down has as many passes as there are pairs.
 */
#ifndef SHARPI_BACKEND_CUDA_SEQUENCE_STAGES_CUH
#define SHARPI_BACKEND_CUDA_SEQUENCE_STAGES_CUH

#include "matmul-internal.h"
#include "moe.h"
#include "rows-match.cuh"
#include "sequence.h"

/* Warps that read; one more fills. Each quarter of a multiprocessor has three of the twelve, and with so many registers a thread, and some
 * shared memory left, there is room for a block of decode attention beside them (4 warps of up to 152 registers, 24 KiB). So the
 * next layer's attention is resident when a sequence ends, and the sequence after it fills its rings while attention runs. */
enum { SEQ_WARPS = 11, SEQ_THREADS = 32 * SEQ_WARPS, SEQ_REGISTERS = 120, SEQ_SPARE_BYTES = 24 << 10 };
enum { SEQ_MAX_SEGMENTS = 4 }; /* (unit, pass)es that a warp's range of a product touches */
enum { SEQ_MAX_SLOTS = 6 };    /* of a warp's ring */
/* Two slabs of at most so many bytes are one copy: a copy keeps the filling warp for 150 cycles, and one slab of 2,304 bytes in these is
 * less than the multiprocessor's share of the memory's rate. */
enum { SEQ_SMALL_BYTES = 2560 };

/* Slabs of a copy and a slot. */
static constexpr __host__ __device__ uint32_t slabs_together(uint32_t slab_bytes)
{
    return slab_bytes <= SEQ_SMALL_BYTES ? 2 : 1;
}

enum { SEQ_MAX_CHAINS = 4 };
enum { SEQ_F32_COLUMNS = 512 }; /* of a slab of f32 weights */

/* Kernels by the types of their products: fewer types leave more registers to each. */
enum seq_set { SEQ_SET_Q4_0, SEQ_SET_Q8_0, SEQ_SET_K, SEQ_SET_16_BIT, SEQ_SET_ALL, SEQ_N_SETS };

static constexpr __host__ __device__ bool in_set(int32_t type, int set)
{
    if (type == SHARPI_TYPE_F32)
        return true;
    switch (set) {
    case SEQ_SET_Q4_0:
        return type == SHARPI_TYPE_Q4_0;
    case SEQ_SET_Q8_0:
        return type == SHARPI_TYPE_Q8_0;
    case SEQ_SET_K:
        return type == SHARPI_TYPE_Q4_K || type == SHARPI_TYPE_Q5_K || type == SHARPI_TYPE_Q6_K;
    case SEQ_SET_16_BIT:
        return type == SHARPI_TYPE_F16 || type == SHARPI_TYPE_BF16;
    default:
        return true;
    }
}

enum seq_kind { SEQ_PRODUCT, SEQ_PRODUCT_16_BIT, SEQ_PRODUCT_F32, SEQ_NORMS, SEQ_HEADS, SEQ_GLU, SEQ_ROUTER };

struct seq_part {
    const uint8_t *data;
    const float *bias;
    float *out;
    uint32_t n_out, first_unit, group_bytes;
    uint16_t slab_bytes, last_slab_bytes;
    uint16_t together; /* slabs_together() */
    int16_t type, epilogue;
};

struct seq_product {
    seq_part part[MATMUL_MAX_PARTS];
    const uint8_t *act; /* NULL: the block's own row */
    uint8_t *codes;     /* not NULL: the first part's (with glu: the only) outputs also go here, as ACT_Q8 */
    /* A norm after this product, or before it, whose factor its reader applies. 0: none; else a number + 1 among the sequence's. After:
     * codes are of the outputs times code_weight, and each 32 outputs' sum of squares goes to the norm's squares. Before: `act` is
     * such codes, and sums are multiplied with the factor. */
    const float *code_weight; /* NULL: ones */
    uint32_t norm_after, norm_before;
    float norm_eps, norm_share; /* of the norm before; 1 / n_in */
    const float *times; /* f32 weights, not NULL: act(the first part's outputs) * times go to `made` */
    float *made;
    uint32_t unit_step; /* units that stay in one block: 2, a block of 32 outputs, for codes; else 1 */
    uint32_t n_parts, n_passes, n_units, n_slabs, n_in;
    uint32_t rotation; /* of blocks */
    int32_t glu;       /* the activation, of a pair or with `times` */
    float glu_clamp;
    uint32_t n_pairs;    /* of a mixture: chosen experts; else 0 */
    uint32_t pair_units; /* gate and up: units of a pair; down: 0, its passes are the pairs */
};

/* A product with f32 weights, of few rows, and the norm before it. */
struct seq_router {
    const float *weights;
    float *out;
    uint32_t n_in, n_out;
    uint32_t makes_row; /* the block's own */
};

/* What a block knows of the chosen experts. */
struct seq_choice {
    int32_t expert[MOE_MAX_USED];
    float weight[MOE_MAX_USED];
    uint64_t is_made; /* barrier of all readers */
};

/* Heads of all chains, in the first n_blocks blocks; chains[].first_block is the number of the chain's first head. A chain beside
 * them that is norms is the next block's. */
struct seq_heads {
    fused_rows rows;
    uint32_t n_chains, n_heads, head_dim, n_blocks;
    heads_chain chains[SEQ_MAX_CHAINS];
    norms_params norms;
};

struct seq_stage {
    int32_t kind;      /* enum seq_kind */
    uint32_t n_blocks; /* that have a part in it */
    uint32_t
        own; /* a norm that every block of the stage does for itself at its beginning: own[own - 1]; 0: none */
    union {
        seq_product product;
        norms_params norms;
        seq_heads heads;
        glu_params glu;
        seq_router router;
    };
};

/* What products of experts have beside seq_product. */
struct seq_mixture {
    struct moe_route route;
    uint64_t up_bytes[2], down_bytes;      /* from expert to expert */
    uint32_t hidden_stride, output_stride; /* floats, from pair to pair */
    uint32_t combines; /* down stores the weighted sum of the pairs; else a row for each */
    const float *add;  /* combines: what is added to it, or NULL */
};

enum { SEQ_MAX_OWN = 2 };
enum { SEQ_MAX_CARRIED = 3 };           /* norms whose factor is applied later */
enum { SEQ_MAX_SQUARES = SEQ_THREADS }; /* of each: sums of 32 columns */
enum { SEQ_TRACE_LAUNCHES = 4 };        /* that a trace remembers */

struct seq_params {
    seq_stage stages[SEQUENCE_MAX_STAGES];
    uint32_t n_stages, slot_bytes, n_slots;
    uint32_t n_under_way; /* copies of a ring at a time */
    uint32_t n_early;     /* and of all rings of a block while kernels before still run */
    const int32_t *n_rows;
    uint32_t *counters;
    norms_params own[SEQ_MAX_OWN];
    uint32_t n_own, row_bytes; /* of a block's own row */
    uint8_t *rows;             /* of all blocks */
    float *squares;            /* [SEQ_MAX_CARRIED][SEQ_MAX_SQUARES] */
    seq_mixture mixture;
#ifdef SEQUENCE_TRACE
    uint32_t turn; /* < SEQ_TRACE_LAUNCHES: where its times are noted */
#endif
};

static __host__ __device__ __forceinline__ bool is_product(const seq_stage &s)
{
    return s.kind <= SEQ_PRODUCT_F32;
}

/* Bytes of the row that a dense product reads. */
static inline uint64_t input_bytes(const seq_stage &s)
{
    return s.kind == SEQ_PRODUCT ? act_row_bytes(ACT_Q8, s.product.n_in) : 4ull * s.product.n_in;
}

static inline bool overlap(const void *a, uint64_t a_bytes, const void *b, uint64_t b_bytes)
{
    return a && b && (const uint8_t *)a < (const uint8_t *)b + b_bytes &&
           (const uint8_t *)b < (const uint8_t *)a + a_bytes;
}

struct seq_units {
    uint32_t first, n;
};

/* The units of block `block` of `n_blocks`. The kernel does these divisions once, for all stages. */
static __host__ __device__ __forceinline__ seq_units units_of(const seq_product &p, uint32_t block,
                                                              uint32_t n_blocks)
{
    uint32_t place = block + p.rotation;
    place -= place >= n_blocks ? n_blocks : 0;
    const uint32_t n = p.n_units / p.unit_step, first = place * n / n_blocks;
    return {first * p.unit_step, ((place + 1) * n / n_blocks - first) * p.unit_step};
}

/* The slabs of warp `warp` of a block with n_units units: [first, end). */
struct seq_range {
    uint32_t first, end;
};

static __host__ __device__ __forceinline__ uint32_t slabs_of(const seq_product &p, uint32_t n_units)
{
    return n_units * p.n_passes * p.n_slabs;
}

static __host__ __device__ __forceinline__ seq_range range_of(uint32_t n_slabs, uint32_t warp)
{
    return {warp * n_slabs / SEQ_WARPS, (warp + 1) * n_slabs / SEQ_WARPS};
}

/* The warp in whose range slab `slab` is. */
static __host__ __device__ __forceinline__ uint32_t warp_of(uint32_t n_slabs, uint32_t slab)
{
    return (slab * SEQ_WARPS + SEQ_WARPS - 1) / n_slabs;
}

/* Where a (unit, pass) of a block's units lies. */
struct seq_segment {
    uint32_t part, group, pass, unit; /* unit: of the product */
    uint32_t pair;                    /* experts */
};

/* a / b for a < 2^20, in a few instructions: the quotient is at least 1 / (2 b) from where it would be rounded wrongly. */
static __device__ __forceinline__ uint32_t small_quotient(uint32_t a, uint32_t b)
{
    return (uint32_t)__fdividef((float)a + 0.5f, (float)b);
}

static __device__ __forceinline__ seq_segment segment_of_experts(const seq_product &p, uint32_t first_unit,
                                                                 uint32_t number)
{
    seq_segment s;
    const uint32_t unit = small_quotient(number, p.n_passes);
    s.unit = first_unit + unit;
    s.pass = number - unit * p.n_passes;
    s.pair = p.pair_units ? small_quotient(s.unit, p.pair_units) : s.pass;
    s.group = p.pair_units ? s.unit - s.pair * p.pair_units : s.unit;
    s.part = p.pair_units ? s.pass : 0;
    return s;
}

template <bool MOE>
static __device__ __forceinline__ seq_segment segment_of(const seq_product &p, uint32_t first_unit,
                                                         uint32_t number)
{
    if (MOE && p.n_pairs)
        return segment_of_experts(p, first_unit, number);
    seq_segment s;
    s.pair = 0;
    s.pass = p.n_passes == 2 ? number & 1 : 0;
    s.unit = first_unit + (p.n_passes == 2 ? number >> 1 : number);
    s.part = s.pass;
    s.group = s.unit;
    if (p.n_passes == 1) {
        while (s.part + 1 < p.n_parts && s.unit >= p.part[s.part + 1].first_unit)
            s.part++;
        s.group -= p.part[s.part].first_unit;
    }
    return s;
}

#endif
