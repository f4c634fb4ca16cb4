/* The sequence kernel with the waits that compute-sanitizer's racecheck needs to see (sequence-ring.cuh). */
#define SEQUENCE_RACECHECK
#include "../../plugins/backend-cuda/kernels/sequence.cu"
