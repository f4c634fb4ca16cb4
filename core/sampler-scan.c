/* Passes of a sampler over all logits of a vocabulary.
 *
 * Invariant: results have the same bits on every processor (sampler-lanes.h), and weights are integers: it does not matter in
 * which order they are added. Cost per pass over 262,144 logits: 1 MiB read; a weight is some 25 operations for eight logits,
 * less than storing and reading it again.
 */
#include <float.h>
#include <math.h>

#include "sampler-lanes.h"

/* ---- Maxima */

BODY void raise_lanes(lanes *x, const lanes *y) /* *x = the higher one, lane by lane */
{
    const mask above = *y > *x;
    *x = (lanes)(((mask)*y & above) | ((mask)*x & ~above));
}

BODY float highest_lane(const lanes *x)
{
    typedef float quad __attribute__((vector_size(16)));
    typedef int32_t quad_mask __attribute__((vector_size(16)));
    quad half[2];
    memcpy(half, x, sizeof half);
    const quad_mask above = half[1] > half[0];
    const quad four = (quad)(((quad_mask)half[1] & above) | ((quad_mask)half[0] & ~above));
    const float a = four[0] > four[1] ? four[0] : four[1], b = four[2] > four[3] ? four[2] : four[3];
    return a > b ? a : b;
}

/* The highest of a block; *ordered loses the lanes with a NaN. */
BODY float block_max(const float *from, mask *ordered)
{
    lanes x[2 * TOGETHER];
    load_lanes(from, x);
    load_lanes(from + STRIDE, x + TOGETHER);
    IN_STEP(k, *ordered &= (x[k] >= x[k + TOGETHER]) | (x[k] < x[k + TOGETHER]));
    IN_STEP(k, raise_lanes(&x[k], &x[k + TOGETHER]));
    raise_lanes(&x[0], &x[2]);
    raise_lanes(&x[1], &x[3]);
    raise_lanes(&x[0], &x[1]);
    return highest_lane(&x[0]);
}

/* The highest logit, +inf if any is NaN. */
BODY float max_body(const float *logits, int32_t n, float *maxima)
{
    float room[BLOCK], high = -INFINITY;
    mask ordered = ~(mask){0};
    int32_t is_bad = 0;
    for (int32_t b = 0; b * BLOCK < n; b++) {
        const float max = block_max(block_at(logits, n, b, room), &ordered);
        high = max > high ? max : high;
        if (maxima)
            maxima[b] = max;
    }
    for (int32_t k = 0; k < LANES; k++)
        is_bad |= !ordered[k];
    return is_bad ? INFINITY : high;
}
FOR_EACH_CPU(float, max, (const float *logits, int32_t n, float *maxima), (logits, n, maxima))

float scan_max(float *logits, int32_t n, float *maxima)
{
    float max = max_best(logits, n, maxima);
    if (max <= FLT_MAX)
        return max;
    for (int32_t i = 0; i < n; i++) {
        if (logits[i] != logits[i])
            logits[i] = -INFINITY;
        else if (logits[i] > FLT_MAX)
            logits[i] = FLT_MAX;
    }
    return max_best(logits, n, maxima);
}

/* ---- Keys and weights */

BODY void key_lanes(const float *from, const struct measure *m, int32_t is_near, lanes *to)
{
    load_lanes(from, to);
    if (is_near)
        IN_STEP(k,
                to[k] = (lanes)((words)((m->scale.max - to[k]) * m->scale.factor - m->centre) | 0x80000000u));
}

/* No key of a block is higher, whose maximum this is. */
BODY float highest_key(const struct measure *m, float max)
{
    const float beyond = m->is_near ? (m->scale.max - max) * m->scale.factor - m->centre : 0;
    return m->is_near ? (beyond > 0 ? -beyond : 0) : max;
}

/* Weights, not yet integers. */
BODY void exp_lanes(const float *from, const struct scale *by, lanes *to)
{
    exp2_lanes(from, by->max, by->factor * LOG2E, WEIGHT_BITS, to);
}

BODY void count_lanes(const float *from, const struct measure *m, int32_t is_rank, words *to)
{
    lanes x[TOGETHER];
    if (is_rank) {
        load_lanes(from, x);
        IN_STEP(k, to[k] = (words)(x[k] > -INFINITY) & 1);
    } else {
        exp_lanes(from, &m->scale, x);
        round_lanes(x, to);
    }
}

/* to = weight * depth below the highest, 0 where the weight is 0: at most WEIGHT_ONE / e. */
BODY void depth_lanes(const float *from, const struct scale *by, const lanes *weights, words *to)
{
    lanes x[TOGETHER];
    load_lanes(from, x);
    IN_STEP(k, x[k] = (by->max - x[k]) * by->factor * weights[k]);
    IN_STEP(k, x[k] = (lanes)((mask)x[k] & (weights[k] > 0.0f)));
    round_lanes(x, to);
}

BODY uint64_t weigh_block(const float *x, const struct scale *by, uint64_t *depth)
{
    longs sums = {0}, depths = {0};
    for (int32_t i = 0; i < BLOCK; i += STRIDE) {
        lanes e[TOGETHER];
        words w[TOGETHER];
        exp_lanes(x + i, by, e);
        if (depth) {
            depth_lanes(x + i, by, e, w);
            add_words(&depths, w);
        }
        round_lanes(e, w);
        add_words(&sums, w);
    }
    if (depth)
        *depth += sum_of(&depths);
    return sum_of(&sums);
}

BODY uint64_t weigh_all(const struct view *v, uint64_t *sums, uint64_t *depth)
{
    const struct scale by = v->scale;
    uint64_t total = 0;
    float room[BLOCK];
    for (int32_t b = 0; b * BLOCK < v->n; b++) {
        sums[b] = weigh_block(block_at(v->logits, v->n, b, room), &by, depth);
        total += sums[b];
    }
    return total;
}
BODY uint64_t weigh_body(const struct view *v, uint64_t *sums)
{
    return weigh_all(v, sums, NULL);
}
BODY uint64_t weigh_deep_body(const struct view *v, uint64_t *sums, uint64_t *depth)
{
    uint64_t depths = 0, total = weigh_all(v, sums, &depths);
    *depth = depths;
    return total;
}
FOR_EACH_CPU(uint64_t, weigh, (const struct view *v, uint64_t *sums), (v, sums))
FOR_EACH_CPU(uint64_t, weigh_deep, (const struct view *v, uint64_t *sums, uint64_t *depth), (v, sums, depth))

uint64_t scan_weigh(const struct view *v, uint64_t *sums, uint64_t *depth)
{
    return depth ? weigh_deep_best(v, sums, depth) : weigh_best(v, sums);
}

/* ---- Around a cut */

static const mask first_places = {0, 1, 2, 3, 4, 5, 6, 7};

BODY void kept_lanes(const float *from, const struct measure *m, int32_t is_near, const struct cut *c,
                     int32_t at, mask *to)
{
    lanes x[TOGETHER];
    key_lanes(from, m, is_near, x);
    IN_STEP(k, to[k] = (x[k] > c->key) | ((x[k] == c->key) & (first_places <= c->at - at - k * LANES)));
}

BODY uint64_t weigh_kept_block(const float *x, const struct view *v, int32_t is_near, int32_t at)
{
    const struct measure m = {.scale = v->scale};
    longs sums = {0};
    for (int32_t i = 0; i < BLOCK; i += STRIDE) {
        words w[TOGETHER];
        mask kept[TOGETHER];
        count_lanes(x + i, &m, 0, w);
        kept_lanes(x + i, &v->by, is_near, &v->end, at + i, kept);
        IN_STEP(k, w[k] &= (words)kept[k]);
        add_words(&sums, w);
    }
    return sum_of(&sums);
}

BODY uint64_t weigh_kept_body(const struct view *view, uint64_t *sums)
{
    const struct view copy = *view, *v = &copy;
    uint64_t total = 0;
    float room[BLOCK];
    for (int32_t b = 0; b * BLOCK < v->n; b++) {
        const float *x = block_at(v->logits, v->n, b, room);
        sums[b] = v->by.is_near ? weigh_kept_block(x, v, 1, b * BLOCK) : weigh_kept_block(x, v, 0, b * BLOCK);
        total += sums[b];
    }
    return total;
}
FOR_EACH_CPU(uint64_t, weigh_kept, (const struct view *view, uint64_t *sums), (view, sums))

uint64_t scan_weigh_kept(const struct view *v, uint64_t *sums)
{
    return weigh_kept_best(v, sums);
}

/* Returns which are kept, a bit each. */
BODY uint64_t kept_block(const float *x, const struct measure *m, int32_t is_near, const struct cut *c,
                         int32_t at)
{
    uint64_t bits = 0;
    for (int32_t i = 0; i < BLOCK; i += STRIDE) {
        mask kept[TOGETHER];
        kept_lanes(x + i, m, is_near, c, at + i, kept);
        bits |= bits_of(kept) << i;
    }
    return bits;
}

BODY int32_t gather_body(const struct view *v, const struct measure *by, const struct cut *cut, float *logits,
                         int32_t *ids)
{
    const struct measure m = *by;
    const struct cut c = *cut;
    int32_t count = 0;
    float room[BLOCK];
    for (int32_t b = 0; b * BLOCK < v->n; b++) {
        const int32_t at = b * BLOCK;
        const float *x = block_at(v->logits, v->n, b, room);
        if (highest_key(&m, v->maxima[b]) < c.key)
            continue;
        uint64_t bits = m.is_near ? kept_block(x, &m, 1, &c, at) : kept_block(x, &m, 0, &c, at);
        if (!logits) {
            count += __builtin_popcountll(bits);
            continue;
        }
        for (; bits; bits &= bits - 1, count++) {
            const int32_t i = __builtin_ctzll(bits);
            logits[count] = x[i];
            ids[count] = v->ids ? v->ids[at + i] : at + i;
        }
    }
    return count;
}
FOR_EACH_CPU(int32_t, gather,
             (const struct view *v, const struct measure *by, const struct cut *cut, float *logits,
              int32_t *ids),
             (v, by, cut, logits, ids))

int32_t scan_gather(const struct view *v, const struct measure *m, struct cut c, float *logits, int32_t *ids)
{
    return gather_best(v, m, &c, logits, ids);
}

int32_t scan_count(const struct view *v, const struct measure *m, struct cut c)
{
    return gather_best(v, m, &c, NULL, NULL);
}

BODY void cut_block(float *x, const struct measure *m, int32_t is_near, const struct cut *c, int32_t at,
                    float *max)
{
    mask unused = {0};
    for (int32_t i = 0; i < BLOCK; i += STRIDE) {
        const lanes out = (lanes){0} - INFINITY;
        mask kept[TOGETHER], bits[TOGETHER];
        kept_lanes(x + i, m, is_near, c, at + i, kept);
        IN_STEP(k, memcpy(&bits[k], x + i + k * LANES, sizeof bits[k]));
        IN_STEP(k, bits[k] = (bits[k] & kept[k]) | ((mask)out & ~kept[k]));
        IN_STEP(k, memcpy(x + i + k * LANES, &bits[k], sizeof bits[k]));
    }
    *max = block_max(x, &unused);
}

BODY void cut_body(const struct view *v, const struct measure *by, const struct cut *cut)
{
    const struct measure m = *by;
    const struct cut c = *cut;
    float room[BLOCK];
    for (int32_t b = 0; b * BLOCK < v->n; b++) {
        const int32_t at = b * BLOCK, here = v->n - at < BLOCK ? v->n - at : BLOCK;
        float *x = v->logits + at;
        if (here < BLOCK) {
            block_at(v->logits, v->n, b, room);
            x = room;
        }
        if (m.is_near)
            cut_block(x, &m, 1, &c, at, &v->maxima[b]);
        else
            cut_block(x, &m, 0, &c, at, &v->maxima[b]);
        if (here < BLOCK)
            memcpy(v->logits + at, room, (size_t)here * sizeof *room);
    }
}
FOR_EACH_CPU(void, cut, (const struct view *v, const struct measure *by, const struct cut *cut), (v, by, cut))

void scan_cut(const struct view *v, const struct measure *m, struct cut c)
{
    cut_best(v, m, &c);
}

/* ---- Between two keys */

/* What a pass knows of a block. */
struct block {
    float keys[BLOCK];
    uint32_t weights[BLOCK];
    uint64_t above, between; /* sum; a bit each */
};

/* What it knows of all so far. */
struct totals {
    longs sums;
    mask n_above; /* minus how many */
};

BODY void split_block(const float *x, const struct measure *m, int32_t is_near, int32_t is_rank,
                      struct range r, struct block *to, struct totals *totals)
{
    longs above = {0};
    uint64_t bits = 0;
    for (int32_t i = 0; i < BLOCK; i += STRIDE) {
        lanes key[TOGETHER];
        words w[TOGETHER];
        mask is_above[TOGETHER], between[TOGETHER];
        count_lanes(x + i, m, is_rank, w);
        IN_STEP(k, memcpy(to->weights + i + k * LANES, &w[k], sizeof w[k]));
        add_words(&totals->sums, w);
        key_lanes(x + i, m, is_near, key);
        if (is_near)
            IN_STEP(k, memcpy(to->keys + i + k * LANES, &key[k], sizeof key[k]));
        IN_STEP(k, is_above[k] = key[k] > r.high);
        IN_STEP(k, between[k] = (key[k] > r.low) & ~is_above[k]);
        IN_STEP(k, w[k] &= (words)is_above[k]);
        add_words(&above, w);
        totals->n_above += (is_above[0] + is_above[1]) + (is_above[2] + is_above[3]);
        bits |= bits_of(between) << i;
    }
    to->above = sum_of(&above);
    to->between = bits;
}

BODY int32_t take_between(const float *keys, const struct block *block, int32_t at, struct part *to,
                          int32_t n)
{
    for (uint64_t bits = block->between; bits; bits &= bits - 1, n++) {
        const int32_t i = __builtin_ctzll(bits);
        to->keys[n] = keys[i];
        to->weights[n] = block->weights[i];
        to->at[n] = at + i;
    }
    return n;
}

BODY struct split split_row(const struct view *v, const struct measure *m, int32_t is_near, int32_t is_rank,
                            struct range r, int32_t is_whole, uint64_t *sums, struct part *between)
{
    struct totals totals = {{0}, {0}};
    struct split s = {0};
    struct block block;
    float room[BLOCK];
    int32_t n = 0;
    for (int32_t b = 0; b * BLOCK < v->n; b++) {
        const float *x = block_at(v->logits, v->n, b, room);
        block.above = 0;
        if (is_whole || highest_key(m, v->maxima[b]) > r.low) {
            split_block(x, m, is_near, is_rank, r, &block, &totals);
            s.above += block.above;
            n = take_between(is_near ? block.keys : x, &block, b * BLOCK, between, n);
        }
        if (sums)
            sums[b] = block.above;
    }
    for (int32_t k = 0; k < LANES; k++)
        s.n_above -= totals.n_above[k];
    s.total = sum_of(&totals.sums);
    between->n = n;
    return s;
}

BODY struct split split_body(const struct view *view, const struct measure *by, struct range r,
                             int32_t is_whole, uint64_t *sums, struct part *between)
{
    const struct view v = *view; /* copies, which no store can change */
    const struct measure m = *by;
    struct part to = *between;
    struct split s;
    if (m.is_near && m.is_rank)
        s = split_row(&v, &m, 1, 1, r, is_whole, sums, &to);
    else if (m.is_near)
        s = split_row(&v, &m, 1, 0, r, is_whole, sums, &to);
    else if (m.is_rank)
        s = split_row(&v, &m, 0, 1, r, is_whole, sums, &to);
    else
        s = split_row(&v, &m, 0, 0, r, is_whole, sums, &to);
    between->n = to.n;
    return s;
}
FOR_EACH_CPU(struct split, split,
             (const struct view *v, const struct measure *by, struct range r, int32_t is_whole,
              uint64_t *sums, struct part *between),
             (v, by, r, is_whole, sums, between))

struct split scan_split(const struct view *v, const struct measure *m, struct range r, int32_t is_whole,
                        uint64_t *sums, struct part *between)
{
    return split_best(v, m, r, is_whole, sums, between);
}

BODY int32_t block_body(const struct view *v, const struct measure *m, int32_t b, float *keys,
                        uint32_t *weights)
{
    float room[BLOCK];
    const float *x = block_at(v->logits, v->n, b, room);
    for (int32_t i = 0; i < BLOCK; i += STRIDE) {
        lanes key[TOGETHER];
        words w[TOGETHER];
        key_lanes(x + i, m, m->is_near, key);
        count_lanes(x + i, m, m->is_rank, w);
        IN_STEP(k, memcpy(keys + i + k * LANES, &key[k], sizeof key[k]));
        IN_STEP(k, memcpy(weights + i + k * LANES, &w[k], sizeof w[k]));
    }
    return v->n - b * BLOCK < BLOCK ? v->n - b * BLOCK : BLOCK;
}
FOR_EACH_CPU(int32_t, block,
             (const struct view *v, const struct measure *m, int32_t b, float *keys, uint32_t *weights),
             (v, m, b, keys, weights))

int32_t scan_block(const struct view *v, const struct measure *m, int32_t block, float *keys,
                   uint32_t *weights)
{
    return block_best(v, m, block, keys, weights);
}

/* ---- A list of keys */

BODY struct range range_body(const float *keys, int32_t n)
{
    lanes minus_low = (lanes){0} - INFINITY, high = minus_low;
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes x, minus;
        memcpy(&x, keys + i, sizeof x);
        minus = -x;
        raise_lanes(&high, &x);
        raise_lanes(&minus_low, &minus);
    }
    struct range r = {-highest_lane(&minus_low), highest_lane(&high)};
    for (; i < n; i++) {
        r.low = keys[i] < r.low ? keys[i] : r.low;
        r.high = keys[i] > r.high ? keys[i] : r.high;
    }
    return r;
}
FOR_EACH_CPU(struct range, range, (const float *keys, int32_t n), (keys, n))

struct range scan_range(const float *keys, int32_t n)
{
    return range_best(keys, n);
}
