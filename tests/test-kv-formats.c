/* The KV formats of the plugins kv-float and kv-q8_0: rounding, edge values, and every instruction set
 * against plain C. */
#include <math.h>

#include <CUnit/Basic.h>

#include "kv-plugins.h"
#include "plugins/backend-cpu/isa.h"

#define GUARD 0xa5

static struct kv_formats formats;

static uint32_t random_bits(void)
{
    static uint64_t state = 0x2545f4914f6cdd1du;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static float random_float(void)
{
    return ((float)(random_bits() >> 8) * 0x1p-23f - 1.0f) * 3.0f;
}

/* The format's table for a level, which this CPU may run. */
static const struct sharpi_kv_cpu *kernels(const struct kv_format *format, enum cpu_isa isa)
{
    return format->kv->kernels(format->ctx, "cpu", cpu_isa_name(isa));
}

#define FOR_EACH_ISA(isa) for (enum cpu_isa isa = CPU_ISA_SCALAR; isa <= cpu_isa_detect(); isa++)

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Elements through append, 16 at a time, so that vector kernels use their vectors. */
static uint16_t encode_16_bits(const struct sharpi_kv_cpu *cpu, float x)
{
    float src[16];
    uint16_t row[16];
    for (uint32_t i = 0; i < 16; i++)
        src[i] = x;
    cpu->append(row, src, 16);
    for (uint32_t i = 1; i < 16; i++)
        if (row[i] != row[0])
            CU_FAIL("elements differ");
    return row[0];
}

static float decode_16_bits(const struct sharpi_kv_cpu *cpu, uint32_t bits)
{
    uint16_t row[16];
    float dst[16];
    for (uint32_t i = 0; i < 16; i++)
        row[i] = (uint16_t)bits;
    cpu->load(dst, 16, row, 32, 0, 16, 1);
    return dst[7];
}

/* Every 16-bit value survives a round trip; midpoints between neighbours go to the even one, their neighbours
 * to the nearest. */
static void check_16_bit_rounding(const char *name, uint32_t infinity)
{
    FOR_EACH_ISA(isa)
    {
        const struct sharpi_kv_cpu *cpu = kernels(kv_formats_find(&formats, name), isa);
        uint32_t wrong = 0;
        for (uint32_t h = 0; h < 0x10000; h++) {
            const float x = decode_16_bits(cpu, h);
            if ((h & 0x7fff) > infinity)
                wrong += x == x || decode_16_bits(cpu, encode_16_bits(cpu, x)) == x;
            else
                wrong += encode_16_bits(cpu, x) != h;
        }
        CU_ASSERT_EQUAL(wrong, 0);
        for (uint32_t h = 0; h + 1 < infinity; h++) {
            const float a = decode_16_bits(cpu, h), b = decode_16_bits(cpu, h + 1);
            const float middle = (float)(((double)a + (double)b) / 2.0);
            wrong += encode_16_bits(cpu, middle) != h + (h & 1);
            wrong += encode_16_bits(cpu, -middle) != (0x8000 | (h + (h & 1)));
            wrong += encode_16_bits(cpu, nextafterf(middle, INFINITY)) != h + 1;
            wrong += encode_16_bits(cpu, nextafterf(middle, 0.0f)) != h;
        }
        CU_ASSERT_EQUAL(wrong, 0);
        CU_ASSERT_EQUAL(encode_16_bits(cpu, INFINITY), infinity);
        CU_ASSERT_EQUAL(encode_16_bits(cpu, -INFINITY), infinity | 0x8000);
        CU_ASSERT_EQUAL(encode_16_bits(cpu, -0.0f), 0x8000);
        CU_ASSERT((encode_16_bits(cpu, float_of(0x7f800001)) & 0x7fff) > infinity);
        CU_ASSERT((encode_16_bits(cpu, float_of(0xffffffff)) & 0x7fff) > infinity);
    }
}

static void f16_rounds_to_nearest_even(void)
{
    check_16_bit_rounding("f16", 0x7c00);
    FOR_EACH_ISA(isa)
    {
        const struct sharpi_kv_cpu *cpu = kernels(kv_formats_find(&formats, "f16"), isa);
        CU_ASSERT_EQUAL(encode_16_bits(cpu, 65519.996f), 0x7bff);
        CU_ASSERT_EQUAL(encode_16_bits(cpu, 65520.0f), 0x7c00);
        CU_ASSERT_EQUAL(encode_16_bits(cpu, 0x1p-24f), 1);
        CU_ASSERT_EQUAL(encode_16_bits(cpu, 0x1p-25f), 0);
        CU_ASSERT_EQUAL(encode_16_bits(cpu, 0x1.000002p-25f), 1);
        CU_ASSERT_EQUAL(encode_16_bits(cpu, 1e-45f), 0);
        CU_ASSERT(decode_16_bits(cpu, 0x3555) == 0.333251953125f);
    }
}

static void bf16_rounds_to_nearest_even(void)
{
    check_16_bit_rounding("bf16", 0x7f80);
    FOR_EACH_ISA(isa)
    {
        const struct sharpi_kv_cpu *cpu = kernels(kv_formats_find(&formats, "bf16"), isa);
        CU_ASSERT_EQUAL(encode_16_bits(cpu, 3.4028235e38f), 0x7f80);
        CU_ASSERT_EQUAL(encode_16_bits(cpu, 1.0f), 0x3f80);
    }
}

static void f32_keeps_every_bit(void)
{
    FOR_EACH_ISA(isa)
    {
        const struct sharpi_kv_cpu *cpu = kernels(kv_formats_find(&formats, "f32"), isa);
        uint32_t src[21], row[21], dst[21];
        for (uint32_t i = 0; i < 21; i++)
            src[i] = random_bits();
        cpu->append(row, (const float *)(const void *)src, 21);
        cpu->load((float *)(void *)dst, 21, row, 84, 0, 21, 1);
        CU_ASSERT_EQUAL(memcmp(src, row, sizeof src), 0);
        CU_ASSERT_EQUAL(memcmp(src, dst, sizeof src), 0);
    }
}

static void rows_have_the_stated_bytes(void)
{
    static const char *const names[] = {"f32", "f16", "bf16", "q8_0"};
    static const uint64_t bytes[] = {4096, 2048, 2048, 1088};
    for (uint32_t i = 0; i < 4; i++) {
        const struct kv_format *format = kv_formats_find(&formats, names[i]);
        CU_ASSERT_PTR_NOT_NULL_FATAL(format);
        CU_ASSERT_EQUAL(format->kv->row_bytes(format->ctx, 1024), bytes[i]);
    }
}

static void kernels_are_the_strongest_not_above_the_variant(void)
{
    for (uint32_t i = 0; i < formats.n; i++) {
        const struct kv_format *format = &formats.list[i];
        const void *scalar = format->kv->kernels(format->ctx, "cpu", "scalar");
        CU_ASSERT_PTR_NOT_NULL(scalar);
        CU_ASSERT_PTR_EQUAL(format->kv->kernels(format->ctx, "cpu", "not-yet-known"), scalar);
        CU_ASSERT_PTR_NULL(format->kv->kernels(format->ctx, "vulkan", ""));
        CU_ASSERT_PTR_EQUAL(format->kv->kernels(format->ctx, "cpu", "avx512bf16"),
                            format->kv->kernels(format->ctx, "cpu", "avx512"));
    }
}

struct q8_0_block {
    uint16_t scale;
    int8_t q[32];
};

static float scale_of(const struct q8_0_block *block)
{
    return decode_16_bits(kernels(kv_formats_find(&formats, "f16"), CPU_ISA_SCALAR), block->scale);
}

static void q8_0_errs_by_half_a_step_and_is_idempotent(void)
{
    FOR_EACH_ISA(isa)
    {
        const struct sharpi_kv_cpu *cpu = kernels(kv_formats_find(&formats, "q8_0"), isa);
        uint32_t wrong_size = 0, wrong_step = 0, not_idempotent = 0;
        for (uint32_t n = 0; n < 20000; n++) {
            const float size =
                ldexpf(1.0f, (int)(n % 40) - 24); /* scales from f16's subnormals to its largest */
            struct q8_0_block block, again;
            float x[32], y[32], amax = 0.0f, d;
            for (uint32_t i = 0; i < 32; i++) {
                x[i] = random_float() * size;
                amax = fmaxf(amax, fabsf(x[i]));
            }
            cpu->append(&block, x, 32);
            cpu->load(y, 32, &block, 34, 0, 32, 1);
            d = scale_of(&block);
            wrong_step += fabsf(d - amax / 127.0f) > fmaxf(amax / 127.0f * 0x1p-11f, 0x1p-24f);
            for (uint32_t i = 0; i < 32; i++)
                wrong_size += !(fabsf(y[i] - x[i]) <= d * 0.50001f);
            cpu->append(&again, y, 32);
            if (amax > 0.008f)
                not_idempotent += memcmp(&block, &again, sizeof block) != 0;
        }
        CU_ASSERT_EQUAL(wrong_step, 0);
        CU_ASSERT_EQUAL(wrong_size, 0);
        CU_ASSERT_EQUAL(not_idempotent, 0);
    }
}

/* A block of zeros but for one element; the decoded element, and whether all others stayed 0. */
static float q8_0_of_one(const struct sharpi_kv_cpu *cpu, float x, uint32_t *others_are_zero)
{
    struct q8_0_block block;
    float src[32] = {0.0f}, dst[32];
    src[13] = x;
    cpu->append(&block, src, 32);
    cpu->load(dst, 32, &block, 34, 0, 32, 1);
    *others_are_zero = 1;
    for (uint32_t i = 0; i < 32; i++)
        *others_are_zero &= i == 13 || dst[i] == 0.0f;
    return dst[13];
}

static void q8_0_survives_edge_values(void)
{
    static const float tiny[] = {0.0f, -0.0f, 1e-45f, 1e-38f, 1.2e-38f, 1e-30f, 1.2e-28f, -1e-45f};
    static const float huge[] = {INFINITY, 3.4e38f, 1e9f, 8319008.0f};
    FOR_EACH_ISA(isa)
    {
        const struct sharpi_kv_cpu *cpu = kernels(kv_formats_find(&formats, "q8_0"), isa);
        uint32_t zero;
        for (uint32_t i = 0; i < sizeof tiny / sizeof tiny[0]; i++)
            CU_ASSERT(q8_0_of_one(cpu, tiny[i], &zero) == 0.0f && zero);
        for (uint32_t i = 0; i < sizeof huge / sizeof huge[0]; i++) {
            CU_ASSERT(q8_0_of_one(cpu, huge[i], &zero) == 8319008.0f && zero);
            CU_ASSERT(q8_0_of_one(cpu, -huge[i], &zero) == -8319008.0f && zero);
        }
        CU_ASSERT(q8_0_of_one(cpu, NAN, &zero) == 0.0f && zero);
        CU_ASSERT(q8_0_of_one(cpu, -NAN, &zero) == 0.0f && zero);
        CU_ASSERT(q8_0_of_one(cpu, 1.0f, &zero) > 0.999f && zero);
    }
}

static void q8_0_ignores_nan_beside_numbers(void)
{
    FOR_EACH_ISA(isa)
    {
        const struct sharpi_kv_cpu *cpu = kernels(kv_formats_find(&formats, "q8_0"), isa);
        struct q8_0_block block;
        float src[32], dst[32];
        for (uint32_t i = 0; i < 32; i++)
            src[i] = i % 3 ? (float)i : NAN;
        cpu->append(&block, src, 32);
        cpu->load(dst, 32, &block, 34, 0, 32, 1);
        for (uint32_t i = 0; i < 32; i++)
            CU_ASSERT(fabsf(dst[i] - (i % 3 ? src[i] : 0.0f)) < 0.13f);
    }
}

static void q8_0_names_rule_layer_value_and_remedy(void)
{
    const struct kv_format *format = kv_formats_find(&formats, "q8_0");
    struct sharpi_error err = SHARPI_ERROR_INIT;
    CU_ASSERT_EQUAL(format->kv->check(format->ctx, 3, 1, 80, &err), SHARPI_ENOTSUP);
    CU_ASSERT_STRING_EQUAL(err.text,
                           "q8_0 KV needs KV heads x head_dim to be a multiple of 32; layer 3 has 80; "
                           "use kv = bf16");
    CU_ASSERT_EQUAL(format->kv->check(format->ctx, 3, 2, 80, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(format->kv->check(format->ctx, 3, 8, 128, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(format->kv->check(format->ctx, 3, 3, 16, NULL), SHARPI_ENOTSUP);
}

/* One random case of the four kernels; buffers end where the data ends, so that sanitizers see reads past it.
 */
struct kernel_case {
    const struct kv_format *format;
    uint64_t n, first, count, row_bytes;
    uint32_t n_rows, n_q;
    float *src, *q, *p;
    unsigned char *rows;
};

static void case_init(struct kernel_case *c, const struct kv_format *format)
{
    const uint32_t unit = strcmp(format->kv->name, "q8_0") == 0 ? 32 : 1;
    c->format = format;
    c->n = (1 + random_bits() % 10) * 32;
    if (unit == 1)
        c->n = 2 + random_bits() % 300;
    c->row_bytes = format->kv->row_bytes(format->ctx, c->n);
    c->first = random_bits() % c->n;
    c->count = 1 + random_bits() % (c->n - c->first);
    if (random_bits() % 2) { /* whole blocks, the vector path of q8_0 */
        c->first = c->first / unit * unit;
        c->count = (c->count + unit - 1) / unit * unit;
        if (c->first + c->count > c->n)
            c->count = c->n - c->first;
    }
    c->n_rows = 1 + random_bits() % 21;
    c->n_q = 1 + random_bits() % 9;
    c->src = malloc(c->n_rows * c->n * sizeof(float));
    c->q = malloc(c->n_q * c->count * sizeof(float));
    c->p = malloc(c->n_q * c->n_rows * sizeof(float));
    c->rows = malloc(c->n_rows * c->row_bytes);
    for (uint64_t i = 0; i < c->n_rows * c->n; i++)
        c->src[i] = random_float();
    for (uint64_t i = 0; i < c->n_q * c->count; i++)
        c->q[i] = random_float();
    for (uint64_t i = 0; i < c->n_q * c->n_rows; i++)
        c->p[i] = random_float();
    for (uint32_t r = 0; r < c->n_rows; r++)
        format->kv->encode(format->ctx, c->rows + r * c->row_bytes, c->src + r * c->n, c->n);
}

static void case_free(struct kernel_case *c)
{
    free(c->src);
    free(c->q);
    free(c->p);
    free(c->rows);
}

static uint32_t guards_are_whole(const void *memory, uint64_t n_bytes)
{
    const unsigned char *bytes = memory;
    for (uint64_t i = 0; i < n_bytes; i++)
        if (bytes[i] != GUARD)
            return 0;
    return 1;
}

static void check_append(const struct kernel_case *c, const struct sharpi_kv_cpu *cpu)
{
    unsigned char *row = malloc(c->row_bytes + 64);
    for (uint32_t r = 0; r < c->n_rows; r++) {
        memset(row, GUARD, c->row_bytes + 64);
        cpu->append(row, c->src + r * c->n, c->n);
        CU_ASSERT_EQUAL(memcmp(row, c->rows + r * c->row_bytes, c->row_bytes), 0);
        CU_ASSERT(guards_are_whole(row + c->row_bytes, 64));
    }
    free(row);
}

static void check_load(const struct kernel_case *c, const struct sharpi_kv_cpu *cpu)
{
    const uint64_t stride = c->count + 3;
    float *dst = malloc(c->n_rows * stride * sizeof(float)), *row = malloc(c->n * sizeof(float));
    uint32_t wrong = 0;
    memset(dst, GUARD, c->n_rows * stride * sizeof(float));
    cpu->load(dst, stride, c->rows, c->row_bytes, c->first, c->count, c->n_rows);
    for (uint32_t r = 0; r < c->n_rows; r++) {
        c->format->kv->decode(c->format->ctx, c->rows + r * c->row_bytes, row, c->n);
        for (uint64_t i = 0; i < c->count; i++)
            wrong += bits_of(dst[r * stride + i]) != bits_of(row[c->first + i]);
        CU_ASSERT(guards_are_whole(dst + r * stride + c->count, 3 * sizeof(float)));
    }
    CU_ASSERT_EQUAL(wrong, 0);
    free(dst);
    free(row);
}

static void check_score(const struct kernel_case *c, const struct sharpi_kv_cpu *cpu)
{
    const uint64_t stride = c->n_rows + 5;
    float *scores = malloc(c->n_q * stride * sizeof(float)), *row = malloc(c->n * sizeof(float));
    uint32_t wrong = 0;
    memset(scores, GUARD, c->n_q * stride * sizeof(float));
    cpu->score(scores, stride, c->q, c->count, c->n_q, c->rows, c->row_bytes, c->first, c->count, c->n_rows);
    for (uint32_t r = 0; r < c->n_rows; r++) {
        c->format->kv->decode(c->format->ctx, c->rows + r * c->row_bytes, row, c->n);
        for (uint32_t h = 0; h < c->n_q; h++) {
            double dot = 0.0, size = 0.0;
            for (uint64_t i = 0; i < c->count; i++) {
                const double term = (double)c->q[h * c->count + i] * (double)row[c->first + i];
                dot += term;
                size += fabs(term);
            }
            wrong += !(fabs((double)scores[h * stride + r] - dot) <= 1e-6 * size);
        }
    }
    for (uint32_t h = 0; h < c->n_q; h++)
        CU_ASSERT(guards_are_whole(scores + h * stride + c->n_rows, 5 * sizeof(float)));
    CU_ASSERT_EQUAL(wrong, 0);
    free(scores);
    free(row);
}

static void check_accumulate(const struct kernel_case *c, const struct sharpi_kv_cpu *cpu)
{
    const uint64_t stride = c->count + 7;
    float *acc = malloc(c->n_q * stride * sizeof(float)), *rows = malloc(c->n_rows * c->n * sizeof(float));
    uint32_t wrong = 0;
    for (uint32_t r = 0; r < c->n_rows; r++)
        c->format->kv->decode(c->format->ctx, c->rows + r * c->row_bytes, rows + r * c->n, c->n);
    memset(acc, GUARD, c->n_q * stride * sizeof(float));
    for (uint32_t h = 0; h < c->n_q; h++)
        for (uint64_t i = 0; i < c->count; i++)
            acc[h * stride + i] = (float)h - (float)i;
    cpu->accumulate(acc, stride, c->p, c->n_rows, c->n_q, c->rows, c->row_bytes, c->first, c->count,
                    c->n_rows);
    for (uint32_t h = 0; h < c->n_q; h++) {
        for (uint64_t i = 0; i < c->count; i++) {
            double sum = (double)h - (double)i, size = fabs(sum);
            for (uint32_t r = 0; r < c->n_rows; r++) {
                const double term = (double)c->p[h * c->n_rows + r] * (double)rows[r * c->n + c->first + i];
                sum += term;
                size += fabs(term);
            }
            wrong += !(fabs((double)acc[h * stride + i] - sum) <= 2e-6 * size);
        }
        CU_ASSERT(guards_are_whole(acc + h * stride + c->count, 7 * sizeof(float)));
    }
    CU_ASSERT_EQUAL(wrong, 0);
    free(acc);
    free(rows);
}

static void kernels_equal_the_reference_on_any_size(void)
{
    FOR_EACH_ISA(isa)
    for (uint32_t f = 0; f < formats.n; f++)
        for (uint32_t i = 0; i < 400; i++) {
            const struct sharpi_kv_cpu *cpu = kernels(&formats.list[f], isa);
            struct kernel_case c;
            case_init(&c, &formats.list[f]);
            check_append(&c, cpu);
            check_load(&c, cpu);
            check_score(&c, cpu);
            check_accumulate(&c, cpu);
            case_free(&c);
        }
}

/* Bit patterns of all kinds, NaN and infinities too, are stored alike by every instruction set. */
static void any_bits_are_stored_alike(void)
{
    for (uint32_t f = 0; f < formats.n; f++)
        FOR_EACH_ISA(isa)
    for (uint32_t i = 0; i < 3000; i++) {
        const struct kv_format *format = &formats.list[f];
        uint32_t bits[32];
        unsigned char a[128], b[128];
        float src[32];
        for (uint32_t j = 0; j < 32; j++)
            bits[j] = random_bits() >> (i % 4 == 0 ? random_bits() % 12 : 0);
        memcpy(src, bits, sizeof src);
        format->kv->encode(format->ctx, a, src, 32);
        kernels(format, isa)->append(b, src, 32);
        if (memcmp(a, b, format->kv->row_bytes(format->ctx, 32)) != 0)
            CU_FAIL("stored differently");
    }
}

int main(void)
{
    CU_pSuite suite;
    uint32_t failures;

    if (kv_formats_load_all(&formats) || CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    suite = CU_add_suite("kv-formats", NULL, NULL);
    CU_ADD_TEST(suite, rows_have_the_stated_bytes);
    CU_ADD_TEST(suite, kernels_are_the_strongest_not_above_the_variant);
    CU_ADD_TEST(suite, f32_keeps_every_bit);
    CU_ADD_TEST(suite, f16_rounds_to_nearest_even);
    CU_ADD_TEST(suite, bf16_rounds_to_nearest_even);
    CU_ADD_TEST(suite, q8_0_errs_by_half_a_step_and_is_idempotent);
    CU_ADD_TEST(suite, q8_0_survives_edge_values);
    CU_ADD_TEST(suite, q8_0_ignores_nan_beside_numbers);
    CU_ADD_TEST(suite, q8_0_names_rule_layer_value_and_remedy);
    CU_ADD_TEST(suite, kernels_equal_the_reference_on_any_size);
    CU_ADD_TEST(suite, any_bits_are_stored_alike);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
