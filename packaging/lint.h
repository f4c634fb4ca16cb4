/* Put before every source when clang-tidy reads it: its analyzer does not look into variadic functions, so it would not know
 * that sharpi_fail returns the code that it is given, and follow paths that cannot be. */
#include <sharpi/plugin/tensor.h>

#define sharpi_fail(err, code, ...) ((void)sharpi_fail(err, code, __VA_ARGS__), (int32_t)(code))
