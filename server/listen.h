/* The listening socket, from what a person writes for an address. */
#ifndef SHARPI_SERVER_LISTEN_H
#define SHARPI_SERVER_LISTEN_H

#include <sharpi/plugin/tensor.h>

/* "127.0.0.1:8080", "localhost:8080", "[::1]:8080", ":8080" (every address), "8080" (this machine only), "unix:/path". Port 0: any
 * that is free. `where` gets what it came to, "127.0.0.1:40123"; `*loopback`: nobody from another machine can connect. */
int32_t listen_open(const char *address, int *fd, char where[128], int32_t *loopback,
                    struct sharpi_error *err);
/* Closes it; of "unix:" the file goes too. */
void listen_close(int fd, const char *address);

#endif
