/* Finding special tokens (control, unknown, user-defined) in text: a trie, walked from each position.
 *
 * Invariant: the leftmost token wins, the longest of those that begin there. A walk is at most MAX_SPECIAL_BYTES long,
 * whatever the number of tokens.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer-internal.h"

static int32_t add_node(struct special_trie *trie, uint8_t byte, int32_t *out, struct sharpi_error *err)
{
    if (trie->n == trie->capacity) {
        uint64_t capacity = trie->capacity * 2 + 256;
        struct trie_node *grown =
            capacity > INT32_MAX ? NULL : realloc(trie->nodes, capacity * sizeof *grown);
        if (!grown)
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the index of special tokens");
        trie->nodes = grown;
        trie->capacity = capacity;
    }
    *out = (int32_t)trie->n++;
    trie->nodes[*out] = (struct trie_node){-1, -1, -1, -1, byte};
    return SHARPI_OK;
}

static int32_t find_child(const struct special_trie *trie, int32_t node, uint8_t byte)
{
    int32_t child = trie->nodes[node].child;
    while (child >= 0 && trie->nodes[child].byte != byte)
        child = trie->nodes[child].sibling;
    return child;
}

static int32_t insert(struct special_trie *trie, const char *text, uint32_t n, int32_t id,
                      int32_t user_defined, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    int32_t node = trie->root[(uint8_t)text[0]];
    if (node < 0) {
        status = add_node(trie, (uint8_t)text[0], &node, err);
        if (status != SHARPI_OK)
            return status;
        trie->root[(uint8_t)text[0]] = node;
    }
    for (uint32_t i = 1; i < n; i++) {
        int32_t child = find_child(trie, node, (uint8_t)text[i]);
        if (child < 0) {
            status = add_node(trie, (uint8_t)text[i], &child, err);
            if (status != SHARPI_OK)
                return status;
            trie->nodes[child].sibling = trie->nodes[node].child;
            trie->nodes[node].child = child;
        }
        node = child;
    }
    trie->nodes[node].any_id = id;
    if (user_defined)
        trie->nodes[node].user_id = id;
    return SHARPI_OK;
}

/* User-defined runs of U+2581 in SentencePiece files mean spaces, and input has spaces. */
static int32_t insert_with_spaces(struct sharpi_tokenizer *t, int32_t id, struct sharpi_error *err)
{
    char plain[MAX_SPECIAL_BYTES];
    const char *text = t->text + t->symbols[id].at;
    uint32_t n = t->symbols[id].n, m = 0;
    for (uint32_t i = 0; i < n;) {
        if (n - i >= SPACE_MARK_BYTES && memcmp(text + i, SPACE_MARK, SPACE_MARK_BYTES) == 0) {
            plain[m++] = ' ';
            i += SPACE_MARK_BYTES;
        } else {
            plain[m++] = text[i++];
        }
    }
    return m == n ? SHARPI_OK : insert(&t->specials, plain, m, id, 1, err);
}

int32_t special_build(struct sharpi_tokenizer *t, struct sharpi_error *err)
{
    memset(t->specials.root, 0xff, sizeof t->specials.root);
    for (int32_t id = 0; id < t->n_tokens; id++) {
        int32_t attr = t->attrs[id];
        uint32_t n = t->symbols[id].n;
        int32_t user_defined = attr == SHARPI_TOKEN_USER_DEFINED;
        if ((!user_defined && attr != SHARPI_TOKEN_CONTROL && attr != SHARPI_TOKEN_UNKNOWN) || n == 0)
            continue;
        if (n > MAX_SPECIAL_BYTES)
            return sharpi_fail(err, SHARPI_EFORMAT,
                               "tokenizer.ggml.tokens: special token %d has %u bytes, %d at most", id, n,
                               MAX_SPECIAL_BYTES);
        int32_t status = insert(&t->specials, t->text + t->symbols[id].at, n, id, user_defined, err);
        if (status == SHARPI_OK && user_defined && t->kind != SHARPI_TOKENIZER_BPE)
            status = insert_with_spaces(t, id, err);
        if (status != SHARPI_OK)
            return status;
    }
    return SHARPI_OK;
}

/* The longest token that begins here, in bytes; 0 if none. */
static uint32_t match_here(const struct sharpi_tokenizer *t, const char *text, uint64_t n, uint32_t flags,
                           int32_t *id)
{
    const struct special_trie *trie = &t->specials;
    int32_t node = trie->root[(uint8_t)text[0]];
    uint32_t length = 0;
    for (uint32_t i = 1; node >= 0; i++) {
        const struct trie_node *here = &trie->nodes[node];
        int32_t found = flags & SHARPI_ENCODE_PARSE_SPECIAL ? here->any_id : here->user_id;
        if (found >= 0) {
            *id = found;
            length = i;
        }
        if (i >= n)
            break;
        node = find_child(trie, node, (uint8_t)text[i]);
    }
    return length;
}

int32_t special_find(const struct sharpi_tokenizer *t, const char *text, uint64_t n, uint64_t from,
                     uint32_t flags, struct span *place, int32_t *id)
{
    for (uint64_t at = from; at < n; at++) {
        if (t->specials.root[(uint8_t)text[at]] < 0)
            continue;
        uint32_t length = match_here(t, text + at, n - at, flags, id);
        if (length > 0) {
            *place = (struct span){(uint32_t)at, length};
            return 1;
        }
    }
    return 0;
}
