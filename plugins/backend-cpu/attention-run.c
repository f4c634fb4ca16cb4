/* How a step's attention is cut into blocks, drawn by threads and merged.
 *
 * Every thread computes the same cuts from the batch and nth, so nothing is communicated but a counter. A
 * sequence's tokens are cut into tiles. A tile of few rows (decode) keeps its KV heads together, because
 * their rows lie together in memory; one of many rows is cut by KV heads. A block that costs more than a
 * third of a thread's share is cut into page ranges, which makes partials: one decoding sequence of 32k
 * positions occupies all threads. Such a block costs at least half more than that third and is cut into
 * round(cost / third), so the partials of all are at most 4/3 * 3 * nth, and 4/3 of this when KV heads do not
 * divide evenly; max_partials has room for 6 * nth.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "attention-internal.h"

#define BLOCKS_PER_THREAD   3u
#define MIN_PAGES_PER_SPLIT 2u
#define ROWS_OF_READING     8u /* reading a page costs as much as so many rows' arithmetic */

struct partition {
    const struct attention_job *job;
    struct attention_shape shape;
    uint64_t third; /* of a thread's share */
    uint32_t nth;
};

/* Some consecutive tokens of one sequence. */
struct tile {
    uint32_t token, n_tokens;
    uint32_t heads_per_block; /* KV heads */
    uint32_t n_columns;       /* blocks side by side: KV heads / heads_per_block x parts of a group */
    uint32_t n_splits;        /* blocks one after the other in positions */
    uint64_t position;
    uint64_t low, end;
    uint64_t page, n_pages, pages_per_split;
};

static void tile_init(struct tile *tile, const struct partition *part, const struct sharpi_batch_seq *seq,
                      uint32_t index)
{
    const struct attention_plan *plan = part->job->plan;
    const uint32_t first = index * part->shape.tokens_per_block;
    const uint32_t left = seq->n_tokens - first;

    tile->token = seq->first_token + first;
    tile->n_tokens = left < part->shape.tokens_per_block ? left : part->shape.tokens_per_block;
    tile->position = (uint64_t)seq->length + first;
    tile->low = plan->window && tile->position + 1 > plan->window ? tile->position + 1 - plan->window : 0;
    tile->end = plan->causal ? tile->position + tile->n_tokens : (uint64_t)seq->length + seq->n_tokens;
    tile->page = tile->low / SHARPI_KV_PAGE;
    tile->n_pages = (tile->end + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE - tile->page;
}

/* Of one KV head (or a part of its group). */
static uint64_t tile_cost(const struct partition *part, const struct tile *tile)
{
    return tile->n_pages * (tile->n_tokens * part->shape.heads_per_block + ROWS_OF_READING);
}

/* As many KV heads per block as fit, divided evenly; fewer if there are not enough pages to cut for all
 * threads. */
static void tile_group(struct tile *tile, const struct partition *part)
{
    const uint32_t n_kv_heads = part->job->plan->kv.n_kv_heads;
    const uint64_t max_splits = tile->n_pages / MIN_PAGES_PER_SPLIT + 1;
    uint64_t heads = 1, most;

    assert(n_kv_heads > 0); /* for the analyzer: the plan has checked it */
    if (part->shape.parts_per_group == 1)
        heads = part->shape.max_rows / (tile->n_tokens * part->shape.heads_per_block);
    most = max_splits * part->third / tile_cost(part, tile);
    if (part->nth > 1 && heads > most)
        heads = most;
    heads = heads < 1 ? 1 : heads > n_kv_heads ? n_kv_heads : heads;
    const uint64_t n = (n_kv_heads + heads - 1) / heads;
    tile->heads_per_block = (uint32_t)((n_kv_heads + n - 1) / n);
    tile->n_columns =
        (n_kv_heads + tile->heads_per_block - 1) / tile->heads_per_block * part->shape.parts_per_group;
}

static void tile_split(struct tile *tile, const struct partition *part, uint64_t partials_left)
{
    uint64_t n = (tile->heads_per_block * tile_cost(part, tile) + part->third / 2) / part->third;

    if (part->nth == 1 || n * tile->n_columns > partials_left)
        n = 1;
    if (n > tile->n_pages / MIN_PAGES_PER_SPLIT)
        n = tile->n_pages / MIN_PAGES_PER_SPLIT;
    if (n < 1)
        n = 1;
    tile->pages_per_split = (tile->n_pages + n - 1) / n;
    tile->n_splits = (uint32_t)((tile->n_pages + tile->pages_per_split - 1) / tile->pages_per_split);
}

/* A walk over all tiles: sequences in order, each one's last tile (the dearest) first. */
struct cursor {
    uint32_t seq;
    uint32_t tiles_left; /* of this sequence, the current one included; 0 before the first tile */
    uint64_t first_block, n_blocks;
    uint64_t first_partial;
    struct tile tile;
};

/* To the next tile; 0 at the end. */
static uint32_t cursor_next(struct cursor *cursor, const struct partition *part)
{
    const struct sharpi_batch *batch = part->job->batch;
    const uint32_t tile_tokens = part->shape.tokens_per_block;

    if (cursor->n_blocks) {
        cursor->first_block += cursor->n_blocks;
        cursor->first_partial += cursor->tile.n_splits > 1 ? cursor->n_blocks : 0;
        cursor->n_blocks = 0;
        if (--cursor->tiles_left == 0)
            cursor->seq++;
    }
    while (!cursor->tiles_left) {
        if (cursor->seq >= batch->n_seqs)
            return 0;
        cursor->tiles_left = batch->seqs[cursor->seq].n_tokens / tile_tokens +
                             (batch->seqs[cursor->seq].n_tokens % tile_tokens != 0);
        if (!cursor->tiles_left)
            cursor->seq++;
    }
    tile_init(&cursor->tile, part, &batch->seqs[cursor->seq], cursor->tiles_left - 1);
    tile_group(&cursor->tile, part);
    tile_split(&cursor->tile, part, part->shape.max_partials - cursor->first_partial);
    cursor->n_blocks = (uint64_t)cursor->tile.n_columns * cursor->tile.n_splits;
    return 1;
}

static void partition_init(struct partition *part, const struct attention_job *job, uint32_t nth)
{
    struct cursor cursor;
    uint64_t total = 0;

    part->job = job;
    part->nth = 1; /* no splits while counting */
    part->third = 1;
    attention_shape_init(&part->shape, job->plan);
    memset(&cursor, 0, sizeof cursor);
    while (nth > 1 && cursor_next(&cursor, part))
        total += tile_cost(part, &cursor.tile) * job->plan->kv.n_kv_heads * part->shape.parts_per_group;
    part->nth = nth;
    part->third = total / ((uint64_t)BLOCKS_PER_THREAD * nth) + 1;
}

/* KV heads and query heads of a tile's column. */
static void block_heads(struct attention_block *block, const struct partition *part, const struct tile *tile,
                        uint32_t column)
{
    const struct attention_plan *plan = part->job->plan;
    const uint32_t group = plan->n_heads / plan->kv.n_kv_heads;
    const uint32_t kv_left =
        plan->kv.n_kv_heads - column / part->shape.parts_per_group * tile->heads_per_block;

    block->kv_head = plan->kv.n_kv_heads - kv_left;
    block->n_kv_heads = kv_left < tile->heads_per_block ? kv_left : tile->heads_per_block;
    block->first_in_group = column % part->shape.parts_per_group * part->shape.heads_per_block;
    block->n_heads = group - block->first_in_group;
    if (block->n_heads > part->shape.heads_per_block)
        block->n_heads = part->shape.heads_per_block;
}

/* Block `index` (of all) of the cursor's tile. */
static void block_init(struct attention_block *block, const struct partition *part,
                       const struct cursor *cursor, uint64_t index)
{
    const struct attention_job *job = part->job;
    const struct sharpi_batch_class *class_of = &job->batch->classes[job->plan->kv.class_index];
    const struct tile *tile = &cursor->tile;
    const uint64_t in_tile = index - cursor->first_block;
    const uint64_t split = in_tile / tile->n_columns;
    const uint64_t end_page = tile->page + tile->n_pages;

    block->pages = class_of->pages + (uint64_t)cursor->seq * class_of->stride;
    block->token = tile->token;
    block->n_tokens = tile->n_tokens;
    block->position = tile->position;
    block->low = tile->low;
    block->end = tile->end;
    block->page = tile->page + split * tile->pages_per_split;
    block->end_page =
        end_page - block->page < tile->pages_per_split ? end_page : block->page + tile->pages_per_split;
    block_heads(block, part, tile, (uint32_t)(in_tile % tile->n_columns));
    block->is_partial = tile->n_splits > 1;
    if (block->is_partial)
        block->partial = attention_partial_at(&part->shape, job->scratch, job->plan->max_threads,
                                              cursor->first_partial + in_tile);
}

/* Row `r` of one block of the tile from its partials; `first` is the index of the first, and they lie
 * n_columns apart. */
static void merge_row(const struct partition *part, const struct attention_block *block,
                      const struct tile *tile, uint64_t first, uint32_t r, float *acc)
{
    const struct attention_job *job = part->job;
    const struct attention_kernels *kernels = job->plan->kernels;
    const uint32_t width = part->shape.width;
    struct attention_row row = {-INFINITY, 0.0f};
    struct attention_partial partial;

    for (uint32_t i = 0; i < tile->n_splits; i++) {
        partial = attention_partial_at(&part->shape, job->scratch, job->plan->max_threads,
                                       first + (uint64_t)i * tile->n_columns);
        row.max = fmaxf(row.max, partial.rows[r].max);
    }
    memset(acc, 0, width * sizeof(float));
    for (uint32_t i = 0; i < tile->n_splits; i++) {
        partial = attention_partial_at(&part->shape, job->scratch, job->plan->max_threads,
                                       first + (uint64_t)i * tile->n_columns);
        if (partial.rows[r].max == -INFINITY) /* the row sees nothing of this range */
            continue;
        const float weight = expf(partial.rows[r].max - row.max);
        row.sum += partial.rows[r].sum * weight;
        kernels->add_scaled_row(acc, partial.acc + (uint64_t)r * width, weight, width);
    }
    attention_store_row(job, block, r, &row, acc);
}

/* After the barrier: split rows are dealt out to the threads in turn. */
static void merge(const struct partition *part, uint32_t ith, float *acc)
{
    struct cursor cursor;
    uint64_t turn = 0;

    memset(&cursor, 0, sizeof cursor);
    while (cursor_next(&cursor, part)) {
        if (cursor.tile.n_splits < 2)
            continue;
        for (uint32_t b = 0; b < cursor.tile.n_columns; b++) {
            struct attention_block block;
            block_init(&block, part, &cursor, cursor.first_block + b);
            for (uint32_t r = 0; r < block.n_tokens * block.n_heads * block.n_kv_heads; r++)
                if (turn++ % part->nth == ith)
                    merge_row(part, &block, &cursor.tile, cursor.first_partial + b, r, acc);
        }
    }
}

/* To the tile that holds block `index`, not before the current one; 0 if there are fewer blocks. */
static uint32_t cursor_seek(struct cursor *cursor, const struct partition *part, uint64_t index)
{
    while (index >= cursor->first_block + cursor->n_blocks)
        if (!cursor_next(cursor, part))
            return 0;
    return 1;
}

void attention_run(const struct attention_job *job, uint32_t ith, uint32_t nth)
{
    struct partition part;
    struct attention_scratch scratch;
    struct attention_block block;
    struct cursor cursor;
    uint64_t index;

    partition_init(&part, job, nth);
    attention_scratch_at(&scratch, &part.shape, job->scratch, ith);
    memset(&cursor, 0, sizeof cursor);
    while (index = __atomic_fetch_add(job->next, 1, __ATOMIC_RELAXED), cursor_seek(&cursor, &part, index)) {
        block_init(&block, &part, &cursor, index);
        attention_attend(job, &part.shape, &scratch, &block);
    }
    /* The walk has come to the end, so every thread knows alike whether anything was split. */
    if (cursor.first_partial) {
        job->barrier(job->barrier_user);
        merge(&part, ith, scratch.acc);
    }
}
