/* Activations of gated units, as enum sharpi_activation. */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_EPILOGUE_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_EPILOGUE_CUH

#include <sharpi/plugin/graph.h>

static __device__ __forceinline__ float activate(int32_t activation, float z)
{
    switch (activation) {
    case SHARPI_ACT_SILU:
        return z / (1.0f + expf(-z));
    case SHARPI_ACT_GELU_TANH:
        return 0.5f * z * (1.0f + tanhf(0.7978845608028654f * (z + 0.044715f * z * z * z)));
    case SHARPI_ACT_GELU_ERF:
        return 0.5f * z * (1.0f + erff(z * 0.7071067811865476f));
    default: {
        float p = fmaxf(z, 0.0f);
        return p * p;
    }
    }
}

/* Not inlined: tiles call it for dozens of registers. */
static __device__ __noinline__ float gated(int32_t activation, float clamp, float gate, float up)
{
    if (clamp > 0) {
        gate = fminf(fmaxf(gate, -clamp), clamp);
        up = fminf(fmaxf(up, -clamp), clamp);
    }
    return activate(activation, gate) * up;
}

#endif
