/* Text of a model: its tokenizer and chat template behind the application API. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

#include "chat-template.h"

int32_t sharpi_model_tokenize(const struct sharpi_model *model, const char *text, uint64_t n_bytes,
                              uint32_t flags, int32_t **tokens, uint64_t *n, struct sharpi_error *err)
{
    struct sharpi_tokens list = SHARPI_TOKENS_INIT;
    uint32_t encode = (flags & SHARPI_TEXT_SPECIAL ? SHARPI_ENCODE_ADD_SPECIAL : 0u) |
                      (flags & SHARPI_TEXT_PARSE ? SHARPI_ENCODE_PARSE_SPECIAL : 0u);
    int32_t status;
    if (!model->tokenizer)
        return sharpi_fail(err, SHARPI_ENOTSUP, "%s", model->tokenizer_error.text);
    status = sharpi_tokenizer_encode(model->tokenizer, text, n_bytes, encode, &list, err);
    if (status) {
        sharpi_tokens_free(&list);
        return status;
    }
    *tokens = list.ids;
    *n = list.n;
    return SHARPI_OK;
}

int32_t sharpi_model_is_end(const struct sharpi_model *model, int32_t token)
{
    return model->tokenizer ? sharpi_tokenizer_is_eog(model->tokenizer, token) : 0;
}

int32_t sharpi_model_has_chat_template(const struct sharpi_model *model)
{
    return model->chat_template.n > 0;
}

/* The text of a special token as a C string, "" when the model has none. */
static void token_text(const struct sharpi_model *model, int32_t token, char *text, size_t n)
{
    struct sharpi_str s = {"", 0};
    if (token >= 0)
        s = sharpi_token_text(model->tokenizer, token);
    snprintf(text, n, "%.*s", s.n < n ? (int)s.n : (int)n - 1, s.data);
}

static json_t *make_messages(const char *system, const char *user)
{
    json_t *messages = json_array();
    if (messages && system)
        json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", system));
    if (messages)
        json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "user", "content", user));
    if (json_array_size(messages) == (system ? 2u : 1u))
        return messages;
    json_decref(messages);
    return NULL;
}

int32_t sharpi_model_chat_prompt(const struct sharpi_model *model, const char *system, const char *user,
                                 char **text, struct sharpi_error *err)
{
    struct sharpi_template_text out = {0};
    struct sharpi_chat_template_options options = {.add_generation_prompt = 1};
    char bos[128], eos[128];
    json_t *messages;
    int32_t status;
    if (!model->tokenizer)
        return sharpi_fail(err, SHARPI_ENOTSUP, "%s", model->tokenizer_error.text);
    if (!model->chat_template.n)
        return sharpi_fail(err, SHARPI_ENOENT, "%s has no chat template (tokenizer.chat_template)",
                           sharpi_model_file_path(model->file));
    messages = make_messages(system, user);
    if (!messages)
        return sharpi_fail(err, SHARPI_EINVAL, "the message is not valid UTF-8");
    token_text(model, sharpi_tokenizer_bos(model->tokenizer), bos, sizeof bos);
    token_text(model, sharpi_tokenizer_eos(model->tokenizer), eos, sizeof eos);
    options.bos_token = bos;
    options.eos_token = eos;
    status = sharpi_chat_template_render(model->chat_template.data, model->chat_template.n, messages, NULL,
                                         &options, &out, NULL, err);
    json_decref(messages);
    if (!status) {
        *text = strndup(out.data ? out.data : "", out.n_bytes);
        if (!*text)
            status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for the prompt");
    }
    sharpi_template_text_free(&out);
    return status;
}
