/* Chat templates: see prompt.h. */
#include "prompt.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TOKEN_TEXT = 128 };

struct prompt_template {
    const struct sharpi_model *model;
    struct sharpi_template *compiled;
    char bos[MAX_TOKEN_TEXT], eos[MAX_TOKEN_TEXT];
    uint32_t flags; /* of sharpi_model_tokenize */
};

static void copy_token(const struct sharpi_tokenizer *tokenizer, int32_t token, char *text)
{
    struct sharpi_str s = {"", 0};
    if (token >= 0)
        s = sharpi_token_text(tokenizer, token);
    snprintf(text, MAX_TOKEN_TEXT, "%.*s", s.n < MAX_TOKEN_TEXT ? (int)s.n : 0, s.data);
}

/* A model's own template writes BOS itself if the model wants it. One that was made for others may not, so the tokenizer adds
 * it where the file asks for it and the text does not begin with it. EOS behind a prompt is never right. */
static uint32_t tokenize_flags(const struct sharpi_tokenizer *t, int32_t is_own)
{
    int32_t add = !is_own && sharpi_tokenizer_adds_bos(t) && !sharpi_tokenizer_adds_eos(t);
    return SHARPI_TEXT_PARSE | (add ? (uint32_t)SHARPI_TEXT_SPECIAL : 0);
}

int32_t prompt_template_create(const struct sharpi_model *model, const char *source, uint64_t n,
                               const char *name, struct prompt_template **out, struct sharpi_error *err)
{
    struct sharpi_error inner = SHARPI_ERROR_INIT;
    struct prompt_template *p;
    int32_t status, is_own = !source;
    if (!model->tokenizer)
        return sharpi_fail(err, SHARPI_ENOTSUP, "%s", model->tokenizer_error.text);
    if (!source && !model->chat_template.n)
        return sharpi_fail(err, SHARPI_ENOENT,
                           "the model has no chat template (tokenizer.chat_template); start the server with "
                           "--template NAME or FILE, the one that the model was trained with");
    p = calloc(1, sizeof *p);
    if (!p)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a chat template");
    p->model = model;
    p->flags = tokenize_flags(model->tokenizer, is_own);
    copy_token(model->tokenizer, sharpi_tokenizer_bos(model->tokenizer), p->bos);
    copy_token(model->tokenizer, sharpi_tokenizer_eos(model->tokenizer), p->eos);
    status = sharpi_template_compile(source ? source : model->chat_template.data,
                                     source ? n : model->chat_template.n, &p->compiled, NULL, &inner);
    if (status) {
        free(p);
        return sharpi_fail(err, status, "chat template of %s: %s", name, inner.text);
    }
    *out = p;
    return SHARPI_OK;
}

void prompt_template_destroy(struct prompt_template *p)
{
    if (!p)
        return;
    sharpi_template_destroy(p->compiled);
    free(p);
}

/* What the template says about the messages is the client's fault: it sent them. */
static int32_t render_failed(int32_t status, const struct sharpi_template_failure *failure,
                             const struct sharpi_error *err, struct http_error *error)
{
    if (failure->kind == SHARPI_TEMPLATE_RAISED)
        return http_fail(error, 400, "template_error", "messages",
                         "the model's chat template refuses the messages: %s", failure->message);
    if (status == SHARPI_ENOMEM)
        return http_fail_status(error, status, err);
    return http_fail(error, 400, "template_error", "messages",
                     "the model's chat template fails on the messages: %s", err->text);
}

static const char *find_last(const char *text, uint64_t n, const char *what, uint64_t n_what)
{
    const char *found = NULL, *at = text;
    while ((at = memmem(at, n - (uint64_t)(at - text), what, n_what)))
        found = at++;
    return found;
}

/* Cuts what the template puts behind the last message: its end mark, line ends. */
static int32_t cut_after_last(const json_t *messages, struct sharpi_template_text *out, size_t start,
                              struct http_error *error)
{
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const json_t *content = json_object_get(last, "content");
    const char *text = json_string_value(content), *place;
    uint64_t n = json_string_length(content);
    while (n && strchr(" \t\r\n", text[n - 1]) && text[n - 1])
        n--;
    place = n ? find_last(out->data + start, out->n_bytes - start, text, n) : NULL;
    if (!place)
        return http_fail(error, 400, "template_error", "messages", "the last message cannot be continued: %s",
                         n ? "the chat template does not show it as it is" : "it is empty");
    out->n_bytes = (size_t)(place - out->data) + n;
    out->data[out->n_bytes] = 0;
    return 0;
}

int32_t prompt_render(const struct prompt_template *p, const json_t *messages, const json_t *extra,
                      int32_t continue_last, struct sharpi_template_text *out, struct http_error *error)
{
    struct sharpi_chat_template_options options = {
        .add_generation_prompt = !continue_last, .bos_token = p->bos, .eos_token = p->eos, .extra = extra};
    struct sharpi_template_failure failure = {.kind = SHARPI_TEMPLATE_NO_FAILURE};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    size_t start = out->n_bytes;
    int32_t status = sharpi_chat_template_apply(p->compiled, messages, NULL, &options, out, &failure, &err);
    if (status)
        return render_failed(status, &failure, &err, error);
    if (out->n_bytes == start)
        return http_fail(error, 400, "template_error", "messages",
                         "the chat template makes nothing of the messages");
    return continue_last ? cut_after_last(messages, out, start, error) : 0;
}

int32_t prompt_tokenize(const struct prompt_template *p, const char *text, uint64_t n, int32_t **tokens,
                        uint64_t *n_tokens, struct http_error *error)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = sharpi_model_tokenize(p->model, text, n, p->flags, tokens, n_tokens, &err);
    return status ? http_fail_status(error, status, &err) : 0;
}
