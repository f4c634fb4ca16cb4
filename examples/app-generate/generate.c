/* Example application: continues a text with a model, through the installed libsharpi and <sharpi/sharpi.h> alone.
 *
 *     generate MODEL.gguf "Once upon a time" [TOKENS]
 *
 * Configuration and plugins are those of the sharpi program: sharpi.ini, environment, defaults.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sharpi/sharpi.h>

/* A program decides what to do with messages; without a function they are dropped. level: 0 error, 1 warning. */
static void print_message(void *user, int32_t level, const char *topic, const char *message)
{
    (void)user;
    fprintf(stderr, "%s%s: %s\n", level == 0 ? "error: " : "", topic, message);
}

static int32_t generate(struct sharpi_model *model, struct sharpi_session *session,
                        struct sharpi_sampler *sampler, const char *prompt, uint32_t n_predict,
                        struct sharpi_error *err)
{
    struct sharpi_model_info info = {.size = sizeof info};
    const char *text;
    uint64_t n_bytes;
    int32_t status, token;

    sharpi_model_get_info(model, &info);
    /* SPECIAL: BOS in front where the model wants it. The prompt is read in steps of at most info.chunk tokens. */
    if ((status = sharpi_session_feed_text(session, prompt, strlen(prompt), SHARPI_TEXT_SPECIAL, err)))
        return status;
    for (uint32_t i = 0; i < n_predict; i++) {
        if (i > 0 && sharpi_session_length(session) == info.context)
            break; /* no room for the token that the last round chose */
        /* Computes the token of the last round, then samples one more. */
        if ((status = sharpi_session_next(session, sampler, &token, err)))
            return status;
        if (sharpi_model_is_end(model, token))
            break;
        /* Only whole UTF-8 characters come out; what a token leaves open comes with a later one. */
        if ((status = sharpi_session_text(session, token, &text, &n_bytes, err)))
            return status;
        fwrite(text, 1, n_bytes, stdout);
        fflush(stdout);
    }
    sharpi_session_text_end(session, &text, &n_bytes);
    fwrite(text, 1, n_bytes, stdout);
    putchar('\n');
    return SHARPI_OK;
}

static int32_t make_sampler(const struct sharpi_model *model, struct sharpi_sampler **sampler,
                            struct sharpi_error *err)
{
    struct sharpi_model_info info = {.size = sizeof info};
    struct sharpi_sampler_params params;
    sharpi_model_get_info(model, &info);
    sharpi_sampler_params_init(&params); /* the defaults of the sharpi program */
    params.seed = 1;                     /* the same text each time; temperature = 0 would be greedy */
    return sharpi_sampler_create(&params, (int32_t)info.n_vocab, sampler, err);
}

int main(int argc, char **argv)
{
    struct sharpi_engine_options options = {.size = sizeof options, .log = print_message, .log_level = 1};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_engine *engine = NULL;   /* configuration and plugins */
    struct sharpi_model *model = NULL;     /* weights and KV pages */
    struct sharpi_session *session = NULL; /* one sequence */
    struct sharpi_sampler *sampler = NULL; /* from logits to a token; remembers what it chose */
    int32_t status;

    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: generate MODEL.gguf PROMPT [TOKENS]\n");
        return 2;
    }
    status = sharpi_engine_open(&options, &engine, &err);
    if (!status)
        status = sharpi_model_load(engine, argv[1], NULL, &model, &err); /* NULL: options as configured */
    if (!status)
        status = sharpi_session_create(model, &session, &err);
    if (!status)
        status = make_sampler(model, &sampler, &err);
    if (!status)
        status = generate(model, session, sampler, argv[2],
                          argc == 4 ? (uint32_t)strtoul(argv[3], NULL, 10) : 64, &err);
    if (status)
        fprintf(stderr, "generate: %s\n", err.text);
    /* In reverse order; NULL is fine. */
    sharpi_sampler_destroy(sampler);
    sharpi_session_free(session);
    sharpi_model_free(model);
    sharpi_engine_close(engine);
    return status ? 1 : 0;
}
