/* Checks of a batch before it runs: sizes, ids and order, so that no step has to. */
#include "run.h"

static int32_t check_sizes(const struct sharpi_program *program, const struct sharpi_batch *batch,
                           struct sharpi_error *err)
{
    const struct sharpi_compile *request = &program->request;
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

static int32_t check_tokens(const struct sharpi_program *program, const struct sharpi_batch *batch,
                            struct sharpi_error *err)
{
    uint32_t needed = (program->needs_tokens & 2) || (program->needs_tokens && !batch->embeddings);
    if (!needed)
        return SHARPI_OK;
    if (!batch->tokens)
        return sharpi_fail(err, SHARPI_EINVAL, "the model looks rows up by token id, the batch has none");
    for (uint32_t i = 0; i < batch->n_tokens; i++) {
        if (batch->tokens[i] < 0 || (uint64_t)batch->tokens[i] >= program->n_table_rows)
            return sharpi_fail(err, SHARPI_EINVAL, "token %u of the batch is %d; the vocabulary has %llu", i,
                               batch->tokens[i], (unsigned long long)program->n_table_rows);
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

static int32_t check_io(const struct sharpi_program *program, const struct sharpi_batch *batch,
                        const struct sharpi_run_io *io, struct sharpi_error *err)
{
    const struct sharpi_compile *request = &program->request;
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
    if (program->n_vocab && batch->n_logits && !io->logits)
        return sharpi_fail(err, SHARPI_EBUG, "memory for logits is missing");
    return SHARPI_OK;
}

static int32_t check_caches(const struct sharpi_program *program, const struct sharpi_batch *batch,
                            struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < program->n_attentions && !status; i++) {
        if (program->attentions[i].check)
            status = attention_check(&program->attentions[i].plan, batch, err);
    }
    return status;
}

int32_t batch_check(const struct sharpi_program *program, const struct sharpi_batch *batch,
                    const struct sharpi_run_io *io, struct sharpi_error *err)
{
    int32_t status;
    if ((status = check_sizes(program, batch, err)) || (status = check_tokens(program, batch, err)) ||
        (status = check_sequences(batch, err)) || (status = check_logit_rows(batch, err)) ||
        (status = check_io(program, batch, io, err)))
        return status;
    return check_caches(program, batch, err);
}
