/* sharpi perplexity: how well a model predicts a text.
 *
 * The text's tokens are cut into windows of --ctx tokens; each window is read alone, its first token replaced by BOS where the
 * model wants one, and the tokens of its second half are scored (the first half is their context). With --stride N
 * windows begin every N tokens instead, and only the last N tokens of a window are scored.
 * Perplexity = exp(mean negative log-probability); the error is the standard error of that mean, carried over.
 * --save writes the log-probabilities of all scored positions (saved-logits.c), --against compares with such a file: what
 * quantization of weights or cache changes shows there long before it shows in the perplexity.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "core/model.h"
#include "divergence.h"
#include "saved-logits.h"

enum { ROWS = 64 }; /* logits are looked at in blocks of so many rows */

struct perplexity {
    struct common common;
    const char *file, *save, *against;
    uint32_t stride, max_windows;
};

struct score {
    double sum, sum_of_squares;
    uint64_t n;
};

/* What is done with every scored row. */
struct scoring {
    struct score score;
    struct saved_logits *save, *against; /* or NULL */
    struct divergence divergence;
    float *reference; /* [n_vocab], a row of `against` */
};

/* Logits to log-probabilities, in place. */
static void log_softmax(float *logits, uint32_t n_vocab)
{
    double sum = 0, shift;
    float largest = logits[0];
    for (uint32_t i = 1; i < n_vocab; i++)
        largest = logits[i] > largest ? logits[i] : largest;
    for (uint32_t i = 0; i < n_vocab; i++)
        sum += exp((double)(logits[i] - largest));
    shift = log(fmax(sum, 1)) + (double)largest; /* the largest adds 1 */
    for (uint32_t i = 0; i < n_vocab; i++)
        logits[i] = (float)((double)logits[i] - shift);
}

static int32_t score_row(struct scoring *s, float *row, uint32_t n_vocab, int32_t token,
                         struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    double nll;
    log_softmax(row, n_vocab);
    nll = -(double)row[token];
    s->score.sum += nll;
    s->score.sum_of_squares += nll * nll;
    s->score.n++;
    if (s->save)
        status = saved_logits_write(s->save, row, err);
    if (!status && s->against) {
        status = saved_logits_read(s->against, s->reference, err);
        if (status == SHARPI_ENOENT)
            return sharpi_fail(err, status,
                               "the saved file ends after %llu rows; use --windows to stop there",
                               (unsigned long long)s->divergence.n);
        if (!status)
            status = divergence_add(&s->divergence, s->reference, row, n_vocab, token, err);
    }
    return status;
}

/* Reads one window and scores its tokens from `first_scored` on. */
static int32_t score_window(struct sharpi_model *model, struct sharpi_session *session, const int32_t *tokens,
                            uint32_t n, uint32_t first_scored, float *logits, struct scoring *scoring,
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
        for (uint32_t i = 0; i < now && !status; i++)
            status = score_row(scoring, logits + (size_t)i * n_vocab, n_vocab, tokens[at + i + 1], err);
    }
    return status;
}

static void print_score(const struct score *s)
{
    double mean = s->sum / (double)s->n;
    double variance = s->sum_of_squares / (double)s->n - mean * mean;
    double error = s->n > 1 ? sqrt(variance > 0 ? variance / (double)(s->n - 1) : 0) : 0;
    printf("perplexity %.4f +- %.4f over %llu tokens\n", exp(mean), exp(mean) * error,
           (unsigned long long)s->n);
}

static int32_t run_windows(const struct perplexity *p, const struct saved_logits_header *h,
                           struct sharpi_model *model, int32_t *tokens, struct scoring *scoring,
                           struct sharpi_error *err)
{
    struct sharpi_session *session = NULL;
    float *logits = malloc((size_t)ROWS * h->n_vocab * sizeof *logits);
    const struct score *score = &scoring->score;
    uint32_t done = 0;
    int32_t status = logits ? sharpi_session_create(model, &session, err)
                            : sharpi_fail(err, SHARPI_ENOMEM, "no memory for %d rows of logits", ROWS);
    for (uint64_t at = 0; at + h->window <= h->n_tokens && !status && !interrupted(); at += h->stride) {
        int32_t saved = tokens[at];
        if (p->max_windows && done == p->max_windows)
            break;
        if (model->tokenizer && sharpi_tokenizer_adds_bos(model->tokenizer))
            tokens[at] = sharpi_tokenizer_bos(model->tokenizer);
        status = score_window(model, session, tokens + at, h->window, h->first_scored, logits, scoring, err);
        tokens[at] = saved;
        done++;
        if (!status && !p->common.quiet)
            fprintf(stderr, stderr_is_terminal() ? "\rwindow %u of %llu: %.4f " : "window %u of %llu: %.4f\n",
                    done, (unsigned long long)((h->n_tokens - h->window) / h->stride + 1),
                    exp(score->sum / (double)score->n));
    }
    if (done && !p->common.quiet && stderr_is_terminal())
        fputc('\n', stderr);
    sharpi_session_free(session);
    free(logits);
    return status;
}

static int32_t open_saved(const struct perplexity *p, const struct saved_logits_header *header,
                          const int32_t *tokens, struct scoring *s, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    if (p->against)
        status = saved_logits_open(p->against, header, tokens, &s->against, err);
    if (!status && p->against && !(s->reference = malloc((size_t)header->n_vocab * sizeof(float))))
        status =
            sharpi_fail(err, SHARPI_ENOMEM, "no memory for a row of %u log-probabilities", header->n_vocab);
    if (!status && p->save)
        status = saved_logits_create(p->save, header, tokens, &s->save, err);
    return status;
}

static int32_t run_tokens(const struct perplexity *p, struct sharpi_model *model, int32_t *tokens,
                          uint64_t n_tokens, struct sharpi_error *err)
{
    const uint32_t window = model->context;
    const struct saved_logits_header header = {
        .n_vocab = model->desc.n_vocab,
        .window = window,
        .stride = p->stride ? p->stride : window,
        .first_scored = p->stride ? window - p->stride : window / 2 + 1,
        .n_tokens = n_tokens,
    };
    struct scoring scoring = {.save = NULL};
    int32_t status, closed;
    if (n_tokens < window)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "the text has %llu tokens, a window of %u needs more; use a smaller -c",
                           (unsigned long long)n_tokens, window);
    status = open_saved(p, &header, tokens, &scoring, err);
    if (!status)
        status = run_windows(p, &header, model, tokens, &scoring, err);
    if (!status && scoring.score.n) {
        print_score(&scoring.score);
        divergence_print(&scoring.divergence, scoring.score.sum);
    }
    closed = saved_logits_close(scoring.save, status ? NULL : err);
    saved_logits_close(scoring.against, NULL);
    divergence_free(&scoring.divergence);
    free(scoring.reference);
    return status ? status : closed;
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
        status = run_tokens(p, model, tokens, n_tokens, err);
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
        {"save", 0, OPTION_STRING, "FILE", "write the log-probabilities of what is scored", &p.save, NULL},
        {"against", 0, OPTION_STRING, "FILE", "compare with what --save wrote: KL divergence, top token",
         &p.against, NULL},
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
