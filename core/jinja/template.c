/* The public face: compiling, rendering, and turning failures into error texts. */
#include "core/jinja/jinja.h"
#include "core/jinja/parser.h"
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

#include <stdlib.h>
#include <string.h>

/* Parsing is bounded by the size of the source; these only keep a hostile one from the rest of the machine. */
#define COMPILE_MEMORY_BYTES (UINT64_C(1) << 30)
#define COMPILE_STEPS        UINT64_C(1000000000)

enum { COMPILE_DEPTH = 200, MOST_SOURCE_BYTES = 16 << 20 };

struct sharpi_template {
    struct jinja_arena arena;
    struct jinja_names names;
    struct jinja_node *root;
};

void sharpi_template_text_free(struct sharpi_template_text *text)
{
    if (!text)
        return;
    free(text->data);
    *text = (struct sharpi_template_text){0};
}

void sharpi_template_destroy(struct sharpi_template *tmpl)
{
    if (!tmpl)
        return;
    jinja_arena_free(&tmpl->arena);
    free(tmpl);
}

static int32_t report(const struct sharpi_template_failure *what, struct sharpi_template_failure *failure,
                      struct sharpi_error *err)
{
    static const struct {
        int32_t code;
        const char *text;
    } kinds[] = {
        [SHARPI_TEMPLATE_SYNTAX] = {SHARPI_EFORMAT, "is not valid"},
        [SHARPI_TEMPLATE_RAISED] = {SHARPI_EINVAL, "refuses these messages"},
        [SHARPI_TEMPLATE_RUNTIME] = {SHARPI_EFORMAT, "failed"},
        [SHARPI_TEMPLATE_LIMIT] = {SHARPI_EFULL, "was stopped"},
        [SHARPI_TEMPLATE_NO_MEMORY] = {SHARPI_ENOMEM, "failed"},
    };

    if (failure)
        *failure = *what;
    if (what->column)
        return sharpi_fail(err, kinds[what->kind].code, "chat template %s (line %u, column %u): %.900s",
                           kinds[what->kind].text, what->line, what->column, what->message);
    return sharpi_fail(err, kinds[what->kind].code, "chat template %s (line %u): %.900s",
                       kinds[what->kind].text, what->line, what->message);
}

static void compile(struct sharpi_template *tmpl, const char *source, size_t n)
{
    struct jinja_parser ps = {.arena = &tmpl->arena};
    size_t bad = jinja_utf8_check(source, n);

    if (n > MOST_SOURCE_BYTES)
        jinja_fail(&tmpl->arena, SHARPI_TEMPLATE_LIMIT, "a template of more than %d bytes",
                   MOST_SOURCE_BYTES);
    if (bad != n)
        jinja_fail(&tmpl->arena, SHARPI_TEMPLATE_SYNTAX, "byte %zu is no valid UTF-8", bad);
    ps.tokens = jinja_tokenize(&tmpl->arena, source, n);
    tmpl->root = jinja_parse(&ps);
    tmpl->names = ps.names;
}

int32_t sharpi_template_compile(const char *source, size_t n_bytes, struct sharpi_template **out,
                                struct sharpi_template_failure *failure, struct sharpi_error *err)
{
    struct sharpi_template *tmpl = calloc(1, sizeof *tmpl);
    int32_t status;

    *out = NULL;
    if (failure)
        *failure = (struct sharpi_template_failure){0};
    if (!tmpl)
        return sharpi_fail(err, SHARPI_ENOMEM, "out of memory for a chat template");
    tmpl->arena.limit = COMPILE_MEMORY_BYTES;
    tmpl->arena.steps_left = COMPILE_STEPS;
    tmpl->arena.max_depth = COMPILE_DEPTH;
    if (setjmp(tmpl->arena.out) == 0) {
        compile(tmpl, source, n_bytes);
        *out = tmpl;
        return SHARPI_OK;
    }
    status = report(&tmpl->arena.failure, failure, err);
    sharpi_template_destroy(tmpl);
    return status;
}

static void start(struct jinja_render *r, const struct sharpi_template *tmpl,
                  const struct sharpi_template_limits *limits)
{
    static const struct sharpi_template_limits none;
    const struct sharpi_template_limits *l = limits ? limits : &none;

    r->names = &tmpl->names;
    r->arena.limit = l->max_memory_bytes ? l->max_memory_bytes : SHARPI_TEMPLATE_MAX_MEMORY_BYTES;
    r->arena.steps_left = l->max_steps ? l->max_steps : SHARPI_TEMPLATE_MAX_STEPS;
    r->arena.max_depth = l->max_depth ? l->max_depth : SHARPI_TEMPLATE_MAX_DEPTH;
    r->max_text = l->max_output_bytes ? l->max_output_bytes : SHARPI_TEMPLATE_MAX_OUTPUT_BYTES;
    r->has_time = l->has_time != 0;
    r->time = l->time;
}

static void render(struct jinja_render *r, const struct sharpi_template *tmpl, const json_t *context)
{
    struct jinja_value variables;

    if (context && !json_is_object(context))
        jinja_error(&r->arena, "the context of a template must be a JSON object");
    variables = context ? jinja_from_json(r, context) : jinja_dict_new(&r->arena);
    r->context = variables.as.dict;
    r->top = jinja_calloc(&r->arena, 1, sizeof *r->top);
    r->scope = r->top;
    jinja_exec(r, &tmpl->root->body);
}

/* Appends the rendered text to the caller's, or hands it over whole if the caller has none yet. */
static int32_t deliver(struct sharpi_template_text *from, struct sharpi_template_text *to,
                       struct sharpi_error *err)
{
    size_t n = to->n_bytes + from->n_bytes + 1;

    if (!to->data) {
        *to = *from;
        *from = (struct sharpi_template_text){0};
        if (to->data || (to->data = calloc(1, 1)))
            return SHARPI_OK;
        return sharpi_fail(err, SHARPI_ENOMEM, "out of memory for a rendered chat template");
    }
    if (n > to->capacity) {
        char *data = realloc(to->data, n);
        if (!data)
            return sharpi_fail(err, SHARPI_ENOMEM, "out of memory for %zu bytes of rendered chat template",
                               n);
        to->data = data;
        to->capacity = n;
    }
    if (from->n_bytes)
        memcpy(to->data + to->n_bytes, from->data, from->n_bytes);
    to->n_bytes += from->n_bytes;
    to->data[to->n_bytes] = 0;
    return SHARPI_OK;
}

/* 0, or -1 when an error came out of the arena. A frame of its own, so that no local variable lives across setjmp. */
__attribute__((noinline)) static int32_t try_render(struct jinja_render *r,
                                                    const struct sharpi_template *tmpl, const json_t *context)
{
    if (setjmp(r->arena.out))
        return -1;
    render(r, tmpl, context);
    return 0;
}

int32_t sharpi_template_render(const struct sharpi_template *tmpl, const json_t *context,
                               const struct sharpi_template_limits *limits, struct sharpi_template_text *out,
                               struct sharpi_template_failure *failure, struct sharpi_error *err)
{
    struct jinja_render *r = calloc(1, sizeof *r);
    int32_t status;

    if (failure)
        *failure = (struct sharpi_template_failure){0};
    if (!r)
        return sharpi_fail(err, SHARPI_ENOMEM, "out of memory for rendering a chat template");
    start(r, tmpl, limits);
    if (try_render(r, tmpl, context) == 0)
        status = deliver(&r->text, out, err);
    else
        status = report(&r->arena.failure, failure, err);
    jinja_arena_free(&r->arena);
    free(r->text.data);
    free(r);
    return status;
}
