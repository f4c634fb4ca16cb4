/* Tests of the CUDA kernels against references on the host: test-kernels-cuda [matmul|attention|rows|moe|sequence|experts]... [--bench].
 *
 * Without names all of them run. Exit status: 0 passed, 1 failed, 77 no GPU.
 */
#include <stdio.h>
#include <string.h>

#include <cuda_runtime_api.h>

extern "C" {
int test_matmul(int bench);
int test_attention(int bench);
}
int test_rows(int bench);
int test_moe(int bench);
int test_sequence(int bench);
int test_experts(int bench);

static const struct {
    const char *name;
    int (*run)(int bench);
} areas[] = {{"matmul", test_matmul},
             {"attention", test_attention},
             {"rows", test_rows},
             {"moe", test_moe},
             {"sequence", test_sequence},
             {"experts", test_experts}};

enum { N_AREAS = sizeof areas / sizeof *areas };

/* Which areas the command line names; -1 for a word that is none. */
static int read_arguments(int argc, char **argv, int wanted[N_AREAS], int *bench)
{
    int n = 0;
    for (int i = 1; i < argc; i++) {
        int known = strcmp(argv[i], "--bench") == 0;
        *bench |= known;
        for (int a = 0; a < N_AREAS && !known; a++) {
            known = strcmp(argv[i], areas[a].name) == 0;
            wanted[a] |= known;
            n += known;
        }
        if (!known) {
            fprintf(stderr,
                    "usage: test-kernels-cuda [matmul|attention|rows|moe|sequence|experts]... [--bench]\n");
            return -1;
        }
    }
    for (int a = 0; a < N_AREAS && n == 0; a++)
        wanted[a] = 1;
    return 0;
}

int main(int argc, char **argv)
{
    int wanted[N_AREAS] = {0}, bench = 0, n_devices = 0, n_failed = 0;
    cudaError_t error;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (read_arguments(argc, argv, wanted, &bench))
        return 2;
    error = cudaGetDeviceCount(&n_devices);
    if (error || n_devices == 0) {
        fprintf(stderr, "skipped: no GPU (%s)\n",
                error ? cudaGetErrorString(error) : "the driver knows none");
        return 77;
    }
    for (int a = 0; a < N_AREAS; a++) {
        int failed;
        if (!wanted[a])
            continue;
        failed = areas[a].run(bench) != 0;
        printf("%s: %s\n", areas[a].name, failed ? "FAILED" : "passed");
        n_failed += failed;
    }
    return n_failed ? 1 : 0;
}
