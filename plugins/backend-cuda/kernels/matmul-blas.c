/* cublasLt through dlopen: nothing of it is needed to load the backend, and without it our own kernels do the work.
 *
 * The algorithm for a shape is asked for once and kept; matmul_blas_run then only enqueues. One thread at a time. An
 * algorithm's first run loads its kernel, which takes 2 to 3 ms (asking takes 0.1 ms, but 40 the first time): short prompts of
 * nearly the same length share one, or each would wait for kernels that are hardly better than those that are there.
 */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#include <cublasLt.h>
#pragma GCC diagnostic pop
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "matmul-blas.h"

enum {
    BLAS_PLANS = 512,
    SHARED_ROWS = 512, /* up to so many rows algorithms are chosen for multiples of */
    ROWS_STEP = 32,
};

/* What an algorithm depends on. */
struct blas_key {
    uint64_t n_in, n_out, rows /* rounded up */, w_stride, x_stride, out_stride;
    int32_t is_f32, has_bias;
};

struct blas_plan {
    struct blas_key key;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulAlgo_t algorithm;
    uint64_t n_rows; /* that x and out have now */
    int known;       /* 1: algorithm is valid; -1: there is none */
};

struct matmul_blas {
    void *library;
    cublasLtHandle_t handle;
    struct blas_plan plans[BLAS_PLANS];
    uint32_t n_plans;
    cublasStatus_t (*create)(cublasLtHandle_t *);
    cublasStatus_t (*destroy)(cublasLtHandle_t);
    cublasStatus_t (*desc_create)(cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t);
    cublasStatus_t (*desc_destroy)(cublasLtMatmulDesc_t);
    cublasStatus_t (*desc_set)(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t);
    cublasStatus_t (*layout_create)(cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t, int64_t);
    cublasStatus_t (*layout_set)(cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, const void *,
                                 size_t);
    cublasStatus_t (*layout_destroy)(cublasLtMatrixLayout_t);
    cublasStatus_t (*preference_create)(cublasLtMatmulPreference_t *);
    cublasStatus_t (*preference_destroy)(cublasLtMatmulPreference_t);
    cublasStatus_t (*preference_set)(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                                     const void *, size_t);
    cublasStatus_t (*heuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t *, int *);
    cublasStatus_t (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *,
                             cublasLtMatrixLayout_t, const void *, cublasLtMatrixLayout_t, const void *,
                             const void *, cublasLtMatrixLayout_t, void *, cublasLtMatrixLayout_t,
                             const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t);
};

/* ---- Loading ---- */

static int load_function(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static int load_functions(struct matmul_blas *b)
{
    void *l = b->library;
    return load_function(l, "cublasLtCreate", &b->create) &&
           load_function(l, "cublasLtDestroy", &b->destroy) &&
           load_function(l, "cublasLtMatmulDescCreate", &b->desc_create) &&
           load_function(l, "cublasLtMatmulDescDestroy", &b->desc_destroy) &&
           load_function(l, "cublasLtMatmulDescSetAttribute", &b->desc_set) &&
           load_function(l, "cublasLtMatrixLayoutCreate", &b->layout_create) &&
           load_function(l, "cublasLtMatrixLayoutSetAttribute", &b->layout_set) &&
           load_function(l, "cublasLtMatrixLayoutDestroy", &b->layout_destroy) &&
           load_function(l, "cublasLtMatmulPreferenceCreate", &b->preference_create) &&
           load_function(l, "cublasLtMatmulPreferenceDestroy", &b->preference_destroy) &&
           load_function(l, "cublasLtMatmulPreferenceSetAttribute", &b->preference_set) &&
           load_function(l, "cublasLtMatmulAlgoGetHeuristic", &b->heuristic) &&
           load_function(l, "cublasLtMatmul", &b->matmul);
}

void *matmul_blas_library(void)
{
    void *library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    return library ? library : dlopen("libcublasLt.so.12", RTLD_NOW | RTLD_LOCAL);
}

void matmul_blas_library_close(void *library)
{
    if (library)
        dlclose(library);
}

struct matmul_blas *matmul_blas_open(void)
{
    struct matmul_blas *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->library = matmul_blas_library();
    if (b->library && load_functions(b) && b->create(&b->handle) == CUBLAS_STATUS_SUCCESS)
        return b;
    if (b->library)
        dlclose(b->library);
    free(b);
    return NULL;
}

static void plan_free(const struct matmul_blas *b, struct blas_plan *p)
{
    if (p->op)
        b->desc_destroy(p->op);
    if (p->w)
        b->layout_destroy(p->w);
    if (p->x)
        b->layout_destroy(p->x);
    if (p->out)
        b->layout_destroy(p->out);
    memset(p, 0, sizeof *p);
}

void matmul_blas_close(struct matmul_blas *b)
{
    if (!b)
        return;
    for (uint32_t i = 0; i < b->n_plans; i++)
        plan_free(b, &b->plans[i]);
    b->destroy(b->handle);
    dlclose(b->library);
    free(b);
}

/* ---- Plans. cublasLt thinks in columns: w is [n_in, n_out] transposed, x [n_in, n_rows], out [n_out, n_rows]. ---- */

static int plan_describe(const struct matmul_blas *b, struct blas_plan *p)
{
    const struct blas_key *k = &p->key;
    cudaDataType_t in = k->is_f32 ? CUDA_R_32F : CUDA_R_16BF;
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = k->has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;

    return b->desc_create(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           b->desc_set(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) ==
               CUBLAS_STATUS_SUCCESS &&
           b->desc_set(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) ==
               CUBLAS_STATUS_SUCCESS &&
           b->layout_create(&p->w, in, k->n_in, k->n_out, (int64_t)k->w_stride) == CUBLAS_STATUS_SUCCESS &&
           b->layout_create(&p->x, in, k->n_in, k->rows, (int64_t)k->x_stride) == CUBLAS_STATUS_SUCCESS &&
           b->layout_create(&p->out, CUDA_R_32F, k->n_out, k->rows, (int64_t)k->out_stride) ==
               CUBLAS_STATUS_SUCCESS;
}

static int plan_choose(const struct matmul_blas *b, struct blas_plan *p)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    size_t workspace = MATMUL_BLAS_WORKSPACE;
    int n = 0, ok;

    ok = b->preference_create(&preference) == CUBLAS_STATUS_SUCCESS &&
         b->preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                           sizeof workspace) == CUBLAS_STATUS_SUCCESS &&
         b->heuristic(b->handle, p->op, p->w, p->x, p->out, p->out, preference, 1, &result, &n) ==
             CUBLAS_STATUS_SUCCESS &&
         n > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    if (preference)
        b->preference_destroy(preference);
    if (ok)
        p->algorithm = result.algo;
    return ok;
}

static struct blas_plan *plan_get(struct matmul_blas *b, const struct blas_key *key)
{
    struct blas_plan *p;
    for (uint32_t i = 0; i < b->n_plans; i++)
        if (memcmp(&b->plans[i].key, key, sizeof *key) == 0)
            return &b->plans[i];
    if (b->n_plans == BLAS_PLANS) { /* more shapes than any model has: start again */
        for (uint32_t i = 0; i < b->n_plans; i++)
            plan_free(b, &b->plans[i]);
        b->n_plans = 0;
    }
    p = &b->plans[b->n_plans++];
    p->key = *key;
    p->known = plan_describe(b, p) && plan_choose(b, p) ? 1 : -1;
    p->n_rows = key->rows;
    return p;
}

static uint64_t rounded_rows(uint64_t n_rows)
{
    return n_rows > SHARED_ROWS ? n_rows : (n_rows + ROWS_STEP - 1) / ROWS_STEP * ROWS_STEP;
}

static int set_rows(const struct matmul_blas *b, struct blas_plan *p, uint64_t n_rows)
{
    if (p->n_rows == n_rows)
        return 1;
    p->n_rows = n_rows;
    return b->layout_set(p->x, CUBLASLT_MATRIX_LAYOUT_COLS, &n_rows, sizeof n_rows) ==
               CUBLAS_STATUS_SUCCESS &&
           b->layout_set(p->out, CUBLASLT_MATRIX_LAYOUT_COLS, &n_rows, sizeof n_rows) ==
               CUBLAS_STATUS_SUCCESS;
}

int matmul_blas_run(struct matmul_blas *b, const struct matmul_blas_call *c)
{
    struct blas_key key;
    const float one = 1, beta = c->add ? 1 : 0;
    struct blas_plan *p;

    memset(&key, 0, sizeof key);
    key.n_in = c->n_in;
    key.n_out = c->n_out;
    key.rows = rounded_rows(c->n_rows);
    key.w_stride = c->w_stride;
    key.x_stride = c->x_stride;
    key.out_stride = c->out_stride;
    key.is_f32 = c->is_f32;
    key.has_bias = c->bias != NULL;
    p = plan_get(b, &key);
    if (p->known < 0 || !set_rows(b, p, c->n_rows) ||
        (c->bias && b->desc_set(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &c->bias, sizeof c->bias) !=
                        CUBLAS_STATUS_SUCCESS))
        return -1;
    return b->matmul(b->handle, p->op, &one, c->w, p->w, c->x, p->x, &beta, c->out, p->out, c->out, p->out,
                     &p->algorithm, c->workspace, MATMUL_BLAS_WORKSPACE, c->stream) == CUBLAS_STATUS_SUCCESS
               ? 0
               : -1;
}
