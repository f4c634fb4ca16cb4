# Sources of attention for backend-cpu.mk: common ones, and those that go into the object library of an ISA.
cpu_attention_common_sources = \
	plugins/backend-cpu/attention-block.c \
	plugins/backend-cpu/attention-c.c \
	plugins/backend-cpu/attention-internal.h \
	plugins/backend-cpu/attention-kernels.h \
	plugins/backend-cpu/attention-run.c \
	plugins/backend-cpu/attention-simd.h \
	plugins/backend-cpu/attention.c \
	plugins/backend-cpu/attention.h
cpu_attention_avx2_sources = \
	plugins/backend-cpu/attention-avx2.c \
	plugins/backend-cpu/attention-avx2.h
cpu_attention_avx512_sources = plugins/backend-cpu/attention-avx512.c
