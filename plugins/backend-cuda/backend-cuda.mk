# The CUDA backend: C files are host logic with the runtime's C API, .cu files hold kernels and their launchers.
