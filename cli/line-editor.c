/* Reading lines: see line-editor.h. */
#include "line-editor.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#ifdef HAVE_LIBEDIT
#include <histedit.h>
#endif

#include "command.h"

enum { HISTORY_LINES = 1000 };

struct line_editor {
    int32_t terminal;
    const char *prompt;
#ifdef HAVE_LIBEDIT
    char *history_path;
    EditLine *edit;
    History *history;
    mbstate_t decoding; /* of a character that is half read */
#endif
};

/* ---- Where the history is */

/* "mkdir -p" of the folder that `path` is in, for the user only. */
static int make_folders(char *path)
{
    for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        int made;
        *at = 0;
        made = mkdir(path, 0700) == 0 || errno == EEXIST;
        *at = '/';
        if (!made)
            return -1;
    }
    return 0;
}

char *line_history_path(void)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int n = -1;
    if (state && *state == '/') /* the specification says to ignore relative ones */
        n = asprintf(&path, "%s/sharpi/history", state);
    else if (home && *home == '/')
        n = asprintf(&path, "%s/.local/state/sharpi/history", home);
    if (n < 0)
        return NULL;
    if (make_folders(path)) {
        free(path);
        return NULL;
    }
    return path;
}

/* ---- Without editing */

static enum line_outcome read_plain(struct line_editor *e, char **line)
{
    size_t capacity = 0;
    ssize_t n;
    *line = NULL;
    if (e->terminal) {
        fputs(e->prompt, stdout);
        fflush(stdout);
    }
    errno = 0;
    n = getline(line, &capacity, stdin);
    if (n >= 0) {
        if (n > 0 && (*line)[n - 1] == '\n')
            (*line)[n - 1] = 0;
        return LINE_READ;
    }
    free(*line);
    *line = NULL;
    if (interrupted()) {
        clearerr(stdin);
        return LINE_INTERRUPT;
    }
    return feof(stdin) ? LINE_END : LINE_FAILED;
}

#ifdef HAVE_LIBEDIT

/* ---- With libedit */

static struct line_editor *editor_of(EditLine *edit)
{
    void *data = NULL;
    el_get(edit, EL_CLIENTDATA, &data);
    return data;
}

static char *edit_prompt(EditLine *edit)
{
    return (char *)(uintptr_t)editor_of(edit)->prompt;
}

/* libedit's own function goes on reading after a signal; this one gives up, so that Ctrl-C drops the line. */
static int read_character(EditLine *edit, wchar_t *out)
{
    struct line_editor *e = editor_of(edit);
    for (;;) {
        char byte;
        size_t used;
        ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n < 0 && errno == EINTR && !interrupted())
            continue;
        if (n <= 0)
            return (int)n;
        used = mbrtowc(out, &byte, 1, &e->decoding);
        if (used != (size_t)-1 && used != (size_t)-2)
            return 1;
        if (used == (size_t)-1) /* not a character: skip the byte */
            memset(&e->decoding, 0, sizeof e->decoding);
    }
}

/* The history is a convenience: what fails here fails silently, the chat goes on. */
static void open_history(struct line_editor *e, const char *path)
{
    HistEvent event;
    e->history = history_init();
    if (!e->history)
        return;
    history(e->history, &event, H_SETSIZE, HISTORY_LINES);
    history(e->history, &event, H_SETUNIQUE, 1);
    el_set(e->edit, EL_HIST, history, e->history);
    e->history_path = path ? strdup(path) : NULL;
    if (e->history_path)
        history(e->history, &event, H_LOAD, e->history_path);
}

static void remember(struct line_editor *e, const char *line)
{
    HistEvent event;
    mode_t mask;
    if (!e->history || !*line)
        return;
    history(e->history, &event, H_ENTER, line);
    if (!e->history_path)
        return;
    mask = umask(0077); /* prompts are private */
    history(e->history, &event, H_SAVE, e->history_path);
    umask(mask);
}

static int32_t open_edit(struct line_editor *e, const char *history_path, struct sharpi_error *err)
{
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0) /* models speak UTF-8, whatever the system was told */
        setlocale(LC_CTYPE, "C.UTF-8");
    e->edit = el_init("sharpi", stdin, stdout, stderr);
    if (!e->edit)
        return sharpi_fail(err, SHARPI_ENOMEM, "the line editor cannot start on this terminal");
    el_set(e->edit, EL_CLIENTDATA, e);
    el_set(e->edit, EL_PROMPT, edit_prompt);
    el_set(e->edit, EL_EDITOR, "emacs");
    el_set(e->edit, EL_SIGNAL, 0);
    el_set(e->edit, EL_GETCFN, read_character);
    el_set(e->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    open_history(e, history_path);
    el_source(e->edit, NULL);
    return SHARPI_OK;
}

static enum line_outcome read_edited(struct line_editor *e, char **line)
{
    const char *text;
    int n = 0;
    el_resize(e->edit); /* the window may have changed during the answer */
    memset(&e->decoding, 0, sizeof e->decoding);
    text = el_gets(e->edit, &n);
    if (interrupted()) {
        el_reset(e->edit);
        return LINE_INTERRUPT;
    }
    if (!text || n <= 0)
        return n < 0 ? LINE_FAILED : LINE_END;
    *line = strndup(text, strcspn(text, "\n"));
    if (!*line)
        return LINE_FAILED;
    remember(e, *line);
    return LINE_READ;
}

#endif

int32_t line_editor_create(int32_t terminal, const char *history_path, struct line_editor **out,
                           struct sharpi_error *err)
{
    struct line_editor *e = calloc(1, sizeof *e);
    int32_t status = SHARPI_OK;
    if (!e)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a line editor");
    e->terminal = terminal;
#ifdef HAVE_LIBEDIT
    if (terminal)
        status = open_edit(e, history_path, err);
#else
    (void)history_path;
#endif
    if (status) {
        line_editor_destroy(e);
        return status;
    }
    *out = e;
    return SHARPI_OK;
}

void line_editor_destroy(struct line_editor *e)
{
    if (!e)
        return;
#ifdef HAVE_LIBEDIT
    if (e->history)
        history_end(e->history);
    if (e->edit)
        el_end(e->edit);
    free(e->history_path);
#endif
    free(e);
}

enum line_outcome line_editor_read(struct line_editor *e, const char *prompt, char **line)
{
    e->prompt = prompt;
#ifdef HAVE_LIBEDIT
    if (e->edit)
        return read_edited(e, line);
#endif
    return read_plain(e, line);
}
