/* Everything that a KV-cache format needs for the CUDA backend. A format's
 * sources:
 *
 *   format.cuh      struct my_format, as kv-format.cuh describes
 *   main.cu         SHARPI_KV_CUDA_EXTERN(my_format)
 *                   extern "C" { const struct sharpi_kv_cuda my_table =
 * SHARPI_KV_CUDA_TABLE(my_format); } 128.cu, ...
 * SHARPI_KV_CUDA_INSTANCE(my_format, 128)    likewise 256 and 512: the kernels
 * for head_dims up to these, each in its own file so that they compile side by
 * side. Not for exact formats.
 *
 * Which kernel runs: append (attention-append.cuh) unless decode does it
 * itself; then for sequences with few rows (tokens times query heads per KV
 * head) attention-direct.cuh up to 8 with a head_dim up to 256, else
 * attention-tensor.cuh up to 64, split over pages and put together by
 * attention-merge.cuh; for those with more,
 * attention-wgmma.cuh on Hopper (from attention-convert.cuh's tiles where a
 * format needs that), else attention-tensor.cuh. attention-exact.cuh does what
 * none of these can.
 */
#ifndef SHARPI_CUDA_ATTENTION_CUH
#define SHARPI_CUDA_ATTENTION_CUH

#include <string.h>

#include <sharpi/cuda/attention-direct.cuh>
#include <sharpi/cuda/attention-exact.cuh>
#include <sharpi/cuda/attention-tensor.cuh>
#include <sharpi/cuda/attention-wgmma.cuh>

namespace sharpi
{

constexpr uint32_t max_head_dim = 512;

inline uint32_t ratio_of(const sharpi_kv_cuda_args &a)
{
    return a.n_heads / a.n_kv_heads;
}

inline uint64_t max_seq_rows(const sharpi_kv_cuda_args &a)
{
    const uint32_t n = a.max_seq_tokens < a.max_tokens ? a.max_seq_tokens : a.max_tokens;
    return (uint64_t)n * ratio_of(a);
}

/* A shape whose partials lie in scratch. n_blocks: of the split kernel. */
inline work_shape shape_with(const sharpi_kv_cuda_args &a, uint32_t m, uint32_t n_blocks)
{
    work_shape w = {};
    w.m = m;
    w.ratio = ratio_of(a);
    w.is_split = 1;
    w.all_few = max_seq_rows(a) <= few_rows;
    w.n_blocks = n_blocks;
    w.acc_width = (a.head_dim + 3) / 4 * 4;
    w.counters = (uint32_t *)a.scratch;
    w.sums = (float2 *)((char *)a.scratch + SHARPI_CUDA_COUNTER_BYTES);
    w.acc = (float *)((char *)w.sums + ((uint64_t)n_blocks * 2 * m * sizeof(float2) + 255) / 256 * 256);
    w.inline_parts = 1;
    return w;
}

inline uint64_t partial_bytes(const sharpi_kv_cuda_args &a, uint32_t m, uint32_t n_blocks)
{
    const uint64_t n_rows = (uint64_t)n_blocks * 2 * m;
    return SHARPI_CUDA_COUNTER_BYTES + (n_rows * sizeof(float2) + 255) / 256 * 256 +
           n_rows * ((a.head_dim + 3) / 4 * 4) * sizeof(float);
}

/* Blocks that a launch of a segment per block needs at most. */
inline uint64_t whole_blocks(const sharpi_kv_cuda_args &a, uint32_t m)
{
    return ((uint64_t)a.max_tokens * ratio_of(a) / m + a.max_seqs) * a.n_kv_heads;
}

/* Blocks for all rows that can be in parts, or enough to fill the device; of
 * many warps only where segments can have many parts. */
inline int launch_merge(const sharpi_kv_cuda_args &a, const work_shape &w, cudaStream_t stream)
{
    const uint64_t rows = w.all_few ? max_seq_rows(a) : few_rows;
    const uint64_t items =
        rows * a.n_kv_heads * a.max_seqs * ((a.head_dim + merge_columns - 1) / merge_columns);
    const uint64_t parts = w.n_blocks / ((uint64_t)a.n_kv_heads * a.max_seqs) + 2;
    const uint32_t n_threads = parts > 8 ? merge_threads : 64;
    const uint64_t limit = (n_threads > 64 ? 8ull : 64ull) * a.n_sms;
    return launch(merge_kernel, (uint32_t)(items < limit ? items : limit), n_threads, 0, stream, a.overlaps,
                  a, w, (uint32_t)rows);
}

/* Both ways of sharing the work, with a kernel (of any kind) and its grid
 * sizes; `launch_whole` may take the second. */
template <class Launch, class LaunchWhole>
int launch_both(const sharpi_kv_cuda_args &a, uint32_t m, uint32_t n_blocks, bool appends,
                cudaStream_t stream, Launch launch, LaunchWhole launch_whole)
{
    work_shape w = shape_with(a, m, n_blocks);
    w.appends = appends;
    int error = launch(w, n_blocks);
    if (!error)
        error = launch_merge(a, w, stream);
    if (!error && !w.all_few && !launch_whole(w, error)) {
        w.is_split = 0;
        error = launch(w, (uint32_t)whole_blocks(a, m));
    }
    return error;
}

/* Whether prefill can go by wgmma: the chip has it, and this was compiled for
 * it (else the kernel is empty). */
template <class F, int D> bool has_wgmma(const sharpi_kv_cuda_args &a)
{
    cudaFuncAttributes attributes;
    if (a.compute_major != 9 || !(a.scale > 0.0f) || a.head_dim != D)
        return false;
    if (a.shared_bytes && wgmma_shape<D>::n_bytes > a.shared_bytes)
        return false;
    return !cudaFuncGetAttributes(&attributes, (const void *)wgmma_kernel<F, D>) && attributes.numRegs > 64;
}

template <class F, int D>
int launch_wgmma_kernel(const sharpi_kv_cuda_args &a, const work_shape &w, cudaStream_t stream)
{
    const int error =
        cudaFuncSetAttribute((const void *)wgmma_kernel<F, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)wgmma_shape<D>::n_bytes);
    return error ? error
                 : launch(wgmma_kernel<F, D>, (uint32_t)whole_blocks(a, w.m), wgmma_shape<D>::n_threads,
                          wgmma_shape<D>::n_bytes, stream, a.overlaps, a, w);
}

/* Scratch for converted tiles: what one sequence can see at most. Tiles of K.
 */
template <class F> uint64_t converted_tiles(const sharpi_kv_cuda_args &a)
{
    const uint64_t seen = (uint64_t)a.window + a.max_tokens,
                   positions = a.window && seen < a.ring ? seen : a.ring;
    const bool is_wanted = !F::exact && !F::tiles_are_operands && a.compute_major == 9 &&
                           max_seq_rows(a) > few_rows &&
                           (a.head_dim == 64 || a.head_dim == 128 || a.head_dim == 256 || a.head_dim == 512);
    return is_wanted ? (positions / tile_rows + 2) * a.n_kv_heads : 0;
}

/* Tiles lie after the partials. */
template <class F> uint64_t partials_bytes(const sharpi_kv_cuda_args &a)
{
    /* 64 rows a block; the exact kernel has 4 blocks of 16; attention-direct.cuh
   * 16 places of 8 rows, or 12 of 16 */
    return (partial_bytes(a, 16, 6 * a.n_sms) + 1023) / 1024 * 1024;
}

template <class F, int D>
bool launch_wgmma(const sharpi_kv_cuda_args &a, work_shape w, cudaStream_t stream, int &error)
{
    if (!has_wgmma<F, D>(a))
        return false;
    w.is_split = 0;
    w.m = wgmma_shape<D>::m;
    if constexpr (F::tiles_are_operands)
        error = launch_wgmma_kernel<F, D>(a, w, stream);
    else {
        w.tiles = (char *)a.scratch + partials_bytes<F>(a);
        w.capacity = (uint32_t)converted_tiles<F>(a);
        error = launch(convert_kernel<F, D>, 8 * a.n_sms, convert_threads, 0, stream, a.overlaps, a, w);
        if (!error)
            error = launch_wgmma_kernel<converted<F>, D>(a, w, stream);
        w.takes_overflow = 1;
        if (!error && a.max_seqs > 1)
            error = launch_wgmma_kernel<F, D>(a, w, stream);
    }
    return true;
}

template <class F> int launch_exact(const sharpi_kv_cuda_args &a, cudaStream_t stream)
{
    return launch_both(
        a, exact_m, 4 * a.n_sms, false, stream,
        [&](const work_shape &w, uint32_t n_blocks) -> int {
            return launch(exact_kernel<F>, n_blocks, exact_threads, 0, stream, a.overlaps, a, w);
        },
        [](const work_shape &, int &) { return false; });
}

/* Stages that fit into `budget`. */
template <class F, class Shape> uint32_t stages_in(uint32_t budget, uint32_t d)
{
    const uint32_t fixed = Shape::fixed_bytes(d),
                   n = fixed < budget ? (budget - fixed) / (2 * F::tile_bytes(d)) : 0;
    return n < max_stages ? n : max_stages;
}

/* Stages of a K and a V tile for a kernel of this shape, and the shared memory
 * with them; devices differ in how much a block may have. An error if not even
 * one fits. */
template <class F, class Shape>
int choose_stages(const sharpi_kv_cuda_args &a, const void *kernel, uint32_t &n_stages, uint32_t &n_bytes)
{
    int device, most, error;
    if ((error = cudaGetDevice(&device)) ||
        (error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) ||
        (error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most)))
        return error;
    const uint32_t limit =
                       a.shared_bytes && a.shared_bytes < (uint32_t)most ? a.shared_bytes : (uint32_t)most,
                   d = a.head_dim;
    n_stages = stages_in<F, Shape>(shared_share(limit, Shape::blocks_per_sm), d);
    if (!n_stages)
        n_stages = stages_in<F, Shape>(limit, d);
    n_bytes = Shape::fixed_bytes(d) + n_stages * 2 * F::tile_bytes(d);
    return n_stages ? cudaSuccess : cudaErrorInvalidValue;
}

template <class F, int D, int MT, int fixed_d>
int launch_tensor(const sharpi_kv_cuda_args &a, bool appends, cudaStream_t stream)
{
    using shape = tensor_shape<F, D, MT>;
    uint32_t n_stages, n_bytes;
    const int error =
        choose_stages<F, shape>(a, (const void *)tensor_kernel<F, D, MT, fixed_d>, n_stages, n_bytes);

    if (error) {
        if constexpr (MT > 1)
            return launch_tensor<F, D, 1, 0>(a, appends, stream);
        return error;
    }
    return launch_both(
        a, shape::m, shape::blocks_per_sm * a.n_sms, appends, stream,
        [&](const work_shape &w, uint32_t n_blocks) -> int {
            return launch(tensor_kernel<F, D, MT, fixed_d>, n_blocks, shape::n_threads, n_bytes, stream,
                          a.overlaps, a, w, n_stages);
        },
        [&](const work_shape &w, int &whole_error) -> bool {
            if constexpr (MT == 1)
                return false;
            else
                return launch_wgmma<F, D>(a, w, stream, whole_error) ||
                       launch_wgmma<F, (D == 128 ? 64 : D)>(a, w, stream, whole_error);
        });
}

constexpr uint32_t direct_rows = 8, max_direct_dim = 256;

/* Parts of a head that a launch can have at most. */
template <class Shape> uint64_t most_parts(const sharpi_kv_cuda_args &a, const work_shape &w)
{
    /* a window's first row sees less than `window` of the cache, the last one up to direct_rows - 1 positions more */
    const uint64_t seen = (uint64_t)a.window + direct_rows,
                   positions = a.window && seen < a.max_length ? seen : a.max_length,
                   by_length = positions / Shape::unit + 2,
                   by_share = 2 * (uint64_t)w.n_blocks / a.n_kv_heads + 1;
    return by_length < by_share ? by_length : by_share;
}

/* Parts that one block puts together: many if a thread has four columns of them, few if it has more; merge_kernel's blocks are
 * faster then. */
inline uint32_t inline_parts(const sharpi_kv_cuda_args &a)
{
    const uint64_t per_thread =
        (max_seq_rows(a) * a.head_dim + 4 * direct_threads - 1) / (4 * direct_threads);
    const bool has_counters = (uint64_t)a.max_seqs * a.n_kv_heads <= SHARPI_CUDA_COUNTER_BYTES / 4;
    return has_counters && per_thread <= 8 ? (uint32_t)(max_inline_parts / (per_thread * per_thread)) : 1;
}

template <class F, int D, int fixed_d>
int launch_direct(const sharpi_kv_cuda_args &a, bool appends, cudaStream_t stream)
{
    using shape = direct_shape<F, D>;
    const uint32_t n_blocks = shape::blocks_per_sm * a.n_sms;
    const uint64_t heads = (uint64_t)a.max_seqs * a.n_kv_heads, most = 2 * (uint64_t)n_blocks + heads;
    work_shape w = shape_with(a, shape::m, 2 * n_blocks);
    w.n_blocks = n_blocks;
    w.appends = appends;
    w.is_direct = 1;
    w.unit_log2 = shape::unit == 64 ? 6 : 5;
    w.inline_parts = inline_parts(a);
    const uint64_t parts = most_parts<shape>(a, w), grid = heads * parts < most ? heads * parts : most;
    const int error =
        launch(direct_kernel<F, D, fixed_d>, (uint32_t)grid, direct_threads, 0, stream, a.overlaps, a, w);
    return error || parts <= w.inline_parts ? error : launch_merge(a, w, stream);
}

/* The kernel for the launch's rows. Decode has instances for the head_dims D
 * themselves: addresses are a good part of its work. */
template <class F, int D> int launch_rows(const sharpi_kv_cuda_args *a, bool appends, cudaStream_t stream)
{
    const uint64_t rows = max_seq_rows(*a);
    if constexpr (D <= max_direct_dim)
        if (rows <= direct_rows)
            return a->head_dim == D ? launch_direct<F, D, D>(*a, appends, stream)
                                    : launch_direct<F, D, 0>(*a, appends, stream);
    if (rows <= 16)
        return a->head_dim == D ? launch_tensor<F, D, 1, D>(*a, appends, stream)
                                : launch_tensor<F, D, 1, 0>(*a, appends, stream);
    return launch_tensor<F, D, 4, 0>(*a, appends, stream);
}

template <class F, bool exact = F::exact> struct tensor_path {
    static int launch(const sharpi_kv_cuda_args &a, bool appends, cudaStream_t stream)
    {
        const uint32_t d = a.head_dim;
        return d <= 128   ? launch_rows<F, 128>(&a, appends, stream)
               : d <= 256 ? launch_rows<F, 256>(&a, appends, stream)
                          : launch_rows<F, 512>(&a, appends, stream);
    }
};

template <class F> struct tensor_path<F, true> {
    static int launch(const sharpi_kv_cuda_args &, bool, cudaStream_t)
    {
        return cudaErrorInvalidValue;
    }
};

/* Whether the launch is attention-direct.cuh's. */
template <class F> bool is_direct(const sharpi_kv_cuda_args &a)
{
    return !F::exact && a.head_dim % F::dim_unit == 0 && a.head_dim <= max_direct_dim &&
           max_seq_rows(a) <= direct_rows;
}

template <class F> int32_t quantizes(const sharpi_kv_cuda_args *a)
{
    return is_direct<F>(*a) && a->head_dim % 32 == 0;
}

template <class F> int32_t makes_heads(const sharpi_kv_cuda_args *a)
{
    const uint32_t d = a->head_dim;
    return is_direct<F>(*a) && a->max_seq_tokens == 1 && (a->causal || !a->k) &&
           (d == 64 || d == 128 || (d == 256 && a->is_neox));
}

/* Whether this plugin's kernels wait for the launch before: the driver may have compiled PTX of an earlier chip. */
inline bool can_overlap(void)
{
    cudaFuncAttributes attributes;
    return !cudaFuncGetAttributes(&attributes, (const void *)merge_kernel) && attributes.ptxVersion >= 90;
}

template <class F> int32_t attention(const sharpi_kv_cuda_args *args, void *stream_)
{
    sharpi_kv_cuda_args a = {}; /* the caller's may be shorter */
    memcpy(&a, args, args->size < sizeof a ? args->size : sizeof a);
    cudaStream_t stream = (cudaStream_t)stream_;
    const bool tensor = !F::exact && a.head_dim % F::dim_unit == 0;
    const bool fused = a.k && tensor && a.max_seq_tokens == 1 && max_seq_rows(a) <= 16 && a.causal;
    int error = cudaSuccess;
    a.overlaps = a.overlaps && can_overlap();

    if ((a.out_q8 ? !quantizes<F>(&a) : !a.out) || (a.has_heads && !makes_heads<F>(&a)))
        return cudaErrorInvalidValue;
    if (a.k && !fused)
        error = launch_append<F>(a, stream);
    if (!error && tensor) {
        error = tensor_path<F>::launch(a, fused, stream);
        if (!error || a.has_heads || a.out_q8)
            return error;
        /* too little shared memory: nothing was launched */
        error = fused ? launch_append<F>(a, stream) : cudaSuccess;
    }
    return error ? error : launch_exact<F>(a, stream);
}

template <class F> uint64_t scratch_bytes(const sharpi_kv_cuda_args *a)
{
    return partials_bytes<F>(*a) + converted_tiles<F>(*a) * 2 * tile_rows * 2 * a->head_dim;
}

template <class F>
int32_t check(uint32_t layer, uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim,
              struct sharpi_error *err)
{
    if (!n_kv_heads || !n_heads || n_heads % n_kv_heads)
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "attention of layer %u: %u heads are not a multiple of its %u KV heads", layer,
                           n_heads, n_kv_heads);
    if (head_dim < 4 || head_dim % 4 || head_dim > max_head_dim)
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "attention of layer %u on CUDA: head_dim %u is not a "
                           "multiple of 4 up to %u; use the CPU backend",
                           layer, head_dim, max_head_dim);
    return F::check(layer, head_dim, err);
}

template <class F> void page_to_rows(void *rows, const void *page, uint32_t n_kv_heads, uint32_t d)
{
    const uint64_t part = F::tile_bytes(d) / tile_rows;
    for (uint32_t r = 0; r < tile_rows; r++)
        for (uint32_t g = 0; g < n_kv_heads; g++)
            F::unpack_row((char *)rows + (r * n_kv_heads + g) * part,
                          (const char *)page + (uint64_t)g * F::tile_bytes(d), d, r);
}

template <class F> void page_from_rows(void *page, const void *rows, uint32_t n_kv_heads, uint32_t d)
{
    const uint64_t part = F::tile_bytes(d) / tile_rows;
    for (uint32_t r = 0; r < tile_rows; r++)
        for (uint32_t g = 0; g < n_kv_heads; g++)
            F::pack_row((char *)page + (uint64_t)g * F::tile_bytes(d), d, r,
                        (const char *)rows + (r * n_kv_heads + g) * part);
}

} // namespace sharpi

#define SHARPI_KV_CUDA_INSTANCE(F, D)                                                                        \
    template int sharpi::launch_rows<F, D>(const sharpi_kv_cuda_args *, bool, cudaStream_t);

#define SHARPI_KV_CUDA_EXTERN_DIM(F, D)                                                                      \
    extern template int sharpi::launch_rows<F, D>(const sharpi_kv_cuda_args *, bool, cudaStream_t);

#define SHARPI_KV_CUDA_EXTERN(F)                                                                             \
    SHARPI_KV_CUDA_EXTERN_DIM(F, 128)                                                                        \
    SHARPI_KV_CUDA_EXTERN_DIM(F, 256)                                                                        \
    SHARPI_KV_CUDA_EXTERN_DIM(F, 512)

#define SHARPI_KV_CUDA_TABLE(F)                                                                              \
    {                                                                                                        \
        (uint32_t)sizeof(struct sharpi_kv_cuda), 0, sharpi::check<F>, sharpi::scratch_bytes<F>,              \
            sharpi::attention<F>, sharpi::page_to_rows<F>, sharpi::page_from_rows<F>, sharpi::quantizes<F>,  \
            sharpi::makes_heads<F>                                                                           \
    }

#endif
