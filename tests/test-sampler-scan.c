/* Tests of the sampler's passes: the variant for each processor against plain loops, bit for bit. */
#include "core/sampler-scan.c" /* NOLINT(bugprone-suspicious-include): the variants are static */

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>

#include "random-logits.h"

enum { MOST = 300000, MOST_BLOCKS = MOST / BLOCK + 1, TRIALS = 400 };

struct variant {
    const char *name;
    float (*max)(const float *, int32_t, float *);
    uint64_t (*weigh)(const struct view *, uint64_t *);
    uint64_t (*weigh_deep)(const struct view *, uint64_t *, uint64_t *);
    uint64_t (*weigh_kept)(const struct view *, uint64_t *);
    int32_t (*gather)(const struct view *, const struct measure *, const struct cut *, float *, int32_t *);
    void (*cut)(const struct view *, const struct measure *, const struct cut *);
    struct split (*split)(const struct view *, const struct measure *, struct range, int32_t, uint64_t *,
                          struct part *);
    int32_t (*block)(const struct view *, const struct measure *, int32_t, float *, uint32_t *);
    struct range (*range)(const float *, int32_t);
};

#define VARIANT(cpu)                                                                                         \
    {                                                                                                        \
#cpu, max_##cpu, weigh_##cpu, weigh_deep_##cpu, weigh_kept_##cpu, gather_##cpu, cut_##cpu,           \
            split_##cpu, block_##cpu, range_##cpu                                                            \
    }
static const struct variant variants[] = {
    VARIANT(best),
#if defined(__x86_64__)
    VARIANT(any),
#endif
};
enum { N_VARIANTS = sizeof variants / sizeof *variants };

/* A row with what a view has, and what it should come to. */
static float row[MOST], copy[MOST], copies[MOST], maxima[MOST_BLOCKS], plain_maxima[MOST_BLOCKS];
static float keys[MOST], found_keys[MOST], plain_keys[MOST];
static uint32_t weights[MOST], found_weights[MOST], plain_weights[MOST];
static int32_t places[MOST], plain_places[MOST];
static uint64_t sums[MOST_BLOCKS], plain_sums[MOST_BLOCKS];

static int32_t size_of_trial(int32_t trial)
{
    const double size = trial % 50 == 49 ? MOST : trial % 3 ? 300 : 5000;
    return trial < 130 ? trial + 1 : 1 + (int32_t)(uniform() * size);
}

/* ---- Plainly */

static float plain_max(int32_t n)
{
    float high = -INFINITY;
    for (int32_t i = 0; i < n; i++) {
        row[i] = row[i] != row[i] ? -INFINITY : row[i] > FLT_MAX ? FLT_MAX : row[i];
        plain_maxima[i / BLOCK] =
            i % BLOCK == 0 || row[i] > plain_maxima[i / BLOCK] ? row[i] : plain_maxima[i / BLOCK];
        high = row[i] > high ? row[i] : high;
    }
    return high;
}

static uint32_t plain_weight(const struct scale *by, float logit, uint64_t *depth)
{
    const float e = exact_exp2((logit - by->max) * (by->factor * LOG2E));
    const float d = (by->max - logit) * by->factor * e;
    *depth += e > 0 ? (uint64_t)(d * 0x1p30f + 0.5f) : 0;
    return (uint32_t)(e * 0x1p30f + 0.5f);
}

static float plain_key(const struct measure *m, float logit)
{
    return m->is_near ? -fabsf((m->scale.max - logit) * m->scale.factor - m->centre) : logit;
}

static int32_t same(const void *a, const void *b, size_t n)
{
    return n == 0 || memcmp(a, b, n) == 0;
}

/* Of equal zeros either sign will do. */
static int32_t same_maxima(int32_t n)
{
    int32_t differ = 0;
    for (int32_t b = 0; b * BLOCK < n; b++)
        differ |= maxima[b] != plain_maxima[b];
    return !differ;
}

static int32_t blocks_of(int32_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

/* ---- A view with a measure and a cut in it */

static struct view make_view(int32_t trial, struct measure *m, struct cut *c)
{
    static const float factors[] = {1, 1.25f, 0.2f, 3};
    const int32_t n = size_of_trial(trial);
    struct view v = {.logits = row, .n = n, .maxima = maxima, .scale = {.factor = factors[trial / 7 % 4]}};
    kinds_of_logits(row, n, trial % N_KINDS, INFINITY);
    v.scale.max = scan_max(row, n, maxima);
    *m = (struct measure){v.scale, trial & 1, trial >> 1 & 1, (float)(uniform() * 3)};
    const int32_t at = (int32_t)(uniform() * n);
    *c = (struct cut){plain_key(m, row[at]), (int32_t)(uniform() * n), -1, 0};
    v.by = *m;
    v.end = *c;
    return v;
}

static void the_highest_of_each_block_is_found(void)
{
    for (int32_t trial = 0; trial < TRIALS; trial++) {
        const int32_t n = size_of_trial(trial);
        kinds_of_logits(row, n, trial % N_KINDS, INFINITY);
        memcpy(copy, row, (size_t)n * sizeof *row);
        const float expected = plain_max(n);
        CU_ASSERT_EQUAL(scan_max(copy, n, maxima), expected);
        CU_ASSERT(same(copy, row, (size_t)n * sizeof *row));
        CU_ASSERT(same_maxima(n));
        for (int32_t i = 0; i < N_VARIANTS; i++) {
            CU_ASSERT_EQUAL(variants[i].max(row, n, maxima), expected);
            CU_ASSERT(same_maxima(n));
            row[n - 1] = NAN;
            CU_ASSERT_EQUAL(variants[i].max(row, n, NULL), INFINITY);
            row[n - 1] = copy[n - 1];
        }
    }
}

static void weights_and_their_sums_are_exact(void)
{
    for (int32_t trial = 0; trial < TRIALS; trial++) {
        struct measure m;
        struct cut c;
        struct view v = make_view(trial, &m, &c);
        uint64_t total = 0, depths = 0, kept = 0;
        memset(plain_sums, 0, sizeof plain_sums);
        for (int32_t i = 0; i < v.n; i++) {
            const uint32_t w = plain_weight(&v.scale, row[i], &depths);
            plain_sums[i / BLOCK] += w;
            total += w;
            kept += is_kept(c, plain_key(&m, row[i]), i) ? w : 0;
        }
        for (int32_t i = 0; i < N_VARIANTS; i++) {
            uint64_t depth = 0;
            CU_ASSERT_EQUAL(variants[i].weigh_kept(&v, sums), kept);
            CU_ASSERT_EQUAL(variants[i].weigh_deep(&v, sums, &depth), total);
            CU_ASSERT_EQUAL(depth, depths);
            CU_ASSERT(same(sums, plain_sums, (size_t)blocks_of(v.n) * sizeof *sums));
            CU_ASSERT_EQUAL(variants[i].weigh(&v, sums), total);
            CU_ASSERT(same(sums, plain_sums, (size_t)blocks_of(v.n) * sizeof *sums));
        }
    }
}

static void a_split_adds_up_and_takes_out(void)
{
    for (int32_t trial = 0; trial < TRIALS; trial++) {
        struct measure m;
        struct cut c;
        struct view v = make_view(trial, &m, &c);
        const float other = plain_key(&m, row[(int32_t)(uniform() * v.n)]);
        const struct range r = {fminf(c.key, other), trial % 5 ? fmaxf(c.key, other) : INFINITY};
        struct split expected = {0};
        int32_t n = 0;
        memset(plain_sums, 0, sizeof plain_sums);
        for (int32_t i = 0; i < v.n; i++) {
            uint64_t unused = 0;
            const float key = plain_key(&m, row[i]);
            const uint32_t w = m.is_rank ? row[i] > -INFINITY : plain_weight(&m.scale, row[i], &unused);
            expected.total += w;
            expected.above += key > r.high ? w : 0;
            expected.n_above += key > r.high;
            plain_sums[i / BLOCK] += key > r.high ? w : 0;
            plain_keys[n] = key;
            plain_weights[n] = w;
            plain_places[n] = i;
            n += key > r.low && key <= r.high;
        }
        for (int32_t i = 0; i < 2 * N_VARIANTS; i++) {
            struct part between = {found_keys, found_weights, places, 0};
            const struct split s = variants[i / 2].split(&v, &m, r, i % 2, sums, &between);
            CU_ASSERT(s.above == expected.above && s.n_above == expected.n_above && between.n == n);
            CU_ASSERT(i % 2 == 0 || s.total == expected.total);
            CU_ASSERT(same(sums, plain_sums, (size_t)blocks_of(v.n) * sizeof *sums));
            CU_ASSERT(same(found_keys, plain_keys, (size_t)n * sizeof *found_keys));
            CU_ASSERT(same(found_weights, plain_weights, (size_t)n * sizeof *found_weights));
            CU_ASSERT(same(places, plain_places, (size_t)n * sizeof *places));
        }
    }
}

static void what_a_cut_keeps_stays(void)
{
    for (int32_t trial = 0; trial < TRIALS; trial++) {
        struct measure m;
        struct cut c;
        struct view v = make_view(trial, &m, &c);
        int32_t n = 0;
        for (int32_t i = 0; i < v.n; i++) {
            const int32_t stays = is_kept(c, plain_key(&m, row[i]), i);
            copy[i] = stays ? row[i] : -INFINITY;
            plain_keys[n] = row[i];
            plain_places[n] = i;
            n += stays;
        }
        for (int32_t i = 0; i < N_VARIANTS; i++) {
            CU_ASSERT_EQUAL(variants[i].gather(&v, &m, &c, NULL, NULL), n);
            CU_ASSERT_EQUAL(variants[i].gather(&v, &m, &c, keys, places), n);
            CU_ASSERT(same(keys, plain_keys, (size_t)n * sizeof *keys));
            CU_ASSERT(same(places, plain_places, (size_t)n * sizeof *places));
        }
        for (int32_t i = 0; i < N_VARIANTS; i++) {
            memcpy(copies, row, (size_t)v.n * sizeof *copies);
            v.logits = copies;
            variants[i].cut(&v, &m, &c);
            CU_ASSERT(same(copies, copy, (size_t)v.n * sizeof *copy));
            scan_max(copy, v.n, plain_maxima);
            CU_ASSERT(same_maxima(v.n));
        }
    }
}

static void blocks_and_ranges_are_those_of_the_row(void)
{
    for (int32_t trial = 0; trial < TRIALS; trial++) {
        struct measure m;
        struct cut c;
        struct view v = make_view(trial, &m, &c);
        const int32_t b = (int32_t)(uniform() * blocks_of(v.n));
        const int32_t here = v.n - b * BLOCK < BLOCK ? v.n - b * BLOCK : BLOCK;
        struct range expected = {INFINITY, -INFINITY};
        for (int32_t i = 0; i < v.n; i++) {
            expected.low = fminf(expected.low, row[i]);
            expected.high = fmaxf(expected.high, row[i]);
        }
        for (int32_t i = 0; i < N_VARIANTS; i++) {
            CU_ASSERT_EQUAL(variants[i].block(&v, &m, b, keys, weights), here);
            for (int32_t k = 0; k < here; k++) {
                const float x = row[b * BLOCK + k];
                uint64_t unused = 0;
                CU_ASSERT_EQUAL(keys[k], plain_key(&m, x));
                CU_ASSERT_EQUAL(weights[k], m.is_rank ? x > -INFINITY : plain_weight(&m.scale, x, &unused));
            }
            const struct range r = variants[i].range(row, v.n);
            CU_ASSERT(r.low == expected.low && r.high == expected.high);
        }
    }
}

int main(void)
{
    static CU_TestInfo tests[] = {
        {"the_highest_of_each_block_is_found", the_highest_of_each_block_is_found},
        {"weights_and_their_sums_are_exact", weights_and_their_sums_are_exact},
        {"a_split_adds_up_and_takes_out", a_split_adds_up_and_takes_out},
        {"what_a_cut_keeps_stays", what_a_cut_keeps_stays},
        {"blocks_and_ranges_are_those_of_the_row", blocks_and_ranges_are_those_of_the_row},
        CU_TEST_INFO_NULL,
    };
    static CU_SuiteInfo suites[] = {{"passes", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    const int failed = CU_get_number_of_failures() > 0;
    CU_cleanup_registry();
    return failed;
}
