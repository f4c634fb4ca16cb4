/* Checks of a batch before it runs: sizes, ids and order, so that no step has to. */
#include "flow.h"

static int32_t check_sizes(const struct flow *flow, const struct sharpi_batch *batch,
                           struct sharpi_error *err)
{
    const struct sharpi_compile *request = &flow->request;
    if (batch->n_tokens == 0 || batch->n_tokens > request->max_tokens)
        return sharpi_fail(err, SHARPI_EINVAL, "a batch of %u tokens; the program runs 1 to %u",
                           batch->n_tokens, request->max_tokens);
    if (batch->n_seqs == 0 || batch->n_seqs > request->max_seqs)
        return sharpi_fail(err, SHARPI_EINVAL, "a batch of %u sequences; the program runs 1 to %u",
                           batch->n_seqs, request->max_seqs);
    if (batch->n_logits > request->max_logits)
        return sharpi_fail(err, SHARPI_EINVAL, "logits of %u rows; the program makes up to %u",
                           batch->n_logits, request->max_logits);
    if (!batch->positions || !batch->seqs_of || !batch->seqs || (batch->n_logits && !batch->logit_rows))
        return sharpi_fail(err, SHARPI_EBUG, "the batch lacks positions, sequences or rows of logits");
    return SHARPI_OK;
}

static int32_t check_tokens(const struct flow *flow, const struct sharpi_batch *batch,
                            struct sharpi_error *err)
{
    uint32_t needed = (flow->needs_tokens & 2) || (flow->needs_tokens && !batch->embeddings);
    if (!needed)
        return SHARPI_OK;
    if (!batch->tokens)
        return sharpi_fail(err, SHARPI_EINVAL, "the model looks rows up by token id, the batch has none");
    for (uint32_t i = 0; i < batch->n_tokens; i++) {
        if (batch->tokens[i] < 0 || (uint64_t)batch->tokens[i] >= flow->n_table_rows)
            return sharpi_fail(err, SHARPI_EINVAL, "token %u of the batch is %d; the vocabulary has %llu", i,
                               batch->tokens[i], (unsigned long long)flow->n_table_rows);
    }
    return SHARPI_OK;
}

static int32_t check_sequences(const struct sharpi_batch *batch, struct sharpi_error *err)
{
    uint32_t next = 0;
    for (uint32_t s = 0; s < batch->n_seqs; s++) {
        const struct sharpi_batch_seq *seq = &batch->seqs[s];
        if (seq->first_token != next || seq->n_tokens == 0 || seq->n_tokens > batch->n_tokens - next)
            return sharpi_fail(err, SHARPI_EBUG, "sequence %u has tokens %u + %u, %u come next of %u", s,
                               seq->first_token, seq->n_tokens, next, batch->n_tokens);
        for (uint32_t i = next; i < next + seq->n_tokens; i++) {
            int64_t position = batch->positions[i];
            if (batch->seqs_of[i] != (int32_t)s || position < (int64_t)seq->length ||
                position >= (int64_t)seq->length + seq->n_tokens ||
                (i > next && position < batch->positions[i - 1]))
                return sharpi_fail(err, SHARPI_EBUG,
                                   "token %u is at position %lld of sequence %d; sequence %u covers %u + %u",
                                   i, (long long)position, batch->seqs_of[i], s, seq->length, seq->n_tokens);
        }
        next += seq->n_tokens;
    }
    return next == batch->n_tokens
               ? SHARPI_OK
               : sharpi_fail(err, SHARPI_EBUG, "%u of %u tokens belong to a sequence", next, batch->n_tokens);
}

static int32_t check_logit_rows(const struct sharpi_batch *batch, struct sharpi_error *err)
{
    for (uint32_t i = 0; i < batch->n_logits; i++) {
        int32_t row = batch->logit_rows[i];
        if (row < 0 || (uint32_t)row >= batch->n_tokens || (i && row <= batch->logit_rows[i - 1]))
            return sharpi_fail(err, SHARPI_EBUG, "row %d of logits is out of order or not among %u tokens",
                               row, batch->n_tokens);
    }
    return SHARPI_OK;
}

static int32_t check_best(const struct flow *flow, const struct sharpi_run_io *io, struct sharpi_error *err)
{
    if (io->n_best > flow->traits->max_best || io->n_best > flow->n_vocab)
        return sharpi_fail(err, SHARPI_EINVAL, "%u best candidates of %llu; %s finds up to %u", io->n_best,
                           (unsigned long long)flow->n_vocab, flow->traits->name, flow->traits->max_best);
    if (!io->best_ids || !io->best_logits || !io->best_log_sum)
        return sharpi_fail(err, SHARPI_EBUG, "memory for the best candidates is missing");
    return SHARPI_OK;
}

static int32_t check_io(const struct flow *flow, const struct sharpi_batch *batch,
                        const struct sharpi_run_io *io, struct sharpi_error *err)
{
    const struct sharpi_compile *request = &flow->request;
    uint32_t complete = io->n_taps == request->n_taps && (!request->n_taps || io->taps) &&
                        (!request->n_carry_in || io->carry_in) && (!request->n_carry_out || io->carry_out);
    for (uint32_t i = 0; complete && i < request->n_taps; i++)
        complete = io->taps[i] != NULL;
    for (uint32_t i = 0; complete && i < request->n_carry_in; i++)
        complete = io->carry_in[i] != NULL;
    for (uint32_t i = 0; complete && i < request->n_carry_out; i++)
        complete = io->carry_out[i] != NULL;
    if (!complete)
        return sharpi_fail(err, SHARPI_EBUG, "memory for carried or tapped values is missing");
    if (flow->n_vocab && batch->n_logits && SHARPI_HAS(io, n_best))
        return check_best(flow, io, err);
    if (flow->n_vocab && batch->n_logits && !io->logits)
        return sharpi_fail(err, SHARPI_EBUG, "memory for logits is missing");
    return SHARPI_OK;
}

/* Positions [low, end) must lie in held pages. */
static int32_t check_pages(const struct sharpi_kv_layer *kv, const struct sharpi_batch_class *class_of,
                           uint32_t seq, uint64_t low, uint64_t end, struct sharpi_error *err)
{
    const int32_t *pages = class_of->pages + (uint64_t)seq * class_of->stride;
    for (uint64_t page = low / SHARPI_KV_PAGE; page * SHARPI_KV_PAGE < end; page++) {
        const uint64_t entry = page % (kv->ring / SHARPI_KV_PAGE);
        if (entry >= class_of->stride || pages[entry] < 0 || (uint32_t)pages[entry] >= kv->n_pages)
            return sharpi_fail(
                err, SHARPI_EBUG,
                "sequence %u of the batch needs positions %llu to %llu, but entry %llu of its page "
                "table (%u entries, %u pages in all) is %lld",
                seq, (unsigned long long)low, (unsigned long long)end - 1, (unsigned long long)entry,
                class_of->stride, kv->n_pages, entry < class_of->stride ? (long long)pages[entry] : -1LL);
    }
    return SHARPI_OK;
}

static int32_t check_seq(const struct sharpi_kv_layer *kv, uint32_t window, const struct sharpi_batch *batch,
                         uint32_t index, struct sharpi_error *err)
{
    const struct sharpi_batch_seq *seq = &batch->seqs[index];
    const uint64_t end = (uint64_t)seq->length + seq->n_tokens;
    const uint64_t low = window && seq->length + 1u > window ? seq->length + 1u - window : 0;

    if (seq->first_token > batch->n_tokens || seq->n_tokens > batch->n_tokens - seq->first_token)
        return sharpi_fail(err, SHARPI_EBUG, "sequence %u has tokens %u to %llu of a batch of %u", index,
                           seq->first_token, (unsigned long long)seq->first_token + seq->n_tokens,
                           batch->n_tokens);
    for (uint32_t t = 0; t < seq->n_tokens; t++)
        if (batch->seqs_of[seq->first_token + t] != (int32_t)index)
            return sharpi_fail(err, SHARPI_EBUG, "token %u belongs to sequence %u, but the batch says %d",
                               seq->first_token + t, index, batch->seqs_of[seq->first_token + t]);
    if (end - low > kv->ring)
        return sharpi_fail(
            err, SHARPI_EBUG,
            "sequence %u needs positions %llu to %llu at once, the cache holds %u: the prefill chunk "
            "must be at most %u tokens",
            index, (unsigned long long)low, (unsigned long long)end - 1, kv->ring,
            window && kv->ring >= window ? kv->ring - window + 1 : 0);
    return seq->n_tokens ? check_pages(kv, &batch->classes[kv->class_index], index, low, end, err)
                         : SHARPI_OK;
}

int32_t cache_check(const struct sharpi_kv_layer *kv, uint32_t window, const struct sharpi_batch *batch,
                    struct sharpi_error *err)
{
    uint64_t n_tokens = 0;

    if (kv->class_index >= batch->n_classes)
        return sharpi_fail(err, SHARPI_EBUG, "the cache's class %u is not among the batch's %u",
                           kv->class_index, batch->n_classes);
    if (batch->classes[kv->class_index].ring != kv->ring)
        return sharpi_fail(err, SHARPI_EBUG, "the batch says %u positions for class %u, the cache has %u",
                           batch->classes[kv->class_index].ring, kv->class_index, kv->ring);
    for (uint32_t i = 0; i < batch->n_seqs; i++) {
        const int32_t status = check_seq(kv, window, batch, i, err);
        if (status)
            return status;
        n_tokens += batch->seqs[i].n_tokens;
    }
    if (n_tokens != batch->n_tokens)
        return sharpi_fail(err, SHARPI_EBUG, "the batch's sequences have %llu tokens, the batch %u",
                           (unsigned long long)n_tokens, batch->n_tokens);
    return SHARPI_OK;
}

static int32_t check_caches(const struct flow *flow, const struct sharpi_batch *batch,
                            struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < flow->n_checks && !status; i++)
        status = cache_check(&flow->kv_layers[flow->checks[i].kv_layer], flow->checks[i].window, batch, err);
    return status;
}

int32_t batch_check(const struct flow *flow, const struct sharpi_batch *batch, const struct sharpi_run_io *io,
                    struct sharpi_error *err)
{
    int32_t status;
    if ((status = check_sizes(flow, batch, err)) || (status = check_tokens(flow, batch, err)) ||
        (status = check_sequences(batch, err)) || (status = check_logit_rows(batch, err)) ||
        (status = check_io(flow, batch, io, err)))
        return status;
    return check_caches(flow, batch, err);
}
