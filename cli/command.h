/* What the commands of the sharpi program share: engine and model options, messages, progress, signals. */
#ifndef SHARPI_CLI_COMMAND_H
#define SHARPI_CLI_COMMAND_H

#include <sharpi/sharpi.h>

#include "options.h"

enum exit_code {
    EXIT_OK = 0,
    EXIT_ERROR = 1,        /* it could not be done; the reason is on stderr */
    EXIT_USAGE = 2,        /* the command line is wrong */
    EXIT_INTERRUPT = 130,  /* stopped by Ctrl-C */
    EXIT_PIPE = 141,       /* who reads the output went away (head): what a shell shows for SIGPIPE */
    EXIT_TERMINATED = 143, /* ended by SIGTERM, as cleanly as by Ctrl-C */
};

struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns enum exit_code */
};

extern const struct command command_bench, command_chat, command_detokenize, command_doctor, command_inspect,
    command_logits, command_plan, command_perplexity, command_plugins, command_pull, command_run,
    command_serve, command_template, command_tokenize;

/* Options that all commands with an engine have (engine_options) and those with a loaded model too (model_options). The
 * tables point into one `struct common`, which a command keeps on its stack. */
struct common {
    const char *config;
    struct option_list set;
    uint32_t verbose, quiet;

    const char *model, *kv, *kv_global, *kv_swa, *backend;
    const char *reserve, *memory_limit, *plan, *gpu_layers, *n_cpu_moe,
        *kv_pool;     /* settings of section model, */
    uint32_t cpu_moe; /* and these two */
    struct option_list devices;
    uint32_t context, threads, chunk, headroom, no_repack, full_cache;

    struct option engine_options[8];
    struct option model_options[20];
};
void common_init(struct common *common);

/* Prints "sharpi COMMAND: error text" and returns EXIT_ERROR (EXIT_USAGE for fail_usage). An empty text is a closed pipe
 * (put_text): nobody wants to read about it, so nothing is printed and EXIT_PIPE returned. */
int fail(const char *command, const struct sharpi_error *err);
int fail_usage(const char *command, const struct sharpi_error *err);

/* Handles the common outcome of options_parse: < 0 to go on, else an exit code. */
int parse_command(const char *command, const char *usage, const char *about,
                  const struct option *const *tables, int argc, char **argv, const char **args,
                  uint32_t max_args, uint32_t *n_args);

/* The model options of the command line as the library takes them. */
void model_options(const struct common *common, struct sharpi_model_options *options);
int32_t open_engine(const struct common *common, struct sharpi_engine **engine, struct sharpi_error *err);
/* Loads common->model (required) with a progress bar on a terminal. `extra` may set what has no option (max_sessions, taps). */
int32_t load_model(const struct common *common, struct sharpi_engine *engine,
                   const struct sharpi_model_options *extra, struct sharpi_model **model,
                   struct sharpi_error *err);

/* Set by Ctrl-C after catch_interrupt; a second Ctrl-C ends the program at once. */
int interrupted(void);
void catch_interrupt(void);
void clear_interrupt(void); /* a chat goes on after Ctrl-C */
int terminated(void);       /* it was SIGTERM: no going on */

/* Whether stderr is a terminal that may be decorated (NO_COLOR unset for colours). */
int stderr_is_terminal(void);
int stdout_has_colour(void); /* a terminal that knows how, and NO_COLOR unset */

/* Writes all to stdout and flushes; a full disk is an error naming it, a closed pipe one without text. */
int32_t put_text(const char *text, uint64_t n, struct sharpi_error *err);
/* At the end of the program: `code`, or the right one when something printed could not be written or it was SIGTERM. */
int finish_output(int code);

/* A whole file, NUL-terminated, free() it; "-" is standard input. At most `limit` bytes. */
int32_t read_file(const char *path, uint64_t limit, char **text, uint64_t *n, struct sharpi_error *err);
int32_t write_file(const char *path, const void *data, uint64_t n, struct sharpi_error *err);

double now_seconds(void); /* monotonic */

#endif
