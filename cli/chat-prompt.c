/* Rendering conversations: see chat-prompt.h. */
#include "chat-prompt.h"

#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "core/chat-template.h"

enum { MAX_TEMPLATE = 4 << 20, MAX_TOKEN_TEXT = 128 };

struct chat_prompt {
    const struct sharpi_model *model;
    struct sharpi_template *template;
    json_t *extra; /* variables of the template */
    char bos[MAX_TOKEN_TEXT], eos[MAX_TOKEN_TEXT];
    uint32_t flags; /* of sharpi_model_tokenize */
};

/* "chatml, gemma, llama2, llama3" */
static const char *builtin_names(char *text, size_t n)
{
    const char *name;
    size_t used = 0;
    for (size_t i = 0; (name = sharpi_chat_template_builtin_name(i)) && used < n; i++)
        used += (size_t)snprintf(text + used, n - used, "%s%s", i ? ", " : "", name);
    return text;
}

static int32_t compile_source(struct chat_prompt *p, const char *source, uint64_t n, const char *from,
                              struct sharpi_error *err)
{
    struct sharpi_error inner = SHARPI_ERROR_INIT;
    int32_t status = sharpi_template_compile(source, n, &p->template, NULL, &inner);
    return status ? sharpi_fail(err, status, "chat template of %s: %s", from, inner.text) : SHARPI_OK;
}

static int32_t compile_template(struct chat_prompt *p, const char *name, struct sharpi_error *err)
{
    const char *builtin = name ? sharpi_chat_template_builtin(name) : NULL;
    struct sharpi_str own = p->model->chat_template;
    char names[128], *source = NULL;
    uint64_t n;
    int32_t status;
    if (builtin)
        return compile_source(p, builtin, strlen(builtin), name, err);
    if (!name && own.n)
        return compile_source(p, own.data, own.n, sharpi_model_file_path(p->model->file), err);
    if (!name)
        return sharpi_fail(
            err, SHARPI_ENOENT,
            "%s has no chat template; choose the one that it was trained with: --template %s or "
            "a file",
            sharpi_model_file_path(p->model->file), builtin_names(names, sizeof names));
    status = read_file(name, MAX_TEMPLATE, &source, &n, err);
    if (status == SHARPI_ENOENT && !strchr(name, '/'))
        return sharpi_fail(err, status, "--template %s: no such file, and the built-in ones are %s", name,
                           builtin_names(names, sizeof names));
    if (!status)
        status = compile_source(p, source, n, name, err);
    free(source);
    return status;
}

static void copy_token(const struct sharpi_tokenizer *tokenizer, int32_t token, char *text)
{
    struct sharpi_str s = {"", 0};
    if (token >= 0)
        s = sharpi_token_text(tokenizer, token);
    snprintf(text, MAX_TOKEN_TEXT, "%.*s", s.n < MAX_TOKEN_TEXT ? (int)s.n : 0, s.data);
}

/* A model's own template writes BOS itself if the model wants it. One that was made for others may not, so the tokenizer adds
 * it where the file asks for it and the text does not begin with it; EOS behind a prompt is never right. */
static uint32_t tokenize_flags(const struct sharpi_tokenizer *t, const char *name)
{
    int32_t add = name && sharpi_tokenizer_adds_bos(t) && !sharpi_tokenizer_adds_eos(t);
    return SHARPI_TEXT_PARSE | (add ? (uint32_t)SHARPI_TEXT_SPECIAL : 0);
}

int32_t chat_prompt_create(const struct sharpi_model *model, const char *name, int32_t thinking,
                           struct chat_prompt **out, struct sharpi_error *err)
{
    struct chat_prompt *p;
    int32_t status;
    if (!model->tokenizer)
        return sharpi_fail(err, SHARPI_ENOTSUP, "%s", model->tokenizer_error.text);
    p = calloc(1, sizeof *p);
    if (!p)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a chat template");
    p->model = model;
    copy_token(model->tokenizer, sharpi_tokenizer_bos(model->tokenizer), p->bos);
    copy_token(model->tokenizer, sharpi_tokenizer_eos(model->tokenizer), p->eos);
    p->flags = tokenize_flags(model->tokenizer, name);
    status = compile_template(p, name, err);
    if (!status && thinking >= 0) {
        p->extra = json_pack("{s:b}", "enable_thinking", thinking);
        if (!p->extra)
            status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for a chat template");
    }
    if (status) {
        chat_prompt_destroy(p);
        return status;
    }
    *out = p;
    return SHARPI_OK;
}

void chat_prompt_destroy(struct chat_prompt *p)
{
    if (!p)
        return;
    sharpi_template_destroy(p->template);
    json_decref(p->extra);
    free(p);
}

int32_t chat_prompt_render(const struct chat_prompt *p, const json_t *messages, char **text, uint64_t *n_text,
                           int32_t **tokens, uint64_t *n_tokens, struct sharpi_error *err)
{
    struct sharpi_chat_template_options options = {
        .add_generation_prompt = 1, .bos_token = p->bos, .eos_token = p->eos, .extra = p->extra};
    struct sharpi_template_text out = {0};
    int32_t status = sharpi_chat_template_apply(p->template, messages, NULL, &options, &out, NULL, err);
    if (!status && out.n_bytes == 0)
        status = sharpi_fail(err, SHARPI_EINVAL, "the chat template makes nothing of the messages");
    if (!status)
        status = sharpi_model_tokenize(p->model, out.data, out.n_bytes, p->flags, tokens, n_tokens, err);
    if (status) {
        sharpi_template_text_free(&out);
        return status;
    }
    *text = out.data;
    *n_text = out.n_bytes;
    return SHARPI_OK;
}

json_t *chat_message(const char *role, const char *text, uint64_t n)
{
    json_t *content = json_stringn(text, n), *message = json_object();
    if (content && message && json_object_set_new(message, "role", json_string(role)) == 0 &&
        json_object_set(message, "content", content) == 0) {
        json_decref(content);
        return message;
    }
    json_decref(content);
    json_decref(message);
    return NULL;
}
