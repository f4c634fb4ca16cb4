/* A model's file as architecture plugins see it: keys with the architecture in front, conversions, memory of its own. */
#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/model-file.h"
#include "tests/gguf-build.h"

static struct build bytes;
static struct sharpi_model_file *file;

static void add_values(struct build *b)
{
    build_value_str(b, "general.architecture", "toy");
    build_value_str(b, "general.name", "a toy model");
    build_value_u32(b, "toy.block_count", 7);
    build_key(b, "toy.scale", SHARPI_GGUF_F32);
    build_f32(b, 0.5f);
    build_key(b, "toy.offset", SHARPI_GGUF_I32);
    build_u32(b, (uint32_t)-3);
    build_array(b, "toy.windows", SHARPI_GGUF_U32, 3);
    build_u32(b, 10);
    build_u32(b, 20);
    build_u32(b, 30);
    build_key(b, "toy.nul", SHARPI_GGUF_STRING);
    build_u64(b, 3);
    build_bytes(b, "a\0b", 3);
}

static int open_toy(void)
{
    struct sharpi_gguf *gguf;
    build_header(&bytes, 3, 0, 7);
    add_values(&bytes);
    return sharpi_gguf_open_memory(bytes.bytes, bytes.n, "toy.gguf", 0, &gguf, NULL) ||
           sharpi_model_file_adopt(gguf, &file, NULL);
}

static int close_toy(void)
{
    sharpi_model_file_close(file);
    build_free(&bytes);
    return 0;
}

static void dot_means_the_architecture(void)
{
    uint64_t value = 0;
    const char *text = NULL;
    CU_ASSERT_STRING_EQUAL(sharpi_model_file_arch(file), "toy");
    CU_ASSERT_STRING_EQUAL(sharpi_model_file_path(file), "toy.gguf");
    CU_ASSERT_EQUAL(sharpi_model_file_u64(file, ".block_count", &value, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(value, 7);
    CU_ASSERT_EQUAL(sharpi_model_file_u64(file, "toy.block_count", &value, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_model_file_u64(file, "block_count", &value, NULL), SHARPI_ENOENT);
    CU_ASSERT_EQUAL(sharpi_model_file_string(file, "general.name", &text, NULL), SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(text, "a toy model");
}

static void absent_keys_leave_everything_as_it_was(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    char longest[400] = ".";
    uint64_t value = 99, n = 77;
    double number = 1.5;
    const char *text = "before";
    memset(longest + 1, 'k', sizeof longest - 2);
    CU_ASSERT_EQUAL(sharpi_model_file_u64(file, ".none", &value, &err), SHARPI_ENOENT);
    CU_ASSERT_EQUAL(sharpi_model_file_u64(file, longest, &value, &err), SHARPI_ENOENT);
    CU_ASSERT_EQUAL(sharpi_model_file_f64(file, ".none", &number, &err), SHARPI_ENOENT);
    CU_ASSERT_EQUAL(sharpi_model_file_string(file, ".none", &text, &err), SHARPI_ENOENT);
    CU_ASSERT_EQUAL(sharpi_model_file_array_u64(file, ".none", 0, &value, &n, &err), SHARPI_ENOENT);
    CU_ASSERT_EQUAL(sharpi_model_file_array_f64(file, ".none", 0, &number, &n, &err), SHARPI_ENOENT);
    CU_ASSERT(value == 99 && n == 77 && number == 1.5 && strcmp(text, "before") == 0 && err.text[0] == 0);
    CU_ASSERT_PTR_NULL(sharpi_model_file_tensor(file, "none"));
}

static void other_types_are_refused_with_the_key(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint64_t value;
    const char *text;
    CU_ASSERT_EQUAL(sharpi_model_file_u64(file, "general.name", &value, &err), SHARPI_EFORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "general.name"));
    CU_ASSERT_EQUAL(sharpi_model_file_u64(file, ".offset", &value, &err), SHARPI_EFORMAT); /* negative */
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "toy.offset"));
    CU_ASSERT_EQUAL(sharpi_model_file_string(file, ".block_count", &text, &err), SHARPI_EFORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "toy.block_count"));
    CU_ASSERT_EQUAL(sharpi_model_file_string(file, ".nul", &text, &err), SHARPI_EFORMAT);
    CU_ASSERT_STRING_EQUAL(err.text, "toy.gguf: toy.nul has a NUL byte");
}

static void scalar_answers_every_index_of_an_array(void)
{
    uint64_t value = 0, n = 9;
    double number = 0;
    CU_ASSERT_EQUAL(sharpi_model_file_array_u64(file, ".windows", 2, &value, &n, NULL), SHARPI_OK);
    CU_ASSERT(value == 30 && n == 3);
    CU_ASSERT_NOT_EQUAL(sharpi_model_file_array_u64(file, ".windows", 3, &value, NULL, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_model_file_array_u64(file, ".block_count", 1000, &value, &n, NULL), SHARPI_OK);
    CU_ASSERT(value == 7 && n == 0);
    CU_ASSERT_EQUAL(sharpi_model_file_array_f64(file, ".windows", 0, &number, NULL, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(number, 10.0);
    CU_ASSERT_EQUAL(sharpi_model_file_array_f64(file, ".scale", 5, &number, &n, NULL), SHARPI_OK);
    CU_ASSERT(number == 0.5 && n == 0);
}

static void *allocate_often(void *user)
{
    (void)user;
    for (uint64_t i = 0; i < 500; i++) {
        unsigned char *memory = sharpi_model_file_alloc(file, i);
        if (!memory || (uintptr_t)memory % 64 != 0)
            return "failed";
        for (uint64_t j = 0; j < i; j++) {
            if (memory[j])
                return "not zero";
        }
        memset(memory, 0xff, i);
    }
    return NULL;
}

static void memory_comes_zeroed_from_any_thread(void)
{
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, allocate_often, NULL), 0);
    for (int i = 0; i < 3; i++) {
        void *failure;
        pthread_join(threads[i], &failure);
        CU_ASSERT_PTR_NULL(failure);
    }
    CU_ASSERT_PTR_NULL(sharpi_model_file_alloc(file, UINT64_MAX));
    CU_ASSERT_PTR_NULL(sharpi_model_file_alloc(file, INT64_MAX));
}

static void file_without_architecture_is_refused(void)
{
    struct build b = {0};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_gguf *gguf;
    struct sharpi_model_file *none;
    build_header(&b, 3, 0, 1);
    build_value_str(&b, "general.name", "nameless");
    CU_ASSERT_EQUAL_FATAL(sharpi_gguf_open_memory(b.bytes, b.n, "x.gguf", 0, &gguf, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_model_file_adopt(gguf, &none, &err), SHARPI_EFORMAT);
    CU_ASSERT_PTR_NULL(none);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "x.gguf: no general.architecture"));
    build_free(&b);
    CU_ASSERT_NOT_EQUAL(sharpi_model_file_open("/nowhere.gguf", 0, &none, &err), SHARPI_OK);
    CU_ASSERT_PTR_NULL(none);
    sharpi_model_file_close(NULL);
}

static const CU_TestInfo tests[] = {
    {"dot_means_the_architecture", dot_means_the_architecture},
    {"absent_keys_leave_everything_as_it_was", absent_keys_leave_everything_as_it_was},
    {"other_types_are_refused_with_the_key", other_types_are_refused_with_the_key},
    {"scalar_answers_every_index_of_an_array", scalar_answers_every_index_of_an_array},
    {"memory_comes_zeroed_from_any_thread", memory_comes_zeroed_from_any_thread},
    {"file_without_architecture_is_refused", file_without_architecture_is_refused},
    CU_TEST_INFO_NULL,
};

int main(void)
{
    CU_SuiteInfo suites[] = {{"model-file", open_toy, close_toy, NULL, NULL, (CU_TestInfo *)tests},
                             CU_SUITE_INFO_NULL};
    unsigned failures;
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
