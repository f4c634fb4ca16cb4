/* sharpi template: what a chat template makes of messages. Prints the text and nothing else, not even a line end. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "core/chat-template.h"
#include "core/nearest.h"
#include "core/tokenizer.h"

enum { MAX_FILE = 64 << 20, MAX_TOKEN = 128 };

struct template
{
    const char *file, *builtin, *model, *messages, *tools, *context, *bos, *eos;
    uint32_t add_generation_prompt, show_source;
};

/* What is rendered. */
struct material {
    char *source;
    uint64_t n_source;
    json_t *messages, *tools, *context;
    char bos[MAX_TOKEN], eos[MAX_TOKEN]; /* of the model, "" without */
};

static void material_free(struct material *m)
{
    free(m->source);
    json_decref(m->messages);
    json_decref(m->tools);
    json_decref(m->context);
}

static void copy_token(const struct sharpi_tokenizer *t, int32_t token, char *text)
{
    struct sharpi_str s = {"", 0};
    if (token >= 0)
        s = sharpi_token_text(t, token);
    snprintf(text, MAX_TOKEN, "%.*s", s.n < MAX_TOKEN ? (int)s.n : MAX_TOKEN - 1, s.data);
}

static int32_t read_source(const struct sharpi_gguf *gguf, struct material *m, struct sharpi_error *err)
{
    struct sharpi_str source;
    int32_t status = sharpi_gguf_string(gguf, "tokenizer.chat_template", &source, err);
    if (status == SHARPI_ENOENT)
        return sharpi_fail(
            err, status,
            "%s has no chat template (tokenizer.chat_template); give one with --file or --builtin",
            sharpi_gguf_path(gguf));
    if (status)
        return status;
    m->source = strndup(source.data, source.n);
    m->n_source = source.n;
    return m->source ? SHARPI_OK : sharpi_fail(err, SHARPI_ENOMEM, "no memory for the template");
}

/* The template, unless there is one already, and special tokens; a vocabulary that is not known only costs the tokens. */
static int32_t read_model(const char *path, struct material *m, struct sharpi_error *err)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_tokenizer *t = NULL;
    int32_t status = sharpi_gguf_open(path, SHARPI_GGUF_HEADER_ONLY, &gguf, err);
    if (!status && !m->source)
        status = read_source(gguf, m, err);
    if (!status && sharpi_tokenizer_create(gguf, &t, NULL) == SHARPI_OK) {
        copy_token(t, sharpi_tokenizer_bos(t), m->bos);
        copy_token(t, sharpi_tokenizer_eos(t), m->eos);
    }
    sharpi_tokenizer_destroy(t);
    sharpi_gguf_close(gguf);
    return status;
}

static int32_t read_builtin(const char *name, struct material *m, struct sharpi_error *err)
{
    const char *source = sharpi_chat_template_builtin(name), *names[32], *nearest;
    char list[256] = "";
    uint32_t n = 0;
    if (source) {
        m->source = strdup(source);
        m->n_source = strlen(source);
        return m->source ? SHARPI_OK : sharpi_fail(err, SHARPI_ENOMEM, "no memory for the template");
    }
    for (; n < 32 && (names[n] = sharpi_chat_template_builtin_name(n)); n++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", n ? ", " : "", names[n]);
    nearest = sharpi_nearest(name, names, n);
    if (nearest)
        return sharpi_fail(err, SHARPI_EINVAL, "no built-in template '%s'; did you mean '%s'?", name,
                           nearest);
    return sharpi_fail(err, SHARPI_EINVAL, "no built-in template '%s'; there are %s", name, list);
}

static int32_t read_json(const char *path, json_t **out, struct sharpi_error *err)
{
    json_error_t error;
    char *text;
    uint64_t n;
    int32_t status = read_file(path, MAX_FILE, &text, &n, err);
    if (status)
        return status;
    *out = json_loadb(text, n, JSON_ALLOW_NUL, &error);
    free(text);
    if (!*out)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s:%d:%d: %s", path, error.line, error.column, error.text);
    return SHARPI_OK;
}

/* --messages also takes a whole request: an object with "messages" and perhaps "tools". */
static int32_t read_inputs(const struct template *o, struct material *m, struct sharpi_error *err)
{
    json_t *all = NULL;
    int32_t status = read_json(o->messages, &all, err);
    if (!status) {
        m->messages = json_incref(json_is_object(all) ? json_object_get(all, "messages") : all);
        m->tools = json_incref(json_object_get(all, "tools"));
    }
    if (!status && o->tools) {
        json_decref(m->tools);
        m->tools = NULL;
        status = read_json(o->tools, &m->tools, err);
    }
    if (!status && o->context)
        status = read_json(o->context, &m->context, err);
    if (!status && !json_is_array(m->messages))
        status =
            sharpi_fail(err, SHARPI_EFORMAT,
                        "%s: an array of messages is needed, or an object with \"messages\"", o->messages);
    else if (!status && m->tools && !json_is_array(m->tools) && !json_is_null(m->tools))
        status =
            sharpi_fail(err, SHARPI_EFORMAT, "%s: tools must be an array", o->tools ? o->tools : o->messages);
    else if (!status && m->context && !json_is_object(m->context))
        status = sharpi_fail(err, SHARPI_EFORMAT, "%s: an object of variables is needed", o->context);
    json_decref(all);
    return status;
}

static int32_t render(const struct template *o, const struct material *m, struct sharpi_error *err)
{
    struct sharpi_chat_template_options options = {.add_generation_prompt = (int32_t)o->add_generation_prompt,
                                                   .bos_token = o->bos ? o->bos : m->bos,
                                                   .eos_token = o->eos ? o->eos : m->eos,
                                                   .extra = m->context};
    struct sharpi_template_text text = {0};
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): run_template frees the material, whatever comes */
    int32_t status = sharpi_chat_template_render(m->source, m->n_source, m->messages, m->tools, &options,
                                                 &text, NULL, err);
    if (!status)
        status = put_text(text.data ? text.data : "", text.n_bytes, err);
    sharpi_template_text_free(&text);
    return status;
}

static int32_t run_template(const struct template *o, struct sharpi_error *err)
{
    struct material m = {.source = NULL};
    int32_t status = SHARPI_OK;
    if (o->file)
        status = read_file(o->file, MAX_FILE, &m.source, &m.n_source, err);
    else if (o->builtin)
        status = read_builtin(o->builtin, &m, err);
    if (!status && o->model)
        status = read_model(o->model, &m, err);
    if (!status && o->show_source)
        status = put_text(m.source, m.n_source, err);
    else if (!status && !(status = read_inputs(o, &m, err)))
        status = render(o, &m, err);
    material_free(&m);
    return status;
}

static int template_command(int argc, char **argv)
{
    struct template o = {.file = NULL};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint32_t n_args;
    int code;
    const struct option own[] = {
        {"model", 'm', OPTION_STRING, "FILE", "GGUF file: its template, BOS and EOS", &o.model, NULL},
        {"file", 'f', OPTION_STRING, "FILE", "a template instead of the model's", &o.file, NULL},
        {"builtin", 0, OPTION_STRING, "NAME", "a built-in one: chatml, gemma, llama2, llama3", &o.builtin,
         NULL},
        {"messages", 0, OPTION_STRING, "FILE",
         "messages as the OpenAI API has them, JSON; - is standard input", &o.messages, NULL},
        {"tools", 0, OPTION_STRING, "FILE", "array of tools, JSON", &o.tools, NULL},
        {"context", 0, OPTION_STRING, "FILE", "object whose members become variables, JSON", &o.context,
         NULL},
        {"add-generation-prompt", 0, OPTION_FLAG, NULL, "end with the opening of the answer",
         &o.add_generation_prompt, NULL},
        {"bos-token", 0, OPTION_STRING, "TEXT", "text of BOS (default: the model's)", &o.bos, NULL},
        {"eos-token", 0, OPTION_STRING, "TEXT", "text of EOS (default: the model's)", &o.eos, NULL},
        {"source", 0, OPTION_FLAG, NULL, "print the template itself", &o.show_source, NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, NULL};
    code = parse_command("template", "sharpi template (-m FILE | --file FILE) --messages FILE [OPTIONS]",
                         "Prints what a chat template makes of messages, with nothing added.", tables, argc,
                         argv, NULL, 0, &n_args);
    if (code >= 0)
        return code;
    if (!o.model && !o.file && !o.builtin)
        sharpi_fail(&err, SHARPI_EINVAL,
                    "no template: give -m FILE.gguf, --file FILE.jinja or --builtin NAME");
    else if (o.file && o.builtin)
        sharpi_fail(&err, SHARPI_EINVAL, "--file and --builtin are two templates: give one");
    else if (!o.messages && !o.show_source)
        sharpi_fail(&err, SHARPI_EINVAL, "no messages: give --messages FILE.json");
    if (err.text[0])
        return fail_usage("template", &err);
    catch_interrupt();
    return run_template(&o, &err) ? fail("template", &err) : EXIT_OK;
}

const struct command command_template = {"template", "what a chat template makes of messages",
                                         template_command};
