/* A model's file as architecture plugins see it: a GGUF file and memory that lives as long as it does.
 *
 * Invariant: what these functions hand out stays valid until sharpi_model_file_close. Any thread may call them.
 */
#ifndef SHARPI_CORE_MODEL_FILE_H
#define SHARPI_CORE_MODEL_FILE_H

#include <sharpi/plugin/host.h>

#include "gguf.h"

/* `flags` of sharpi_gguf_open. Refuses a file without general.architecture. */
int32_t sharpi_model_file_open(const char *path, uint32_t flags, struct sharpi_model_file **out,
                               struct sharpi_error *err);
/* The same of an opened file, which the model file then owns; on an error it is closed too. */
int32_t sharpi_model_file_adopt(struct sharpi_gguf *gguf, struct sharpi_model_file **out,
                                struct sharpi_error *err);
void sharpi_model_file_close(struct sharpi_model_file *file); /* NULL is fine */
const struct sharpi_gguf *sharpi_model_file_gguf(const struct sharpi_model_file *file);

/* What the host table offers, see host.h. */
int32_t sharpi_model_file_u64(const struct sharpi_model_file *file, const char *key, uint64_t *out,
                              struct sharpi_error *err);
int32_t sharpi_model_file_f64(const struct sharpi_model_file *file, const char *key, double *out,
                              struct sharpi_error *err);
int32_t sharpi_model_file_string(const struct sharpi_model_file *file, const char *key, const char **out,
                                 struct sharpi_error *err);
int32_t sharpi_model_file_array_u64(const struct sharpi_model_file *file, const char *key, uint64_t index,
                                    uint64_t *out, uint64_t *n, struct sharpi_error *err);
int32_t sharpi_model_file_array_f64(const struct sharpi_model_file *file, const char *key, uint64_t index,
                                    double *out, uint64_t *n, struct sharpi_error *err);
const struct sharpi_tensor *sharpi_model_file_tensor(const struct sharpi_model_file *file, const char *name);
void *sharpi_model_file_alloc(const struct sharpi_model_file *file, uint64_t n_bytes);
const char *sharpi_model_file_arch(const struct sharpi_model_file *file);
const char *sharpi_model_file_path(const struct sharpi_model_file *file);

#endif
