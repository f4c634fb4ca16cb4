/* Best candidates of logits rows in two launches.
 *
 * scan: all logits once; the best of every chunk of 64, and per slice the greatest and the sum of exponentials.
 * pick: one block per row. The k-th best chunk maximum is a lower bound of the k-th best logit, because the k best chunks
 * have an element each that is at least as good; what is not below it is gathered and ranked. Usually that is little more
 * than k elements; when there are too many (equal logits), the k-th is found exactly, by value and id.
 */
#include "topk.h"

#include "launch.h"

#define CHUNK        64u
#define SLICE        2048u /* logits of a scan block */
#define SCAN_THREADS 128u
#define PICK_THREADS 1024u
#define CANDIDATES   1024u
#define CHUNKS_EACH  (TOPK_MAX_VOCAB / CHUNK / PICK_THREADS)

struct topk_params {
    struct topk_job job;
    const int32_t *n_rows;
    uint32_t n_chunks, n_slices;
    uint32_t *chunks; /* [R, n_chunks] keys of the best */
    float2 *slices;   /* [R, n_slices] greatest, sum of exp(x - greatest) */
};

/* Order of floats as unsigned integers; a NaN is below everything, -0 is 0. */
static __device__ __forceinline__ uint32_t order_key(float x)
{
    uint32_t bits = __float_as_uint(x);
    if (x != x)
        return 0;
    if (x == 0.0f)
        return 0x80000000u;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ float key_value(uint32_t key)
{
    if (key == 0)
        return __uint_as_float(0x7fc00000u);
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

static __device__ __forceinline__ float capped(float x, float cap)
{
    return cap > 0.0f ? cap * tanhf(x / cap) : x;
}

static __device__ __forceinline__ const float *logits_of(const struct topk_job &job, uint32_t row)
{
    return (const float *)((const uint8_t *)job.logits + row * job.stride);
}

/* ---- Scan */

/* Four logits from `column`; what is past the row is -infinity with key 0. */
static __device__ __forceinline__ uint32_t read_logits(const struct topk_job &job, const float *row,
                                                       uint32_t column, float x[4])
{
    uint32_t best = 0;
    if (column + 4 <= job.n_vocab && (uint64_t)row % 16 == 0) {
        float4 v = *(const float4 *)(row + column);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else {
        for (uint32_t e = 0; e < 4; e++)
            x[e] = column + e < job.n_vocab ? row[column + e] : __uint_as_float(0x7fc00000u);
    }
    for (uint32_t e = 0; e < 4; e++) {
        x[e] = capped(x[e], job.softcap);
        best = max(best, order_key(x[e]));
        x[e] = x[e] == x[e] ? x[e] : -INFINITY;
    }
    return best;
}

static __device__ float block_max(float x, float *part)
{
    for (int d = 16; d > 0; d /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = x;
    __syncthreads();
    for (uint32_t w = 0; w < blockDim.x / 32; w++)
        x = fmaxf(x, part[w]);
    return x;
}

static __device__ float block_sum(float x, float *part)
{
    float sum = 0.0f;
    for (int d = 16; d > 0; d /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, d);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = x;
    __syncthreads();
    for (uint32_t w = 0; w < blockDim.x / 32; w++)
        sum += part[w];
    return sum;
}

static __global__ void __launch_bounds__(SCAN_THREADS) topk_scan(const __grid_constant__ topk_params p)
{
    __shared__ float part[2][SCAN_THREADS / 32];
    const uint32_t row = blockIdx.y;
    float x[SLICE / SCAN_THREADS], greatest = -INFINITY, sum = 0.0f;
    launch_next();
    launch_wait();
    if (p.n_rows && row >= (uint32_t)*p.n_rows)
        return;
    const float *logits = logits_of(p.job, row);
#pragma unroll
    for (uint32_t i = 0; i < SLICE / SCAN_THREADS / 4; i++) {
        uint32_t column = blockIdx.x * SLICE + 4 * (i * SCAN_THREADS + threadIdx.x);
        uint32_t best = read_logits(p.job, logits, column, x + 4 * i);
        for (int d = 8; d > 0; d /= 2)
            best = max(best, __shfl_xor_sync(0xffffffffu, best, d));
        if (threadIdx.x % 16 == 0 && column < p.job.n_vocab)
            p.chunks[row * p.n_chunks + column / CHUNK] = best;
    }
#pragma unroll
    for (uint32_t i = 0; i < SLICE / SCAN_THREADS; i++)
        greatest = fmaxf(greatest, x[i]);
    greatest = block_max(greatest, part[0]);
#pragma unroll
    for (uint32_t i = 0; i < SLICE / SCAN_THREADS; i++)
        sum += greatest > -INFINITY ? expf(x[i] - greatest) : 0.0f;
    sum = block_sum(sum, part[1]);
    if (threadIdx.x == 0)
        p.slices[row * p.n_slices + blockIdx.x] = make_float2(greatest, sum);
}

/* ---- Pick */

struct pick_shared {
    uint32_t bins[2][16];
    uint32_t n_list, n_candidates;
    uint32_t list[TOPK_MAX_VOCAB / CHUNK];
    uint64_t candidates[CANDIDATES];
    float part[2][PICK_THREADS / 32];
};

/* What is searched; visit calls f(key, exists, index) for all of it, every thread of the block the same number of times. */
struct chunk_keys {
    uint32_t key[CHUNKS_EACH]; /* in registers: chunks thread, thread + PICK_THREADS, ... */
    uint32_t n;
    static const int BITS = 32;
    template <typename F> __device__ __forceinline__ void visit(const F &f) const
    {
#pragma unroll
        for (uint32_t i = 0; i < CHUNKS_EACH; i++) {
            if (i * PICK_THREADS < n)
                f((uint64_t)key[i], i * PICK_THREADS + threadIdx.x < n, i * PICK_THREADS + threadIdx.x);
        }
    }
};

/* Logits of the listed chunks: key and inverted id. */
struct logit_keys {
    const struct topk_job *job;
    const float *row;
    const uint32_t *list;
    uint32_t n;
    static const int BITS = 64;
    template <typename F> __device__ __forceinline__ void visit(const F &f) const
    {
        for (uint32_t first = 0; first < n; first += PICK_THREADS) {
            uint32_t i = first + threadIdx.x, id = i < n ? list[i / CHUNK] * CHUNK + i % CHUNK : UINT32_MAX;
            uint64_t key = id < job->n_vocab
                               ? (uint64_t)order_key(capped(row[id], job->softcap)) << 32 | (uint32_t)~id
                               : 0;
            f(key, id < job->n_vocab, i);
        }
    }
};

/* The k-th greatest key, four bits at a time; or something below it that at most `enough` keys reach. */
template <typename Keys>
static __device__ uint64_t find_kth(const Keys &keys, uint32_t k, uint32_t enough, pick_shared *s)
{
    const uint32_t wanted = k;
    uint64_t prefix = 0;
    for (int shift = Keys::BITS - 4; shift >= 0; shift -= 4) {
        uint32_t digit = 15, *bins = s->bins[shift / 4 % 2];
        if (threadIdx.x < 16)
            bins[threadIdx.x] = 0;
        __syncthreads();
        keys.visit([&](uint64_t key, bool exists, uint32_t) {
            bool fits = exists && (shift == 60 || (key ^ prefix) >> (shift + 4 & 63) == 0);
            uint32_t own = fits ? (uint32_t)(key >> shift) & 15 : 16,
                     same = __match_any_sync(0xffffffffu, own);
            if (fits && (same & ((1u << threadIdx.x % 32) - 1)) == 0)
                atomicAdd(&bins[own], (uint32_t)__popc(same));
        });
        __syncthreads();
        while (digit > 0 && bins[digit] < k)
            k -= bins[digit--];
        prefix |= (uint64_t)digit << shift;
        if (wanted - k + bins[digit] <= enough)
            break;
    }
    return prefix;
}

/* Adds `item` of the threads that have one to list[], in any order; what does not fit is only counted. */
template <typename Item>
static __device__ __forceinline__ void append(uint32_t *n, Item *list, uint32_t room, bool has, Item item)
{
    uint32_t mask = __ballot_sync(0xffffffffu, has), lane = threadIdx.x % 32, at = 0;
    if (mask == 0)
        return;
    if (lane == 0)
        at = atomicAdd(n, (uint32_t)__popc(mask));
    at = __shfl_sync(0xffffffffu, at, 0) + (uint32_t)__popc(mask & ((1u << lane) - 1));
    if (has && at < room)
        list[at] = item;
}

static __device__ void pick_lse(const topk_params &p, uint32_t row, pick_shared *s)
{
    float2 own = make_float2(-INFINITY, 0.0f);
    float greatest, sum;
    if (threadIdx.x < p.n_slices) /* never more than threads */
        own = p.slices[row * p.n_slices + threadIdx.x];
    greatest = block_max(own.x, s->part[0]);
    sum = block_sum(own.x > -INFINITY ? own.y * expf(own.x - greatest) : 0.0f, s->part[1]);
    if (threadIdx.x == 0)
        p.job.lse[row] = greatest + logf(sum);
}

/* Lists the chunks that can hold one of the k best; returns the key that the k best reach. */
static __device__ uint32_t pick_chunks(const topk_params &p, uint32_t row, pick_shared *s)
{
    chunk_keys keys;
    uint32_t bound = 0;
    keys.n = p.n_chunks;
#pragma unroll
    for (uint32_t i = 0; i < CHUNKS_EACH; i++) {
        uint32_t c = i * PICK_THREADS + threadIdx.x;
        keys.key[i] = c < p.n_chunks ? p.chunks[row * p.n_chunks + c] : 0;
    }
    if (threadIdx.x == 0)
        s->n_list = 0;
    if (p.job.k <= p.n_chunks)
        bound = (uint32_t)find_kth(keys, p.job.k, 2 * p.job.k, s);
    __syncthreads();
    keys.visit([&](uint64_t key, bool exists, uint32_t i) {
        append(&s->n_list, s->list, p.n_chunks, exists && key >= bound, i);
    });
    __syncthreads();
    return bound;
}

/* Gathers the logits of the listed chunks whose key is at least `bound`; returns how many there are. */
static __device__ uint32_t gather(const logit_keys &keys, uint64_t bound, pick_shared *s)
{
    __syncthreads();
    if (threadIdx.x == 0)
        s->n_candidates = 0;
    __syncthreads();
    keys.visit([&](uint64_t key, bool exists, uint32_t) {
        append(&s->n_candidates, s->candidates, CANDIDATES, exists && key >= bound, key);
    });
    __syncthreads();
    return s->n_candidates;
}

static __global__ void __launch_bounds__(PICK_THREADS) topk_pick(const __grid_constant__ topk_params p)
{
    extern __shared__ uint64_t shared[];
    pick_shared *s = (pick_shared *)shared;
    const uint32_t row = blockIdx.x;
    uint32_t bound, n;
    launch_next();
    launch_wait();
    if (p.n_rows && row >= (uint32_t)*p.n_rows)
        return;
    pick_lse(p, row, s);
    bound = pick_chunks(p, row, s);
    logit_keys keys = {&p.job, logits_of(p.job, row), s->list, s->n_list * CHUNK};
    n = gather(keys, (uint64_t)bound << 32, s);
    if (n > CANDIDATES)
        n = gather(keys, find_kth(keys, p.job.k, p.job.k, s), s);
    for (uint32_t i = threadIdx.x; i < n; i += PICK_THREADS) {
        uint64_t own = s->candidates[i];
        uint32_t rank = 0;
        for (uint32_t j = 0; j < n; j++)
            rank += s->candidates[j] > own;
        if (rank < p.job.k) {
            p.job.ids[row * p.job.k + rank] = (int32_t) ~(uint32_t)own;
            p.job.values[row * p.job.k + rank] = key_value((uint32_t)(own >> 32));
        }
    }
}

/* ---- Launch */

static uint64_t chunks_of(uint32_t n_vocab)
{
    return (n_vocab + CHUNK - 1ull) / CHUNK;
}

static uint64_t slices_of(uint32_t n_vocab)
{
    return (n_vocab + SLICE - 1ull) / SLICE;
}

extern "C" uint64_t topk_workspace_bytes(uint32_t n_vocab, uint32_t max_rows)
{
    return max_rows * (slices_of(n_vocab) * sizeof(float2) + chunks_of(n_vocab) * sizeof(uint32_t));
}

extern "C" int32_t topk_launch(const struct topk_job *job, const int32_t *n_rows_dev, uint32_t n_rows,
                               int32_t overlap, cudaStream_t stream)
{
    topk_params p = {};
    int32_t status;
    if (n_rows == 0)
        return cudaSuccess;
    if (job->k == 0 || job->k > TOPK_MAX || job->k > job->n_vocab || job->n_vocab > TOPK_MAX_VOCAB ||
        n_rows > 65535)
        return cudaErrorInvalidValue;
    p.job = *job;
    p.n_rows = n_rows_dev;
    p.n_chunks = (uint32_t)chunks_of(job->n_vocab);
    p.n_slices = (uint32_t)slices_of(job->n_vocab);
    p.slices = (float2 *)job->workspace;
    p.chunks = (uint32_t *)(p.slices + (uint64_t)n_rows * p.n_slices);
    status = launch_kernel(topk_scan, dim3(p.n_slices, n_rows), dim3(SCAN_THREADS), 0, stream, overlap, &p);
    if (status)
        return status;
    return launch_kernel(topk_pick, dim3(n_rows), dim3(PICK_THREADS), sizeof(pick_shared), stream, overlap,
                         &p);
}
