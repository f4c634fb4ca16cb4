/* sharpi chat: a conversation on one session.
 *
 * Invariant: `messages` is what was said, in the form of the OpenAI API; each answer renders all of it again and computes only what
 * the cache does not hold. A turn that fails leaves `messages` as it was.
 */
#ifndef SHARPI_CLI_CHAT_H
#define SHARPI_CLI_CHAT_H

#include <jansson.h>

#include "answer.h"
#include "chat-prompt.h"
#include "command.h"
#include "line-editor.h"
#include "sampling.h"

/* How the terminal shows things. */
struct chat_screen {
    int32_t terminal; /* people are at both ends: prompts, hints */
    int32_t clean;    /* standard output is a terminal: control characters are kept from it */
    int32_t colour;   /* reasoning is dimmed; without, it stands between <think> marks */
    int32_t hide_reasoning;
    int32_t dimmed, held; /* state: dim is on; a byte of a character is held back (chat-screen.c) */
    int32_t n_reasoning;  /* bytes of reasoning shown in this answer */
    int32_t at_line_start;
};

struct chat {
    struct common common;
    struct sampling sampling;
    const char *system, *template;
    uint32_t n_predict, think, no_think, hide_reasoning, no_history;

    struct sharpi_model *model;
    struct held_tokens held;
    struct chat_prompt *prompt;
    struct line_editor *editor;
    struct chat_screen screen;
    json_t *messages;
    uint32_t n_answers; /* samplers differ by it, so that /regen does not repeat itself */
    struct answer last; /* numbers of the last answer, for /stats */
    int32_t quit;       /* /quit */
    int32_t failed;     /* a turn or a command failed: what a script's exit status says */
};

/* ---- chat-turn.c */

/* Answers the conversation and appends the answer. SHARPI_ECANCELLED when Ctrl-C came before anything was said. */
int32_t chat_answer(struct chat *chat, struct sharpi_error *err);
/* Appends a message of the user and answers; on an error the message is taken back. */
int32_t chat_say(struct chat *chat, const char *text, struct sharpi_error *err);
const char *chat_role(const struct chat *chat, size_t index);

/* ---- chat-commands.c */

/* `line` begins with a slash. What a command prints goes to standard output. */
int32_t chat_command(struct chat *chat, const char *line, struct sharpi_error *err);
/* Puts a system message in front, replaces or (text empty) removes it. */
int32_t chat_set_system(struct chat *chat, const char *text, struct sharpi_error *err);

/* ---- chat-screen.c */

void chat_screen_begin(struct chat_screen *screen);
int32_t chat_screen_put(struct chat_screen *screen, int32_t is_reasoning, const char *text, uint64_t n,
                        struct sharpi_error *err);
int32_t chat_screen_flush(struct sharpi_error *err);
/* Ends the line and the dimming. */
int32_t chat_screen_end(struct chat_screen *screen, struct sharpi_error *err);

#endif
