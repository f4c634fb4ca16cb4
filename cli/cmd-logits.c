/* sharpi logits: raw token ids in, raw logits out, for comparing engines.
 *
 * Input: little-endian int32 ids. Output: little-endian float32 [n_tokens, n_vocab], row p after reading tokens 0..p; with
 * --tap the value [n_tokens, width] instead.
 */
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "core/model.h"

struct logits {
    struct common common;
    const char *tokens_path, *out_path;
    struct option_list tap;
};

static int32_t compute(const struct logits *l, struct sharpi_model *model, const int32_t *tokens, uint32_t n,
                       struct sharpi_error *err)
{
    struct sharpi_session *session = NULL;
    uint64_t n_vocab = model->desc.n_vocab, width = n_vocab;
    float *logits = NULL, *tap = NULL;
    struct sharpi_work work = {.tokens = tokens, .n_tokens = n, .want = l->tap.n ? 1 : 2};
    int32_t status;
    if (l->tap.n) {
        const struct sharpi_value *v = sharpi_graph_view(model->graph)->values[model->taps[0]];
        if (v->rows == SHARPI_ROWS_SELECTED)
            work.want = 2;
        width = v->width;
        tap = malloc(n * width * sizeof *tap);
    }
    if (work.want == 2)
        logits = malloc(n * n_vocab * sizeof *logits);
    if ((l->tap.n && !tap) || (work.want == 2 && !logits)) {
        status =
            sharpi_fail(err, SHARPI_ENOMEM, "no memory for %u rows of %llu", n, (unsigned long long)n_vocab);
        goto out;
    }
    if ((status = sharpi_session_create(model, &session, err)))
        goto out;
    work.session = session;
    work.logits = logits;
    work.taps = l->tap.n ? &tap : NULL;
    status = sharpi_step(model, &work, 1, err);
    if (!status)
        status = write_file(l->out_path, tap ? tap : logits, n * width * sizeof(float), err);
out:
    sharpi_session_free(session);
    free(logits);
    free(tap);
    return status;
}

static int32_t read_tokens(const char *path, int32_t **tokens, uint32_t *n, struct sharpi_error *err)
{
    char *bytes;
    uint64_t n_bytes;
    int32_t status = read_file(path, 64u << 20, &bytes, &n_bytes, err);
    if (status)
        return status;
    if (n_bytes == 0 || n_bytes % 4) {
        free(bytes);
        return sharpi_fail(err, SHARPI_EFORMAT, "%s has %llu bytes, which are not int32 token ids", path,
                           (unsigned long long)n_bytes);
    }
    *tokens = (int32_t *)(void *)bytes; /* malloc's alignment is enough */
    *n = (uint32_t)(n_bytes / 4);
    return SHARPI_OK;
}

static int logits_command(int argc, char **argv)
{
    struct logits l = {.out_path = NULL};
    struct sharpi_model_options extra = {.size = sizeof extra};
    struct sharpi_engine *engine = NULL;
    struct sharpi_model *model = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t *tokens = NULL, status;
    uint32_t n = 0, n_args;
    int code;
    const struct option own[] = {
        {"tokens", 0, OPTION_STRING, "FILE", "int32 token ids", &l.tokens_path, NULL},
        {"output", 'o', OPTION_STRING, "FILE", "float32 [tokens, vocabulary], - is standard output",
         &l.out_path, NULL},
        {"tap", 0, OPTION_LIST, "NAME", "write this value instead (blk.3.attn_out; inspect --graph)", &l.tap,
         NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, l.common.model_options, l.common.engine_options, NULL};
    common_init(&l.common);
    code = parse_command("logits", "sharpi logits -m FILE --tokens T.i32 -o L.f32 [OPTIONS]",
                         "Writes the logits of every position of a token sequence.", tables, argc, argv, NULL,
                         0, &n_args);
    if (code >= 0)
        return code;
    if (!l.tokens_path || !l.out_path || l.tap.n > 1) {
        sharpi_fail(&err, SHARPI_EINVAL,
                    l.tap.n > 1 ? "one --tap at a time" : "--tokens FILE and -o FILE are both needed");
        return fail_usage("logits", &err);
    }
    catch_interrupt();
    extra.taps = l.tap.n ? l.tap.items : NULL;
    status = read_tokens(l.tokens_path, &tokens, &n, &err);
    if (!status)
        status = open_engine(&l.common, &engine, &err);
    if (!status)
        status = load_model(&l.common, engine, &extra, &model, &err);
    if (!status)
        status = compute(&l, model, tokens, n, &err);
    sharpi_model_free(model);
    sharpi_engine_close(engine);
    free(tokens);
    return status ? fail("logits", &err) : EXIT_OK;
}

const struct command command_logits = {"logits", "logits of raw token ids, for comparing engines",
                                       logits_command};
