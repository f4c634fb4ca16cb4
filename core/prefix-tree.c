/* Nodes, matching and giving up pages: see prefix-tree.h.
 *
 * Per class there are lists of the pages that the tree holds, oldest use first: windowed classes have one of plain pages and
 * one of kept ones. Without window a page may only go with its node, leaves first; so children stand on the older side of
 * their parent.
 */
#include "prefix-internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- Lists of held pages */

static void list_remove(struct sharpi_prefix_tree *tree, uint32_t c, struct prefix_node *node)
{
    struct holding *h = &node->held[c];
    struct class_lists *lists = &tree->classes[c];
    if (h->older)
        h->older->held[c].newer = h->newer;
    else
        lists->oldest[h->list] = h->newer;
    if (h->newer)
        h->newer->held[c].older = h->older;
    else
        lists->newest[h->list] = h->older;
    h->older = h->newer = NULL;
}

/* On the older side of `before`, NULL = as the newest. */
static void list_add(struct sharpi_prefix_tree *tree, uint32_t c, struct prefix_node *node, uint32_t list,
                     struct prefix_node *before)
{
    struct holding *h = &node->held[c];
    struct class_lists *lists = &tree->classes[c];
    h->list = list;
    h->newer = before;
    h->older = before ? before->held[c].older : lists->newest[list];
    if (h->older)
        h->older->held[c].newer = node;
    else
        lists->oldest[list] = node;
    if (before)
        before->held[c].older = node;
    else
        lists->newest[list] = node;
}

void prefix_node_touch(struct sharpi_prefix_tree *tree, uint32_t c, struct prefix_node *node, uint32_t list)
{
    list_remove(tree, c, node);
    list_add(tree, c, node, list, NULL);
}

static void unhold(struct sharpi_prefix_tree *tree, uint32_t c, struct prefix_node *node)
{
    list_remove(tree, c, node);
    sharpi_kv_page_unhold(tree->pages, c, node->held[c].page);
    node->held[c].page = -1;
    tree->classes[c].n_held--;
}

void prefix_node_adopt(struct sharpi_prefix_tree *tree, uint32_t c, struct prefix_node *node, int32_t page,
                       uint32_t list)
{
    struct prefix_node *parent = node->parent;
    node->held[c].page = page;
    tree->classes[c].n_held++;
    if (prefix_shape(tree, c)->window)
        list_add(tree, c, node, list, NULL);
    else
        list_add(tree, c, node, LIST_PLAIN, parent->held[c].page >= 0 ? parent : NULL);
}

void prefix_node_hold(struct sharpi_prefix_tree *tree, uint32_t c, struct prefix_node *node, int32_t page,
                      uint32_t list)
{
    if (sharpi_kv_page_hold(tree->pages, c, page))
        prefix_node_adopt(tree, c, node, page, list);
}

/* ---- Nodes */

struct prefix_node *prefix_node_create(struct sharpi_prefix_tree *tree, struct prefix_node *parent,
                                       const int32_t *tokens, uint32_t n_tokens)
{
    struct prefix_node *node = calloc(1, sizeof *node + tree->n_classes * sizeof node->held[0]);
    uint32_t c;
    if (!node)
        return NULL;
    for (c = 0; c < tree->n_classes; c++)
        node->held[c].page = -1;
    node->n_tokens = n_tokens;
    if (!parent)
        return node;
    memcpy(node->tokens, tokens, n_tokens * sizeof *tokens);
    node->index = parent->parent ? parent->index + 1 : 0;
    node->parent = parent;
    node->next = parent->child;
    if (node->next)
        node->next->previous = node;
    parent->child = node;
    return node;
}

void prefix_node_remove(struct sharpi_prefix_tree *tree, struct prefix_node *node)
{
    uint32_t c;
    for (c = 0; c < tree->n_classes; c++) {
        if (node->held[c].page >= 0)
            unhold(tree, c, node);
    }
    if (node->previous)
        node->previous->next = node->next;
    else
        node->parent->child = node->next;
    if (node->next)
        node->next->previous = node->previous;
    free(node);
}

uint32_t prefix_node_is_removable(const struct prefix_node *node)
{
    return node->parent && !node->child && !node->followers;
}

/* Removes a node that has become useless, and parents that become so by that. */
static void prune(struct sharpi_prefix_tree *tree, struct prefix_node *node)
{
    uint32_t c;
    while (prefix_node_is_removable(node)) {
        struct prefix_node *parent = node->parent;
        for (c = 0; c < tree->n_classes; c++) {
            if (node->held[c].page >= 0)
                return;
        }
        prefix_node_remove(tree, node);
        node = parent;
    }
}

/* Whether without this page the node, and all that follows it, is worthless. */
static uint32_t is_vital(const struct sharpi_prefix_tree *tree, uint32_t c)
{
    return prefix_shape(tree, c)->window == 0;
}

/* ---- Giving up pages */

static int32_t give_up(struct sharpi_prefix_tree *tree, uint32_t c, struct prefix_node *node)
{
    if (is_vital(tree, c)) {
        if (!prefix_node_is_removable(node))
            return 0;
        prefix_node_remove(tree, node);
    } else {
        unhold(tree, c, node);
        prune(tree, node);
    }
    return 1;
}

/* Pages in use are moved out of the way, in their order: they were used last. */
static int32_t reclaim_from(struct sharpi_prefix_tree *tree, uint32_t c, uint32_t list)
{
    struct prefix_node *node = tree->classes[c].oldest[list], *last = tree->classes[c].newest[list], *newer;
    for (; node; node = newer) {
        newer = node == last ? NULL : node->held[c].newer;
        if (sharpi_kv_page_seqs(tree->pages, c, node->held[c].page))
            prefix_node_touch(tree, c, node, list);
        else if (give_up(tree, c, node))
            return 1;
    }
    return 0;
}

static int32_t reclaim(void *user, uint32_t c, int32_t even_kept)
{
    struct sharpi_prefix_tree *tree = user;
    int32_t done = reclaim_from(tree, c, LIST_PLAIN) || (even_kept && reclaim_from(tree, c, LIST_KEPT));
    tree->evicted += (uint64_t)done;
    return done;
}

static int32_t disown(void *user, uint32_t c, int32_t page, int32_t even_kept)
{
    struct sharpi_prefix_tree *tree = user;
    uint32_t list;
    for (list = 0; list < (even_kept ? N_LISTS : LIST_KEPT); list++) {
        struct prefix_node *node = tree->classes[c].oldest[list];
        for (; node; node = node->held[c].newer) {
            if (node->held[c].page == page)
                return give_up(tree, c, node);
        }
    }
    return 0;
}

/* ---- The tree */

static int32_t copy(void *user, uint32_t c, int32_t from, int32_t to, struct sharpi_error *err)
{
    const struct sharpi_prefix_tree *tree = user;
    return tree->copy.copy(tree->copy.user, c, from, to, err);
}

int32_t sharpi_prefix_tree_create(struct sharpi_kv_pages *pages, const struct sharpi_kv_hooks *hooks,
                                  struct sharpi_prefix_tree **out, struct sharpi_error *err)
{
    struct sharpi_prefix_tree *tree = calloc(1, sizeof *tree);
    if (tree) {
        tree->pages = pages;
        tree->copy = *hooks;
        tree->n_classes = sharpi_kv_pages_n_classes(pages);
        tree->classes = calloc(tree->n_classes, sizeof *tree->classes);
        tree->root = prefix_node_create(tree, NULL, NULL, 0);
    }
    if (!tree || !tree->classes || !tree->root) {
        if (tree) {
            free(tree->classes);
            free(tree->root);
        }
        free(tree);
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the page cache");
    }
    sharpi_kv_pages_set_hooks(
        pages, &(struct sharpi_kv_hooks){.user = tree, .copy = copy, .reclaim = reclaim, .disown = disown});
    *out = tree;
    return SHARPI_OK;
}

/* Deepest first, without recursion: prompts are long. */
void sharpi_prefix_tree_clear(struct sharpi_prefix_tree *tree)
{
    struct prefix_node *node = tree->root, *then;
    while (node->child)
        node = node->child;
    while (node != tree->root) {
        then = node->next;
        for (; then && then->child; then = then->child)
            ;
        if (!then)
            then = node->parent;
        if (prefix_node_is_removable(node))
            prefix_node_remove(tree, node);
        node = then;
    }
}

void sharpi_prefix_tree_destroy(struct sharpi_prefix_tree *tree)
{
    if (!tree)
        return;
    sharpi_prefix_tree_clear(tree);
    sharpi_kv_pages_set_hooks(tree->pages, NULL);
    free(tree->root);
    free(tree->classes);
    free(tree);
}

uint64_t sharpi_prefix_tree_evicted(const struct sharpi_prefix_tree *tree)
{
    return tree->evicted;
}

int32_t sharpi_prefix_tree_check(const struct sharpi_prefix_tree *tree, struct sharpi_error *err)
{
    struct sharpi_kv_counts counts;
    uint32_t c;
    for (c = 0; c < tree->n_classes; c++) {
        sharpi_kv_pages_count(tree->pages, c, &counts);
        if (counts.held != tree->classes[c].n_held)
            return sharpi_fail(err, SHARPI_EBUG, "the page cache has %u pages of window %u and holds %u",
                               tree->classes[c].n_held, prefix_shape(tree, c)->window, counts.held);
    }
    return SHARPI_OK;
}
