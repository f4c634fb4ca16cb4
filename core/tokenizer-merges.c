/* Reading tokenizer.ggml.merges: "left right" in order of rank.
 *
 * Invariant: every text of a rule is a symbol afterwards, so that encoding compares ids and no text. A text that
 * is no token gets an id behind the tokens.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer-internal.h"

static int32_t add_merge(struct sharpi_tokenizer *t, struct sharpi_str rule, uint32_t rank, char *joined,
                         struct sharpi_error *err)
{
    const char *space = rule.n > 1 ? memchr(rule.data + 1, ' ', rule.n - 1) : NULL;
    uint64_t left_n = space ? (uint64_t)(space - rule.data) : 0;
    if (!space || left_n + 1 == rule.n)
        return sharpi_fail(err, SHARPI_EFORMAT,
                           "tokenizer.ggml.merges: entry %u is not two texts with a space between", rank);
    uint64_t right_n = rule.n - left_n - 1;
    int32_t left, right, result;
    memcpy(joined, rule.data, left_n);
    memcpy(joined + left_n, space + 1, right_n);
    int32_t status = symbol_intern(t, joined, left_n, &left, err);
    if (status == SHARPI_OK)
        status = symbol_intern(t, joined + left_n, right_n, &right, err);
    if (status == SHARPI_OK)
        status = symbol_intern(t, joined, left_n + right_n, &result, err);
    if (status == SHARPI_OK)
        pair_insert(&t->pairs, left, right, rank, result);
    return status;
}

static uint64_t longest(const struct sharpi_str *rules, uint64_t n)
{
    uint64_t most = 0;
    for (uint64_t i = 0; i < n; i++)
        most = rules[i].n > most ? rules[i].n : most;
    return most;
}

int32_t tokenizer_load_merges(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf,
                              struct sharpi_error *err)
{
    struct sharpi_str *rules = NULL;
    char *joined = NULL;
    uint64_t n = 0;
    int32_t status = sharpi_gguf_strings(gguf, "tokenizer.ggml.merges", &rules, &n, err);
    if (status == SHARPI_ENOENT)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s: tokenizer.ggml.merges is missing",
                           sharpi_gguf_path(gguf));
    if (status == SHARPI_OK && n > INT32_MAX)
        status = sharpi_fail(err, SHARPI_EFORMAT, "tokenizer.ggml.merges has too many entries");
    if (status == SHARPI_OK)
        status = pair_table_init(&t->pairs, n, t->table.seed, err);
    if (status == SHARPI_OK) {
        joined = malloc(longest(rules, n) + 1);
        if (!joined)
            status = sharpi_fail(err, SHARPI_ENOMEM, "no memory to read tokenizer.ggml.merges");
    }
    for (uint64_t i = 0; i < n && status == SHARPI_OK; i++)
        status = add_merge(t, rules[i], (uint32_t)i, joined, err);
    free(joined);
    free(rules);
    return status;
}
