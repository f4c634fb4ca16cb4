/* See log.h. Text may come from files and plugins, so control characters never reach the callback. */
#include "log.h"

#include <stdarg.h>
#include <string.h>

enum { MESSAGE_BYTES = 2048 };

int32_t sharpi_log_init(struct sharpi_log *log, sharpi_log_fn *fn, void *user, int32_t level)
{
    log->fn = fn;
    log->user = user;
    log->level = level;
    return pthread_mutex_init(&log->lock, NULL) ? SHARPI_ENOMEM : SHARPI_OK;
}

void sharpi_log_finish(struct sharpi_log *log)
{
    pthread_mutex_destroy(&log->lock);
}

/* Cuts to `n` bytes, not inside a UTF-8 character, and makes one printable line of it. */
static void copy_line(char *line, size_t n, const char *message)
{
    size_t length = strnlen(message, n);
    if (length == n) {
        length = n - 1;
        while (length > 0 && ((unsigned char)message[length] & 0xc0) == 0x80)
            length--;
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)message[i];
        line[i] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
    }
    line[length] = '\0';
}

void sharpi_log_text(struct sharpi_log *log, int32_t level, const char *topic, const char *message)
{
    char line[MESSAGE_BYTES];
    if (!log->fn || level > log->level)
        return;
    copy_line(line, sizeof line, message ? message : "");
    pthread_mutex_lock(&log->lock);
    log->fn(log->user, level, topic ? topic : "", line);
    pthread_mutex_unlock(&log->lock);
}

void sharpi_log_printf(struct sharpi_log *log, int32_t level, const char *topic, const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list args;
    if (!log->fn || level > log->level)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    sharpi_log_text(log, level, topic, text);
}
