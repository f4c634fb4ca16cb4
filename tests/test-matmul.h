/* What the matrix product's tests and benchmark share: random weights, guarded memory, running a job on threads. */
#ifndef SHARPI_TEST_MATMUL_H
#define SHARPI_TEST_MATMUL_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugins/backend-cpu/matmul.h"

uint32_t random_u32(void);
void random_floats(float *dst, uint64_t n); /* -1 .. 1 */
/* n elements of a weight type: any codes, scales of ordinary size. */
void random_weights(int32_t type, uint8_t *dst, uint64_t n);
/* The same with every byte but the blocks' f16 (or e8m0) scales set to `byte`. */
void fill_codes(int32_t type, uint8_t *dst, uint64_t n, uint8_t byte);
/* Elements that share an activation scale; 1 for f32 activations. */
uint64_t act_block(int32_t type);

/* n bytes that end where a page begins that cannot be touched. data is NULL if there is no memory. */
struct guarded {
    uint8_t *data;
    void *pages;
    uint64_t n_bytes;
};
void guarded_alloc(struct guarded *g, uint64_t n);
void guarded_free(struct guarded *g);

/* A matrix with its packed copy, if any. */
struct prepared {
    struct matrix matrix;
    void *packed;
    struct guarded memory;
};
int prepare_matrix(struct prepared *p, int32_t type, const void *weights, uint64_t n_in, uint64_t n_out,
                   enum cpu_isa isa, uint32_t repack);
void free_prepared(struct prepared *p);
/* Runs a job on nth threads; *job->next is set to 0 first. */
void run_job(const struct matmul_job *job, uint32_t nth);

struct dequant_example {
    int32_t type;
    uint32_t n;
    const uint8_t *bytes;
    const float *floats;
};
extern const struct dequant_example dequant_examples[];
extern const uint32_t n_dequant_examples;

/* Prints bandwidth and rate per type; only the type of that name unless NULL. */
int bench_matmul(const char *only);

#endif
