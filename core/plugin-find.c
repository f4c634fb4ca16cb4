/* Where plugins are: the directories of SHARPI_PLUGIN_PATH, then the directory beside this library (so that an unpacked
 * bundle uses its own plugins wherever it lies), and when that does not exist the one fixed at build time.
 *
 * Invariant: a name without directory is never looked for in the current directory, nor anywhere relative to it.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine.h"
#include "plugins-internal.h"

#ifndef SHARPI_PLUGINDIR
#define SHARPI_PLUGINDIR "/usr/local/lib/sharpi"
#endif

int32_t sharpi_plugin_set(char **string, const char *text, struct sharpi_error *err)
{
    char *copy = strdup(text);
    if (!copy)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a plugin's description");
    free(*string);
    *string = copy;
    return SHARPI_OK;
}

static int32_t add_tried(struct sharpi_plugin_record *record, const char *path, struct sharpi_error *err)
{
    size_t old = strlen(record->tried), n = strlen(path);
    char *grown = realloc(record->tried, old + n + 2);
    if (!grown)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to look for a plugin");
    record->tried = grown;
    if (old)
        grown[old++] = '\n';
    memcpy(grown + old, path, n + 1);
    return SHARPI_OK;
}

/* SHARPI_OK: the file exists, record->path names it. SHARPI_ENOENT: it does not. A file that exists but is not
 * accessible is found too: dlopen then says why, instead of another file being loaded silently. */
static int32_t try_file(struct sharpi_plugin_record *record, const char *path, struct sharpi_error *err)
{
    struct stat info;
    int32_t status = add_tried(record, path, err);
    if (status)
        return status;
    if (stat(path, &info) != 0 && (errno == ENOENT || errno == ENOTDIR))
        return SHARPI_ENOENT;
    return sharpi_plugin_set(&record->path, path, err);
}

static int32_t try_directory(struct sharpi_plugin_record *record, const char *directory, size_t n,
                             struct sharpi_error *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%.*s/%s.so", (int)n, directory, record->name) >= PATH_MAX)
        return SHARPI_ENOENT;
    return try_file(record, path, err);
}

static int32_t try_search_path(struct sharpi_engine *engine, struct sharpi_plugin_record *record,
                               struct sharpi_error *err)
{
    const char *at = secure_getenv("SHARPI_PLUGIN_PATH");
    int32_t status = SHARPI_ENOENT;
    while (at && *at && status == SHARPI_ENOENT) {
        size_t n = strcspn(at, ":");
        if (at[0] == '/' && n < PATH_MAX)
            status = try_directory(record, at, n, err);
        else if (n > 0)
            sharpi_log_printf(&engine->log, SHARPI_LOG_WARN, "plugins",
                              "SHARPI_PLUGIN_PATH: '%.*s' is not used: only absolute paths are",
                              n > 200 ? 200 : (int)n, at);
        at += n + (at[n] == ':');
    }
    return status;
}

static int is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Absolute path of the file that holds this code: libsharpi, or a program that it is linked into. 0 when it is not known.
 * The linker's name of a program is whatever its parent chose as argv[0], so the system is asked for that. */
static int own_file(char *path, size_t n)
{
    Dl_info own, program;
    if (!dladdr((const void *)(uintptr_t)sharpi_version, &own))
        return 0;
    if (dladdr((const void *)getauxval(AT_ENTRY), &program) && program.dli_fbase == own.dli_fbase) {
        ssize_t length = readlink("/proc/self/exe", path, n - 1);
        path[length > 0 ? length : 0] = '\0';
    } else {
        snprintf(path, n, "%s", own.dli_fname ? own.dli_fname : "");
    }
    return path[0] == '/' && strlen(path) < n - 1;
}

/* LIBDIR/sharpi beside libsharpi, or ../lib/sharpi seen from a program that contains it. 0 when there is none. */
static int own_directory(char *path, size_t n)
{
    char *slash;
    size_t left;
    if (!own_file(path, n))
        return 0;
    slash = strrchr(path, '/');
    left = n - (size_t)(slash - path);
    if (snprintf(slash, left, "/sharpi") < (int)left && is_directory(path))
        return 1;
    return snprintf(slash, left, "/../lib/sharpi") < (int)left && is_directory(path);
}

/* Letters, digits, '-', '_' and '.', not first. */
static int is_plugin_name(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");
    return n > 0 && n < 64 && !name[n] && name[0] != '.' && name[0] != '-';
}

int32_t sharpi_plugin_find_file(struct sharpi_engine *engine, const char *listed,
                                struct sharpi_plugin_record *record, struct sharpi_error *err)
{
    char own[PATH_MAX];
    int32_t status;
    if (listed[0] != '/' && !is_plugin_name(listed))
        return sharpi_fail(err, SHARPI_EINVAL, "'%.200s' is neither a plugin's name nor an absolute path",
                           listed);
    if (listed[0] == '/') {
        status = try_file(record, listed, err);
    } else {
        status = try_search_path(engine, record, err);
        if (status == SHARPI_ENOENT) {
            if (!own_directory(own, sizeof own))
                snprintf(own, sizeof own, "%s", SHARPI_PLUGINDIR);
            status = try_directory(record, own, strlen(own), err);
        }
    }
    if (status == SHARPI_ENOENT)
        return sharpi_fail(err, status, "no such file");
    return status;
}
