/* How attention-direct.cuh's blocks share a step: each (sequence, KV head) is cut into equal parts, a part per block.
 *
 * A part has at most `share` units (a unit is 2^unit_log2 positions). Blocks are given out in the order sequence, KV head, part;
 * places for partials likewise, but only to what has more than one part: at most 4 n_blocks, if n_blocks run at a time.
 */
#ifndef SHARPI_CUDA_ATTENTION_JOBS_CUH
#define SHARPI_CUDA_ATTENTION_JOBS_CUH

#include <sharpi/cuda/attention-work.cuh>

namespace sharpi
{

/* So many units stay together: putting parts together takes longer than a unit. */
constexpr uint32_t direct_lone_units = 2;

struct direct_job {
    uint32_t seq, kv_head, part, n_parts; /* n_parts == 0: nothing to do */
    uint32_t first_partial;               /* of the parts' places */
    uint32_t length, n_tokens, first_token;
    uint32_t begin, end; /* positions in the cache; begin is a multiple of a unit */
    uint32_t has_fresh;  /* the step's own row is this block's too */
};

/* Units of a sequence that are in the cache and seen by some row: [first, first + n). */
struct unit_range {
    uint32_t first, n;
};

__device__ inline unit_range units_of(const sharpi_kv_cuda_args &a, const work_shape &w,
                                      const sharpi_batch_seq &s)
{
    const uint32_t end = s.length + (w.appends ? 0 : s.n_tokens);
    const uint32_t low = a.window && s.length + 1 > a.window ? s.length + 1 - a.window : 0;
    unit_range range;
    range.first = low >> w.unit_log2;
    range.n = s.n_tokens && end > low ? ((end - 1) >> w.unit_log2) + 1 - range.first : 0;
    return range;
}

__device__ inline uint32_t parts_of(const sharpi_batch_seq &s, uint32_t n_units, uint32_t share)
{
    const uint32_t n = n_units <= direct_lone_units ? 1 : ceil_div(n_units, share);
    return s.n_tokens ? n : 0;
}

__device__ inline sharpi_batch_seq seq_of_lane(const sharpi_kv_cuda_args &a, uint32_t base, uint32_t n_seqs)
{
    const uint32_t i = base + threadIdx.x % 32;
    sharpi_batch_seq s = a.seqs[min(i, a.max_seqs - 1)]; /* read before n_seqs is known */
    if (i >= n_seqs)
        s.n_tokens = 0;
    return s;
}

/* Sum of the lanes up to this one. */
__device__ inline uint32_t sum_up_to(uint32_t x)
{
    for (uint32_t i = 1; i < 32; i *= 2) {
        const uint32_t other = __shfl_up_sync(~0u, x, i);
        x += threadIdx.x % 32 >= i ? other : 0;
    }
    return x;
}

/* Units of a part, at most. All parts run at a time if there are at least two for each head; else parts of half a block's share
 * fill the device better than whole ones. */
__device__ inline uint32_t share_of(const sharpi_kv_cuda_args &a, const work_shape &w, uint32_t n_seqs)
{
    const uint32_t n_heads = n_seqs * a.n_kv_heads;
    uint32_t total = 0;
    for (uint32_t base = 0; base == 0 || base < n_seqs; base += 32)
        total += units_of(a, w, seq_of_lane(a, base, n_seqs)).n;
    total = __reduce_add_sync(~0u, total) * a.n_kv_heads;
    return max(1u, ceil_div(total, 2 * n_heads <= w.n_blocks ? w.n_blocks - n_heads : 2 * w.n_blocks));
}

/* What is before a sequence: blocks, and places for partials. */
struct job_place {
    uint32_t blocks, partials;
};

/* The job of part `index % n_parts` of KV head index / n_parts of a sequence. */
__device__ inline direct_job job_of(const sharpi_kv_cuda_args &a, const work_shape &w, uint32_t seq,
                                    const sharpi_batch_seq &s, uint32_t n_parts, uint32_t index,
                                    uint32_t partials_before)
{
    const unit_range range = units_of(a, w, s);
    const uint32_t per_part = ceil_div(range.n, n_parts);
    direct_job job;
    job.seq = seq;
    job.kv_head = index / n_parts;
    job.part = index - job.kv_head * n_parts;
    job.n_parts = n_parts;
    job.first_partial = partials_before + job.kv_head * n_parts;
    job.length = s.length, job.n_tokens = s.n_tokens, job.first_token = s.first_token;
    job.begin = (range.first + job.part * per_part) << w.unit_log2;
    job.end = min(s.length + (w.appends ? 0 : s.n_tokens),
                  (range.first + min(range.n, (job.part + 1) * per_part)) << w.unit_log2);
    job.has_fresh = w.appends && job.part == 0;
    return job;
}

/* By whole warps. */
__device__ inline direct_job find_job(const sharpi_kv_cuda_args &a, const work_shape &w, uint32_t block)
{
    const uint32_t n_seqs = a.step->n_seqs, share = share_of(a, w, n_seqs);
    job_place before = {0, 0};
    const direct_job none = {};
    for (uint32_t base = 0; base == 0 || base < n_seqs; base += 32) {
        sharpi_batch_seq s = seq_of_lane(a, base, n_seqs);
        const uint32_t n_parts = parts_of(s, units_of(a, w, s).n, share), n_blocks = n_parts * a.n_kv_heads;
        const uint32_t blocks = before.blocks + sum_up_to(n_blocks),
                       partials = before.partials + sum_up_to(n_parts > 1 ? n_blocks : 0);
        const uint32_t found = __ballot_sync(~0u, blocks > block);
        if (found) {
            const uint32_t at = __ffs(found) - 1;
            s.first_token = __shfl_sync(~0u, s.first_token, at);
            s.n_tokens = __shfl_sync(~0u, s.n_tokens, at);
            s.length = __shfl_sync(~0u, s.length, at);
            const uint32_t first_block = __shfl_sync(~0u, blocks - n_blocks, at);
            const uint32_t first_partial = __shfl_sync(~0u, partials - (n_parts > 1 ? n_blocks : 0), at);
            return job_of(a, w, base + at, s, __shfl_sync(~0u, n_parts, at), block - first_block,
                          first_partial);
        }
        before.blocks = __shfl_sync(~0u, blocks, 31);
        before.partials = __shfl_sync(~0u, partials, 31);
    }
    return none;
}

/* The places of a sequence's parts of one KV head, and how many: for merge_kernel. By whole warps. */
__device__ inline direct_job parts_of_head(const sharpi_kv_cuda_args &a, const work_shape &w, uint32_t seq,
                                           uint32_t kv_head)
{
    const uint32_t n_seqs = a.step->n_seqs, share = share_of(a, w, n_seqs);
    uint32_t before = 0;
    direct_job job = {};
    for (uint32_t base = 0; base <= seq; base += 32) {
        const sharpi_batch_seq s = seq_of_lane(a, base, n_seqs);
        const uint32_t n_parts = parts_of(s, units_of(a, w, s).n, share);
        const uint32_t mine = n_parts > 1 ? n_parts * a.n_kv_heads : 0;
        before += __reduce_add_sync(~0u, base + threadIdx.x % 32 < seq ? mine : 0);
        if (seq < base + 32)
            job.n_parts = __shfl_sync(~0u, n_parts, seq - base);
    }
    job.first_partial = before + kv_head * job.n_parts;
    return job;
}

/* The row of a (sequence, KV head): token-major, then query heads of the group. */
__device__ inline row_view direct_view(const sharpi_kv_cuda_args &a, const work_shape &w,
                                       const direct_job &job, uint32_t row)
{
    const uint32_t in_seq = job.n_tokens == 1 ? 0 : row / w.ratio, token = min(in_seq, job.n_tokens - 1);
    const uint32_t position = job.length + token;
    row_view view;
    view.is_valid = row < job.n_tokens * w.ratio;
    view.token = job.first_token + token;
    view.head = job.kv_head * w.ratio + row - in_seq * w.ratio;
    view.end = a.causal ? position + 1 : job.length + job.n_tokens;
    view.low = a.window && position + 1 > a.window ? position + 1 - a.window : 0;
    return view;
}

} // namespace sharpi
#endif
