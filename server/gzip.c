/* gzip: see gzip.h. */
#include "gzip.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

enum { PIECE = 16384, GZIP_OR_ZLIB = 32 + MAX_WBITS, GZIP = 16 + MAX_WBITS };

static int32_t unpack(z_stream *stream, uint64_t limit, struct text *out, struct sharpi_error *err)
{
    char piece[PIECE];
    int code = Z_OK;
    while (code == Z_OK) {
        uint64_t made;
        stream->next_out = (Bytef *)piece;
        stream->avail_out = PIECE;
        code = inflate(stream, Z_NO_FLUSH);
        made = PIECE - stream->avail_out;
        if (made > limit - out->n)
            return sharpi_fail(err, SHARPI_EFULL, "the body unpacks to more than %llu bytes",
                               (unsigned long long)limit);
        text_put(out, piece, made);
        if (out->failed)
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory to unpack the body");
    }
    if (code == Z_STREAM_END)
        return SHARPI_OK;
    if (code == Z_MEM_ERROR)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to unpack the body");
    return sharpi_fail(err, SHARPI_EFORMAT, "the body is not gzip: %s",
                       code == Z_BUF_ERROR ? "it ends too early"
                       : stream->msg       ? stream->msg
                                           : "wrong data");
}

int32_t gzip_unpack(const char *data, uint64_t n, uint64_t limit, struct text *out, struct sharpi_error *err)
{
    z_stream stream;
    int32_t status;
    memset(&stream, 0, sizeof stream);
    if (n > UINT32_MAX || out->n > limit)
        return sharpi_fail(err, SHARPI_EFULL, "the body has more than 4 GiB");
    if (inflateInit2(&stream, GZIP_OR_ZLIB) != Z_OK)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to unpack the body");
    stream.next_in = (Bytef *)(uintptr_t)data;
    stream.avail_in = (uInt)n;
    status = unpack(&stream, limit, out, err);
    inflateEnd(&stream);
    return status;
}

int32_t gzip_pack(const char *data, uint64_t n, struct text *out, struct sharpi_error *err)
{
    z_stream stream;
    char piece[PIECE];
    int code = Z_OK;
    memset(&stream, 0, sizeof stream);
    if (n > UINT32_MAX)
        return sharpi_fail(err, SHARPI_EFULL, "more than 4 GiB");
    if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, GZIP, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to pack an answer");
    stream.next_in = (Bytef *)(uintptr_t)data;
    stream.avail_in = (uInt)n;
    while (code == Z_OK && !out->failed) {
        stream.next_out = (Bytef *)piece;
        stream.avail_out = PIECE;
        code = deflate(&stream, Z_FINISH);
        text_put(out, piece, PIECE - stream.avail_out);
    }
    deflateEnd(&stream);
    return code == Z_STREAM_END && !out->failed
               ? SHARPI_OK
               : sharpi_fail(err, SHARPI_ENOMEM, "no memory to pack an answer");
}

int32_t gzip_is_accepted(const char *accept_encoding)
{
    const char *at = accept_encoding ? strcasestr(accept_encoding, "gzip") : NULL;
    const char *end;
    double quality = 1;
    if (!at || (at > accept_encoding && !strchr(" ,\t", at[-1])))
        return 0;
    at += strlen("gzip");
    end = at + strcspn(at, ",");
    at = strstr(at, "q=");
    if (at && at < end)
        quality = strtod(at + 2, NULL);
    return quality > 0;
}
