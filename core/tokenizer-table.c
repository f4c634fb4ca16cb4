/* The two hash tables of a tokenizer: text -> symbol, and pair of symbols -> merge.
 *
 * Invariant: a table is never more than half full, so a look-up ends at a free slot. Texts live in the tokenizer's
 * one block; a slot keeps 32 bits of the hash, so that a miss rarely touches the text.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer-internal.h"

static uint64_t mix(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t load64(const char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t load_tail(const char *p, uint64_t n) /* n < 8 bytes, without reading past them */
{
    uint64_t v = 0;
    if (n >= 4) {
        uint32_t a, b;
        memcpy(&a, p, 4);
        memcpy(&b, p + n - 4, 4);
        return (uint64_t)a << 32 | b;
    }
    if (n > 0) {
        const uint8_t *b = (const uint8_t *)p;
        v = (uint64_t)b[0] << 16 | (uint64_t)b[n / 2] << 8 | b[n - 1];
    }
    return v;
}

/* Multiply-and-fold over 8 bytes at a time; the secret seed enters every product. */
uint64_t text_hash(uint64_t seed, const char *text, uint64_t n)
{
    uint64_t h = seed ^ n;
    uint64_t left = n;
    for (; left >= 8; left -= 8, text += 8)
        h = mix(h ^ load64(text), seed ^ 0x9e3779b97f4a7c15u);
    h = mix(h ^ load_tail(text, left), seed ^ 0xd6e8feb86659fd93u);
    return mix(h, seed ^ 0xa0761d6478bd642fu);
}

static uint64_t slots_for(uint64_t n)
{
    uint64_t slots = 16;
    while (slots < 2 * n)
        slots *= 2;
    return slots;
}

int32_t text_table_init(struct text_table *table, uint64_t n, struct sharpi_error *err)
{
    uint64_t slots = slots_for(n);
    table->slots = malloc(slots * sizeof *table->slots);
    if (!table->slots)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the index of %llu tokens",
                           (unsigned long long)n);
    memset(table->slots, 0xff, slots * sizeof *table->slots);
    table->mask = slots - 1;
    table->n = 0;
    return SHARPI_OK;
}

static const char *symbol_text(const struct sharpi_tokenizer *t, int32_t id)
{
    return t->text + t->symbols[id].at;
}

/* The slot that holds this text, or the free one where it belongs. */
static struct text_slot *find_slot(const struct sharpi_tokenizer *t, const char *text, uint64_t n,
                                   uint64_t hash)
{
    const struct text_table *table = &t->table;
    uint64_t i = hash & table->mask;
    uint32_t tag = (uint32_t)(hash >> 32);
    for (;; i = (i + 1) & table->mask) {
        struct text_slot *slot = &table->slots[i];
        if (slot->id < 0)
            return slot;
        if (slot->hash == tag && t->symbols[slot->id].n == n &&
            memcmp(symbol_text(t, slot->id), text, n) == 0)
            return slot;
    }
}

int32_t symbol_find(const struct sharpi_tokenizer *t, const char *text, uint64_t n)
{
    if (n > t->max_bytes)
        return -1;
    return find_slot(t, text, n, text_hash(t->table.seed, text, n))->id;
}

void symbol_prefetch(const struct sharpi_tokenizer *t, const char *text, uint64_t n)
{
    __builtin_prefetch(&t->table.slots[text_hash(t->table.seed, text, n) & t->table.mask]);
}

void symbol_prefetch_text(const struct sharpi_tokenizer *t, const char *text, uint64_t n)
{
    int32_t id = t->table.slots[text_hash(t->table.seed, text, n) & t->table.mask].id;
    if (id >= 0)
        __builtin_prefetch(t->text + t->symbols[id].at);
}

void symbol_index(struct sharpi_tokenizer *t, int32_t id)
{
    const char *text = symbol_text(t, id);
    uint64_t n = t->symbols[id].n;
    uint64_t hash = text_hash(t->table.seed, text, n);
    struct text_slot *slot = find_slot(t, text, n, hash);
    if (slot->id < 0)
        t->table.n++;
    slot->hash = (uint32_t)(hash >> 32);
    slot->id = id;
    if (n > t->max_bytes)
        t->max_bytes = (uint32_t)n;
}

int32_t text_append(struct sharpi_tokenizer *t, const char *text, uint64_t n, struct span *span,
                    struct sharpi_error *err)
{
    if (n > UINT32_MAX - t->n_text)
        return sharpi_fail(err, SHARPI_EFORMAT, "the vocabulary's texts are larger than 4 GiB together");
    if (t->n_text + n > t->text_capacity) {
        uint64_t capacity = (t->n_text + n) * 3 / 2 + 4096;
        char *grown = realloc(t->text, capacity);
        if (!grown)
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %llu bytes of vocabulary text",
                               (unsigned long long)capacity);
        t->text = grown;
        t->text_capacity = capacity;
    }
    if (n > 0)
        memcpy(t->text + t->n_text, text, n);
    *span = (struct span){(uint32_t)t->n_text, (uint32_t)n};
    t->n_text += n;
    return SHARPI_OK;
}

static int32_t grow_symbols(struct sharpi_tokenizer *t, struct sharpi_error *err)
{
    if (t->n_symbols < t->symbol_capacity)
        return SHARPI_OK;
    if (t->symbol_capacity > INT32_MAX / 2)
        return sharpi_fail(err, SHARPI_EFORMAT, "too many texts in tokenizer.ggml.merges");
    uint64_t capacity = (uint64_t)t->symbol_capacity * 3 / 2 + 64;
    struct span *grown = realloc(t->symbols, capacity * sizeof *grown);
    if (!grown)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %llu merge texts",
                           (unsigned long long)capacity);
    t->symbols = grown;
    t->symbol_capacity = (int32_t)capacity;
    return SHARPI_OK;
}

static int32_t grow_table(struct sharpi_tokenizer *t, struct sharpi_error *err)
{
    if (2 * (t->table.n + 1) <= t->table.mask)
        return SHARPI_OK;
    struct text_slot *old = t->table.slots;
    uint64_t n = t->table.n;
    int32_t status = text_table_init(&t->table, 2 * n + 2, err);
    if (status != SHARPI_OK) {
        t->table.slots = old;
        return status;
    }
    free(old);
    for (int32_t id = 0; id < t->n_symbols; id++)
        symbol_index(t, id);
    return SHARPI_OK;
}

int32_t symbol_intern(struct sharpi_tokenizer *t, const char *text, uint64_t n, int32_t *id,
                      struct sharpi_error *err)
{
    *id = symbol_find(t, text, n);
    if (*id >= 0)
        return SHARPI_OK;
    struct span span;
    int32_t status = grow_symbols(t, err);
    if (status == SHARPI_OK)
        status = grow_table(t, err);
    if (status == SHARPI_OK)
        status = text_append(t, text, n, &span, err);
    if (status != SHARPI_OK)
        return status;
    *id = t->n_symbols++;
    t->symbols[*id] = span;
    symbol_index(t, *id);
    return SHARPI_OK;
}

int32_t pair_table_init(struct pair_table *table, uint64_t n, uint64_t seed, struct sharpi_error *err)
{
    uint64_t slots = slots_for(n);
    table->slots = malloc(slots * sizeof *table->slots);
    if (!table->slots)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the index of %llu merges",
                           (unsigned long long)n);
    memset(table->slots, 0xff, slots * sizeof *table->slots);
    table->mask = slots - 1;
    table->seed = seed;
    return SHARPI_OK;
}

static uint64_t pair_home(const struct pair_table *table, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return mix(pair ^ table->seed, 0x9e3779b97f4a7c15u) & table->mask;
}

void pair_prefetch(const struct pair_table *table, int32_t left, int32_t right)
{
    __builtin_prefetch(&table->slots[pair_home(table, left, right)], 1);
}

/* The first rule for a pair counts: files are in order of rank. */
void pair_insert(struct pair_table *table, int32_t left, int32_t right, uint32_t rank, int32_t result)
{
    for (uint64_t i = pair_home(table, left, right);; i = (i + 1) & table->mask) {
        struct pair_slot *slot = &table->slots[i];
        if (slot->left < 0) {
            *slot = (struct pair_slot){left, right, rank, result};
            return;
        }
        if (slot->left == left && slot->right == right)
            return;
    }
}

const struct pair_slot *pair_find(const struct pair_table *table, int32_t left, int32_t right)
{
    if (left < 0 || right < 0 || !table->slots)
        return NULL;
    for (uint64_t i = pair_home(table, left, right);; i = (i + 1) & table->mask) {
        const struct pair_slot *slot = &table->slots[i];
        if (slot->left < 0)
            return NULL;
        if (slot->left == left && slot->right == right)
            return slot;
    }
}
