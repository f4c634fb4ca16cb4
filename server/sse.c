/* Server-sent events: see sse.h. */
#include "sse.h"

void sse_json(struct text *out, const char *event, json_t *json)
{
    if (event)
        text_printf(out, "event: %s\n", event);
    text_puts(out, "data: ");
    text_put_json(out, json);
    text_puts(out, "\n\n");
}

void sse_text(struct text *out, const char *text)
{
    text_printf(out, "data: %s\n\n", text);
}

void sse_comment(struct text *out, const char *text)
{
    text_printf(out, ": %s\n\n", text);
}
