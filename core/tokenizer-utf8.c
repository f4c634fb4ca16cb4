/* UTF-8, and the alphabet in which byte-level vocabularies spell bytes.
 *
 * Invariant: only what RFC 3629 allows counts as valid: no overlong forms, no surrogates, nothing above U+10FFFF.
 */
#include "tokenizer-internal.h"

/* Length that a lead byte announces, 0 if it cannot lead; *low and *high bound the second byte. */
static uint32_t lead_length(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (lead < 0x80)
        return 1;
    if (lead >= 0xc2 && lead <= 0xdf)
        return 2;
    if (lead >= 0xe0 && lead <= 0xef) {
        if (lead == 0xe0)
            *low = 0xa0;
        if (lead == 0xed)
            *high = 0x9f;
        return 3;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        if (lead == 0xf0)
            *low = 0x90;
        if (lead == 0xf4)
            *high = 0x8f;
        return 4;
    }
    return 0;
}

/* How many of the announced bytes are there and allowed, *length = how many are announced. */
static uint32_t matching_bytes(const char *text, uint64_t n, uint32_t *length)
{
    const uint8_t *bytes = (const uint8_t *)text;
    uint8_t low, high;
    uint32_t i = 1;
    *length = lead_length(bytes[0], &low, &high);
    if (*length == 0)
        return 0;
    for (; i < *length && i < n; i++) {
        if (bytes[i] < (i == 1 ? low : 0x80) || bytes[i] > (i == 1 ? high : 0xbf))
            break;
    }
    return i;
}

uint32_t utf8_length(const char *text, uint64_t n)
{
    uint32_t length;
    if ((uint8_t)text[0] < 0x80)
        return 1;
    return matching_bytes(text, n, &length) == length ? length : 0;
}

uint32_t utf8_incomplete(const char *text, uint64_t n)
{
    uint32_t length;
    if (n == 0 || n > 3)
        return 0;
    uint32_t there = matching_bytes(text, n, &length);
    return there == n && there < length ? there : 0;
}

uint32_t utf8_decode(const char *text, uint32_t length)
{
    const uint8_t *b = (const uint8_t *)text;
    switch (length) {
    case 1:
        return b[0];
    case 2:
        return (b[0] & 0x1fu) << 6 | (b[1] & 0x3fu);
    case 3:
        return (b[0] & 0x0fu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
    default:
        return (b[0] & 0x07u) << 18 | (b[1] & 0x3fu) << 12 | (b[2] & 0x3fu) << 6 | (b[3] & 0x3fu);
    }
}

uint32_t utf8_encode(uint32_t codepoint, char text[4])
{
    if (codepoint < 0x80) {
        text[0] = (char)codepoint;
        return 1;
    }
    uint32_t n = codepoint < 0x800 ? 2 : codepoint < 0x10000 ? 3 : 4;
    for (uint32_t i = n - 1; i > 0; i--) {
        text[i] = (char)(0x80 | (codepoint & 0x3f));
        codepoint >>= 6;
    }
    text[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | codepoint);
    return n;
}

uint64_t utf8_valid_prefix(const char *text, uint64_t n)
{
    uint64_t at = 0;
    while (at < n) {
        uint32_t length = utf8_length(text + at, n - at);
        if (length == 0)
            break;
        at += length;
    }
    return at;
}

/* Printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and on, in order. */
static int32_t is_printable(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

uint32_t byte_to_letter(uint8_t byte)
{
    if (is_printable(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    return byte == 0xad ? 0x143u : 0x121u + (byte - 0x7fu);
}

int32_t letter_to_byte(uint32_t codepoint)
{
    if (codepoint < 0x100)
        return is_printable(codepoint) ? (int32_t)codepoint : -1;
    if (codepoint <= 0x120)
        return (int32_t)(codepoint - 0x100);
    if (codepoint < 0x143)
        return (int32_t)(codepoint - 0x121 + 0x7f);
    return codepoint == 0x143 ? 0xad : -1;
}
