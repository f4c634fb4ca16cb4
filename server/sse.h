/* Server-sent events: framing of what a stream says. */
#ifndef SHARPI_SERVER_SSE_H
#define SHARPI_SERVER_SSE_H

#include "text.h"

/* "event: NAME" (unless NULL), "data: " and the JSON on one line, an empty line. Releases `json`; NULL is a failure of `out`. */
void sse_json(struct text *out, const char *event, json_t *json);
/* "data: TEXT": no line ends in it. */
void sse_text(struct text *out, const char *text);
/* What readers skip, to show that the connection lives. */
void sse_comment(struct text *out, const char *text);

#endif
