/* Prefill's way with formats whose tiles are not operands: the pages that many-row sequences see are converted to operand
 * tiles in scratch once, instead of by every block that reads them. Reads the format's bytes, writes 2 an element.
 *
 * Scratch holds `capacity` tiles of K and as many of V, sequence after sequence, page after page, KV head after KV head. What
 * does not fit is left to the kernel that converts for itself; converted_at tells for both sides.
 */
#ifndef SHARPI_CUDA_ATTENTION_CONVERT_CUH
#define SHARPI_CUDA_ATTENTION_CONVERT_CUH

#include <sharpi/cuda/attention-walk.cuh>

namespace sharpi
{

/* What converted tiles look like to a kernel: f16's or bf16's own tiles. */
template <class F> struct converted : fragments16 {
    static constexpr bool uses_f16 = F::uses_f16;
    static constexpr float unit = F::unit;
};

constexpr uint32_t convert_threads = 256;

/* A block per page, KV head and K or V; blocks go over the sequences' pages. */
template <class F, int D>
__global__ __launch_bounds__(convert_threads) void convert_kernel(const sharpi_kv_cuda_args a,
                                                                  const work_shape w)
{
    launch_next();
    launch_wait();
    const uint32_t n_seqs = a.step->n_seqs, per_page = 2 * a.n_kv_heads;
    uint32_t first = 0, page, end_page; /* tiles of the sequences before */
    for (uint32_t i = 0; i < n_seqs; i++) {
        segment x = {};
        x.seq = i, x.s = a.seqs[i];
        if (!is_ours(w, x.s.n_tokens * w.ratio))
            continue;
        seq_pages(a, x.s, page, end_page);
        const uint32_t n = (end_page - page) * a.n_kv_heads;
        if (first + n > w.capacity)
            continue;
        for (uint32_t item = blockIdx.x; item < (end_page - page) * per_page; item += gridDim.x) {
            const uint32_t at = item / per_page, is_v = item % 2;
            x.kv_head = item % per_page / 2;
            const char *src = tile_of(a, is_v ? a.v_cache : a.k_cache, x, page + at, F::tile_bytes(D));
            uint4 *dst =
                (uint4 *)(w.tiles + ((uint64_t)is_v * w.capacity + first + at * a.n_kv_heads + x.kv_head) *
                                        converted<F>::tile_bytes(D));
            for (uint32_t j = threadIdx.x; j < tile_rows * D / 32; j += convert_threads) {
                const uint32_t row = j / (D / 32), block = j % (D / 32);
                uint4 y[4];
                F::operands_of_raw32(y, F::load_raw32(src, D, row, block));
#pragma unroll
                for (uint32_t l = 0; l < 4; l++)
                    dst[piece16(D, row, 4 * block + l)] = y[l];
            }
        }
        first += n;
    }
}

} // namespace sharpi
#endif
