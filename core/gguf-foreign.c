/* What a file is that this version cannot read as GGUF, so that the message can say what to do about it.
 *
 * Only the first bytes are looked at; nothing here decides that a file is good.
 */
#include "gguf-internal.h"

#include <string.h>
#include <strings.h>

struct signature {
    const char *bytes;
    uint32_t n;
    const char *meaning; /* completes "<path> is ..." */
};

static const struct signature signatures[] = {
    {"PK\3\4", 4, "a zip archive, probably a PyTorch checkpoint; convert the model to GGUF"},
    {"\x80\2", 2, "a Python pickle, probably an old PyTorch checkpoint; convert the model to GGUF"},
    {"\x89HDF", 4, "an HDF5 file (Keras?); convert the model to GGUF"},
    {"lmgg", 4, "a GGML file from before GGUF; convert the original model to GGUF"},
    {"fmgg", 4, "a GGMF file from before GGUF; convert the original model to GGUF"},
    {"tjgg", 4, "a GGJT file from before GGUF; convert the original model to GGUF"},
    {"\x1f\x8b", 2, "compressed with gzip; decompress it first"},
    {"\x28\xb5\x2f\xfd", 4, "compressed with zstd; decompress it first"},
    {"\xfd"
     "7zXZ",
     5, "compressed with xz; decompress it first"},
    {"version https://git-lfs", 23, "a Git LFS pointer, not the model itself; run `git lfs pull`"},
    {"FUGG", 4, "a big-endian GGUF file; only little-endian files can be read: convert it"},
    {"\0\0\0\0\0\0\0\0", 8,
     "zero bytes where a GGUF file has its header (an unfinished download?); download it again"},
};

static int is_html(const char *bytes, uint64_t n)
{
    return (n >= 9 && strncasecmp(bytes, "<!doctype", 9) == 0) ||
           (n >= 5 && strncasecmp(bytes, "<html", 5) == 0);
}

/* safetensors: a 64-bit header length, then a JSON object */
static int is_safetensors(const uint8_t *bytes, uint64_t n)
{
    uint64_t header = 0;
    if (n < 10 || bytes[8] != '{')
        return 0;
    memcpy(&header, bytes, sizeof header);
    return header >= 2 && header <= n - 8;
}

static int is_text(const uint8_t *bytes, uint64_t n)
{
    for (uint64_t i = 0; i < n && i < 256; i++) {
        if (bytes[i] == 0x7f || (bytes[i] < ' ' && !strchr("\t\n\r\f", bytes[i])) || bytes[i] == 0)
            return 0;
    }
    return 1;
}

static const char *describe(const struct sharpi_gguf_part *part)
{
    for (uint64_t i = 0; i < sizeof signatures / sizeof signatures[0]; i++) {
        const struct signature *known = &signatures[i];
        if (part->n_bytes >= known->n && memcmp(part->bytes, known->bytes, known->n) == 0)
            return known->meaning;
    }
    if (is_safetensors(part->bytes, part->n_bytes))
        return "a safetensors file; convert the model to GGUF";
    if (is_html((const char *)part->bytes, part->n_bytes))
        return "a web page; the download led to a page instead of the file";
    if (is_text(part->bytes, part->n_bytes))
        return "a text file, not a GGUF model; give the path of a .gguf file";
    return "not a GGUF file (the first bytes are not \"GGUF\"); give the path of a .gguf file";
}

static int32_t check_version(const struct sharpi_gguf_part *part, struct sharpi_error *err)
{
    uint32_t version;
    memcpy(&version, part->bytes + 4, sizeof version);
    if (version == 2 || version == 3)
        return 0;
    if (version == 1)
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "%s is a GGUF file of version 1 (August 2023); versions 2 and 3 can be read: convert the "
            "original model again with current tools",
            part->shown);
    if (version != 0 && (version & 0xffff) == 0)
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "%s is a big-endian GGUF file (version bytes 0x%08x); only little-endian files can be read: "
            "convert it",
            part->shown, (unsigned)version);
    return sharpi_fail(
        err, SHARPI_ENOTSUP, "%s is a GGUF file of version %u; versions 2 and 3 can be read: %s", part->shown,
        (unsigned)version,
        version == 0 ? "the file is damaged, download it again" : "a newer sharpi may be able to");
}

int32_t sharpi_gguf_check_magic(const struct sharpi_gguf_part *part, struct sharpi_error *err)
{
    if (part->n_bytes == 0)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s is an empty file; download the model again", part->shown);
    if (part->n_bytes < 4 || memcmp(part->bytes, "GGUF", 4) != 0)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s is %s", part->shown, describe(part));
    if (part->n_bytes < 8)
        return sharpi_fail(
            err, SHARPI_EFORMAT,
            "%s: the file ends inside the GGUF header (%llu bytes); it is truncated: download it again",
            part->shown, (unsigned long long)part->n_bytes);
    return check_version(part, err);
}
