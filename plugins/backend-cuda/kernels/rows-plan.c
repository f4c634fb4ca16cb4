/* Planning of row steps: where every operand of an op comes from, which values need shared memory, where barriers are due,
 * and into which pieces a row may be cut. Plain arithmetic; see rows-internal.h for how blocks see rows.
 */
#include "rows-internal.h"

#include <string.h>

#define MAX_COLUMNS (UINT32_C(1) << 30)

struct local {
    uint32_t number;   /* of the caller's */
    int32_t last_read; /* op that reads it last from shared memory; -1: none */
    uint8_t slot;
};

struct plan {
    struct rows_step *step;
    struct rows_plan_chain *chain;
    struct row_op ops[ROWS_MAX_OPS]; /* copies: inputs of sums and products may be swapped */
    struct row_operand acc;          /* what the accumulator holds; all 0: nothing known */
    uint32_t acc_width;
    struct local locals[ROWS_MAX_OPS];
    uint32_t n_locals;
    int32_t slot_user[ROWS_NO_SLOT]; /* last op that needs the slot */
    uint32_t reads_columns;          /* some op reads other threads' columns of a local */
    uint32_t exchanges;              /* ops that use the exchange slot so far */
    struct sharpi_error *err;
};

uint64_t rows_step_bytes(void)
{
    return sizeof(struct rows_step);
}

static int32_t is_memory(const struct row_operand *operand)
{
    return operand->base || !operand->local;
}

static int32_t is_none(const struct row_operand *operand)
{
    return !operand->base && !operand->local && !operand->stride;
}

static int32_t same_place(const struct row_operand *a, const struct row_operand *b)
{
    return !is_none(a) && a->base == b->base && a->local == b->local && a->column == b->column &&
           (!is_memory(a) || a->stride == b->stride);
}

static uint64_t address(const struct row_operand *operand)
{
    return (uint64_t)(uintptr_t)operand->base;
}

/* True if two memory operands may have a byte in common in some row of any kind. */
static int32_t overlap(const struct row_operand *a, uint64_t a_bytes, const struct row_operand *b,
                       uint64_t b_bytes)
{
    uint64_t distance;
    if (is_none(a) || is_none(b) || !is_memory(a) || !is_memory(b))
        return 0;
    distance = address(a) < address(b) ? address(b) - address(a) : address(a) - address(b);
    return distance < (address(a) < address(b) ? a_bytes : b_bytes);
}

static uint64_t out_bytes(const struct row_op *op)
{
    return op->kind == ROW_QUANTIZE ? op->out.stride : op->width * UINT64_C(4);
}

static uint32_t n_inputs(int32_t kind)
{
    switch (kind) {
    case ROW_ROPE_TABLE:
        return 0;
    case ROW_ROPE:
    case ROW_GLU:
    case ROW_ADD:
    case ROW_MUL:
        return 2;
    default:
        return 1;
    }
}

static uint32_t in1_columns(const struct row_op *op)
{
    return op->kind == ROW_ROPE ? op->n_rot : op->width;
}

/* ---- Checks */

static int32_t check_operand(const struct row_operand *operand, uint32_t columns, const char *what,
                             const struct row_op *op, struct sharpi_error *err)
{
    if (is_none(operand))
        return sharpi_fail(err, SHARPI_EBUG, "row op %d has no %s", op->kind, what);
    if (is_memory(operand) && (operand->stride % 4 || address(operand) % 4))
        return sharpi_fail(err, SHARPI_EBUG, "row op %d: %s is not aligned to a float", op->kind, what);
    if (!is_memory(operand) && (operand->column % 4 || operand->column > MAX_COLUMNS))
        return sharpi_fail(err, SHARPI_EBUG, "row op %d: %s begins at column %u", op->kind, what,
                           operand->column);
    if (is_memory(operand) && operand->stride && operand->stride / 4 < columns && op->kind != ROW_QUANTIZE)
        return sharpi_fail(err, SHARPI_EBUG, "row op %d: %s has rows of %u bytes for %u columns", op->kind,
                           what, operand->stride, columns);
    return SHARPI_OK;
}

static int32_t check_group(const struct row_op *op, struct sharpi_error *err)
{
    uint32_t group = op->group ? op->group : op->width;
    if (op->width % group)
        return sharpi_fail(err, SHARPI_EBUG, "row op %d: %u columns are not groups of %u", op->kind,
                           op->width, group);
    if (op->kind == ROW_ROPE && (op->n_rot > group || op->n_rot % 2 || op->n_rot == 0))
        return sharpi_fail(err, SHARPI_EBUG, "rope of %u dimensions in heads of %u", op->n_rot, group);
    return SHARPI_OK;
}

static int32_t check_kind(const struct row_op *op, struct sharpi_error *err)
{
    int32_t needs_memory = op->kind == ROW_SELECT || op->kind == ROW_COMBINE || op->kind == ROW_EMBED;
    if (needs_memory && !is_memory(&op->in[0]))
        return sharpi_fail(err, SHARPI_EBUG, "row op %d reads rows that must be in memory", op->kind);
    if (op->kind == ROW_ROPE && !is_memory(&op->in[1]))
        return sharpi_fail(err, SHARPI_EBUG, "a rope's table must be in memory");
    if (op->kind == ROW_QUANTIZE && !is_memory(&op->out))
        return sharpi_fail(err, SHARPI_EBUG, "quantized rows must be in memory");
    if (op->kind != ROW_QUANTIZE && (op->min_rows || op->max_rows))
        return sharpi_fail(err, SHARPI_EBUG, "row op %d cannot depend on the number of rows", op->kind);
    if (op->kind == ROW_MUL_VECTOR && !op->vector)
        return sharpi_fail(err, SHARPI_EBUG, "a product with a vector has no vector");
    if (op->kind == ROW_ROPE_TABLE && (!op->frequencies || op->width % 2))
        return sharpi_fail(err, SHARPI_EBUG, "a rope table has no frequencies");
    if (op->kind == ROW_COMBINE && (!op->weights || !op->n_used))
        return sharpi_fail(err, SHARPI_EBUG, "a weighted sum of experts has no routing");
    return SHARPI_OK;
}

static int32_t check_op(const struct row_op *op, struct sharpi_error *err)
{
    int32_t status;
    if (op->kind <= 0 || op->kind >= ROW_KIND_END || op->width == 0 || op->width > MAX_COLUMNS)
        return sharpi_fail(err, SHARPI_EBUG, "row op %d of %u columns", op->kind, op->width);
    if ((status = check_kind(op, err)) || (status = check_group(op, err)))
        return status;
    if (n_inputs(op->kind) > 0 && (status = check_operand(&op->in[0], op->width, "input", op, err)))
        return status;
    if (n_inputs(op->kind) > 1 &&
        (status = check_operand(&op->in[1], in1_columns(op), "second input", op, err)))
        return status;
    return check_operand(&op->out, op->width, "output", op, err);
}

/* ---- How a row may be cut */

static uint32_t common_multiple(uint32_t a, uint32_t b)
{
    uint32_t x = a, y = b;
    while (y) {
        uint32_t rest = x % y;
        x = y;
        y = rest;
    }
    return a / x * b;
}

/* Chunks that must stay together, 0: all of them. */
static uint32_t find_unit(const struct row_op *ops, uint32_t n)
{
    uint32_t unit = 8; /* a quantization block is 32 columns */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t group = ops[i].group ? ops[i].group : ops[i].width;
        if (ops[i].width != ops[0].width || ops[i].kind == ROW_ROPE_TABLE)
            return n > 1 ? 0 : unit;
        if (ops[i].kind != ROW_RMS_NORM && ops[i].kind != ROW_ROPE)
            continue;
        if (group % 4 || group == ops[i].width)
            return 0;
        unit = common_multiple(unit, group / 4);
        if (unit > 1024)
            return 0;
    }
    return unit;
}

/* ---- Operands */

static struct local *find_local(struct plan *plan, uint32_t number)
{
    for (uint32_t i = 0; i < plan->n_locals; i++) {
        if (plan->locals[i].number == number)
            return &plan->locals[i];
    }
    return NULL;
}

/* An earlier op of the chain whose output shares memory with `operand` of op `i`. *exact: it is the same place. */
static int32_t find_maker(const struct plan *plan, uint32_t i, const struct row_operand *operand,
                          uint64_t bytes, int32_t *exact)
{
    for (uint32_t k = i; k-- > 0;) {
        const struct row_op *op = &plan->ops[k];
        if (same_place(&op->out, operand)) {
            *exact = 1;
            return (int32_t)k;
        }
        if (overlap(&op->out, out_bytes(op), operand, bytes)) {
            *exact = 0;
            return (int32_t)k;
        }
    }
    return -1;
}

static int32_t is_acc(const struct plan *plan, const struct row_operand *operand, uint32_t width)
{
    return same_place(operand, &plan->acc) && width == plan->acc_width;
}

/* The accumulator can be the second input only if it is the first one too. */
static uint8_t find_source(const struct plan *plan, const struct row_op *op, uint32_t k)
{
    if (is_acc(plan, &op->in[k], op->width) && is_acc(plan, &op->in[0], op->width))
        return ROWS_ACC;
    return is_memory(&op->in[k]) ? ROWS_MEMORY : ROWS_SHARED;
}

static void swap_inputs(const struct plan *plan, struct row_op *op)
{
    struct row_operand first = op->in[0];
    if ((op->kind != ROW_ADD && op->kind != ROW_MUL) || is_acc(plan, &op->in[0], op->width) ||
        !is_acc(plan, &op->in[1], op->width))
        return;
    op->in[0] = op->in[1];
    op->in[1] = first;
}

static int32_t read_local(struct plan *plan, uint32_t i, const struct row_operand *operand)
{
    struct local *local = find_local(plan, operand->local);
    if (!local)
        return sharpi_fail(plan->err, SHARPI_EBUG, "row op %d reads local %u, which no op of its chain made",
                           plan->ops[i].kind, operand->local);
    local->last_read = (int32_t)i;
    return SHARPI_OK;
}

/* Memory input `k` of op `i`: made here or before, and whether other threads made what it reads. */
static void read_memory(struct plan *plan, uint32_t i, uint32_t k, struct rows_dev_op *dev)
{
    const struct row_op *op = &plan->ops[i];
    int32_t exact = 0,
            maker = find_maker(plan, i, &op->in[k], (k ? in1_columns(op) : op->width) * UINT64_C(4), &exact);
    int32_t other_rows = op->kind == ROW_SELECT || op->kind == ROW_COMBINE || op->kind == ROW_EMBED;
    if (maker >= 0 && (!exact || (op->kind == ROW_ROPE && k == 1))) {
        dev->sync = 1;
        plan->chain->unit = 0;
    }
    if (maker >= 0 || other_rows || op->kind == ROW_QUANTIZE)
        return;
    if (k == 0)
        dev->ahead0 = 0; /* numbered by number_ahead */
    else
        dev->ahead1 = 0;
}

static int32_t plan_input(struct plan *plan, uint32_t i, uint32_t k, struct rows_dev_op *dev)
{
    const struct row_op *op = &plan->ops[i];
    int32_t is_table = op->kind == ROW_ROPE && k == 1;
    uint8_t source = is_table ? ROWS_MEMORY : find_source(plan, op, k);
    int32_t status = SHARPI_OK;
    if (op->kind == ROW_SELECT || op->kind == ROW_COMBINE || op->kind == ROW_EMBED)
        source = ROWS_MEMORY;
    if (source == ROWS_SHARED)
        status = read_local(plan, i, &op->in[k]);
    else if (source == ROWS_MEMORY)
        read_memory(plan, i, k, dev);
    if (source == ROWS_SHARED && op->in[k].column) {
        dev->sync = 1;
        plan->chain->unit = 0;
        plan->reads_columns = 1;
    }
    if (k == 0)
        dev->source0 = source;
    else
        dev->source1 = source;
    return status;
}

static uint8_t alignment(const struct row_op *op)
{
    uint8_t bits = 0;
    if ((address(&op->in[0]) | op->in[0].stride) % 16 == 0)
        bits |= ROWS_ALIGNED_IN0;
    if ((address(&op->in[1]) | op->in[1].stride) % 16 == 0)
        bits |= ROWS_ALIGNED_IN1;
    if ((address(&op->out) | op->out.stride) % 16 == 0)
        bits |= ROWS_ALIGNED_OUT;
    if ((uint64_t)(uintptr_t)op->vector % 16 == 0 && (op->kind != ROW_RMS_NORM || op->group % 4 == 0))
        bits |= ROWS_ALIGNED_VECTOR;
    return bits;
}

static uint8_t norm_method(const struct row_op *op)
{
    uint32_t chunks = op->group / 4;
    if (op->group == op->width && (op->width > 128 || op->width % 4))
        return ROWS_NORM_ROW;
    if (op->group % 4)
        return ROWS_NORM_EXCHANGE;
    if (chunks <= 32 && (chunks & (chunks - 1)) == 0)
        return ROWS_NORM_LANES;
    return op->group == op->width ? ROWS_NORM_ROW : chunks % 32 == 0 ? ROWS_NORM_WARPS : ROWS_NORM_EXCHANGE;
}

static uint8_t rope_method(const struct row_op *op, uint8_t aligned)
{
    uint32_t chunks = op->group / 4, half = op->n_rot / 2;
    if (op->group % 4 || half % 4 || !(aligned & ROWS_ALIGNED_IN1))
        return ROWS_ROPE_SCALAR;
    if (op->rope_mode == SHARPI_ROPE_NORM)
        return ROWS_ROPE_LANES;
    if (op->n_rot == op->group && chunks <= 32 && chunks >= 2 && (chunks & (chunks - 1)) == 0)
        return ROWS_ROPE_LANES;
    return ROWS_ROPE_EXCHANGE;
}

/* ---- Ops */

static void fill_constants(const struct row_op *op, struct rows_dev_op *dev)
{
    dev->kind = (uint8_t)op->kind;
    dev->width = op->width;
    dev->group = op->group;
    dev->activation = (uint8_t)op->activation;
    dev->mode = (uint8_t)op->rope_mode;
    dev->format = (uint8_t)op->format;
    dev->n = op->kind == ROW_COMBINE ? op->n_used : op->n_rot;
    dev->eps = op->eps;
    dev->scale = op->scale;
    dev->limit = op->limit;
    dev->min_rows = op->min_rows;
    dev->max_rows = op->max_rows ? op->max_rows : UINT32_MAX;
    dev->in0 = op->in[0].base;
    dev->in1 = op->in[1].base;
    dev->out = op->out.base;
    dev->stride0 = op->in[0].stride;
    dev->stride1 = op->in[1].stride;
    dev->stride_out = op->out.stride;
    dev->column0 = op->in[0].column;
    dev->column1 = op->in[1].column;
    dev->vector = op->vector;
    dev->weights = op->weights;
    dev->extra = op->kind == ROW_COMBINE ? (const void *)op->slots : (const void *)op->frequencies;
}

static void plan_method(struct plan *plan, const struct row_op *op, struct rows_dev_op *dev)
{
    dev->aligned = alignment(op);
    if (op->kind == ROW_RMS_NORM)
        dev->method = norm_method(op);
    if (op->kind == ROW_ROPE)
        dev->method = rope_method(op, dev->aligned);
    if (op->kind == ROW_ROPE && dev->method == ROWS_ROPE_SCALAR)
        dev->ahead1 = ROWS_NO_SLOT;
    if (dev->method == ROWS_NORM_EXCHANGE || dev->method == ROWS_ROPE_EXCHANGE ||
        dev->method == ROWS_ROPE_SCALAR) {
        if (plan->exchanges++)
            dev->sync = 1; /* the last exchange must have been read */
        if (op->group % 4)
            plan->chain->unit = 0;
    }
}

/* A memory output that earlier ops read from other threads' columns waits for them. */
static void guard_readers(struct plan *plan, uint32_t i, struct rows_dev_op *dev)
{
    const struct row_op *op = &plan->ops[i];
    for (uint32_t k = 0; k < i; k++) {
        const struct row_op *reader = &plan->ops[k];
        for (uint32_t n = 0; n < n_inputs(reader->kind); n++) {
            uint64_t bytes = (n ? in1_columns(reader) : reader->width) * UINT64_C(4);
            if (same_place(&op->out, &reader->in[n]) ||
                !overlap(&op->out, out_bytes(op), &reader->in[n], bytes))
                continue;
            dev->sync = 1;
            plan->chain->unit = 0;
        }
    }
}

/* The op's result becomes the accumulator; a local gets an entry, a local made again a new one in its place. */
static int32_t plan_output(struct plan *plan, uint32_t i, struct rows_dev_op *dev)
{
    const struct row_op *op = &plan->ops[i];
    struct local *local;
    if (op->kind == ROW_QUANTIZE) {
        if (dev->source0 != ROWS_ACC && (op->min_rows || op->max_rows))
            memset(&plan->acc, 0, sizeof plan->acc);
        else {
            plan->acc = op->in[0];
            plan->acc_width = op->width;
        }
        return SHARPI_OK;
    }
    plan->acc = op->out;
    plan->acc_width = op->width;
    if (is_memory(&op->out)) {
        dev->store = ROWS_STORE_MEMORY;
        guard_readers(plan, i, dev);
        return SHARPI_OK;
    }
    if (op->out.column)
        return sharpi_fail(plan->err, SHARPI_EBUG, "row op %d writes into the middle of a local", op->kind);
    local = find_local(plan, op->out.local);
    if (!local)
        local = &plan->locals[plan->n_locals++];
    local->number = op->out.local;
    local->last_read = -1;
    local->slot = ROWS_NO_SLOT;
    return SHARPI_OK;
}

static int32_t plan_op(struct plan *plan, uint32_t i, struct rows_dev_op *dev)
{
    struct row_op *op = &plan->ops[i];
    int32_t status = SHARPI_OK;
    memset(dev, 0, sizeof *dev);
    dev->ahead0 = dev->ahead1 = dev->ahead_vector = dev->slot0 = dev->slot1 = dev->slot_out = ROWS_NO_SLOT;
    if (!op->group)
        op->group = op->width;
    swap_inputs(plan, op);
    fill_constants(op, dev);
    for (uint32_t k = 0; k < n_inputs(op->kind) && !status; k++)
        status = plan_input(plan, i, k, dev);
    plan_method(plan, op, dev);
    if (op->vector && (op->kind == ROW_RMS_NORM || op->kind == ROW_MUL_VECTOR) &&
        (dev->aligned & ROWS_ALIGNED_VECTOR))
        dev->ahead_vector = 0;
    return status ? status : plan_output(plan, i, dev);
}

/* ---- Slots */

/* Which op reads local `number` last before it is made again, looking from op `i` that makes it; -1: none from shared memory. */
static int32_t last_shared_read(const struct plan *plan, uint32_t i, uint32_t number)
{
    const struct rows_dev_op *dev = plan->step->ops + plan->chain->first_op;
    int32_t last = -1;
    for (uint32_t j = i + 1; j < plan->chain->n_ops; j++) {
        const struct row_op *op = &plan->ops[j];
        if ((dev[j].source0 == ROWS_SHARED && op->in[0].local == number) ||
            (dev[j].source1 == ROWS_SHARED && op->in[1].local == number))
            last = (int32_t)j;
        if (op->kind != ROW_QUANTIZE && !is_memory(&op->out) && op->out.local == number)
            break;
    }
    return last;
}

static uint8_t take_slot(struct plan *plan, uint32_t i, int32_t last)
{
    uint8_t slot = 0;
    while (plan->slot_user[slot] >= (int32_t)i)
        slot++;
    plan->slot_user[slot] = last;
    if (slot >= plan->chain->n_slots)
        plan->chain->n_slots = slot + 1u;
    return slot;
}

/* A slot is free again after its last reader; if that one reads other threads' columns, the next writer waits. */
static void number_slots(struct plan *plan)
{
    struct rows_dev_op *dev = plan->step->ops + plan->chain->first_op;
    for (uint32_t s = 0; s < ROWS_NO_SLOT; s++)
        plan->slot_user[s] = -1;
    for (uint32_t i = 0; i < plan->chain->n_ops; i++) {
        const struct row_op *op = &plan->ops[i];
        int32_t last;
        if (dev[i].source0 == ROWS_SHARED)
            dev[i].slot0 = find_local(plan, op->in[0].local)->slot;
        if (dev[i].source1 == ROWS_SHARED)
            dev[i].slot1 = find_local(plan, op->in[1].local)->slot;
        if (op->kind == ROW_QUANTIZE || is_memory(&op->out))
            continue;
        last = last_shared_read(plan, i, op->out.local);
        if (last < 0)
            continue;
        dev[i].slot_out = find_local(plan, op->out.local)->slot = take_slot(plan, i, last);
        dev[i].store |= ROWS_STORE_SHARED;
        dev[i].sync |= (uint8_t)plan->reads_columns;
    }
    if (plan->exchanges)
        plan->chain->n_slots++; /* the last one */
}

/* Everything that is known before the chain begins is fetched ahead, all at once. */
static void number_ahead(struct plan *plan)
{
    struct rows_dev_op *dev = plan->step->ops + plan->chain->first_op;
    uint32_t n = 0;
    for (uint32_t i = 0; i < plan->chain->n_ops; i++) {
        int32_t is_rope = dev[i].kind == ROW_ROPE;
        dev[i].ahead0 =
            (uint8_t)(dev[i].ahead0 == 0 && (dev[i].aligned & ROWS_ALIGNED_IN0) ? n++ : ROWS_NO_SLOT);
        dev[i].ahead1 =
            (uint8_t)(dev[i].ahead1 == 0 && (dev[i].aligned & ROWS_ALIGNED_IN1) ? n++ : ROWS_NO_SLOT);
        if (is_rope && dev[i].ahead1 != ROWS_NO_SLOT)
            n++; /* sines */
        dev[i].ahead_vector = (uint8_t)(dev[i].ahead_vector == 0 ? n++ : ROWS_NO_SLOT);
    }
    plan->chain->n_ahead = n;
}

/* ---- Chains */

static int32_t plan_chain(struct plan *plan)
{
    struct rows_plan_chain *chain = plan->chain;
    int32_t status = SHARPI_OK;
    chain->unit = find_unit(plan->ops, chain->n_ops);
    for (uint32_t i = 0; i < chain->n_ops && !status; i++) {
        status = check_op(&plan->ops[i], plan->err);
        if (plan->ops[i].width > chain->width)
            chain->width = plan->ops[i].width;
        if (!status)
            status = plan_op(plan, i, &plan->step->ops[chain->first_op + i]);
    }
    if (status)
        return status;
    if (chain->unit == 0 && chain->width > ROWS_MAX_WIDTH)
        return sharpi_fail(
            plan->err, SHARPI_ENOTSUP,
            "rows of %u columns are too wide for a norm or a chain of several widths; at most %u",
            chain->width, ROWS_MAX_WIDTH);
    number_slots(plan);
    number_ahead(plan);
    if (chain->unit == 0 && chain->n_slots * (chain->width + 512ull) * 4 > ROWS_MAX_SHARED)
        return sharpi_fail(plan->err, SHARPI_ENOTSUP, "a chain keeps %u rows of %u columns in shared memory",
                           chain->n_slots, chain->width);
    return SHARPI_OK;
}

int32_t rows_step_init(struct rows_step *step, const struct rows_chain *chains, uint32_t n_chains,
                       int32_t rows, uint32_t rows_factor, struct sharpi_error *err)
{
    memset(step, 0, sizeof *step);
    if (n_chains == 0 || n_chains > ROWS_MAX_CHAINS || rows_factor == 0)
        return sharpi_fail(err, SHARPI_EBUG, "a row step of %u chains; at most %u", n_chains,
                           ROWS_MAX_CHAINS);
    step->rows = rows;
    step->rows_factor = rows_factor;
    for (uint32_t c = 0; c < n_chains; c++) {
        struct plan plan = {.step = step, .chain = &step->chains[c], .err = err};
        int32_t status;
        if (chains[c].n_ops == 0 || chains[c].n_ops > ROWS_MAX_OPS - step->n_ops)
            return sharpi_fail(err, SHARPI_EBUG, "a row step of more than %u ops", ROWS_MAX_OPS);
        memcpy(plan.ops, chains[c].ops, chains[c].n_ops * sizeof *plan.ops);
        plan.chain->first_op = step->n_ops;
        plan.chain->n_ops = chains[c].n_ops;
        status = plan_chain(&plan);
        if (status)
            return status;
        step->n_ops += chains[c].n_ops;
        step->n_chains++;
    }
    return SHARPI_OK;
}
