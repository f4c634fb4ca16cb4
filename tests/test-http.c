/* The server's parts without a model or a network: stop strings, events, keys, gzip, JSON, addresses, origins, settings. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/auth.h"
#include "server/gzip.h"
#include "server/json-read.h"
#include "server/listen.h"
#include "server/origin.h"
#include "server/output.h"
#include "server/request.h"
#include "server/settings.h"
#include "server/sse.h"
#include "server/stops.h"
#include "tests/vocab-build.h"

/* ---- Stop strings */

static void add_stops(struct stop_strings *strings, const char *const *items)
{
    memset(strings, 0, sizeof *strings);
    for (; *items; items++)
        CU_ASSERT_FATAL(stop_strings_add(strings, *items, strlen(*items), NULL) == SHARPI_OK);
}

/* What comes out of `text` in pieces of `step` bytes; *hit = which string ended it. No prefix that was passed on may contain
 * any part of the stop string that follows. */
static void run_stops(const struct stop_strings *strings, const char *text, size_t step, struct text *out,
                      int32_t *hit)
{
    struct stop_matcher m;
    size_t n = strlen(text);
    stop_matcher_init(&m, strings);
    for (size_t at = 0; at < n; at += step)
        stop_matcher_push(&m, text + at, n - at < step ? n - at : step, out);
    if (m.hit < 0)
        stop_matcher_end(&m, out);
    *hit = m.hit;
    stop_matcher_free(&m);
}

static void expect_stops(const char *const *items, const char *text, const char *wanted, int32_t wanted_hit)
{
    struct stop_strings strings;
    add_stops(&strings, items);
    for (size_t step = 1; step <= strlen(text) + 1; step++) {
        struct text out = {0};
        int32_t hit;
        run_stops(&strings, text, step, &out, &hit);
        CU_ASSERT(hit == wanted_hit);
        CU_ASSERT_STRING_EQUAL(out.data ? out.data : "", wanted);
        text_free(&out);
    }
    stop_strings_free(&strings);
}

static void stop_strings_end_a_text_however_it_is_cut(void)
{
    const char *const end[] = {"END", NULL}, *const two[] = {"abcd", "bc", NULL},
                      *const self[] = {"aab", NULL};
    const char *const nested[] = {"x", "xyz", NULL}, *const lines[] = {"\n\nUser:", NULL};
    expect_stops(end, "hello END world", "hello ", 0);
    expect_stops(end, "hello EN", "hello EN", -1);
    expect_stops(end, "ENENEND", "ENEN", 0);
    expect_stops(self, "aaaab", "aa", 0);
    expect_stops(lines, "Hi.\n\nUse:\n\nUser: x", "Hi.\n\nUse:", 0);
    expect_stops(end, "END", "", 0);
    expect_stops(two, "zzbcz", "zz", 1);
    expect_stops(nested, "wxyz", "w", 0 /* complete first */);
    expect_stops(two, "zabcd", "za", 1);
}

static void no_byte_of_a_stop_string_is_ever_passed_on(void)
{
    const char *const items[] = {"<|im_end|>", "\xc3\xa9t\xc3\xa9", NULL};
    struct stop_strings strings;
    struct stop_matcher m;
    struct text out = {0};
    add_stops(&strings, items);
    stop_matcher_init(&m, &strings);
    stop_matcher_push(&m, "so <|im_", 8, &out);
    CU_ASSERT_STRING_EQUAL(out.data, "so ");
    stop_matcher_push(&m, "en", 2, &out);
    CU_ASSERT_STRING_EQUAL(out.data, "so ");
    stop_matcher_push(&m, "e \xc3\xa9", 4, &out);
    CU_ASSERT_STRING_EQUAL(out.data, "so <|im_ene ");
    stop_matcher_push(&m, "t", 1, &out);
    stop_matcher_push(&m, "\xc3\xa9 later", 8, &out);
    CU_ASSERT_STRING_EQUAL(out.data, "so <|im_ene ");
    CU_ASSERT(m.hit == 1);
    CU_ASSERT(m.cut == 11);
    stop_matcher_push(&m, "more", 4, &out);
    CU_ASSERT_STRING_EQUAL(out.data, "so <|im_ene ");
    stop_matcher_free(&m);
    stop_strings_free(&strings);
    text_free(&out);
}

static void stop_strings_are_bounded(void)
{
    struct stop_strings strings = {0};
    char *large = calloc(1, STOP_MAX_BYTES + 1);
    CU_ASSERT(stop_strings_add(&strings, "", 0, NULL) == SHARPI_EINVAL);
    CU_ASSERT(stop_strings_add(&strings, large, STOP_MAX_BYTES + 1, NULL) == SHARPI_EINVAL);
    CU_ASSERT(stop_strings_add(&strings, large, STOP_MAX_BYTES, NULL) == SHARPI_OK);
    while (strings.n < STOPS_MAX)
        CU_ASSERT_FATAL(stop_strings_add(&strings, "x", 1, NULL) == SHARPI_OK);
    CU_ASSERT(stop_strings_add(&strings, "x", 1, NULL) == SHARPI_EINVAL);
    stop_strings_free(&strings);
    free(large);
}

/* ---- Events */

static void events_are_framed(void)
{
    struct text out = {0};
    sse_json(&out, NULL, json_pack("{s:s}", "text", "two\nlines"));
    sse_json(&out, "message_stop", json_object());
    sse_comment(&out, "waiting");
    sse_text(&out, "[DONE]");
    CU_ASSERT_STRING_EQUAL(out.data, "data: {\"text\":\"two\\nlines\"}\n\nevent: message_stop\ndata: {}\n\n"
                                     ": waiting\n\ndata: [DONE]\n\n");
    CU_ASSERT(!out.failed);
    sse_json(&out, NULL, NULL); /* what jansson gives without memory */
    CU_ASSERT(out.failed);
    text_free(&out);
}

static void texts_drop_from_the_front(void)
{
    struct text t = {0};
    text_puts(&t, "abcdef");
    text_drop(&t, 2);
    CU_ASSERT_STRING_EQUAL(t.data, "cdef");
    text_drop(&t, 9);
    CU_ASSERT(t.n == 0);
    text_printf(&t, "%d%%", 5);
    CU_ASSERT_STRING_EQUAL(t.data, "5%");
    text_free(&t);
}

/* ---- Keys */

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    CU_ASSERT_FATAL(file != NULL);
    fputs(text, file);
    fclose(file);
}

static void keys_let_in_those_who_know_one(void)
{
    struct api_keys keys;
    CU_ASSERT_FATAL(api_keys_init(&keys, NULL, "alpha, beta", NULL) == SHARPI_OK);
    CU_ASSERT(api_keys_count(&keys) == 2);
    CU_ASSERT(api_keys_allow(&keys, "Bearer alpha", NULL));
    CU_ASSERT(api_keys_allow(&keys, "bearer beta", NULL));
    CU_ASSERT(api_keys_allow(&keys, NULL, "beta"));
    CU_ASSERT(api_keys_allow(&keys, "Bearer wrong", "beta"));
    CU_ASSERT(!api_keys_allow(&keys, "Basic alpha", NULL));
    CU_ASSERT(!api_keys_allow(&keys, "Bearer alph", NULL));
    CU_ASSERT(!api_keys_allow(&keys, "Bearer alphaa", NULL));
    CU_ASSERT(!api_keys_allow(&keys, "Bearer ", ""));
    CU_ASSERT(!api_keys_allow(&keys, NULL, NULL));
    api_keys_free(&keys);
    CU_ASSERT_FATAL(api_keys_init(&keys, NULL, NULL, NULL) == SHARPI_OK);
    CU_ASSERT(api_keys_allow(&keys, NULL, NULL));
    api_keys_free(&keys);
}

static void a_bad_key_file_changes_nothing(void)
{
    char path[] = "/tmp/test-http-XXXXXX";
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct api_keys keys;
    close(mkstemp(path));
    CU_ASSERT(api_keys_init(&keys, path, NULL, &err) == SHARPI_EINVAL);
    CU_ASSERT(strstr(err.text, path) != NULL);
    api_keys_free(&keys);
    write_text(path, "# comment\none\n\n two # more\n");
    CU_ASSERT_FATAL(api_keys_init(&keys, path, "three", &err) == SHARPI_OK);
    CU_ASSERT(api_keys_count(&keys) == 3);
    CU_ASSERT(api_keys_allow(&keys, NULL, "two"));
    CU_ASSERT(!api_keys_allow(&keys, NULL, "comment"));
    write_text(path, "# nothing\n");
    CU_ASSERT(api_keys_reload(&keys, &err) == SHARPI_EINVAL);
    CU_ASSERT(api_keys_allow(&keys, NULL, "one"));
    write_text(path, "four\n");
    CU_ASSERT(api_keys_reload(&keys, &err) == SHARPI_OK);
    CU_ASSERT(!api_keys_allow(&keys, NULL, "one"));
    CU_ASSERT(api_keys_allow(&keys, NULL, "four"));
    unlink(path);
    CU_ASSERT(api_keys_reload(&keys, &err) == SHARPI_EIO);
    CU_ASSERT(api_keys_allow(&keys, NULL, "four"));
    api_keys_free(&keys);
}

/* ---- gzip */

static void gzip_goes_there_and_back(void)
{
    struct text packed = {0}, plain = {0};
    char *data = malloc(100000);
    for (uint32_t i = 0; i < 100000; i++)
        data[i] = (char)(i * 7 % 251);
    CU_ASSERT_FATAL(gzip_pack(data, 100000, &packed, NULL) == SHARPI_OK);
    CU_ASSERT(packed.n < 20000);
    CU_ASSERT(gzip_unpack(packed.data, packed.n, 100000, &plain, NULL) == SHARPI_OK);
    CU_ASSERT(plain.n == 100000 && memcmp(plain.data, data, 100000) == 0);
    text_free(&plain);
    CU_ASSERT(gzip_unpack(packed.data, packed.n, 99999, &plain, NULL) == SHARPI_EFULL);
    text_free(&plain);
    CU_ASSERT(gzip_unpack(packed.data, packed.n - 9, 100000, &plain, NULL) == SHARPI_EFORMAT);
    text_free(&plain);
    CU_ASSERT(gzip_unpack("nothing", 7, 100, &plain, NULL) == SHARPI_EFORMAT);
    CU_ASSERT(gzip_unpack("", 0, 100, &plain, NULL) == SHARPI_EFORMAT);
    text_free(&plain);
    text_free(&packed);
    free(data);
}

static void accept_encoding_is_read(void)
{
    CU_ASSERT(gzip_is_accepted("gzip"));
    CU_ASSERT(gzip_is_accepted("br, gzip, deflate"));
    CU_ASSERT(gzip_is_accepted("gzip;q=0.5, br"));
    CU_ASSERT(!gzip_is_accepted("gzip;q=0, br"));
    CU_ASSERT(!gzip_is_accepted("br;q=1.0"));
    CU_ASSERT(!gzip_is_accepted("xgzip"));
    CU_ASSERT(!gzip_is_accepted(NULL));
}

/* ---- JSON */

static uint32_t body_status(const char *text)
{
    struct http_error error = {.status = 0};
    json_t *body = NULL;
    int32_t status = json_read_body(text, strlen(text), &body, &error);
    CU_ASSERT((status == 0) == (body != NULL));
    json_decref(body);
    return error.status;
}

static void bodies_are_bounded_before_they_are_parsed(void)
{
    char *many = malloc(3u * JSON_MAX_VALUES + 16), *at = many;
    char deep[2 * JSON_MAX_DEPTH + 64] = "";
    CU_ASSERT(body_status("{}") == 0);
    CU_ASSERT(body_status("{\"a\": [1, 2, {\"b\": \"[[[,,,\"}]}") == 0);
    CU_ASSERT(body_status("") == 400);
    CU_ASSERT(body_status("[]") == 400);
    CU_ASSERT(body_status("{\"a\": 1") == 400);
    CU_ASSERT(body_status("{\"a\": \"\xff\"}") == 400);
    at = stpcpy(at, "{\"a\":[");
    for (uint32_t i = 0; i < JSON_MAX_VALUES; i++)
        at = stpcpy(at, "1,");
    stpcpy(at, "1]}");
    CU_ASSERT(body_status(many) == 413);
    memset(deep, '[', JSON_MAX_DEPTH + 2);
    CU_ASSERT(body_status(deep) == 400);
    free(many);
}

static void fields_have_types_and_ranges(void)
{
    json_t *o = json_pack("{s:i, s:f, s:b, s:s, s:n}", "i", 5, "f", 2.5, "b", 1, "s", "text", "none");
    struct http_error error = {.status = 0};
    int64_t i = 7;
    double f = 1;
    int32_t b = 0;
    const char *s = NULL;
    uint64_t n = 0;
    CU_ASSERT(json_read_int(o, "i", 0, 10, &i, &error) == 0 && i == 5);
    CU_ASSERT(json_read_int(o, "none", 0, 10, &i, &error) == 0 && i == 5);
    CU_ASSERT(json_read_int(o, "absent", 0, 10, &i, &error) == 0 && i == 5);
    CU_ASSERT(json_read_number(o, "f", 0, 3, &f, &error) == 0 && f > 2.4);
    CU_ASSERT(json_read_number(o, "i", 0, 9, &f, &error) == 0 && f > 4.9);
    CU_ASSERT(json_read_bool(o, "b", &b, &error) == 0 && b == 1);
    CU_ASSERT(json_read_string(o, "s", &s, &n, &error) == 0 && n == 4);
    CU_ASSERT(error.status == 0);
    CU_ASSERT(json_read_int(o, "i", 6, 10, &i, &error) == -1 && error.status == 400);
    CU_ASSERT_STRING_EQUAL(error.param, "i");
    CU_ASSERT(json_read_int(o, "f", 0, 10, &i, &error) == -1);
    CU_ASSERT(json_read_int(o, "s", 0, 10, &i, &error) == -1);
    CU_ASSERT(json_read_number(o, "s", 0, 10, &f, &error) == -1);
    CU_ASSERT(json_read_bool(o, "i", &b, &error) == -1);
    CU_ASSERT(json_read_string(o, "i", &s, &n, &error) == -1);
    CU_ASSERT(i == 5 && b == 1);
    json_decref(o);
}

static void broken_text_becomes_json(void)
{
    json_t *s = json_clean("a\xff\xc3", 3);
    CU_ASSERT_STRING_EQUAL(json_string_value(s), "a\xef\xbf\xbd\xef\xbf\xbd");
    json_decref(s);
    s = json_clean("\xc3\xa9", 2);
    CU_ASSERT_STRING_EQUAL(json_string_value(s), "\xc3\xa9");
    json_decref(s);
}

static void errors_have_the_shape_of_their_api(void)
{
    struct http_error error = {.status = 0};
    json_t *o;
    CU_ASSERT(http_fail(&error, 401, "invalid_api_key", NULL, "no %s", "key") == -1);
    o = http_error_json(&error, API_OPENAI, "id");
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(json_object_get(o, "error"), "message")),
                           "no key");
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(json_object_get(o, "error"), "code")),
                           "invalid_api_key");
    json_decref(o);
    o = http_error_json(&error, API_ANTHROPIC, "id");
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(o, "type")), "error");
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(json_object_get(o, "error"), "type")),
                           "authentication_error");
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(o, "request_id")), "id");
    json_decref(o);
    http_fail_status(&error, SHARPI_ENOMEM, NULL);
    CU_ASSERT(error.status == 503);
    CU_ASSERT_STRING_EQUAL(http_error_type(503, API_ANTHROPIC), "overloaded_error");
}

/* ---- Requests that ask for what is not there */

static uint32_t unsupported_status(const char *text)
{
    struct http_error error = {.status = 0};
    json_t *body = json_loads(text, 0, NULL);
    CU_ASSERT_FATAL(body != NULL);
    parse_unsupported(body, &error);
    json_decref(body);
    return error.status;
}

static void what_cannot_be_done_is_refused_by_name(void)
{
    CU_ASSERT(unsupported_status("{\"tools\": [{}]}") == 400);
    CU_ASSERT(unsupported_status("{\"tools\": []}") == 0);
    CU_ASSERT(unsupported_status("{\"tools\": null, \"tool_choice\": \"auto\"}") == 0);
    CU_ASSERT(unsupported_status("{\"tool_choice\": \"none\"}") == 0);
    CU_ASSERT(unsupported_status("{\"tool_choice\": \"required\"}") == 400);
    CU_ASSERT(unsupported_status("{\"tool_choice\": {\"type\": \"any\"}}") == 400);
    CU_ASSERT(unsupported_status("{\"response_format\": {\"type\": \"text\"}}") == 0);
    CU_ASSERT(unsupported_status("{\"response_format\": {\"type\": \"json_object\"}}") == 400);
    CU_ASSERT(unsupported_status("{\"grammar\": \"root ::= x\"}") == 400);
    CU_ASSERT(unsupported_status("{\"modalities\": [\"text\"]}") == 0);
    CU_ASSERT(unsupported_status("{\"modalities\": [\"text\", \"audio\"]}") == 400);
}

static void contents_are_text(void)
{
    struct http_error error = {.status = 0};
    json_t *parts =
        json_loads("[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]", 0, NULL);
    json_t *image = json_loads("[{\"type\":\"image_url\",\"image_url\":{}}]", 0, NULL), *text;
    text = parse_content(parts, "content", &error);
    CU_ASSERT_STRING_EQUAL(json_string_value(text), "a\nb");
    json_decref(text);
    CU_ASSERT(parse_content(image, "content", &error) == NULL && error.status == 400);
    CU_ASSERT(strstr(error.message, "image_url") != NULL);
    CU_ASSERT(parse_content(NULL, "content", &error) == NULL);
    json_decref(parts);
    json_decref(image);
}

static void conversations_are_checked(void)
{
    static const char *const good =
        "{\"system\": [{\"type\":\"text\",\"text\":\"s\"}], \"messages\": [{\"role\":\"user\","
        "\"content\":\"u\"}, {\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\","
        "\"thinking\":\"t\",\"signature\":\"\"},{\"type\":\"text\",\"text\":\"a\"}]}]}";
    struct http_error error = {.status = 0};
    json_t *body = json_loads(good, 0, NULL), *list = anthropic_messages(body, &error), *last;
    CU_ASSERT_FATAL(json_array_size(list) == 3);
    last = json_array_get(list, 2);
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(last, "content")), "a");
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(last, "reasoning_content")), "t");
    json_decref(list);
    json_decref(body);
    body = json_loads("{\"messages\": [{\"role\":\"tool\",\"content\":\"x\"}]}", 0, NULL);
    CU_ASSERT(chat_messages(body, &error) == NULL && error.status == 400);
    CU_ASSERT(strstr(error.message, "tool calls") != NULL);
    json_decref(body);
}

/* ---- From tokens to what a client sees */

enum {
    UNK,
    BOS,
    EOS,
    THINK,
    END_THINK,
    CHANNEL,
    END_CHANNEL,
    THOUGHT,
    HELLO,
    WORLD,
    NEWLINE,
    E_ACUTE_1,
    E_ACUTE_2
};

static struct sharpi_tokenizer *words(void)
{
    static const struct vocab_token tokens[] = {
        {"<unk>", SHARPI_TOKEN_UNKNOWN, 0},      {"<s>", SHARPI_TOKEN_CONTROL, 0},
        {"</s>", SHARPI_TOKEN_CONTROL, 0},       {"<think>", SHARPI_TOKEN_CONTROL, 0},
        {"</think>", SHARPI_TOKEN_CONTROL, 0},   {"<|channel>", SHARPI_TOKEN_CONTROL, 0},
        {"<channel|>", SHARPI_TOKEN_CONTROL, 0}, {"thought", SHARPI_TOKEN_NORMAL, 0},
        {"hello", SHARPI_TOKEN_NORMAL, 0},       {"world", SHARPI_TOKEN_NORMAL, 0},
        {"<0x0A>", SHARPI_TOKEN_BYTE, 0},        {"<0xC3>", SHARPI_TOKEN_BYTE, 0},
        {"<0xA9>", SHARPI_TOKEN_BYTE, 0},        {NULL, 0, 0}};
    const struct vocab vocab = {.model = "llama", .tokens = tokens, .no_prefix = 1, .bos = BOS};
    struct sharpi_tokenizer *tokenizer = NULL;
    CU_ASSERT_FATAL(vocab_create(&vocab, &tokenizer, NULL) == SHARPI_OK);
    return tokenizer;
}

/* Pushes tokens until -1, or until the output is over; returns how many it took. */
static int32_t push_all(struct output *o, const int32_t *tokens)
{
    const struct sharpi_logprob top = {.id = HELLO, .logprob = -0.5f};
    int32_t n = 0;
    while (tokens[n] >= 0 && !output_push(o, tokens[n], -(float)tokens[n], &top, 1))
        n++;
    output_end(o);
    CU_ASSERT(!o->failed);
    return n;
}

static void expect_output(const int32_t *tokens, const char *stop, const char *prompt, const char *thought,
                          const char *said, const int32_t *with_probs)
{
    struct sharpi_tokenizer *tokenizer = words();
    struct stop_strings stops = {0};
    struct output o;
    uint32_t n = 0;
    if (stop)
        CU_ASSERT(stop_strings_add(&stops, stop, strlen(stop), NULL) == SHARPI_OK);
    CU_ASSERT_FATAL(output_init(&o, tokenizer, &stops, 1, 1, prompt, strlen(prompt), NULL) == SHARPI_OK);
    push_all(&o, tokens);
    CU_ASSERT_STRING_EQUAL(o.thought.n ? o.thought.data : "", thought);
    CU_ASSERT_STRING_EQUAL(o.said.n ? o.said.data : "", said);
    for (; with_probs[n] >= 0; n++)
        CU_ASSERT_FATAL(n < o.probs.n && o.probs.items[n].token == with_probs[n] &&
                        o.probs.items[n].n_top == 1);
    CU_ASSERT(o.probs.n == n && o.probs.n_tops == n);
    output_free(&o);
    stop_strings_free(&stops);
    sharpi_tokenizer_destroy(tokenizer);
}

static void reasoning_is_told_from_the_answer(void)
{
    static const int32_t think[] = {THINK, HELLO, END_THINK, NEWLINE, WORLD, HELLO, -1},
                         probs[] = {WORLD, HELLO, -1};
    static const int32_t channel[] = {CHANNEL, THOUGHT, HELLO, END_CHANNEL, WORLD, HELLO, -1};
    static const int32_t plain[] = {WORLD, HELLO, -1}, open[] = {HELLO, END_THINK, WORLD, HELLO, -1};
    expect_output(think, NULL, "", "hello", "worldhello", probs);
    expect_output(channel, NULL, "", "hello", "worldhello", probs);
    expect_output(plain, NULL, "", "", "worldhello", probs);
    expect_output(open, NULL, "<|im_start|>assistant\n<think>\n", "hello", "worldhello", probs);
}

static void a_stop_string_cuts_text_and_probabilities(void)
{
    static const int32_t tokens[] = {THINK, HELLO, WORLD, END_THINK, WORLD, HELLO, WORLD, HELLO, -1};
    static const int32_t two[] = {WORLD, HELLO, -1}, all[] = {WORLD, HELLO, WORLD, HELLO, -1}, none[] = {-1};
    expect_output(tokens, "owor", "", "helloworld", "worldhell", two); /* the thought is not searched */
    expect_output(tokens, "owori", "", "helloworld", "worldhelloworldhello", all);
    expect_output(tokens, "world", "", "helloworld", "", none);
}

static void characters_come_whole(void)
{
    static const int32_t cut[] = {HELLO, E_ACUTE_1, -1}, whole[] = {HELLO, E_ACUTE_1, E_ACUTE_2, -1};
    expect_output(whole, NULL, "", "", "hello\xc3\xa9", whole);
    expect_output(cut, NULL, "", "", "hello\xef\xbf\xbd", cut);
}

/* ---- Addresses */

static void addresses_open_or_say_why(void)
{
    static const char *const bad[] = {"somewhere", "127.0.0.1:", "127.0.0.1:http", "::1:8080", "1.2.3.4.5:80",
                                      "unix:",     NULL};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    char where[128];
    int32_t loopback;
    int fd;
    for (uint32_t i = 0; bad[i]; i++)
        CU_ASSERT(listen_open(bad[i], &fd, where, &loopback, &err) != SHARPI_OK && err.text[0]);
    CU_ASSERT_FATAL(listen_open("127.0.0.1:0", &fd, where, &loopback, &err) == SHARPI_OK);
    CU_ASSERT(loopback && strncmp(where, "127.0.0.1:", 10) == 0 && strcmp(where, "127.0.0.1:0") != 0);
    {
        char other[128];
        int second;
        CU_ASSERT(listen_open(where, &second, other, &loopback, &err) == SHARPI_EIO);
        CU_ASSERT(strstr(err.text, "another program") != NULL);
    }
    listen_close(fd, where);
    CU_ASSERT_FATAL(listen_open(":0", &fd, where, &loopback, &err) == SHARPI_OK);
    CU_ASSERT(!loopback);
    listen_close(fd, ":0");
}

static void hosts_are_told_apart(void)
{
    uint64_t n;
    const char *host = origin_host("https://a.example:81/x", &n);
    CU_ASSERT(n == 9 && memcmp(host, "a.example", 9) == 0);
    host = origin_host("[::1]:8080", &n);
    CU_ASSERT(n == 3 && memcmp(host, "::1", 3) == 0 && origin_is_local(host, n));
    CU_ASSERT(origin_is_local("localhost", 9));
    CU_ASSERT(origin_is_local("192.168.1.7", 11));
    CU_ASSERT(!origin_is_local("localhost.evil", 14));
    CU_ASSERT(!origin_is_local("127.0.0.1.evil", 14));
}

static void lists_have_words(void)
{
    CU_ASSERT(list_has("a, bc  d", "bc", 2));
    CU_ASSERT(list_has("a, bc  d", "d", 1));
    CU_ASSERT(!list_has("a, bc  d", "b", 1));
    CU_ASSERT(!list_has(NULL, "b", 1));
}

static void contradicting_settings_are_refused(void)
{
    struct server_settings s = {.max_body = 1 << 20, .heartbeat = 10, .write_timeout = 60};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    CU_ASSERT(server_settings_check(&s, &err) == SHARPI_OK);
    s.tls_cert = "x";
    CU_ASSERT(server_settings_check(&s, &err) == SHARPI_EINVAL && strstr(err.text, "tls-key"));
    s.tls_key = "y";
    s.heartbeat = 60;
    CU_ASSERT(server_settings_check(&s, &err) == SHARPI_EINVAL && strstr(err.text, "heartbeat"));
}

int main(void)
{
    CU_pSuite suite;
    unsigned int n_failed;
    CU_initialize_registry();
    suite = CU_add_suite("http", NULL, NULL);
    CU_ADD_TEST(suite, stop_strings_end_a_text_however_it_is_cut);
    CU_ADD_TEST(suite, no_byte_of_a_stop_string_is_ever_passed_on);
    CU_ADD_TEST(suite, stop_strings_are_bounded);
    CU_ADD_TEST(suite, events_are_framed);
    CU_ADD_TEST(suite, texts_drop_from_the_front);
    CU_ADD_TEST(suite, keys_let_in_those_who_know_one);
    CU_ADD_TEST(suite, a_bad_key_file_changes_nothing);
    CU_ADD_TEST(suite, gzip_goes_there_and_back);
    CU_ADD_TEST(suite, accept_encoding_is_read);
    CU_ADD_TEST(suite, bodies_are_bounded_before_they_are_parsed);
    CU_ADD_TEST(suite, fields_have_types_and_ranges);
    CU_ADD_TEST(suite, broken_text_becomes_json);
    CU_ADD_TEST(suite, errors_have_the_shape_of_their_api);
    CU_ADD_TEST(suite, what_cannot_be_done_is_refused_by_name);
    CU_ADD_TEST(suite, contents_are_text);
    CU_ADD_TEST(suite, conversations_are_checked);
    CU_ADD_TEST(suite, reasoning_is_told_from_the_answer);
    CU_ADD_TEST(suite, a_stop_string_cuts_text_and_probabilities);
    CU_ADD_TEST(suite, characters_come_whole);
    CU_ADD_TEST(suite, addresses_open_or_say_why);
    CU_ADD_TEST(suite, hosts_are_told_apart);
    CU_ADD_TEST(suite, lists_have_words);
    CU_ADD_TEST(suite, contradicting_settings_are_refused);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    n_failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return n_failed ? 1 : 0;
}
