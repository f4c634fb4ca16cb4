/* Chat templates: an interpreter for the Jinja that models carry in `tokenizer.chat_template`.
 *
 * It behaves as Python's jinja2 3.1 set up by Hugging Face transformers: ImmutableSandboxedEnvironment with
 * trim_blocks, lstrip_blocks, loop controls, `{% generation %}`, the global functions raise_exception and
 * strftime_now, and a `tojson` that is Python's json.dumps. Templates and contexts are hostile: time (steps),
 * memory, output and nesting are bounded, and a template can read nothing but its context.
 *
 * What differs from Python: integers have 64 bits (more is an error, never a rounded number); objects print without
 * an address; a name that a scope sets only later is looked up outside until then (jinja2 calls it undefined in loops
 * and macros before the `set`); include, import and extends are errors when reached; pprint, random, urlize, wordwrap,
 * xmlattr, lipsum and str.encode do not exist. Sort, unique, batch and slice do their work at once, not lazily.
 */
#ifndef SHARPI_CORE_JINJA_H
#define SHARPI_CORE_JINJA_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include <sharpi/plugin/tensor.h>

struct sharpi_template; /* immutable once compiled: any number of threads may render it at once */

/* Why a compilation or a rendering failed. */
enum sharpi_template_failure_kind {
    SHARPI_TEMPLATE_NO_FAILURE = 0,
    SHARPI_TEMPLATE_SYNTAX = 1,  /* the source is no valid template */
    SHARPI_TEMPLATE_RAISED = 2,  /* the template itself called raise_exception(message) */
    SHARPI_TEMPLATE_RUNTIME = 3, /* a type error, an undefined value used, a forbidden method ... */
    SHARPI_TEMPLATE_LIMIT = 4,   /* steps, memory, output or nesting ran out */
    SHARPI_TEMPLATE_NO_MEMORY = 5,
};

struct sharpi_template_failure {
    int32_t kind;    /* enum sharpi_template_failure_kind */
    uint32_t line;   /* from 1; 0 if unknown */
    uint32_t column; /* in bytes, from 1; 0 if unknown (always when rendering) */
    char message[1024];
};

/* What one rendering may use; 0 means the default. */
struct sharpi_template_limits {
    uint64_t max_steps;        /* evaluated nodes, plus one for every 64 bytes that an operation touches */
    uint64_t max_output_bytes; /* of the text and of everything captured by macros at one time */
    uint64_t max_memory_bytes; /* of values, besides the output */
    uint32_t max_depth;        /* nesting of expressions, statements, macro calls and values */
    uint32_t has_time; /* 1: strftime_now shows `time` (seconds since 1970) as UTC instead of local now */
    int64_t time;
};

#define SHARPI_TEMPLATE_MAX_STEPS        UINT64_C(20000000)
#define SHARPI_TEMPLATE_MAX_OUTPUT_BYTES (UINT64_C(64) << 20)
#define SHARPI_TEMPLATE_MAX_MEMORY_BYTES (UINT64_C(256) << 20)
#define SHARPI_TEMPLATE_MAX_DEPTH        600u

/* A growing text, zero-terminated when not NULL. Start with all zeros; the caller frees it. */
struct sharpi_template_text {
    char *data;
    size_t n_bytes;
    size_t capacity;
};

void sharpi_template_text_free(struct sharpi_template_text *text);

/* Compiles `n_bytes` of UTF-8. The source may be freed afterwards. `failure` and `err` may be NULL.
 * SHARPI_EFORMAT: syntax, with line and column. */
int32_t sharpi_template_compile(const char *source, size_t n_bytes, struct sharpi_template **out,
                                struct sharpi_template_failure *failure, struct sharpi_error *err);

/* Renders with the members of the JSON object `context` as variables and appends to `out`; on failure `out` is
 * as it was. `limits` and `failure` may be NULL. SHARPI_EINVAL: the template raised (failure->message is its
 * text); SHARPI_EFORMAT: a runtime error; SHARPI_EFULL: a limit; SHARPI_ENOMEM. */
int32_t sharpi_template_render(const struct sharpi_template *tmpl, const json_t *context,
                               const struct sharpi_template_limits *limits, struct sharpi_template_text *out,
                               struct sharpi_template_failure *failure, struct sharpi_error *err);

void sharpi_template_destroy(struct sharpi_template *tmpl);

#endif
