/* sharpi pull: fetches a model into the model folder and prints its path.
 *
 *   sharpi pull NAME                of the catalogue
 *   sharpi pull OWNER/NAME FILE     of a model hub; FILE may be a part of the name that only one file has: Q4_K_M
 *   sharpi pull https://...         any file
 *
 * Standard output is the path and nothing else. Where the sha256 is known (catalogue, --sha256, or the hub says it) a file of
 * the final name has it; a second run for such a file only looks at it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalogue.h"
#include "command.h"
#include "download.h"
#include "hub.h"
#include "partial.h"
#include "progress.h"

struct pull {
    const char *folder, *output, *sha256, *revision, *hub, *catalogue;
    uint32_t list, force, retries, quiet;
    char *own_folder; /* the default one */
};

/* ---- Places */

/* Same rules as packaging/fetch-model: SHARPI_MODEL_DIR, else sharpi/models in the user's cache. */
static int32_t default_folder(char **out, struct sharpi_error *err)
{
    const char *named = getenv("SHARPI_MODEL_DIR"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n;
    if (named && *named)
        n = asprintf(out, "%s", named);
    else if (cache && *cache)
        n = asprintf(out, "%s/sharpi/models", cache);
    else if (home && *home)
        n = asprintf(out, "%s/.cache/sharpi/models", home);
    else
        return sharpi_fail(err, SHARPI_EINVAL, "no folder for models: set SHARPI_MODEL_DIR or use --dir");
    if (n < 0) {
        *out = NULL;
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a path");
    }
    return SHARPI_OK;
}

static int32_t make_folder(const char *path, struct sharpi_error *err)
{
    char *copy = strdup(path);
    struct stat st;
    if (!copy)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a path");
    for (char *at = copy + 1; *at; at++) {
        if (*at == '/') {
            *at = '\0';
            mkdir(copy, 0777);
            *at = '/';
        }
    }
    free(copy);
    if (mkdir(path, 0777) && errno != EEXIST)
        return sharpi_fail(err, SHARPI_EIO, "cannot make %s: %s; --dir names another folder", path,
                           strerror(errno));
    if (stat(path, &st) || !S_ISDIR(st.st_mode))
        return sharpi_fail(err, SHARPI_EIO, "%s is not a folder", path);
    return SHARPI_OK;
}

/* Where a file goes: --output, or its last name in the folder. */
static int32_t target_of(const struct pull *p, const char *name, char **target, struct sharpi_error *err)
{
    const char *slash = strrchr(name, '/');
    name = slash ? slash + 1 : name;
    if (!p->output && !is_plain_file_name(name))
        return sharpi_fail(err, SHARPI_EINVAL,
                           "'%.100s' cannot be a file's name here; say where with -o FILE", name);
    if ((p->output ? asprintf(target, "%s", p->output) : asprintf(target, "%s/%s", p->folder, name)) < 0) {
        *target = NULL;
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a path");
    }
    return p->output ? SHARPI_OK : make_folder(p->folder, err);
}

/* ---- One file */

/* Whether the file is there as it should be; a known sum is believed when the size is right too, as it was compared before. */
static int32_t is_there(const struct pull *p, const char *target, const char *sha256, uint64_t bytes,
                        int *there, struct sharpi_error *err)
{
    struct stat st;
    char digits[65];
    int32_t status;
    *there = 0;
    if (p->force || stat(target, &st))
        return SHARPI_OK;
    if (!S_ISREG(st.st_mode))
        return sharpi_fail(err, SHARPI_EINVAL, "%s exists and is not a regular file", target);
    if (bytes || !sha256) {
        *there = !bytes || (uint64_t)st.st_size == bytes;
        return SHARPI_OK;
    }
    status = file_sha256(target, digits, err);
    *there = !status && strcasecmp(digits, sha256) == 0;
    return status;
}

/* Fetches `url` as `target` unless it is there, and prints the path if `print`. */
static int32_t fetch(const struct pull *p, const char *url, const char *target, const char *sha256,
                     uint64_t bytes, const char *token, struct sharpi_error *err)
{
    struct download d = {.url = url,
                         .target = target,
                         .sha256 = sha256,
                         .bytes = bytes,
                         .token = token,
                         .retries = p->retries,
                         .quiet = p->quiet};
    int there;
    int32_t status = is_there(p, target, sha256, bytes, &there, err);
    if (status)
        return status;
    if (there) {
        if (!p->quiet)
            fprintf(stderr, "%s is there already%s\n", target, sha256 ? "" : " (--force fetches it again)");
        return SHARPI_OK;
    }
    if (!p->quiet)
        fprintf(stderr, "fetching %s\n", url);
    return download_file(&d, err);
}

static int32_t print_path(const char *path, struct sharpi_error *err)
{
    fputs(path, stdout);
    return put_text("\n", 1, err);
}

/* ---- The three kinds of things to pull */

/* The last name of a path, without the query: "https://h/a/m%20x.gguf?download=true" gives "m x.gguf". */
static char *name_of_url(const char *url)
{
    const char *start = strstr(url, "://");
    char *name, *to;
    size_t n;
    start = start ? start + 3 : url;
    n = strcspn(start, "?#");
    while (n > 0 && memchr(start, '/', n)) {
        const char *slash = memchr(start, '/', n);
        n -= (size_t)(slash + 1 - start);
        start = slash + 1;
    }
    name = to = strndup(start, n);
    for (const char *from = name; name && *from; to++) {
        unsigned int byte;
        if (*from == '%' && strspn(from + 1, "0123456789abcdefABCDEF") >= 2 &&
            sscanf(from + 1, "%2x", &byte) == 1 && byte) {
            *to = (char)byte;
            from += 3;
        } else {
            *to = *from++;
        }
    }
    if (name)
        *to = '\0';
    return name;
}

static int32_t pull_url(const struct pull *p, const char *url, struct sharpi_error *err)
{
    char *name = name_of_url(url), *target = NULL;
    int32_t status =
        name ? target_of(p, name, &target, err) : sharpi_fail(err, SHARPI_ENOMEM, "no memory for a name");
    if (!status)
        status = fetch(p, url, target, p->sha256, 0, NULL, err);
    if (!status)
        status = print_path(target, err);
    free(target);
    free(name);
    return status;
}

static int32_t pull_hub_file(const struct pull *p, const struct hub *hub, const char *repository,
                             const char *file, int print, struct sharpi_error *err)
{
    char *url = hub_file_url(hub, repository, file), *target = NULL;
    int32_t status =
        url ? target_of(p, file, &target, err) : sharpi_fail(err, SHARPI_ENOMEM, "no memory for an address");
    if (!status)
        status = fetch(p, url, target, p->sha256, 0, hub->token, err);
    if (!status && print)
        status = print_path(target, err);
    free(target);
    free(url);
    return status;
}

/* The file, or all parts of a split model; the path of the first part, which is what -m wants, is printed when all are there. */
static int32_t pull_parts(const struct pull *p, const struct hub *hub, const char *repository,
                          const char *file, struct sharpi_error *err)
{
    const uint32_t n = split_parts(file);
    int32_t status = SHARPI_OK;
    if (n > 1 && (p->output || p->sha256))
        return sharpi_fail(err, SHARPI_EINVAL, "%s has %u parts; -o and --sha256 are for one file", file, n);
    for (uint32_t part = 2; part <= n && !status; part++) {
        char *name = split_name(file, part, n);
        status = name ? pull_hub_file(p, hub, repository, name, 0, err)
                      : sharpi_fail(err, SHARPI_ENOMEM, "no memory for a name");
        free(name);
    }
    if (!status && n > 1) {
        char *name = split_name(file, 1, n);
        status = name ? pull_hub_file(p, hub, repository, name, 1, err)
                      : sharpi_fail(err, SHARPI_ENOMEM, "no memory for a name");
        free(name);
    } else if (!status) {
        status = pull_hub_file(p, hub, repository, file, 1, err);
    }
    return status;
}

static int32_t pull_hub(const struct pull *p, const char *repository, const char *wanted,
                        struct sharpi_error *err)
{
    const char *base = getenv("HF_ENDPOINT"), *token = getenv("HF_TOKEN");
    const struct hub hub = {.base = p->hub          ? p->hub
                                    : base && *base ? base
                                                    : "https://huggingface.co",
                            .revision = p->revision ? p->revision : "main",
                            .token = token && *token ? token : NULL};
    struct hub_files files = {0};
    const size_t n = wanted ? strlen(wanted) : 0;
    const char *file = wanted;
    int32_t status = SHARPI_OK;
    if (!hub_is_repository(repository))
        return sharpi_fail(err, SHARPI_EINVAL, "'%s' is not the name of a repository: OWNER/NAME",
                           repository);
    if (n < 6 || strcasecmp(wanted + n - 5, ".gguf") != 0) { /* a whole name needs no list */
        status = hub_list(&hub, repository, &files, err);
        if (!status)
            status = hub_choose(&files, repository, wanted, &file, err);
    } else {
        struct sharpi_error first = SHARPI_ERROR_INIT;
        status = pull_parts(p, &hub, repository, wanted, &first);
        if (status != SHARPI_ENOENT)
            return status ? sharpi_fail(err, status, "%s", first.text) : SHARPI_OK;
        /* No such file: say what there is. */
        status = hub_list(&hub, repository, &files, err);
        if (!status)
            status = hub_choose(&files, repository, wanted, &file, err);
    }
    if (!status)
        status = pull_parts(p, &hub, repository, file, err);
    hub_files_free(&files);
    return status;
}

static int32_t pull_sources(const struct pull *p, const struct catalogue_model *m, const char *target,
                            struct sharpi_error *err)
{
    char size[SIZE_TEXT];
    int32_t status = SHARPI_ENOENT;
    uint32_t tried = 0;
    int there;
    if (is_there(p, target, m->sha256, m->bytes, &there, NULL) == SHARPI_OK && !there && !p->quiet)
        fprintf(stderr, "%s, %s; licence: %s\n", m->title, size_text((double)m->bytes, size), m->license);
    sharpi_fail(err, status,
                "%s has no source that sharpi fetches itself; packaging/fetch-model of the source tree can",
                m->name);
    for (uint32_t i = 0; i < m->n_sources; i++) {
        const char *source = m->sources[i];
        if (strncmp(source, "pypi:", 5) == 0) /* wheels of a package index: fetch-model's */
            continue;
        if (strncmp(source, "https://", 8) != 0 && strncmp(source, "http://", 7) != 0)
            return sharpi_fail(err, SHARPI_EFORMAT, "source.%u of %s is '%s': https:// or pypi: is needed",
                               i + 1, m->name, source);
        if (tried++ && !p->quiet)
            fprintf(stderr, "%s\n", err->text);
        status = fetch(p, source, target, m->sha256, m->bytes, NULL, err);
        if (!status || status == SHARPI_ECANCELLED)
            break;
    }
    return status;
}

static int32_t pull_name(const struct pull *p, const char *name, struct sharpi_error *err)
{
    struct catalogue *catalogue = NULL;
    struct catalogue_model model;
    char *target = NULL;
    int32_t status = catalogue_open(p->catalogue, &catalogue, err);
    if (!status)
        status = catalogue_find(catalogue, name, &model, err);
    if (!status && p->sha256)
        status = sharpi_fail(err, SHARPI_EINVAL, "--sha256 is for addresses and hubs; the catalogue has %s's",
                             name);
    if (!status)
        status = target_of(p, model.file, &target, err);
    if (!status)
        status = pull_sources(p, &model, target, err);
    if (!status)
        status = print_path(target, err);
    free(target);
    catalogue_close(catalogue);
    return status;
}

static int32_t list_catalogue(const struct pull *p, struct sharpi_error *err)
{
    struct catalogue *catalogue = NULL;
    struct catalogue_model m;
    char size[SIZE_TEXT];
    int32_t status = catalogue_open(p->catalogue, &catalogue, err);
    if (status)
        return status;
    for (uint32_t i = 0; (status = catalogue_at(catalogue, i, &m, err)) == SHARPI_OK; i++)
        printf("%-20s %10s  %s\n", m.name, size_text((double)m.bytes, size), m.title);
    catalogue_close(catalogue);
    return status == SHARPI_ENOENT ? SHARPI_OK : status;
}

static int32_t pull(struct pull *p, const char *const *args, uint32_t n_args, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    if (p->list)
        return list_catalogue(p, err);
    if (!p->folder) {
        status = default_folder(&p->own_folder, err);
        p->folder = p->own_folder;
    }
    if (!status)
        status = download_init(err);
    if (status)
        return status;
    if (n_args == 2 || (strchr(args[0], '/') && !strstr(args[0], "://")))
        status = pull_hub(p, args[0], n_args == 2 ? args[1] : NULL, err);
    else if (strstr(args[0], "://"))
        status = pull_url(p, args[0], err);
    else
        status = pull_name(p, args[0], err);
    download_fini();
    return status;
}

static int pull_command(int argc, char **argv)
{
    struct pull p = {.retries = 5};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const char *args[2];
    uint32_t n_args;
    int32_t status;
    int code;
    const struct option own[] = {
        {"dir", 0, OPTION_STRING, "FOLDER", "where it goes (SHARPI_MODEL_DIR, else ~/.cache/sharpi/models)",
         &p.folder, NULL},
        {"output", 'o', OPTION_STRING, "FILE", "what it is called, folder included", &p.output, NULL},
        {"sha256", 0, OPTION_STRING, "DIGITS", "refuse a file with another sum", &p.sha256, NULL},
        {"revision", 0, OPTION_STRING, "NAME", "branch, tag or commit of a hub's repository (main)",
         &p.revision, NULL},
        {"hub", 0, OPTION_STRING, "URL", "which hub (HF_ENDPOINT, else https://huggingface.co)", &p.hub,
         NULL},
        {"catalogue", 0, OPTION_STRING, "FILE",
         "another catalogue (SHARPI_CATALOGUE, else the installed one)", &p.catalogue, NULL},
        {"list", 0, OPTION_FLAG, NULL, "list the catalogue", &p.list, NULL},
        {"force", 0, OPTION_FLAG, NULL, "fetch even if the file is there", &p.force, NULL},
        {"retries", 0, OPTION_UINT, "N", "attempts without a new byte before giving up (5)", &p.retries,
         NULL},
        {"quiet", 'q', OPTION_FLAG, NULL, "no progress, only what went wrong", &p.quiet, NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, NULL};
    code = parse_command(
        "pull", "sharpi pull [OPTIONS] (NAME | OWNER/NAME FILE | URL)",
        "Fetches a model, of the catalogue, a hub or anywhere, and prints its path. What a broken\n"
        "connection or Ctrl-C left is continued.",
        tables, argc, argv, args, 2, &n_args);
    if (code >= 0)
        return code;
    if (!n_args && !p.list)
        sharpi_fail(&err, SHARPI_EINVAL, "what? NAME (--list shows them), OWNER/NAME FILE, or an address");
    else if (p.sha256 && !is_sha256(p.sha256))
        sharpi_fail(&err, SHARPI_EINVAL, "--sha256 is '%s', must be 64 hexadecimal digits", p.sha256);
    if (err.text[0])
        return fail_usage("pull", &err);
    catch_interrupt();
    status = pull(&p, args, n_args, &err);
    free(p.own_folder);
    if (status)
        code = fail("pull", &err);
    else
        code = EXIT_OK;
    return interrupted() ? EXIT_INTERRUPT : code;
}

const struct command command_pull = {"pull", "fetch a model", pull_command};
