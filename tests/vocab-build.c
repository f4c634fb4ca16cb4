/* Small vocabularies for tests; see vocab-build.h. */
#include "vocab-build.h"
#include "gguf-build.h"

#include <string.h>

static uint32_t put_tokens(struct build *b, const struct vocab *v)
{
    uint64_t n = 0;
    while (v->tokens[n].text)
        n++;
    build_array(b, "tokenizer.ggml.tokens", SHARPI_GGUF_STRING, n);
    for (uint64_t i = 0; i < n; i++)
        build_str(b, v->tokens[i].text);
    build_array(b, "tokenizer.ggml.token_type", SHARPI_GGUF_I32, n);
    for (uint64_t i = 0; i < n; i++)
        build_u32(b, (uint32_t)v->tokens[i].type);
    if (v->no_scores)
        return 2;
    build_array(b, "tokenizer.ggml.scores", SHARPI_GGUF_F32, n);
    for (uint64_t i = 0; i < n; i++)
        build_f32(b, v->tokens[i].score);
    return 3;
}

static uint32_t put_flag(struct build *b, const char *key, int32_t flag)
{
    if (flag == VOCAB_UNSAID)
        return 0;
    build_key(b, key, SHARPI_GGUF_BOOL);
    build_u8(b, flag == VOCAB_YES);
    return 1;
}

static uint32_t put_text(struct build *b, const char *key, const char *text)
{
    if (text)
        build_value_str(b, key, text);
    return text != NULL;
}

static uint32_t put_all(struct build *b, const struct vocab *v)
{
    uint32_t n = put_text(b, "tokenizer.ggml.model", v->model) + put_text(b, "tokenizer.ggml.pre", v->pre);
    if (v->tokens)
        n += put_tokens(b, v);
    n += put_flag(b, "tokenizer.ggml.add_space_prefix", v->no_prefix ? VOCAB_NO : VOCAB_UNSAID);
    n += put_flag(b, "tokenizer.ggml.add_bos_token", v->add_bos);
    n += put_flag(b, "tokenizer.ggml.add_eos_token", v->add_eos);
    if (v->bos) {
        build_value_u32(b, "tokenizer.ggml.bos_token_id", v->bos);
        n++;
    }
    if (v->merges) {
        uint64_t n_merges = 0;
        while (v->merges[n_merges])
            n_merges++;
        build_array(b, "tokenizer.ggml.merges", SHARPI_GGUF_STRING, n_merges);
        for (uint64_t i = 0; i < n_merges; i++)
            build_str(b, v->merges[i]);
        n++;
    }
    return n;
}

static void put_file(struct build *b, const struct vocab *v)
{
    struct build values = {0};
    uint32_t n = put_all(&values, v);
    build_header(b, 3, 0, n);
    build_bytes(b, values.bytes, values.n);
    build_free(&values);
}

int vocab_save_seed(const struct vocab *v, const char *text, const char *path)
{
    struct build file = {0}, seed = {0};
    put_file(&file, v);
    build_u32(&seed, (uint32_t)file.n);
    build_bytes(&seed, file.bytes, file.n);
    build_bytes(&seed, text, strlen(text));
    int result = build_save(&seed, path);
    build_free(&file);
    build_free(&seed);
    return result;
}

int32_t vocab_create(const struct vocab *v, struct sharpi_tokenizer **out, struct sharpi_error *err)
{
    struct build b = {0};
    struct sharpi_gguf *gguf = NULL;
    put_file(&b, v);
    *out = NULL;
    int32_t status = sharpi_gguf_open_memory(b.bytes, b.n, "test.gguf", 0, &gguf, err);
    if (status == SHARPI_OK)
        status = sharpi_tokenizer_create(gguf, out, err);
    sharpi_gguf_close(gguf); /* the tokenizer must not need it */
    build_free(&b);
    return status;
}
