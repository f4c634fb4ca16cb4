/* Tests of the GGUF reader on files: mapping, what is no regular file, split models, the model fixtures if there are any. */
#include "gguf-build.h"
#include "gguf-check.h"

#include <CUnit/Basic.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[256]; /* where tests write files; removed at the end */

static const char *in_folder(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

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

static void unreadable_file_says_why(void)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err;
    CU_ASSERT_EQUAL(symlink("loop", in_folder("loop")), 0);
    CU_ASSERT_EQUAL(open_file("loop", 0, &gguf, &err), SHARPI_EIO);
    CU_ASSERT(says(&err, "/loop: cannot be opened: "));
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

static volatile uint8_t sink;

/* The linker sends the reader's allocations here (--wrap). The n-th from now on fails; negative: none does. */
static int allocations_left = -1;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t n);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t n);
char *__wrap_strdup(const char *text);

static int is_out_of_memory(void)
{
    return allocations_left >= 0 && allocations_left-- == 0;
}

void *__wrap_malloc(size_t n)
{
    return is_out_of_memory() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return is_out_of_memory() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t n)
{
    return is_out_of_memory() ? NULL : __real_realloc(old, n);
}

char *__wrap_strdup(const char *text)
{
    return is_out_of_memory() ? NULL : __real_strdup(text);
}

static void lack_of_memory_is_an_error(void)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err;
    int32_t status = SHARPI_ENOMEM;
    int n = 0;
    save_parts("memory", 3);
    for (; status == SHARPI_ENOMEM && n < 100; n++) {
        allocations_left = n;
        status = open_file("memory-00001-of-00003.gguf", 0, &gguf, &err);
        allocations_left = -1;
        CU_ASSERT(status == 0 || (status == SHARPI_ENOMEM && !gguf && says(&err, "no memory")));
    }
    CU_ASSERT(n > 20); /* allocations failed one by one, until none did */
    CU_ASSERT(succeeded(status, &err));
    sharpi_gguf_close(gguf);
}

static void lack_of_memory_for_bytes_or_strings_is_an_error(void)
{
    struct build b = {0};
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_str *strings = NULL;
    uint64_t n = 0;
    build_all_values(&b);
    allocations_left = 0;
    CU_ASSERT_EQUAL(sharpi_gguf_open_memory(b.bytes, b.n, "bytes", 0, &gguf, &err), SHARPI_ENOMEM);
    allocations_left = -1;
    CU_ASSERT_FATAL(succeeded(sharpi_gguf_open_memory(b.bytes, b.n, "bytes", 0, &gguf, &err), &err));
    allocations_left = 0;
    CU_ASSERT_EQUAL(sharpi_gguf_strings(gguf, "array.string", &strings, &n, &err), SHARPI_ENOMEM);
    allocations_left = -1;
    CU_ASSERT(strings == NULL && says(&err, "no memory for the 3 strings of 'array.string'"));
    sharpi_gguf_close(gguf);
    build_free(&b);
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
        for (uint64_t i = 0; gguf && i < sharpi_gguf_n_tensors(gguf); i++) {
            const struct sharpi_tensor *tensor = sharpi_gguf_tensor_at(gguf, i);
            sink ^= *(const uint8_t *)tensor->data;
            sink ^= ((const uint8_t *)tensor->data)[tensor->n_bytes - 1];
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

static const struct {
    const char *name;
    void (*function)(void);
} tests[] = {
    {"file_is_mapped", file_is_mapped},
    {"what_is_no_file_is_explained", what_is_no_file_is_explained},
    {"long_path_leaves_room_for_the_message", long_path_leaves_room_for_the_message},
    {"split_model_opens_as_one", split_model_opens_as_one},
    {"wrong_part_names_the_first", wrong_part_names_the_first},
    {"missing_part_is_named", missing_part_is_named},
    {"renamed_first_part_is_explained", renamed_first_part_is_explained},
    {"foreign_part_is_refused", foreign_part_is_refused},
    {"tensors_of_parts_must_add_up", tensors_of_parts_must_add_up},
    {"unreadable_file_says_why", unreadable_file_says_why},
    {"lack_of_memory_is_an_error", lack_of_memory_is_an_error},
    {"lack_of_memory_for_bytes_or_strings_is_an_error", lack_of_memory_for_bytes_or_strings_is_an_error},
    {"model_fixtures_open", model_fixtures_open},
};

static void remove_folder(void)
{
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        unlink(in_folder(entry->d_name));
    if (dir)
        closedir(dir);
    rmdir(folder);
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/test-gguf-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder) || CU_initialize_registry() != CUE_SUCCESS)
        return EXIT_FAILURE;
    CU_pSuite suite = CU_add_suite("gguf-files", NULL, NULL);
    for (uint64_t i = 0; suite && i < sizeof tests / sizeof tests[0]; i++)
        CU_add_test(suite, tests[i].name, tests[i].function);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failed = !suite || CU_get_number_of_failures() > 0;
    CU_cleanup_registry();
    remove_folder();
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
