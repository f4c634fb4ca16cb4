/* The page cache against a model of what lies in the pages: every position that a sequence looks at must hold the row that
 * was computed after exactly its tokens, whatever was shared, copied, given up, cut or overwritten before.
 */
#include <stdlib.h>
#include <string.h>

#include <CUnit/Basic.h>

#include "core/prefix-tree.h"

enum { MAX_CLASSES = 3, MAX_PAGES = 64, MAX_SEQS = 4, CONTEXT = 640 };

/* A row's content stands for all tokens up to its position. */
struct world {
    struct sharpi_kv_class classes[MAX_CLASSES];
    uint32_t n_classes, n_seqs, headroom;
    struct sharpi_kv_pages *pages;
    struct sharpi_prefix_tree *tree;
    uint64_t rows[MAX_CLASSES][MAX_PAGES][SHARPI_KV_PAGE];
    uint32_t copies, fail_copy;
    struct runner {
        struct sharpi_kv_seq *seq;
        struct sharpi_prefix_cursor cursor;
        int32_t tokens[CONTEXT];
        uint64_t content[CONTEXT]; /* of the row at each position */
        uint32_t length;           /* computed */
    } runners[MAX_SEQS];
};

static uint32_t random_below(uint32_t *state, uint32_t n)
{
    *state = *state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(*state >> 8) * n >> 24);
}

static void fill_content(struct runner *r)
{
    uint64_t hash = 1469598103934665603u;
    for (uint32_t i = 0; i < CONTEXT; i++)
        r->content[i] = hash = (hash ^ (uint64_t)(r->tokens[i] + 1)) * 1099511628211u;
}

static int32_t copy_page(void *user, uint32_t c, int32_t from, int32_t to, struct sharpi_error *err)
{
    struct world *world = user;
    if (world->fail_copy)
        return sharpi_fail(err, SHARPI_EDEVICE, "no copy today");
    memcpy(world->rows[c][to], world->rows[c][from], sizeof world->rows[c][to]);
    world->copies++;
    return SHARPI_OK;
}

static void world_open(struct world *world, const uint32_t *windows, uint32_t n_classes, uint32_t context,
                       uint32_t headroom, uint32_t n_seqs)
{
    struct sharpi_kv_hooks hooks = {.user = world, .copy = copy_page};
    memset(world, 0, sizeof *world);
    world->n_classes = n_classes;
    world->n_seqs = n_seqs;
    world->headroom = headroom;
    for (uint32_t c = 0; c < n_classes; c++) {
        uint32_t ring = sharpi_kv_ring(context, windows[c], headroom);
        world->classes[c] = (struct sharpi_kv_class){windows[c], ring, ring / SHARPI_KV_PAGE * n_seqs};
        CU_ASSERT_FATAL(world->classes[c].n_pages <= MAX_PAGES);
    }
    CU_ASSERT_FATAL(sharpi_kv_pages_create(world->classes, n_classes, n_seqs, &world->pages, NULL) == 0);
    CU_ASSERT_FATAL(sharpi_prefix_tree_create(world->pages, &hooks, &world->tree, NULL) == 0);
    for (uint32_t i = 0; i < n_seqs; i++)
        CU_ASSERT_FATAL(sharpi_kv_seq_create(world->pages, &world->runners[i].seq, NULL) == 0);
}

static void world_check(struct world *world)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = sharpi_kv_pages_check(world->pages, &err);
    if (!status)
        status = sharpi_prefix_tree_check(world->tree, &err);
    CU_ASSERT(status == 0);
    if (status)
        fprintf(stderr, "%s\n", err.text);
}

static void world_close(struct world *world)
{
    struct sharpi_kv_counts counts;
    for (uint32_t i = 0; i < world->n_seqs; i++) {
        sharpi_prefix_leave(&world->runners[i].cursor);
        sharpi_kv_seq_destroy(world->runners[i].seq);
    }
    sharpi_prefix_tree_clear(world->tree);
    world_check(world);
    for (uint32_t c = 0; c < world->n_classes; c++) {
        sharpi_kv_pages_count(world->pages, c, &counts);
        CU_ASSERT(counts.free == counts.n_pages);
    }
    sharpi_prefix_tree_destroy(world->tree);
    sharpi_kv_pages_destroy(world->pages);
}

/* Rows that the step's tokens look at, read as a kernel does. Returns how many are wrong. */
static uint32_t wrong_rows(const struct world *world, const struct runner *r, uint32_t from, uint32_t to)
{
    uint32_t c, position, low, wrong = 0;
    for (c = 0; c < world->n_classes; c++) {
        const struct sharpi_kv_class *shape = &world->classes[c];
        low = shape->window && from >= shape->window ? from - shape->window + 1 : 0;
        for (position = low; position < to; position++) {
            uint32_t slot = position % shape->ring;
            int32_t page = sharpi_kv_seq_table(r->seq, c)[slot / SHARPI_KV_PAGE];
            wrong += page < 0 || world->rows[c][page][slot % SHARPI_KV_PAGE] != r->content[position];
        }
    }
    return wrong;
}

/* One step of n tokens: extend, append, look. */
static int32_t run(struct world *world, struct runner *r, uint32_t n, struct sharpi_error *err)
{
    int32_t status = sharpi_kv_seq_extend(r->seq, n, err);
    if (r->length == 0)
        fill_content(r);
    if (status)
        return status;
    for (uint32_t c = 0; c < world->n_classes; c++) {
        for (uint32_t p = r->length; p < r->length + n; p++) {
            uint32_t slot = p % world->classes[c].ring;
            int32_t page = sharpi_kv_seq_table(r->seq, c)[slot / SHARPI_KV_PAGE];
            CU_ASSERT_FATAL(page >= 0 && sharpi_kv_page_seqs(world->pages, c, page) == 1);
            world->rows[c][page][slot % SHARPI_KV_PAGE] = r->content[p];
        }
    }
    CU_ASSERT(wrong_rows(world, r, r->length, r->length + n) == 0);
    r->length += n;
    return SHARPI_OK;
}

static void run_all(struct world *world, struct runner *r, uint32_t to, uint32_t chunk)
{
    while (r->length < to) {
        uint32_t n = to - r->length < chunk ? to - r->length : chunk;
        CU_ASSERT_FATAL(run(world, r, n, NULL) == 0);
        sharpi_prefix_add(world->tree, r->seq, r->tokens, &r->cursor);
    }
}

static void finish(struct world *world, struct runner *r)
{
    sharpi_prefix_finish(world->tree, r->seq, r->tokens, &r->cursor);
    CU_ASSERT(sharpi_kv_seq_truncate(r->seq, 0, NULL) == 0);
    r->length = 0;
}

static struct sharpi_prefix_match start(struct world *world, struct runner *r, uint32_t n)
{
    struct sharpi_prefix_match match;
    fill_content(r);
    sharpi_prefix_match(world->tree, r->tokens, n, n - 1, &match);
    CU_ASSERT_FATAL(sharpi_prefix_fork(world->tree, &match, r->seq, &r->cursor, NULL) == 0);
    r->length = match.length;
    CU_ASSERT(r->length == 0 || wrong_rows(world, r, r->length, r->length) == 0);
    return match;
}

static void count_up(int32_t *tokens, uint32_t n, int32_t first)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = first + (int32_t)i;
}

static void second_turn_takes_all_of_the_first(void)
{
    static const uint32_t windows[] = {0, 100};
    struct world world;
    struct sharpi_prefix_match match;
    struct sharpi_kv_counts counts;
    struct runner *r = world.runners;
    world_open(&world, windows, 2, 640, 192, 2);
    count_up(r[0].tokens, 640, 1000);
    r[0].cursor.keep_at = 400;
    run_all(&world, &r[0], 500, 64); /* 292 = 64 * 4 + 36: the ring of 320 has turned */
    finish(&world, &r[0]);
    memcpy(r[1].tokens, r[0].tokens, sizeof r[0].tokens);
    match = start(&world, &r[1], 600);
    CU_ASSERT(match.known == 500 && match.length == 500);
    sharpi_kv_pages_count(world.pages, 0, &counts);
    CU_ASSERT(counts.active == 8 && counts.cached == 0);
    run_all(&world, &r[1], 600, 64);
    CU_ASSERT(world.copies == 2); /* the partly filled page of each class */
    world_check(&world);
    world_close(&world);
}

static void sequences_of_one_prefix_hold_it_once(void)
{
    static const uint32_t windows[] = {0};
    struct world world;
    struct sharpi_kv_counts counts;
    struct runner *r = world.runners;
    world_open(&world, windows, 1, 640, 640, 3);
    for (uint32_t i = 0; i < 3; i++) {
        count_up(r[i].tokens, 640, 7);
        r[i].tokens[300] = 9000 + (int32_t)i;
    }
    run_all(&world, &r[0], 400, 50);
    CU_ASSERT(start(&world, &r[1], 400).length == 300);
    run_all(&world, &r[1], 400, 50);
    run_all(&world, &r[2], 400, 50); /* started from nothing: full pages are found to be the same */
    sharpi_kv_pages_count(world.pages, 0, &counts);
    CU_ASSERT(counts.shared == 4); /* 256 of 300 positions */
    CU_ASSERT(counts.active == 4 + 3 * 3);
    world_check(&world);
    world_close(&world);
}

static void window_that_was_given_up_limits_the_reuse(void)
{
    static const uint32_t windows[] = {0, 64};
    struct world world;
    struct sharpi_prefix_match match;
    struct runner *r = world.runners;
    world_open(&world, windows, 2, 640, 64, 1); /* a ring of 2 pages for one sequence: nothing to spare */
    count_up(r[0].tokens, 640, 1);
    run_all(&world, &r[0], 500, 32);
    finish(&world, &r[0]);
    sharpi_prefix_match(world.tree, r[0].tokens, 200, 199, &match);
    CU_ASSERT(match.known == 200 && match.length < 199);
    sharpi_prefix_match(world.tree, r[0].tokens, 600, 599, &match);
    CU_ASSERT(match.known == 500 && match.length == 500);
    world_close(&world);
}

static void ends_of_prompts_and_turns_outlive_other_window_pages(void)
{
    static const uint32_t windows[] = {0, 64};
    struct world world;
    struct sharpi_prefix_match match;
    struct runner *r = world.runners;
    world_open(&world, windows, 2, 640, 192, 2); /* 8 window pages in all */
    count_up(r[0].tokens, 640, 1);
    r[0].cursor.keep_at = 200;
    run_all(&world, &r[0], 330, 64);
    finish(&world, &r[0]);
    count_up(r[1].tokens, 640, 5000);
    run_all(&world, &r[1], 600, 64); /* another one comes by and wants room */
    sharpi_prefix_match(world.tree, r[0].tokens, 640, 639, &match);
    CU_ASSERT(match.length == 330);
    r[0].tokens[200] = 0; /* the answer is to be another one */
    sharpi_prefix_match(world.tree, r[0].tokens, 640, 639, &match);
    CU_ASSERT(match.known == 200 && match.length == 200);
    r[0].tokens[100] = 0;
    sharpi_prefix_match(world.tree, r[0].tokens, 640, 639, &match);
    CU_ASSERT(match.known == 100 && match.length < 100); /* what nobody marked is gone */
    world_check(&world);
    world_close(&world);
}

static void ring_of_one_page_forks_only_where_one_page_is_enough(void)
{
    static const uint32_t windows[] = {0, 16};
    struct world world;
    struct sharpi_prefix_match match;
    struct runner *r = world.runners;
    world_open(&world, windows, 2, 640, 32, 3);
    count_up(r[0].tokens, 640, 1);
    run_all(&world, &r[0], 128, 32); /* steps end where pages end, so each page is whole at some time */
    sharpi_prefix_match(world.tree, r[0].tokens, 100, 85, &match);
    CU_ASSERT(match.length == 85);
    sharpi_prefix_match(world.tree, r[0].tokens, 100, 70, &match); /* looks at 55 to 69 */
    CU_ASSERT(match.length == 64);
    finish(&world, &r[0]);
    world_close(&world);
}

static void failed_copy_changes_nothing(void)
{
    static const uint32_t windows[] = {0};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct world world;
    struct runner *r = world.runners;
    world_open(&world, windows, 1, 640, 640, 2);
    count_up(r[0].tokens, 640, 1);
    count_up(r[1].tokens, 640, 1);
    run_all(&world, &r[0], 100, 50);
    finish(&world, &r[0]);
    CU_ASSERT(start(&world, &r[1], 200).length == 100);
    world.fail_copy = 1;
    CU_ASSERT(run(&world, &r[1], 10, &err) == SHARPI_EDEVICE);
    CU_ASSERT(sharpi_kv_seq_length(r[1].seq) == 100 && wrong_rows(&world, &r[1], 100, 100) == 0);
    world_check(&world);
    world.fail_copy = 0;
    run_all(&world, &r[1], 200, 50);
    world_close(&world);
}

static int32_t take_page(void *user, uint32_t c, uint32_t index)
{
    struct world *world = user;
    int32_t page = c == 1 && index == 0 ? -1 : sharpi_kv_page_take(world->pages, c);
    for (uint32_t i = 0; page >= 0 && i < SHARPI_KV_PAGE; i++)
        world->rows[c][page][i] = world->runners[0].content[index * SHARPI_KV_PAGE + i];
    return page;
}

static void saved_prefix_is_taken_like_a_computed_one(void)
{
    static const uint32_t windows[] = {0, 64};
    struct world world;
    struct runner *r = world.runners;
    world_open(&world, windows, 2, 640, 256, 2);
    count_up(r[0].tokens, 640, 1);
    fill_content(&r[0]);
    CU_ASSERT(sharpi_prefix_insert(world.tree, r[0].tokens, 200, take_page, &world, NULL) == 0);
    world_check(&world);
    CU_ASSERT(start(&world, &r[0], 300).length == 200);
    run_all(&world, &r[0], 300, 64);
    CU_ASSERT(sharpi_prefix_insert(world.tree, r[0].tokens, 640, take_page, &world, NULL) == 0);
    world_check(&world);
    world_close(&world);
}

static void accounts_that_do_not_add_up_are_found(void)
{
    static const uint32_t windows[] = {0};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct world world;
    int32_t page;
    world_open(&world, windows, 1, 640, 640, 1);
    page = sharpi_kv_page_take(world.pages, 0);
    CU_ASSERT(sharpi_kv_pages_check(world.pages, &err) == 0);
    CU_ASSERT(sharpi_prefix_tree_check(world.tree, &err) == SHARPI_EBUG);
    sharpi_kv_page_unhold(world.pages, 0, page);
    CU_ASSERT(sharpi_prefix_tree_check(world.tree, &err) == 0);
    sharpi_kv_page_unhold(world.pages, 0, page); /* once too often */
    CU_ASSERT(sharpi_kv_pages_check(world.pages, &err) == SHARPI_EBUG);
    sharpi_kv_seq_destroy(world.runners[0].seq);
    sharpi_prefix_tree_destroy(world.tree);
    sharpi_kv_pages_destroy(world.pages);
}

/* ---- Anything, in any order */

/* Tokens from few families, so that prefixes meet. */
static void random_tokens(struct runner *r, uint32_t *state)
{
    uint32_t at = 0, i;
    while (at < CONTEXT) {
        uint32_t n = 1 + random_below(state, 150);
        int32_t family = (int32_t)random_below(state, 2) * 1000;
        for (i = 0; i < n && at < CONTEXT; i++, at++)
            r->tokens[at] = family + (int32_t)at;
    }
}

/* Back to anywhere that is still possible; what follows is another text, which is not added. */
static void random_cut(struct world *world, struct runner *r, uint32_t *state)
{
    uint32_t back = r->length - random_below(state, r->length < 80 ? r->length : 80);
    if (sharpi_kv_seq_truncate(r->seq, back, NULL))
        return;
    sharpi_prefix_leave(&r->cursor);
    r->cursor.off = 1;
    r->length = back;
    for (uint32_t i = back; i < CONTEXT; i++)
        r->tokens[i] ^= 0x10000;
    fill_content(r);
    CU_ASSERT(wrong_rows(world, r, back, back) == 0);
}

static void random_action(struct world *world, uint32_t chunk, uint32_t *state, uint64_t *reused)
{
    struct runner *r = &world->runners[random_below(state, world->n_seqs)];
    uint32_t n = 1 + random_below(state, chunk), action = random_below(state, 100), back;
    world->fail_copy = random_below(state, 50) == 0;
    if (r->length == 0) {
        random_tokens(r, state);
        *reused += start(world, r, 1 + random_below(state, CONTEXT - 1)).length;
        r->cursor.keep_at = random_below(state, CONTEXT);
    }
    if (r->length && action < 4) {
        finish(world, r);
    } else if (r->length && action < 6) { /* goes without a trace */
        sharpi_prefix_leave(&r->cursor);
        CU_ASSERT(sharpi_kv_seq_truncate(r->seq, 0, NULL) == 0);
        r->length = 0;
    } else if (r->length && action < 16) {
        random_cut(world, r, state);
    } else if (r->length + n <= CONTEXT) {
        int32_t status = run(world, r, n, NULL);
        if (!status && action < 80) {
            sharpi_prefix_add(world->tree, r->seq, r->tokens, &r->cursor);
        } else if (!status) { /* the step failed after all */
            back = sharpi_kv_seq_rollback(r->seq, r->length - n);
            if (back == 0)
                sharpi_prefix_leave(&r->cursor);
            r->length = back;
            CU_ASSERT(back == 0 || wrong_rows(world, r, back, back) == 0);
        }
    }
    for (r = world->runners; r < world->runners + world->n_seqs; r++)
        CU_ASSERT(r->length == 0 || wrong_rows(world, r, r->length, r->length) == 0);
}

static void whatever_happens_every_row_is_the_right_one(void)
{
    static const struct {
        uint32_t windows[MAX_CLASSES], n, context, headroom, chunk, n_seqs, limit;
    } cases[] = {
        {{0}, 1, 640, 640, 100, 4, 0},          {{0, 64}, 2, 640, 192, 100, 4, 0},
        {{0, 16}, 2, 640, 32, 32, 3, 0},        {{16, 100}, 2, 640, 64, 64, 4, 0},
        {{0, 16, 200}, 3, 640, 100, 64, 2, 0},  {{0, 64}, 2, 640, 64, 64, 1, 0},
        {{0, 64, 100}, 3, 640, 128, 64, 4, 12}, {{0}, 1, 640, 640, 64, 3, 11},
        {{48}, 1, 640, 48, 48, 2, 0},
    };
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t state = 12345 + i, step;
        uint64_t reused = 0;
        struct world *world = malloc(sizeof *world);
        CU_ASSERT_FATAL(world != NULL);
        world_open(world, cases[i].windows, cases[i].n, cases[i].context, cases[i].headroom, cases[i].n_seqs);
        sharpi_kv_pages_limit(world->pages, cases[i].limit);
        for (step = 0; step < 4000; step++) {
            random_action(world, cases[i].chunk, &state, &reused);
            world_check(world);
        }
        fprintf(stderr, "case %u: %llu tokens reused, %u pages copied, %llu given up\n", i,
                (unsigned long long)reused, world->copies,
                (unsigned long long)sharpi_prefix_tree_evicted(world->tree));
        CU_ASSERT(reused > 0);
        world_close(world);
        free(world);
    }
}

int main(void)
{
    unsigned failures;
    CU_pSuite suite;
    CU_initialize_registry();
    suite = CU_add_suite("prefix-tree", NULL, NULL);
    CU_add_test(suite, "second turn takes all of the first", second_turn_takes_all_of_the_first);
    CU_add_test(suite, "sequences of one prefix hold it once", sequences_of_one_prefix_hold_it_once);
    CU_add_test(suite, "window that was given up limits the reuse",
                window_that_was_given_up_limits_the_reuse);
    CU_add_test(suite, "ends of prompts and turns outlive other window pages",
                ends_of_prompts_and_turns_outlive_other_window_pages);
    CU_add_test(suite, "ring of one page forks only where one page is enough",
                ring_of_one_page_forks_only_where_one_page_is_enough);
    CU_add_test(suite, "failed copy changes nothing", failed_copy_changes_nothing);
    CU_add_test(suite, "saved prefix is taken like a computed one",
                saved_prefix_is_taken_like_a_computed_one);
    CU_add_test(suite, "accounts that do not add up are found", accounts_that_do_not_add_up_are_found);
    CU_add_test(suite, "whatever happens every row is the right one",
                whatever_happens_every_row_is_the_right_one);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
