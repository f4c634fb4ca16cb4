/* Saved prefixes as files: what was written comes back, and nothing else does, whatever somebody did to the files. */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CUnit/Basic.h>

#include "core/prompt-cache.h"
#include "core/prompt-file.h"

enum { N_TOKENS = 100, N_BYTES = 50000 };

static char dir[64], stamp[] = "model a, format b";
static struct sharpi_log silent;

static struct sharpi_prompt_cache_options options_of(const char *its_stamp, uint64_t max_bytes)
{
    return (struct sharpi_prompt_cache_options){.dir = dir,
                                                .stamp = its_stamp,
                                                .max_bytes = max_bytes,
                                                .max_tokens = 1000,
                                                .n_classes = 2,
                                                .log = &silent};
}

static struct sharpi_prompt_cache *open_cache(const char *its_stamp, uint64_t max_bytes)
{
    struct sharpi_prompt_cache_options options = options_of(its_stamp, max_bytes);
    struct sharpi_prompt_cache *cache = NULL;
    CU_ASSERT_FATAL(sharpi_prompt_cache_open(&options, &cache, NULL) == 0);
    return cache;
}

/* Tokens and bytes that follow from a number. */
static void fill(int32_t *tokens, uint8_t *bytes, uint32_t seed)
{
    for (uint32_t i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)(seed * 1000 + i);
    for (uint32_t i = 0; bytes && i < N_BYTES; i++)
        bytes[i] = (uint8_t)((i * 7 + seed) >> (i % 3));
}

static void save(struct sharpi_prompt_cache *cache, uint32_t seed)
{
    int32_t tokens[N_TOKENS];
    struct sharpi_prompt_data data = {.n_tokens = N_TOKENS,
                                      .first = {0, 1},
                                      .tokens = tokens,
                                      .n_bytes = N_BYTES,
                                      .bytes = malloc(N_BYTES)};
    CU_ASSERT_FATAL(data.bytes != NULL);
    fill(tokens, data.bytes, seed);
    sharpi_prompt_cache_save(cache, &data);
}

static int32_t load(struct sharpi_prompt_cache *cache, uint32_t i, struct sharpi_prompt_data *data)
{
    int32_t status;
    while ((status = sharpi_prompt_cache_load(cache, i, N_BYTES, data)) == SHARPI_EFULL)
        usleep(1000);
    return status;
}

static uint32_t list(char paths[8][512])
{
    DIR *d = opendir(dir);
    const struct dirent *file;
    uint32_t n = 0;
    while (d && (file = readdir(d)) && n < 8) {
        if (file->d_name[0] != '.')
            snprintf(paths[n++], 512, "%s/%s", dir, file->d_name);
    }
    if (d)
        closedir(d);
    return n;
}

static void clear(void)
{
    char paths[8][512];
    uint32_t n;
    while ((n = list(paths))) {
        while (n)
            unlink(paths[--n]);
    }
}

static void what_was_saved_comes_back(void)
{
    struct sharpi_prompt_cache *cache = open_cache(stamp, 1 << 20);
    struct sharpi_prompt_data data;
    struct stat st;
    int32_t tokens[N_TOKENS];
    uint8_t bytes[N_BYTES];
    char paths[8][512];
    save(cache, 1);
    sharpi_prompt_cache_close(cache); /* finishes writing */
    CU_ASSERT(list(paths) == 1);
    CU_ASSERT(stat(paths[0], &st) == 0 && (st.st_mode & 077) == 0); /* prompts are private */
    cache = open_cache(stamp, 1 << 20);
    CU_ASSERT_FATAL(sharpi_prompt_cache_n(cache) == 1);
    fill(tokens, bytes, 1);
    CU_ASSERT(sharpi_prompt_cache_common(cache, 0, tokens, N_TOKENS, &data) == N_TOKENS);
    CU_ASSERT(data.n_bytes == N_BYTES && data.first[0] == 0 && data.first[1] == 1);
    tokens[30] = 5;
    CU_ASSERT(sharpi_prompt_cache_common(cache, 0, tokens, N_TOKENS, &data) == 30);
    CU_ASSERT_FATAL(load(cache, 0, &data) == 0);
    CU_ASSERT(memcmp(data.bytes, bytes, N_BYTES) == 0);
    sharpi_prompt_cache_unload(cache, 0);
    CU_ASSERT(sharpi_prompt_cache_load(cache, 0, N_BYTES - 1, &data) == SHARPI_EFORMAT); /* of another size */
    CU_ASSERT(sharpi_prompt_cache_common(cache, 0, tokens, N_TOKENS, &data) == 0);
    sharpi_prompt_cache_close(cache);
    clear();
}

static void foreign_files_are_ignored(void)
{
    struct sharpi_prompt_cache *cache = open_cache(stamp, 1 << 20);
    uint64_t saves, refused;
    char path[512];
    save(cache, 1);
    sharpi_prompt_cache_close(cache);
    snprintf(path, sizeof path, "%s/notes.txt", dir);
    fclose(fopen(path, "w"));
    snprintf(path, sizeof path, "%s/0123456789abcdef.kv", dir);
    CU_ASSERT(symlink("/etc/passwd", path) == 0);
    cache = open_cache("model a, format c", 1 << 20);
    CU_ASSERT(sharpi_prompt_cache_n(cache) == 0);
    sharpi_prompt_cache_count(cache, &saves, &refused);
    CU_ASSERT(saves == 0 && refused == 2); /* the link too; other names are not looked at */
    sharpi_prompt_cache_close(cache);
    clear();
}

static void oldest_files_go_first(void)
{
    struct sharpi_prompt_cache *cache = open_cache(stamp, 1 << 20);
    struct sharpi_prompt_data data;
    int32_t tokens[N_TOKENS];
    char paths[8][512];
    struct stat st;
    uint32_t i;
    for (i = 1; i <= 4; i++) {
        struct timespec times[2] = {{.tv_sec = 1000 * i}, {.tv_sec = 1000 * i}};
        save(cache, i);
        sharpi_prompt_cache_close(cache);
        for (uint32_t n = list(paths); n; n--) {
            if (stat(paths[n - 1], &st) == 0 && st.st_mtime > 100000)
                utimensat(AT_FDCWD, paths[n - 1], times, 0);
        }
        cache = open_cache(stamp, 1 << 20);
    }
    sharpi_prompt_cache_close(cache);
    CU_ASSERT(list(paths) == 4 && stat(paths[0], &st) == 0);
    cache = open_cache(stamp, 2 * (uint64_t)st.st_size + 1000);
    CU_ASSERT_FATAL(sharpi_prompt_cache_n(cache) == 2 && list(paths) == 2);
    for (i = 0; i < 2; i++) {
        fill(tokens, NULL, 3);
        if (sharpi_prompt_cache_common(cache, i, tokens, N_TOKENS, &data) == 0) {
            fill(tokens, NULL, 4);
            CU_ASSERT(sharpi_prompt_cache_common(cache, i, tokens, N_TOKENS, &data) == N_TOKENS);
        }
    }
    sharpi_prompt_cache_close(cache);
    clear();
}

/* Reads a file that was tampered with. 1: it came back, as it was written. */
static int32_t read_back(const char *path, const int32_t *tokens, const uint8_t *bytes)
{
    struct sharpi_prompt_cache_options options = options_of(stamp, 1 << 20);
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct prompt_file file;
    int32_t same = 0;
    if (prompt_file_read_head(path, &options, &file, &err)) {
        CU_ASSERT(err.text[0] != 0);
        return 0;
    }
    if (file.data.n_bytes == N_BYTES && prompt_file_read_bytes(path, &file, &err) == 0) {
        same = 1; /* a bit that means nothing to zlib may be another */
        CU_ASSERT(memcmp(file.data.bytes, bytes, N_BYTES) == 0);
        CU_ASSERT(memcmp(file.tokens, tokens, sizeof *tokens * N_TOKENS) == 0);
    }
    free(file.data.bytes);
    free(file.tokens);
    return same;
}

static void write_all(const char *path, const uint8_t *content, size_t n)
{
    FILE *file = fopen(path, "wb");
    CU_ASSERT_FATAL(file && fwrite(content, 1, n, file) == n && fclose(file) == 0);
}

static void tampered_files_never_come_back_changed(void)
{
    struct sharpi_prompt_cache *cache = open_cache(stamp, 1 << 20);
    int32_t tokens[N_TOKENS];
    uint8_t bytes[N_BYTES], *content;
    char paths[8][512];
    uint32_t n, at, came_back = 0;
    FILE *file = NULL;
    fill(tokens, bytes, 1);
    save(cache, 1);
    sharpi_prompt_cache_close(cache);
    CU_ASSERT_FATAL(list(paths) == 1 && (file = fopen(paths[0], "rb")));
    content = malloc(1 << 20);
    CU_ASSERT_FATAL(content != NULL);
    n = (uint32_t)fread(content, 1, 1 << 20, file);
    fclose(file);
    CU_ASSERT(read_back(paths[0], tokens, bytes) == 1);
    for (at = 0; at < n;
         at += at < 600 ? 1 : 97) { /* every byte of what stands before the bytes, and some of them */
        for (uint32_t bit = 0; bit < 8; bit += 3) {
            content[at] ^= (uint8_t)(1u << bit);
            write_all(paths[0], content, n);
            came_back += (uint32_t)read_back(paths[0], tokens, bytes);
            content[at] ^= (uint8_t)(1u << bit);
        }
    }
    CU_ASSERT(came_back < 10);
    for (at = 0; at < n; at += 1 + n / 200) { /* cut short */
        write_all(paths[0], content, at);
        CU_ASSERT(read_back(paths[0], tokens, bytes) == 0);
    }
    memset(content + n, 7, 100); /* and too long */
    write_all(paths[0], content, n + 100);
    CU_ASSERT(read_back(paths[0], tokens, bytes) == 0);
    free(content);
    clear();
}

int main(void)
{
    unsigned failures;
    CU_pSuite suite;
    snprintf(dir, sizeof dir, "/tmp/test-prompt-cache-XXXXXX");
    if (!mkdtemp(dir) || sharpi_log_init(&silent, NULL, NULL, 0))
        return 1;
    CU_initialize_registry();
    suite = CU_add_suite("prompt-cache", NULL, NULL);
    CU_add_test(suite, "what was saved comes back", what_was_saved_comes_back);
    CU_add_test(suite, "foreign files are ignored", foreign_files_are_ignored);
    CU_add_test(suite, "oldest files go first", oldest_files_go_first);
    CU_add_test(suite, "tampered files never come back changed", tampered_files_never_come_back_changed);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    sharpi_log_finish(&silent);
    clear();
    rmdir(dir);
    return failures ? 1 : 0;
}
