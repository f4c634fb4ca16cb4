/* Chat templates: what Python's jinja2 renders we render, byte for byte, and hostile templates are stopped.
 *
 * tests/data/templates holds templates of published models, a matrix of conversations (cases.json), small templates
 * for every feature (snippets.json), and what Python made of them (tests/tools/make-template-expectations.py). */
#include <CUnit/Basic.h>

#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/chat-template.h"
#include "core/jinja/jinja.h"

enum { MOST_SHOWN = 10, PATH_ROOM = 1200 };

static const char *data_directory(void)
{
    static char path[PATH_ROOM - 200];
    const char *top = getenv("top_srcdir");

    snprintf(path, sizeof path, "%s/tests/data/templates", top ? top : ".");
    return path;
}

static json_t *load(const char *name)
{
    char path[PATH_ROOM];
    json_error_t error;
    json_t *json;

    snprintf(path, sizeof path, "%s/%s", data_directory(), name);
    json = json_load_file(path, 0, &error);
    if (!json)
        fprintf(stderr, "%s: %s\n", path, error.text);
    return json;
}

static char *read_file(const char *name, size_t *n)
{
    char path[PATH_ROOM], *data = NULL;
    FILE *file;
    long size;

    snprintf(path, sizeof path, "%s/%s", data_directory(), name);
    file = fopen(path, "rb");
    if (!file)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0 &&
        (data = malloc((size_t)size + 1)) != NULL) {
        *n = fread(data, 1, (size_t)size, file);
        data[*n] = 0;
    }
    fclose(file);
    return data;
}

/* A rendering with Python's clock of the expectations. */
struct outcome {
    struct sharpi_template_text text;
    struct sharpi_template_failure failure;
    struct sharpi_error err;
    int32_t status;
};

static const struct sharpi_template_limits fixed_time = {.has_time = 1, .time = 1753600000};

static struct outcome run(const char *source, size_t n, const json_t *context,
                          const struct sharpi_template_limits *limits)
{
    struct outcome o = {.err = SHARPI_ERROR_INIT};
    struct sharpi_template *tmpl;

    o.status = sharpi_template_compile(source, n, &tmpl, &o.failure, &o.err);
    if (o.status == SHARPI_OK) {
        o.status =
            sharpi_template_render(tmpl, context, limits ? limits : &fixed_time, &o.text, &o.failure, &o.err);
        sharpi_template_destroy(tmpl);
    }
    return o;
}

static struct outcome run_z(const char *source, const struct sharpi_template_limits *limits)
{
    return run(source, strlen(source), NULL, limits);
}

static uint64_t fnv(const char *p, size_t n)
{
    uint64_t hash = UINT64_C(14695981039346656037);

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)p[i]) * UINT64_C(1099511628211);
    return hash;
}

/* ---- templates of models */

/* Does the outcome agree with a line of a NAME.expect file? */
static bool agrees(const struct outcome *o, const char *line)
{
    unsigned long long hash, length;
    bool same;
    json_t *message;

    if (strcmp(line, "error") == 0)
        return o->status != SHARPI_OK && o->failure.kind != SHARPI_TEMPLATE_RAISED &&
               o->failure.kind != SHARPI_TEMPLATE_LIMIT;
    if (strncmp(line, "raised ", 7) == 0) {
        message = json_loads(line + 7, JSON_DECODE_ANY, NULL);
        same = o->status == SHARPI_EINVAL && o->failure.kind == SHARPI_TEMPLATE_RAISED && message &&
               strcmp(o->failure.message, json_string_value(message)) == 0;
        json_decref(message);
        return same;
    }
    return o->status == SHARPI_OK && sscanf(line, "%llx %llu", &hash, &length) == 2 &&
           o->text.n_bytes == length && fnv(o->text.data, o->text.n_bytes) == hash;
}

struct matrix {
    json_t *conversations, *toolsets, *variants;
    size_t n_run, n_text, n_bad;
};

/* The i-th context: conversations x toolsets x variants. */
static json_t *make_context(const struct matrix *m, size_t i)
{
    size_t variants = json_array_size(m->variants), toolsets = json_array_size(m->toolsets);
    json_t *context = json_object();

    json_object_set(context, "messages", json_array_get(m->conversations, i / variants / toolsets));
    json_object_set(context, "tools", json_array_get(m->toolsets, i / variants % toolsets));
    json_object_set_new(context, "documents", json_null());
    json_object_update(context, json_array_get(m->variants, i % variants));
    return context;
}

static void check_case(struct matrix *m, const struct sharpi_template *tmpl, const char *name, size_t i,
                       const char *line)
{
    json_t *context = make_context(m, i);
    struct outcome o = {.err = SHARPI_ERROR_INIT};

    o.status = sharpi_template_render(tmpl, context, &fixed_time, &o.text, &o.failure, &o.err);
    m->n_run++;
    m->n_text += o.status == SHARPI_OK;
    if (!agrees(&o, line) && m->n_bad++ < MOST_SHOWN)
        fprintf(stderr, "%s case %zu: expected %s, got %zu bytes, %s\n", name, i, line, o.text.n_bytes,
                o.err.text);
    sharpi_template_text_free(&o.text);
    json_decref(context);
}

static void check_template(struct matrix *m, const char *name)
{
    char expect[300];
    size_t n_source = 0, n_lines = 0, i = 0;
    char *source = read_file(name, &n_source), *lines, *rest;
    struct sharpi_template *tmpl = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;

    snprintf(expect, sizeof expect, "%.*s.expect", (int)(strlen(name) - strlen(".jinja")), name);
    lines = read_file(expect, &n_lines);
    CU_ASSERT_PTR_NOT_NULL(lines);
    CU_ASSERT_EQUAL(sharpi_template_compile(source, n_source, &tmpl, NULL, &err), SHARPI_OK);
    if (!tmpl)
        fprintf(stderr, "%s: %s\n", name, err.text);
    rest = lines;
    for (char *line; tmpl && lines && (line = strsep(&rest, "\n")) != NULL && *line; i++)
        check_case(m, tmpl, name, i, line);
    CU_ASSERT_EQUAL(i, json_array_size(m->conversations) * json_array_size(m->toolsets) *
                           json_array_size(m->variants));
    sharpi_template_destroy(tmpl);
    free(source);
    free(lines);
}

static void templates_of_models_render_as_in_python(void)
{
    json_t *cases = load("cases.json");
    struct matrix m = {json_object_get(cases, "conversations"),
                       json_object_get(cases, "toolsets"),
                       json_object_get(cases, "variants"),
                       0,
                       0,
                       0};
    DIR *directory = opendir(data_directory());
    struct dirent *entry;
    size_t n_templates = 0;

    CU_ASSERT_PTR_NOT_NULL_FATAL(cases);
    CU_ASSERT_PTR_NOT_NULL_FATAL(directory);
    while ((entry = readdir(directory)) != NULL) {
        size_t n = strlen(entry->d_name);
        if (n < 7 || strcmp(entry->d_name + n - 6, ".jinja") != 0)
            continue;
        check_template(&m, entry->d_name);
        n_templates++;
    }
    closedir(directory);
    json_decref(cases);
    printf("%zu templates, %zu renderings (%zu texts, %zu failures), %zu differ ... ", n_templates, m.n_run,
           m.n_text, m.n_run - m.n_text, m.n_bad);
    CU_ASSERT_EQUAL(m.n_bad, 0);
    CU_ASSERT(n_templates >= 40);
}

/* ---- single features */

static bool snippet_agrees(const json_t *snippet, const struct outcome *o)
{
    const char *kind = json_string_value(json_object_get(snippet, "k"));
    json_t *text = json_object_get(snippet, "o");

    if (strcmp(kind, "text") == 0)
        return o->status == SHARPI_OK && json_string_length(text) == o->text.n_bytes &&
               memcmp(json_string_value(text), o->text.data, o->text.n_bytes) == 0;
    if (strcmp(kind, "syntax") == 0)
        return o->failure.kind == SHARPI_TEMPLATE_SYNTAX;
    if (strcmp(kind, "raised") == 0)
        return o->failure.kind == SHARPI_TEMPLATE_RAISED &&
               strcmp(o->failure.message, json_string_value(text)) == 0;
    if (strcmp(kind, "undefined") == 0 && strcmp(o->failure.message, json_string_value(text)) != 0)
        return false;
    return o->failure.kind == SHARPI_TEMPLATE_RUNTIME;
}

static void single_features_render_as_in_python(void)
{
    json_t *snippets = load("snippets.json"), *snippet;
    size_t i, n_bad = 0;

    CU_ASSERT_PTR_NOT_NULL_FATAL(snippets);
    json_array_foreach(snippets, i, snippet)
    {
        const json_t *source = json_object_get(snippet, "t");
        struct outcome o =
            run(json_string_value(source), json_string_length(source), json_object_get(snippet, "c"), NULL);
        if (!snippet_agrees(snippet, &o) && n_bad++ < MOST_SHOWN)
            fprintf(stderr, "%s\n  gives '%s' (%s), expected %s '%s'\n", json_string_value(source),
                    o.text.data ? o.text.data : "", o.err.text,
                    json_string_value(json_object_get(snippet, "k")),
                    json_string_value(json_object_get(snippet, "o")));
        sharpi_template_text_free(&o.text);
    }
    printf("%zu snippets, %zu differ ... ", i, n_bad);
    CU_ASSERT(i > 1000);
    CU_ASSERT_EQUAL(n_bad, 0);
    json_decref(snippets);
}

/* ---- failures */

static void expect_failure(const char *source, int32_t kind, int32_t status, uint32_t line, const char *part,
                           const struct sharpi_template_limits *limits)
{
    struct outcome o = run_z(source, limits);

    CU_ASSERT_EQUAL(o.failure.kind, kind);
    CU_ASSERT_EQUAL(o.status, status);
    CU_ASSERT(line == 0 || o.failure.line == line);
    CU_ASSERT_PTR_NOT_NULL(strstr(o.failure.message, part));
    CU_ASSERT_PTR_NOT_NULL(strstr(o.err.text, part));
    if (o.failure.kind != kind || o.status != status || (line && o.failure.line != line) ||
        !strstr(o.failure.message, part))
        fprintf(stderr, "%.80s: kind %d line %u: %s\n", source, o.failure.kind, o.failure.line, o.err.text);
    CU_ASSERT_PTR_NULL(o.text.data);
    sharpi_template_text_free(&o.text);
}

static void failures_say_what_and_where(void)
{
    expect_failure("a\n\n{{ raise_exception('only users') }}", SHARPI_TEMPLATE_RAISED, SHARPI_EINVAL, 3,
                   "only users", NULL);
    expect_failure("a\n{{ 1 + 'x' }}", SHARPI_TEMPLATE_RUNTIME, SHARPI_EFORMAT, 2, "unsupported operand",
                   NULL);
    expect_failure("a\n{% if x %}\n{{ y.z }}{% endif %}{% for i in 1 %}", SHARPI_TEMPLATE_SYNTAX,
                   SHARPI_EFORMAT, 0, "endfor", NULL);
    expect_failure("{{ x }}\n\n {{ 1 2 }}", SHARPI_TEMPLATE_SYNTAX, SHARPI_EFORMAT, 3, "integer", NULL);
    expect_failure("{% set x = [] %}\n{{ x.append(1) }}", SHARPI_TEMPLATE_RUNTIME, SHARPI_EFORMAT, 2,
                   "unsafe", NULL);
    expect_failure("{{ x.__class__ }}", SHARPI_TEMPLATE_RUNTIME, SHARPI_EFORMAT, 1, "undefined", NULL);
    expect_failure("{{ 9223372036854775807 + 1 }}", SHARPI_TEMPLATE_RUNTIME, SHARPI_EFORMAT, 1, "64 bits",
                   NULL);
    expect_failure("{{ 99999999999999999999 }}", SHARPI_TEMPLATE_SYNTAX, SHARPI_EFORMAT, 1, "64 bits", NULL);
    expect_failure("{% include 'x' %}", SHARPI_TEMPLATE_RUNTIME, SHARPI_EFORMAT, 1, "other templates", NULL);
    expect_failure("\xC3(", SHARPI_TEMPLATE_SYNTAX, SHARPI_EFORMAT, 0, "UTF-8", NULL);
}

static void syntax_failures_have_a_column(void)
{
    struct outcome o = run_z("ab\ncd {{ 1 + }}", NULL);

    CU_ASSERT_EQUAL(o.failure.line, 2);
    CU_ASSERT_EQUAL(o.failure.column, 11);
    CU_ASSERT_PTR_NOT_NULL(strstr(o.err.text, "line 2, column 11"));
}

static void a_failed_rendering_leaves_the_output_alone(void)
{
    struct sharpi_template_text text = {0};
    struct sharpi_template *good, *bad;

    CU_ASSERT_EQUAL(sharpi_template_compile("one ", 4, &good, NULL, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_template_compile("xyz{{ 1/0 }}", 12, &bad, NULL, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_template_render(good, NULL, NULL, &text, NULL, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_template_render(bad, NULL, NULL, &text, NULL, NULL), SHARPI_EFORMAT);
    CU_ASSERT_EQUAL(sharpi_template_render(good, NULL, NULL, &text, NULL, NULL), SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(text.data, "one one ");
    CU_ASSERT_EQUAL(text.n_bytes, 8);
    sharpi_template_text_free(&text);
    sharpi_template_destroy(good);
    sharpi_template_destroy(bad);
    sharpi_template_destroy(NULL);
}

/* ---- limits */

static void hostile_templates_are_stopped(void)
{
    static const char *const hostile[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% "
        "endfor "
        "%}{% endfor %}",
        "{{ 'x' * 9000000000000 }}",
        "{{ [1, 2, 3] * 4000000000 }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ "
        "ns.s }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(x) %}{{ x }}{{ m(x ~ x) }}{% endmacro %}{{ m('abc') }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l "
        "}}",
        "{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ "
        "ns.l|tojson }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l "
        "== [ns.l] "
        "}}{% set ns.b = ns.l[:] %}{{ [ns.l] == [ns.b] }}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.l = [ns] %}{{ ns.l }}",
        "{% set ns = namespace(x=range(5)) %}{% for i in range(2000) %}{% set ns.x = ns.x|map('string') %}{% "
        "endfor "
        "%}{{ ns.x|list }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ 'a'.center(99999999999) }}",
        "{{ 'a'.zfill(99999999999) }}",
        "{{ 'a\tb'.expandtabs(99999999999) }}",
        "{{ [1]|batch(99999999999, 0)|list }}",
        "{{ [1]|slice(99999999999)|list }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% "
        "endfor %}{% "
        "endfor %}",
        "{% set s = 'ab' * 100000 %}{% for i in range(100000) %}{{ s.replace('a', s)|length }}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% if 'b' in s %}{% endif %}{% endfor %}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% macro m() %}{{ caller is defined }}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}",
        "{{ [[]]|tojson(indent=99999999999) }}",
        "{{ 'a'|indent(99999999999) ~ ('a\nb'|indent(99999999999)) }}",
        "{% set x %}{% for i in range(100000) %}{% for j in range(1000) %}0123456789{% endfor %}{% endfor "
        "%}{% endset %}",
    };

    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++)
        expect_failure(hostile[i], SHARPI_TEMPLATE_LIMIT, SHARPI_EFULL, 0, "", NULL);
}

static void deep_nesting_is_refused(void)
{
    enum { DEEP = 100000 };
    static const char *const openings[] = {"(",  "[",  "{1:",   "not ",         "-",
                                           "a[", "a(", "1 + (", "x if y else ", "a|f("};
    char *source = malloc(DEEP * 16 + 64);

    for (size_t i = 0; i < sizeof openings / sizeof openings[0]; i++) {
        size_t n = (size_t)sprintf(source, "{{ ");
        struct outcome o;
        for (size_t k = 0; k < DEEP; k++)
            n += (size_t)sprintf(source + n, "%s", openings[i]);
        o = run(source, n, NULL, NULL);
        CU_ASSERT(o.failure.kind == SHARPI_TEMPLATE_LIMIT || o.failure.kind == SHARPI_TEMPLATE_SYNTAX);
    }
    for (size_t k = 0, n = 0; k < DEEP; k++)
        n += (size_t)sprintf(source + n, "{%% if 1 %%}");
    CU_ASSERT_NOT_EQUAL(run_z(source, NULL).status, SHARPI_OK);
    for (size_t k = 0, n = (size_t)sprintf(source, "{{ 1"); k < DEEP; k++)
        n += (size_t)sprintf(source + n, k + 1 == DEEP ? "}}" : "+1");
    CU_ASSERT_NOT_EQUAL(run_z(source, NULL).status, SHARPI_OK);
    for (size_t k = 0, n = (size_t)sprintf(source, "{{ a"); k < DEEP; k++)
        n += (size_t)sprintf(source + n, k + 1 == DEEP ? "}}" : "|e");
    CU_ASSERT_NOT_EQUAL(run_z(source, NULL).status, SHARPI_OK);
    free(source);
}

static void limits_can_be_set(void)
{
    const struct sharpi_template_limits steps = {.max_steps = 100}, bytes = {.max_output_bytes = 10},
                                        memory = {.max_memory_bytes = 100000}, depth = {.max_depth = 10};
    struct outcome o;

    expect_failure("{% for i in range(99) %}{{ i }}{% endfor %}", SHARPI_TEMPLATE_LIMIT, SHARPI_EFULL, 1,
                   "steps", &steps);
    expect_failure("01234567891", SHARPI_TEMPLATE_LIMIT, SHARPI_EFULL, 0, "10 bytes", &bytes);
    expect_failure("{% set x = 'abc' * 100000 %}", SHARPI_TEMPLATE_LIMIT, SHARPI_EFULL, 1, "", &memory);
    expect_failure("{{ ((((((((((1 + 1) + 1) + 1) + 1) + 1) + 1) + 1) + 1) + 1) + 1) + 1 }}",
                   SHARPI_TEMPLATE_LIMIT, SHARPI_EFULL, 1, "nesting", &depth);
    o = run_z("0123456789", &bytes);
    CU_ASSERT_EQUAL(o.status, SHARPI_OK);
    sharpi_template_text_free(&o.text);
}

/* Appending to a text a thousand times costs memory for the text, not for its thousand prefixes. */
static void collecting_a_long_text_takes_linear_memory(void)
{
    const struct sharpi_template_limits limits = {.max_memory_bytes = 16 << 20};
    struct outcome o =
        run_z("{% set ns = namespace(s='') %}{% for i in range(4000) %}{% set ns.s = ns.s + 'x' * 500 "
              "%}{% endfor %}{{ ns.s|length }}",
              &limits);

    CU_ASSERT_EQUAL(o.status, SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(o.text.data ? o.text.data : o.err.text, "2000000");
    sharpi_template_text_free(&o.text);
}

/* Two texts that grow from the same beginning must not overwrite each other. */
static void growing_texts_do_not_share_their_ends(void)
{
    struct outcome o =
        run_z("{% set a = 'x' * 200 + 'a' %}{% set b = a + 'b' %}{% set c = a + 'c' %}{% set d = b + "
              "'d' %}{{ a[-2:] }} {{ b[-2:] }} {{ c[-2:] }} {{ d[-3:] }}",
              NULL);

    CU_ASSERT_STRING_EQUAL(o.text.data ? o.text.data : o.err.text, "xa ab ac abd");
    sharpi_template_text_free(&o.text);
}

/* ---- whole chats */

static void *render_often(void *arg)
{
    struct sharpi_template_text text = {0};
    size_t n_bad = 0;

    for (int i = 0; i < 200; i++) {
        text.n_bytes = 0;
        if (sharpi_template_render(arg, NULL, NULL, &text, NULL, NULL) != SHARPI_OK ||
            strcmp(text.data, "ab0ab1ab2") != 0)
            n_bad++;
    }
    sharpi_template_text_free(&text);
    return (void *)(uintptr_t)n_bad;
}

static void one_template_renders_in_many_threads(void)
{
    static const char source[] = "{% for i in range(3) %}{{ 'a' 'b' ~ i }}{% endfor %}";
    struct sharpi_template *tmpl;
    pthread_t threads[4];
    void *n_bad;

    CU_ASSERT_EQUAL(sharpi_template_compile(source, strlen(source), &tmpl, NULL, NULL), SHARPI_OK);
    for (size_t i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(pthread_create(&threads[i], NULL, render_often, tmpl), 0);
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], &n_bad);
        CU_ASSERT_PTR_NULL(n_bad);
    }
    sharpi_template_destroy(tmpl);
}

static void check_chat(const char *name, const char *messages, int32_t prompt, const char *expected)
{
    const struct sharpi_chat_template_options options = {
        .add_generation_prompt = prompt, .bos_token = "<s>", .eos_token = "</s>"};
    const char *source = sharpi_chat_template_builtin(name);
    json_t *json = json_loads(messages, 0, NULL);
    struct sharpi_template_text text = {0};
    struct sharpi_error err = SHARPI_ERROR_INIT;

    CU_ASSERT_PTR_NOT_NULL_FATAL(source);
    sharpi_chat_template_render(source, strlen(source), json, NULL, &options, &text, NULL, &err);
    if (!text.data || strcmp(text.data, expected) != 0)
        fprintf(stderr, "%s: '%s' %s\n", name, text.data ? text.data : "", err.text);
    CU_ASSERT(text.data && strcmp(text.data, expected) == 0);
    sharpi_template_text_free(&text);
    json_decref(json);
}

static void built_in_templates_write_the_formats_of_their_models(void)
{
    static const char chat[] =
        "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"U\"},"
        "{\"role\":\"assistant\",\"content\":\"A\"},{\"role\":\"user\",\"content\":"
        "[{\"type\":\"text\",\"text\":\"V\"},{\"type\":\"text\",\"text\":\"W\"}]}]";

    check_chat(
        "chatml", chat, 1,
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nVW<|im_end|>\n<|im_start|>assistant\n");
    check_chat("gemma", chat, 1,
               "<s><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n"
               "<start_of_turn>user\nVW<end_of_turn>\n<start_of_turn>model\n");
    check_chat(
        "llama3", chat, 0,
        "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>"
        "\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\nVW<|eot_id|>");
    check_chat("llama2", chat, 1, "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] VW [/INST]");
    CU_ASSERT_PTR_NULL(sharpi_chat_template_builtin("nope"));
    CU_ASSERT_STRING_EQUAL(sharpi_chat_template_builtin_name(0), "chatml");
    CU_ASSERT_PTR_NULL(sharpi_chat_template_builtin_name(4));
}

static void extra_variables_win_and_bad_arguments_are_refused(void)
{
    static const char source[] = "{{ tools is none }} {{ eos_token is defined }} {{ bos_token }} {{ x }}";
    json_t *messages = json_array(), *extra = json_pack("{s:s, s:i}", "bos_token", "B", "x", 5);
    struct sharpi_chat_template_options options = {.bos_token = "<s>", .extra = extra};
    struct sharpi_template_text text = {0};

    CU_ASSERT_EQUAL(
        sharpi_chat_template_render(source, strlen(source), messages, NULL, &options, &text, NULL, NULL),
        SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(text.data, "True False B 5");
    CU_ASSERT_EQUAL(
        sharpi_chat_template_render(source, strlen(source), extra, NULL, &options, &text, NULL, NULL),
        SHARPI_EINVAL);
    options.extra = messages;
    CU_ASSERT_EQUAL(
        sharpi_chat_template_render(source, strlen(source), messages, NULL, &options, &text, NULL, NULL),
        SHARPI_EINVAL);
    options.extra = NULL;
    options.bos_token = "\xFF";
    CU_ASSERT_EQUAL(
        sharpi_chat_template_render(source, strlen(source), messages, NULL, &options, &text, NULL, NULL),
        SHARPI_ENOMEM);
    sharpi_template_text_free(&text);
    json_decref(messages);
    json_decref(extra);
}

int main(void)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
        {"templates of models render as in Python", templates_of_models_render_as_in_python},
        {"single features render as in Python", single_features_render_as_in_python},
        {"failures say what and where", failures_say_what_and_where},
        {"syntax failures have a column", syntax_failures_have_a_column},
        {"a failed rendering leaves the output alone", a_failed_rendering_leaves_the_output_alone},
        {"hostile templates are stopped", hostile_templates_are_stopped},
        {"deep nesting is refused", deep_nesting_is_refused},
        {"limits can be set", limits_can_be_set},
        {"collecting a long text takes linear memory", collecting_a_long_text_takes_linear_memory},
        {"growing texts do not share their ends", growing_texts_do_not_share_their_ends},
        {"one template renders in many threads", one_template_renders_in_many_threads},
        {"built-in templates write the formats of their models",
         built_in_templates_write_the_formats_of_their_models},
        {"extra variables win and bad arguments are refused",
         extra_variables_win_and_bad_arguments_are_refused},
    };
    CU_pSuite suite;
    unsigned int n_failed;

    if (CU_initialize_registry() != CUE_SUCCESS || !(suite = CU_add_suite("jinja", NULL, NULL)))
        return 1;
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        if (!CU_add_test(suite, tests[i].name, tests[i].run))
            return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    n_failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return n_failed ? 1 : 0;
}
