/* Serving the chat page: see page.h. */
#include "page.h"

#include <string.h>
#include <sys/random.h>

static const char mark[] = "@NONCE@";

int32_t page_print(struct text *out, char nonce[PAGE_NONCE])
{
    const char *at = (const char *)page_data, *end = at + page_size, *next;
    unsigned char random[16];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return -1;
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(nonce + 2 * i, 3, "%02x", random[i]);
    while ((next = memmem(at, (size_t)(end - at), mark, sizeof mark - 1))) {
        text_put(out, at, (uint64_t)(next - at));
        text_puts(out, nonce);
        at = next + sizeof mark - 1;
    }
    text_put(out, at, (uint64_t)(end - at));
    return 0;
}

void page_policy(char policy[PAGE_POLICY], const char *nonce)
{
    snprintf(
        policy, PAGE_POLICY,
        "default-src 'none'; script-src 'nonce-%s'; style-src 'nonce-%s'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        nonce, nonce);
}
