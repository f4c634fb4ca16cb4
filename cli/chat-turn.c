/* One turn of a chat: render, compute what is new, sample, show, remember. */
#include <stdlib.h>
#include <string.h>

#include "chat.h"
#include "core/reasoning.h"

struct buffer {
    char *data;
    uint64_t n, capacity;
};

/* An answer on its way: from tokens through the splitter to the screen and to the message. */
struct turn {
    struct chat *chat;
    struct sharpi_reasoning splitter;
    struct buffer said, thought;
};

static int32_t append(struct buffer *b, const char *text, uint64_t n, struct sharpi_error *err)
{
    if (n > b->capacity - b->n) {
        uint64_t capacity = (b->n + n) * 2 + 256;
        char *bigger = realloc(b->data, capacity);
        if (!bigger)
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory for an answer of %llu bytes",
                               (unsigned long long)capacity);
        b->data = bigger;
        b->capacity = capacity;
    }
    if (n)
        memcpy(b->data + b->n, text, n);
    b->n += n;
    return SHARPI_OK;
}

static int32_t put_piece(void *user, int32_t is_reasoning, const char *text, uint64_t n,
                         struct sharpi_error *err)
{
    struct turn *turn = user;
    int32_t status = append(is_reasoning ? &turn->thought : &turn->said, text, n, err);
    return status ? status : chat_screen_put(&turn->chat->screen, is_reasoning, text, n, err);
}

/* Control tokens have no text, but Gemma 4's marks of reasoning are such tokens. */
static int32_t put_token(void *user, int32_t token, const char *text, uint64_t n, struct sharpi_error *err)
{
    struct turn *turn = user;
    const struct sharpi_tokenizer *tokenizer = turn->chat->model->tokenizer;
    int32_t status;
    if (token >= 0 && sharpi_token_attr(tokenizer, token) == SHARPI_TOKEN_CONTROL) {
        struct sharpi_str name = sharpi_token_text(tokenizer, token);
        if (sharpi_reasoning_is_mark(name.data, name.n)) {
            text = name.data;
            n = name.n;
        }
    }
    status = sharpi_reasoning_push(&turn->splitter, text, n, err);
    return status ? status : chat_screen_flush(err);
}

const char *chat_role(const struct chat *chat, size_t index)
{
    const char *role = json_string_value(json_object_get(json_array_get(chat->messages, index), "role"));
    return role ? role : "";
}

/* Earlier reasoning is no part of a conversation; it is kept beside the answer where templates look for it. */
static int32_t remember(struct chat *chat, const struct turn *turn, struct sharpi_error *err)
{
    json_t *message = chat_message("assistant", turn->said.n ? turn->said.data : "", turn->said.n);
    if (message && turn->thought.n)
        json_object_set_new(message, "reasoning_content", json_stringn(turn->thought.data, turn->thought.n));
    if (!message || json_array_append_new(chat->messages, message))
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the answer");
    return SHARPI_OK;
}

static void say_why_it_stopped(const struct chat *chat)
{
    struct sharpi_model_info info = {.size = sizeof info};
    sharpi_model_get_info(chat->model, &info);
    if (chat->last.stop == ANSWER_CONTEXT)
        fprintf(stderr,
                "[the context of %u positions is full; /reset starts anew, /undo drops the last turn, and a "
                "larger "
                "-c holds more]\n",
                info.context);
    else if (chat->last.stop == ANSWER_LENGTH && chat->screen.terminal)
        fprintf(stderr, "[stopped after %u tokens (-n)]\n", chat->last.n_made);
    else if (chat->last.stop == ANSWER_INTERRUPT && chat->screen.terminal)
        fprintf(stderr, "[interrupted]\n");
}

static int32_t run_turn(struct chat *chat, struct turn *turn, const int32_t *tokens, uint64_t n,
                        struct sharpi_error *err)
{
    struct answer answer = {.model = chat->model,
                            .held = &chat->held,
                            .n_predict = chat->n_predict,
                            .put = put_token,
                            .user = turn};
    struct sharpi_error other = SHARPI_ERROR_INIT;
    int32_t status = answer_check_fits(
        chat->model, n, "; /reset starts anew, /undo drops the last turn, and a larger -c holds more", err);
    if (!status)
        status =
            sampling_create(&chat->sampling, chat->model, chat->n_answers, tokens, n, &answer.sampler, err);
    if (status)
        return status;
    chat->n_answers++;
    chat_screen_begin(&chat->screen);
    status = answer_run(&answer, tokens, n, err);
    if (!status)
        status = sharpi_reasoning_end(&turn->splitter, err);
    if (chat_screen_end(&chat->screen, &other) && !status)
        status = sharpi_fail(err, SHARPI_EIO, "%s", other.text);
    sharpi_sampler_destroy(answer.sampler);
    answer.sampler = NULL;
    chat->last = answer;
    return status;
}

int32_t chat_answer(struct chat *chat, struct sharpi_error *err)
{
    struct turn turn = {.chat = chat};
    char *text = NULL;
    int32_t *tokens = NULL;
    uint64_t n_text, n_tokens;
    int32_t status =
        chat_prompt_render(chat->prompt, chat->messages, &text, &n_text, &tokens, &n_tokens, err);
    if (!status) {
        sharpi_reasoning_init(&turn.splitter, text, n_text, put_piece, &turn);
        status = run_turn(chat, &turn, tokens, n_tokens, err);
    }
    if (!status) {
        say_why_it_stopped(chat);
        if (chat->last.stop == ANSWER_INTERRUPT && turn.said.n + turn.thought.n == 0)
            status = sharpi_fail(err, SHARPI_ECANCELLED,
                                 "interrupted before the answer began: the message is dropped");
        else
            status = remember(chat, &turn, err);
    }
    free(turn.said.data);
    free(turn.thought.data);
    free(tokens);
    free(text);
    return status;
}

int32_t chat_say(struct chat *chat, const char *text, struct sharpi_error *err)
{
    json_t *message = chat_message("user", text, strlen(text));
    int32_t status;
    if (!message)
        return sharpi_fail(err, SHARPI_EINVAL, "the message is not valid UTF-8");
    if (json_array_append_new(chat->messages, message))
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the message");
    status = chat_answer(chat, err);
    if (status)
        json_array_remove(chat->messages, json_array_size(chat->messages) - 1);
    return status;
}
