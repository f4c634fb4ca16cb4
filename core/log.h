/* Messages of the core and its plugins on their way to the application's callback.
 *
 * Invariant: the callback gets one line of printable text at a time, never from two threads at once, and only levels
 * that were asked for. It must not call back into the engine.
 */
#ifndef SHARPI_CORE_LOG_H
#define SHARPI_CORE_LOG_H

#include <pthread.h>

#include <sharpi/plugin/host.h>
#include <sharpi/sharpi.h>

struct sharpi_log {
    sharpi_log_fn *fn; /* NULL: messages are dropped */
    void *user;
    int32_t level; /* messages above are dropped */
    pthread_mutex_t lock;
};

int32_t sharpi_log_init(struct sharpi_log *log, sharpi_log_fn *fn, void *user, int32_t level);
void sharpi_log_finish(struct sharpi_log *log);
void sharpi_log_text(struct sharpi_log *log, int32_t level, const char *topic, const char *message);
__attribute__((format(printf, 4, 5))) void sharpi_log_printf(struct sharpi_log *log, int32_t level,
                                                             const char *topic, const char *format, ...);

#endif
