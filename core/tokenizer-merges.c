/* Reading tokenizer.ggml.merges: "left right" in order of rank.
 *
 * Invariant: every text of a rule is a symbol afterwards, so that encoding compares ids and no text. A text that
 * is no token gets an id behind the tokens.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer-internal.h"

/* One rule while a batch of them is looked up. */
struct rule {
    const char *left, *right; /* texts in the file */
    const char *joined;       /* both, in memory of our own */
    uint32_t left_n, right_n;
    int32_t left_id, right_id, result;
};

enum {
    BATCH = 16, /* rules whose table slots are fetched together: each look-up is a cache miss */
};

static int32_t parse_rule(struct sharpi_str text, uint64_t index, char *joined, struct rule *rule,
                          struct sharpi_error *err)
{
    const char *space = text.n > 1 ? memchr(text.data + 1, ' ', text.n - 1) : NULL;
    uint64_t left_n = space ? (uint64_t)(space - text.data) : 0;
    if (!space || left_n + 1 == text.n || text.n > UINT32_MAX)
        return sharpi_fail(err, SHARPI_EFORMAT,
                           "tokenizer.ggml.merges: entry %llu is not two texts with a space between",
                           (unsigned long long)index);
    *rule = (struct rule){text.data, space + 1, joined, (uint32_t)left_n, (uint32_t)(text.n - left_n - 1),
                          -1,        -1,        -1};
    memcpy(joined, rule->left, rule->left_n);
    memcpy(joined + rule->left_n, rule->right, rule->right_n);
    return SHARPI_OK;
}

/* Most files list tokens in the order of their merges, so the token behind the last result is tried first. */
static int32_t find_result(struct sharpi_tokenizer *t, const struct rule *rule, int32_t *result,
                           struct sharpi_error *err)
{
    uint32_t n = rule->left_n + rule->right_n;
    for (int32_t id = *result; id <= *result + 1; id++) {
        if (id >= 0 && id < t->n_tokens && t->symbols[id].n == n &&
            memcmp(t->text + t->symbols[id].at, rule->joined, n) == 0) {
            *result = id;
            return SHARPI_OK;
        }
    }
    return symbol_intern(t, rule->joined, n, result, err);
}

static int32_t add_rules(struct sharpi_tokenizer *t, const struct sharpi_str *texts, uint64_t first,
                         uint64_t n, char *joined, int32_t *result, struct sharpi_error *err)
{
    struct rule rules[BATCH];
    for (uint64_t i = 0; i < n; i++) {
        int32_t status = parse_rule(texts[i], first + i, joined, &rules[i], err);
        if (status != SHARPI_OK)
            return status;
        joined += texts[i].n;
        symbol_prefetch(t, rules[i].left, rules[i].left_n);
        symbol_prefetch(t, rules[i].right, rules[i].right_n);
    }
    for (uint64_t i = 0; i < n; i++) {
        symbol_prefetch_text(t, rules[i].left, rules[i].left_n);
        symbol_prefetch_text(t, rules[i].right, rules[i].right_n);
    }
    for (uint64_t i = 0; i < n; i++) {
        int32_t status = symbol_intern(t, rules[i].left, rules[i].left_n, &rules[i].left_id, err);
        if (status == SHARPI_OK)
            status = symbol_intern(t, rules[i].right, rules[i].right_n, &rules[i].right_id, err);
        if (status == SHARPI_OK)
            status = find_result(t, &rules[i], result, err);
        if (status != SHARPI_OK)
            return status;
        rules[i].result = *result;
        pair_prefetch(&t->pairs, rules[i].left_id, rules[i].right_id);
    }
    for (uint64_t i = 0; i < n; i++)
        pair_insert(&t->pairs, rules[i].left_id, rules[i].right_id, (uint32_t)(first + i), rules[i].result);
    return SHARPI_OK;
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
    int32_t result = -1;
    int32_t status = sharpi_gguf_strings(gguf, "tokenizer.ggml.merges", &rules, &n, err);
    if (status == SHARPI_ENOENT)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s: tokenizer.ggml.merges is missing",
                           sharpi_gguf_path(gguf));
    if (status == SHARPI_OK && n > INT32_MAX)
        status = sharpi_fail(err, SHARPI_EFORMAT, "tokenizer.ggml.merges has too many entries");
    if (status == SHARPI_OK)
        status = pair_table_init(&t->pairs, n, t->table.seed, err);
    if (status == SHARPI_OK) {
        joined = malloc(BATCH * longest(rules, n) + 1);
        if (!joined)
            status = sharpi_fail(err, SHARPI_ENOMEM, "no memory to read tokenizer.ggml.merges");
    }
    for (uint64_t i = 0; i < n && status == SHARPI_OK; i += BATCH)
        status = add_rules(t, rules + i, i, n - i < BATCH ? n - i : BATCH, joined, &result, err);
    free(joined);
    free(rules);
    return status;
}
