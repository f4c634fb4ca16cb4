/* Command lines: a table of options per command, parsed and printed by the same code, so that help cannot lie. */
#ifndef SHARPI_CLI_OPTIONS_H
#define SHARPI_CLI_OPTIONS_H

#include <sharpi/sharpi.h>

enum option_kind {
    OPTION_FLAG = 1,   /* uint32_t: 1 when given */
    OPTION_UINT = 2,   /* uint32_t */
    OPTION_U64 = 3,    /* uint64_t */
    OPTION_INT = 4,    /* int32_t */
    OPTION_FLOAT = 5,  /* float */
    OPTION_STRING = 6, /* const char *, points into argv */
    OPTION_LIST = 7,   /* struct option_list: may be given several times */
    OPTION_BYTES = 8,  /* uint64_t, "512MiB" */
};

#define OPTION_LIST_MAX 64

struct option_list {
    uint32_t n;
    const char *items[OPTION_LIST_MAX + 1]; /* NULL-terminated */
};

struct option {
    const char *name;     /* without "--"; NULL ends the table */
    char letter;          /* 'm' for -m, or 0 */
    int32_t kind;         /* enum option_kind */
    const char *argument; /* what help calls the value: "FILE"; NULL for flags */
    const char *help;
    void *value;
    uint32_t *given; /* set to 1 when the option was there, or NULL */
};

/* Sets one option (not a flag) from a text, which must live as long as the value where that points into it. On an error the
 * value is as it was. */
int32_t option_set(const struct option *option, const char *text, struct sharpi_error *err);

/* Parses argv[1..] of a command: options in any order, "--name=value" and "--name value", "--" ends options. What is left
 * (no options) goes to args, *n_args of them. Returns 0; 1 when --help was asked for; or SHARPI_EINVAL with a sentence
 * that suggests the nearest option. `tables` is a NULL-terminated list of tables; of options with one name the first counts. */
int32_t options_parse(const struct option *const *tables, int argc, char **argv, const char **args,
                      uint32_t max_args, uint32_t *n_args, struct sharpi_error *err);

/* "usage" line, then one line per option, on stdout. */
void options_help(const char *usage, const char *about, const struct option *const *tables);

#endif
