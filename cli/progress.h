/* How far something is: a bar on a terminal, plain lines elsewhere, both on stderr. */
#ifndef SHARPI_CLI_PROGRESS_H
#define SHARPI_CLI_PROGRESS_H

#include <stdint.h>

struct progress {
    const char *what; /* "loading"; borrowed */
    int bar, lines;   /* draw a bar; print a line for each tenth */
    int shown;
    double start, last;
    uint64_t first,
        tenths; /* bytes that were there at the start, for the rate; tenths that have their line */
};

/* With `lines` something is printed where stderr is no terminal too. */
void progress_begin(struct progress *p, const char *what, int quiet, int lines);
/* `total` 0: not known. Cheap enough to be called often. */
void progress_show(struct progress *p, uint64_t done, uint64_t total);
void progress_end(struct progress *p); /* removes the bar */

/* "241.4 MiB" in `text`, which is returned. */
enum { SIZE_TEXT = 32 };
const char *size_text(double bytes, char text[SIZE_TEXT]);

#endif
