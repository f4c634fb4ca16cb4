/* Row steps: the chain kernel and its launcher. rows-internal.h says how a block sees a row.
 *
 * Bytes moved: every memory operand of a chain once per row; everything between the ops stays on the chip.
 */
#include "rows-launch.cuh"

template <int MAX_OPS> struct rows_params {
    rows_dev_op ops[MAX_OPS];
    rows_dev_chain chains[ROWS_MAX_CHAINS];
    rows_batch batch;
    uint32_t n_chains, rows_factor;
    int32_t rows, ahead;
};

template <int NV, int MAX_OPS>
static __global__ void __launch_bounds__(NV == 4 ? 512 : 1024, NV == 4 ? 2 : 1)
    rows_kernel(const __grid_constant__ rows_params<MAX_OPS> p)
{
    extern __shared__ float4 shared[];
    __shared__ float part[2 * ROWS_WARPS_MAX];
    uint32_t c = 0;
    while (c + 1 < p.n_chains && blockIdx.x >= p.chains[c + 1].first_block)
        c++;
    const rows_dev_chain &chain = p.chains[c];
    const uint32_t number = blockIdx.x - chain.first_block, end = chain.first_op + chain.n_ops;
    rows_block b;
    float4 acc[NV];
    b.view.thread = threadIdx.x;
    b.view.threads = blockDim.x;
    b.view.tile = chain.tile;
    b.view.row = number / chain.splits;
    b.view.first = number % chain.splits * chain.tile;
    b.batch = &p.batch;
    b.slots = shared;
    b.exchange = shared + (chain.n_slots - 1) * chain.tile;
    b.ahead = p.ahead ? shared + chain.n_slots * chain.tile : NULL;
    b.part = part;
    b.parity = 0;
    launch_next();
    if (b.ahead) {
        for (uint32_t o = chain.first_op; o < end; o++)
            fetch_vector<NV>(b, p.ops[o]);
    }
    launch_wait();
    if (b.ahead) { /* rows up to the bound exist, so the loads need not wait for the true number */
        for (uint32_t o = chain.first_op; o < end; o++)
            fetch_inputs<NV>(b, p.ops[o]);
    }
    if (b.view.row >= (uint32_t)*p.batch.n_rows[p.rows] * p.rows_factor)
        return;
    for (int i = 0; i < NV; i++)
        acc[i] = zero4();
    for (uint32_t o = chain.first_op; o < end; o++) {
        const rows_dev_op &op = p.ops[o];
        if (op.sync)
            __syncthreads();
        if (b.ahead)
            fetch_wait();
        if (op.source0 != ROWS_ACC)
            read0<NV>(b, op, acc);
        run_op<NV>(b, op, acc);
        write_out<NV>(b, op, acc);
    }
}

/* ---- Launch */

struct rows_shape { /* of one launch */
    uint32_t threads, nv, ahead, few, shared;
    int32_t overlap;
};

static uint32_t max_of(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Chunks of a row, rounded up to the sixteen that padded formats write. */
static uint32_t chain_chunks(const rows_plan_chain *chain)
{
    return divide_up(chain->width, 64) * 16;
}

/* Few rows: as many threads as can help. Many rows: small blocks, several chunks in flight per thread. */
static rows_shape choose_shape(const struct rows_step *step, uint64_t n_rows, uint32_t n_sms)
{
    rows_shape shape = {32, 1, 0, 0, 0, 0};
    uint32_t whole = 0, widest = 0, unit = 0;
    for (uint32_t c = 0; c < step->n_chains; c++) {
        const rows_plan_chain *chain = &step->chains[c];
        uint32_t chunks = chain_chunks(chain);
        whole = max_of(whole, chain->unit == 0 ? chunks : 0);
        unit = max_of(unit, chain->unit);
        widest = max_of(widest, chunks);
    }
    shape.few = n_rows * step->n_chains <= 2ull * n_sms;
    uint32_t need = whole ? whole : shape.few ? 128 : widest < 1024 ? widest : 1024;
    if (need < unit)
        need = unit;
    uint32_t most = shape.few ? 1024 : 256;
    while (shape.nv < 8 && divide_up(need, shape.nv) > (shape.nv < 4 ? most : 512))
        shape.nv *= 2;
    shape.threads = divide_up(divide_up(need, shape.nv), 32) * 32;
    shape.ahead = shape.few;
    return shape;
}

template <int MAX_OPS>
static uint32_t fill_params(rows_params<MAX_OPS> *p, const struct rows_step *step,
                            const struct rows_batch *batch, uint32_t n_rows, rows_shape *shape)
{
    uint32_t n_ops = 0, n_blocks = 0, slots = 0, with_ahead = 0;
    for (uint32_t c = 0; c < step->n_chains; c++) {
        const rows_plan_chain *from = &step->chains[c];
        rows_dev_chain *to = &p->chains[c];
        uint32_t room = shape->threads * shape->nv, chunks = chain_chunks(from);
        to->first_op = (uint16_t)n_ops;
        for (uint32_t i = 0; i < from->n_ops; i++) {
            const rows_dev_op *op = &step->ops[from->first_op + i];
            if (n_rows >= op->min_rows && n_rows <= op->max_rows)
                p->ops[n_ops++] = *op;
        }
        to->n_ops = (uint16_t)(n_ops - to->first_op);
        to->tile = from->unit == 0 || chunks <= room ? chunks : room / from->unit * from->unit;
        to->splits = divide_up(chunks, to->tile);
        to->first_block = n_blocks;
        n_blocks += n_rows * step->rows_factor * to->splits;
        to->n_slots = from->n_slots;
        slots = max_of(slots, to->tile * from->n_slots);
        with_ahead = max_of(with_ahead, to->tile * (from->n_slots + from->n_ahead));
    }
    p->batch = *batch;
    p->n_chains = step->n_chains;
    p->rows_factor = step->rows_factor;
    p->rows = step->rows;
    p->ahead = shape->ahead && 16 * with_ahead <= ROWS_MAX_SHARED;
    shape->shared = 16 * (p->ahead ? with_ahead : slots);
    return n_blocks;
}

template <int NV, int MAX_OPS>
static int32_t launch(const rows_params<MAX_OPS> *p, uint32_t n_blocks, const rows_shape *shape,
                      cudaStream_t stream)
{
    if (shape->shared > 40u << 10) { /* 48 KiB need no attribute, what the kernel has of its own counted in */
        cudaError_t status =
            cudaFuncSetAttribute((const void *)rows_kernel<NV, MAX_OPS>,
                                 cudaFuncAttributeMaxDynamicSharedMemorySize, ROWS_MAX_SHARED);
        if (status != cudaSuccess)
            return status;
    }
    return launch_kernel(rows_kernel<NV, MAX_OPS>, dim3(n_blocks), dim3(shape->threads), shape->shared,
                         stream, shape->overlap, p);
}

template <int MAX_OPS>
static int32_t launch_step(const struct rows_step *step, const struct rows_batch *batch, uint32_t n_rows,
                           rows_shape *shape, cudaStream_t stream)
{
    rows_params<MAX_OPS> p;
    uint32_t n_blocks = fill_params<MAX_OPS>(&p, step, batch, n_rows, shape);
    switch (shape->nv) {
    case 1:
        return launch<1, MAX_OPS>(&p, n_blocks, shape, stream);
    case 2:
        return launch<2, MAX_OPS>(&p, n_blocks, shape, stream);
    case 4:
        return launch<4, MAX_OPS>(&p, n_blocks, shape, stream);
    default:
        return launch<8, MAX_OPS>(&p, n_blocks, shape, stream);
    }
}

extern "C" int32_t rows_step_launch(const struct rows_step *step, const struct rows_batch *batch,
                                    uint32_t n_rows, uint32_t n_sms, int32_t overlap, cudaStream_t stream)
{
    fused_launch fused = {{step, {batch->n_rows[step->rows], step->rows_factor}, n_rows * step->rows_factor},
                          n_sms,
                          overlap,
                          stream};
    rows_shape shape;
    int32_t status;
    if (n_rows == 0)
        return cudaSuccess;
    status = launch_fused(&fused);
    if (status != ROWS_NO_MATCH)
        return status;
    shape = choose_shape(step, (uint64_t)n_rows * step->rows_factor, n_sms);
    shape.overlap = overlap;
    if (step->n_ops <= ROWS_FEW_OPS)
        return launch_step<ROWS_FEW_OPS>(step, batch, n_rows, &shape, stream);
    return launch_step<ROWS_MAX_OPS>(step, batch, n_rows, &shape, stream);
}
