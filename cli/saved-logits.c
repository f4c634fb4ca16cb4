/* Files of log-probabilities: see saved-logits.h.
 *
 * All little-endian:
 *   8 bytes   "SHRPLGP1"
 *   uint32    n_vocab, window, stride, first_scored (as `sharpi perplexity` ran)
 *   uint64    n_tokens
 *   int32     tokens[n_tokens] of the whole text
 *   float16   rows[][n_vocab]: natural logarithms of the probabilities at every scored token, to the end of the file
 * A half keeps 11 bits, so a probability is off by at most a factor of 2^-11 * |log p|: 0.5 % at p = e^-10. Readers
 * normalise a row again, which takes the error out of its sum.
 */
#include "saved-logits.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char magic[8] = {'S', 'H', 'R', 'P', 'L', 'G', 'P', '1'};

struct saved_logits {
    FILE *file;
    char *path;
    uint32_t n_vocab, is_new;
    uint16_t *row;
};

/* float to half, round to nearest even; what is too small for a half's exponent (finite log-probabilities below -65504
 * and infinities) becomes the lowest half. `x` is never positive and never that small that a subnormal would matter. */
static uint16_t half_of(float x)
{
    uint32_t bits, magnitude;
    if (!(x > -65504.0f))
        return 0xfbff;
    if (x > -6.2e-5f) /* below the smallest normal half: p = 1 */
        return 0x8000;
    memcpy(&bits, &x, sizeof bits);
    magnitude = bits & 0x7fffffffu;
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(0x8000u | ((magnitude >> 13) - (112u << 10)));
}

/* Any half but NaN and infinity, which become the lowest. */
static float float_of(uint16_t h)
{
    uint32_t exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    float x;
    if (exponent == 31)
        return -65504.0f;
    if (exponent == 0) {
        x = (float)mantissa * 5.9604644775390625e-8f;
    } else {
        uint32_t bits = (exponent + 112) << 23 | mantissa << 13;
        memcpy(&x, &bits, sizeof x);
    }
    return h & 0x8000 ? -x : x;
}

static struct saved_logits *new_saved(const char *path, const char *mode, uint32_t n_vocab,
                                      struct sharpi_error *err)
{
    struct saved_logits *s = calloc(1, sizeof *s);
    if (s) {
        s->path = strdup(path);
        s->n_vocab = n_vocab;
        s->row = malloc((size_t)n_vocab * sizeof *s->row);
    }
    if (!s || !s->path || !s->row) {
        sharpi_fail(err, SHARPI_ENOMEM, "no memory for rows of %u log-probabilities", n_vocab);
    } else if (!(s->file = fopen(path, mode))) {
        sharpi_fail(err, SHARPI_EIO, "cannot open %s: %s", path, strerror(errno));
    } else {
        return s;
    }
    saved_logits_close(s, NULL);
    return NULL;
}

static int32_t fail_io(const struct saved_logits *s, const char *what, struct sharpi_error *err)
{
    return sharpi_fail(err, SHARPI_EIO, "cannot %s %s: %s", what, s->path, strerror(errno));
}

int32_t saved_logits_create(const char *path, const struct saved_logits_header *header, const int32_t *tokens,
                            struct saved_logits **out, struct sharpi_error *err)
{
    const uint32_t numbers[4] = {header->n_vocab, header->window, header->stride, header->first_scored};
    struct saved_logits *s = new_saved(path, "wb", header->n_vocab, err);
    int32_t status;
    if (!s)
        return err ? err->code : SHARPI_EIO;
    s->is_new = 1;
    if (fwrite(magic, sizeof magic, 1, s->file) == 1 && fwrite(numbers, sizeof numbers, 1, s->file) == 1 &&
        fwrite(&header->n_tokens, sizeof header->n_tokens, 1, s->file) == 1 &&
        fwrite(tokens, sizeof *tokens, header->n_tokens, s->file) == header->n_tokens) {
        *out = s;
        return SHARPI_OK;
    }
    status = fail_io(s, "write", err);
    saved_logits_close(s, NULL);
    return status;
}

/* Compares in blocks, so that nothing is allocated by what the file says. */
static int same_tokens(FILE *file, const int32_t *tokens, uint64_t n)
{
    int32_t block[4096];
    for (uint64_t at = 0; at < n; at += 4096) {
        size_t now = n - at < 4096 ? (size_t)(n - at) : 4096;
        if (fread(block, sizeof *block, now, file) != now || memcmp(block, tokens + at, now * sizeof *block))
            return 0;
    }
    return 1;
}

static int32_t check_header(struct saved_logits *s, const struct saved_logits_header *want,
                            const int32_t *tokens, struct sharpi_error *err)
{
    char found[sizeof magic];
    uint32_t numbers[4];
    uint64_t n_tokens;
    if (fread(found, sizeof found, 1, s->file) != 1 || memcmp(found, magic, sizeof magic) ||
        fread(numbers, sizeof numbers, 1, s->file) != 1 || fread(&n_tokens, sizeof n_tokens, 1, s->file) != 1)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s was not written by 'sharpi perplexity --save'", s->path);
    if (numbers[0] != want->n_vocab)
        return sharpi_fail(err, SHARPI_EINVAL, "%s has a vocabulary of %u tokens, the model of %u", s->path,
                           numbers[0], want->n_vocab);
    if (numbers[1] != want->window || numbers[2] != want->stride || numbers[3] != want->first_scored)
        return sharpi_fail(err, SHARPI_EINVAL, "%s was saved with -c %u --stride %u; use the same here",
                           s->path, numbers[1], numbers[2] == numbers[1] ? 0 : numbers[2]);
    if (n_tokens != want->n_tokens || !same_tokens(s->file, tokens, n_tokens))
        return sharpi_fail(err, SHARPI_EINVAL, "%s was saved for another text or tokenizer", s->path);
    return SHARPI_OK;
}

int32_t saved_logits_open(const char *path, const struct saved_logits_header *header, const int32_t *tokens,
                          struct saved_logits **out, struct sharpi_error *err)
{
    struct saved_logits *s = new_saved(path, "rb", header->n_vocab, err);
    int32_t status;
    if (!s)
        return err ? err->code : SHARPI_EIO;
    status = check_header(s, header, tokens, err);
    if (status)
        saved_logits_close(s, NULL);
    else
        *out = s;
    return status;
}

int32_t saved_logits_write(struct saved_logits *s, const float *row, struct sharpi_error *err)
{
    for (uint32_t i = 0; i < s->n_vocab; i++)
        s->row[i] = half_of(row[i]);
    return fwrite(s->row, sizeof *s->row, s->n_vocab, s->file) == s->n_vocab ? SHARPI_OK
                                                                             : fail_io(s, "write", err);
}

int32_t saved_logits_read(struct saved_logits *s, float *row, struct sharpi_error *err)
{
    size_t n = fread(s->row, sizeof *s->row, s->n_vocab, s->file);
    if (n == 0 && feof(s->file))
        return SHARPI_ENOENT;
    if (n != s->n_vocab)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s ends within a row: it was not written completely",
                           s->path);
    for (uint32_t i = 0; i < s->n_vocab; i++)
        row[i] = float_of(s->row[i]);
    return SHARPI_OK;
}

int32_t saved_logits_close(struct saved_logits *s, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    if (!s)
        return status;
    if (s->file && fclose(s->file) && s->is_new)
        status = fail_io(s, "write", err);
    free(s->row);
    free(s->path);
    free(s);
    return status;
}
