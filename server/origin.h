/* Which web pages may ask: CORS for those on the list, and no to those that only found out where we listen. */
#ifndef SHARPI_SERVER_ORIGIN_H
#define SHARPI_SERVER_ORIGIN_H

#include "exchange.h"

/* 403 for a browser's request from a page that is neither ours nor on the list; and, when only this machine can connect and
 * no key is asked for, for a Host that is not this machine's: a page whose name was pointed to 127.0.0.1 after it was loaded. */
int32_t origin_check(struct exchange *x);
/* The headers that let the browser show the answer to the page. */
void origin_add_headers(const struct exchange *x, struct MHD_Response *response);

/* Of "https://name:port" or "name:port": the name, *n bytes; an address in brackets without them. */
const char *origin_host(const char *text, uint64_t *n);
/* Is it localhost or an IP address? */
int32_t origin_is_local(const char *host, uint64_t n);

#endif
