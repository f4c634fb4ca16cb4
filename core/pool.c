/* See pool.h. Three words change and are waited for: `run` (workers: a task is there), `done` (the caller: all
 * workers have returned) and `phase` (barrier: all have come). Waiting spins, then yields, then sleeps. */
#include "pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

enum {
    MAX_THREADS = 1024,
    AWAKE_NS = 50 * 1000, /* longer than the gap between two parallel regions of a forward pass */
    SPIN_NS =
        4 * 1000, /* then yielding: on an idle core as fast, on a busy one the one waited for may need it */
    CROWDED_SPIN_NS = 500, /* more threads than cores: it surely does */
    LOOK_EVERY = 32,       /* pauses between two looks at the clock */
};

struct worker {
    struct sharpi_pool *pool;
    pthread_t thread;
    uint32_t ith;
};

struct sharpi_pool {
    uint32_t n_threads;
    int64_t spin_ns;
    sharpi_task_fn *task; /* written by pool_run before `run` changes */
    void *arg;
    int32_t stop; /* likewise */
    struct worker *workers;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Lines of their own: workers poll one while others write the next. */
    alignas(64) _Atomic uint32_t run;
    alignas(64) _Atomic uint32_t done;
    alignas(64) _Atomic uint32_t unfinished; /* workers that have not returned from the task */
    alignas(64) _Atomic uint32_t phase;
    alignas(64) _Atomic uint32_t arrived;
    alignas(64) _Atomic uint32_t sleepers;
};

static void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Sleeping and waking cannot miss each other: the sleeper counts itself before it looks at the word, the waker changes the
 * word before it looks at the count, both sequentially consistent. */
static void sleep_while(struct sharpi_pool *pool, _Atomic uint32_t *word, uint32_t old)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(word) == old)
        pthread_cond_wait(&pool->changed, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void change(struct sharpi_pool *pool, _Atomic uint32_t *word, uint32_t value)
{
    atomic_store(word, value);
    if (atomic_load(&pool->sleepers) == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->lock);
}

/* Pauses until the word is not `old`, for about spin_ns. 1 if it changed. */
static int spin_while(struct sharpi_pool *pool, _Atomic uint32_t *word, uint32_t old, int64_t *start)
{
    for (uint32_t i = 1;; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old)
            return 1;
        if (i % LOOK_EVERY == 0) {
            int64_t now = now_ns();
            if (!*start)
                *start = now;
            else if (now - *start >= pool->spin_ns)
                return 0;
        }
        cpu_pause();
    }
}

static void wait_while(struct sharpi_pool *pool, _Atomic uint32_t *word, uint32_t old)
{
    int64_t start = 0;
    if (spin_while(pool, word, old, &start))
        return;
    do {
        sched_yield();
        if (atomic_load_explicit(word, memory_order_acquire) != old)
            return;
    } while (now_ns() - start < AWAKE_NS);
    sleep_while(pool, word, old);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct sharpi_pool *pool = worker->pool;
    for (uint32_t seen = 0;; seen++) {
        wait_while(pool, &pool->run, seen);
        if (pool->stop)
            return NULL;
        pool->task(pool->arg, worker->ith, pool->n_threads);
        if (atomic_fetch_sub_explicit(&pool->unfinished, 1, memory_order_acq_rel) == 1)
            change(pool, &pool->done, seen + 1);
    }
}

/* Cores that this process may use. */
static uint32_t allowed_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return MAX_THREADS;
    return (uint32_t)CPU_COUNT(&set);
}

static void stop_workers(struct sharpi_pool *pool, uint32_t n_workers)
{
    pool->stop = 1;
    change(pool, &pool->run, atomic_load(&pool->run) + 1);
    for (uint32_t i = 0; i < n_workers; i++)
        pthread_join(pool->workers[i].thread, NULL);
}

static int32_t start_workers(struct sharpi_pool *pool, struct sharpi_error *err)
{
    sigset_t all, old;
    uint32_t i;
    int status = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the application's threads */
    for (i = 0; i < pool->n_threads - 1; i++) {
        pool->workers[i].pool = pool;
        pool->workers[i].ith = i + 1;
        status = pthread_create(&pool->workers[i].thread, NULL, work, &pool->workers[i]);
        if (status)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!status)
        return SHARPI_OK;
    stop_workers(pool, i);
    return sharpi_fail(err, SHARPI_ENOMEM, "thread %u of %u cannot be started: %s", i + 2, pool->n_threads,
                       strerror(status));
}

int32_t sharpi_pool_create(uint32_t n_threads, struct sharpi_pool **out, struct sharpi_error *err)
{
    struct sharpi_pool *pool;
    int32_t status;
    *out = NULL;
    if (n_threads < 1 || n_threads > MAX_THREADS)
        return sharpi_fail(err, SHARPI_EINVAL, "a pool of %u threads is not possible: 1 to %d are", n_threads,
                           MAX_THREADS);
    pool = aligned_alloc(alignof(struct sharpi_pool), sizeof *pool);
    if (!pool)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a pool of %u threads", n_threads);
    memset(pool, 0, sizeof *pool);
    pool->n_threads = n_threads;
    pool->spin_ns = n_threads > allowed_cores() ? CROWDED_SPIN_NS : SPIN_NS;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->changed, NULL);
    pool->workers = calloc(n_threads, sizeof *pool->workers);
    status = pool->workers ? start_workers(pool, err)
                           : sharpi_fail(err, SHARPI_ENOMEM, "no memory for a pool of %u threads", n_threads);
    if (status) {
        pool->n_threads = 1; /* no worker runs */
        sharpi_pool_destroy(pool);
        return status;
    }
    *out = pool;
    return SHARPI_OK;
}

void sharpi_pool_destroy(struct sharpi_pool *pool)
{
    if (!pool)
        return;
    stop_workers(pool, pool->n_threads - 1);
    pthread_cond_destroy(&pool->changed);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}

uint32_t sharpi_pool_threads(const struct sharpi_pool *pool)
{
    return pool->n_threads;
}

void sharpi_pool_run(struct sharpi_pool *pool, sharpi_task_fn *task, void *arg)
{
    uint32_t seen;
    if (pool->n_threads == 1) {
        task(arg, 0, 1);
        return;
    }
    seen = atomic_load_explicit(&pool->run, memory_order_relaxed);
    pool->task = task;
    pool->arg = arg;
    atomic_store_explicit(&pool->unfinished, pool->n_threads - 1, memory_order_relaxed);
    change(pool, &pool->run, seen + 1);
    task(arg, 0, pool->n_threads);
    wait_while(pool, &pool->done, seen);
}

void sharpi_pool_barrier(struct sharpi_pool *pool)
{
    uint32_t phase;
    if (pool->n_threads == 1)
        return;
    phase = atomic_load_explicit(&pool->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) == pool->n_threads - 1) {
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        change(pool, &pool->phase, phase + 1);
    } else {
        wait_while(pool, &pool->phase, phase);
    }
}
