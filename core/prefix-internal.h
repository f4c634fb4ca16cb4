/* What prefix-tree.c (nodes, giving up pages) and prefix-match.c (finding and adding) share. */
#ifndef SHARPI_CORE_PREFIX_INTERNAL_H
#define SHARPI_CORE_PREFIX_INTERNAL_H

#include "prefix-tree.h"

enum list_kind { LIST_PLAIN, LIST_KEPT, N_LISTS };

struct holding {
    int32_t page; /* -1 = none */
    uint32_t list;
    struct prefix_node *older, *newer;
};

struct prefix_node {
    struct prefix_node *parent, *child, *next, *previous; /* children are a list */
    uint32_t index;                                       /* logical page */
    uint32_t n_tokens;
    uint32_t followers; /* cursors that are here */
    int32_t tokens[SHARPI_KV_PAGE];
    struct holding held[]; /* [n_classes] */
};

struct class_lists {
    struct prefix_node *oldest[N_LISTS], *newest[N_LISTS];
    uint32_t n_held;
};

struct sharpi_prefix_tree {
    struct sharpi_kv_pages *pages;
    uint32_t n_classes;
    struct class_lists *classes;
    struct prefix_node *root; /* no tokens, no pages */
    uint64_t evicted;
    struct sharpi_kv_hooks copy;
};

/* NULL: no memory. `parent` NULL makes a root. */
struct prefix_node *prefix_node_create(struct sharpi_prefix_tree *tree, struct prefix_node *parent,
                                       const int32_t *tokens, uint32_t n_tokens);
void prefix_node_remove(struct sharpi_prefix_tree *tree, struct prefix_node *node);
/* No children, nobody follows it. */
uint32_t prefix_node_is_removable(const struct prefix_node *node);
/* Makes the node hold a page; it does nothing if another node holds it. */
void prefix_node_hold(struct sharpi_prefix_tree *tree, uint32_t c, struct prefix_node *node, int32_t page,
                      uint32_t list);
/* The same of a page that the cache holds already, for no node yet. */
void prefix_node_adopt(struct sharpi_prefix_tree *tree, uint32_t c, struct prefix_node *node, int32_t page,
                       uint32_t list);
/* The node's page of this class has just been used. */
void prefix_node_touch(struct sharpi_prefix_tree *tree, uint32_t c, struct prefix_node *node, uint32_t list);

static inline const struct sharpi_kv_class *prefix_shape(const struct sharpi_prefix_tree *tree, uint32_t c)
{
    return sharpi_kv_pages_class(tree->pages, c);
}

#endif
