# The examples are shipped, not built: tests/installcheck-examples.sh builds them against the installed files.
EXTRA_DIST += \
	examples/app-generate/Makefile \
	examples/app-generate/generate.c \
	examples/difference.py \
	examples/make-tiny-model.py \
	examples/plugin-arch-minimal/Makefile \
	examples/plugin-arch-minimal/arch-minimal.c \
	examples/plugin-kv-f16x/Makefile \
	examples/plugin-kv-f16x/kv-f16x.c \
	examples/rename-arch.py \
	tests/installcheck-examples.sh
