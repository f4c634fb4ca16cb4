/* Models that can be fetched by a name: models.ini, one section each (described there). */
#ifndef SHARPI_CLI_CATALOGUE_H
#define SHARPI_CLI_CATALOGUE_H

#include <sharpi/plugin/tensor.h>

enum { CATALOGUE_SOURCES = 8, SHA256_DIGITS = 64 };

/* Strings belong to the catalogue. */
struct catalogue_model {
    const char *name, *title, *file, *license;
    const char *sha256; /* 64 lower-case digits */
    uint64_t bytes;
    uint32_t n_sources;
    const char *sources[CATALOGUE_SOURCES]; /* "https://...", "pypi: ..." */
};

struct catalogue;

/* NULL: the one that SHARPI_CATALOGUE names, else the installed one, else the source tree's of a build folder within it. */
int32_t catalogue_open(const char *path, struct catalogue **out, struct sharpi_error *err);
void catalogue_close(struct catalogue *catalogue); /* NULL is fine */

/* Model `index` in the order of names; SHARPI_ENOENT without a text past the last, SHARPI_EFORMAT when its section is wrong. */
int32_t catalogue_at(const struct catalogue *catalogue, uint32_t index, struct catalogue_model *m,
                     struct sharpi_error *err);
/* An unknown name is an error that suggests the nearest. */
int32_t catalogue_find(const struct catalogue *catalogue, const char *name, struct catalogue_model *m,
                       struct sharpi_error *err);

/* Whether it can be the name of a file in a folder: no separators, no control characters, no leading dot, not too long. */
int is_plain_file_name(const char *name);
/* Whether it is 64 hexadecimal digits. */
int is_sha256(const char *text);

#endif
