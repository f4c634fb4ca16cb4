/* Which instruction set the kernels use: chosen once per device from CPUID and XGETBV, masked by SHARPI_CPU_ISA. */
#ifndef SHARPI_BACKEND_CPU_ISA_H
#define SHARPI_BACKEND_CPU_ISA_H

#include <stdint.h>

/* Levels, weakest first; a level includes all below it. The name in quotes is what SHARPI_CPU_ISA and the ini take. */
enum cpu_isa {
    CPU_ISA_SCALAR = 0,     /* "scalar": plain C, the reference for all others */
    CPU_ISA_AVX2 = 1,       /* "avx2": AVX2, FMA, F16C, BMI2 */
    CPU_ISA_AVX512 = 2,     /* "avx512": AVX-512 F, BW, DQ, VL and VNNI */
    CPU_ISA_AVX512BF16 = 3, /* "avx512bf16": the above and AVX512_BF16 */
    CPU_ISA_COUNT
};

/* The best level that CPU and operating system support. */
enum cpu_isa cpu_isa_detect(void);
const char *cpu_isa_name(enum cpu_isa isa);
/* Level of that name, or -1. */
int32_t cpu_isa_by_name(const char *name);

#endif
