/* The tile kernels (matmul-tile.cuh, matmul-wide.cuh) of 16-bit, 8-bit and 5-bit types: a file of its own, so that they compile beside each other. */
#include "matmul-wide.cuh"

const struct tile_kernels *tile_kernels_other(int32_t type)
{
    switch (type) {
    case SHARPI_TYPE_F16: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_F16);
        return &k;
    }
    case SHARPI_TYPE_BF16: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_BF16);
        return &k;
    }
    case SHARPI_TYPE_Q8_0: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_Q8_0);
        return &k;
    }
    case SHARPI_TYPE_Q5_0: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_Q5_0);
        return &k;
    }
    case SHARPI_TYPE_Q5_1: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_Q5_1);
        return &k;
    }
    default:
        return nullptr;
    }
}

const struct wide_kernels *wide_kernels_other(int32_t type)
{
    switch (type) {
    case SHARPI_TYPE_F16: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_F16);
        return &k;
    }
    case SHARPI_TYPE_BF16: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_BF16);
        return &k;
    }
    case SHARPI_TYPE_Q8_0: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_Q8_0);
        return &k;
    }
    case SHARPI_TYPE_Q5_0: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_Q5_0);
        return &k;
    }
    case SHARPI_TYPE_Q5_1: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_Q5_1);
        return &k;
    }
    default:
        return nullptr;
    }
}
