/* The catalogue of models: see catalogue.h. The settings' reader reads the file, with its limits and its messages. */
#include "catalogue.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/nearest.h"
#include "core/settings.h"

#ifndef SHARPI_DATADIR
#define SHARPI_DATADIR "/usr/share/sharpi"
#endif

enum { MAX_MODELS = 1024 };

struct catalogue {
    struct sharpi_settings *ini;
    const char *path;
    uint32_t n;
    const char *names[MAX_MODELS]; /* sorted */
};

/* ---- Finding the file */

/* `relative` to the folder that the program is in. */
static int beside_program(const char *relative, char path[PATH_MAX])
{
    char program[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    char *slash;
    if (n <= 0)
        return 0;
    program[n] = '\0';
    slash = strrchr(program, '/');
    if (!slash)
        return 0;
    *slash = '\0';
    return snprintf(path, PATH_MAX, "%s/%s", program, relative) < PATH_MAX && access(path, R_OK) == 0;
}

static const char *default_path(char path[PATH_MAX])
{
    const char *named = secure_getenv("SHARPI_CATALOGUE");
    if (named && *named)
        return named;
    if (beside_program("../share/sharpi/models.ini", path))
        return path;
    if (access(SHARPI_DATADIR "/models.ini", R_OK) != 0 && beside_program("../data/models.ini", path))
        return path;
    return SHARPI_DATADIR "/models.ini";
}

/* ---- Reading */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int32_t collect_names(struct catalogue *c, struct sharpi_error *err)
{
    for (uint32_t i = 0; i < sharpi_settings_count(c->ini); i++) {
        const char *section = sharpi_settings_at(c->ini, i)->section;
        uint32_t k = 0;
        while (k < c->n && strcmp(c->names[k], section) != 0)
            k++;
        if (k == MAX_MODELS)
            return sharpi_fail(err, SHARPI_EFORMAT, "%s has more than %d models", c->path, MAX_MODELS);
        c->names[k] = section;
        c->n = k < c->n ? c->n : k + 1;
    }
    if (c->n)
        qsort(c->names, c->n, sizeof *c->names, by_name);
    return SHARPI_OK;
}

int32_t catalogue_open(const char *path, struct catalogue **out, struct sharpi_error *err)
{
    char buffer[PATH_MAX] = "";
    struct catalogue *c = calloc(1, sizeof *c);
    int32_t status;
    if (!c)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the catalogue");
    status = sharpi_settings_create(&c->ini, err);
    if (!status)
        status = sharpi_settings_read_file(c->ini, path ? path : default_path(buffer), err);
    if (!status) {
        c->path = sharpi_settings_file(c->ini, 0);
        status = collect_names(c, err);
    }
    if (status)
        catalogue_close(c);
    else
        *out = c;
    return status;
}

void catalogue_close(struct catalogue *c)
{
    if (c)
        sharpi_settings_destroy(c->ini);
    free(c);
}

int is_plain_file_name(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n > 200 || *name == '.' || strchr(name, '/'))
        return 0;
    for (; *name; name++) {
        if ((unsigned char)*name < 0x20 || *name == 0x7f)
            return 0;
    }
    return 1;
}

int is_sha256(const char *text)
{
    return strlen(text) == SHA256_DIGITS && strspn(text, "0123456789abcdefABCDEF") == SHA256_DIGITS;
}

static int32_t fail_key(const struct catalogue *c, const char *name, const char *key, const char *want,
                        struct sharpi_error *err)
{
    const char *value = sharpi_settings_get(c->ini, name, key);
    return sharpi_fail(err, SHARPI_EFORMAT, "%s: [%s] %s = %s: %s is needed", c->path, name, key,
                       value ? value : "(not there)", want);
}

int32_t catalogue_at(const struct catalogue *c, uint32_t index, struct catalogue_model *m,
                     struct sharpi_error *err)
{
    const char *bytes, *name;
    if (index >= c->n)
        return SHARPI_ENOENT;
    name = c->names[index];
    *m = (struct catalogue_model){.name = name};
    m->title = sharpi_settings_string(c->ini, name, "title", name);
    m->license = sharpi_settings_string(c->ini, name, "license", "not stated");
    m->file = sharpi_settings_get(c->ini, name, "file");
    m->sha256 = sharpi_settings_get(c->ini, name, "sha256");
    bytes = sharpi_settings_get(c->ini, name, "bytes");
    if (!m->file || !is_plain_file_name(m->file))
        return fail_key(c, name, "file", "a plain file name", err);
    if (!m->sha256 || !is_sha256(m->sha256))
        return fail_key(c, name, "sha256", "a sum of 64 digits", err);
    if (!bytes || sharpi_parse_uint(bytes, &m->bytes) || m->bytes == 0)
        return fail_key(c, name, "bytes", "the size of the file", err);
    for (; m->n_sources < CATALOGUE_SOURCES; m->n_sources++) {
        char key[16];
        snprintf(key, sizeof key, "source.%u", m->n_sources + 1);
        m->sources[m->n_sources] = sharpi_settings_get(c->ini, name, key);
        if (!m->sources[m->n_sources])
            break;
    }
    return m->n_sources ? SHARPI_OK : fail_key(c, name, "source.1", "where it comes from", err);
}

int32_t catalogue_find(const struct catalogue *c, const char *name, struct catalogue_model *m,
                       struct sharpi_error *err)
{
    const char *nearest;
    for (uint32_t i = 0; i < c->n; i++) {
        if (strcmp(c->names[i], name) == 0)
            return catalogue_at(c, i, m, err);
    }
    nearest = sharpi_nearest(name, c->names, c->n);
    if (nearest)
        return sharpi_fail(err, SHARPI_ENOENT, "no model '%s' in %s; did you mean '%s'?", name, c->path,
                           nearest);
    return sharpi_fail(err, SHARPI_ENOENT, "no model '%s' in %s; 'sharpi pull --list' shows them", name,
                       c->path);
}
