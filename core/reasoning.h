/* Tells a model's reasoning from its answer while the text streams in: <think>...</think>, [THINK]...[/THINK], and Gemma 4's
 * <|channel>thought ... <channel|>.
 *
 * A block opens only where nothing but white space was said before, so an answer that writes about such marks stays whole.
 */
#ifndef SHARPI_CORE_REASONING_H
#define SHARPI_CORE_REASONING_H

#include <sharpi/plugin/tensor.h>

/* Gets pieces of text as soon as it is sure what they are; marks themselves are not passed on. */
typedef int32_t sharpi_reasoning_put_fn(void *user, int32_t is_reasoning, const char *text, uint64_t n,
                                        struct sharpi_error *err);

enum { SHARPI_REASONING_HOLD = 64 };

enum sharpi_reasoning_state {
    SHARPI_REASONING_START = 0,  /* nothing was answered yet: a block may open */
    SHARPI_REASONING_INSIDE = 1, /* of a block */
    SHARPI_REASONING_ANSWER = 2, /* for good */
};

struct sharpi_reasoning {
    sharpi_reasoning_put_fn *put;
    void *user;
    int32_t state;                    /* enum sharpi_reasoning_state */
    const char *closing;              /* of the open block */
    int32_t after_block;              /* white space before the answer is dropped */
    char held[SHARPI_REASONING_HOLD]; /* what may be the beginning of a mark */
    uint32_t n_held;
};

/* `prompt` is what the model continues: a template may have opened the block already. */
void sharpi_reasoning_init(struct sharpi_reasoning *r, const char *prompt, uint64_t n_prompt,
                           sharpi_reasoning_put_fn *put, void *user);
int32_t sharpi_reasoning_push(struct sharpi_reasoning *r, const char *text, uint64_t n,
                              struct sharpi_error *err);
int32_t sharpi_reasoning_end(struct sharpi_reasoning *r, struct sharpi_error *err); /* what is still held */

/* Whether this is a mark, or the beginning of one that takes several tokens ("<|channel>"): control tokens have no text of
 * their own, these have to be pushed as what they are called. */
int32_t sharpi_reasoning_is_mark(const char *text, uint64_t n);

#endif
