/* Page tables and rings: what is taken, given back, refused. */
#include <stdlib.h>
#include <string.h>

#include <CUnit/Basic.h>

#include "core/kv-pages.h"

static struct sharpi_kv_pages *two_classes(uint32_t context, uint32_t window, uint32_t headroom,
                                           uint32_t max_seqs)
{
    struct sharpi_kv_class classes[2] = {{0, sharpi_kv_ring(context, 0, headroom), 0},
                                         {window, sharpi_kv_ring(context, window, headroom), 0}};
    struct sharpi_kv_pages *pages = NULL;
    uint32_t c;
    for (c = 0; c < 2; c++)
        classes[c].n_pages = classes[c].ring / SHARPI_KV_PAGE * max_seqs;
    CU_ASSERT_FATAL(sharpi_kv_pages_create(classes, 2, max_seqs, &pages, NULL) == 0);
    return pages;
}

static void ring_sizes_follow_the_rule(void)
{
    CU_ASSERT(sharpi_kv_ring(4096, 0, 512) == 4096);
    CU_ASSERT(sharpi_kv_ring(100, 0, 512) == 128);     /* whole pages */
    CU_ASSERT(sharpi_kv_ring(4096, 512, 512) == 1024); /* window + headroom */
    CU_ASSERT(sharpi_kv_ring(600, 512, 512) == 640);   /* never more than the context, in pages */
    CU_ASSERT(sharpi_kv_ring(262144, 1024, 4096) == 5120);
    CU_ASSERT(sharpi_kv_ring(UINT32_MAX - 64, 16, UINT32_MAX - 8) >= UINT32_MAX - 64); /* no overflow */
}

static void layers_with_one_window_share_a_class(void)
{
    struct sharpi_layer_desc layers[6] = {{.window = 16, .kv_source = -1}, {.window = 0, .kv_source = -1},
                                          {.window = 16, .kv_source = -1}, {.window = 32, .kv_source = -1},
                                          {.window = 16, .kv_source = 2},  {.window = 0, .kv_source = 1}};
    struct sharpi_model_desc desc = {.n_layers = 6, .layers = layers};
    struct sharpi_kv_class *classes = NULL;
    uint32_t class_of[6], n = 0;
    CU_ASSERT_FATAL(sharpi_kv_classes(&desc, 1024, 100, 3, 0, &classes, &n, class_of, NULL) == 0);
    CU_ASSERT(n == 3);
    CU_ASSERT(class_of[0] == 0 && class_of[1] == 1 && class_of[2] == 0 && class_of[3] == 2);
    CU_ASSERT(class_of[4] == 0 && class_of[5] == 1); /* of their sources */
    CU_ASSERT(classes[0].ring == 128 && classes[1].ring == 1024 && classes[2].ring == 192);
    CU_ASSERT(classes[1].n_pages == 3 * 16);
    free(classes);
}

static uint32_t global_pages(uint32_t pool)
{
    struct sharpi_layer_desc layers[2] = {{.window = 0, .kv_source = -1}, {.window = 16, .kv_source = -1}};
    struct sharpi_model_desc desc = {.n_layers = 2, .layers = layers};
    struct sharpi_kv_class *classes = NULL;
    uint32_t class_of[2], n = 0, pages;
    CU_ASSERT_FATAL(sharpi_kv_classes(&desc, 1024, 100, 8, pool, &classes, &n, class_of, NULL) == 0);
    pages = classes[0].n_pages;
    CU_ASSERT(classes[1].n_pages <= 8 * 2 &&
              classes[1].n_pages >= 2); /* never more than all rings, or less than one */
    free(classes);
    return pages;
}

static void a_pool_is_one_context_at_least_and_all_at_most(void)
{
    CU_ASSERT(global_pages(0) == 8 * 16);
    CU_ASSERT(global_pages(2048) == 32);
    CU_ASSERT(global_pages(2049) == 33); /* whole pages */
    CU_ASSERT(global_pages(1) == 16);
    CU_ASSERT(global_pages(1000000) == 8 * 16 && global_pages(UINT32_MAX) == 8 * 16);
}

static void extending_takes_pages_and_destroying_gives_them_back(void)
{
    struct sharpi_kv_pages *pages = two_classes(256, 16, 48, 2);
    struct sharpi_kv_seq *a = NULL, *b = NULL, *c = NULL;
    CU_ASSERT_FATAL(sharpi_kv_seq_create(pages, &a, NULL) == 0);
    CU_ASSERT_FATAL(sharpi_kv_seq_create(pages, &b, NULL) == 0);
    CU_ASSERT(sharpi_kv_seq_create(pages, &c, NULL) == SHARPI_EFULL);
    CU_ASSERT(sharpi_kv_seq_slot(a) != sharpi_kv_seq_slot(b));
    CU_ASSERT(sharpi_kv_pages_free(pages, 0) == 8 && sharpi_kv_pages_free(pages, 1) == 2);
    CU_ASSERT(sharpi_kv_seq_extend(a, 40, NULL) == 0);
    CU_ASSERT(sharpi_kv_seq_extend(a, 40, NULL) == 0);
    CU_ASSERT(sharpi_kv_seq_length(a) == 80);
    CU_ASSERT(sharpi_kv_pages_free(pages, 0) == 6 &&
              sharpi_kv_pages_free(pages, 1) == 1); /* the ring has one page */
    CU_ASSERT(sharpi_kv_seq_table(a, 0)[0] >= 0 && sharpi_kv_seq_table(a, 0)[1] >= 0);
    CU_ASSERT(sharpi_kv_seq_table(a, 0)[2] == -1);
    sharpi_kv_seq_destroy(a);
    CU_ASSERT(sharpi_kv_pages_free(pages, 0) == 8 && sharpi_kv_pages_free(pages, 1) == 2);
    CU_ASSERT(sharpi_kv_seq_create(pages, &c, NULL) == 0); /* the slot is free again */
    sharpi_kv_seq_destroy(b);
    sharpi_kv_seq_destroy(c);
    sharpi_kv_pages_destroy(pages);
}

static void context_and_ring_limits_are_refused(void)
{
    struct sharpi_kv_pages *pages = two_classes(128, 16, 48, 1);
    struct sharpi_kv_seq *seq = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    CU_ASSERT_FATAL(sharpi_kv_seq_create(pages, &seq, NULL) == 0);
    CU_ASSERT(sharpi_kv_seq_extend(seq, 129, &err) == SHARPI_EFULL);
    CU_ASSERT(strstr(err.text, "129") && strstr(err.text, "128"));
    CU_ASSERT(sharpi_kv_seq_extend(seq, 100, &err) ==
              SHARPI_EBUG); /* 16 + 99 > 64: a chunk larger than the headroom */
    CU_ASSERT(sharpi_kv_seq_length(seq) == 0);
    CU_ASSERT(sharpi_kv_seq_extend(seq, 48, &err) == 0);
    CU_ASSERT(sharpi_kv_seq_extend(seq, 48, &err) == 0);
    CU_ASSERT(sharpi_kv_seq_extend(seq, 32, &err) == 0);
    CU_ASSERT(sharpi_kv_seq_extend(seq, 1, &err) == SHARPI_EFULL);
    sharpi_kv_seq_destroy(seq);
    sharpi_kv_pages_destroy(pages);
}

static void truncation_is_exact_or_refused(void)
{
    struct sharpi_kv_pages *pages = two_classes(1024, 16, 48, 1);
    struct sharpi_kv_seq *seq = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint32_t i;
    CU_ASSERT_FATAL(sharpi_kv_seq_create(pages, &seq, NULL) == 0);
    for (i = 0; i < 10; i++)
        CU_ASSERT(sharpi_kv_seq_extend(seq, 30, &err) == 0);
    /* 300 written into a ring of 64: positions 236.. are held; a token at 252 sees 237.. */
    CU_ASSERT(sharpi_kv_seq_truncate(seq, 301, &err) == SHARPI_EINVAL);
    CU_ASSERT(sharpi_kv_seq_truncate(seq, 250, &err) == SHARPI_ENOTSUP);
    CU_ASSERT(strstr(err.text, "250") && strstr(err.text, "headroom"));
    CU_ASSERT(sharpi_kv_seq_length(seq) == 300);
    CU_ASSERT(sharpi_kv_seq_truncate(seq, 251, &err) == 0);
    CU_ASSERT(sharpi_kv_seq_length(seq) == 251);
    CU_ASSERT(sharpi_kv_pages_free(pages, 0) == 16 - 4);
    CU_ASSERT(sharpi_kv_seq_truncate(seq, 250, &err) ==
              SHARPI_ENOTSUP); /* still: what was overwritten stays so */
    CU_ASSERT(sharpi_kv_seq_truncate(seq, 0, &err) == 0);
    CU_ASSERT(sharpi_kv_pages_free(pages, 0) == 16 && sharpi_kv_pages_free(pages, 1) == 1);
    CU_ASSERT(sharpi_kv_seq_extend(seq, 48, &err) == 0);
    CU_ASSERT(sharpi_kv_seq_truncate(seq, 3, &err) == 0); /* nothing was overwritten since */
    CU_ASSERT(sharpi_kv_seq_extend(seq, 30, &err) == 0);
    CU_ASSERT(sharpi_kv_seq_rollback(seq, 3) == 3);
    sharpi_kv_seq_destroy(seq);
    sharpi_kv_pages_destroy(pages);
}

int main(void)
{
    unsigned failures;
    CU_pSuite suite;
    CU_initialize_registry();
    suite = CU_add_suite("kv-pages", NULL, NULL);
    CU_add_test(suite, "ring sizes follow the rule", ring_sizes_follow_the_rule);
    CU_add_test(suite, "layers with one window share a class", layers_with_one_window_share_a_class);
    CU_add_test(suite, "a pool is one context at least and all at most",
                a_pool_is_one_context_at_least_and_all_at_most);
    CU_add_test(suite, "extending takes pages and destroying gives them back",
                extending_takes_pages_and_destroying_gives_them_back);
    CU_add_test(suite, "context and ring limits are refused", context_and_ring_limits_are_refused);
    CU_add_test(suite, "truncation is exact or refused", truncation_is_exact_or_refused);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
