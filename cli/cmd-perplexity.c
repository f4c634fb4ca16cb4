/* sharpi perplexity: how well a model predicts a text.
 *
 * The text's tokens are cut into windows of --ctx tokens; each window is read alone, its first token replaced by BOS where the
 * model wants one, and the tokens of its second half are scored (the first half is their context). With --stride N
 * windows begin every N tokens instead, and only the last N tokens of a window are scored.
 * Perplexity = exp(mean negative log-probability); the error is the standard error of that mean, carried over.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "core/model.h"

enum { ROWS = 64 }; /* logits are looked at in blocks of so many rows */

struct perplexity {
    struct common common;
    const char *file;
    uint32_t stride, max_windows;
};

struct score {
    double sum, sum_of_squares;
    uint64_t n;
};

static double negative_log_probability(const float *logits, uint32_t n_vocab, int32_t token)
{
    double sum = 0;
    float largest = logits[0];
    for (uint32_t i = 1; i < n_vocab; i++)
        largest = logits[i] > largest ? logits[i] : largest;
    for (uint32_t i = 0; i < n_vocab; i++)
        sum += exp((double)(logits[i] - largest));
    return log(sum) + (double)largest - (double)logits[token];
}

/* Reads one window and scores its tokens from `first_scored` on. */
static int32_t score_window(struct sharpi_model *model, struct sharpi_session *session, const int32_t *tokens,
                            uint32_t n, uint32_t first_scored, float *logits, struct score *score,
                            struct sharpi_error *err)
{
    const uint32_t n_vocab = model->desc.n_vocab;
    int32_t status = sharpi_session_truncate(session, 0, err);
    if (!status && first_scored > 1)
        status = sharpi_session_feed(session, tokens, first_scored - 1, err);
    for (uint32_t at = first_scored - 1; at < n - 1 && !status && !interrupted(); at += ROWS) {
        uint32_t now = n - 1 - at < ROWS ? n - 1 - at : ROWS;
        struct sharpi_work work = {
            .session = session, .tokens = tokens + at, .n_tokens = now, .want = 2, .logits = logits};
        status = sharpi_step(model, &work, 1, err);
        for (uint32_t i = 0; i < now && !status; i++) {
            double nll = negative_log_probability(logits + (size_t)i * n_vocab, n_vocab, tokens[at + i + 1]);
            score->sum += nll;
            score->sum_of_squares += nll * nll;
            score->n++;
        }
    }
    return status;
}

static void print_score(const struct score *s, const char *prefix)
{
    double mean = s->sum / (double)s->n;
    double variance = s->sum_of_squares / (double)s->n - mean * mean;
    double error = s->n > 1 ? sqrt(variance > 0 ? variance / (double)(s->n - 1) : 0) : 0;
    printf("%sperplexity %.4f +- %.4f over %llu tokens\n", prefix, exp(mean), exp(mean) * error,
           (unsigned long long)s->n);
    fflush(stdout);
}

static int32_t run_windows(const struct perplexity *p, struct sharpi_model *model, int32_t *tokens,
                           uint64_t n_tokens, struct sharpi_error *err)
{
    const uint32_t window = model->context, stride = p->stride ? p->stride : window;
    const uint32_t first_scored = p->stride ? window - p->stride : window / 2 + 1;
    struct sharpi_session *session = NULL;
    float *logits = malloc((size_t)ROWS * model->desc.n_vocab * sizeof *logits);
    struct score score = {0};
    uint32_t done = 0;
    int32_t status = logits ? sharpi_session_create(model, &session, err)
                            : sharpi_fail(err, SHARPI_ENOMEM, "no memory for %d rows of logits", ROWS);
    for (uint64_t at = 0; at + window <= n_tokens && !status && !interrupted(); at += stride) {
        int32_t saved = tokens[at];
        if (p->max_windows && done == p->max_windows)
            break;
        if (model->tokenizer && sharpi_tokenizer_adds_bos(model->tokenizer))
            tokens[at] = sharpi_tokenizer_bos(model->tokenizer);
        status = score_window(model, session, tokens + at, window, first_scored ? first_scored : 1, logits,
                              &score, err);
        tokens[at] = saved;
        done++;
        if (!status && !p->common.quiet) {
            fprintf(stderr, stderr_is_terminal() ? "\rwindow %u of %llu: %.4f " : "window %u of %llu: %.4f\n",
                    done, (unsigned long long)((n_tokens - window) / stride + 1),
                    exp(score.sum / (double)score.n));
        }
    }
    if (!status && score.n)
        print_score(&score, "");
    else if (!status)
        status = sharpi_fail(err, SHARPI_EINVAL,
                             "the text has %llu tokens, a window of %u needs more; use a smaller -c",
                             (unsigned long long)n_tokens, window);
    sharpi_session_free(session);
    free(logits);
    return status;
}

static int32_t run_file(const struct perplexity *p, struct sharpi_model *model, struct sharpi_error *err)
{
    char *text = NULL;
    int32_t *tokens = NULL;
    uint64_t n_text, n_tokens = 0;
    int32_t status = read_file(p->file, 1ull << 30, &text, &n_text, err);
    if (!status)
        status = sharpi_model_tokenize(model, text, n_text, SHARPI_TEXT_SPECIAL, &tokens, &n_tokens, err);
    if (!status)
        status = run_windows(p, model, tokens, n_tokens, err);
    free(tokens);
    free(text);
    return status;
}

static int perplexity_command(int argc, char **argv)
{
    struct perplexity p = {.stride = 0};
    struct sharpi_engine *engine = NULL;
    struct sharpi_model *model = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const char *args[1];
    uint32_t n_args;
    int32_t status;
    int code;
    const struct option own[] = {
        {"file", 'f', OPTION_STRING, "FILE", "the text, - is standard input", &p.file, NULL},
        {"stride", 0, OPTION_UINT, "N", "score the last N tokens of windows that begin every N tokens",
         &p.stride, NULL},
        {"windows", 0, OPTION_UINT, "N", "stop after so many windows", &p.max_windows, NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, p.common.model_options, p.common.engine_options, NULL};
    common_init(&p.common);
    code = parse_command("perplexity", "sharpi perplexity -m FILE -f TEXT [OPTIONS]",
                         "Measures how well a model predicts a text. -c sets the window (512).", tables, argc,
                         argv, args, 1, &n_args);
    if (code >= 0)
        return code;
    if (n_args)
        p.file = args[0];
    if (!p.common.context)
        p.common.context = 512;
    if (!p.file || p.common.context < 4 || p.stride >= p.common.context) {
        sharpi_fail(&err, SHARPI_EINVAL,
                    p.file ? "-c must be at least 4 and --stride less than it"
                           : "no text: give one with -f FILE");
        return fail_usage("perplexity", &err);
    }
    catch_interrupt();
    status = open_engine(&p.common, &engine, &err);
    if (!status)
        status = load_model(&p.common, engine, NULL, &model, &err);
    if (!status)
        status = run_file(&p, model, &err);
    sharpi_model_free(model);
    sharpi_engine_close(engine);
    if (interrupted())
        return EXIT_INTERRUPT;
    return status ? fail("perplexity", &err) : EXIT_OK;
}

const struct command command_perplexity = {"perplexity", "how well a model predicts a text",
                                           perplexity_command};
