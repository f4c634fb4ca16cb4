/* Kernel tables of the float formats, one per format and ISA; which of them exist depends on the compiler. */
#ifndef SHARPI_KV_FLOAT_H
#define SHARPI_KV_FLOAT_H

#include <sharpi/plugin/kv.h>

extern const struct sharpi_kv_cpu kv_f32_c, kv_f16_c, kv_bf16_c;
extern const struct sharpi_kv_cpu kv_f32_avx2, kv_f16_avx2, kv_bf16_avx2;
extern const struct sharpi_kv_cpu kv_f32_avx512, kv_f16_avx512, kv_bf16_avx512;

#endif
