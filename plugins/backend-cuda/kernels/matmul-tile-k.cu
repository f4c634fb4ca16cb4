/* The tile kernels (matmul-tile.cuh, matmul-wide.cuh) of the k types: a file of its own, so that they compile beside each other. */
#include "matmul-wide.cuh"

const struct tile_kernels *tile_kernels_k(int32_t type)
{
    switch (type) {
    case SHARPI_TYPE_Q2_K: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_Q2_K);
        return &k;
    }
    case SHARPI_TYPE_Q3_K: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_Q3_K);
        return &k;
    }
    case SHARPI_TYPE_Q4_K: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_Q4_K);
        return &k;
    }
    case SHARPI_TYPE_Q5_K: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_Q5_K);
        return &k;
    }
    case SHARPI_TYPE_Q6_K: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_Q6_K);
        return &k;
    }
    default:
        return nullptr;
    }
}

const struct wide_kernels *wide_kernels_k(int32_t type)
{
    switch (type) {
    case SHARPI_TYPE_Q2_K: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_Q2_K);
        return &k;
    }
    case SHARPI_TYPE_Q3_K: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_Q3_K);
        return &k;
    }
    case SHARPI_TYPE_Q4_K: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_Q4_K);
        return &k;
    }
    case SHARPI_TYPE_Q5_K: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_Q5_K);
        return &k;
    }
    case SHARPI_TYPE_Q6_K: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_Q6_K);
        return &k;
    }
    default:
        return nullptr;
    }
}
