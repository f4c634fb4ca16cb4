/* Repositories of a model hub: see hub.h. What the hub answers is untrusted; names of files are checked by who uses them. */
#include "hub.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/nearest.h"
#include "download.h"

enum { MAX_LIST = 16 << 20, MAX_FILES = 4096, SPLIT_SUFFIX = 20 /* "-00001-of-00003.gguf" */ };

int hub_is_repository(const char *text)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    size_t owner = strspn(text, allowed), name;
    if (owner == 0 || text[owner] != '/' || text[0] == '.')
        return 0;
    name = strspn(text + owner + 1, allowed);
    return name > 0 && text[owner + 1] != '.' && text[owner + 1 + name] == '\0';
}

/* Appends with everything percent-encoded that may not stand in a path. */
static char *append_escaped(char *to, const char *text)
{
    static const char digits[] = "0123456789ABCDEF";
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
            strchr("-_.~/", c)) {
            *to++ = *text;
        } else {
            *to++ = '%';
            *to++ = digits[c >> 4];
            *to++ = digits[c & 15];
        }
    }
    *to = '\0';
    return to;
}

char *hub_file_url(const struct hub *hub, const char *repository, const char *file)
{
    size_t n_base = strlen(hub->base);
    char *url = malloc(n_base + strlen(repository) + 3 * (strlen(hub->revision) + strlen(file)) + 16),
         *at = url;
    if (!url)
        return NULL;
    while (n_base > 0 && hub->base[n_base - 1] == '/')
        n_base--;
    at += sprintf(at, "%.*s/%s/resolve/", (int)n_base, hub->base, repository);
    at = append_escaped(at, hub->revision);
    *at++ = '/';
    append_escaped(at, file);
    return url;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int32_t take_list(const json_t *answer, struct hub_files *files, struct sharpi_error *err)
{
    const json_t *siblings = json_object_get(answer, "siblings"), *one;
    size_t i;
    files->names = calloc(MAX_FILES, sizeof *files->names);
    if (!files->names)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a list of files");
    json_array_foreach(siblings, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "rfilename"));
        size_t n = name ? strlen(name) : 0;
        if (n < 6 || strcmp(name + n - 5, ".gguf") != 0 || files->n == MAX_FILES)
            continue;
        if (!(files->names[files->n] = strdup(name)))
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a list of files");
        files->n++;
    }
    qsort(files->names, files->n, sizeof *files->names, by_name);
    return SHARPI_OK;
}

int32_t hub_list(const struct hub *hub, const char *repository, struct hub_files *files,
                 struct sharpi_error *err)
{
    char *url = malloc(strlen(hub->base) + strlen(repository) + 3 * strlen(hub->revision) + 32), *text = NULL;
    json_t *answer;
    long http;
    int32_t status;
    *files = (struct hub_files){0};
    if (!url)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for an address");
    append_escaped(url + sprintf(url, "%s/api/models/%s/revision/", hub->base, repository), hub->revision);
    status = download_text(url, hub->token, MAX_LIST, &text, &http, err);
    if (http == 404 ||
        http == 401) /* hubs say 401 for what does not exist, so as not to tell what is private */
        sharpi_fail(err, status, "%s has no repository %s with revision %s (or it is private: set HF_TOKEN)",
                    hub->base, repository, hub->revision);
    free(url);
    if (status)
        return status;
    answer = json_loads(text, 0, NULL);
    free(text);
    status = json_is_object(answer)
                 ? take_list(answer, files, err)
                 : sharpi_fail(err, SHARPI_EFORMAT, "%s: its list of files is not understood", hub->base);
    json_decref(answer);
    if (status)
        hub_files_free(files);
    return status;
}

void hub_files_free(struct hub_files *files)
{
    for (uint32_t i = 0; i < files->n; i++)
        free(files->names[i]);
    free(files->names);
    *files = (struct hub_files){0};
}

/* Other parts of a split model than the first. */
static int is_later_part(const char *name)
{
    return split_parts(name) && strncmp(name + strlen(name) - SPLIT_SUFFIX, "-00001-", 7) != 0;
}

/* `problem` and the files (those with `part` in their name, or all) that could have been meant. */
static int32_t fail_choice(const struct hub_files *files, const char *repository, const char *problem,
                           const char *part, struct sharpi_error *err)
{
    char list[300] = "";
    for (uint32_t i = 0; i < files->n; i++) {
        size_t used = strlen(list);
        if (is_later_part(files->names[i]) || (part && !strcasestr(files->names[i], part)))
            continue;
        if (used + strlen(files->names[i]) + 8 > sizeof list) {
            snprintf(list + used, sizeof list - used, " ...");
            break;
        }
        snprintf(list + used, sizeof list - used, " %s", files->names[i]);
    }
    return sharpi_fail(err, SHARPI_ENOENT, "%s %s:%s", repository, problem, *list ? list : " none");
}

int32_t hub_choose(const struct hub_files *files, const char *repository, const char *wanted,
                   const char **file, struct sharpi_error *err)
{
    const char *nearest;
    uint32_t matches = 0;
    for (uint32_t i = 0; wanted && i < files->n; i++) {
        if (strcmp(files->names[i], wanted) == 0) {
            *file = files->names[i];
            return SHARPI_OK;
        }
    }
    for (uint32_t i = 0; wanted && i < files->n; i++) {
        if (strcasestr(files->names[i], wanted) && !is_later_part(files->names[i])) {
            *file = files->names[i];
            matches++;
        }
    }
    if (matches == 1)
        return SHARPI_OK;
    if (!wanted)
        return fail_choice(files, repository, "has these GGUF files, name one", NULL, err);
    if (matches)
        return fail_choice(files, repository, "has several that match, name one", wanted, err);
    nearest = sharpi_nearest(wanted, (const char *const *)files->names, files->n);
    if (nearest)
        return sharpi_fail(err, SHARPI_ENOENT, "%s has no file %s; did you mean %s?", repository, wanted,
                           nearest);
    return fail_choice(files, repository, "has no such file but", NULL, err);
}

uint32_t split_parts(const char *file)
{
    size_t n = strlen(file);
    uint32_t part, parts;
    char gguf[8] = "";
    const char *suffix = n > SPLIT_SUFFIX ? file + n - SPLIT_SUFFIX : "";
    if (strspn(suffix + (*suffix == '-'), "0123456789") != 5 ||
        sscanf(suffix, "-%5u-of-%5u.%5s", &part, &parts, gguf) != 3 || strcmp(gguf, "gguf") != 0)
        return 0;
    return part >= 1 && part <= parts ? parts : 0;
}

char *split_name(const char *file, uint32_t part, uint32_t n_parts)
{
    size_t n = strlen(file) - SPLIT_SUFFIX;
    char *name = malloc(n + SPLIT_SUFFIX + 16);
    if (name)
        sprintf(name, "%.*s-%05u-of-%05u.gguf", (int)n, file, part, n_parts);
    return name;
}
