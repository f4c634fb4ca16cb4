/* The benchmark of test-attention (--bench); apart, because it checks nothing. */
#ifndef SHARPI_TESTS_ATTENTION_BENCH_H
#define SHARPI_TESTS_ATTENTION_BENCH_H

#include "kv-plugins.h"

/* Prints decode GB/s and prefill GFLOP/s of each format and ISA on 1 .. max_threads threads. */
void attention_bench(const struct kv_formats *formats, uint32_t max_threads);

#endif
