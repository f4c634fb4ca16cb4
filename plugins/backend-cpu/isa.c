/* Finds the CPU's instruction set level from CPUID and, for the state that the system must save, XGETBV. */
#include "isa.h"

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* XCR0: which register files the operating system saves on a context switch. */
static uint64_t saved_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int has_all(uint32_t value, uint32_t bits)
{
    return (value & bits) == bits;
}

enum cpu_isa cpu_isa_detect(void)
{
    const uint32_t leaf1_ecx = bit_FMA | bit_AVX | bit_F16C | bit_OSXSAVE;
    const uint32_t leaf7_ebx = bit_AVX2 | bit_BMI2;
    const uint32_t avx512_ebx = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    uint32_t a, b, c, d, sub_leaves;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !has_all(c, leaf1_ecx))
        return CPU_ISA_SCALAR;
    uint64_t state = saved_state();
    if ((state & 0x6) != 0x6) /* xmm and ymm */
        return CPU_ISA_SCALAR;
    if (!__get_cpuid_count(7, 0, &sub_leaves, &b, &c, &d) || !has_all(b, leaf7_ebx))
        return CPU_ISA_SCALAR;
    /* opmask, upper halves of zmm0-15, zmm16-31 */
    if ((state & 0xe6) != 0xe6 || !has_all(b, avx512_ebx) || !has_all(c, bit_AVX512VNNI))
        return CPU_ISA_AVX2;
    if (sub_leaves < 1 || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !has_all(a, 1u << 5))
        return CPU_ISA_AVX512;
    return CPU_ISA_AVX512BF16;
}
#else
enum cpu_isa cpu_isa_detect(void)
{
    return CPU_ISA_SCALAR;
}
#endif

static const char *const isa_names[CPU_ISA_COUNT] = {"scalar", "avx2", "avx512", "avx512bf16"};

const char *cpu_isa_name(enum cpu_isa isa)
{
    return (uint32_t)isa < CPU_ISA_COUNT ? isa_names[isa] : "unknown";
}

int32_t cpu_isa_by_name(const char *name)
{
    for (int32_t i = 0; i < CPU_ISA_COUNT; i++)
        if (strcmp(name, isa_names[i]) == 0)
            return i;
    return -1;
}
