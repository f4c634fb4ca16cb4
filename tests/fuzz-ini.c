/* Fuzzing what is read as an ini file: the configuration with its checks, and the catalogue of models.
 *
 * The input is one file. Whatever it says, reading it twice must give the same values, a value that passed the checks must
 * have its type, and a model that the catalogue hands out must be safe to fetch: a plain file name and a whole sum.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/catalogue.h"
#include "core/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int32_t condition)
{
    if (!condition)
        abort();
}

static void use_settings(const char *path)
{
    struct sharpi_settings *a = NULL, *b = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t first, second;
    check(sharpi_settings_create(&a, &err) == SHARPI_OK && sharpi_settings_create(&b, &err) == SHARPI_OK);
    first = sharpi_settings_read_file(a, path, &err);
    check(first == SHARPI_OK || err.text[0] != '\0');
    second = sharpi_settings_read_file(b, path, &err);
    check(first == second && sharpi_settings_count(a) == sharpi_settings_count(b));
    for (uint32_t i = 0; i < sharpi_settings_count(a); i++) {
        const struct sharpi_setting *s = sharpi_settings_at(a, i);
        const char *other = sharpi_settings_get(b, s->section, s->key);
        check(other && strcmp(other, s->value) == 0);
    }
    if (!first && sharpi_settings_override(a, "model.chunk=64", &err) == SHARPI_OK &&
        sharpi_settings_check_core(a, &err) == SHARPI_OK) {
        check(sharpi_settings_uint(a, "model", "chunk", 0) == 64);
        sharpi_settings_uint(a, "model", "context", 0);
        sharpi_settings_bool(a, "model", "repack", 1);
    }
    sharpi_settings_check_plugin(a, "backend-cpu", NULL, &err);
    sharpi_settings_destroy(a);
    sharpi_settings_destroy(b);
}

static void use_catalogue(const char *path)
{
    struct catalogue *c = NULL;
    struct catalogue_model m, again;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    if (catalogue_open(path, &c, &err))
        return;
    for (uint32_t i = 0; i < 64; i++) {
        int32_t status = catalogue_at(c, i, &m, &err);
        if (status == SHARPI_ENOENT)
            break;
        if (status)
            continue;
        check(!strchr(m.file, '/') && m.file[0] != '.' && strlen(m.sha256) == 64 && m.bytes > 0);
        check(m.n_sources >= 1 && m.n_sources <= CATALOGUE_SOURCES);
        check(catalogue_find(c, m.name, &again, &err) == SHARPI_OK && again.bytes == m.bytes);
    }
    catalogue_find(c, "gemma3-270n", &m, &err);
    catalogue_close(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[32];
    int fd = memfd_create("fuzz.ini", MFD_CLOEXEC);
    check(fd >= 0);
    if (write(fd, data, size) == (ssize_t)size) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        use_settings(path);
        use_catalogue(path);
    }
    close(fd);
    return 0;
}
