/* Stop strings in a text that arrives in pieces.
 *
 * Invariant: no byte that is part of a stop string is ever passed on, also when it spans many pieces; what is held back is
 * at most one byte less than the longest stop string, cut at whole UTF-8 characters.
 */
#ifndef SHARPI_SERVER_STOPS_H
#define SHARPI_SERVER_STOPS_H

#include "text.h"

enum { STOPS_MAX = 16, STOP_MAX_BYTES = 1024 };

struct stop_strings {
    uint32_t n;
    char *items[STOPS_MAX]; /* owned; may hold NUL bytes */
    uint64_t sizes[STOPS_MAX];
};

struct stop_matcher {
    const struct stop_strings *strings;
    struct text held;
    int32_t hit;  /* index of the string that was found first, -1 = none yet */
    uint64_t cut; /* bytes from the place of the hit to the end of what was pushed */
};

/* Copies the string. SHARPI_EINVAL when it is empty, too long or one too many; SHARPI_ENOMEM. */
int32_t stop_strings_add(struct stop_strings *strings, const char *text, uint64_t n,
                         struct sharpi_error *err);
void stop_strings_free(struct stop_strings *strings);

void stop_matcher_init(struct stop_matcher *matcher, const struct stop_strings *strings);
void stop_matcher_free(struct stop_matcher *matcher);
/* Adds a piece; what may be passed on is appended to `out`. After a hit nothing is any more. */
void stop_matcher_push(struct stop_matcher *matcher, const char *piece, uint64_t n, struct text *out);
/* The text is over: what was held back is passed on. */
void stop_matcher_end(struct stop_matcher *matcher, struct text *out);

#endif
