/* Tests of the tokenizer: recorded encodings of real vocabularies, small vocabularies written here, properties.
 *
 * Recorded pairs come from $SHARPI_SHARED/data/vocab (FILE.gguf, FILE.gguf.inp, FILE.gguf.out); what is not there is
 * skipped with a line. $SHARPI_MODEL_270M names a Gemma 3 file for the tests that want a vocabulary of that size.
 */
#include "core/tokenizer.h"
#include "vocab-build.h"

#include <CUnit/Basic.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct sharpi_tokenizer *open_tokenizer(const char *path)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_tokenizer *t = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = sharpi_gguf_open(path, SHARPI_GGUF_HEADER_ONLY, &gguf, &err);
    if (status == SHARPI_OK)
        status = sharpi_tokenizer_create(gguf, &t, &err);
    if (status != SHARPI_OK)
        fprintf(stderr, "%s: %s\n", path, err.text);
    sharpi_gguf_close(gguf);
    return t;
}

static char *read_file(const char *path, uint64_t *n)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    long size;
    if (!file)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0 &&
        (text = malloc((size_t)size + 1))) {
        *n = fread(text, 1, (size_t)size, file);
        text[*n] = 0;
    }
    fclose(file);
    return text;
}

static struct sharpi_tokens encode(const struct sharpi_tokenizer *t, const char *text, uint64_t n,
                                   uint32_t flags)
{
    struct sharpi_tokens ids = SHARPI_TOKENS_INIT;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = sharpi_tokenizer_encode(t, text, n, flags, &ids, &err);
    if (status != SHARPI_OK)
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_EQUAL_FATAL(status, SHARPI_OK);
    return ids;
}

/* Are the ids of `text` those written in `expected`? */
static int32_t gives(const struct sharpi_tokenizer *t, const char *text, uint64_t n, uint32_t flags,
                     const char *expected)
{
    struct sharpi_tokens ids = encode(t, text, n, flags);
    const char *at = expected;
    int32_t same = 1;
    for (uint64_t i = 0; i < ids.n && same; i++) {
        char *end;
        long id = strtol(at, &end, 10);
        same = end != at && id == ids.ids[i];
        at = end;
    }
    same = same && at[strspn(at, " ")] == 0;
    if (!same) {
        fprintf(stderr, "'%.*s' expected: %s\n got:", (int)n, text, expected);
        for (uint64_t i = 0; i < ids.n; i++)
            fprintf(stderr, " %d", ids.ids[i]);
        fprintf(stderr, "\n");
    }
    sharpi_tokens_free(&ids);
    return same;
}

static int32_t gives_ids(const struct sharpi_tokenizer *t, const char *text, uint32_t flags,
                         const char *expected)
{
    return gives(t, text, strlen(text), flags, expected);
}

static int32_t decodes_to(const struct sharpi_tokenizer *t, const struct sharpi_tokens *ids, uint32_t flags,
                          const char *text, uint64_t n)
{
    char *out = NULL;
    uint64_t n_out = 0;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = sharpi_tokenizer_decode(t, ids->ids, ids->n, flags, &out, &n_out, &err);
    int32_t same = status == SHARPI_OK && n_out == n && memcmp(out, text, n) == 0;
    if (!same)
        fprintf(stderr, "'%.*s' decodes to '%.60s' %s\n", (int)(n < 60 ? n : 60), text, out ? out : "",
                err.text);
    free(out);
    return same;
}

static int32_t survives(const struct sharpi_tokenizer *t, const char *text, uint64_t n)
{
    struct sharpi_tokens ids = encode(t, text, n, 0);
    int32_t same = decodes_to(t, &ids, SHARPI_DECODE_START, text, n);
    sharpi_tokens_free(&ids);
    return same;
}

/* ---- real vocabularies ---- */

static void check_pairs(const char *path)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char name[600];
    uint64_t n_in = 0, n_out = 0;
    snprintf(name, sizeof name, "%s.inp", path);
    char *input = read_file(name, &n_in);
    snprintf(name, sizeof name, "%s.out", path);
    char *output = read_file(name, &n_out);
    struct sharpi_tokenizer *t = open_tokenizer(path);
    CU_ASSERT_PTR_NOT_NULL(t);
    int32_t checked = 0;
    for (char *text = input, *line = output; t && text && line;) {
        char *next_text = strstr(text, separator), *next_line = strchr(line, '\n');
        uint64_t n = next_text ? (uint64_t)(next_text - text) : strlen(text);
        if (next_line)
            *next_line = 0;
        CU_ASSERT(gives(t, text, n, 0, line));
        CU_ASSERT(survives(t, text, n));
        checked++;
        text = next_text ? next_text + strlen(separator) : NULL;
        line = next_line ? next_line + 1 : NULL;
    }
    if (input && output)
        printf("(%s: %d texts) ", strrchr(path, '/') + 1, checked);
    sharpi_tokenizer_destroy(t);
    free(input);
    free(output);
}

static void each_vocabulary(void (*check)(const char *path))
{
    char folder[512], path[1024];
    const char *shared = getenv("SHARPI_SHARED");
    snprintf(folder, sizeof folder, "%s/data/vocab", shared ? shared : "");
    DIR *dir = shared ? opendir(folder) : NULL;
    if (!dir) {
        printf("(skipped: no $SHARPI_SHARED/data/vocab) ");
        return;
    }
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        size_t n = strlen(entry->d_name);
        if (n < 5 || strcmp(entry->d_name + n - 5, ".gguf") != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        check(path);
    }
    closedir(dir);
}

static void recorded_pairs_reproduce(void)
{
    each_vocabulary(check_pairs);
}

/* A character from the blocks that matter: ASCII often, then anything that is a character. */
static uint64_t random_character(char *to)
{
    uint32_t c;
    switch (random_below(8)) {
    case 0:
        c = random_below(0x110000);
        break;
    case 1:
        c = 0x4e00 + random_below(0x5000);
        break;
    case 2:
        c = random_below(0x800);
        break;
    case 3:
        c = 0x1f300 + random_below(0x300);
        break;
    case 4:
        c = (const uint32_t[]){' ', '\n', '\t', '\r', 0x3000, 0xa0, 0x2581, '\''}[random_below(8)];
        break;
    default:
        c = 0x20 + random_below(0x5f);
    }
    if (c >= 0xd800 && c < 0xe000)
        c = 'x';
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    uint32_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (uint32_t i = n - 1; i > 0; i--, c >>= 6)
        to[i] = (char)(0x80 | (c & 0x3f));
    to[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | c);
    return n;
}

static uint64_t random_text(char *text, int32_t n_characters, int32_t marks)
{
    uint64_t n = 0;
    for (int32_t i = 0; i < n_characters; i++) {
        uint64_t length = random_character(text + n);
        if (!marks && length == 3 && memcmp(text + n, "\xe2\x96\x81", 3) == 0)
            continue; /* SentencePiece writes spaces so: the one character that it cannot give back */
        n += length;
    }
    return n;
}

/* Streams the ids and checks that what comes out is the text, each part of it whole characters. */
static int32_t streams(const struct sharpi_tokenizer *t, const struct sharpi_tokens *ids, const char *text,
                       uint64_t n)
{
    struct sharpi_detokenizer *d = NULL;
    uint64_t at = 0;
    int32_t good = 1;
    CU_ASSERT_EQUAL_FATAL(sharpi_detokenizer_create(t, SHARPI_DECODE_START, &d, NULL), SHARPI_OK);
    for (uint64_t i = 0; i < ids->n && good; i++) {
        struct sharpi_str part = sharpi_detokenizer_push(d, ids->ids[i]);
        good = part.n <= n - at && memcmp(part.data, text + at, part.n) == 0;
        at += part.n;
        good = good && (at == n || ((uint8_t)text[at] & 0xc0) != 0x80); /* not inside a character */
    }
    good = good && at == n && sharpi_detokenizer_flush(d).n == 0;
    sharpi_detokenizer_destroy(d);
    return good;
}

static void check_random_texts(const char *path)
{
    char text[4 * 200];
    struct sharpi_tokenizer *t = open_tokenizer(path);
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    int32_t marks = sharpi_tokenizer_kind(t) == SHARPI_TOKENIZER_BPE;
    for (int32_t trial = 0; trial < 300; trial++) {
        uint64_t n = random_text(text, 1 + (int32_t)random_below(190), marks);
        struct sharpi_tokens ids = encode(t, text, n, 0);
        CU_ASSERT(decodes_to(t, &ids, SHARPI_DECODE_START, text, n));
        CU_ASSERT(streams(t, &ids, text, n));
        sharpi_tokens_free(&ids);
        for (uint64_t i = 0; i < n; i++)        /* and broken UTF-8 */
            text[i] = (char)random_below(0xc0); /* above lie bytes that not all vocabularies have */
        CU_ASSERT(survives(t, text, n));
    }
    sharpi_tokenizer_destroy(t);
}

static void decoding_gives_random_texts_back(void)
{
    each_vocabulary(check_random_texts);
    if (getenv("SHARPI_MODEL_270M"))
        check_random_texts(getenv("SHARPI_MODEL_270M"));
}

static void check_long_runs(const char *path)
{
    static const char *const units[] = {"a",    " ", "\n",  "\n ", "1",       "\xe4\xb8\xad",
                                        "\x80", "'", "ab ", "=",   "\xc2\xa0"};
    enum { BYTES = 1 << 20 };
    struct sharpi_tokenizer *t = open_tokenizer(path);
    char *text = malloc(BYTES + 8);
    CU_ASSERT_FATAL(t && text);
    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
        uint64_t n = 0, step = strlen(units[u]);
        for (; n + step <= BYTES; n += step)
            memcpy(text + n, units[u], step);
        memcpy(text + n, "\xe4\xb8\xad", 3); /* no blank at the end */
        double start = now();
        CU_ASSERT(survives(t, text, n + 3));
        if (now() - start > 10)
            fprintf(stderr, "%s: %d bytes of '%s' take %.1f s\n", path, BYTES, units[u], now() - start);
        CU_ASSERT(now() - start < 10);
    }
    free(text);
    sharpi_tokenizer_destroy(t);
}

static void no_run_takes_quadratic_time(void)
{
    each_vocabulary(check_long_runs);
    if (getenv("SHARPI_MODEL_270M"))
        check_long_runs(getenv("SHARPI_MODEL_270M"));
}

static void gemma3_is_fast_and_complete(void)
{
    const char *path = getenv("SHARPI_MODEL_270M");
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_tokenizer *t = NULL;
    if (!path) {
        printf("(skipped: no $SHARPI_MODEL_270M) ");
        return;
    }
    CU_ASSERT_EQUAL_FATAL(sharpi_gguf_open(path, SHARPI_GGUF_HEADER_ONLY, &gguf, NULL), SHARPI_OK);
    double start = now();
    CU_ASSERT_EQUAL_FATAL(sharpi_tokenizer_create(gguf, &t, NULL), SHARPI_OK);
    printf("(created in %.0f ms) ", (now() - start) * 1e3);
    sharpi_gguf_close(gguf);
    CU_ASSERT_EQUAL(sharpi_tokenizer_n_tokens(t), 262144);
    CU_ASSERT_EQUAL(sharpi_tokenizer_bos(t), 2);
    CU_ASSERT(sharpi_tokenizer_is_eog(t, 1));
    CU_ASSERT(sharpi_tokenizer_is_eog(t, 106)); /* <end_of_turn> */
    CU_ASSERT(gives_ids(t, "<start_of_turn>user\n", SHARPI_ENCODE_ADD_SPECIAL | SHARPI_ENCODE_PARSE_SPECIAL,
                        "2 105 2364 107"));
    CU_ASSERT(gives_ids(t, "\n\n\n", 0, "109"));
    sharpi_tokenizer_destroy(t);
}

/* ---- small vocabularies ---- */

static struct sharpi_tokenizer *build(const struct vocab *v)
{
    struct sharpi_tokenizer *t = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = vocab_create(v, &t, &err);
    if (status != SHARPI_OK)
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_EQUAL_FATAL(status, SHARPI_OK);
    return t;
}

/* Does a vocabulary fail with this status and these words? */
static int32_t fails(const struct vocab *v, int32_t status, const char *words)
{
    struct sharpi_tokenizer *t = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t got = vocab_create(v, &t, &err);
    sharpi_tokenizer_destroy(t);
    if (got == status && strstr(err.text, words))
        return 1;
    fprintf(stderr, "status %d: %s\n", got, err.text);
    return 0;
}

static const struct vocab_token spm_tokens[] = {
    {"<unk>", 2, 0},
    {"<s>", 3, 0},
    {"</s>", 3, 0},
    {"<0x41>", 6, 0},
    {"\xe2\x96\x81", 1, -5},
    {"a", 1, -6},
    {"b", 1, -7},
    {"ab", 1, 0.5f},
    {"ba", 1, 1.5f},
    {"\xe2\x96\x81"
     "a",
     1, -3},
    {"[X]", 4, 0},
    {"[XY]", 4, 0},
    {"<|eot_id|>", 1, 0},
    {"<", 1, -9},
    {"s", 1, -9},
    {"<s", 1, -9},
    {">", 1, -9},
    {"  ", 4, 0},
    {NULL, 0, 0},
};

static void scores_decide_and_ties_go_left(void)
{
    struct sharpi_tokenizer *t =
        build(&(struct vocab){.model = "llama", .tokens = spm_tokens, .no_prefix = 1});
    CU_ASSERT(gives_ids(t, "aba", 0, "5 8")); /* "ba" scores better than "ab" */
    CU_ASSERT(gives_ids(t, "abab", 0, "5 8 6"));
    CU_ASSERT(gives_ids(t, "aa", 0, "5 5"));
    CU_ASSERT(gives_ids(t, "A", 0, "3")); /* a byte */
    CU_ASSERT(gives_ids(t, "Z", 0, "0")); /* no byte token: unknown */
    CU_ASSERT(gives_ids(t, "", 0, ""));
    sharpi_tokenizer_destroy(t);
}

static void control_tokens_need_permission(void)
{
    struct sharpi_tokenizer *t =
        build(&(struct vocab){.model = "llama", .tokens = spm_tokens, .no_prefix = 1});
    CU_ASSERT(gives_ids(t, "a<s>b", SHARPI_ENCODE_PARSE_SPECIAL, "5 1 6"));
    CU_ASSERT(gives_ids(t, "a<s>b", 0, "5 15 16 6")); /* not even by merging */
    CU_ASSERT(gives_ids(t, "a[XY]b[X]", 0, "5 11 6 10"));
    CU_ASSERT(gives_ids(t, "a  b", 0, "5 17 6"));
    CU_ASSERT_EQUAL(sharpi_token_attr(t, 12), SHARPI_TOKEN_CONTROL); /* found by its text */
    CU_ASSERT(sharpi_tokenizer_is_eog(t, 12) && sharpi_tokenizer_is_eog(t, 2) &&
              !sharpi_tokenizer_is_eog(t, 1));
    CU_ASSERT_EQUAL(sharpi_tokenizer_eot(t), 12);
    CU_ASSERT_EQUAL(sharpi_token_find(t, "[XY]", 4), 11);
    CU_ASSERT_EQUAL(sharpi_token_find(t, "[XYZ]", 5), -1);
    sharpi_tokenizer_destroy(t);
}

static void bos_and_eos_follow_the_file(void)
{
    struct vocab v = {.model = "llama", .tokens = spm_tokens, .no_prefix = 1};
    struct sharpi_tokenizer *t = build(&v);
    CU_ASSERT(gives_ids(t, "a", SHARPI_ENCODE_ADD_SPECIAL, "1 5"));
    CU_ASSERT(
        gives_ids(t, "<s>a", SHARPI_ENCODE_ADD_SPECIAL | SHARPI_ENCODE_PARSE_SPECIAL, "1 5")); /* not two */
    sharpi_tokenizer_destroy(t);
    v.add_bos = VOCAB_NO;
    v.add_eos = VOCAB_YES;
    t = build(&v);
    CU_ASSERT(gives_ids(t, "a", SHARPI_ENCODE_ADD_SPECIAL, "5 2"));
    CU_ASSERT(gives_ids(t, "a", 0, "5"));
    CU_ASSERT_EQUAL(sharpi_tokenizer_adds_bos(t), 0);
    sharpi_tokenizer_destroy(t);
}

static void space_prefix_comes_and_goes(void)
{
    struct sharpi_tokenizer *t = build(&(struct vocab){.model = "llama", .tokens = spm_tokens});
    struct sharpi_tokens ids = encode(t, "a a", 3, SHARPI_ENCODE_ADD_SPECIAL);
    CU_ASSERT(gives_ids(t, "a a", SHARPI_ENCODE_ADD_SPECIAL, "1 9 9"));
    CU_ASSERT(decodes_to(t, &ids, SHARPI_DECODE_START, "a a", 3));
    CU_ASSERT(decodes_to(t, &ids, 0, " a a", 4));
    CU_ASSERT(decodes_to(t, &ids, SHARPI_DECODE_START | SHARPI_DECODE_SPECIAL, "<s>a a", 6));
    sharpi_tokens_free(&ids);
    sharpi_tokenizer_destroy(t);
}

static const struct vocab_token gemma4_tokens[] = {
    {"<pad>", 3, 0},
    {"<eos>", 3, 0},
    {"<bos>", 3, 0},
    {"<unk>", 2, 0},
    {"\xe2\x96\x81", 1, 0},
    {"a", 1, 0},
    {"b", 1, 0},
    {"ab", 1, 0},
    {"\xe2\x96\x81"
     "a",
     1, 0},
    {"\n", 1, 0},
    {"\n\n", 1, 0},
    {"<turn|>", 1, 0},
    {"<|tool_response>", 4, 0},
    {"</s>", 3, 0},
    {"<|channel>", 3, 0},
    {"<0xE4>", 6, 0},
    {"<0xB8>", 6, 0},
    {"<0xAD>", 6, 0},
    {"abab", 1, 0},
    {NULL, 0, 0},
};

static void gemma4_follows_its_rules(void)
{
    static const char *const merges[] = {"\xe2\x96\x81 a", "a b", "ab ab", "b a", NULL};
    struct sharpi_tokenizer *t = build(
        &(struct vocab){.model = "gemma4", .tokens = gemma4_tokens, .merges = merges, .add_bos = VOCAB_NO});
    CU_ASSERT(gives_ids(t, "a ab", SHARPI_ENCODE_ADD_SPECIAL, "2 5 8 6")); /* BOS whatever the file says */
    CU_ASSERT(gives_ids(t, "abab", 0, "18"));
    CU_ASSERT(gives_ids(t, "\n\n", 0, "10"));
    CU_ASSERT(gives_ids(t, "a\n\n\nb", 0, "5 9 9 9 6")); /* a run that is no token is merged by rank */
    CU_ASSERT(gives_ids(t, "\xe4\xb8\xad", 0, "15 16 17"));
    CU_ASSERT(sharpi_tokenizer_is_eog(t, 1) && sharpi_tokenizer_is_eog(t, 11) &&
              sharpi_tokenizer_is_eog(t, 12));
    CU_ASSERT(!sharpi_tokenizer_is_eog(t, 13));
    CU_ASSERT_EQUAL(sharpi_tokenizer_eot(t), 11);
    CU_ASSERT_EQUAL(sharpi_token_attr(t, 11), SHARPI_TOKEN_CONTROL);
    CU_ASSERT_EQUAL(sharpi_token_attr(t, 14), SHARPI_TOKEN_USER_DEFINED);
    sharpi_tokenizer_destroy(t);
}

static const struct vocab_token bpe_tokens[] = {
    {"a", 1, 0},   {"b", 1, 0}, {"c", 1, 0},  {"ab", 1, 0}, {"bc", 1, 0},         {"\xc4\xa0", 1, 0},
    {"abc", 1, 0}, {"1", 1, 0}, {"2", 1, 0},  {"12", 1, 0}, {"<|im_end|>", 3, 0}, {"\xc3\xbf", 1, 0},
    {"123", 1, 0}, {"3", 1, 0}, {"cc", 1, 0}, {NULL, 0, 0},
};

static void ranks_decide_in_words_of_the_pre_tokenizer(void)
{
    static const char *const merges[] = {"b c", "a b", "1 2", "12 3", NULL};
    struct vocab v = {.model = "gpt2", .pre = "qwen2", .tokens = bpe_tokens, .merges = merges};
    struct sharpi_tokenizer *t = build(&v);
    CU_ASSERT(gives_ids(t, "abc", 0, "0 4"));
    CU_ASSERT(gives_ids(t, "12 ab", 0, "7 8 5 3")); /* digits one by one */
    CU_ASSERT(gives_ids(t, "\xff", 0, "11"));       /* a byte that is no UTF-8 */
    CU_ASSERT(gives_ids(t, "a", SHARPI_ENCODE_ADD_SPECIAL, "0"));
    CU_ASSERT(sharpi_tokenizer_is_eog(t, 10));
    CU_ASSERT_STRING_EQUAL(sharpi_tokenizer_pre(t), "qwen2");
    CU_ASSERT_PTR_NULL(sharpi_tokenizer_warning(t));
    sharpi_tokenizer_destroy(t);
    v.pre = "llama-bpe";
    t = build(&v);
    CU_ASSERT(gives_ids(t, "abc", 0, "6")); /* a whole word is not merged */
    CU_ASSERT(gives_ids(t, "123123", 0, "12 12"));
    sharpi_tokenizer_destroy(t);
}

/* A merge whose result is no token has to be taken back to bytes. */
static void merges_without_a_token_become_bytes(void)
{
    static const char *const merges[] = {"c b", "cb a", NULL};
    struct sharpi_tokenizer *t =
        build(&(struct vocab){.model = "gpt2", .pre = "gpt-2", .tokens = bpe_tokens, .merges = merges});
    CU_ASSERT(gives_ids(t, "cba", 0, "2 1 0"));
    CU_ASSERT_EQUAL(sharpi_token_find(t, "cb", 2), -1);
    sharpi_tokenizer_destroy(t);
}

static void an_unknown_pre_tokenizer_is_a_warning(void)
{
    static const char *const merges[] = {"a b", NULL};
    struct sharpi_tokenizer *t =
        build(&(struct vocab){.model = "gpt2", .pre = "brand-new", .tokens = bpe_tokens, .merges = merges});
    CU_ASSERT_STRING_EQUAL(sharpi_tokenizer_pre(t), "default");
    CU_ASSERT_PTR_NOT_NULL_FATAL(sharpi_tokenizer_warning(t));
    CU_ASSERT_PTR_NOT_NULL(strstr(sharpi_tokenizer_warning(t), "brand-new"));
    sharpi_tokenizer_destroy(t);
}

static void wrong_files_are_explained(void)
{
    static const char *const no_space[] = {"a b", "ab", NULL};
    struct vocab bpe = {.model = "gpt2", .pre = "gpt-2", .tokens = bpe_tokens, .merges = no_space};
    CU_ASSERT(fails(&bpe, SHARPI_EFORMAT, "entry 1"));
    bpe.merges = NULL;
    CU_ASSERT(fails(&bpe, SHARPI_EFORMAT, "merges is missing"));
    CU_ASSERT(fails(&(struct vocab){.model = "bert", .tokens = spm_tokens}, SHARPI_ENOTSUP, "bert"));
    CU_ASSERT(fails(&(struct vocab){.model = "t5", .tokens = spm_tokens}, SHARPI_ENOTSUP, "t5"));
    CU_ASSERT(fails(&(struct vocab){.tokens = spm_tokens}, SHARPI_EFORMAT, "tokenizer.ggml.model"));
    CU_ASSERT(fails(&(struct vocab){.model = "llama"}, SHARPI_EFORMAT, "tokens"));
    CU_ASSERT(fails(&(struct vocab){.model = "llama", .tokens = spm_tokens, .no_scores = 1}, SHARPI_EFORMAT,
                    "scores"));
    CU_ASSERT(fails(&(struct vocab){.model = "llama", .tokens = spm_tokens, .bos = 18}, SHARPI_EFORMAT,
                    "bos_token_id"));
}

static void incomplete_characters_are_held_back(void)
{
    struct sharpi_tokenizer *t = build(&(struct vocab){
        .model = "gemma4", .tokens = gemma4_tokens, .merges = (const char *const[]){"a b", NULL}});
    struct sharpi_detokenizer *d = NULL;
    struct sharpi_str s;
    CU_ASSERT_EQUAL_FATAL(sharpi_detokenizer_create(t, 0, &d, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_detokenizer_push(d, 15).n, 0);
    CU_ASSERT_EQUAL(sharpi_detokenizer_push(d, 16).n, 0);
    s = sharpi_detokenizer_push(d, 17);
    CU_ASSERT(s.n == 3 && memcmp(s.data, "\xe4\xb8\xad", 3) == 0);
    sharpi_detokenizer_push(d, 15);
    s = sharpi_detokenizer_push(d, 5); /* a letter in the middle of a character */
    CU_ASSERT(s.n == 4 && memcmp(s.data,
                                 "\xef\xbf\xbd"
                                 "a",
                                 4) == 0);
    sharpi_detokenizer_push(d, 15);
    sharpi_detokenizer_push(d, 16);
    s = sharpi_detokenizer_push(d, 5); /* two bytes of it: one U+FFFD, as Unicode advises */
    CU_ASSERT(s.n == 4 && memcmp(s.data,
                                 "\xef\xbf\xbd"
                                 "a",
                                 4) == 0);
    s = sharpi_detokenizer_push(d, 17); /* can begin nothing */
    CU_ASSERT(s.n == 3 && memcmp(s.data, "\xef\xbf\xbd", 3) == 0);
    sharpi_detokenizer_push(d, 15);
    sharpi_detokenizer_push(d, 16);
    s = sharpi_detokenizer_flush(d);
    CU_ASSERT(s.n == 3 && memcmp(s.data, "\xef\xbf\xbd", 3) == 0);
    CU_ASSERT_EQUAL(sharpi_detokenizer_flush(d).n, 0);
    CU_ASSERT_EQUAL(sharpi_detokenizer_push(d, 2).n, 0);  /* control */
    CU_ASSERT_EQUAL(sharpi_detokenizer_push(d, 99).n, 0); /* none */
    CU_ASSERT_EQUAL(sharpi_detokenizer_push(d, -1).n, 0);
    sharpi_detokenizer_destroy(d);
    char *out;
    uint64_t n;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    CU_ASSERT_EQUAL(sharpi_tokenizer_decode(t, (const int32_t[]){5, 99}, 2, 0, &out, &n, &err),
                    SHARPI_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "token 99"));
    sharpi_tokenizer_destroy(t);
}

/* Seeds for the fuzzer: one vocabulary of each kind with a text. */
static int write_seeds(const char *folder)
{
    static const char *const merges[] = {"a b", "b c", "ab c", "1 2", NULL};
    const struct vocab all[] = {
        {.model = "llama", .tokens = spm_tokens, .add_eos = VOCAB_YES},
        {.model = "gemma4", .tokens = gemma4_tokens, .merges = merges},
        {.model = "gpt2", .pre = "llama-bpe", .tokens = bpe_tokens, .merges = merges},
        {.model = "gpt2", .pre = "deepseek-llm", .tokens = bpe_tokens, .merges = merges},
        {.model = "gpt2", .pre = "tekken", .tokens = bpe_tokens, .merges = merges},
        {.model = "gpt2", .pre = "deepseek-v3", .tokens = bpe_tokens, .merges = merges},
        {.model = "gpt2", .tokens = bpe_tokens, .merges = merges},
    };
    char path[1024];
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        snprintf(path, sizeof path, "%s/seed-%zu", folder, i);
        if (vocab_save_seed(&all[i], "abc<s> [XY]12\n\n\xe4\xb8\xad<|im_end|>\xff's", path) != 0)
            return 1;
    }
    return 0;
}

/* Ids, a line each, of the texts on standard input, each ended by a NUL: for comparing with other programs. */
static int encode_input(const char *path)
{
    struct sharpi_tokenizer *t = open_tokenizer(path);
    struct sharpi_tokens ids = SHARPI_TOKENS_INIT;
    char *text = NULL;
    size_t capacity = 0;
    ssize_t n;
    int failed = !t;
    while (!failed && (n = getdelim(&text, &capacity, 0, stdin)) > 0) {
        ids.n = 0;
        failed =
            sharpi_tokenizer_encode(t, text, (uint64_t)n - (text[n - 1] == 0), 0, &ids, NULL) != SHARPI_OK;
        for (uint64_t i = 0; i < ids.n; i++)
            printf("%d ", ids.ids[i]);
        putchar('\n');
    }
    free(text);
    sharpi_tokens_free(&ids);
    sharpi_tokenizer_destroy(t);
    return failed;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--encode") == 0)
        return encode_input(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--seeds") == 0)
        return write_seeds(argv[2]);
    static CU_TestInfo tests[] = {
        {"scores_decide_and_ties_go_left", scores_decide_and_ties_go_left},
        {"control_tokens_need_permission", control_tokens_need_permission},
        {"bos_and_eos_follow_the_file", bos_and_eos_follow_the_file},
        {"space_prefix_comes_and_goes", space_prefix_comes_and_goes},
        {"gemma4_follows_its_rules", gemma4_follows_its_rules},
        {"ranks_decide_in_words_of_the_pre_tokenizer", ranks_decide_in_words_of_the_pre_tokenizer},
        {"merges_without_a_token_become_bytes", merges_without_a_token_become_bytes},
        {"an_unknown_pre_tokenizer_is_a_warning", an_unknown_pre_tokenizer_is_a_warning},
        {"wrong_files_are_explained", wrong_files_are_explained},
        {"incomplete_characters_are_held_back", incomplete_characters_are_held_back},
        {"recorded_pairs_reproduce", recorded_pairs_reproduce},
        {"decoding_gives_random_texts_back", decoding_gives_random_texts_back},
        {"no_run_takes_quadratic_time", no_run_takes_quadratic_time},
        {"gemma3_is_fast_and_complete", gemma3_is_fast_and_complete},
        CU_TEST_INFO_NULL,
    };
    static CU_SuiteInfo suites[] = {{"tokenizer", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() > 0;
    CU_cleanup_registry();
    return failed;
}
