/* See plan-world.h. */
#include "plan-world.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[64];
static char path[200];

struct sharpi_engine *open_world(const char *const *overrides)
{
    struct sharpi_engine_options options = {
        .size = sizeof options, .no_default_config = 1, .overrides = overrides};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_engine *engine = NULL;
    if (sharpi_engine_open(&options, &engine, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return engine;
}

static const char *tool(char *text, size_t n)
{
    const char *shared = getenv("SHARPI_SHARED");
    snprintf(text, n, "%s/tools/synth_gguf.py", shared ? shared : "../shared");
    return text;
}

/* Runs `python3 ARGS...` quietly; its exit status. */
static int python(char *const *args)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr) || !freopen("/dev/null", "w", stdout))
            _exit(127);
        execvp("python3", args);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int synth_present(void)
{
    char script[512];
    char *args[] = {"python3", "-c", "import numpy", NULL};
    return access(tool(script, sizeof script), R_OK) == 0 && python(args) == 0;
}

/* The size that the tensor list promises; the file so far is the header, padded. */
static int grow_file(void)
{
    struct sharpi_gguf *gguf = NULL;
    uint64_t n;
    if (sharpi_gguf_open(path, SHARPI_GGUF_HEADER_ONLY, &gguf, NULL))
        return -1;
    n = sharpi_gguf_file_bytes(gguf);
    for (uint64_t i = 0; i < sharpi_gguf_n_tensors(gguf); i++)
        n += (sharpi_gguf_tensor_at(gguf, i)->n_bytes + 31) / 32 * 32;
    sharpi_gguf_close(gguf);
    return truncate(path, (off_t)n);
}

const char *synth(const char *geometry, uint32_t n_layers, int data)
{
    char script[512], layers[16], name[64];
    char *args[] = {"python3", script, name, path, "--header-only", n_layers ? "--layers" : NULL,
                    layers,    NULL};
    if (!folder[0]) {
        const char *temporary = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%.40s/sharpi-plan-XXXXXX", temporary ? temporary : "/tmp");
        if (!mkdtemp(folder)) {
            perror(folder);
            exit(1);
        }
    }
    tool(script, sizeof script);
    snprintf(name, sizeof name, "%s", geometry);
    snprintf(layers, sizeof layers, "%u", n_layers);
    snprintf(path, sizeof path, "%s/%s-%u.gguf", folder, geometry, n_layers);
    if (access(path, R_OK) == 0)
        return path;
    if (python(args) != 0 || (data && grow_file())) {
        fprintf(stderr, "%s %s failed\n", script, geometry);
        exit(1);
    }
    return path;
}

void synth_clean(void)
{
    char command[128];
    if (!folder[0])
        return;
    snprintf(command, sizeof command, "rm -rf -- '%s'", folder);
    if (system(command) != 0) // NOLINT(cert-env33-c): a folder that this test made
        fprintf(stderr, "%s is left\n", folder);
    folder[0] = 0;
}
