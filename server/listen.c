/* Listening: see listen.h. */
#include "listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 512 };

static int32_t failed(int fd, const char *what, const char *address, struct sharpi_error *err)
{
    int code = errno;
    if (fd >= 0)
        close(fd);
    return sharpi_fail(err, SHARPI_EIO, "cannot %s %s: %s%s", what, address, strerror(code),
                       code == EADDRINUSE ? "; another program listens there: choose another port with --port"
                       : code == EACCES
                           ? "; ports below 1024 are the system's: choose a higher one with --port"
                           : "");
}

/* ---- TCP */

/* "host:port" apart; both as they are used for getaddrinfo. */
static int32_t split(const char *address, char host[256], char port[16], struct sharpi_error *err)
{
    const char *colon = strrchr(address, ':'), *begin = address, *end = colon;
    if (!colon && address[strspn(address, "0123456789")]) /* a name or number without port */
        return sharpi_fail(err, SHARPI_EINVAL,
                           "listen = %s: give ADDRESS:PORT, as 127.0.0.1:8080 or [::1]:8080", address);
    if (!colon) {
        snprintf(host, 256, "127.0.0.1");
        snprintf(port, 16, "%s", address);
        return SHARPI_OK;
    }
    if (*begin == '[' && colon > begin && colon[-1] == ']') {
        begin++;
        end--;
    } else if (memchr(begin, ':', (size_t)(colon - begin))) {
        return sharpi_fail(err, SHARPI_EINVAL, "listen = %s: an IPv6 address needs brackets, as [::1]:8080",
                           address);
    }
    if (end - begin >= 256 || strlen(colon + 1) >= 16 || !colon[1] ||
        colon[1 + strspn(colon + 1, "0123456789")])
        return sharpi_fail(err, SHARPI_EINVAL, "listen = %s: what follows ':' is no port number", address);
    snprintf(host, 256, "%.*s", (int)(end - begin), begin);
    snprintf(port, 16, "%s", colon + 1);
    return SHARPI_OK;
}

static int32_t is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
    return address->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

static void describe(int fd, char where[128], int32_t *loopback)
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    socklen_t n = sizeof address;
    char host[64] = "?", port[16] = "?";
    if (getsockname(fd, (struct sockaddr *)&address, &n))
        return;
    getnameinfo((struct sockaddr *)&address, n, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(where, 128, address.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    *loopback = is_loopback((struct sockaddr *)&address);
}

static int bind_one(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol), one = 1, zero = 0, code;
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (a->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    code = errno;
    close(fd);
    errno = code;
    return -1;
}

/* Every address is ":port": IPv6's, which takes IPv4 too, where there is one. */
static int32_t open_tcp(const char *address, int *fd, char where[128], int32_t *loopback,
                        struct sharpi_error *err)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *list, *a;
    char host[256], port[16];
    int code, pass;
    int32_t status = split(address, host, port, err);
    if (status)
        return status;
    code = getaddrinfo(*host && strcmp(host, "*") != 0 ? host : NULL, port, &hints, &list);
    if (code)
        return sharpi_fail(err, SHARPI_EINVAL, "listen = %s: %s", address, gai_strerror(code));
    *fd = -1;
    for (pass = 0; pass < 2 && *fd < 0; pass++) {
        for (a = list; a && *fd < 0; a = a->ai_next) {
            if ((a->ai_family == AF_INET6) == (pass == (*host ? 1 : 0)))
                *fd = bind_one(a);
        }
    }
    freeaddrinfo(list);
    if (*fd < 0)
        return failed(-1, "listen on", address, err);
    describe(*fd, where, loopback);
    return SHARPI_OK;
}

/* ---- Unix */

static int32_t open_unix(const char *path, int *fd, char where[128], struct sharpi_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int code;
    if (!*path || strlen(path) >= sizeof address.sun_path)
        return sharpi_fail(err, SHARPI_EINVAL, "listen = unix:%s: a path of 1 to %zu bytes is needed", path,
                           sizeof address.sun_path - 1);
    strcpy(address.sun_path, path);
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return failed(-1, "listen on", path, err);
    code = connect(*fd, (struct sockaddr *)&address, sizeof address) ? errno : 0;
    if (code == 0) {
        errno = EADDRINUSE;
        return failed(*fd, "listen on", path, err);
    }
    close(*fd);
    if (code == ECONNREFUSED) /* left over by a server that is gone */
        unlink(path);
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0 || bind(*fd, (struct sockaddr *)&address, sizeof address) || listen(*fd, BACKLOG))
        return failed(*fd, "listen on", path, err);
    snprintf(where, 128, "unix:%s", path);
    return SHARPI_OK;
}

int32_t listen_open(const char *address, int *fd, char where[128], int32_t *loopback,
                    struct sharpi_error *err)
{
    *loopback = 1;
    if (strncmp(address, "unix:", 5) == 0)
        return open_unix(address + 5, fd, where, err);
    return open_tcp(address, fd, where, loopback, err);
}

void listen_close(int fd, const char *address)
{
    if (fd >= 0)
        close(fd);
    if (strncmp(address, "unix:", 5) == 0)
        unlink(address + 5);
}
