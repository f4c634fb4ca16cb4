/* Merging neighbours, best pair first: the part that SentencePiece and byte-pair encoding have in common.
 *
 * Invariant: each merge swallows a symbol and adds at most two pairs to the heap, so n symbols take O(n log n), however
 * long the run. Pairs are never removed when a symbol changes; a stale one is recognised when it comes up.
 */
#include <stdlib.h>

#include "tokenizer-internal.h"

void merge_work_free(struct merge_work *w)
{
    free(w->symbols);
    free(w->heap);
    free(w->scratch);
    free(w->words[0]);
    free(w->words[1]);
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->limits);
}

int32_t merge_scratch(struct merge_work *w, uint64_t n, struct sharpi_error *err)
{
    if (n <= w->scratch_capacity)
        return SHARPI_OK;
    char *grown = realloc(w->scratch, n);
    if (!grown)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to encode %llu bytes of text",
                           (unsigned long long)n);
    w->scratch = grown;
    w->scratch_capacity = n;
    return SHARPI_OK;
}

int32_t merge_begin(struct merge_work *w, uint64_t max_symbols, struct sharpi_error *err)
{
    w->n_symbols = 0;
    w->n_heap = 0;
    if (max_symbols <= w->symbol_capacity)
        return SHARPI_OK;
    uint64_t capacity = max_symbols + 64;
    free(w->symbols);
    free(w->heap);
    w->symbol_capacity = 0;
    w->symbols = malloc(capacity * sizeof *w->symbols);
    /* At most one pair per neighbouring symbols, and two more for each merge. */
    w->heap = malloc(3 * capacity * sizeof *w->heap);
    if (!w->symbols || !w->heap)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to merge a run of %llu characters",
                           (unsigned long long)max_symbols);
    w->symbol_capacity = capacity;
    return SHARPI_OK;
}

void merge_add(struct merge_work *w, uint32_t at, uint32_t n, int32_t id)
{
    int32_t index = (int32_t)w->n_symbols++;
    if (index > 0)
        w->symbols[index - 1].next = index;
    w->symbols[index] = (struct merge_symbol){index - 1, -1, at, n, id};
}

static void heap_push(struct merge_work *w, struct merge_pair pair)
{
    uint64_t i = w->n_heap++;
    while (i > 0) {
        uint64_t parent = (i - 1) / 2;
        if (w->heap[parent].key <= pair.key)
            break;
        w->heap[i] = w->heap[parent];
        i = parent;
    }
    w->heap[i] = pair;
}

static struct merge_pair heap_pop(struct merge_work *w)
{
    struct merge_pair top = w->heap[0];
    struct merge_pair last = w->heap[--w->n_heap];
    uint64_t i = 0;
    for (;;) {
        uint64_t child = 2 * i + 1;
        if (child >= w->n_heap)
            break;
        if (child + 1 < w->n_heap && w->heap[child + 1].key < w->heap[child].key)
            child++;
        if (last.key <= w->heap[child].key)
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    if (w->n_heap > 0)
        w->heap[i] = last;
    return top;
}

/* Offers symbol `left` and its right neighbour to the heap, if they merge. */
static void try_pair(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text, int32_t left)
{
    if (left < 0)
        return;
    const struct merge_symbol *a = &w->symbols[left];
    if (a->next < 0)
        return;
    const struct merge_symbol *b = &w->symbols[a->next];
    uint32_t priority;
    int32_t result;
    if (t->kind == SHARPI_TOKENIZER_SPM) {
        result = symbol_find(t, text + a->at, (uint64_t)a->n + b->n);
        if (result < 0 || !symbol_is_plain(t, result))
            return;
        priority = t->priority[result];
    } else {
        const struct pair_slot *rule = pair_find(&t->pairs, a->id, b->id);
        if (!rule)
            return;
        priority = rule->rank;
        result = rule->result;
    }
    heap_push(w,
              (struct merge_pair){(uint64_t)priority << 32 | (uint32_t)left, a->next, result, a->n + b->n});
}

static void apply_pair(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text,
                       const struct merge_pair *pair)
{
    int32_t left = (int32_t)(uint32_t)pair->key;
    struct merge_symbol *a = &w->symbols[left];
    struct merge_symbol *b = &w->symbols[pair->right];
    if (a->n == 0 || b->n == 0 || a->next != pair->right || a->n + b->n != pair->n)
        return; /* stale */
    a->n = pair->n;
    a->id = pair->result;
    a->next = b->next;
    b->n = 0;
    if (a->next >= 0)
        w->symbols[a->next].prev = left;
    try_pair(t, w, text, a->prev);
    try_pair(t, w, text, left);
}

void merge_run(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text)
{
    for (uint64_t i = 0; i + 1 < w->n_symbols; i++)
        try_pair(t, w, text, (int32_t)i);
    while (w->n_heap > 0) {
        struct merge_pair pair = heap_pop(w);
        apply_pair(t, w, text, &pair);
    }
}
