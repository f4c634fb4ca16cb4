/* Text of a model: its tokenizer and chat template behind the application API. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

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
