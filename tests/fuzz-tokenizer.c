/* Fuzzing the tokenizer: the first bytes are a GGUF file, the rest is text to encode, stream and decode.
 *
 * The input is: 4 bytes length of the file (little-endian), the file, the text. A file that the reader or the tokenizer
 * refuses ends the run; one that they take must encode any text without losing control of memory, to ids in range.
 */
#include "core/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int32_t condition)
{
    if (!condition)
        abort();
}

static void stream(const struct sharpi_tokenizer *t, const struct sharpi_tokens *ids)
{
    struct sharpi_detokenizer *d = NULL;
    if (sharpi_detokenizer_create(t, SHARPI_DECODE_SPECIAL | SHARPI_DECODE_START, &d, NULL) != SHARPI_OK)
        return;
    for (uint64_t i = 0; i < ids->n; i++) {
        check(ids->ids[i] >= 0 && ids->ids[i] < sharpi_tokenizer_n_tokens(t));
        struct sharpi_str part = sharpi_detokenizer_push(d, ids->ids[i]);
        for (uint64_t k = 0; k < part.n; k++) /* bytes that UTF-8 never has */
            check((uint8_t)part.data[k] != 0xc0 && (uint8_t)part.data[k] < 0xf5);
    }
    sharpi_detokenizer_flush(d);
    sharpi_detokenizer_destroy(d);
}

static void use(const struct sharpi_tokenizer *t, const char *text, uint64_t n)
{
    for (uint32_t flags = 0; flags < 4; flags++) {
        struct sharpi_tokens ids = SHARPI_TOKENS_INIT;
        char *out = NULL;
        uint64_t n_out = 0;
        check(sharpi_tokenizer_encode(t, text, n, flags, &ids, NULL) == SHARPI_OK);
        check(sharpi_tokenizer_decode(t, ids.ids, ids.n, 0, &out, &n_out, NULL) == SHARPI_OK);
        stream(t, &ids);
        free(out);
        sharpi_tokens_free(&ids);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_tokenizer *t = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint32_t n;
    if (size < sizeof n)
        return 0;
    memcpy(&n, data, sizeof n);
    data += sizeof n;
    size -= sizeof n;
    n = n < size ? n : (uint32_t)size;
    if (sharpi_gguf_open_memory(data, n, "fuzz.gguf", SHARPI_GGUF_HEADER_ONLY, &gguf, &err) == SHARPI_OK &&
        sharpi_tokenizer_create(gguf, &t, &err) == SHARPI_OK)
        use(t, (const char *)data + n, size - n);
    sharpi_tokenizer_destroy(t);
    sharpi_gguf_close(gguf);
    return 0;
}
