/* What a chat shows of an answer: dimmed reasoning, and no control characters on a terminal, where a model could otherwise
 * move the cursor, change the title or worse. */
#include <errno.h>
#include <string.h>

#include "chat.h"

static const char dim[] = "\033[2m", plain[] = "\033[0m";

void chat_screen_begin(struct chat_screen *s)
{
    s->dimmed = s->held = s->n_reasoning = 0;
    s->at_line_start = 1;
}

static void put_byte(struct chat_screen *s, unsigned char byte)
{
    int32_t held = s->held;
    s->held = 0;
    if (s->clean) {
        if (held && byte >= 0x80 && byte < 0xa0) /* U+0080 to U+009F: control characters of 8 bits */
            return;
        if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f)
            return;
        if (held)
            fputc(held, stdout);
        if (byte == 0xc2) {
            s->held = byte;
            return;
        }
    }
    fputc(byte, stdout);
    s->at_line_start = byte == '\n';
}

static void end_line(struct chat_screen *s)
{
    if (!s->at_line_start)
        fputc('\n', stdout);
    s->at_line_start = 1;
}

static void begin_reasoning(struct chat_screen *s)
{
    fputs(s->colour ? dim : "<think>\n", stdout);
    s->dimmed = 1;
}

static void end_reasoning(struct chat_screen *s)
{
    if (!s->dimmed)
        return;
    end_line(s);
    fputs(s->colour ? plain : "</think>\n", stdout);
    s->dimmed = 0;
}

int32_t chat_screen_put(struct chat_screen *s, int32_t is_reasoning, const char *text, uint64_t n,
                        struct sharpi_error *err)
{
    if (is_reasoning && s->hide_reasoning)
        return SHARPI_OK;
    for (uint64_t i = 0; i < n; i++) {
        if (is_reasoning && s->n_reasoning == 0 && strchr(" \n", text[i]))
            continue; /* templates begin a block with a new line */
        if (is_reasoning && s->n_reasoning++ == 0)
            begin_reasoning(s);
        else if (!is_reasoning)
            end_reasoning(s);
        put_byte(s, (unsigned char)text[i]);
    }
    return ferror(stdout) ? chat_screen_flush(err) : SHARPI_OK;
}

int32_t chat_screen_flush(struct sharpi_error *err)
{
    return put_text("", 0, err);
}

int32_t chat_screen_end(struct chat_screen *s, struct sharpi_error *err)
{
    end_reasoning(s);
    end_line(s);
    return chat_screen_flush(err);
}
