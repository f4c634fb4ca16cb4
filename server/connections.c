/* Tracking connections: see connections.h. */
#include "connections.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#include "metrics.h"

struct connection {
    struct connections *all;
    struct connection *next, **link;
    int fd;
    int32_t state; /* enum connection_state */
    double since;
};

struct connections {
    const struct server_settings *settings;
    struct metrics *metrics;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    int32_t stop;
    struct connection *first;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double limit_of(const struct server_settings *settings, int32_t state)
{
    switch (state) {
    case CONNECTION_HEAD:
        return settings->idle_timeout;
    case CONNECTION_BODY:
        return settings->body_timeout;
    case CONNECTION_WRITING:
        return settings->write_timeout;
    default:
        return 1e30;
    }
}

/* The descriptor stays open until the connection's thread has told us, so it cannot be another's by now. */
static void end_slow_ones(struct connections *all)
{
    double time = now();
    for (struct connection *c = all->first; c; c = c->next) {
        if (time - c->since > limit_of(all->settings, c->state)) {
            shutdown(c->fd, SHUT_RDWR);
            c->since = time;
            all->metrics->timeouts++;
        }
    }
}

static void *watch(void *user)
{
    struct connections *all = user;
    pthread_mutex_lock(&all->lock);
    while (!all->stop) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += 500000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        pthread_cond_timedwait(&all->wake, &all->lock, &until);
        end_slow_ones(all);
    }
    pthread_mutex_unlock(&all->lock);
    return NULL;
}

int32_t connections_create(const struct server_settings *settings, struct metrics *metrics,
                           struct connections **out, struct sharpi_error *err)
{
    struct connections *all = calloc(1, sizeof *all);
    pthread_condattr_t monotonic;
    if (!all)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for connections");
    all->settings = settings;
    all->metrics = metrics;
    pthread_mutex_init(&all->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&all->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&all->thread, NULL, watch, all)) {
        pthread_cond_destroy(&all->wake);
        pthread_mutex_destroy(&all->lock);
        free(all);
        return sharpi_fail(err, SHARPI_ENOMEM, "cannot start the thread that watches connections");
    }
    *out = all;
    return SHARPI_OK;
}

void connections_destroy(struct connections *all)
{
    if (!all)
        return;
    pthread_mutex_lock(&all->lock);
    all->stop = 1;
    pthread_cond_signal(&all->wake);
    pthread_mutex_unlock(&all->lock);
    pthread_join(all->thread, NULL);
    pthread_cond_destroy(&all->wake);
    pthread_mutex_destroy(&all->lock);
    free(all);
}

/* A peer that vanished without a word is noticed after the write timeout too. */
static void set_options(const struct connections *all, int fd)
{
    unsigned int timeout_ms = all->settings->write_timeout * 1000u;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

static void add(struct connections *all, struct MHD_Connection *mhd, void **context)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct connection *c = info ? calloc(1, sizeof *c) : NULL;
    *context = c;
    if (!c)
        return;
    c->all = all;
    c->fd = info->connect_fd;
    c->since = now();
    set_options(all, c->fd);
    pthread_mutex_lock(&all->lock);
    c->next = all->first;
    c->link = &all->first;
    if (c->next)
        c->next->link = &c->next;
    all->first = c;
    all->metrics->connections++;
    pthread_mutex_unlock(&all->lock);
}

static void drop(struct connections *all, void **context)
{
    struct connection *c = *context;
    if (!c)
        return;
    pthread_mutex_lock(&all->lock);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    all->metrics->connections--;
    pthread_mutex_unlock(&all->lock);
    free(c);
    *context = NULL;
}

void connections_notify(void *all, struct MHD_Connection *mhd, void **context,
                        enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        add(all, mhd, context);
    else
        drop(all, context);
}

struct connection *connection_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

void connection_set(struct connection *c, enum connection_state state)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->all->lock);
    c->state = state;
    c->since = now();
    pthread_mutex_unlock(&c->all->lock);
}

int32_t connection_is_gone(const struct connection *c)
{
    struct pollfd p = {.events = POLLRDHUP};
    if (!c)
        return 0;
    p.fd = c->fd;
    return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL);
}
