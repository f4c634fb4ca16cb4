/* Parsing and printing of option tables: see options.h. */
#include "options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/nearest.h"
#include "core/settings.h"

#define MAX_NAMES 128

static const struct option *find(const struct option *const *tables, const char *name, size_t n, char letter)
{
    const struct option *o;
    for (; *tables; tables++) {
        for (o = *tables; o->name; o++) {
            if (name ? strlen(o->name) == n && strncmp(o->name, name, n) == 0 : o->letter == letter)
                return o;
        }
    }
    return NULL;
}

static int32_t fail_unknown(const struct option *const *tables, const char *argument,
                            struct sharpi_error *err)
{
    const char *names[MAX_NAMES], *nearest;
    char name[64];
    const struct option *o;
    uint32_t n = 0;
    size_t length = strcspn(argument, "=");
    for (; *tables; tables++) {
        for (o = *tables; o->name && n < MAX_NAMES; o++)
            names[n++] = o->name;
    }
    if (n < MAX_NAMES)
        names[n++] = "help";
    snprintf(name, sizeof name, "%.*s", (int)(length < 63 ? length : 63), argument);
    nearest = sharpi_nearest(name + strspn(name, "-"), names, n);
    if (nearest)
        return sharpi_fail(err, SHARPI_EINVAL, "unknown option '%s'; did you mean '--%s'?", name, nearest);
    return sharpi_fail(err, SHARPI_EINVAL, "unknown option '%s'; --help lists them", name);
}

static int32_t parse_float(const char *text, float *out)
{
    char *end;
    double value;
    errno = 0;
    value = strtod(text, &end);
    if (end == text || *end || errno || !(value > -1e30 && value < 1e30))
        return SHARPI_EINVAL;
    *out = (float)value;
    return SHARPI_OK;
}

static int32_t parse_int(const char *text, int32_t *out)
{
    uint64_t magnitude;
    int32_t negative = *text == '-';
    if (sharpi_parse_uint(text + negative, &magnitude) || magnitude > INT32_MAX)
        return SHARPI_EINVAL;
    *out = negative ? -(int32_t)magnitude : (int32_t)magnitude;
    return SHARPI_OK;
}

int32_t option_set(const struct option *o, const char *text, struct sharpi_error *err)
{
    static const char *const wants[] = {[OPTION_UINT] = "a number from 0 to 4294967295",
                                        [OPTION_U64] = "a number",
                                        [OPTION_INT] = "a whole number",
                                        [OPTION_FLOAT] = "a number",
                                        [OPTION_BYTES] = "a size such as 512MiB"};
    struct option_list *list = o->value;
    uint64_t number = 0;
    int32_t status = SHARPI_OK;
    switch (o->kind) {
    case OPTION_UINT:
        status = sharpi_parse_uint(text, &number);
        if (!status && number > UINT32_MAX)
            status = SHARPI_EINVAL;
        if (!status)
            *(uint32_t *)o->value = (uint32_t)number;
        break;
    case OPTION_U64:
        status = sharpi_parse_uint(text, o->value);
        break;
    case OPTION_BYTES:
        status = sharpi_parse_bytes(text, o->value);
        break;
    case OPTION_INT:
        status = parse_int(text, o->value);
        break;
    case OPTION_FLOAT:
        status = parse_float(text, o->value);
        break;
    case OPTION_LIST:
        if (list->n == OPTION_LIST_MAX)
            return sharpi_fail(err, SHARPI_EINVAL, "--%s was given more than %d times", o->name,
                               OPTION_LIST_MAX);
        list->items[list->n++] = text;
        break;
    default:
        *(const char **)o->value = text;
    }
    if (status)
        return sharpi_fail(err, SHARPI_EINVAL, "--%s is '%s', must be %s", o->name, text, wants[o->kind]);
    return SHARPI_OK;
}

/* One option at argv[*i]; moves *i past its value. */
static int32_t parse_one(const struct option *const *tables, int argc, char **argv, int *i,
                         struct sharpi_error *err)
{
    const char *argument = argv[*i], *value = NULL;
    const struct option *o;
    if (argument[1] == '-') {
        size_t n = strcspn(argument + 2, "=");
        o = find(tables, argument + 2, n, 0);
        value = argument[2 + n] ? argument + 3 + n : NULL;
    } else {
        o = find(tables, NULL, 0, argument[1]);
        value = argument[2] ? argument + 2 : NULL;
    }
    if (!o)
        return fail_unknown(tables, argument, err);
    if (o->given)
        *o->given = 1;
    if (o->kind == OPTION_FLAG) {
        if (value)
            return sharpi_fail(err, SHARPI_EINVAL, "--%s takes no value", o->name);
        *(uint32_t *)o->value = 1;
        return SHARPI_OK;
    }
    if (!value && *i + 1 < argc)
        value = argv[++*i];
    if (!value)
        return sharpi_fail(err, SHARPI_EINVAL, "--%s needs a value: %s", o->name, o->argument);
    return option_set(o, value, err);
}

int32_t options_parse(const struct option *const *tables, int argc, char **argv, const char **args,
                      uint32_t max_args, uint32_t *n_args, struct sharpi_error *err)
{
    int i, only_args = 0;
    *n_args = 0;
    for (i = 1; i < argc; i++) {
        int32_t status;
        if (!only_args && strcmp(argv[i], "--") == 0) {
            only_args = 1;
        } else if (!only_args && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) {
            return 1;
        } else if (!only_args && argv[i][0] == '-' && argv[i][1]) {
            status = parse_one(tables, argc, argv, &i, err);
            if (status)
                return status;
        } else if (*n_args == max_args) {
            return sharpi_fail(err, SHARPI_EINVAL, "'%s' is one argument too many; --help shows the usage",
                               argv[i]);
        } else {
            args[(*n_args)++] = argv[i];
        }
    }
    return SHARPI_OK;
}

void options_help(const char *usage, const char *about, const struct option *const *tables)
{
    const struct option *const *all = tables, *o;
    printf("Usage: %s\n\n%s\n\nOptions:\n", usage, about);
    for (; *tables; tables++) {
        for (o = *tables; o->name; o++) {
            char left[64];
            if (find(all, o->name, strlen(o->name), 0) != o)
                continue; /* a command's own option of that name hides it */
            snprintf(left, sizeof left, "%c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                     o->letter ? ", " : "  ", o->name, o->argument ? " " : "",
                     o->argument ? o->argument : "");
            printf("  %-26s %s\n", left, o->help);
        }
    }
    printf("  %-26s %s\n", "-h, --help", "this text");
}
