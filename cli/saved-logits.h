/* Files of log-probabilities that `sharpi perplexity --save` writes and `--against` compares with. */
#ifndef SHARPI_CLI_SAVED_LOGITS_H
#define SHARPI_CLI_SAVED_LOGITS_H

#include <sharpi/plugin/tensor.h>

/* What two runs must have in common for their rows to be comparable. */
struct saved_logits_header {
    uint32_t n_vocab, window, stride, first_scored;
    uint64_t n_tokens; /* of the text */
};

struct saved_logits;

int32_t saved_logits_create(const char *path, const struct saved_logits_header *header, const int32_t *tokens,
                            struct saved_logits **out, struct sharpi_error *err);
/* Fails when the file was made of another text, vocabulary or windows. */
int32_t saved_logits_open(const char *path, const struct saved_logits_header *header, const int32_t *tokens,
                          struct saved_logits **out, struct sharpi_error *err);

/* One row more of [n_vocab] log-probabilities, in the order of scoring. */
int32_t saved_logits_write(struct saved_logits *saved, const float *row, struct sharpi_error *err);
/* SHARPI_ENOENT without a text when there are no more rows. */
int32_t saved_logits_read(struct saved_logits *saved, float *row, struct sharpi_error *err);

/* Completes a written file; NULL is fine. */
int32_t saved_logits_close(struct saved_logits *saved, struct sharpi_error *err);

#endif
