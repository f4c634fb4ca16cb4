/* Tests of the sampler: stages against naive double-precision references, the generator, penalties, strange logits. */
#include <sharpi/sampler.h>

#include <CUnit/Basic.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "random-logits.h"

enum { N = 3000 };

/* ---- reference: what is left after the stages, as probabilities of all tokens ---- */

static int32_t *order; /* ids, highest logit first, lowest id on a tie */
static const double *ordered_logits;

static int by_logit(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    if (ordered_logits[x] != ordered_logits[y])
        return ordered_logits[x] < ordered_logits[y] ? 1 : -1;
    return x < y ? -1 : x > y;
}

static void sort_order(const double *logits, int32_t n)
{
    ordered_logits = logits;
    for (int32_t i = 0; i < n; i++)
        order[i] = i;
    qsort(order, (size_t)n, sizeof *order, by_logit);
}

static void softmax(const double *logits, int32_t n, double *p)
{
    double max = -INFINITY, sum = 0;
    for (int32_t i = 0; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    for (int32_t i = 0; i < n; i++)
        sum += p[i] = exp(logits[i] - max);
    for (int32_t i = 0; i < n; i++)
        p[i] /= sum;
}

static void reference_stage(const char *stage, const struct sharpi_sampler_params *p, double *logits,
                            int32_t n)
{
    static double probability[N], distance[N];
    softmax(logits, n, probability);
    sort_order(logits, n);
    if (strcmp(stage, "top_k") == 0) {
        for (int32_t i = p->top_k; p->top_k > 0 && i < n; i++)
            logits[order[i]] = -INFINITY;
    } else if (strcmp(stage, "top_p") == 0) {
        double sum = 0;
        for (int32_t i = 0; i < n; i++) {
            if (sum >= (double)p->top_p && i >= p->min_keep)
                logits[order[i]] = -INFINITY;
            sum += probability[order[i]];
        }
    } else if (strcmp(stage, "min_p") == 0) {
        for (int32_t i = p->min_keep; i < n; i++)
            if (probability[order[i]] < (double)p->min_p * probability[order[0]])
                logits[order[i]] = -INFINITY;
    } else if (strcmp(stage, "temperature") == 0) {
        for (int32_t i = 0; i < n; i++)
            logits[i] /= (double)p->temperature;
    } else if (strcmp(stage, "typical_p") == 0) {
        double entropy = 0, sum = 0;
        for (int32_t i = 0; i < n; i++)
            entropy -= probability[i] > 0 ? probability[i] * log(probability[i]) : 0;
        for (int32_t i = 0; i < n; i++)
            distance[i] = -fabs(-log(probability[i]) - entropy);
        sort_order(distance, n);
        for (int32_t i = 0; i < n; i++) {
            if (sum > (double)p->typical_p && i >= p->min_keep)
                logits[order[i]] = -INFINITY;
            sum += probability[order[i]];
        }
    } else if (strcmp(stage, "xtc") == 0) { /* at probability 1 */
        int32_t last = -1;
        for (int32_t i = 0; i < n && probability[order[i]] >= (double)p->xtc_threshold; i++)
            last = i;
        for (int32_t i = 0; i < last; i++)
            logits[order[i]] = -INFINITY;
    }
}

static void reference(const char *chain, const struct sharpi_sampler_params *p, const float *from, int32_t n,
                      double *probability)
{
    static double logits[N];
    char copy[256], *rest = NULL;
    for (int32_t i = 0; i < n; i++)
        logits[i] = (double)from[i];
    snprintf(copy, sizeof copy, "%s", chain);
    for (char *stage = strtok_r(copy, ";", &rest); stage; stage = strtok_r(NULL, ";", &rest))
        reference_stage(stage, p, logits, n);
    softmax(logits, n, probability);
}

/* ---- helpers ---- */

static struct sharpi_sampler *make(const struct sharpi_sampler_params *p, int32_t n)
{
    struct sharpi_sampler *s = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = sharpi_sampler_create(p, n, &s, &err);
    if (status != SHARPI_OK)
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_EQUAL_FATAL(status, SHARPI_OK);
    return s;
}

static struct sharpi_sampler_params plain(const char *chain)
{
    struct sharpi_sampler_params p;
    sharpi_sampler_params_init(&p);
    p.chain = chain;
    p.temperature = 1;
    return p;
}

static void accept_all(struct sharpi_sampler *s, const int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        CU_ASSERT_EQUAL(sharpi_sampler_accept(s, ids[i], NULL), SHARPI_OK);
}

static int32_t sample_copy(struct sharpi_sampler *s, const float *logits, int32_t n)
{
    static float copy[1 << 18];
    memcpy(copy, logits, (size_t)n * sizeof *copy);
    return sharpi_sampler_sample(s, copy, n);
}

/* Draws often and compares frequencies with the reference; no token outside its support may come up. */
static void check_distribution(const struct sharpi_sampler_params *p, const float *logits, int32_t n)
{
    static double expected[N];
    static int32_t seen[N];
    enum { DRAWS = 4000 };
    struct sharpi_sampler *s = make(p, n);
    double difference = 0, spread = 0;
    reference(p->chain, p, logits, n, expected);
    memset(seen, 0, sizeof seen);
    for (int32_t i = 0; i < DRAWS; i++) {
        int32_t id = sample_copy(s, logits, n);
        CU_ASSERT_FATAL(id >= 0 && id < n);
        seen[id]++;
    }
    int32_t strangers = 0;
    for (int32_t i = 0; i < n; i++) {
        strangers += seen[i] > 0 && expected[i] == 0;
        difference += fabs((double)seen[i] / DRAWS - expected[i]);
        spread +=
            sqrt(2 / 3.141592653589793 * expected[i] * (1 - expected[i]) / DRAWS); /* mean of |deviation| */
    }
    CU_ASSERT_EQUAL(strangers, 0);
    if (difference > 1.3 * spread + 0.02)
        fprintf(stderr, "%s: difference %g, expected about %g\n", p->chain, difference, spread);
    CU_ASSERT(difference <= 1.3 * spread + 0.02);
    sharpi_sampler_destroy(s);
}

static void stages_agree_with_the_reference(void)
{
    static const char *const chains[] = {"",
                                         "top_k",
                                         "top_p",
                                         "min_p",
                                         "typical_p",
                                         "xtc",
                                         "temperature",
                                         "top_k;top_p;min_p;temperature",
                                         "top_k;typical_p",
                                         "min_p;top_p",
                                         "temperature;top_p",
                                         "top_k;xtc;temperature",
                                         "min_p;top_k;typical_p",
                                         "top_p;xtc",
                                         "xtc;top_p"};
    static float logits[N];
    for (size_t c = 0; c < sizeof chains / sizeof chains[0]; c++) {
        for (int32_t trial = 0; trial < 3; trial++) {
            struct sharpi_sampler_params p = plain(chains[c]);
            int32_t n = trial == 0 ? 7 : trial == 1 ? 301 : N;
            p.seed = c * 10 + (uint64_t)trial;
            p.top_k = trial == 0 ? 3 : 20;
            p.top_p = 0.8f;
            p.min_p = 0.1f;
            p.typical_p = 0.7f;
            p.xtc_probability = 1;
            p.xtc_threshold = 0.05f;
            p.temperature = strstr(chains[c], "temperature") ? 0.7f : 1;
            p.min_keep = trial + 1;
            random_logits(logits, n, trial == 2 ? 1 + (double)(c % 3) * 2 : 3);
            check_distribution(&p, logits, n);
        }
    }
}

/* ---- exact reference: every chain by sorting, token by token ---- */

struct exact {
    float logit;
    int32_t id;
    uint64_t weight;
    float nearness;
};

static int exact_by_logit(const void *a, const void *b)
{
    const struct exact *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int exact_by_id(const void *a, const void *b)
{
    const struct exact *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int exact_by_nearness(const void *a, const void *b)
{
    const struct exact *x = a, *y = b;
    if (x->nearness != y->nearness)
        return x->nearness > y->nearness ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Weights of a list that is sorted by logit; returns their sum. *mean: of the depth below the highest. */
static uint64_t exact_weigh(struct exact *list, int32_t n, float factor, float *mean)
{
    uint64_t total = 0, depths = 0;
    for (int32_t i = 0; i < n; i++) {
        float w = exact_exp2((list[i].logit - list[0].logit) * (factor * 1.44269504088896341f));
        float depth = (list[0].logit - list[i].logit) * factor * w;
        total += list[i].weight = (uint64_t)(w * 0x1p30f + 0.5f);
        depths += w > 0 ? (uint64_t)(depth * 0x1p30f + 0.5f) : 0;
    }
    *mean = (float)((double)depths / (double)total);
    return total;
}

/* How many of the list, in its order, reach a weight. */
static int32_t exact_reach(const struct exact *list, int32_t n, uint64_t reach)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += list[i].weight;
        if (sum >= reach)
            return i + 1;
    }
    return n;
}

static int32_t most(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* One stage on a list sorted by logit, which it leaves sorted; returns how many are left. */
static int32_t exact_stage(const char *stage, const struct sharpi_sampler_params *p, struct exact *list,
                           int32_t n, float *factor)
{
    float mean;
    uint64_t total = exact_weigh(list, n, *factor, &mean);
    int32_t kept = n;
    if (strcmp(stage, "top_k") == 0) {
        kept = p->top_k > 0 ? p->top_k : n;
    } else if (strcmp(stage, "top_p") == 0 && p->top_p < 1) {
        kept = most(exact_reach(list, n, (uint64_t)ceil((double)p->top_p * (double)total)), p->min_keep);
    } else if (strcmp(stage, "min_p") == 0 && p->min_p > 0) {
        for (kept = 0;
             kept < n && list[kept].logit >= list[0].logit + (float)log((double)p->min_p) / *factor;)
            kept++;
        kept = most(kept, p->min_keep);
    } else if (strcmp(stage, "typical_p") == 0 && p->typical_p < 1) {
        for (int32_t i = 0; i < n; i++)
            list[i].nearness = fabsf((list[0].logit - list[i].logit) * *factor - mean);
        qsort(list, (size_t)n, sizeof *list, exact_by_nearness);
        kept = exact_reach(list, n, (uint64_t)((double)p->typical_p * (double)total) + 1);
        kept = most(kept, p->min_keep);
        kept = kept < n ? kept : n;
        qsort(list, (size_t)kept, sizeof *list, exact_by_logit);
    } else if (strcmp(stage, "xtc") == 0) { /* at probability 1 */
        int32_t drop = 0;
        while (drop < n && list[drop].weight > 0 &&
               (double)list[drop].weight >= (double)p->xtc_threshold * (double)total)
            drop++;
        drop = most(drop - 1, 0);
        drop = n - drop < p->min_keep ? 0 : drop;
        memmove(list, list + drop, (size_t)(n - drop) * sizeof *list);
        kept = n - drop;
    } else if (strcmp(stage, "temperature") == 0 && p->temperature != 1) {
        *factor = 1 / p->temperature;
    }
    return kept < n ? kept : n;
}

/* The token for a random number from 0 to 1. */
static int32_t exact_sample(const struct sharpi_sampler_params *p, const float *logits, int32_t n,
                            double random, struct exact *list)
{
    char copy[256], *rest = NULL;
    float factor = 1, mean;
    int32_t left = 0;
    for (int32_t i = 0; i < n; i++) {
        if (logits[i] > -INFINITY)
            list[left++] = (struct exact){.logit = logits[i] < FLT_MAX ? logits[i] : FLT_MAX, .id = i};
    }
    qsort(list, (size_t)left, sizeof *list, exact_by_logit);
    snprintf(copy, sizeof copy, "%s", p->chain);
    for (char *stage = strtok_r(copy, ";", &rest); stage; stage = strtok_r(NULL, ";", &rest))
        left = exact_stage(stage, p, list, left, &factor);
    uint64_t total = exact_weigh(list, left, factor, &mean), wanted = (uint64_t)(random * (double)total);
    qsort(list, (size_t)left, sizeof *list, exact_by_id);
    return list[exact_reach(list, left, wanted + 1) - 1].id;
}

/* The generator's first number for a seed, or its second. */
static double random_of(uint64_t seed, int32_t is_second)
{
    uint64_t s[4];
    for (int32_t i = 0; i < 4; i++) {
        uint64_t z = seed += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        s[i] = z ^ z >> 31;
    }
    if (is_second) /* all that it takes of the state */
        s[1] ^= s[2] ^ s[0];
    return (double)((((s[1] * 5) << 7 | (s[1] * 5) >> 57) * 9) >> 11) * 0x1p-53;
}

static void check_exactly(int32_t trial, float *logits, int32_t n, struct exact *list)
{
    static const char *const chains[] = {"",
                                         "top_k",
                                         "top_p",
                                         "min_p",
                                         "typical_p",
                                         "temperature",
                                         "temperature;top_p",
                                         "top_k;typical_p;top_p;min_p;temperature",
                                         "typical_p;temperature;top_p",
                                         "temperature;typical_p",
                                         "min_p;top_k;top_p",
                                         "top_p;temperature;min_p",
                                         "temperature;top_k",
                                         "typical_p;top_k;top_p",
                                         "xtc;temperature",
                                         "top_p;xtc;temperature",
                                         "xtc;typical_p;top_p"};
    static const float temperatures[] = {0.3f, 0.8f, 1, 1.5f, 5};
    struct sharpi_sampler_params p = plain(chains[(size_t)(uniform() * (sizeof chains / sizeof *chains))]);
    p.seed = (uint64_t)trial;
    p.temperature = strstr(p.chain, "temperature") ? temperatures[(int32_t)(uniform() * 5)] : 1;
    p.top_k = trial % 3 ? 1 + (int32_t)(uniform() * 300) : 1 + (int32_t)(uniform() * n);
    p.top_p = trial % 5 ? (float)uniform() : 0.98f;
    p.typical_p = (float)uniform();
    p.min_p = (float)(uniform() * uniform() * 0.3);
    p.min_keep = trial % 4 ? 1 : 1 + (int32_t)(uniform() * 700);
    p.xtc_probability = 1;
    p.xtc_threshold = (float)(uniform() * uniform() * 0.2);
    kinds_of_logits(logits, n, trial % N_KINDS, -INFINITY);
    int32_t expected = exact_sample(&p, logits, n, random_of(p.seed, strstr(p.chain, "xtc") != NULL), list);
    struct sharpi_sampler *s = make(&p, n);
    int32_t id = sharpi_sampler_sample(s, logits, n);
    CU_ASSERT_EQUAL(id, expected);
    if (id != expected)
        fprintf(stderr, "trial %d, chain '%s', n %d: %d instead of %d\n", trial, p.chain, n, id, expected);
    sharpi_sampler_destroy(s);
}

static void every_token_is_that_of_sorting_everything(void)
{
    enum { BIG = 300000, TRIALS = 6000 };
    float *logits = malloc(BIG * sizeof *logits);
    struct exact *list = malloc(BIG * sizeof *list);
    CU_ASSERT_FATAL(logits && list);
    for (int32_t trial = 0; trial < TRIALS; trial++) {
        const double size = trial % 200 == 199 ? BIG : trial % 20 == 0 ? 30000 : trial % 2 ? 2000 : 70;
        check_exactly(trial, logits, 1 + (int32_t)(uniform() * size), list);
    }
    free(logits);
    free(list);
}

/* Blocks of 64 of which each 32nd is looked at for an estimate, and these are unlike the others. */
static void a_misleading_sample_only_costs_time(void)
{
    enum { BIG = 262144 };
    float *logits = malloc(BIG * sizeof *logits), *copy = malloc(BIG * sizeof *copy);
    struct exact *list = malloc(BIG * sizeof *list);
    CU_ASSERT_FATAL(logits && copy && list);
    for (int32_t trial = 0; trial < 16; trial++) {
        struct sharpi_sampler_params p = plain(trial & 1 ? "typical_p" : "top_p");
        p.seed = (uint64_t)trial;
        p.top_p = p.typical_p = trial & 4 ? 0.9f : 0.3f;
        for (int32_t i = 0; i < BIG; i++) {
            const int32_t is_sample = i / 64 % 32 == 0;
            const double centre = is_sample == (trial >> 1 & 1) ? -1 : -3;
            logits[i] = i % 64 == 0 ? 0 : (float)(centre + uniform() * 0.2);
        }
        memcpy(copy, logits, BIG * sizeof *copy);
        struct sharpi_sampler *s = make(&p, BIG);
        CU_ASSERT_EQUAL(sharpi_sampler_sample(s, copy, BIG),
                        exact_sample(&p, logits, BIG, random_of(p.seed, 0), list));
        sharpi_sampler_destroy(s);
    }
    free(logits);
    free(copy);
    free(list);
}

static void greedy_takes_the_highest_and_lowest_id_on_a_tie(void)
{
    static float logits[N];
    struct sharpi_sampler_params p;
    sharpi_sampler_params_init(&p);
    p.temperature = 0;
    struct sharpi_sampler *s = make(&p, N);
    for (int32_t trial = 0; trial < 200; trial++) {
        int32_t n = 1 + (int32_t)(uniform() * N), best = 0;
        random_logits(logits, n, 1);
        for (int32_t i = 0; i < n; i++)
            logits[i] = roundf(logits[i] * 8); /* many ties */
        for (int32_t i = 1; i < n; i++)
            best = logits[i] > logits[best] ? i : best;
        CU_ASSERT_EQUAL(sample_copy(s, logits, n), best);
    }
    sharpi_sampler_destroy(s);
}

static void top_k_keeps_low_ids_on_a_tie(void)
{
    float logits[100] = {0};
    struct sharpi_sampler_params p = plain("top_k");
    p.top_k = 5;
    struct sharpi_sampler *s = make(&p, 100);
    logits[50] = 1;
    for (int32_t i = 0; i < 500; i++) {
        int32_t id = sample_copy(s, logits, 100);
        CU_ASSERT(id < 4 || id == 50);
    }
    sharpi_sampler_destroy(s);
}

static void same_seed_same_tokens_and_known_ones(void)
{
    static float logits[N];
    /* Recorded once: these must never change, on any processor or compiler. */
    static const int32_t known[8] = {253, 1115, 2062, 2748, 2979, 2330, 2181, 2556};
    struct sharpi_sampler_params p;
    sharpi_sampler_params_init(&p);
    p.seed = 42;
    p.top_k = 0;
    p.min_p = 0;
    p.temperature = 1.5f;
    random_state = 7;
    random_logits(logits, N, 4);
    struct sharpi_sampler *a = make(&p, N), *b = make(&p, N);
    for (int32_t i = 0; i < 8; i++) {
        int32_t id = sample_copy(a, logits, N);
        CU_ASSERT_EQUAL(id, sample_copy(b, logits, N));
        CU_ASSERT_EQUAL(id, known[i]);
        if (id != known[i])
            fprintf(stderr, "draw %d is %d\n", i, id);
    }
    sharpi_sampler_destroy(a);
    sharpi_sampler_destroy(b);
}

static void reset_and_clone_repeat_the_tokens(void)
{
    static float logits[N];
    int32_t first[50];
    struct sharpi_sampler_params p;
    struct sharpi_sampler *copy = NULL;
    sharpi_sampler_params_init(&p);
    p.seed = 9;
    p.repeat_penalty = 1.3f;
    p.penalty_last_n = 10;
    p.dry_multiplier = 0.8f;
    p.xtc_probability = 0.5f;
    random_logits(logits, N, 6);
    struct sharpi_sampler *s = make(&p, N);
    for (int32_t i = 0; i < 50; i++) {
        if (i == 20)
            CU_ASSERT_EQUAL_FATAL(sharpi_sampler_clone(s, &copy, NULL), SHARPI_OK);
        first[i] = sample_copy(s, logits, N);
        accept_all(s, &first[i], 1);
    }
    for (int32_t i = 20; i < 50; i++) {
        CU_ASSERT_EQUAL(sample_copy(copy, logits, N), first[i]);
        accept_all(copy, &first[i], 1);
    }
    sharpi_sampler_reset(s);
    for (int32_t i = 0; i < 50; i++) {
        CU_ASSERT_EQUAL(sample_copy(s, logits, N), first[i]);
        accept_all(s, &first[i], 1);
    }
    sharpi_sampler_destroy(s);
    sharpi_sampler_destroy(copy);
}

static void penalties_count_their_window(void)
{
    enum { V = 6 };
    float logits[V], before[V];
    int32_t history[40];
    for (int32_t last_n = -1; last_n < 12; last_n++) {
        struct sharpi_sampler_params p = plain("penalties");
        p.penalty_last_n = last_n;
        p.repeat_penalty = 1.5f;
        p.frequency_penalty = 0.25f;
        p.presence_penalty = 0.125f;
        struct sharpi_sampler *s = make(&p, V);
        random_logits(before, V, 3);
        for (int32_t i = 0; i < 40; i++)
            history[i] = (int32_t)(uniform() * V);
        accept_all(s, history, 40);
        memcpy(logits, before, sizeof logits);
        sharpi_sampler_sample(s, logits, V);
        for (int32_t id = 0; id < V; id++) {
            int32_t count = 0;
            for (int32_t i = last_n < 0 ? 0 : 40 - last_n; i < 40; i++)
                count += history[i] == id;
            float x = before[id];
            if (count > 0)
                x = (x > 0 ? x / 1.5f : x * 1.5f) - (float)count * 0.25f - 0.125f;
            CU_ASSERT_DOUBLE_EQUAL((double)logits[id], (double)x, 1e-5);
        }
        sharpi_sampler_destroy(s);
    }
}

/* DRY by its definition: for each earlier place, how far do the tokens before it agree with the end? */
static void reference_dry(const struct sharpi_sampler_params *p, const int32_t *h, int32_t n, int32_t breaker,
                          double *penalty, int32_t n_vocab)
{
    for (int32_t id = 0; id < n_vocab; id++)
        penalty[id] = 0;
    for (int32_t next = 1; next < n; next++) {
        int32_t length = 0;
        while (length < next && h[next - 1 - length] == h[n - 1 - length] && h[n - 1 - length] != breaker)
            length++;
        if (length < p->dry_allowed_length || h[next] == breaker)
            continue;
        double value = (double)p->dry_multiplier * pow((double)p->dry_base, length - p->dry_allowed_length);
        penalty[h[next]] = value > penalty[h[next]] ? value : penalty[h[next]];
    }
}

static void dry_agrees_with_its_definition(void)
{
    enum { V = 6, LENGTH = 30 };
    float logits[V];
    double penalty[V];
    int32_t history[LENGTH], breaker = 5;
    for (int32_t trial = 0; trial < 300; trial++) {
        struct sharpi_sampler_params p = plain("dry");
        p.dry_multiplier = 0.5f;
        p.dry_allowed_length = 1 + trial % 3;
        p.dry_breakers = &breaker;
        p.n_dry_breakers = 1;
        struct sharpi_sampler *s = make(&p, V);
        for (int32_t i = 0; i < LENGTH; i++)
            history[i] = (int32_t)(uniform() * (trial % 2 ? V : 3));
        if (trial % 7 == 0) /* a real repeat */
            memmove(history + 20, history + 3, 10 * sizeof *history);
        accept_all(s, history, LENGTH);
        memset(logits, 0, sizeof logits);
        sharpi_sampler_sample(s, logits, V);
        reference_dry(&p, history, LENGTH, breaker, penalty, V);
        for (int32_t id = 0; id < V; id++)
            CU_ASSERT_DOUBLE_EQUAL((double)logits[id], -penalty[id], 1e-4 * (1 + penalty[id]));
        sharpi_sampler_destroy(s);
    }
}

static void bias_forbids_forces_and_names_a_wrong_id(void)
{
    float logits[10] = {0};
    struct sharpi_logit_bias bias[2] = {{3, 5}, {4, -INFINITY}};
    struct sharpi_sampler_params p = plain("bias");
    struct sharpi_sampler *s;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    p.bias = bias;
    p.n_bias = 2;
    p.temperature = 0;
    s = make(&p, 10);
    logits[4] = 100;
    CU_ASSERT_EQUAL(sample_copy(s, logits, 10), 3);
    sharpi_sampler_destroy(s);
    bias[1].id = 10;
    CU_ASSERT_EQUAL(sharpi_sampler_create(&p, 10, &s, &err), SHARPI_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "token 10"));
    CU_ASSERT_PTR_NULL(s);
}

static void strange_logits_are_survived(void)
{
    static float logits[N];
    static const char *const chains[] = {
        SHARPI_SAMPLER_CHAIN,      "", "top_p", "min_p", "typical_p", "xtc", "temperature;typical_p;xtc",
        "top_k;penalties;dry;bias"};
    for (size_t c = 0; c < sizeof chains / sizeof chains[0]; c++) {
        struct sharpi_sampler_params p = plain(chains[c]);
        p.typical_p = 0.5f;
        p.xtc_probability = 1;
        p.temperature = 0.01f;
        p.repeat_penalty = 2;
        struct sharpi_sampler *s = make(&p, N);
        accept_all(s, (const int32_t[]){1, 2, 1, 2, 1}, 5);
        for (int32_t i = 0; i < N; i++)
            logits[i] = i % 2 ? NAN : -INFINITY;
        CU_ASSERT_EQUAL(sample_copy(s, logits, N), -1);
        logits[17] = -3e38f;
        CU_ASSERT_EQUAL(sample_copy(s, logits, N), 17);
        logits[1200] = INFINITY;
        CU_ASSERT_EQUAL(sample_copy(s, logits, N), 1200);
        for (int32_t i = 0; i < N; i++)
            logits[i] = INFINITY;
        CU_ASSERT(sample_copy(s, logits, N) >= 0);
        CU_ASSERT_EQUAL(sample_copy(s, logits, 1), 0);
        CU_ASSERT_EQUAL(sharpi_sampler_sample(s, logits, N + 1), -1);
        CU_ASSERT_EQUAL(sharpi_sampler_sample(s, logits, 0), -1);
        sharpi_sampler_destroy(s);
    }
}

static void large_vocabularies_agree_with_sorting(void)
{
    enum { BIG = 200000 };
    float *logits = malloc(BIG * sizeof *logits);
    double *sorted = malloc(BIG * sizeof *sorted);
    free(order);
    order = malloc(BIG * sizeof *order);
    for (int32_t trial = 0; trial < 3; trial++) {
        static const int32_t ks[] = {40, 1000, 50000};
        struct sharpi_sampler_params p = plain("top_k");
        p.top_k = ks[trial];
        random_logits(logits, BIG, 0.01); /* flat: every rank comes up */
        for (int32_t i = 0; i < BIG; i++)
            sorted[i] = (double)logits[i];
        sort_order(sorted, BIG);
        double limit = sorted[order[ks[trial] - 1]];
        struct sharpi_sampler *s = make(&p, BIG);
        for (int32_t i = 0; i < 100; i++)
            CU_ASSERT((double)logits[sample_copy(s, logits, BIG)] >= limit);
        sharpi_sampler_destroy(s);
    }
    free(logits);
    free(sorted);
}

static void logprobs_are_those_of_the_softmax(void)
{
    static float logits[N];
    static double values[N], probability[N];
    struct sharpi_logprob top[20];
    float chosen;
    random_logits(logits, N, 4);
    for (int32_t i = 0; i < N; i++)
        values[i] = (double)logits[i];
    softmax(values, N, probability);
    sort_order(values, N);
    CU_ASSERT_EQUAL(sharpi_logits_top(logits, N, 20, top, 123, &chosen), 20);
    CU_ASSERT_DOUBLE_EQUAL((double)chosen, log(probability[123]), 1e-4);
    for (int32_t i = 0; i < 20; i++) {
        CU_ASSERT_EQUAL(top[i].id, order[i]);
        CU_ASSERT_DOUBLE_EQUAL((double)top[i].logprob, log(probability[order[i]]), 1e-4);
    }
    CU_ASSERT_EQUAL(sharpi_logits_top(logits, 5, 20, top, -1, NULL), 5);
}

static int32_t fails(struct sharpi_sampler_params p, const char *words)
{
    struct sharpi_sampler *s = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = sharpi_sampler_create(&p, 10, &s, &err);
    if (status == SHARPI_EINVAL && !s && strstr(err.text, words))
        return 1;
    fprintf(stderr, "status %d: %s\n", status, err.text);
    sharpi_sampler_destroy(s);
    return 0;
}

static void wrong_parameters_are_named(void)
{
    struct sharpi_sampler_params p = plain(NULL);
    p.top_p = 1.5f;
    CU_ASSERT(fails(p, "top_p = 1.5"));
    p = plain(NULL);
    p.temperature = NAN;
    CU_ASSERT(fails(p, "temperature"));
    p = plain(NULL);
    p.top_k = -1;
    CU_ASSERT(fails(p, "top_k = -1"));
    CU_ASSERT(fails(plain("top_k;topp"), "did you mean 'top_p'"));
    CU_ASSERT(fails(plain("top_k;whatever_this_is"), "the stages are"));
    CU_ASSERT(fails(plain("top_k;min_p;top_k"), "named twice"));
    CU_ASSERT_EQUAL(sharpi_sampler_check_chain(" top_k ; temperature; ", NULL), SHARPI_OK);
}

static void ids_out_of_range_are_refused(void)
{
    struct sharpi_sampler_params p = plain(NULL);
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_sampler *s = make(&p, 10);
    CU_ASSERT_EQUAL(sharpi_sampler_accept(s, 10, &err), SHARPI_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "token 10"));
    CU_ASSERT_EQUAL(sharpi_sampler_accept(s, -1, NULL), SHARPI_EINVAL);
    sharpi_sampler_destroy(s);
}

int main(void)
{
    static CU_TestInfo tests[] = {
        {"stages_agree_with_the_reference", stages_agree_with_the_reference},
        {"every_token_is_that_of_sorting_everything", every_token_is_that_of_sorting_everything},
        {"a_misleading_sample_only_costs_time", a_misleading_sample_only_costs_time},
        {"greedy_takes_the_highest_and_lowest_id_on_a_tie", greedy_takes_the_highest_and_lowest_id_on_a_tie},
        {"top_k_keeps_low_ids_on_a_tie", top_k_keeps_low_ids_on_a_tie},
        {"same_seed_same_tokens_and_known_ones", same_seed_same_tokens_and_known_ones},
        {"reset_and_clone_repeat_the_tokens", reset_and_clone_repeat_the_tokens},
        {"penalties_count_their_window", penalties_count_their_window},
        {"dry_agrees_with_its_definition", dry_agrees_with_its_definition},
        {"bias_forbids_forces_and_names_a_wrong_id", bias_forbids_forces_and_names_a_wrong_id},
        {"strange_logits_are_survived", strange_logits_are_survived},
        {"large_vocabularies_agree_with_sorting", large_vocabularies_agree_with_sorting},
        {"logprobs_are_those_of_the_softmax", logprobs_are_those_of_the_softmax},
        {"wrong_parameters_are_named", wrong_parameters_are_named},
        {"ids_out_of_range_are_refused", ids_out_of_range_are_refused},
        CU_TEST_INFO_NULL,
    };
    static CU_SuiteInfo suites[] = {{"sampler", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    order = malloc(N * sizeof *order);
    if (!order || CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() > 0;
    CU_cleanup_registry();
    free(order);
    return failed;
}
