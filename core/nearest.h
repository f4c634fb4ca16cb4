/* "Did you mean ...?": the known name that is closest to what somebody wrote. */
#ifndef SHARPI_CORE_NEAREST_H
#define SHARPI_CORE_NEAREST_H

#include <stdint.h>

/* Edit distance (insert, delete, replace, swap neighbours: 1 each); case and '-' against '_' cost nothing. Names longer
 * than 63 bytes are UINT32_MAX away from everything. */
uint32_t sharpi_edit_distance(const char *a, const char *b);

/* The nearest of `n` names (NULL entries are skipped), or NULL when none is near enough to be what was meant (a third of
 * the longer name, at least 1). */
const char *sharpi_nearest(const char *name, const char *const *names, uint32_t n);

#endif
