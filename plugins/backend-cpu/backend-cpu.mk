# The CPU backend. Sources that need an instruction set go into that set's object library and nowhere else.
# plugins/backend-cpu/libcpu.la is the whole plugin less its entry, for tests of the kernels.

EXTRA_DIST += plugins/backend-cpu/isa.h plugins/backend-cpu/matmul.h
