/* How a step's attention is cut into work, computed on the device from the batch's descriptors.
 *
 * Rows. The rows of a sequence and KV head are (token, query head of the group), token-major; a row group is the `m` rows
 * that a block holds at a time. A segment is one row group of one KV head of one sequence with all pages that it sees; a
 * unit is one page of it.
 *
 * Two ways to share the work, by the number of rows of a sequence, so that a mixed step is two launches:
 *  - few rows (decode): all units in a line, cut into equal chunks, one per block. A block writes `out` for segments
 *    that it has to itself and a partial (maximum, sum, unnormalised output) otherwise: at most two, its first segment's
 *    and its last one's. merge_kernel finds them by the same arithmetic. (attention-direct.cuh shares the work otherwise:
 *    attention-jobs.cuh.)
 *  - many rows (prefill): a segment per block, longest first.
 */
#ifndef SHARPI_CUDA_ATTENTION_WORK_CUH
#define SHARPI_CUDA_ATTENTION_WORK_CUH

#include <sharpi/cuda/kv-cuda.h>
#include <sharpi/cuda/kv-format.cuh>
#include <sharpi/cuda/launch.cuh>

namespace sharpi
{

constexpr uint32_t few_rows = 64; /* up to so many rows of a sequence and KV head are split over pages */

struct work_shape {
    uint32_t m;         /* rows of a group */
    uint32_t ratio;     /* query heads per KV head */
    uint32_t is_split;  /* 1: chunks of units, 0: a segment per block */
    uint32_t all_few;   /* 1: the launch serves no sequence with more than few_rows */
    uint32_t appends;   /* 1: the kernel itself stores the step's k and v (decode) */
    uint32_t n_blocks;  /* of the kernel that is split, for merge_kernel too; direct: that run at a time */
    uint32_t acc_width; /* floats of an output row in a partial */
    float *acc;         /* [n_blocks, 2, m, acc_width] */
    float2 *sums;       /* [n_blocks, 2, m]: maximum, sum */

    uint32_t inline_parts; /* row groups of up to so many parts are not merge_kernel's */

    /* attention-direct.cuh, attention-jobs.cuh. */
    uint32_t is_direct;
    uint32_t unit_log2; /* positions of a unit */
    uint32_t *counters; /* [max_seqs, n_kv_heads], zero between launches: parts that are done */

    /* Prefill from converted tiles (attention-convert.cuh). */
    char *tiles;
    uint32_t capacity;       /* tiles of K, and as many of V */
    uint32_t takes_overflow; /* 1: this kernel serves the sequences that did not fit */
};

/* Holds its sequence's descriptor: memory clobbers would make the compiler read it again and again. */
struct segment {
    uint32_t seq, kv_head, group;
    uint32_t page, end_page; /* positions / 64 */
    sharpi_batch_seq s;
};

__device__ inline uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

__device__ inline bool is_ours(const work_shape &w, uint32_t n_rows)
{
    return n_rows && (w.is_split ? w.all_few || n_rows <= few_rows : n_rows > few_rows);
}

/* Pages that row group `group` sees. */
__device__ inline void page_range(const sharpi_kv_cuda_args &a, const work_shape &w,
                                  const sharpi_batch_seq &s, uint32_t group, uint32_t &page,
                                  uint32_t &end_page)
{
    uint32_t first = 0, last = s.n_tokens - 1;
    if (s.n_tokens * w.ratio > w.m) {
        first = group * w.m / w.ratio;
        last = min(last, (group * w.m + w.m - 1) / w.ratio);
    }
    const uint32_t position = s.length + first, end = s.length + (a.causal ? last + 1 : s.n_tokens);
    const uint32_t low = a.window && position + 1 > a.window ? position + 1 - a.window : 0;
    page = low / tile_rows;
    end_page = ceil_div(end, tile_rows);
}

/* Units of a sequence, for each of its KV heads. */
__device__ inline uint32_t units_per_head(const sharpi_kv_cuda_args &a, const work_shape &w,
                                          const sharpi_batch_seq &s)
{
    const uint32_t n_rows = s.n_tokens * w.ratio;
    uint32_t units = 0, page, end_page;
    if (is_ours(w, n_rows))
        for (uint32_t group = 0; group * w.m < n_rows; group++) {
            page_range(a, w, s, group, page, end_page);
            units += end_page - page;
        }
    return units;
}

/* Units of all sequences, and of those below `seq`. By whole warps. Descriptors are read before n_seqs is known. */
__device__ inline uint32_t count_units(const sharpi_kv_cuda_args &a, const work_shape &w, uint32_t seq,
                                       uint32_t &before)
{
    const uint32_t n_seqs = a.step->n_seqs;
    uint32_t total = 0, below = 0;
    for (uint32_t base = 0; base < a.max_seqs; base += 32) {
        const uint32_t i = base + threadIdx.x % 32;
        const sharpi_batch_seq s = a.seqs[min(i, a.max_seqs - 1)];
        const uint32_t units = i < n_seqs ? units_per_head(a, w, s) * a.n_kv_heads : 0;
        total += units;
        below += i < seq ? units : 0;
        if (base + 32 >= n_seqs)
            break;
    }
    before = __reduce_add_sync(~0u, below);
    return __reduce_add_sync(~0u, total);
}

/* Units of a block. */
__device__ inline uint32_t chunk_of(const work_shape &w, uint32_t n_units)
{
    return max(1u, ceil_div(n_units, w.n_blocks));
}

/* The segment that holds unit `unit`, with .page at that unit; there must be one. Whole warps. */
__device__ inline segment segment_at(const sharpi_kv_cuda_args &a, const work_shape &w, uint32_t unit,
                                     uint32_t &first_page)
{
    const uint32_t n_seqs = a.step->n_seqs, lane = threadIdx.x % 32;
    segment x = {};
    for (uint32_t base = 0; base < n_seqs; base += 32) {
        const sharpi_batch_seq s = a.seqs[min(base + lane, n_seqs - 1)];
        const uint32_t units = base + lane < n_seqs ? units_per_head(a, w, s) * a.n_kv_heads : 0;
        uint32_t sum = units;
        for (uint32_t i = 1; i < 32; i *= 2) {
            const uint32_t other = __shfl_up_sync(~0u, sum, i);
            sum += lane >= i ? other : 0;
        }
        const uint32_t found = __ballot_sync(~0u, sum > unit);
        if (found) {
            const uint32_t at = __ffs(found) - 1;
            x.seq = base + at;
            x.s = a.seqs[x.seq];
            unit -= __shfl_sync(~0u, sum - units, at);
            break;
        }
        unit -= __shfl_sync(~0u, sum, 31);
    }
    const uint32_t per_head = units_per_head(a, w, x.s);
    x.kv_head = unit / per_head;
    unit -= x.kv_head * per_head;
    for (;; x.group++) {
        page_range(a, w, x.s, x.group, first_page, x.end_page);
        if (unit < x.end_page - first_page)
            break;
        unit -= x.end_page - first_page;
    }
    x.page = first_page + unit;
    return x;
}

/* From a segment's last page to the next segment; the caller knows that there is one. */
__device__ inline void next_segment(const sharpi_kv_cuda_args &a, const work_shape &w, segment &x)
{
    x.group++;
    if (x.group * w.m >= x.s.n_tokens * w.ratio) {
        x.group = 0;
        x.kv_head++;
        if (x.kv_head == a.n_kv_heads) {
            x.kv_head = 0;
            do
                x.s = a.seqs[++x.seq];
            while (!is_ours(w, x.s.n_tokens * w.ratio));
        }
    }
    page_range(a, w, x.s, x.group, x.page, x.end_page);
}

__device__ inline void next_unit(const sharpi_kv_cuda_args &a, const work_shape &w, segment &x)
{
    if (++x.page == x.end_page)
        next_segment(a, w, x);
}

/* A block's work: units from `at` on. */
struct block_work {
    segment at;
    uint32_t n_units;
    uint32_t is_first_partial; /* the first segment began in an earlier block */
    uint32_t first_tile;       /* prefill: where the sequence's converted tiles begin */
    uint32_t first_page;       /* and the page of the first */
};

__device__ inline block_work split_work(const sharpi_kv_cuda_args &a, const work_shape &w)
{
    uint32_t first_page;
    const uint32_t total = count_units(a, w, 0, first_page), chunk = chunk_of(w, total);
    const uint32_t begin = min(total, blockIdx.x * chunk), end = min(total, begin + chunk);
    block_work work = {};
    work.n_units = end - begin;
    if (begin < end) {
        work.at = segment_at(a, w, begin, first_page);
        work.is_first_partial = work.at.page != first_page;
    }
    return work;
}

/* Pages that a sequence sees. */
__device__ inline void seq_pages(const sharpi_kv_cuda_args &a, const sharpi_batch_seq &s, uint32_t &page,
                                 uint32_t &end_page)
{
    page = (a.window && s.length + 1 > a.window ? s.length + 1 - a.window : 0) / tile_rows;
    end_page = ceil_div(s.length + s.n_tokens, tile_rows);
}

/* Blocks of a KV head lie together, last row groups first: they see most. */
__device__ inline block_work whole_work(const sharpi_kv_cuda_args &a, const work_shape &w)
{
    const uint32_t n_seqs = a.step->n_seqs;
    block_work work = {};
    uint32_t index = blockIdx.x, n_converted = 0;
    for (uint32_t i = 0; i < n_seqs; i++) {
        const sharpi_batch_seq s = a.seqs[i];
        const uint32_t n_rows = s.n_tokens * w.ratio, n_groups = ceil_div(n_rows, w.m);
        if (!is_ours(w, n_rows))
            continue;
        if (w.capacity) {
            uint32_t end_page;
            seq_pages(a, s, work.first_page, end_page);
            const uint32_t n_tiles = (end_page - work.first_page) * a.n_kv_heads;
            const bool fits = n_converted + n_tiles <= w.capacity;
            work.first_tile = n_converted;
            n_converted += fits ? n_tiles : 0;
            if (fits == (bool)w.takes_overflow)
                continue;
        }
        if (index < n_groups * a.n_kv_heads) {
            work.at.seq = i;
            work.at.s = s;
            work.at.kv_head = index % a.n_kv_heads;
            work.at.group = n_groups - 1 - index / a.n_kv_heads;
            page_range(a, w, s, work.at.group, work.at.page, work.at.end_page);
            work.n_units = work.at.end_page - work.at.page;
            return work;
        }
        index -= n_groups * a.n_kv_heads;
    }
    return work;
}

/* Rows of the segment's group that are the sequence's. */
__device__ inline uint32_t rows_in_group(const work_shape &w, const segment &x)
{
    return min(w.m, x.s.n_tokens * w.ratio - x.group * w.m);
}

/* K or V tile of a unit. */
__device__ inline char *tile_of(const sharpi_kv_cuda_args &a, void *cache, const segment &x, uint32_t page,
                                uint32_t tile_bytes)
{
    const int32_t number = a.pages[(uint64_t)x.seq * a.page_stride + page % (a.ring / tile_rows)];
    return (char *)cache + ((uint64_t)(uint32_t)number * a.n_kv_heads + x.kv_head) * tile_bytes;
}

/* One row of a group: whose it is and what it sees. */
struct row_view {
    uint32_t token; /* of the batch */
    uint32_t head;
    uint32_t low, end; /* visible positions */
    bool is_valid;
};

__device__ inline row_view view_of(const sharpi_kv_cuda_args &a, const work_shape &w, const segment &x,
                                   uint32_t row)
{
    const uint32_t r = x.group * w.m + row, in_seq = r / w.ratio;
    row_view view;
    view.is_valid = in_seq < x.s.n_tokens;
    const uint32_t token = min(in_seq, x.s.n_tokens - 1), position = x.s.length + token;
    view.token = x.s.first_token + token;
    view.head = x.kv_head * w.ratio + r - in_seq * w.ratio;
    view.end = a.causal ? position + 1 : x.s.length + x.s.n_tokens;
    view.low = a.window && position + 1 > a.window ? position + 1 - a.window : 0;
    return view;
}

} // namespace sharpi
#endif
