/* What the tests of whole plans share: an engine, and files of real geometries without data, written by
 * tools/synth_gguf.py of SHARPI_SHARED (tests/README.md). */
#ifndef SHARPI_TESTS_PLAN_WORLD_H
#define SHARPI_TESTS_PLAN_WORLD_H

#include "core/model.h"

/* All plugins, no settings but `overrides` (NULL-terminated, or NULL). Ends the test when that fails. */
struct sharpi_engine *open_world(const char *const *overrides);

/* 0 when the tool or what it needs (python3, numpy) is missing. */
int synth_present(void);
/* Writes header and tensor list of the geometry, all layers for 0, into the folder of this run; returns the path. With `data`
 * the file gets its full size, a hole of zeroes. */
const char *synth(const char *geometry, uint32_t n_layers, int data);
/* Removes that folder. */
void synth_clean(void);

#endif
