/* Malformed GGUF files made by hand. Each breaks one thing; the rest of the file is right. */
#include "gguf-cases.h"

#include <string.h>

/* Not GGUF at all. */

static void empty_file(struct build *b)
{
    build_bytes(b, "", 0);
}

static void text_file(struct build *b)
{
    build_bytes(b, "[model]\ncontext = auto\n", 23);
}

static void html_page(struct build *b)
{
    build_bytes(b, "<!DOCTYPE html><html><body>404</body></html>", 44);
}

static void lfs_pointer(struct build *b)
{
    const char *text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n";
    build_bytes(b, text, strlen(text));
}

static void zip_archive(struct build *b)
{
    build_bytes(b, "PK\3\4", 4);
    build_fill(b, 7, 60);
}

static void pickle(struct build *b)
{
    build_bytes(b, "\x80\2\x8a\n", 4);
    build_fill(b, 1, 60);
}

static void safetensors(struct build *b)
{
    build_u64(b, 32);
    build_bytes(b, "{\"__metadata__\":{\"format\":\"pt\"}}", 32);
}

static void ggjt(struct build *b)
{
    build_bytes(b, "tjgg", 4);
    build_u32(b, 3);
}

static void gzip(struct build *b)
{
    build_bytes(b, "\x1f\x8b\x08\0", 4);
}

static void zeros(struct build *b)
{
    build_fill(b, 0, 4096);
}

static void random_bytes(struct build *b)
{
    for (int i = 0; i < 64; i++)
        build_u8(b, (uint8_t)(i * 37 + 129));
}

static void too_short_for_magic(struct build *b)
{
    build_bytes(b, "GG\1", 3);
}

/* Header. */

static void only_magic(struct build *b)
{
    build_bytes(b, "GGUF", 4);
}

static void version_0(struct build *b)
{
    build_header(b, 0, 0, 0);
}

static void version_1(struct build *b)
{
    build_bytes(b, "GGUF", 4);
    build_u32(b, 1);
    build_u32(b, 0);
    build_u32(b, 0);
}

static void version_4(struct build *b)
{
    build_header(b, 4, 0, 0);
}

static void big_endian(struct build *b)
{
    build_header(b, __builtin_bswap32(3), 0, 0);
}

static void big_endian_magic(struct build *b)
{
    build_bytes(b, "FUGG\0\0\0\3", 8);
    build_fill(b, 0, 16);
}

static void header_cut(struct build *b)
{
    build_bytes(b, "GGUF\3\0\0\0\1\0", 10);
}

static void too_many_values(struct build *b)
{
    build_header(b, 3, 0, 1000);
    build_value_u32(b, "key", 1);
}

static void endless_values(struct build *b)
{
    build_header(b, 3, 0, UINT64_MAX);
}

static void too_many_tensors(struct build *b)
{
    build_header(b, 3, 1ull << 40, 0);
    build_fill(b, 0, 100);
}

static void value_missing(struct build *b)
{
    build_header(b, 3, 0, 2);
    build_value_str(b, "key", "a value that is long enough for two by the count of bytes");
}

/* Keys and values. */

static void empty_key(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_value_u32(b, "", 1);
}

static void nul_in_key(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_u64(b, 3);
    build_bytes(b, "a\0b", 3);
    build_u32(b, SHARPI_GGUF_U32);
    build_u32(b, 0);
}

static void long_key(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_u64(b, 70000);
    build_fill(b, 'k', 70000);
    build_u32(b, SHARPI_GGUF_U8);
    build_u8(b, 0);
}

static void key_past_end(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_u64(b, 1000);
    build_fill(b, 'k', 20);
}

static void key_length_wraps(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_u64(b, UINT64_MAX - 8);
    build_fill(b, 'k', 20);
}

static void duplicate_key(struct build *b)
{
    build_header(b, 3, 0, 3);
    build_value_u32(b, "same", 1);
    build_value_u32(b, "other", 2);
    build_value_u32(b, "same", 3);
}

static void control_characters(struct build *b)
{
    build_header(b, 3, 0, 2);
    build_value_u32(b, "\33[2Jkey\n", 1);
    build_value_u32(b, "\33[2Jkey\n", 1);
}

static void unknown_value_type(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_key(b, "key", 13);
    build_u64(b, 0);
}

static void scalar_cut(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_key(b, "key", SHARPI_GGUF_F64);
    build_u32(b, 0);
}

static void string_past_end(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_key(b, "key", SHARPI_GGUF_STRING);
    build_u64(b, 10);
    build_bytes(b, "nine chars", 9);
}

static void string_length_wraps(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_key(b, "key", SHARPI_GGUF_STRING);
    build_u64(b, UINT64_MAX);
}

static void bool_of_two(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_key(b, "key", SHARPI_GGUF_BOOL);
    build_u8(b, 2);
}

static void bool_array_of_255(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_array(b, "key", SHARPI_GGUF_BOOL, 3);
    build_bytes(b, "\0\1\xff", 3);
}

static void array_past_end(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_array(b, "key", SHARPI_GGUF_U32, 3);
    build_u64(b, 0);
}

static void array_size_wraps(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_array(b, "key", SHARPI_GGUF_U64, 1ull << 61);
    build_u64(b, 0);
}

static void array_of_unknown(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_array(b, "key", 99, 1);
    build_u64(b, 0);
}

static void too_many_strings(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_array(b, "tokenizer.ggml.tokens", SHARPI_GGUF_STRING, 1ull << 32);
    build_str(b, "a");
}

static void string_of_array_past_end(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_array(b, "key", SHARPI_GGUF_STRING, 2);
    build_str(b, "a");
    build_u64(b, 2);
    build_u8(b, 'b');
}

static void array_head_cut(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_key(b, "key", SHARPI_GGUF_ARRAY);
    build_u32(b, SHARPI_GGUF_U8);
    build_u32(b, 0);
}

static void nested_too_deep(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_key(b, "key", SHARPI_GGUF_ARRAY);
    for (int i = 0; i < 1000; i++) {
        build_u32(b, SHARPI_GGUF_ARRAY);
        build_u64(b, 1);
    }
}

static void nested_past_end(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_array(b, "key", SHARPI_GGUF_ARRAY, 1);
    build_u32(b, SHARPI_GGUF_U8);
    build_u64(b, 100);
    build_u8(b, 1);
}

static void nested_of_unknown(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_array(b, "key", SHARPI_GGUF_ARRAY, 1);
    build_u32(b, 13);
    build_u64(b, 0);
}

/* Alignment. */

static void with_alignment(struct build *b, uint32_t alignment)
{
    build_header(b, 3, 0, 1);
    build_value_u32(b, "general.alignment", alignment);
}

static void alignment_0(struct build *b)
{
    with_alignment(b, 0);
}

static void alignment_24(struct build *b)
{
    with_alignment(b, 24);
}

static void alignment_4(struct build *b)
{
    with_alignment(b, 4);
}

static void alignment_huge(struct build *b)
{
    with_alignment(b, 1u << 31);
}

static void alignment_negative(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_key(b, "general.alignment", SHARPI_GGUF_I32);
    build_u32(b, (uint32_t)-32);
}

static void alignment_text(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_value_str(b, "general.alignment", "32");
}

/* Tensors. */

static void empty_name(struct build *b)
{
    build_header(b, 3, 1, 0);
    build_info_1d(b, "", 1, SHARPI_TYPE_F32, 0);
    build_fill(b, 0, 100);
}

static void nul_in_name(struct build *b)
{
    build_header(b, 3, 1, 0);
    build_u64(b, 3);
    build_bytes(b, "a\0b", 3);
    build_fill(b, 1, 100);
}

static void long_name(struct build *b)
{
    build_header(b, 3, 1, 0);
    build_u64(b, 256);
    build_fill(b, 'n', 256);
    build_fill(b, 1, 100);
}

static void name_past_end(struct build *b)
{
    build_header(b, 3, 1, 0);
    build_u64(b, 1ull << 63);
    build_fill(b, 'n', 100);
}

static void duplicate_name(struct build *b)
{
    build_header(b, 3, 2, 0);
    build_info_1d(b, "same", 8, SHARPI_TYPE_F32, 0);
    build_info_1d(b, "same", 8, SHARPI_TYPE_F32, 32);
    build_align(b, 32);
    build_fill(b, 0, 64);
}

static void one_tensor(struct build *b, uint32_t n_dims, const uint64_t *ne, uint32_t type, uint64_t offset)
{
    build_header(b, 3, 1, 0);
    build_info(b, "w", n_dims, ne, type, offset);
    build_align(b, 32);
    build_fill(b, 0, 1024);
}

static void no_dims(struct build *b)
{
    one_tensor(b, 0, NULL, SHARPI_TYPE_F32, 0);
}

static void five_dims(struct build *b)
{
    one_tensor(b, 5, (const uint64_t[]){2, 2, 2, 2, 2}, SHARPI_TYPE_F32, 0);
}

static void endless_dims(struct build *b)
{
    build_header(b, 3, 1, 0);
    build_str(b, "w");
    build_u32(b, UINT32_MAX);
    build_fill(b, 1, 100);
}

static void zero_dim(struct build *b)
{
    one_tensor(b, 2, (const uint64_t[]){32, 0}, SHARPI_TYPE_F32, 0);
}

static void dims_wrap_to_small(struct build *b)
{
    one_tensor(b, 4, (const uint64_t[]){1ull << 32, 1ull << 32, 1, 1}, SHARPI_TYPE_F32, 0);
}

static void bytes_wrap(struct build *b)
{
    one_tensor(b, 1, (const uint64_t[]){1ull << 62}, SHARPI_TYPE_F32, 0);
}

static void negative_dim(struct build *b)
{
    one_tensor(b, 2, (const uint64_t[]){UINT64_MAX, 1}, SHARPI_TYPE_Q8_0, 0);
}

static void row_of_half_a_block(struct build *b)
{
    one_tensor(b, 2, (const uint64_t[]){48, 2}, SHARPI_TYPE_Q8_0, 0);
}

static void k_row_of_128(struct build *b)
{
    one_tensor(b, 2, (const uint64_t[]){128, 2}, SHARPI_TYPE_Q4_K, 0);
}

static void known_foreign_type(struct build *b)
{
    one_tensor(b, 1, (const uint64_t[]){256}, 16, 0);
}

static void unknown_type(struct build *b)
{
    one_tensor(b, 1, (const uint64_t[]){256}, 12345, 0);
}

static void negative_type(struct build *b)
{
    one_tensor(b, 1, (const uint64_t[]){256}, UINT32_MAX, 0);
}

static void misaligned(struct build *b)
{
    one_tensor(b, 1, (const uint64_t[]){8}, SHARPI_TYPE_F32, 16);
}

static void misaligned_for_64(struct build *b)
{
    build_header(b, 3, 1, 1);
    build_value_u32(b, "general.alignment", 64);
    build_info_1d(b, "w", 8, SHARPI_TYPE_F32, 32);
    build_align(b, 64);
    build_fill(b, 0, 1024);
}

static void data_past_end(struct build *b)
{
    one_tensor(b, 1, (const uint64_t[]){257}, SHARPI_TYPE_F32, 0);
}

static void offset_past_end(struct build *b)
{
    one_tensor(b, 1, (const uint64_t[]){8}, SHARPI_TYPE_F32, 1024);
}

static void offset_wraps(struct build *b)
{
    one_tensor(b, 1, (const uint64_t[]){8}, SHARPI_TYPE_F32, UINT64_MAX - 31);
}

static void overlap(struct build *b)
{
    build_header(b, 3, 3, 0);
    build_info_1d(b, "late", 8, SHARPI_TYPE_F32, 128);
    build_info_1d(b, "second", 8, SHARPI_TYPE_F32, 32);
    build_info_1d(b, "first", 9, SHARPI_TYPE_F32, 0);
    build_align(b, 32);
    build_fill(b, 0, 160);
}

static void same_data(struct build *b)
{
    build_header(b, 3, 2, 0);
    build_info_1d(b, "x", 8, SHARPI_TYPE_F32, 0);
    build_info_1d(b, "y", 8, SHARPI_TYPE_F32, 0);
    build_align(b, 32);
    build_fill(b, 0, 64);
}

static void description_cut(struct build *b)
{
    build_header(b, 3, 1, 0);
    build_str(b, "w");
    build_u32(b, 4);
    build_fill(b, 1, 31);
}

/* Split models. */

static void split_in_memory(struct build *b)
{
    build_small_part(b, 0, 3);
}

static void second_part(struct build *b)
{
    build_small_part(b, 1, 3);
}

static void split_no_missing(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_value_u32(b, "split.count", 2);
}

static void split_no_past_count(struct build *b)
{
    build_small_part(b, 3, 3);
}

static void split_count_huge(struct build *b)
{
    build_header(b, 3, 0, 2);
    build_value_u32(b, "split.count", 1000000);
    build_value_u32(b, "split.no", 0);
}

static void split_count_text(struct build *b)
{
    build_header(b, 3, 0, 1);
    build_value_str(b, "split.count", "3");
}

#define BAD(name, message)                                                                                   \
    {                                                                                                        \
#name, name, SHARPI_EFORMAT, message                                                                 \
    }
#define UNSUPPORTED(name, message)                                                                           \
    {                                                                                                        \
#name, name, SHARPI_ENOTSUP, message                                                                 \
    }

const struct gguf_case gguf_cases[] = {
    BAD(empty_file, "is an empty file"),
    BAD(text_file, "is a text file"),
    BAD(html_page, "is a web page"),
    BAD(lfs_pointer, "Git LFS pointer"),
    BAD(zip_archive, "is a zip archive"),
    BAD(pickle, "Python pickle"),
    BAD(safetensors, "is a safetensors file"),
    BAD(ggjt, "is a GGJT file"),
    BAD(gzip, "compressed with gzip"),
    BAD(zeros, "is zero bytes"),
    BAD(random_bytes, "is not a GGUF file"),
    BAD(too_short_for_magic, "is not a GGUF file"),
    BAD(only_magic, "ends inside the GGUF header"),
    UNSUPPORTED(version_0, "version 0"),
    UNSUPPORTED(version_1, "version 1 (August 2023)"),
    UNSUPPORTED(version_4, "version 4; versions 2 and 3 can be read"),
    UNSUPPORTED(big_endian, "big-endian"),
    BAD(big_endian_magic, "big-endian"),
    BAD(header_cut, "ends inside the GGUF header"),
    BAD(too_many_values, "promises 1000 metadata entries"),
    BAD(endless_values, "promises 18446744073709551615 metadata entries"),
    BAD(too_many_tensors, "promises 1099511627776 tensors"),
    BAD(value_missing, "ends inside the key of metadata entry 1"),
    BAD(empty_key, "metadata entry 0 has an empty key"),
    BAD(nul_in_key, "('a?b') contains a NUL byte"),
    BAD(long_key, "has 70000 bytes, the limit of the format is 65535"),
    BAD(key_past_end, "the key of metadata entry 0 is a string of 1000 bytes, but only 20"),
    BAD(key_length_wraps, "is a string of 18446744073709551607 bytes"),
    BAD(duplicate_key, "key 'same' occurs twice, as metadata entries 0 and 2"),
    BAD(control_characters, "key '?[2Jkey?' occurs twice"),
    BAD(unknown_value_type, "the value of key 'key' has type number 13"),
    BAD(scalar_cut, "ends inside the value of key 'key'"),
    BAD(string_past_end, "the value of key 'key' is a string of 10 bytes, but only 9"),
    BAD(string_length_wraps, "is a string of 18446744073709551615 bytes, but only 0"),
    BAD(bool_of_two, "bool with byte 2"),
    BAD(bool_array_of_255, "bool with byte 255"),
    BAD(array_past_end,
        "is an array of 3 elements of type u32, but the 8 bytes left in the file hold at most 2"),
    BAD(array_size_wraps, "is an array of 2305843009213693952 elements of type u64"),
    BAD(array_of_unknown, "has type number 99"),
    BAD(too_many_strings, "'tokenizer.ggml.tokens' is an array of 4294967296 elements of type string"),
    BAD(string_of_array_past_end, "is a string of 2 bytes, but only 1"),
    BAD(array_head_cut, "ends inside the value of key 'key'"),
    BAD(nested_too_deep, "nests arrays more than 4 deep"),
    BAD(nested_past_end, "is an array of 100 elements of type u8"),
    BAD(nested_of_unknown, "has type number 13"),
    BAD(alignment_0, "general.alignment is 0"),
    BAD(alignment_24, "general.alignment is 24; it must be a power of two from 8 to 1048576"),
    BAD(alignment_4, "general.alignment is 4;"),
    BAD(alignment_huge, "general.alignment is 2147483648"),
    BAD(alignment_negative, "key 'general.alignment' holds -32"),
    BAD(alignment_text, "key 'general.alignment' has type string where an integer is needed"),
    BAD(empty_name, "tensor 0 has an empty name"),
    BAD(nul_in_name, "tensor 0 ('a?b') contains a NUL byte"),
    BAD(long_name, "has 256 bytes, the limit is 255"),
    BAD(name_past_end, "the name of tensor 0 is a string of 9223372036854775808 bytes"),
    BAD(duplicate_name, "tensor 'same' occurs twice, as tensors 0 and 1"),
    BAD(no_dims, "tensor 'w' has 0 dimensions, 1 to 4"),
    BAD(five_dims, "tensor 'w' has 5 dimensions"),
    BAD(endless_dims, "tensor 'w' has 4294967295 dimensions"),
    BAD(zero_dim, "dimension 1 of tensor 'w' is 0"),
    BAD(dims_wrap_to_small, "[4294967296, 4294967296, 1, 1], more elements or bytes than 63 bits count"),
    BAD(bytes_wrap, "more elements or bytes than 63 bits count"),
    BAD(negative_dim, "more elements or bytes than 63 bits count"),
    BAD(row_of_half_a_block, "rows of 48 elements, but type q8_0 is stored in blocks of 32"),
    BAD(k_row_of_128, "rows of 128 elements, but type q4_k is stored in blocks of 256"),
    UNSUPPORTED(known_foreign_type, "tensor 'w' has element type 16 (iq2_xxs)"),
    UNSUPPORTED(unknown_type, "tensor 'w' has element type 12345 (unknown)"),
    UNSUPPORTED(negative_type, "element type 4294967295 (unknown)"),
    BAD(misaligned, "tensor 'w' begins at offset 16, which is not a multiple of the alignment 32"),
    BAD(misaligned_for_64, "begins at offset 32, which is not a multiple of the alignment 64"),
    BAD(data_past_end, "the data of tensor 'w' ends at byte 1092, but the file has only 1088"),
    BAD(offset_past_end, "the data of tensor 'w' ends at byte 1120, but the file has only 1088"),
    BAD(offset_wraps, "ends beyond 63 bits"),
    BAD(overlap, "tensors 'first' (offset 0, 36 bytes) and 'second' (offset 32) overlap"),
    BAD(same_data, "overlap"),
    BAD(description_cut, "ends inside the description of tensor 'w'"),
    UNSUPPORTED(split_in_memory, "part 1 of 3 of a split model, which cannot be opened from memory"),
    {"second_part", second_part, SHARPI_EINVAL, "is part 2 of 3 of a split model; open part 1"},
    BAD(split_no_missing, "split.no is missing"),
    BAD(split_no_past_count, "split.no is 3, but split.count is 3"),
    BAD(split_count_huge, "split.count is 1000000, the limit is 65535"),
    BAD(split_count_text, "key 'split.count' has type string where an integer is needed"),
};

const uint64_t n_gguf_cases = sizeof gguf_cases / sizeof gguf_cases[0];
