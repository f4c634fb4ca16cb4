/* Settings that several backends have, read the same way by each of them. */
#ifndef SHARPI_BACKEND_COMMON_SETTINGS_H
#define SHARPI_BACKEND_COMMON_SETTINGS_H

#include <sharpi/plugin/tensor.h>

/* A size: "12GiB", "12282MiB", "12G", a number of bytes. NULL (not set) leaves *n_bytes alone; 0 and everything else is SHARPI_EINVAL. */
int32_t setting_size(const char *section, const char *key, const char *value, uint64_t *n_bytes,
                     struct sharpi_error *err);

#endif
