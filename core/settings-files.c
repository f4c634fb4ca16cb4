/* Reading sharpi.ini files: inih splits lines, this file adds line numbers, limits and the order of files.
 *
 * A file is at most 1 MiB of text without NUL bytes, lines at most MAX_LINE bytes (inih's buffer). An indented line
 * continues the value above it. A key may be set once per file.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "settings-internal.h"

#ifndef SHARPI_SYSCONFDIR
#define SHARPI_SYSCONFDIR "/etc"
#endif

enum {
    MAX_FILE = 1024 * 1024,
    MAX_LINE = 195,  /* INI_MAX_LINE is 200, with line end and NUL */
    MAX_NAME = 48,   /* inih cuts longer section names silently */
    MAX_VALUE = 8192 /* continued lines together */
};

/* A file while inih reads it. `line` is where the line that inih has now begins. */
struct reading {
    struct sharpi_settings *settings;
    const char *path;
    const char *line, *next;
    uint32_t line_number;
    int32_t after_key; /* an indented line would continue a value */
    int32_t status;
    uint32_t failed_line; /* where status comes from */
    struct sharpi_error *err;
};

static int is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* inih's reader function: the next line, never longer than its buffer because check_text looked before. */
static char *next_line(char *buffer, int n, void *user)
{
    struct reading *r = user;
    const char *end;
    size_t length;
    if (!*r->next)
        return NULL;
    end = strchr(r->next, '\n');
    length = end ? (size_t)(end - r->next) + 1 : strlen(r->next);
    if (length > (size_t)n - 1)
        length = (size_t)n - 1;
    r->line = r->next;
    r->line_number++;
    memcpy(buffer, r->next, length);
    buffer[length] = '\0';
    r->next += length;
    for (end = buffer; is_blank(*end); end++)
        ;
    if (*end == '[')
        r->after_key = 0;
    return buffer;
}

/* "word =" at the start of a continuation line: somebody indented a new key. */
static int looks_like_key(const char *text)
{
    size_t n = strcspn(text, " \t=");
    return n > 0 && n <= MAX_NAME && text[n + strspn(text + n, " \t")] == '=';
}

static int fail(struct reading *r, const char *what, const char *name)
{
    if (!r->status)
        r->status =
            sharpi_fail(r->err, SHARPI_EFORMAT, "%s:%u: %s'%.60s'", r->path, r->line_number, what, name);
    return 0;
}

/* The line belongs to the value above: joined with one space. */
static int continue_value(struct reading *r, const char *section, const char *key, const char *text)
{
    struct settings_entry *entry = sharpi_settings_find(r->settings, section, key);
    const char *comment = strstr(text, " ;");
    size_t n = comment ? (size_t)(comment - text) : strlen(text), old;
    char *joined;
    if (looks_like_key(text))
        return fail(r, "an indented line continues the value above; begin a key in the first column: ", text);
    if (!entry || entry->rank != SETTINGS_RANK_FILE)
        return 1;
    old = strlen(entry->shown.value);
    if (old + n > MAX_VALUE)
        return fail(r, "the value is longer than 8192 bytes: ", key);
    while (n > 0 && is_blank(text[n - 1]))
        n--;
    joined = realloc(entry->shown.value, old + n + 2);
    if (!joined) {
        r->status = sharpi_fail(r->err, SHARPI_ENOMEM, "%s: no memory for the configuration", r->path);
        return 0;
    }
    entry->shown.value = joined;
    if (old)
        joined[old++] = ' ';
    memcpy(joined + old, text, n);
    joined[old + n] = '\0';
    return 1;
}

static int take_line(struct reading *r, const char *section, const char *key, const char *value)
{
    const struct settings_entry *old;
    char origin[PATH_MAX + 16];
    size_t n_path = strlen(r->path);
    if (is_blank(r->line[0]) && r->after_key)
        return continue_value(r, section, key, value);
    r->after_key = 1;
    if (!*section)
        return fail(r, "a key needs a [section] above it: ", key);
    if (strlen(section) > MAX_NAME)
        return fail(r, "a section's name has at most 48 bytes: ", section);
    if (!*key || strlen(key) > MAX_NAME)
        return fail(r, "a key has 1 to 48 bytes: ", key);
    old = sharpi_settings_find(r->settings, section, key);
    if (old && strncmp(old->shown.origin, r->path, n_path) == 0 && old->shown.origin[n_path] == ':')
        return fail(r, "set twice in this file: ", key);
    snprintf(origin, sizeof origin, "%s:%u", r->path, r->line_number);
    r->status = sharpi_settings_set(r->settings, section, key, value, origin, SETTINGS_RANK_FILE, r->err);
    return r->status == 0;
}

/* inih's handler: 1 to go on. */
static int take_value(void *user, const char *section, const char *key, const char *value)
{
    struct reading *r = user;
    int went_well;
    if (r->status)
        return 0;
    went_well = take_line(r, section, key, value);
    if (!went_well)
        r->failed_line = r->line_number;
    return went_well;
}

/* NUL bytes and long lines, before inih sees them. */
static int32_t check_text(const char *path, const char *text, size_t n, struct sharpi_error *err)
{
    const char *line = text;
    if (strlen(text) != n)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s: has a NUL byte: not a text file", path);
    for (uint32_t number = 1; *line; number++) {
        size_t length = strcspn(line, "\n");
        if (length > MAX_LINE)
            return sharpi_fail(err, SHARPI_EFORMAT,
                               "%s:%u: %zu bytes in a line, %d are possible; continue a long value in the "
                               "next line, indented",
                               path, number, length, MAX_LINE);
        line += length + (line[length] == '\n');
    }
    return SHARPI_OK;
}

/* *text is new and NUL-terminated. */
static int32_t read_text(const char *path, char **text, size_t *n, struct sharpi_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    ssize_t got = 1;
    int error;
    *n = 0;
    *text = NULL;
    if (fd < 0)
        return sharpi_fail(err, errno == ENOENT || errno == ENOTDIR ? SHARPI_ENOENT : SHARPI_EIO,
                           "%s: cannot be read: %s", path, strerror(errno));
    *text = malloc(MAX_FILE + 2);
    while (*text && got > 0 && *n <= MAX_FILE) {
        got = read(fd, *text + *n, MAX_FILE + 1 - *n);
        if (got > 0)
            *n += (size_t)got;
    }
    error = errno;
    close(fd);
    if (*text && got >= 0 && *n <= MAX_FILE) {
        (*text)[*n] = '\0';
        return SHARPI_OK;
    }
    if (!*text)
        return sharpi_fail(err, SHARPI_ENOMEM, "%s: no memory to read it", path);
    free(*text);
    *text = NULL;
    if (got < 0)
        return sharpi_fail(err, SHARPI_EIO, "%s: cannot be read: %s", path, strerror(error));
    return sharpi_fail(err, SHARPI_EFORMAT, "%s: larger than 1 MiB: not a configuration file", path);
}

int32_t sharpi_settings_read_file(struct sharpi_settings *settings, const char *path,
                                  struct sharpi_error *err)
{
    struct reading r = {.settings = settings, .path = path, .err = err};
    char *text;
    size_t n;
    int bad_line;
    int32_t status = read_text(path, &text, &n, err);
    if (status)
        return status;
    status = check_text(path, text, n, err);
    if (!status)
        status = sharpi_settings_push(&settings->files, &settings->n_files, path, err);
    if (!status) {
        r.line = r.next = text;
        bad_line = ini_parse_stream(next_line, &r, take_value, &r);
        status = r.status;
        /* inih goes on after a line that it cannot read, so what failed later does not count. */
        if (bad_line < 0 || (bad_line > 0 && (!status || (uint32_t)bad_line < r.failed_line)))
            status = sharpi_fail(
                err, bad_line > 0 ? SHARPI_EFORMAT : SHARPI_ENOMEM,
                "%s:%d: neither [section], nor key = value, nor a comment (which begins with ; or #)", path,
                bad_line);
    }
    free(text);
    return status;
}

static int32_t read_if_there(struct sharpi_settings *settings, const char *path, struct sharpi_error *err)
{
    struct sharpi_error quiet = SHARPI_ERROR_INIT;
    int32_t status = sharpi_settings_read_file(settings, path, &quiet);
    if (status == SHARPI_ENOENT)
        return SHARPI_OK;
    return status ? sharpi_fail(err, status, "%s", quiet.text) : SHARPI_OK;
}

static int is_ini(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return entry->d_name[0] != '.' && n > 4 && strcmp(entry->d_name + n - 4, ".ini") == 0;
}

/* By bytes, in every locale the same. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int32_t read_directory(struct sharpi_settings *settings, const char *directory,
                              struct sharpi_error *err)
{
    struct dirent **names;
    char path[PATH_MAX];
    int32_t status = SHARPI_OK;
    int n = scandir(directory, &names, is_ini, by_name);
    if (n < 0)
        return errno == ENOENT || errno == ENOTDIR
                   ? SHARPI_OK
                   : sharpi_fail(err, SHARPI_EIO, "%s: cannot be read: %s", directory, strerror(errno));
    for (int i = 0; i < n; i++) {
        if (!status && snprintf(path, sizeof path, "%s/%s", directory, names[i]->d_name) < PATH_MAX)
            status = read_if_there(settings, path, err);
        free(names[i]);
    }
    free(names);
    return status;
}

int32_t sharpi_settings_read_tree(struct sharpi_settings *settings, const char *directory,
                                  struct sharpi_error *err)
{
    char path[PATH_MAX];
    int32_t status;
    if (snprintf(path, sizeof path, "%s/sharpi.ini", directory) >= PATH_MAX - 16)
        return SHARPI_OK;
    status = read_if_there(settings, path, err);
    if (status)
        return status;
    snprintf(path, sizeof path, "%s/conf.d", directory);
    return read_directory(settings, path, err);
}

int32_t sharpi_settings_read_default(struct sharpi_settings *settings, struct sharpi_error *err)
{
    const char *config = secure_getenv("XDG_CONFIG_HOME"), *home = secure_getenv("HOME");
    char path[PATH_MAX];
    int n = 0;
    int32_t status = sharpi_settings_read_tree(settings, SHARPI_SYSCONFDIR "/sharpi", err);
    if (status)
        return status;
    if (config && config[0] == '/') /* relative ones are to be ignored, says the XDG specification */
        n = snprintf(path, sizeof path, "%s/sharpi/sharpi.ini", config);
    else if (home && home[0] == '/')
        n = snprintf(path, sizeof path, "%s/.config/sharpi/sharpi.ini", home);
    return n > 0 && n < PATH_MAX ? read_if_there(settings, path, err) : SHARPI_OK;
}
