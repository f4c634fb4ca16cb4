/* Fetching over HTTP: large files that survive dropped connections, and small texts. */
#ifndef SHARPI_CLI_DOWNLOAD_H
#define SHARPI_CLI_DOWNLOAD_H

#include <sharpi/plugin/tensor.h>

struct download {
    const char *url, *target; /* target: path of the complete file */
    const char *sha256; /* or NULL: taken from the server if it says one (X-Linked-Etag), else not checked */
    const char *token;  /* sent as bearer to the first host only; or NULL */
    uint64_t bytes;     /* 0 = not known */
    uint32_t retries;   /* attempts in a row without a new byte before giving up */
    uint32_t quiet;
};

/* Continues what an earlier run left. On SHARPI_EIO and SHARPI_ECANCELLED what has arrived stays for the next one. */
int32_t download_file(const struct download *d, struct sharpi_error *err);

/* At most `limit` bytes of text, NUL-terminated, free() it. *http_status is the server's (0: none); anything but 200 is
 * SHARPI_EIO. */
int32_t download_text(const char *url, const char *token, uint64_t limit, char **text, long *http_status,
                      struct sharpi_error *err);

/* Before the first and after the last use of the others. */
int32_t download_init(struct sharpi_error *err);
void download_fini(void);

#endif
