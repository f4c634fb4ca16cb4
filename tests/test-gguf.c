/* Tests of the GGUF reader in memory: valid files, hand-made malformed ones, every truncation of a small file.
 *
 * `test-gguf --seeds DIR` writes all hand-made files into DIR instead, as a start for the fuzzer.
 */
#include "gguf-cases.h"
#include "gguf-check.h"

#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

static const int32_t all_types[] = {
    SHARPI_TYPE_F32,  SHARPI_TYPE_F16,   SHARPI_TYPE_Q4_0,   SHARPI_TYPE_Q4_1,
    SHARPI_TYPE_Q5_0, SHARPI_TYPE_Q5_1,  SHARPI_TYPE_Q8_0,   SHARPI_TYPE_Q2_K,
    SHARPI_TYPE_Q3_K, SHARPI_TYPE_Q4_K,  SHARPI_TYPE_Q5_K,   SHARPI_TYPE_Q6_K,
    SHARPI_TYPE_BF16, SHARPI_TYPE_MXFP4, SHARPI_TYPE_IQ4_NL, SHARPI_TYPE_IQ4_XS,
};
enum { N_TYPES = sizeof all_types / sizeof all_types[0] };

/* Opens what was built, from a copy that ends where the file ends, so that ASan and valgrind see a read beyond it. The
 * copy lives until close_model. */
struct model {
    void *bytes;
    struct sharpi_gguf *gguf;
    struct sharpi_error err;
    int32_t status;
};

static void open_model(struct model *m, const struct build *b, uint64_t n, uint32_t flags)
{
    *m = (struct model){.err = SHARPI_ERROR_INIT};
    m->bytes = malloc(n);
    if (n)
        memcpy(m->bytes, b->bytes, n);
    m->status = sharpi_gguf_open_memory(m->bytes, n, "model.gguf", flags, &m->gguf, &m->err);
}

static void close_model(struct model *m)
{
    sharpi_gguf_close(m->gguf);
    free(m->bytes);
}

static void versions_2_and_3_open(void)
{
    for (uint32_t version = 2; version <= 3; version++) {
        struct build b = {0};
        struct model m;
        build_small_model(&b, version);
        open_model(&m, &b, b.n, 0);
        CU_ASSERT_FATAL(succeeded(m.status, &m.err));
        CU_ASSERT_EQUAL(sharpi_gguf_version(m.gguf), version);
        CU_ASSERT_STRING_EQUAL(sharpi_gguf_path(m.gguf), "model.gguf");
        CU_ASSERT_EQUAL(sharpi_gguf_file_bytes(m.gguf), b.n);
        check_small_model(m.gguf);
        close_model(&m);
        build_free(&b);
    }
}

static void trailing_bytes_are_tolerated(void)
{
    struct build b = {0};
    struct model m;
    build_small_model(&b, 3);
    build_fill(&b, 0xee, 777);
    open_model(&m, &b, b.n, 0);
    CU_ASSERT_FATAL(succeeded(m.status, &m.err));
    check_small_model(m.gguf);
    close_model(&m);
    build_free(&b);
}

static void malformed_files_are_explained(void)
{
    for (uint64_t i = 0; i < n_gguf_cases; i++) {
        for (uint32_t flags = 0; flags < 2; flags++) {
            const struct gguf_case *c = &gguf_cases[i];
            struct build b = {0};
            struct model m;
            c->build(&b);
            open_model(&m, &b, b.n, flags);
            int truncated = strstr(c->message, "the data of tensor") != NULL;
            if (!(flags & SHARPI_GGUF_HEADER_ONLY) || !truncated) {
                int right = m.status == c->status && m.err.code == m.status && says(&m.err, c->message) &&
                            says(&m.err, "model.gguf") && !m.gguf;
                if (!right)
                    printf("    case %s: status %d\n", c->name, m.status);
                CU_ASSERT(right);
            } else {
                CU_ASSERT(succeeded(m.status, &m.err));
            }
            close_model(&m);
            build_free(&b);
        }
    }
}

static void every_truncation_is_an_error(void)
{
    struct build b = {0};
    build_small_model(&b, 3);
    for (uint64_t n = 0; n < b.n; n++) {
        struct model m;
        open_model(&m, &b, n, 0);
        CU_ASSERT(m.status == SHARPI_EFORMAT && m.gguf == NULL && m.err.text[0]);
        close_model(&m);
        open_model(&m, &b, n, SHARPI_GGUF_HEADER_ONLY);
        if (n >= b.n - 256 - 68) /* all of the header is there */
            CU_ASSERT(m.status == 0);
        close_model(&m);
    }
    build_free(&b);
    build_all_values(&b);
    for (uint64_t n = 0; n < b.n; n++) {
        struct model m;
        open_model(&m, &b, n, SHARPI_GGUF_HEADER_ONLY);
        CU_ASSERT(m.status == SHARPI_EFORMAT);
        close_model(&m);
    }
    build_free(&b);
}

static void header_only_has_no_data(void)
{
    struct build b = {0};
    struct model m;
    build_small_model(&b, 3);
    for (int cut = 0; cut < 2; cut++) {
        open_model(&m, &b, cut ? b.n - 300 : b.n, SHARPI_GGUF_HEADER_ONLY);
        CU_ASSERT_FATAL(succeeded(m.status, &m.err));
        CU_ASSERT_PTR_NULL(sharpi_gguf_tensor(m.gguf, "a")->data);
        CU_ASSERT_PTR_NULL(sharpi_gguf_tensor(m.gguf, "b")->data);
        CU_ASSERT_EQUAL(sharpi_gguf_tensor(m.gguf, "b")->n_bytes, 68);
        close_model(&m);
    }
    build_free(&b);
}

static void errors_may_be_ignored(void)
{
    for (uint64_t i = 0; i < n_gguf_cases; i++) {
        struct sharpi_gguf *gguf = NULL;
        struct build b = {0};
        gguf_cases[i].build(&b);
        CU_ASSERT_EQUAL(sharpi_gguf_open_memory(b.bytes, b.n, "x", 0, &gguf, NULL), gguf_cases[i].status);
        build_free(&b);
    }
    sharpi_gguf_close(NULL);
}

/* What integer look-ups answer; status and value. */
static const struct {
    const char *key;
    int32_t status;
    uint64_t value;
} integers[] = {
    {"u8", 0, 200},
    {"u16", 0, 60000},
    {"u32", 0, 4000000000u},
    {"u64", 0, UINT64_MAX},
    {"i64", 0, 1ull << 62},
    {"bool", 0, 1},
    {"i8", SHARPI_EFORMAT, 0},
    {"i16", SHARPI_EFORMAT, 0},
    {"i32", SHARPI_EFORMAT, 0},
    {"f32", SHARPI_EFORMAT, 0},
    {"f64", SHARPI_EFORMAT, 0},
    {"string", SHARPI_EFORMAT, 0},
    {"array.u8", SHARPI_EFORMAT, 0},
    {"absent", SHARPI_ENOENT, 0},
};

static void integers_convert(void)
{
    struct build b = {0};
    struct model m;
    build_all_values(&b);
    open_model(&m, &b, b.n, 0);
    CU_ASSERT_FATAL(succeeded(m.status, &m.err));
    for (uint64_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        struct sharpi_error err = SHARPI_ERROR_INIT;
        uint64_t value = 12345;
        CU_ASSERT_EQUAL(sharpi_gguf_u64(m.gguf, integers[i].key, &value, &err), integers[i].status);
        CU_ASSERT_EQUAL(value, integers[i].status ? 12345 : integers[i].value);
        if (integers[i].status == SHARPI_EFORMAT)
            CU_ASSERT(says(&err, integers[i].key) && says(&err, "model.gguf"));
        if (integers[i].status == SHARPI_ENOENT)
            CU_ASSERT(err.code == 0 && err.text[0] == 0);
    }
    close_model(&m);
    build_free(&b);
}

static void floats_convert(void)
{
    struct build b = {0};
    struct model m;
    double value = 0;
    build_all_values(&b);
    open_model(&m, &b, b.n, 0);
    CU_ASSERT_FATAL(succeeded(m.status, &m.err));
    CU_ASSERT(sharpi_gguf_f64(m.gguf, "f32", &value, &m.err) == 0 && value == 1.5);
    CU_ASSERT(sharpi_gguf_f64(m.gguf, "f64", &value, &m.err) == 0 && value == -0.1);
    CU_ASSERT(sharpi_gguf_f64(m.gguf, "i32", &value, &m.err) == 0 && value == -2e9);
    CU_ASSERT(sharpi_gguf_f64(m.gguf, "i16", &value, &m.err) == 0 && value == -30000);
    CU_ASSERT(sharpi_gguf_f64(m.gguf, "u8", &value, &m.err) == 0 && value == 200);
    CU_ASSERT_EQUAL(sharpi_gguf_f64(m.gguf, "absent", &value, &m.err), SHARPI_ENOENT);
    CU_ASSERT_EQUAL(sharpi_gguf_f64(m.gguf, "string", &value, &m.err), SHARPI_EFORMAT);
    CU_ASSERT(says(&m.err, "key 'string' has type string where a number is needed"));
    CU_ASSERT_EQUAL(sharpi_gguf_f64(m.gguf, "array.f32", &value, &m.err), SHARPI_EFORMAT);
    CU_ASSERT(says(&m.err, "has type array of f32"));
    close_model(&m);
    build_free(&b);
}

static int str_is(struct sharpi_str str, const char *text)
{
    return str.n == strlen(text) && memcmp(str.data, text, str.n) == 0;
}

static void strings_are_slices_of_the_file(void)
{
    struct build b = {0};
    struct model m;
    struct sharpi_str one = {0}, *all = NULL;
    uint64_t n = 0;
    build_all_values(&b);
    open_model(&m, &b, b.n, 0);
    CU_ASSERT_FATAL(succeeded(m.status, &m.err));
    CU_ASSERT(sharpi_gguf_string(m.gguf, "string", &one, &m.err) == 0 && str_is(one, "text"));
    CU_ASSERT(one.data > (char *)m.bytes && one.data < (char *)m.bytes + b.n);
    CU_ASSERT_EQUAL(sharpi_gguf_string(m.gguf, "u8", &one, &m.err), SHARPI_EFORMAT);
    CU_ASSERT_EQUAL(sharpi_gguf_string(m.gguf, "absent", &one, &m.err), SHARPI_ENOENT);
    CU_ASSERT_FATAL(sharpi_gguf_strings(m.gguf, "array.string", &all, &n, &m.err) == 0 && n == 3);
    CU_ASSERT(str_is(all[0], "one") && str_is(all[1], "") && str_is(all[2], "three"));
    free(all);
    all = NULL;
    CU_ASSERT(sharpi_gguf_strings(m.gguf, "array.empty", &all, &n, &m.err) == 0 && n == 0 && all);
    free(all);
    CU_ASSERT_EQUAL(sharpi_gguf_strings(m.gguf, "array.u8", &all, &n, &m.err), SHARPI_EFORMAT);
    CU_ASSERT(says(&m.err, "array of u8 where an array of strings is needed"));
    CU_ASSERT_EQUAL(sharpi_gguf_strings(m.gguf, "string", &all, &n, &m.err), SHARPI_EFORMAT);
    CU_ASSERT_EQUAL(sharpi_gguf_strings(m.gguf, "array.nested", &all, &n, &m.err), SHARPI_EFORMAT);
    CU_ASSERT_EQUAL(sharpi_gguf_strings(m.gguf, "absent", &all, &n, &m.err), SHARPI_ENOENT);
    close_model(&m);
    build_free(&b);
}

static void array_elements_convert(void)
{
    struct build b = {0};
    struct model m;
    uint64_t u = 0;
    double f = 0;
    build_all_values(&b);
    open_model(&m, &b, b.n, 0);
    CU_ASSERT_FATAL(succeeded(m.status, &m.err));
    const struct sharpi_gguf_value *u8 = sharpi_gguf_find(m.gguf, "array.u8");
    const struct sharpi_gguf_value *i32 = sharpi_gguf_find(m.gguf, "array.i32");
    const struct sharpi_gguf_value *f32 = sharpi_gguf_find(m.gguf, "array.f32");
    CU_ASSERT(u8->n == 3 && u8->n_bytes == 3 && u8->elem_type == SHARPI_GGUF_U8);
    CU_ASSERT(sharpi_gguf_array_u64(m.gguf, u8, 2, &u, &m.err) == 0 && u == 3);
    CU_ASSERT_EQUAL(sharpi_gguf_array_u64(m.gguf, u8, 3, &u, &m.err), SHARPI_EINVAL);
    CU_ASSERT(says(&m.err, "key 'array.u8' has 3 elements, there is no element 3"));
    CU_ASSERT(sharpi_gguf_array_u64(m.gguf, i32, 0, &u, &m.err) == 0 && u == 7);
    CU_ASSERT_EQUAL(sharpi_gguf_array_u64(m.gguf, i32, 1, &u, &m.err), SHARPI_EFORMAT);
    CU_ASSERT(sharpi_gguf_array_f64(m.gguf, i32, 1, &f, &m.err) == 0 && f == -7);
    CU_ASSERT(sharpi_gguf_array_f64(m.gguf, f32, 1, &f, &m.err) == 0 && f == -2);
    CU_ASSERT_EQUAL(sharpi_gguf_array_u64(m.gguf, f32, 1, &u, &m.err), SHARPI_EFORMAT);
    CU_ASSERT(sharpi_gguf_array_u64(m.gguf, sharpi_gguf_find(m.gguf, "array.bool"), 2, &u, &m.err) == 0 &&
              u == 1);
    const char *no_numbers[] = {"array.string", "array.nested", "array.empty", "u8", "string"};
    for (int i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(sharpi_gguf_array_u64(m.gguf, sharpi_gguf_find(m.gguf, no_numbers[i]), 0, &u, &m.err),
                        SHARPI_EFORMAT);
    const struct sharpi_gguf_value *nested = sharpi_gguf_find(m.gguf, "array.nested");
    CU_ASSERT(nested->elem_type == SHARPI_GGUF_ARRAY && nested->n == 2 &&
              nested->n_bytes == 12 + 9 + 10 + 12 + 2);
    close_model(&m);
    build_free(&b);
}

static void values_keep_file_order(void)
{
    struct build b = {0};
    struct model m;
    build_all_values(&b);
    open_model(&m, &b, b.n, 0);
    CU_ASSERT_FATAL(succeeded(m.status, &m.err));
    CU_ASSERT_EQUAL_FATAL(sharpi_gguf_n_values(m.gguf), 19);
    CU_ASSERT(str_is(sharpi_gguf_value_at(m.gguf, 0)->key, "u8"));
    CU_ASSERT(str_is(sharpi_gguf_value_at(m.gguf, 18)->key, "array.nested"));
    CU_ASSERT_PTR_NULL(sharpi_gguf_value_at(m.gguf, 19));
    CU_ASSERT_PTR_EQUAL(sharpi_gguf_value_at(m.gguf, 8), sharpi_gguf_find(m.gguf, "string"));
    close_model(&m);
    build_free(&b);
}

static void all_tensor_types_open(void)
{
    struct build b = {0};
    struct model m;
    build_all_tensors(&b, all_types, N_TYPES);
    open_model(&m, &b, b.n, 0);
    CU_ASSERT_FATAL(succeeded(m.status, &m.err));
    for (int i = 0; i < N_TYPES; i++) {
        const struct sharpi_tensor *tensor = sharpi_gguf_tensor(m.gguf, sharpi_type_info(all_types[i])->name);
        CU_ASSERT_PTR_NOT_NULL_FATAL(tensor);
        CU_ASSERT(tensor->type == all_types[i] && tensor->n_dims == 3 && tensor->ne[1] == 2);
        CU_ASSERT(is_filled(tensor, sharpi_row_bytes(all_types[i], 512), 0x33));
    }
    close_model(&m);
    build_free(&b);
}

static void alignment_of_the_file_is_used(void)
{
    struct build b = {0};
    struct model m;
    build_header(&b, 3, 1, 1);
    build_value_u32(&b, "general.alignment", 4096);
    build_info_1d(&b, "w", 8, SHARPI_TYPE_F32, 4096);
    build_align(&b, 4096);
    build_fill(&b, 0x55, 4096);
    build_fill(&b, 0x66, 32);
    open_model(&m, &b, b.n, 0);
    CU_ASSERT_FATAL(succeeded(m.status, &m.err));
    CU_ASSERT(is_filled(sharpi_gguf_tensor(m.gguf, "w"), 32, 0x66));
    close_model(&m);
    build_free(&b);
}

static void thousands_of_names_are_found(void)
{
    enum { N = 5000 };
    struct build b = {0};
    struct model m;
    char name[64];
    build_header(&b, 3, N, N);
    for (uint32_t i = 0; i < N; i++) {
        snprintf(name, sizeof name, "key.%u", i);
        build_value_u32(&b, name, i);
    }
    for (uint32_t i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%u.weight", i);
        build_info_1d(&b, name, i + 1, SHARPI_TYPE_F16, (uint64_t)(N - 1 - i) * 16384);
    }
    open_model(&m, &b, b.n, SHARPI_GGUF_HEADER_ONLY);
    CU_ASSERT_FATAL(succeeded(m.status, &m.err));
    for (uint32_t i = 0; i < N; i++) {
        uint64_t value = 0;
        snprintf(name, sizeof name, "key.%u", i);
        CU_ASSERT(sharpi_gguf_u64(m.gguf, name, &value, &m.err) == 0 && value == i);
        snprintf(name, sizeof name, "blk.%u.weight", i);
        const struct sharpi_tensor *tensor = sharpi_gguf_tensor(m.gguf, name);
        CU_ASSERT(tensor && tensor->ne[0] == i + 1 && strcmp(tensor->name, name) == 0);
    }
    close_model(&m);
    build_free(&b);
}

static void large_vocabulary_opens(void)
{
    enum { N = 262144 };
    struct build b = {0};
    struct model m;
    struct sharpi_str *tokens = NULL;
    uint64_t n = 0;
    char token[32];
    build_header(&b, 3, 0, 1);
    build_array(&b, "tokenizer.ggml.tokens", SHARPI_GGUF_STRING, N);
    for (uint32_t i = 0; i < N; i++) {
        snprintf(token, sizeof token, "token%u", i);
        build_str(&b, token);
    }
    open_model(&m, &b, b.n, 0);
    CU_ASSERT_FATAL(succeeded(m.status, &m.err));
    CU_ASSERT_FATAL(sharpi_gguf_strings(m.gguf, "tokenizer.ggml.tokens", &tokens, &n, &m.err) == 0 && n == N);
    CU_ASSERT(str_is(tokens[0], "token0") && str_is(tokens[N - 1], "token262143"));
    free(tokens);
    close_model(&m);
    build_free(&b);
}

/* The program. */

static const struct {
    const char *name;
    void (*function)(void);
} tests[] = {
    {"versions_2_and_3_open", versions_2_and_3_open},
    {"trailing_bytes_are_tolerated", trailing_bytes_are_tolerated},
    {"malformed_files_are_explained", malformed_files_are_explained},
    {"every_truncation_is_an_error", every_truncation_is_an_error},
    {"header_only_has_no_data", header_only_has_no_data},
    {"errors_may_be_ignored", errors_may_be_ignored},
    {"integers_convert", integers_convert},
    {"floats_convert", floats_convert},
    {"strings_are_slices_of_the_file", strings_are_slices_of_the_file},
    {"array_elements_convert", array_elements_convert},
    {"values_keep_file_order", values_keep_file_order},
    {"all_tensor_types_open", all_tensor_types_open},
    {"alignment_of_the_file_is_used", alignment_of_the_file_is_used},
    {"thousands_of_names_are_found", thousands_of_names_are_found},
    {"large_vocabulary_opens", large_vocabulary_opens},
};

static int save_seed(struct build *b, const char *path, const char *name)
{
    char file[1024];
    snprintf(file, sizeof file, "%s/%s", path, name);
    int status = build_save(b, file);
    build_free(b);
    return status;
}

static int write_seeds(const char *path)
{
    struct build b = {0};
    int status = 0;
    for (uint64_t i = 0; i < n_gguf_cases; i++) {
        gguf_cases[i].build(&b);
        status |= save_seed(&b, path, gguf_cases[i].name);
    }
    build_small_model(&b, 2);
    status |= save_seed(&b, path, "valid_2");
    build_small_model(&b, 3);
    status |= save_seed(&b, path, "valid_3");
    build_all_values(&b);
    status |= save_seed(&b, path, "valid_values");
    build_all_tensors(&b, all_types, N_TYPES);
    status |= save_seed(&b, path, "valid_tensors");
    return status ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--seeds") == 0)
        return write_seeds(argv[2]);
    if (CU_initialize_registry() != CUE_SUCCESS)
        return EXIT_FAILURE;
    CU_pSuite suite = CU_add_suite("gguf", NULL, NULL);
    for (uint64_t i = 0; suite && i < sizeof tests / sizeof tests[0]; i++)
        CU_add_test(suite, tests[i].name, tests[i].function);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failed = !suite || CU_get_number_of_failures() > 0;
    CU_cleanup_registry();
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
