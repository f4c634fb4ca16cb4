/* Fuzzing the bodies of requests, as far as they come without a model's weights.
 *
 * The first byte says which API and whether the body is packed; the rest is the body. Whatever it is, it is taken or refused with
 * a status and a text. One that is taken goes on: tokens made of the same bytes pass through the way to the client, whole and
 * token by token, and no stop string may ever come out of it.
 */
#include <stdlib.h>
#include <string.h>

#include "server/gzip.h"
#include "server/output.h"
#include "server/request.h"
#include "server/server.h"
#include "tests/vocab-build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { MAX_BODY = 1 << 20, N_TOKENS = 48 };

static struct sharpi_model model;
static struct server_settings settings = {.max_body = MAX_BODY, .max_choices = 8};
static struct sharpi_sampler_params sampling;
static struct server server = {
    .model = &model, .settings = &settings, .sampling = &sampling, .context = 4096};

static void check(int32_t condition)
{
    if (!condition)
        abort();
}

/* A vocabulary with a byte for everything, marks of reasoning, and some words. */
static void make_tokenizer(void)
{
    static const char *const words[] = {"a",   "b",  "e", "n", "d", "en", "end", "\xe2\x96\x81",
                                        "the", "\n", NULL};
    static struct vocab_token tokens[300];
    static char names[256][8];
    struct vocab vocab = {.model = "llama", .tokens = tokens, .bos = 1};
    uint32_t n = 0;
    tokens[n++] = (struct vocab_token){"<unk>", SHARPI_TOKEN_UNKNOWN, 0};
    tokens[n++] = (struct vocab_token){"<s>", SHARPI_TOKEN_CONTROL, 0};
    tokens[n++] = (struct vocab_token){"</s>", SHARPI_TOKEN_CONTROL, 0};
    tokens[n++] = (struct vocab_token){"<think>", SHARPI_TOKEN_CONTROL, 0};
    tokens[n++] = (struct vocab_token){"</think>", SHARPI_TOKEN_CONTROL, 0};
    tokens[n++] = (struct vocab_token){"<|channel>", SHARPI_TOKEN_CONTROL, 0};
    for (uint32_t i = 0; i < 256; i++) {
        snprintf(names[i], sizeof names[i], "<0x%02X>", i);
        tokens[n++] = (struct vocab_token){names[i], SHARPI_TOKEN_BYTE, 0};
    }
    for (uint32_t i = 0; words[i]; i++)
        tokens[n++] = (struct vocab_token){words[i], SHARPI_TOKEN_NORMAL, -(float)i};
    check(vocab_create(&vocab, &model.tokenizer, NULL) == SHARPI_OK);
    model.desc.n_vocab = n;
    model.desc.width = 64;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char chatml[] =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    (void)argc;
    (void)argv;
    make_tokenizer();
    snprintf(server.model_id, sizeof server.model_id, "model");
    sharpi_sampler_params_init(&sampling);
    check(prompt_template_create(&model, chatml, sizeof chatml - 1, "chatml", &server.prompt_template,
                                 NULL) == SHARPI_OK);
    return 0;
}

/* Two ways through the output: taken at every token, and at the end only. */
static void say(const struct gen_request *r, const uint8_t *data, size_t size)
{
    struct sharpi_logprob top = {.id = 7, .logprob = -1};
    struct text all = {0};
    struct output o;
    check(output_init(&o, model.tokenizer, &r->stops, r->split, r->logprobs, r->prompts[0].text,
                      r->prompts[0].n_text, NULL) == SHARPI_OK);
    for (size_t i = 0; i < N_TOKENS && i < size; i++) {
        int32_t over = output_push(&o, (int32_t)(data[size - 1 - i] * 7u % model.desc.n_vocab), -1, &top,
                                   r->n_top ? 1 : 0);
        text_put(&all, o.said.data ? o.said.data : "", o.said.n);
        o.said.n = 0;
        if (over)
            break;
    }
    output_end(&o);
    text_put(&all, o.said.data ? o.said.data : "", o.said.n);
    check(!o.failed && !all.failed);
    for (uint32_t i = 0; i < r->stops.n; i++)
        check(!memmem(all.data, all.n, r->stops.items[i], r->stops.sizes[i]));
    json_t *valid = json_stringn(all.data, all.n);
    check(valid != NULL); /* whole UTF-8 */
    json_decref(valid);
    text_free(&all);
    output_free(&o);
}

static void parse(uint32_t api, const char *text, uint64_t n)
{
    struct http_error error = {.status = 0};
    struct gen_request r = {.n = 1};
    json_t *body = NULL;
    int32_t status = json_read_body(text, n, &body, &error);
    if (!status)
        status = api == 0   ? parse_chat(&server, body, &r, &error)
                 : api == 1 ? parse_completions(&server, body, &r, &error)
                            : parse_messages(&server, body, &r, &error);
    json_decref(body);
    check((status == 0) == (error.status == 0));
    check(status == 0 || (error.status >= 400 && error.status < 600 && error.message[0]));
    if (status) {
        json_t *document = http_error_json(&error, api == 2 ? API_ANTHROPIC : API_OPENAI, "id");
        check(document != NULL);
        json_decref(document);
    } else {
        check(r.n_prompts > 0 && r.prompts[0].n_tokens > 0 && r.n > 0);
        say(&r, (const uint8_t *)text, n);
    }
    gen_request_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text plain = {0};
    if (size == 0)
        return 0;
    if (data[0] & 4 && gzip_unpack((const char *)data + 1, size - 1, MAX_BODY, &plain, NULL) == SHARPI_OK)
        parse(data[0] % 4 % 3, plain.data ? plain.data : "", plain.n);
    else
        parse(data[0] % 4 % 3, (const char *)data + 1, size - 1);
    text_free(&plain);
    return 0;
}
