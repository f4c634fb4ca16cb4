/* The tile kernels (matmul-tile.cuh, matmul-wide.cuh) of the 4-bit types of 32-element blocks: a file of its own, so that they compile beside each other. */
#include "matmul-wide.cuh"

const struct tile_kernels *tile_kernels_4bit(int32_t type)
{
    switch (type) {
    case SHARPI_TYPE_Q4_0: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_Q4_0);
        return &k;
    }
    case SHARPI_TYPE_Q4_1: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_Q4_1);
        return &k;
    }
    case SHARPI_TYPE_IQ4_NL: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_IQ4_NL);
        return &k;
    }
    case SHARPI_TYPE_MXFP4: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_MXFP4);
        return &k;
    }
    case SHARPI_TYPE_IQ4_XS: {
        static const struct tile_kernels k = TILE_KERNELS(SHARPI_TYPE_IQ4_XS);
        return &k;
    }
    default:
        return nullptr;
    }
}

const struct wide_kernels *wide_kernels_4bit(int32_t type)
{
    switch (type) {
    case SHARPI_TYPE_Q4_0: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_Q4_0);
        return &k;
    }
    case SHARPI_TYPE_Q4_1: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_Q4_1);
        return &k;
    }
    case SHARPI_TYPE_IQ4_NL: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_IQ4_NL);
        return &k;
    }
    case SHARPI_TYPE_MXFP4: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_MXFP4);
        return &k;
    }
    case SHARPI_TYPE_IQ4_XS: {
        static const struct wide_kernels k = WIDE_KERNELS(SHARPI_TYPE_IQ4_XS);
        return &k;
    }
    default:
        return nullptr;
    }
}
