# Sources of the matrix products, per instruction set. backend-cpu.mk makes one object library of each list. Tables are
# tied together by HAVE_AVX2, HAVE_AVX512 and HAVE_AVX512BF16 in matmul.c.
cpu_matmul_common_sources = \
	plugins/backend-cpu/isa.c plugins/backend-cpu/isa.h \
	plugins/backend-cpu/matmul.c plugins/backend-cpu/matmul.h plugins/backend-cpu/matmul-internal.h \
	plugins/backend-cpu/matmul-unpack.c plugins/backend-cpu/matmul-pack.c \
	plugins/backend-cpu/matmul-scalar.c \
	plugins/backend-cpu/dequant.c plugins/backend-cpu/act-quantize.c
cpu_matmul_avx2_sources = \
	plugins/backend-cpu/matmul-avx2.h plugins/backend-cpu/matmul-avx2.c \
	plugins/backend-cpu/matmul-avx2-32.c plugins/backend-cpu/matmul-avx2-k.c \
	plugins/backend-cpu/matmul-avx2-float.c plugins/backend-cpu/act-avx2.c
cpu_matmul_avx512_sources = \
	plugins/backend-cpu/matmul-avx512.h plugins/backend-cpu/matmul-avx512.c \
	plugins/backend-cpu/matmul-avx512-32.c plugins/backend-cpu/matmul-avx512-k.c \
	plugins/backend-cpu/matmul-avx512-float.c plugins/backend-cpu/act-avx512.c
