/* What a chat does for lines that begin with a slash. To add a command, add a line to `commands`. */
#include <stdlib.h>
#include <string.h>

#include "chat.h"
#include "core/nearest.h"

enum { MAX_CONVERSATION = 64 << 20 };

struct chat_command {
    const char *name, *argument, *help;
    int32_t (*run)(struct chat *chat, const char *argument, struct sharpi_error *err);
};

/* ---- The conversation */

static size_t n_messages(const struct chat *chat)
{
    return json_array_size(chat->messages);
}

static int32_t has_role(const struct chat *chat, size_t index, const char *role)
{
    return index < n_messages(chat) && strcmp(chat_role(chat, index), role) == 0;
}

static void drop_last(struct chat *chat)
{
    json_array_remove(chat->messages, n_messages(chat) - 1);
}

int32_t chat_set_system(struct chat *chat, const char *text, struct sharpi_error *err)
{
    json_t *message = *text ? chat_message("system", text, strlen(text)) : NULL;
    if (*text && !message)
        return sharpi_fail(err, SHARPI_EINVAL, "the system message is not valid UTF-8");
    if (has_role(chat, 0, "system"))
        json_array_remove(chat->messages, 0);
    if (message && json_array_insert_new(chat->messages, 0, message))
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the system message");
    return SHARPI_OK;
}

static int32_t run_system(struct chat *chat, const char *argument, struct sharpi_error *err)
{
    const char *now;
    if (strcmp(argument, "none") == 0)
        return chat_set_system(chat, "", err);
    if (*argument)
        return chat_set_system(chat, argument, err);
    now = has_role(chat, 0, "system")
              ? json_string_value(json_object_get(json_array_get(chat->messages, 0), "content"))
              : NULL;
    printf("%s\n", now ? now : "no system message");
    return SHARPI_OK;
}

static int32_t run_reset(struct chat *chat, const char *argument, struct sharpi_error *err)
{
    size_t keep = has_role(chat, 0, "system");
    (void)argument;
    (void)err;
    while (n_messages(chat) > keep)
        drop_last(chat);
    if (chat->screen.terminal)
        printf("the conversation starts anew%s\n", keep ? "; the system message stays" : "");
    return SHARPI_OK;
}

static int32_t run_undo(struct chat *chat, const char *argument, struct sharpi_error *err)
{
    size_t n = n_messages(chat), at = n;
    (void)argument;
    while (at > 0 && !has_role(chat, at - 1, "user"))
        at--;
    if (at == 0)
        return sharpi_fail(err, SHARPI_EINVAL, "there is no turn to take back");
    while (n_messages(chat) >= at)
        drop_last(chat);
    if (chat->screen.terminal)
        printf("the last turn is taken back\n");
    return SHARPI_OK;
}

static int32_t run_regen(struct chat *chat, const char *argument, struct sharpi_error *err)
{
    json_t *old = NULL;
    int32_t status;
    (void)argument;
    if (n_messages(chat) && has_role(chat, n_messages(chat) - 1, "assistant")) {
        old = json_incref(json_array_get(chat->messages, n_messages(chat) - 1));
        drop_last(chat);
    }
    if (!n_messages(chat) || !has_role(chat, n_messages(chat) - 1, "user"))
        status = sharpi_fail(err, SHARPI_EINVAL, "there is no message to answer again");
    else
        status = chat_answer(chat, err);
    if (status && old && json_array_append(chat->messages, old)) /* the old answer is better than none */
        status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for the old answer");
    json_decref(old);
    return status;
}

/* ---- Files */

static int32_t run_save(struct chat *chat, const char *argument, struct sharpi_error *err)
{
    char *text;
    int32_t status;
    if (!*argument)
        return sharpi_fail(err, SHARPI_EINVAL, "/save needs a file");
    text = json_dumps(chat->messages, JSON_INDENT(2));
    if (!text)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the conversation");
    status = write_file(argument, text, strlen(text), err);
    if (!status && chat->screen.terminal)
        printf("%zu messages written to %s\n", n_messages(chat), argument);
    free(text);
    return status;
}

/* An array of messages whose contents are texts (or lists of parts, which templates know). */
static int32_t check_messages(const json_t *messages, const char *path, struct sharpi_error *err)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    if (!json_is_array(messages))
        return sharpi_fail(err, SHARPI_EFORMAT, "%s: must be an array of messages", path);
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i), *content = json_object_get(message, "content");
        const char *role = json_string_value(json_object_get(message, "role"));
        size_t r = 0;
        while (role && r < 5 && strcmp(role, roles[r]) != 0)
            r++;
        if (!role || r == 5)
            return sharpi_fail(err, SHARPI_EFORMAT,
                               "%s: message %zu: role must be system, developer, user, assistant or tool",
                               path, i);
        if (!json_is_string(content) && !json_is_array(content))
            return sharpi_fail(err, SHARPI_EFORMAT, "%s: message %zu has no content", path, i);
    }
    return SHARPI_OK;
}

/* The array itself, or an object with "messages", as a request to the HTTP API has it. */
static int32_t run_load(struct chat *chat, const char *argument, struct sharpi_error *err)
{
    json_t *all, *messages;
    json_error_t error;
    char *text;
    uint64_t n;
    int32_t status;
    if (!*argument || strcmp(argument, "-") == 0)
        return sharpi_fail(err, SHARPI_EINVAL, "/load needs a file");
    if ((status = read_file(argument, MAX_CONVERSATION, &text, &n, err)))
        return status;
    all = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (!all)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s:%d:%d: %s", argument, error.line, error.column,
                           error.text);
    messages = json_is_object(all) ? json_object_get(all, "messages") : all;
    status = check_messages(messages, argument, err);
    if (!status) {
        json_decref(chat->messages);
        chat->messages = json_incref(messages);
        if (chat->screen.terminal)
            printf("%zu messages read from %s\n", n_messages(chat), argument);
    }
    json_decref(all);
    return status;
}

/* ---- Numbers and parameters */

static int32_t run_stats(struct chat *chat, const char *argument, struct sharpi_error *err)
{
    const struct answer *a = &chat->last;
    struct sharpi_model_info info = {.size = sizeof info};
    uint64_t computed = a->n_prompt - a->n_reused;
    (void)argument;
    (void)err;
    sharpi_model_get_info(chat->model, &info);
    printf("context  %u of %u positions, %zu messages\n", sharpi_session_length(chat->held.session),
           info.context, n_messages(chat));
    if (chat->n_answers) {
        printf("prompt   %llu tokens, %llu of them from the cache, %llu computed in %.2f s (%.1f/s)\n",
               (unsigned long long)a->n_prompt, (unsigned long long)a->n_reused, (unsigned long long)computed,
               a->prefill_seconds, per_second((double)computed, a->prefill_seconds));
        printf("answer   %u tokens in %.2f s (%.1f/s), stopped by: %s\n", a->n_made, a->decode_seconds,
               per_second(a->n_made, a->decode_seconds), a->stop ? answer_stop_name(a->stop) : "error");
    }
    printf("seed     %llu\n", (unsigned long long)chat->sampling.params.seed);
    return SHARPI_OK;
}

static void print_parameters(const struct chat *chat)
{
    char value[512];
    const char *name;
    for (uint32_t i = 0; (name = sampling_describe(&chat->sampling, i, value, sizeof value)); i++)
        printf("%-20s %s\n", name, value);
    printf("%-20s %u\n", "predict", chat->n_predict);
}

static int32_t run_set(struct chat *chat, const char *argument, struct sharpi_error *err)
{
    struct option predict = {"predict", 0, OPTION_UINT, "N", NULL, &chat->n_predict, NULL};
    if (!*argument) {
        print_parameters(chat);
        return SHARPI_OK;
    }
    if (strncmp(argument, "predict", 7) == 0 && strchr("= ", argument[7]) && argument[7])
        return option_set(&predict, argument + 8 + strspn(argument + 8, "= "), err);
    return sampling_set(&chat->sampling, argument, err);
}

/* ---- Others */

/* Lines up to one with a single dot are one message. */
static int32_t run_multi(struct chat *chat, const char *argument, struct sharpi_error *err)
{
    enum line_outcome outcome = LINE_READ;
    char *text = strdup(argument), *line = NULL, *longer;
    int32_t status = SHARPI_OK;
    if (chat->screen.terminal)
        printf("a line with a single dot ends the message\n");
    while (text && (outcome = line_editor_read(chat->editor, ". ", &line)) == LINE_READ &&
           strcmp(line, ".") != 0) {
        if (asprintf(&longer, "%s%s%s", text, *text ? "\n" : "", line) < 0)
            longer = NULL;
        free(text);
        free(line);
        line = NULL;
        text = longer;
    }
    if (!text)
        status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for the message");
    else if (outcome == LINE_INTERRUPT || outcome == LINE_FAILED)
        status = sharpi_fail(err, SHARPI_ECANCELLED, "the message is dropped");
    else if (*text)
        status = chat_say(chat, text, err);
    free(line);
    free(text);
    return status;
}

static int32_t run_quit(struct chat *chat, const char *argument, struct sharpi_error *err)
{
    (void)argument;
    (void)err;
    chat->quit = 1;
    return SHARPI_OK;
}

static int32_t run_help(struct chat *chat, const char *argument, struct sharpi_error *err);

static const struct chat_command commands[] = {
    {"/help", "", "this text", run_help},
    {"/system", "TEXT", "set the system message; none removes it, without TEXT show it", run_system},
    {"/reset", "", "start anew; the system message stays", run_reset},
    {"/regen", "", "answer the last message again", run_regen},
    {"/undo", "", "take back the last message and its answer", run_undo},
    {"/save", "FILE", "write the conversation as JSON messages", run_save},
    {"/load", "FILE", "read one", run_load},
    {"/set", "NAME=VALUE", "change sampling or predict; without argument show all", run_set},
    {"/stats", "", "tokens and speed of the last answer", run_stats},
    {"/multi", "", "a message of several lines", run_multi},
    {"/quit", "", "end the chat", run_quit},
    {NULL, "", NULL, NULL},
};

static int32_t run_help(struct chat *chat, const char *argument, struct sharpi_error *err)
{
    char left[64];
    (void)chat;
    (void)argument;
    (void)err;
    for (const struct chat_command *c = commands; c->name; c++) {
        snprintf(left, sizeof left, "%s%s%s", c->name, *c->argument ? " " : "", c->argument);
        printf("  %-18s %s\n", left, c->help);
    }
    printf(
        "A backslash at the end of a line continues the message; //text says text that begins with a slash.\n"
        "Ctrl-C stops an answer, twice at the prompt it ends the chat, as Ctrl-D does.\n");
    return SHARPI_OK;
}

int32_t chat_command(struct chat *chat, const char *line, struct sharpi_error *err)
{
    const char *names[sizeof commands / sizeof *commands], *nearest;
    size_t n = strcspn(line, " \t");
    const char *argument = line + n + strspn(line + n, " \t");
    char name[32];
    uint32_t n_names = 0;
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), line);
    for (const struct chat_command *c = commands; c->name; c++) {
        if (strcmp(name, c->name) == 0)
            return c->run(chat, argument, err);
        names[n_names++] = c->name;
    }
    nearest = sharpi_nearest(name, names, n_names);
    if (nearest)
        return sharpi_fail(err, SHARPI_EINVAL, "no command %s; did you mean %s?", name, nearest);
    return sharpi_fail(err, SHARPI_EINVAL, "no command %s; /help lists them", name);
}
