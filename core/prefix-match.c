/* Finding prefixes, following and adding: see prefix-tree.h. */
#include "prefix-internal.h"

#include <string.h>

/* ---- Finding */

static uint32_t common(const struct prefix_node *node, const int32_t *tokens, uint32_t n_tokens)
{
    uint32_t n = node->n_tokens < n_tokens ? node->n_tokens : n_tokens, i;
    for (i = 0; i < n && node->tokens[i] == tokens[i]; i++)
        ;
    return i;
}

/* The child that agrees longest with the tokens, *n of them; NULL when none does. */
static struct prefix_node *best_child(const struct prefix_node *parent, const int32_t *tokens,
                                      uint32_t n_tokens, uint32_t *n)
{
    struct prefix_node *child, *best = NULL;
    *n = 0;
    for (child = parent->child; child; child = child->next) {
        uint32_t same = common(child, tokens, n_tokens);
        if (same > *n) {
            *n = same;
            best = child;
        }
    }
    return best;
}

/* First page that hinders going on at `length`, looking upwards from the node that holds position length - 1; UINT32_MAX when
 * all is there. */
static uint32_t missing_page(const struct sharpi_prefix_tree *tree, const struct prefix_node *node,
                             uint32_t length)
{
    uint32_t missing = UINT32_MAX, c;
    for (c = 0; c < tree->n_classes; c++) {
        const struct sharpi_kv_class *shape = prefix_shape(tree, c);
        const struct prefix_node *at = node;
        uint32_t first = sharpi_kv_first_page(shape, length);
        if (node->index + 1 - first > shape->ring / SHARPI_KV_PAGE) /* a narrow ring has no place for them */
            return node->index;
        for (;; at = at->parent) {
            if (at->held[c].page < 0) {
                if (missing == UINT32_MAX || at->index > missing)
                    missing = at->index;
                break;
            }
            if (at->index == first)
                break;
        }
    }
    return missing;
}

void sharpi_prefix_match(const struct sharpi_prefix_tree *tree, const int32_t *tokens, uint32_t n_tokens,
                         uint32_t most, struct sharpi_prefix_match *match)
{
    struct prefix_node *node = tree->root, *child;
    uint32_t n = SHARPI_KV_PAGE, missing;
    *match = (struct sharpi_prefix_match){.known = 0};
    while (n == SHARPI_KV_PAGE && match->known < n_tokens &&
           (child = best_child(node, tokens + match->known, n_tokens - match->known, &n))) {
        match->known += n;
        node = child;
    }
    match->length = match->known < most ? match->known : most;
    while (match->length > 0) {
        while (node->index > (match->length - 1) / SHARPI_KV_PAGE)
            node = node->parent;
        missing = missing_page(tree, node, match->length);
        if (missing == UINT32_MAX)
            break;
        match->length = missing * SHARPI_KV_PAGE; /* whatever is longer looks at the missing page too */
    }
    match->last = match->length ? node : NULL;
}

uint32_t sharpi_prefix_match_active(const struct sharpi_prefix_tree *tree,
                                    const struct sharpi_prefix_match *match, uint32_t class_index)
{
    const struct prefix_node *node = match->last;
    uint32_t first = sharpi_kv_first_page(prefix_shape(tree, class_index), match->length), n = 0;
    for (; node && node->parent && node->index >= first; node = node->parent)
        n += sharpi_kv_page_seqs(tree->pages, class_index, node->held[class_index].page) > 0;
    return n;
}

/* ---- Following */

static void follow(struct sharpi_prefix_cursor *cursor, struct prefix_node *node)
{
    if (node)
        node->followers++;
    if (cursor->node)
        cursor->node->followers--;
    cursor->node = node;
}

void sharpi_prefix_leave(struct sharpi_prefix_cursor *cursor)
{
    follow(cursor, NULL);
    *cursor = (struct sharpi_prefix_cursor){.node = NULL};
}

/* Marks what a token at `length` looks at as used now, children first, so that parents are the newer ones. */
static void touch(struct sharpi_prefix_tree *tree, struct prefix_node *node, uint32_t length, uint32_t keep)
{
    uint32_t c;
    for (; node->parent; node = node->parent) {
        for (c = 0; c < tree->n_classes; c++) {
            const struct sharpi_kv_class *shape = prefix_shape(tree, c);
            if (node->held[c].page < 0 || node->index < sharpi_kv_first_page(shape, length))
                continue;
            prefix_node_touch(tree, c, node, shape->window && keep ? LIST_KEPT : node->held[c].list);
        }
    }
}

int32_t sharpi_prefix_fork(struct sharpi_prefix_tree *tree, const struct sharpi_prefix_match *match,
                           struct sharpi_kv_seq *seq, struct sharpi_prefix_cursor *cursor,
                           struct sharpi_error *err)
{
    struct prefix_node *node = match->last;
    uint32_t c;
    *cursor = (struct sharpi_prefix_cursor){.n_pages = match->length / SHARPI_KV_PAGE};
    if (!node)
        return SHARPI_OK;
    touch(tree, node, match->length, 0);
    for (c = 0; c < tree->n_classes; c++) {
        const struct prefix_node *at = node;
        uint32_t first = sharpi_kv_first_page(prefix_shape(tree, c), match->length);
        for (; at->parent && at->index >= first; at = at->parent)
            sharpi_kv_seq_share(seq, c, at->index, at->held[c].page);
    }
    if (match->length % SHARPI_KV_PAGE)
        node = node->parent;
    follow(cursor, node && node->parent ? node : NULL);
    return sharpi_kv_seq_fork(seq, match->length, err);
}

/* ---- Adding */

/* The child with these tokens; *made when it is new. Shorter leaves that it continues are removed. NULL: no memory. */
static struct prefix_node *get_child(struct sharpi_prefix_tree *tree, struct prefix_node *parent,
                                     const int32_t *tokens, uint32_t n_tokens)
{
    struct prefix_node *child, *next, *node = NULL;
    for (child = parent->child; child && !node; child = child->next) {
        if (child->n_tokens == n_tokens && common(child, tokens, n_tokens) == n_tokens)
            node = child;
    }
    if (!node)
        node = prefix_node_create(tree, parent, tokens, n_tokens);
    for (child = parent->child; child && node; child = next) {
        next = child->next;
        if (child->n_tokens < n_tokens && common(child, tokens, n_tokens) == child->n_tokens &&
            prefix_node_is_removable(child))
            prefix_node_remove(tree, child);
    }
    return node;
}

static uint32_t is_kept(const struct sharpi_kv_class *shape, uint32_t index, uint32_t keep_at)
{
    return keep_at && index >= sharpi_kv_first_page(shape, keep_at) &&
           index <= (keep_at - 1) / SHARPI_KV_PAGE;
}

/* Node and sequence have the same rows: what the node lacks it takes, what it has the sequence shares. */
static void join(struct sharpi_prefix_tree *tree, struct prefix_node *node, struct sharpi_kv_seq *seq,
                 uint32_t keep_at)
{
    uint32_t c;
    for (c = 0; c < tree->n_classes; c++) {
        const struct sharpi_kv_class *shape = prefix_shape(tree, c);
        int32_t page = sharpi_kv_seq_page(seq, c, node->index);
        uint32_t list = shape->window && is_kept(shape, node->index, keep_at) ? LIST_KEPT : LIST_PLAIN;
        if (page < 0)
            continue;
        if (node->held[c].page < 0)
            prefix_node_hold(tree, c, node, page, list);
        else if (node->held[c].page != page)
            sharpi_kv_seq_share(seq, c, node->index, node->held[c].page);
        if (list == LIST_KEPT && node->held[c].page >= 0)
            prefix_node_touch(tree, c, node, list);
    }
}

void sharpi_prefix_add(struct sharpi_prefix_tree *tree, struct sharpi_kv_seq *seq, const int32_t *tokens,
                       struct sharpi_prefix_cursor *cursor)
{
    uint32_t length = sharpi_kv_seq_length(seq);
    while (!cursor->off && (cursor->n_pages + 1) * SHARPI_KV_PAGE <= length) {
        struct prefix_node *node =
            get_child(tree, cursor->node ? cursor->node : tree->root,
                      tokens + (size_t)cursor->n_pages * SHARPI_KV_PAGE, SHARPI_KV_PAGE);
        if (!node) {
            cursor->off = 1;
            return;
        }
        join(tree, node, seq, cursor->keep_at);
        follow(cursor, node);
        cursor->n_pages++;
    }
}

/* A leaf for the `n` tokens after the last full page, or the one that begins so; the cursor's node when there are none. */
static struct prefix_node *add_rest(struct sharpi_prefix_tree *tree, struct sharpi_kv_seq *seq,
                                    const int32_t *tokens, uint32_t n, struct prefix_node *parent)
{
    struct prefix_node *node;
    uint32_t same;
    if (n == 0)
        return parent;
    node = best_child(parent, tokens, n, &same);
    if (node && same == n && node->n_tokens > n)
        return node;
    node = get_child(tree, parent, tokens, n);
    if (!node)
        return parent;
    join(tree, node, seq, 0);
    return node;
}

void sharpi_prefix_finish(struct sharpi_prefix_tree *tree, struct sharpi_kv_seq *seq, const int32_t *tokens,
                          struct sharpi_prefix_cursor *cursor)
{
    uint32_t length = sharpi_kv_seq_length(seq);
    sharpi_prefix_add(tree, seq, tokens, cursor);
    if (!cursor->off && length) {
        struct prefix_node *node =
            add_rest(tree, seq, tokens + (size_t)cursor->n_pages * SHARPI_KV_PAGE, length % SHARPI_KV_PAGE,
                     cursor->node ? cursor->node : tree->root);
        touch(tree, node, length, 1);
    }
    sharpi_prefix_leave(cursor);
}

/* ---- From outside */

int32_t sharpi_prefix_insert(struct sharpi_prefix_tree *tree, const int32_t *tokens, uint32_t length,
                             sharpi_prefix_page_fn *page, void *user, struct sharpi_error *err)
{
    struct sharpi_prefix_cursor cursor = {.node = NULL};
    struct prefix_node *last;
    uint32_t at, c;
    int32_t status = SHARPI_OK;
    for (at = 0; at < length && !status; at += SHARPI_KV_PAGE) {
        uint32_t n = length - at < SHARPI_KV_PAGE ? length - at : SHARPI_KV_PAGE, same;
        struct prefix_node *parent = cursor.node ? cursor.node : tree->root, *node;
        if (n < SHARPI_KV_PAGE && best_child(parent, tokens + at, n, &same) && same == n)
            break; /* somebody has computed the last page, and more */
        node = get_child(tree, parent, tokens + at, n);
        if (!node) {
            status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for a saved prefix of %u tokens", length);
            break;
        }
        follow(&cursor, node); /* nothing that makes room may take it away */
        for (c = 0; c < tree->n_classes; c++) {
            const struct sharpi_kv_class *shape = prefix_shape(tree, c);
            int32_t number = node->held[c].page < 0 ? page(user, c, node->index) : -1;
            if (number >= 0)
                prefix_node_adopt(tree, c, node, number, shape->window ? LIST_KEPT : LIST_PLAIN);
            else if (node->held[c].page < 0 && !shape->window)
                status =
                    sharpi_fail(err, SHARPI_EFULL, "no KV pages for a saved prefix of %u tokens", length);
        }
    }
    last = cursor.node;
    sharpi_prefix_leave(&cursor);
    if (status && last && prefix_node_is_removable(last)) /* it may lack a page that nobody would miss */
        prefix_node_remove(tree, last);
    return status;
}
