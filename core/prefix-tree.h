/* The page cache: what finished and running sequences have computed, found again by token ids.
 *
 * A tree of pages: a node stands for SHARPI_KV_PAGE tokens after those of its parents (a leaf may have fewer) and holds, per
 * class, the page that they are stored in. Pages without window are there as long as their node; windowed ones may be given
 * up earlier. Those that a turn's end looks at (kept ones) go last, so that a conversation can go on there.
 *
 * Invariant: a node's pages hold exactly its tokens' rows, computed after exactly its parents' tokens. A node that a running
 * sequence follows, or that has children, is not removed. One thread at a time.
 */
#ifndef SHARPI_CORE_PREFIX_TREE_H
#define SHARPI_CORE_PREFIX_TREE_H

#include "kv-pages.h"

struct sharpi_prefix_tree;
struct prefix_node;

/* Sets the pool's hooks; only `copy` and its user are the caller's. */
int32_t sharpi_prefix_tree_create(struct sharpi_kv_pages *pages, const struct sharpi_kv_hooks *hooks,
                                  struct sharpi_prefix_tree **out, struct sharpi_error *err);
/* Gives all pages back; no sequence may follow it any more. NULL is fine. */
void sharpi_prefix_tree_destroy(struct sharpi_prefix_tree *tree);
void sharpi_prefix_tree_clear(struct sharpi_prefix_tree *tree);             /* as far as nobody follows it */
uint64_t sharpi_prefix_tree_evicted(const struct sharpi_prefix_tree *tree); /* pages, since creation */
/* SHARPI_EBUG if its pages are not those that the pool counts as held by the cache. */
int32_t sharpi_prefix_tree_check(const struct sharpi_prefix_tree *tree, struct sharpi_error *err);

struct sharpi_prefix_match {
    uint32_t known;  /* tokens that the cache has seen */
    uint32_t length; /* of those, how many can be taken: all pages that the next token looks at are there */
    struct prefix_node *last; /* node of the last taken token; NULL when length = 0 */
};
/* The longest prefix of `tokens`, at most `most` long. */
void sharpi_prefix_match(const struct sharpi_prefix_tree *tree, const int32_t *tokens, uint32_t n_tokens,
                         uint32_t most, struct sharpi_prefix_match *match);

/* Pages of the class that a fork would share and that some sequence holds already. */
uint32_t sharpi_prefix_match_active(const struct sharpi_prefix_tree *tree,
                                    const struct sharpi_prefix_match *match, uint32_t class_index);

/* Where a sequence follows the tree. Zeroed = at the root. */
struct sharpi_prefix_cursor {
    struct prefix_node *node; /* of the last full page; NULL = root */
    uint32_t n_pages;         /* full pages that are in the tree */
    uint32_t keep_at;         /* windowed pages that a token at this length looks at are kept ones */
    uint32_t off;             /* 1: a node could not be made; the sequence adds no more */
};

/* Makes an empty sequence share what was matched, and the cursor follow it. Use the match at once. */
int32_t sharpi_prefix_fork(struct sharpi_prefix_tree *tree, const struct sharpi_prefix_match *match,
                           struct sharpi_kv_seq *seq, struct sharpi_prefix_cursor *cursor,
                           struct sharpi_error *err);
/* Adds the sequence's full pages. What the tree has already, the sequence shares from then on. */
void sharpi_prefix_add(struct sharpi_prefix_tree *tree, struct sharpi_kv_seq *seq, const int32_t *tokens,
                       struct sharpi_prefix_cursor *cursor);
/* Adds the last, partly filled page too and ends the following. Keeps what a token after the end looks at. */
void sharpi_prefix_finish(struct sharpi_prefix_tree *tree, struct sharpi_kv_seq *seq, const int32_t *tokens,
                          struct sharpi_prefix_cursor *cursor);
/* Ends the following, adds nothing. */
void sharpi_prefix_leave(struct sharpi_prefix_cursor *cursor);

/* ---- For a saved prefix that comes from outside */

/* Adds nodes for `length` tokens; page(user, class, index) gives a page that is filled and already held by the cache
 * (sharpi_kv_page_take), or -1 where a windowed class has none. Pages that turn out not to be needed are given back. */
typedef int32_t sharpi_prefix_page_fn(void *user, uint32_t class_index, uint32_t index);
int32_t sharpi_prefix_insert(struct sharpi_prefix_tree *tree, const int32_t *tokens, uint32_t length,
                             sharpi_prefix_page_fn *page, void *user, struct sharpi_error *err);

#endif
