/* Lines of a person or a script: with editing and history on a terminal, plain otherwise.
 *
 * Editing comes from libedit (Emacs keys, or what ~/.editrc says); built without it, the terminal's own line editing is used.
 */
#ifndef SHARPI_CLI_LINE_EDITOR_H
#define SHARPI_CLI_LINE_EDITOR_H

#include <sharpi/plugin/tensor.h>

struct line_editor;

enum line_outcome {
    LINE_READ = 0,
    LINE_END = 1,       /* end of input, Ctrl-D */
    LINE_INTERRUPT = 2, /* Ctrl-C; the line is dropped */
    LINE_FAILED = 3,    /* standard input cannot be read, or no memory */
};

/* `terminal`: standard input and output are one, prompts are shown. `history`: file to read now and to write after each
 * line; NULL = none. */
int32_t line_editor_create(int32_t terminal, const char *history, struct line_editor **out,
                           struct sharpi_error *err);
void line_editor_destroy(struct line_editor *editor); /* NULL is fine */

/* *line is new, without its line end: free() it. `interrupted` tells whether a signal came. */
enum line_outcome line_editor_read(struct line_editor *editor, const char *prompt, char **line);

/* ${XDG_STATE_HOME:-~/.local/state}/sharpi/history, folders made where missing; NULL when there is no such place. free() it. */
char *line_history_path(void);

#endif
