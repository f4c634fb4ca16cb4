/* Matrix products, common part: which kernel a weight gets, how a job is dealt out to threads, and how sums become output.
 *
 * All parts of a job form one list of chunks; a thread takes the next chunk from the job's counter, so that a thread that
 * is held up leaves its share to the others. Chunks write disjoint outputs. Every thread derives the same list.
 */
#include "matmul-internal.h"

const struct matmul_isa *const matmul_kernel_table[CPU_ISA_COUNT] = {
    [CPU_ISA_SCALAR] = &matmul_scalar,
#ifdef HAVE_AVX2
    [CPU_ISA_AVX2] = &matmul_avx2,
#endif
#ifdef HAVE_AVX512
    [CPU_ISA_AVX512] = &matmul_avx512,
#endif
};

/* The strongest kernel at or below isa. An ISA above scalar that reads packed rows of a type serves that type's unpacked
 * matrices too: see multiply_unpacked. */
static const struct matmul_kernel *find_kernel(int32_t type, enum cpu_isa isa, uint32_t packed)
{
    for (int32_t level = isa; level >= 0; level--) {
        const struct matmul_isa *table = matmul_kernel_table[level];
        for (uint32_t i = 0; table && i < table->n_kernels; i++)
            if (table->kernels[i].type == type && (packed || !table->kernels[i].packed))
                return &table->kernels[i];
    }
    return NULL;
}

int32_t matrix_init(struct matrix *m, const struct sharpi_tensor *tensor, uint64_t expert, enum cpu_isa isa,
                    uint32_t repack, uint64_t *packed_bytes, struct sharpi_error *err)
{
    const struct quant_type *q = quant_type_of(tensor->type);
    uint64_t n_in = tensor->ne[0], n_out = tensor->ne[1], row_bytes = sharpi_row_bytes(tensor->type, n_in);
    uint64_t matrix_bytes, expert_offset, group_bytes,
        groups = n_out / MATMUL_GROUP + (n_out % MATMUL_GROUP != 0);

    memset(m, 0, sizeof *m);
    *packed_bytes = 0;
    if (!sharpi_type_info(tensor->type))
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "tensor %s has type %d, for which the CPU has no matrix product", tensor->name,
                           (int)tensor->type);
    if (n_out == 0 || row_bytes == 0 || n_in > UINT64_MAX / 8 || expert >= tensor->ne[2] ||
        __builtin_mul_overflow(row_bytes, n_out, &matrix_bytes) ||
        __builtin_mul_overflow(matrix_bytes, expert, &expert_offset))
        return sharpi_fail(
            err, SHARPI_EINVAL,
            "tensor %s: matrix %llu of %llu x %llu %s cannot be: a row must be whole blocks of %u elements",
            tensor->name, (unsigned long long)expert, (unsigned long long)n_out, (unsigned long long)n_in,
            sharpi_type_info(tensor->type)->name, sharpi_type_info(tensor->type)->block_elems);

    /* Packed if wanted and the best kernel reads that; else from the file, through the same kernel if it can. */
    m->kernel = find_kernel(tensor->type, isa, 1);
    if (!m->kernel)
        return sharpi_fail(err, SHARPI_ENOTSUP, "tensor %s: no matrix product for %s on %s", tensor->name,
                           sharpi_type_info(tensor->type)->name, cpu_isa_name(isa));
    m->packed = repack && m->kernel->packed;
    if (m->packed) {
        group_bytes = pack_group_bytes(q, n_in);
        if (__builtin_mul_overflow(group_bytes, groups, packed_bytes))
            return sharpi_fail(err, SHARPI_EINVAL, "tensor %s is too large", tensor->name);
    }
    m->data = tensor->data ? (const uint8_t *)tensor->data + expert_offset : NULL;
    m->n_in = n_in;
    m->n_out = n_out;
    m->row_bytes = row_bytes;
    m->type = tensor->type;
    m->act = q ? q->act : ACT_F32;
    m->rows_unit = MATMUL_GROUP;
    return SHARPI_OK;
}

/* ---- One group ---- */

/* A thread's scratch. */
struct workspace {
    float acc[MATMUL_TOKENS * MATMUL_GROUP];
    uint8_t codes[MATMUL_SLAB * MATMUL_GROUP];
    uint8_t slab[MATMUL_SLAB * MATMUL_GROUP * 2]; /* file rows packed on the fly */
    const uint8_t *x[MATMUL_TOKENS];
};

uint64_t matmul_scratch_bytes(void)
{
    return round_up64(sizeof(struct workspace));
}

/* A kernel for packed rows, given file rows: packs a slab into scratch, multiplies it, goes on to the next. */
static void multiply_unpacked(const struct matrix *m, struct matmul_call call, struct workspace *ws)
{
    const struct quant_type *q = quant_type_of(m->type);
    const uint8_t *rows = call.w;
    for (uint64_t k = 0; k < m->n_in; k += MATMUL_SLAB) {
        call.k = k;
        call.n = m->n_in - k < MATMUL_SLAB ? m->n_in - k : MATMUL_SLAB;
        pack_slab(q, ws->slab, rows, m->row_bytes, call.n_rows, k, call.n);
        call.w = ws->slab;
        m->kernel->multiply(m->kernel, &call);
    }
}

static void store_group(const struct matmul_part *part, const float *acc, uint64_t row, uint32_t n_rows,
                        uint64_t token, uint32_t n_tokens)
{
    for (uint32_t t = 0; t < n_tokens; t++, acc += MATMUL_GROUP) {
        float *out = part->out + (token + t) * part->out_stride + row;
        const float *bias = part->bias ? part->bias + row : NULL;
        for (uint32_t r = 0; r < n_rows; r++) {
            float sum = bias ? acc[r] + bias[r] : acc[r];
            out[r] = part->epilogue == MATMUL_ADD ? out[r] + sum : sum;
        }
    }
}

static void run_groups(const struct matmul_part *part, uint64_t first, uint64_t last, uint64_t token,
                       uint32_t n_tokens, struct workspace *ws)
{
    const struct matrix *m = part->w;
    uint64_t group_bytes =
        m->packed ? pack_group_bytes(quant_type_of(m->type), m->n_in) : m->row_bytes * MATMUL_GROUP;
    for (uint64_t g = first; g < last; g++) {
        uint64_t row = g * MATMUL_GROUP;
        struct matmul_call call = {
            .w = (const uint8_t *)m->data + g * group_bytes,
            .row_bytes = m->row_bytes,
            .x = ws->x,
            .n_in = m->n_in,
            .k = 0,
            .n = m->n_in,
            .n_rows = m->n_out - row < MATMUL_GROUP ? (uint32_t)(m->n_out - row) : MATMUL_GROUP,
            .n_tokens = n_tokens,
            .acc = ws->acc,
            .codes = ws->codes,
        };
        memset(ws->acc, 0, n_tokens * MATMUL_GROUP * sizeof *ws->acc);
        if (m->kernel->packed && !m->packed)
            multiply_unpacked(m, call, ws);
        else
            m->kernel->multiply(m->kernel, &call);
        store_group(part, ws->acc, row, call.n_rows, token, n_tokens);
    }
}

/* ---- Dealing out ---- */

/* How a part is cut: `groups` row groups times `tokens` activation rows a chunk, tokens fastest so that weights are still
 * in a cache for the next. */
struct part_plan {
    uint64_t n_groups, groups, token_chunks, n_chunks;
    uint32_t tokens;
};

static uint64_t ceil_div(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

/* Enough chunks that threads end together, large enough (some 100 kB of weights, or 16 groups times 64 rows) that
 * taking one costs nothing. */
static struct part_plan plan_part(const struct matmul_part *part, uint32_t nth)
{
    const struct matrix *m = part->w;
    struct part_plan plan = {.n_groups = ceil_div(m->n_out, MATMUL_GROUP)};
    plan.token_chunks = ceil_div(part->n_rows, MATMUL_TOKENS);
    if (plan.token_chunks == 0)
        return plan;
    plan.tokens = (uint32_t)ceil_div(part->n_rows, plan.token_chunks);
    plan.tokens = (plan.tokens + 3) & ~3u; /* whole register tiles */
    plan.token_chunks = ceil_div(part->n_rows, plan.tokens);
    uint64_t few = ceil_div(plan.n_groups * plan.token_chunks, 8ull * nth);
    uint64_t many = plan.tokens > 4 ? 16 : ceil_div(128 << 10, m->row_bytes * MATMUL_GROUP);
    plan.groups = few < many ? few : many;
    plan.n_chunks = ceil_div(plan.n_groups, plan.groups) * plan.token_chunks;
    return plan;
}

static void run_chunk(const struct matmul_job *job, const struct matmul_part *part,
                      const struct part_plan *plan, uint64_t chunk, struct workspace *ws)
{
    enum act_format act = part->w->act;
    uint64_t token = chunk % plan->token_chunks * plan->tokens,
             first = chunk / plan->token_chunks * plan->groups;
    uint64_t last = plan->n_groups - first < plan->groups ? plan->n_groups : first + plan->groups;
    uint32_t n_tokens = part->n_rows - token < plan->tokens ? (uint32_t)(part->n_rows - token) : plan->tokens;
    for (uint32_t t = 0; t < n_tokens; t++) {
        uint64_t row = part->in_rows ? (uint64_t)part->in_rows[token + t] : token + t;
        ws->x[t] = (const uint8_t *)job->act[act] + row * job->act_stride[act];
    }
    run_groups(part, first, last, token, n_tokens, ws);
}

void matmul_run(const struct matmul_job *job, uint32_t ith, uint32_t nth, void *scratch)
{
    uint32_t part = 0;
    uint64_t first_chunk = 0; /* of `part`, in the job's list */
    struct part_plan plan = {0};
    (void)ith;

    if (job->n_parts)
        plan = plan_part(&job->parts[0], nth);
    while (part < job->n_parts) {
        uint64_t chunk = __atomic_fetch_add(job->next, 1, __ATOMIC_RELAXED);
        while (chunk - first_chunk >= plan.n_chunks) {
            first_chunk += plan.n_chunks;
            if (++part == job->n_parts)
                return;
            plan = plan_part(&job->parts[part], nth);
        }
        run_chunk(job, &job->parts[part], &plan, chunk - first_chunk, scratch);
    }
}
