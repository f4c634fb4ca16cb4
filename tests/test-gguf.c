/* Tests of the GGUF reader: valid files, hand-made malformed ones, split models, every truncation of a small file.
 *
 * `test-gguf --seeds DIR` writes all hand-made files into DIR instead, as a start for the fuzzer.
 */
#include "gguf-cases.h"

#include <CUnit/Basic.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const int32_t all_types[] = {
    SHARPI_TYPE_F32,  SHARPI_TYPE_F16,   SHARPI_TYPE_Q4_0,   SHARPI_TYPE_Q4_1,
    SHARPI_TYPE_Q5_0, SHARPI_TYPE_Q5_1,  SHARPI_TYPE_Q8_0,   SHARPI_TYPE_Q2_K,
    SHARPI_TYPE_Q3_K, SHARPI_TYPE_Q4_K,  SHARPI_TYPE_Q5_K,   SHARPI_TYPE_Q6_K,
    SHARPI_TYPE_BF16, SHARPI_TYPE_MXFP4, SHARPI_TYPE_IQ4_NL, SHARPI_TYPE_IQ4_XS,
};
enum { N_TYPES = sizeof all_types / sizeof all_types[0] };

static char folder[256]; /* where tests write files; removed at the end */

static const char *in_folder(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

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

/* Says what went wrong, as CUnit shows only the expression. */
static int succeeded(int32_t status, const struct sharpi_error *err)
{
    if (status)
        printf("    unexpected error %d: %s\n", status, err->text);
    return status == 0;
}

static int says(const struct sharpi_error *err, const char *part)
{
    if (strstr(err->text, part))
        return 1;
    printf("    expected \"%s\" in: %s\n", part, err->text);
    return 0;
}

static int is_filled(const struct sharpi_tensor *tensor, uint64_t n_bytes, uint8_t byte)
{
    const uint8_t *data = tensor->data;
    uint64_t n = 0;
    while (n < tensor->n_bytes && data[n] == byte)
        n++;
    return tensor->n_bytes == n_bytes && n == n_bytes;
}

static void check_small_model(const struct sharpi_gguf *gguf)
{
    const struct sharpi_tensor *a = sharpi_gguf_tensor(gguf, "a"), *b = sharpi_gguf_tensor(gguf, "b");
    CU_ASSERT_EQUAL(sharpi_gguf_n_tensors(gguf), 2);
    CU_ASSERT_PTR_NOT_NULL_FATAL(a);
    CU_ASSERT_PTR_NOT_NULL_FATAL(b);
    CU_ASSERT_PTR_EQUAL(sharpi_gguf_tensor_at(gguf, 0), a);
    CU_ASSERT_PTR_EQUAL(sharpi_gguf_tensor_at(gguf, 1), b);
    CU_ASSERT_PTR_NULL(sharpi_gguf_tensor_at(gguf, 2));
    CU_ASSERT_PTR_NULL(sharpi_gguf_tensor(gguf, "c"));
    CU_ASSERT_PTR_NULL(sharpi_gguf_tensor(gguf, ""));
    CU_ASSERT_EQUAL(a->size, sizeof *a);
    CU_ASSERT_EQUAL(a->type, SHARPI_TYPE_F32);
    CU_ASSERT_EQUAL(a->n_dims, 2);
    CU_ASSERT(a->ne[0] == 32 && a->ne[1] == 2 && a->ne[2] == 1 && a->ne[3] == 1);
    CU_ASSERT_STRING_EQUAL(a->name, "a");
    CU_ASSERT(is_filled(a, 256, 0x11));
    CU_ASSERT_EQUAL(b->type, SHARPI_TYPE_Q8_0);
    CU_ASSERT(b->n_dims == 1 && b->ne[0] == 64 && b->ne[1] == 1);
    CU_ASSERT(is_filled(b, 68, 0x22));
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

/* Files. */

static int32_t open_file(const char *name, uint32_t flags, struct sharpi_gguf **gguf,
                         struct sharpi_error *err)
{
    *err = (struct sharpi_error)SHARPI_ERROR_INIT;
    return sharpi_gguf_open(in_folder(name), flags, gguf, err);
}

static void save(struct build *b, const char *name)
{
    CU_ASSERT_EQUAL_FATAL(build_save(b, in_folder(name)), 0);
    build_free(b);
}

static void file_is_mapped(void)
{
    struct build b = {0};
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err;
    build_small_model(&b, 3);
    save(&b, "small.gguf");
    CU_ASSERT_FATAL(succeeded(open_file("small.gguf", 0, &gguf, &err), &err));
    CU_ASSERT_STRING_EQUAL(sharpi_gguf_path(gguf), in_folder("small.gguf"));
    check_small_model(gguf);
    CU_ASSERT_EQUAL((uintptr_t)sharpi_gguf_tensor(gguf, "a")->data % 32, 0);
    sharpi_gguf_close(gguf);
}

static void what_is_no_file_is_explained(void)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err;
    struct build b = {0};
    CU_ASSERT_EQUAL(open_file("absent.gguf", 0, &gguf, &err), SHARPI_ENOENT);
    CU_ASSERT(says(&err, "absent.gguf: no such file"));
    CU_ASSERT_EQUAL(open_file(".", 0, &gguf, &err), SHARPI_EFORMAT);
    CU_ASSERT(says(&err, "is a directory"));
    CU_ASSERT_EQUAL(mkfifo(in_folder("pipe"), 0600), 0);
    CU_ASSERT_EQUAL(open_file("pipe", 0, &gguf, &err), SHARPI_EFORMAT);
    CU_ASSERT(says(&err, "must be a regular file"));
    save(&b, "empty.gguf");
    CU_ASSERT_EQUAL(open_file("empty.gguf", 0, &gguf, &err), SHARPI_EFORMAT);
    CU_ASSERT(says(&err, "empty.gguf is an empty file"));
    CU_ASSERT_PTR_NULL(gguf);
}

static void long_path_leaves_room_for_the_message(void)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    char path[3000];
    for (uint64_t i = 0; i < sizeof path; i++)
        path[i] = i % 100 == 0 ? '/' : 'p';
    strcpy(path + sizeof path - 12, "/model.gguf");
    CU_ASSERT_EQUAL(sharpi_gguf_open(path, 0, &gguf, &err), SHARPI_ENOENT);
    CU_ASSERT(says(&err, "/model.gguf: no such file; check the path"));
}

static void save_parts(const char *base, uint32_t count)
{
    char name[64];
    for (uint32_t no = 0; no < count; no++) {
        struct build b = {0};
        build_small_part(&b, no, count);
        snprintf(name, sizeof name, "%s-%05u-of-%05u.gguf", base, no + 1, count);
        save(&b, name);
    }
}

static void split_model_opens_as_one(void)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err;
    save_parts("split", 3); /* the first has no tensors */
    CU_ASSERT_FATAL(succeeded(open_file("split-00001-of-00003.gguf", 0, &gguf, &err), &err));
    check_small_model(gguf);
    CU_ASSERT_PTR_NOT_NULL(sharpi_gguf_find(gguf, "general.architecture"));
    CU_ASSERT_EQUAL(sharpi_gguf_n_values(gguf), 4);
    uint64_t n_bytes = 0;
    struct stat stat_part;
    for (int i = 1; i <= 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "split-0000%d-of-00003.gguf", i);
        CU_ASSERT_EQUAL(stat(in_folder(name), &stat_part), 0);
        n_bytes += (uint64_t)stat_part.st_size;
    }
    CU_ASSERT_EQUAL(sharpi_gguf_file_bytes(gguf), n_bytes);
    sharpi_gguf_close(gguf);
    save_parts("two", 2);
    CU_ASSERT_FATAL(
        succeeded(open_file("two-00001-of-00002.gguf", SHARPI_GGUF_HEADER_ONLY, &gguf, &err), &err));
    CU_ASSERT_PTR_NULL(sharpi_gguf_tensor(gguf, "b")->data);
    sharpi_gguf_close(gguf);
}

static void wrong_part_names_the_first(void)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err;
    save_parts("split", 3);
    CU_ASSERT_EQUAL(open_file("split-00002-of-00003.gguf", 0, &gguf, &err), SHARPI_EINVAL);
    CU_ASSERT(says(&err, "is part 2 of 3 of a split model; open part 1"));
    CU_ASSERT(says(&err, "/split-00001-of-00003.gguf"));
}

static void missing_part_is_named(void)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err;
    save_parts("gap", 4);
    CU_ASSERT_EQUAL(unlink(in_folder("gap-00003-of-00004.gguf")), 0);
    CU_ASSERT_EQUAL(open_file("gap-00001-of-00004.gguf", 0, &gguf, &err), SHARPI_ENOENT);
    CU_ASSERT(says(&err, "/gap-00003-of-00004.gguf is missing: it is part 3 of the 4 parts"));
}

static void renamed_first_part_is_explained(void)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err;
    struct build b = {0};
    build_small_part(&b, 0, 3);
    save(&b, "renamed.gguf");
    CU_ASSERT_EQUAL(open_file("renamed.gguf", 0, &gguf, &err), SHARPI_EINVAL);
    CU_ASSERT(says(&err, "its name does not end in -00001-of-00003.gguf"));
}

static void foreign_part_is_refused(void)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err;
    struct build b = {0};
    save_parts("mixed", 3);
    build_small_part(&b, 1, 4);
    save(&b, "mixed-00002-of-00003.gguf");
    CU_ASSERT_EQUAL(open_file("mixed-00001-of-00003.gguf", 0, &gguf, &err), SHARPI_EFORMAT);
    CU_ASSERT(says(&err, "is named as part 2 of 3, but says it is part 2 of 4"));
    build_small_model(&b, 3);
    save(&b, "mixed-00002-of-00003.gguf");
    CU_ASSERT_EQUAL(open_file("mixed-00001-of-00003.gguf", 0, &gguf, &err), SHARPI_EFORMAT);
    CU_ASSERT(says(&err, "is named as part 2 of 3, but says it is part 1 of 1"));
}

/* The second part of three again, with other tensors. */
static void save_second_part(const char *tensor)
{
    struct build b = {0};
    build_header(&b, 3, tensor ? 1 : 0, 2);
    build_value_u32(&b, "split.no", 1);
    build_value_u32(&b, "split.count", 3);
    if (tensor)
        build_info_1d(&b, tensor, 8, SHARPI_TYPE_F32, 0);
    build_align(&b, 32);
    build_fill(&b, 0, 32);
    save(&b, "odd-00002-of-00003.gguf");
}

static void tensors_of_parts_must_add_up(void)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err;
    save_parts("odd", 3);
    save_second_part(NULL);
    CU_ASSERT_EQUAL(open_file("odd-00001-of-00003.gguf", 0, &gguf, &err), SHARPI_EFORMAT);
    CU_ASSERT(says(&err, "split.tensors.count is 2, but the 3 parts hold 1 tensors"));
    save_second_part("b");
    CU_ASSERT_EQUAL(open_file("odd-00001-of-00003.gguf", 0, &gguf, &err), SHARPI_EFORMAT);
    CU_ASSERT(says(&err, "odd-00003-of-00003.gguf: tensor 'b' occurs twice"));
}

/* Opens all .gguf files of a folder and touches both ends of every tensor. */
static int open_folder(const char *path)
{
    int n = 0;
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".gguf") != 0)
            continue;
        char file[1024];
        struct sharpi_gguf *gguf = NULL;
        struct sharpi_error err = SHARPI_ERROR_INIT;
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        CU_ASSERT(succeeded(sharpi_gguf_open(file, 0, &gguf, &err), &err));
        volatile uint8_t sum = 0;
        for (uint64_t i = 0; gguf && i < sharpi_gguf_n_tensors(gguf); i++) {
            const struct sharpi_tensor *tensor = sharpi_gguf_tensor_at(gguf, i);
            sum += *(const uint8_t *)tensor->data;
            sum += ((const uint8_t *)tensor->data)[tensor->n_bytes - 1];
            CU_ASSERT_PTR_EQUAL(sharpi_gguf_tensor(gguf, tensor->name), tensor);
        }
        CU_ASSERT(gguf && sharpi_gguf_find(gguf, "general.architecture"));
        sharpi_gguf_close(gguf);
        n++;
    }
    if (dir)
        closedir(dir);
    return n;
}

static void model_fixtures_open(void)
{
    const char *shared = getenv("SHARPI_SHARED"), *source = getenv("top_srcdir");
    char path[512];
    int n = 0;
    for (int i = 0; i < 2; i++) {
        const char *sub = i ? "data/vocab" : "fixtures";
        if (shared)
            snprintf(path, sizeof path, "%s/%s", shared, sub);
        else
            snprintf(path, sizeof path, "%s/../shared/%s", source ? source : ".", sub);
        n += open_folder(path);
    }
    printf("(%d files) ", n);
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
    {"file_is_mapped", file_is_mapped},
    {"what_is_no_file_is_explained", what_is_no_file_is_explained},
    {"long_path_leaves_room_for_the_message", long_path_leaves_room_for_the_message},
    {"split_model_opens_as_one", split_model_opens_as_one},
    {"wrong_part_names_the_first", wrong_part_names_the_first},
    {"missing_part_is_named", missing_part_is_named},
    {"renamed_first_part_is_explained", renamed_first_part_is_explained},
    {"foreign_part_is_refused", foreign_part_is_refused},
    {"tensors_of_parts_must_add_up", tensors_of_parts_must_add_up},
    {"model_fixtures_open", model_fixtures_open},
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

static void remove_folder(void)
{
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        unlink(in_folder(entry->d_name));
    if (dir)
        closedir(dir);
    rmdir(folder);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--seeds") == 0)
        return write_seeds(argv[2]);
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/test-gguf-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder) || CU_initialize_registry() != CUE_SUCCESS)
        return EXIT_FAILURE;
    CU_pSuite suite = CU_add_suite("gguf", NULL, NULL);
    for (uint64_t i = 0; suite && i < sizeof tests / sizeof tests[0]; i++)
        CU_add_test(suite, tests[i].name, tests[i].function);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failed = !suite || CU_get_number_of_failures() > 0;
    CU_cleanup_registry();
    remove_folder();
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
