/* Checks that the tests of the GGUF reader share. They print what is wrong, as CUnit shows only the expression. */
#ifndef TESTS_GGUF_CHECK_H
#define TESTS_GGUF_CHECK_H

#include "core/gguf.h"

int succeeded(int32_t status, const struct sharpi_error *err);
int says(const struct sharpi_error *err, const char *part);
/* 1 if the tensor has n_bytes bytes that all are `byte`. */
int is_filled(const struct sharpi_tensor *tensor, uint64_t n_bytes, uint8_t byte);
/* Asserts that the tensors are those of build_small_model. */
void check_small_model(const struct sharpi_gguf *gguf);

#endif
