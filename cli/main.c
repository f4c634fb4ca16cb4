/* The sharpi program: finds the command and runs it. */
#include <string.h>

#include "command.h"
#include "core/nearest.h"

static const struct command *const commands[] = {
    &command_run,        &command_chat,    &command_tokenize, &command_detokenize,
    &command_template,   &command_logits,  &command_bench,    &command_plan,
    &command_perplexity, &command_inspect, &command_plugins,  &command_doctor,
#ifdef SHARPI_WITH_PULL
    &command_pull,
#endif
#ifdef SHARPI_WITH_SERVER
    &command_serve,
#endif
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static void print_help(void)
{
    size_t i;
    printf("Usage: sharpi COMMAND [OPTIONS]\n\nRuns GGUF language models.\n\nCommands:\n");
    for (i = 0; i < N_COMMANDS; i++)
        printf("  %-12s %s\n", commands[i]->name, commands[i]->summary);
    printf("\n'sharpi COMMAND --help' lists a command's options; 'sharpi --version' prints the version.\n");
}

static int unknown_command(const char *name)
{
    const char *names[N_COMMANDS], *nearest;
    size_t i;
    for (i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i]->name;
    nearest = sharpi_nearest(name, names, N_COMMANDS);
    if (strcmp(name, "pull") == 0) {
        fprintf(
            stderr,
            "sharpi: 'pull' is not in this build: libcurl was missing, or configure had --without-curl\n");
        return EXIT_ERROR;
    }
    if (strcmp(name, "serve") == 0) {
        fprintf(stderr, "sharpi: 'serve' is not in this build: libmicrohttpd was missing, or configure had "
                        "--disable-server\n");
        return EXIT_ERROR;
    }
    fprintf(stderr, "sharpi: unknown command '%s'", name);
    if (nearest)
        fprintf(stderr, "; did you mean '%s'?\n", nearest);
    else
        fprintf(stderr, "; 'sharpi --help' lists them\n");
    return EXIT_USAGE;
}

static int run(int argc, char **argv)
{
    size_t i;
    if (argc < 2) {
        print_help();
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help();
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("sharpi %s\n", sharpi_version());
        return EXIT_OK;
    }
    for (i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i]->name) == 0)
            return commands[i]->run(argc - 1, argv + 1);
    }
    return unknown_command(argv[1]);
}

int main(int argc, char **argv)
{
    return finish_output(run(argc, argv));
}
