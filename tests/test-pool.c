/* The thread pool: every thread runs once, barriers separate phases, nothing is lost between spinning and sleeping, and more
 * threads than cores still make progress. With "--bench" it prints latencies instead. */
#include <CUnit/Basic.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/pool.h"

enum { MAX_THREADS = 8 };

struct counts {
    _Atomic uint32_t calls[MAX_THREADS];
    _Atomic uint32_t wrong;
    uint32_t nth;
    struct sharpi_pool *pool;
    uint32_t phases;
    /* Plain memory on purpose: only the pool's ordering makes this correct, and ThreadSanitizer would see it. */
    uint32_t slots[MAX_THREADS][16];
    uint64_t sum;
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void count(void *arg, uint32_t ith, uint32_t nth)
{
    struct counts *c = arg;
    if (ith >= nth || nth != c->nth)
        c->wrong++;
    else
        c->calls[ith]++;
}

static void every_thread_runs_once(void)
{
    for (uint32_t n = 1; n <= MAX_THREADS; n++) {
        struct counts c = {.nth = n};
        struct sharpi_pool *pool;
        CU_ASSERT_EQUAL_FATAL(sharpi_pool_create(n, &pool, NULL), SHARPI_OK);
        CU_ASSERT_EQUAL(sharpi_pool_threads(pool), n);
        for (uint32_t run = 0; run < 300; run++)
            sharpi_pool_run(pool, count, &c);
        for (uint32_t i = 0; i < n; i++)
            CU_ASSERT_EQUAL(c.calls[i], 300);
        CU_ASSERT_EQUAL(c.wrong, 0);
        sharpi_pool_destroy(pool);
    }
}

/* Each phase, a thread writes its slot and after the barrier reads all others'. */
static void exchange(void *arg, uint32_t ith, uint32_t nth)
{
    struct counts *c = arg;
    for (uint32_t phase = 1; phase <= c->phases; phase++) {
        c->slots[ith][0] = phase;
        sharpi_pool_barrier(c->pool);
        for (uint32_t i = 0; i < nth; i++) {
            if (c->slots[i][0] != phase)
                c->wrong++;
        }
        sharpi_pool_barrier(c->pool);
    }
}

static void barrier_separates_phases(void)
{
    for (uint32_t n = 1; n <= 4; n++) {
        struct counts c = {.nth = n, .phases = 500};
        CU_ASSERT_EQUAL_FATAL(sharpi_pool_create(n, &c.pool, NULL), SHARPI_OK);
        for (uint32_t run = 0; run < 4; run++)
            sharpi_pool_run(c.pool, exchange, &c);
        CU_ASSERT_EQUAL(c.wrong, 0);
        sharpi_pool_destroy(c.pool);
    }
}

static void add_slot(void *arg, uint32_t ith, uint32_t nth)
{
    struct counts *c = arg;
    (void)nth;
    c->slots[ith][0]++;
}

/* What tasks wrote is there when pool_run returns, and what the caller wrote is there in the task. */
static void results_are_visible_to_the_caller(void)
{
    struct counts c = {.nth = 4};
    CU_ASSERT_EQUAL_FATAL(sharpi_pool_create(4, &c.pool, NULL), SHARPI_OK);
    for (uint32_t run = 1; run <= 2000; run++) {
        sharpi_pool_run(c.pool, add_slot, &c);
        for (uint32_t i = 0; i < 4; i++)
            c.sum += c.slots[i][0];
    }
    CU_ASSERT_EQUAL(c.sum, 4ull * 2000 * 2001 / 2);
    sharpi_pool_destroy(c.pool);
}

/* Pauses around the spin time, so that workers are caught spinning, yielding, falling asleep and sleeping. */
static void no_run_is_lost_when_workers_fall_asleep(void)
{
    struct counts c = {.nth = 3};
    uint32_t runs = 0;
    CU_ASSERT_EQUAL_FATAL(sharpi_pool_create(3, &c.pool, NULL), SHARPI_OK);
    for (int64_t gap = 0; gap < 400000; gap += 1000, runs++) {
        int64_t end = now_ns() + gap;
        while (now_ns() < end)
            sched_yield();
        sharpi_pool_run(c.pool, count, &c);
    }
    for (uint32_t i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(c.calls[i], runs);
    sharpi_pool_destroy(c.pool);
}

static void uneven(void *arg, uint32_t ith, uint32_t nth)
{
    struct counts *c = arg;
    if (ith == nth - 1) {
        struct timespec t = {0, 3000000};
        nanosleep(&t, NULL); /* the others sleep in the barrier */
    }
    sharpi_pool_barrier(c->pool);
    count(arg, ith, nth);
}

static void waiting_for_a_slow_thread_ends(void)
{
    struct counts c = {.nth = 4};
    CU_ASSERT_EQUAL_FATAL(sharpi_pool_create(4, &c.pool, NULL), SHARPI_OK);
    for (uint32_t run = 0; run < 20; run++)
        sharpi_pool_run(c.pool, uneven, &c);
    for (uint32_t i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(c.calls[i], 20);
    sharpi_pool_destroy(c.pool);
}

/* 8 threads on however few cores: thousands of barriers within seconds, not minutes. */
static void more_threads_than_cores_do_not_collapse(void)
{
    struct counts c = {.nth = 8, .phases = 500};
    int64_t start = now_ns();
    CU_ASSERT_EQUAL_FATAL(sharpi_pool_create(8, &c.pool, NULL), SHARPI_OK);
    sharpi_pool_run(c.pool, exchange, &c);
    CU_ASSERT_EQUAL(c.wrong, 0);
    CU_ASSERT(now_ns() - start < 10000000000);
    sharpi_pool_destroy(c.pool);
}

static void idle_workers_use_no_processor_time(void)
{
    struct counts c = {.nth = 4};
    struct timespec pause = {0, 5000000}, longer = {0, 100000000}, before, after;
    CU_ASSERT_EQUAL_FATAL(sharpi_pool_create(4, &c.pool, NULL), SHARPI_OK);
    sharpi_pool_run(c.pool, count, &c);
    nanosleep(&pause, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    nanosleep(&longer, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    CU_ASSERT((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec < 20000000);
    sharpi_pool_destroy(c.pool);
}

static void impossible_sizes_are_refused(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_pool *pool;
    CU_ASSERT_EQUAL(sharpi_pool_create(0, &pool, &err), SHARPI_EINVAL);
    CU_ASSERT_PTR_NULL(pool);
    CU_ASSERT_EQUAL(sharpi_pool_create(1000000, &pool, &err), SHARPI_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.text, "a pool of 1000000 threads is not possible: 1 to 1024 are");
    sharpi_pool_destroy(NULL);
}

/* ---- Latencies, for people */

static void nothing(void *arg, uint32_t ith, uint32_t nth)
{
    (void)arg;
    (void)ith;
    (void)nth;
}

static void barriers(void *arg, uint32_t ith, uint32_t nth)
{
    struct counts *c = arg;
    (void)ith;
    (void)nth;
    for (uint32_t i = 0; i < c->phases; i++)
        sharpi_pool_barrier(c->pool);
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int bench(uint32_t n_threads)
{
    enum { RUNS = 20000 };
    static int64_t times[RUNS];
    struct counts c = {.nth = n_threads, .phases = RUNS};
    int64_t start;
    if (sharpi_pool_create(n_threads, &c.pool, NULL) != 0)
        return 1;
    for (uint32_t i = 0; i < RUNS; i++) {
        start = now_ns();
        sharpi_pool_run(c.pool, nothing, NULL);
        times[i] = now_ns() - start;
    }
    qsort(times, RUNS, sizeof *times, by_value);
    printf("%u threads: empty pool_run median %lld ns, 99%% %lld ns", n_threads, (long long)times[RUNS / 2],
           (long long)times[RUNS / 100 * 99]);
    start = now_ns();
    sharpi_pool_run(c.pool, barriers, &c);
    printf("; barrier mean %lld ns\n", (long long)((now_ns() - start) / RUNS));
    sharpi_pool_destroy(c.pool);
    return 0;
}

int main(int argc, char **argv)
{
    CU_pSuite suite;
    unsigned failures;
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench(1) | bench(2) | bench(4);
    if (CU_initialize_registry() != CUE_SUCCESS || !(suite = CU_add_suite("pool", NULL, NULL)))
        return 1;
    CU_ADD_TEST(suite, every_thread_runs_once);
    CU_ADD_TEST(suite, barrier_separates_phases);
    CU_ADD_TEST(suite, results_are_visible_to_the_caller);
    CU_ADD_TEST(suite, no_run_is_lost_when_workers_fall_asleep);
    CU_ADD_TEST(suite, waiting_for_a_slow_thread_ends);
    CU_ADD_TEST(suite, more_threads_than_cores_do_not_collapse);
    CU_ADD_TEST(suite, idle_workers_use_no_processor_time);
    CU_ADD_TEST(suite, impossible_sizes_are_refused);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
