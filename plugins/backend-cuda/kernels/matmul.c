/* Choice of kernel by type and number of rows. */
#include <stdlib.h>

#include "code.h"
#include "matmul-blas.h"
#include "matmul-internal.h"
#include "sequence.h"

/* ---- Context ---- */

static int read_device(struct matmul_context *ctx, const struct matmul_options *options)
{
    int major = 0, e;
    if ((e = (int)cudaDeviceGetAttribute(&ctx->n_sms, cudaDevAttrMultiProcessorCount, ctx->device)) ||
        (e = (int)cudaDeviceGetAttribute(&ctx->device_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                         ctx->device)) ||
        (e = code_compute_major(&major)))
        return e;
    ctx->shared_bytes = options->shared_bytes && options->shared_bytes < ctx->device_shared
                            ? options->shared_bytes
                            : ctx->device_shared;
    ctx->has_bulk = major >= 9;
    ctx->overlap = options->overlap && ctx->has_bulk;
    return 0;
}

int32_t matmul_context_create(struct matmul_context **out, const struct matmul_options *options,
                              int *has_blas, struct sharpi_error *err)
{
    struct matmul_context *ctx = calloc(1, sizeof *ctx);
    int e;

    if (!ctx)
        return sharpi_fail(err, SHARPI_ENOMEM, "cuda: out of host memory for the matrix products");
    ctx->device = options->device;
    ctx->gemv_blocks = 2;
    if ((e = read_device(ctx, options)) || (e = matmul_gemv_prepare(ctx)) || (e = matmul_f32_prepare()) ||
        (e = matmul_tile_prepare(ctx))) {
        free(ctx);
        return sharpi_fail(err, SHARPI_EDEVICE, "cuda: device %d cannot run the matrix products: %s",
                           options->device, cudaGetErrorString((cudaError_t)e));
    }
    if (options->blas)
        ctx->blas = matmul_blas_open();
    if (has_blas)
        *has_blas = ctx->blas != NULL;
    *out = ctx;
    return SHARPI_OK;
}

void matmul_context_destroy(struct matmul_context *ctx)
{
    if (!ctx)
        return;
#ifdef SEQUENCE_TRACE
    sequence_trace_print();
#endif
    matmul_blas_close(ctx->blas);
    free(ctx);
}

/* ---- What is wanted ---- */

enum act_format matmul_act_format(const struct cuda_matrix *m, uint32_t n_rows)
{
    if (m->type == SHARPI_TYPE_F32)
        return ACT_F32;
    if (n_rows > MATMUL_GEMV_ROWS)
        return ACT_BF16;
    return is_16_bit(m->type) ? ACT_F32 : ACT_Q8;
}

enum act_format matmul_grouped_act_format(const struct cuda_matrix *m, int32_t sorted)
{
    return matmul_act_format(m, sorted ? MATMUL_GEMV_ROWS + 1 : 1);
}

int matmul_can_glu(const struct matmul_context *ctx, const struct cuda_matrix *gate,
                   const struct cuda_matrix *up, uint32_t n_rows)
{
    if (gate->type == SHARPI_TYPE_F32 || up->type == SHARPI_TYPE_F32 || gate->n_out != up->n_out)
        return 0;
    if (n_rows <= MATMUL_GEMV_ROWS)
        return is_16_bit(gate->type) == is_16_bit(up->type);
    return gate->type == up->type && !matmul_large_is_better(ctx, gate, n_rows);
}

int matmul_grouped_can_glu(const struct cuda_matrix *gate, const struct cuda_matrix *up, int32_t sorted)
{
    if (gate->n_out != up->n_out)
        return 0;
    if (gate->type == up->type)
        return 1;
    return !sorted && gate->type != SHARPI_TYPE_F32 && up->type != SHARPI_TYPE_F32 &&
           is_16_bit(gate->type) == is_16_bit(up->type);
}

/* ---- Workspace: flags of the tile kernel, its partial sums, then cublasLt's own and the dequantized weights ---- */

uint64_t matmul_workspace_bytes(const struct matmul_context *ctx, const struct cuda_matrix *m,
                                uint32_t n_rows)
{
    if (n_rows <= MATMUL_GEMV_ROWS || (m->type == SHARPI_TYPE_F32 && !ctx->blas))
        return 0;
    return matmul_tile_workspace_bytes(ctx) + matmul_large_workspace_bytes(ctx, n_rows);
}

/* ---- Launch ---- */

static int launch_f32(const struct matmul_args *args, const struct matmul_part *part)
{
    int e = -1;
    if (matmul_large_is_better(args->ctx, part->w, args->n_rows))
        e = matmul_large_launch(args, part);
    return e == -1 ? matmul_f32_launch(args, part) : e;
}

/* Each run of parts of one type as one launch of the tile kernel, each large product on its own. */
static int launch_many_rows(const struct matmul_args *args)
{
    struct matmul_args some = *args;
    uint32_t done = 0;
    int e = 0;

    if (args->glu)
        return matmul_tile_launch(args);
    for (uint32_t i = 0; i < args->n_parts && !e; i++) {
        int32_t type = args->part[i].w->type;
        if (done >> i & 1)
            continue;
        if (matmul_large_is_better(args->ctx, args->part[i].w, args->n_rows)) {
            e = matmul_large_launch(args, &args->part[i]);
            if (e == -1) {
                some.n_parts = 1;
                some.part[0] = args->part[i];
                e = matmul_tile_launch(&some);
            }
            continue;
        }
        some.n_parts = 0;
        for (uint32_t j = i; j < args->n_parts; j++) {
            if (args->part[j].w->type != type ||
                matmul_large_is_better(args->ctx, args->part[j].w, args->n_rows))
                continue;
            some.part[some.n_parts++] = args->part[j];
            done |= 1u << j;
        }
        e = matmul_tile_launch(&some);
    }
    return e;
}

int matmul_launch(const struct matmul_args *args)
{
    struct matmul_args rest = *args;
    int e = 0;

    if (args->n_rows == 0 || args->n_parts == 0)
        return 0;
    if (args->n_parts > MATMUL_MAX_PARTS ||
        (args->glu &&
         (args->n_parts != 2 || !matmul_can_glu(args->ctx, args->part[0].w, args->part[1].w, args->n_rows))))
        return (int)cudaErrorInvalidValue;
    rest.n_parts = 0;
    for (uint32_t i = 0; i < args->n_parts && !e; i++) {
        if (args->part[i].w->type == SHARPI_TYPE_F32)
            e = launch_f32(args, &args->part[i]);
        else
            rest.part[rest.n_parts++] = args->part[i];
    }
    if (e || rest.n_parts == 0)
        return e;
    return args->n_rows <= MATMUL_GEMV_ROWS ? matmul_gemv_launch(&rest) : launch_many_rows(&rest);
}

int matmul_grouped_launch(const struct matmul_grouped_args *args)
{
    const struct cuda_matrix *m = args->part[0].w;

    if (args->n_pairs == 0)
        return 0;
    if (args->n_parts < 1 || args->n_parts > 2 || (args->n_parts == 2) != (args->glu != 0) ||
        (args->glu && !matmul_grouped_can_glu(m, args->part[1].w, args->sorted)))
        return (int)cudaErrorInvalidValue;
    if (m->type == SHARPI_TYPE_F32)
        return matmul_f32_grouped_launch(args);
    return args->sorted ? matmul_tile_grouped_launch(args) : matmul_gemv_grouped_launch(args);
}
