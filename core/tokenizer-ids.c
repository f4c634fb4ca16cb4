/* Which ids are special: begin and end of text, end of a turn, and the rules for adding them.
 *
 * Invariant: every id kept here is -1 or a token of the vocabulary.
 */
#include <string.h>

#include "tokenizer-internal.h"

static int32_t load_id(const struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf, const char *key,
                       int32_t *out, struct sharpi_error *err)
{
    uint64_t id = 0;
    int32_t status = sharpi_gguf_u64(gguf, key, &id, err);
    if (status == SHARPI_ENOENT)
        return SHARPI_OK;
    if (status != SHARPI_OK)
        return status;
    if (id == UINT32_MAX) { /* how some converters write "none" */
        *out = -1;
        return SHARPI_OK;
    }
    if (id >= (uint64_t)t->n_tokens)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s: %s = %llu, but the vocabulary has %d tokens",
                           sharpi_gguf_path(gguf), key, (unsigned long long)id, t->n_tokens);
    *out = (int32_t)id;
    return SHARPI_OK;
}

static int32_t load_flag(const struct sharpi_gguf *gguf, const char *key, int32_t *out,
                         struct sharpi_error *err)
{
    uint64_t value = 0;
    int32_t status = sharpi_gguf_u64(gguf, key, &value, err);
    if (status == SHARPI_OK)
        *out = value != 0;
    return status == SHARPI_ENOENT ? SHARPI_OK : status;
}

static int32_t find_token(const struct sharpi_tokenizer *t, const char *text)
{
    int32_t id = symbol_find(t, text, strlen(text));
    return id < t->n_tokens ? id : -1;
}

static void add_eog(struct sharpi_tokenizer *t, int32_t id)
{
    if (id >= 0 && !sharpi_tokenizer_is_eog(t, id) && t->n_eog < MAX_EOG)
        t->eog[t->n_eog++] = id;
}

/* A token that ends a turn must not be reachable from a user's text, whatever the file calls it. */
static void add_eog_text(struct sharpi_tokenizer *t, const char *text)
{
    int32_t id = find_token(t, text);
    if (id < 0)
        return;
    add_eog(t, id);
    t->attrs[id] = SHARPI_TOKEN_CONTROL;
}

static void find_eog(struct sharpi_tokenizer *t)
{
    static const char *const turns[] = {"<|eot_id|>",    "<|im_end|>",    "<|end|>",
                                        "<end_of_turn>", "<|endoftext|>", "<|eom_id|>"};
    /* In OpenAI's harmony format <|end|> only separates messages of one answer. */
    int32_t harmony = find_token(t, "<|return|>") >= 0 && find_token(t, "<|call|>") >= 0;
    for (size_t i = 0; i < sizeof turns / sizeof turns[0]; i++) {
        if (harmony && strcmp(turns[i], "<|end|>") == 0)
            continue;
        add_eog_text(t, turns[i]);
        if (t->eot < 0 && strcmp(turns[i], "<|eom_id|>") != 0)
            t->eot = find_token(t, turns[i]);
    }
    if (harmony) {
        add_eog_text(t, "<|return|>");
        add_eog_text(t, "<|call|>");
    }
}

/* Gemma 4's files say little that can be relied on: the texts decide. */
static void find_gemma4(struct sharpi_tokenizer *t)
{
    static const char *const visible[] = {"<|channel>",   "<channel|>",       "<|tool_call>",
                                          "<tool_call|>", "<tool_response|>", "<|\"|>"};
    t->n_eog = 0;
    add_eog_text(t, "<eos>");
    add_eog_text(t, "<turn|>");
    add_eog_text(t, "<|tool_response>");
    t->eot = find_token(t, "<turn|>");
    if (t->bos < 0)
        t->bos = find_token(t, "<bos>");
    if (t->eos < 0)
        t->eos = find_token(t, "<eos>");
    for (size_t i = 0; i < sizeof visible / sizeof visible[0]; i++) {
        int32_t id = find_token(t, visible[i]);
        if (id >= 0)
            t->attrs[id] = SHARPI_TOKEN_USER_DEFINED;
    }
    t->add_bos = 1;
    t->add_eos = 0;
    t->space_prefix = 0;
}

static void set_defaults(struct sharpi_tokenizer *t)
{
    int32_t spm = t->kind == SHARPI_TOKENIZER_SPM;
    t->bos = spm && t->n_tokens > 1 ? 1 : -1;
    t->eos = spm && t->n_tokens > 2 ? 2 : -1;
    t->unk = spm ? 0 : -1;
    t->eot = -1;
    t->add_bos = spm || (t->kind == SHARPI_TOKENIZER_BPE && t->pre->adds_bos);
    t->space_prefix = spm;
}

/* Phi-3's control tokens swallow the white space behind them; no key says so, only the model's name. */
static void find_strip(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf)
{
    struct sharpi_str name = {NULL, 0};
    if (t->kind != SHARPI_TOKENIZER_SPM || sharpi_gguf_string(gguf, "general.name", &name, NULL) != SHARPI_OK)
        return;
    for (uint64_t i = 0; i + 4 <= name.n; i++) {
        const char *at = name.data + i;
        if (strncasecmp(at, "phi3", 4) == 0 || (i + 5 <= name.n && strncasecmp(at, "phi-3", 5) == 0))
            t->strip_after_special = 1;
    }
}

int32_t tokenizer_load_ids(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf,
                           struct sharpi_error *err)
{
    int32_t eom = -1;
    set_defaults(t);
    const struct {
        const char *key;
        int32_t *id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", &t->bos},
               {"tokenizer.ggml.eos_token_id", &t->eos},
               {"tokenizer.ggml.eot_token_id", &t->eot},
               {"tokenizer.ggml.unknown_token_id", &t->unk},
               {"tokenizer.ggml.eom_token_id", &eom}},
      flags[] = {{"tokenizer.ggml.add_bos_token", &t->add_bos},
                 {"tokenizer.ggml.add_eos_token", &t->add_eos},
                 {"tokenizer.ggml.add_space_prefix", &t->space_prefix},
                 {"tokenizer.ggml.remove_extra_whitespaces", &t->squeeze_spaces}};
    int32_t status = SHARPI_OK;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0] && status == SHARPI_OK; i++)
        status = load_id(t, gguf, ids[i].key, ids[i].id, err);
    for (size_t i = 0; i < sizeof flags / sizeof flags[0] && status == SHARPI_OK; i++)
        status = load_flag(gguf, flags[i].key, flags[i].id, err);
    if (status != SHARPI_OK)
        return status;
    add_eog(t, t->eos);
    add_eog(t, t->eot);
    add_eog(t, eom);
    if (t->kind == SHARPI_TOKENIZER_GEMMA4)
        find_gemma4(t);
    else
        find_eog(t);
    add_eog(t, t->kind == SHARPI_TOKENIZER_GEMMA4 ? -1 : t->eot);
    find_strip(t, gguf);
    return SHARPI_OK;
}
