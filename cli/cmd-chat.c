/* sharpi chat: options, set-up and the loop over lines. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chat.h"
#include "core/engine.h"

static const char about[] =
    "Talks with a model: each line is a message, /help lists commands. A conversation is not computed again: "
    "each turn\n"
    "costs its own tokens. Ctrl-C stops an answer, Ctrl-D ends the chat. When standard input is no terminal, "
    "its lines are\n"
    "the messages, only answers are printed, and the exit status is 1 if one of them failed.";

static void report(struct chat *chat, const struct sharpi_error *err)
{
    chat->failed = 1;
    if (err->text[0])
        fprintf(stderr, "%s%s\n", chat->screen.terminal ? "" : "sharpi chat: ", err->text);
}

/* Reads lines until one ends without backslash; "> " then ". " as prompts. */
static enum line_outcome read_message(struct chat *chat, char **message)
{
    char *line, *longer, *text = NULL;
    enum line_outcome outcome;
    for (;;) {
        size_t n;
        int32_t more;
        outcome = line_editor_read(chat->editor, text ? ". " : "> ", &line);
        if (outcome == LINE_END && text)
            break;
        if (outcome != LINE_READ) {
            free(text);
            return outcome;
        }
        n = strlen(line);
        more = n > 0 && line[n - 1] == '\\';
        if (more)
            line[n - 1] = 0;
        if (asprintf(&longer, "%s%s%s", text ? text : "", text ? "\n" : "", line) < 0)
            longer = NULL;
        free(line);
        free(text);
        text = longer;
        if (!text)
            return LINE_FAILED;
        if (!more)
            break;
    }
    *message = text;
    return LINE_READ;
}

static void take_message(struct chat *chat, const char *text)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = SHARPI_OK;
    if (text[0] == '/' && text[1] != '/')
        status = chat_command(chat, text, &err);
    else if (text[strspn(text, " \t\r\n")])
        status = chat_say(chat, text + (text[0] == '/'), &err);
    if (status)
        report(chat, &err);
    if (status == SHARPI_EIO && !err.text[0])
        chat->quit = EXIT_PIPE;
}

/* Ctrl-C at the prompt: the first is a question, the second in a row an answer. */
static int asked_to_leave(const struct chat *chat, int32_t *asked)
{
    if (terminated() || !chat->screen.terminal || *asked)
        return 1;
    *asked = 1;
    fprintf(stderr, "\n(Ctrl-C again or Ctrl-D ends the chat)\n");
    clear_interrupt();
    return 0;
}

/* Returns an exit code. */
static int talk(struct chat *chat)
{
    int32_t asked = 0;
    while (!chat->quit) {
        char *text = NULL;
        enum line_outcome outcome = read_message(chat, &text);
        if (outcome == LINE_INTERRUPT) {
            if (asked_to_leave(chat, &asked)) {
                fputc('\n', stderr);
                return EXIT_INTERRUPT;
            }
            continue;
        }
        if (outcome == LINE_END) {
            if (chat->screen.terminal)
                putchar('\n');
            break;
        }
        if (outcome != LINE_READ) {
            fprintf(stderr, "sharpi chat: cannot read standard input: %s\n", strerror(errno));
            return EXIT_ERROR;
        }
        asked = 0;
        take_message(chat, text);
        free(text);
        if (interrupted() && (terminated() || !chat->screen.terminal))
            return EXIT_INTERRUPT;
        clear_interrupt();
    }
    if (chat->quit == EXIT_PIPE)
        return EXIT_PIPE;
    return chat->failed && !chat->screen.terminal ? EXIT_ERROR : EXIT_OK;
}

static void greet(const struct chat *chat)
{
    struct sharpi_model_info info = {.size = sizeof info};
    if (!chat->screen.terminal || chat->common.quiet)
        return;
    sharpi_model_get_info(chat->model, &info);
    printf("%s (%s), context %u. /help lists commands, Ctrl-C stops an answer, Ctrl-D ends.\n", info.name,
           info.arch, info.context);
}

static int32_t open_session(struct chat *chat, struct sharpi_error *err)
{
    char *history = chat->no_history || !chat->screen.terminal ? NULL : line_history_path();
    int32_t thinking = chat->think ? 1 : chat->no_think ? 0 : -1, status;
    chat->messages = json_array();
    status = chat->messages ? chat_prompt_create(chat->model, chat->template, thinking, &chat->prompt, err)
                            : sharpi_fail(err, SHARPI_ENOMEM, "no memory for a conversation");
    if (!status)
        status = sharpi_session_create(chat->model, &chat->held.session, err);
    if (!status)
        status = line_editor_create(chat->screen.terminal, history, &chat->editor, err);
    if (!status && chat->system)
        status = chat_set_system(chat, chat->system, err);
    free(history);
    return status;
}

static void close_session(struct chat *chat)
{
    line_editor_destroy(chat->editor);
    held_free(&chat->held);
    sharpi_session_free(chat->held.session);
    chat_prompt_destroy(chat->prompt);
    json_decref(chat->messages);
}

static int run_chat(struct chat *chat)
{
    struct sharpi_engine *engine = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = open_engine(&chat->common, &engine, &err);
    int code = EXIT_ERROR;
    if (!status)
        status = sampling_settle(&chat->sampling, engine->settings, &err);
    if (!status)
        status = load_model(&chat->common, engine, NULL, &chat->model, &err);
    if (!status)
        status = open_session(chat, &err);
    if (!status) {
        greet(chat);
        code = talk(chat);
    } else {
        code = interrupted() ? EXIT_INTERRUPT : fail("chat", &err);
    }
    close_session(chat);
    sharpi_model_free(chat->model);
    sharpi_engine_close(engine);
    return code;
}

static int chat_main(int argc, char **argv)
{
    struct chat chat = {.n_predict = 0};
    uint32_t n_args;
    int code;
    sampling_init(&chat.sampling);
    common_init(&chat.common);
    const struct option own[] = {
        {"system", 0, OPTION_STRING, "TEXT", "system message", &chat.system, NULL},
        {"template", 0, OPTION_STRING, "NAME|FILE", "chat template: chatml, gemma, llama2, llama3 or a file",
         &chat.template, NULL},
        {"predict", 'n', OPTION_UINT, "N", "most tokens of an answer (0: until it ends)", &chat.n_predict,
         NULL},
        {"think", 0, OPTION_FLAG, NULL, "ask the template for reasoning (enable_thinking)", &chat.think,
         NULL},
        {"no-think", 0, OPTION_FLAG, NULL, "ask it for none", &chat.no_think, NULL},
        {"hide-reasoning", 0, OPTION_FLAG, NULL, "show answers only", &chat.hide_reasoning, NULL},
        {"no-history", 0, OPTION_FLAG, NULL, "neither read nor write the file of earlier lines",
         &chat.no_history, NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, chat.sampling.options, chat.common.model_options,
                                     chat.common.engine_options, NULL};
    code =
        parse_command("chat", "sharpi chat -m FILE [OPTIONS]", about, tables, argc, argv, NULL, 0, &n_args);
    if (code >= 0)
        return code;
    if (chat.think && chat.no_think) {
        struct sharpi_error err = SHARPI_ERROR_INIT;
        sharpi_fail(&err, SHARPI_EINVAL, "--think and --no-think exclude each other");
        return fail_usage("chat", &err);
    }
    chat.screen.terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    chat.screen.clean = isatty(STDOUT_FILENO);
    chat.screen.colour = stdout_has_colour();
    chat.screen.hide_reasoning = (int32_t)chat.hide_reasoning;
    catch_interrupt();
    code = run_chat(&chat);
    sampling_free(&chat.sampling);
    return code;
}

const struct command command_chat = {"chat", "talk with a model", chat_main};
