/* Pre-tokenizers: how byte-level vocabularies cut a text into words before merging.
 *
 * Invariant: the words of a text cover it without gaps or overlaps. The expressions of a rule apply one after the
 * other, each inside the words of the one before; what an expression does not match is a word, too.
 * The expressions are those that the models' own tokenizer files publish. White space is spelled out as Unicode's
 * White_Space, because PCRE2's \s also takes U+180E.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer-internal.h"

#define WS     "\\p{Z}\\t-\\r\\x{85}"
#define SUFFIX "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define LINES  "[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+"

#define GPT2                                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|[" WS "]+(?![^" WS "])|[" WS "]+"

/* GPT-4's expression; llama 3 and qwen 2 differ in how many digits make a word. */
#define GPT4(digits)                                                                                         \
    SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|" LINES

#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
/* GPT-4o's: words change where lower case turns into upper case. */
#define GPT4O(suffix, digits)                                                                                \
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" suffix "|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER     \
    "]*" suffix "|" digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*|" LINES

/* Letters with case, as DeepSeek lists them. */
#define CASED                                                                                                \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"          \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}"   \
    "\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}"          \
    "\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"        \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}"        \
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{"     \
    "1f7d}"                                                                                                  \
    "\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}"                  \
    "\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}"        \
    "\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}"           \
    "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}"         \
    "\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}"          \
    "\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}"        \
    "\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}"        \
    "\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"                   \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

#define EAST_ASIAN  "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define PUNCTUATION "[\\p{P}\\$\\+<=>\\^~\\|]+"

static const struct pre_rules all_rules[] = {
    {" default ", {PUNCTUATION, GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}, 0, 0},
    {" gpt-2 mpt olmo jais trillion phi-2 gigachat roberta-bpe jina-v1-en jina-v2-code jina-v2-es jina-v2-de"
     " jina-es jina-de modern-bert exaone4 granite-docling ",
     {GPT2},
     0,
     0},
    {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 ", {GPT4("\\p{N}{1,3}")}, 1, 1},
    {" dbrx smaug-bpe chatglm-bpe glm4 ", {GPT4("\\p{N}{1,3}")}, 0, 0},
    {" qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez ", {GPT4("\\p{N}")}, 0, 0},
    {" qwen35 ",
     {SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" LINES},
     0,
     0},
    {" deepseek-llm ",
     {"[\\r\\n]|[" WS "]?[" CASED "]+",
      "[" WS "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
      "(?<![" WS "])[" WS "]++$", EAST_ASIAN, "\\p{N}+"},
     0,
     0},
    {" deepseek-coder ", {"[\\r\\n]|[" WS "]?\\p{L}+", "[" WS "]?\\p{P}+", EAST_ASIAN, "\\p{N}"}, 0, 0},
    {" deepseek-v3 hunyuan-dense ",
     {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
      "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" LINES},
     0,
     0},
    {" falcon ", {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}, 0, 0},
    {" starcoder refact command-r smollm codeshell exaone minerva-7b ", {"\\p{N}", GPT2}, 0, 0},
    {" tekken ", {GPT4O("", "\\p{N}")}, 1, 1},
    {" gpt-4o llama4 kanana2 ", {GPT4O(SUFFIX "?", "\\p{N}{1,3}")}, 0, 0},
    {" poro-chat bloom gpt3-finnish ",
     {" ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"},
     0,
     0},
    {" viking ",
     {" ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+", "\\p{N}"},
     0,
     0},
    {" seed-coder ",
     {SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+|" LINES},
     0,
     0},
    {" bailingmoe ",
     {SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]|[" WS
             "]+(?![^" WS "])|[" WS "]+"},
     0,
     0},
};

static const struct pre_rules *find_rules(struct sharpi_str name)
{
    char key[64];
    if (name.n == 0 || name.n > sizeof key - 3 || memchr(name.data, ' ', name.n))
        return NULL;
    snprintf(key, sizeof key, " %.*s ", (int)name.n, name.data);
    for (size_t i = 0; i < sizeof all_rules / sizeof all_rules[0]; i++) {
        if (strstr(all_rules[i].names, key))
            return &all_rules[i];
    }
    return NULL;
}

static int32_t compile(struct sharpi_tokenizer *t, const char *pattern, struct sharpi_error *err)
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *regex = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                      PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &code, &at, NULL);
    if (!regex)
        return sharpi_fail(err, SHARPI_EBUG,
                           "PCRE2 does not take the pre-tokenizer of '%s' (error %d at %zu)", t->pre_name,
                           code, (size_t)at);
    pcre2_jit_compile(regex, PCRE2_JIT_COMPLETE); /* where there is no JIT, the interpreter does it */
    t->regex[t->n_regex++] = regex;
    return SHARPI_OK;
}

int32_t pre_load(struct sharpi_tokenizer *t, struct sharpi_str name, struct sharpi_error *err)
{
    t->pre = find_rules(name);
    if (!t->pre) {
        t->pre = &all_rules[0];
        snprintf(
            t->warning, sizeof t->warning,
            "tokenizer.ggml.pre is '%.*s', which is not known: 'default' is used and text may be cut wrongly",
            (int)(name.n < 64 ? name.n : 64), name.n > 0 ? name.data : "");
    }
    snprintf(t->pre_name, sizeof t->pre_name, "%.*s", t->warning[0] ? 7 : (int)name.n,
             t->warning[0] ? "default" : name.data);
    for (int32_t i = 0; i < MAX_PATTERNS && t->pre->patterns[i]; i++) {
        int32_t status = compile(t, t->pre->patterns[i], err);
        if (status != SHARPI_OK)
            return status;
    }
    return SHARPI_OK;
}

static int32_t add_word(struct merge_work *w, int32_t list, uint64_t *n, uint64_t from, uint64_t to,
                        struct sharpi_error *err)
{
    if (from == to)
        return SHARPI_OK;
    if (*n == w->word_capacity[list]) {
        uint64_t capacity = *n * 2 + 64;
        struct span *grown = realloc(w->words[list], capacity * sizeof *grown);
        if (!grown)
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %llu words of text",
                               (unsigned long long)capacity);
        w->words[list] = grown;
        w->word_capacity[list] = capacity;
    }
    w->words[list][(*n)++] = (struct span){(uint32_t)from, (uint32_t)(to - from)};
    return SHARPI_OK;
}

/* Cuts one word by one expression into matches and what lies between them. */
static int32_t split_word(const struct sharpi_tokenizer *t, struct merge_work *w, int32_t index,
                          const char *text, struct span word, int32_t list, uint64_t *n,
                          struct sharpi_error *err)
{
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(w->match);
    PCRE2_SPTR subject = (PCRE2_SPTR)text + word.at;
    uint64_t done = 0;
    int32_t status = SHARPI_OK;
    while (status == SHARPI_OK && done < word.n) {
        int rc = pcre2_match(t->regex[index], subject, word.n, done, PCRE2_NO_UTF_CHECK, w->match, w->limits);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0)
            return sharpi_fail(err, rc == PCRE2_ERROR_NOMEMORY ? SHARPI_ENOMEM : SHARPI_EBUG,
                               "the pre-tokenizer '%s' stopped with PCRE2's error %d", t->pre_name, rc);
        status = add_word(w, list, n, word.at + done, word.at + found[0], err);
        if (status == SHARPI_OK)
            status = add_word(w, list, n, word.at + found[0], word.at + found[1], err);
        done = found[1];
    }
    return status == SHARPI_OK ? add_word(w, list, n, word.at + done, (uint64_t)word.at + word.n, err)
                               : status;
}

static int32_t prepare(struct merge_work *w, struct sharpi_error *err)
{
    if (!w->match)
        w->match = pcre2_match_data_create(1, NULL);
    if (!w->limits)
        w->limits = pcre2_match_context_create(NULL);
    if (!w->match || !w->limits)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to cut text into words");
    /* No expression backtracks more than once over a run of white space, so a long run is no reason to stop. */
    pcre2_set_match_limit(w->limits, UINT32_MAX);
    return SHARPI_OK;
}

int32_t pre_split(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text, uint64_t n,
                  const struct span **words, uint64_t *n_words, struct sharpi_error *err)
{
    int32_t list = 0;
    uint64_t count = 0;
    int32_t status = prepare(w, err);
    if (status == SHARPI_OK)
        status = add_word(w, list, &count, 0, n, err);
    for (int32_t r = 0; r < t->n_regex && status == SHARPI_OK; r++) {
        uint64_t before = count;
        count = 0;
        for (uint64_t i = 0; i < before && status == SHARPI_OK; i++)
            status = split_word(t, w, r, text, w->words[list][i], !list, &count, err);
        list = !list;
    }
    *words = w->words[list];
    *n_words = count;
    return status;
}
