/* gzip bodies, both ways, through zlib. */
#ifndef SHARPI_SERVER_GZIP_H
#define SHARPI_SERVER_GZIP_H

#include "text.h"

/* Appends the unpacked bytes. SHARPI_EFULL: more than `limit` (what unpacks without end is cut there); SHARPI_EFORMAT: no gzip
 * or zlib data, or cut off; SHARPI_ENOMEM. */
int32_t gzip_unpack(const char *data, uint64_t n, uint64_t limit, struct text *out, struct sharpi_error *err);
int32_t gzip_pack(const char *data, uint64_t n, struct text *out, struct sharpi_error *err);

/* Whether an Accept-Encoding header (or NULL) takes gzip. */
int32_t gzip_is_accepted(const char *accept_encoding);

#endif
