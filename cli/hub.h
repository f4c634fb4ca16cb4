/* Repositories of a model hub (huggingface.co or one that works like it): addresses and lists of files. */
#ifndef SHARPI_CLI_HUB_H
#define SHARPI_CLI_HUB_H

#include <sharpi/plugin/tensor.h>

struct hub {
    const char *base;     /* "https://huggingface.co" */
    const char *revision; /* "main" */
    const char *token;    /* or NULL */
};

struct hub_files {
    uint32_t n;
    char **names; /* *.gguf, sorted */
};

/* Whether `text` can be OWNER/NAME. */
int hub_is_repository(const char *text);
/* Address of a file; free() it. NULL: no memory. */
char *hub_file_url(const struct hub *hub, const char *repository, const char *file);
int32_t hub_list(const struct hub *hub, const char *repository, struct hub_files *files,
                 struct sharpi_error *err);
void hub_files_free(struct hub_files *files);
/* The one file that `wanted` means: its name, or a part of it that only one has ("Q4_K_M"; the first of a split model counts for
 * all). Else an error that says what there is. */
int32_t hub_choose(const struct hub_files *files, const char *repository, const char *wanted,
                   const char **file, struct sharpi_error *err);

/* "-00001-of-00003.gguf" at the end: sets the number of parts; 0 else. */
uint32_t split_parts(const char *file);
/* Name of part `part` (from 1) of a split model; free() it. */
char *split_name(const char *file, uint32_t part, uint32_t n_parts);

#endif
