/* What tests of products share: checked calls of the CUDA runtime, random bits, and scales as the files have them. */
#ifndef SHARPI_TESTS_KERNELS_CUDA_RANDOM_CUH
#define SHARPI_TESTS_KERNELS_CUDA_RANDOM_CUH

#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call)                                                                                             \
    do {                                                                                                     \
        int e_ = (int)(call);                                                                                \
        if (e_) {                                                                                            \
            printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString((cudaError_t)e_));                  \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

namespace
{

/* Shared memory that a block may use, to try what smaller chips would run; 0: what the device has. */
int shared_limit()
{
    const char *limit = getenv("KERNELS_SHARED");
    return limit ? atoi(limit) : 0;
}

uint64_t random_state = 88172645463325252ull;

uint32_t random_bits() /* xorshift64 */
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

uint16_t half_of(float f) /* positive normal numbers of f16 */
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u >> 13) - (112 << 10));
}

} /* namespace */

#endif
