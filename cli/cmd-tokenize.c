/* sharpi tokenize and sharpi detokenize: text to token ids and back.
 *
 * Both need the vocabulary of a GGUF file and nothing else: no plugin, no engine, no tensor data, so that files that hold
 * only a vocabulary will do.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "core/tokenizer.h"

enum { MAX_INPUT = 1 << 30, MAX_IDS = 4096 };

static int32_t open_tokenizer(const char *path, struct sharpi_tokenizer **out, struct sharpi_error *err)
{
    struct sharpi_gguf *gguf = NULL;
    int32_t status;
    if (!path)
        return sharpi_fail(err, SHARPI_EINVAL, "no model: give one with -m FILE.gguf");
    status = sharpi_gguf_open(path, SHARPI_GGUF_HEADER_ONLY, &gguf, err);
    if (!status)
        status = sharpi_tokenizer_create(gguf, out, err);
    sharpi_gguf_close(gguf);
    if (!status && sharpi_tokenizer_warning(*out))
        fprintf(stderr, "warning: %s\n", sharpi_tokenizer_warning(*out));
    return status;
}

/* ---- tokenize */

struct tokenize {
    const char *model, *prompt, *file;
    uint32_t no_special, json, count;
};

static int32_t print_ids(const struct sharpi_tokens *ids, struct sharpi_error *err)
{
    for (uint64_t i = 0; i < ids->n; i++)
        printf("%s%d", i ? " " : "", ids->ids[i]);
    return put_text("\n", 1, err);
}

/* {"ids": [...], "tokens": [...]}: tokens as the vocabulary spells them; null where that is not UTF-8. */
static int32_t print_json(const struct sharpi_tokenizer *t, const struct sharpi_tokens *ids,
                          struct sharpi_error *err)
{
    json_t *numbers = json_array(), *texts = json_array(), *all;
    char *text = NULL;
    int32_t status;
    for (uint64_t i = 0; i < ids->n; i++) {
        struct sharpi_str s = sharpi_token_text(t, ids->ids[i]);
        json_t *piece = json_stringn(s.data ? s.data : "", s.n);
        json_array_append_new(numbers, json_integer(ids->ids[i]));
        json_array_append_new(texts, piece ? piece : json_null());
    }
    all = json_pack("{s:o, s:o}", "ids", numbers, "tokens", texts);
    if (all)
        text = json_dumps(all, JSON_COMPACT);
    json_decref(all);
    if (!text)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %llu tokens as JSON",
                           (unsigned long long)ids->n);
    fputs(text, stdout);
    status = put_text("\n", 1, err);
    free(text);
    return status;
}

static int32_t tokenize(const struct tokenize *o, struct sharpi_error *err)
{
    const uint32_t flags = o->no_special ? 0 : SHARPI_ENCODE_ADD_SPECIAL | SHARPI_ENCODE_PARSE_SPECIAL;
    struct sharpi_tokenizer *t = NULL;
    struct sharpi_tokens ids = SHARPI_TOKENS_INIT;
    const char *text = o->prompt;
    char *content = NULL;
    uint64_t n = text ? strlen(text) : 0;
    int32_t status = open_tokenizer(o->model, &t, err);
    if (!status && !text) {
        status = read_file(o->file ? o->file : "-", MAX_INPUT, &content, &n, err);
        text = content;
    }
    if (!status)
        status = sharpi_tokenizer_encode(t, text, n, flags, &ids, err);
    if (!status && o->count)
        printf("%llu\n", (unsigned long long)ids.n);
    else if (!status)
        status = o->json ? print_json(t, &ids, err) : print_ids(&ids, err);
    sharpi_tokens_free(&ids);
    free(content);
    sharpi_tokenizer_destroy(t);
    return status;
}

static int tokenize_command(int argc, char **argv)
{
    struct tokenize o = {.model = NULL};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const char *args[1];
    uint32_t n_args;
    int code;
    const struct option own[] = {
        {"model", 'm', OPTION_STRING, "FILE", "GGUF file with the vocabulary", &o.model, NULL},
        {"prompt", 'p', OPTION_STRING, "TEXT", "the text (or as the one argument; else standard input)",
         &o.prompt, NULL},
        {"file", 'f', OPTION_STRING, "FILE", "the text is what this file holds, all of it", &o.file, NULL},
        {"no-special", 0, OPTION_FLAG, NULL, "no BOS and EOS; text of control tokens is just text",
         &o.no_special, NULL},
        {"json", 0, OPTION_FLAG, NULL, "print {\"ids\": [...], \"tokens\": [...]}", &o.json, NULL},
        {"count", 0, OPTION_FLAG, NULL, "print only how many tokens there are", &o.count, NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, NULL};
    code = parse_command("tokenize", "sharpi tokenize -m FILE [OPTIONS] [TEXT]",
                         "Prints the token ids of a text in one line.", tables, argc, argv, args, 1, &n_args);
    if (code >= 0)
        return code;
    if ((o.prompt != NULL) + (o.file != NULL) + n_args > 1) {
        sharpi_fail(&err, SHARPI_EINVAL, "one text at a time: -p TEXT, -f FILE, or one argument");
        return fail_usage("tokenize", &err);
    }
    if (n_args)
        o.prompt = args[0];
    catch_interrupt();
    return tokenize(&o, &err) ? fail("tokenize", &err) : EXIT_OK;
}

const struct command command_tokenize = {"tokenize", "text to token ids", tokenize_command};

/* ---- detokenize */

struct detokenize {
    const char *model, *file;
    uint32_t special;
};

/* Appends the ids in `text`: numbers with anything of " \t\r\n,[]" between them, so that JSON arrays can be pasted. */
static int32_t parse_ids(const char *text, struct sharpi_tokens *ids, struct sharpi_error *err)
{
    static const char between[] = " \t\r\n,[]";
    int32_t status = SHARPI_OK;
    for (text += strspn(text, between); *text && !status; text += strspn(text, between)) {
        char *end;
        long id = strtol(text, &end, 10);
        size_t n = strcspn(text, between);
        if (end != text + n || id < 0 || id > INT32_MAX)
            return sharpi_fail(err, SHARPI_EINVAL, "'%.*s' is not a token id", n < 40 ? (int)n : 40, text);
        status = sharpi_tokens_push(ids, (int32_t)id, err);
        text = end;
    }
    return status;
}

static int32_t read_ids(const struct detokenize *o, const char *const *args, uint32_t n_args,
                        struct sharpi_tokens *ids, struct sharpi_error *err)
{
    char *content = NULL;
    uint64_t n;
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < n_args && !status; i++)
        status = parse_ids(args[i], ids, err);
    if (n_args)
        return status;
    status = read_file(o->file ? o->file : "-", MAX_INPUT, &content, &n, err);
    if (!status && memchr(content, 0, n))
        status = sharpi_fail(err, SHARPI_EFORMAT, "%s has a NUL byte: token ids are wanted as text",
                             o->file ? o->file : "standard input");
    if (!status)
        status = parse_ids(content, ids, err);
    free(content);
    return status;
}

static int32_t detokenize(const struct detokenize *o, const char *const *args, uint32_t n_args,
                          struct sharpi_error *err)
{
    const uint32_t flags = SHARPI_DECODE_START | (o->special ? SHARPI_DECODE_SPECIAL : 0u);
    struct sharpi_tokenizer *t = NULL;
    struct sharpi_tokens ids = SHARPI_TOKENS_INIT;
    char *text = NULL;
    uint64_t n = 0;
    int32_t status = open_tokenizer(o->model, &t, err);
    if (!status)
        status = read_ids(o, args, n_args, &ids, err);
    if (!status)
        status = sharpi_tokenizer_decode(t, ids.ids, ids.n, flags, &text, &n, err);
    if (!status)
        status = put_text(text, n, err);
    free(text);
    sharpi_tokens_free(&ids);
    sharpi_tokenizer_destroy(t);
    return status;
}

static int detokenize_command(int argc, char **argv)
{
    struct detokenize o = {.model = NULL};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const char *args[MAX_IDS];
    uint32_t n_args;
    int code;
    const struct option own[] = {
        {"model", 'm', OPTION_STRING, "FILE", "GGUF file with the vocabulary", &o.model, NULL},
        {"file", 'f', OPTION_STRING, "FILE", "read the ids from a file (default: standard input)", &o.file,
         NULL},
        {"special", 0, OPTION_FLAG, NULL, "show control tokens too", &o.special, NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, NULL};
    code = parse_command("detokenize", "sharpi detokenize -m FILE [OPTIONS] [ID...]",
                         "Prints the text of token ids, byte for byte, with nothing added.", tables, argc,
                         argv, args, MAX_IDS, &n_args);
    if (code >= 0)
        return code;
    if (n_args && o.file) {
        sharpi_fail(&err, SHARPI_EINVAL, "ids are given as arguments and with -f: one of them");
        return fail_usage("detokenize", &err);
    }
    catch_interrupt();
    return detokenize(&o, args, n_args, &err) ? fail("detokenize", &err) : EXIT_OK;
}

const struct command command_detokenize = {"detokenize", "token ids to text", detokenize_command};
