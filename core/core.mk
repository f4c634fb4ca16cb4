# The core. libcore.la holds everything and is what tests link, internals included; libsharpi.la is the same objects as
# the installed library, where only SHARPI_API functions are visible.

include core/jinja/jinja.mk

noinst_LTLIBRARIES += core/libcore.la
lib_LTLIBRARIES += libsharpi.la

core_libcore_la_CPPFLAGS = $(AM_CPPFLAGS) \
	-DSHARPI_PLUGINDIR='"$(plugindir)"' \
	-DSHARPI_SYSCONFDIR='"$(sysconfdir)"'
core_libcore_la_SOURCES = $(JINJA_SOURCES) \
	core/engine.c \
	core/engine.h \
	core/gguf-file.c \
	core/gguf-foreign.c \
	core/gguf-index.c \
	core/gguf-internal.h \
	core/gguf-parse.c \
	core/gguf-reader.c \
	core/gguf-tensors.c \
	core/gguf.c \
	core/gguf.h \
	core/graph.c \
	core/graph.h \
	core/host.c \
	core/kv-layout.c \
	core/kv-layout.h \
	core/kv-pages-internal.h \
	core/kv-pages.c \
	core/kv-pages.h \
	core/kv-seq.c \
	core/log.c \
	core/log.h \
	core/model-devices.c \
	core/model-file.c \
	core/model-file.h \
	core/model-parts.c \
	core/model-parts.h \
	core/model-place.c \
	core/model-place.h \
	core/model-plan.c \
	core/model-text.c \
	core/model.c \
	core/model.h \
	core/nearest.c \
	core/nearest.h \
	core/plan-internal.h \
	core/plan-json.c \
	core/plan-parse.c \
	core/plan-price.c \
	core/plan-print.c \
	core/plan-ranges.c \
	core/plan-ranges.h \
	core/plan-weights.c \
	core/plan.c \
	core/plan.h \
	core/plugin-find.c \
	core/plugin-offers.c \
	core/plugin-open.c \
	core/plugins-internal.h \
	core/plugins.c \
	core/plugins.h \
	core/pool.c \
	core/pool.h \
	core/prefix-internal.h \
	core/prefix-match.c \
	core/prefix-tree.c \
	core/prefix-tree.h \
	core/prompt-cache.c \
	core/prompt-cache.h \
	core/prompt-file.c \
	core/prompt-file.h \
	core/reasoning.c \
	core/reasoning.h \
	core/sampler-chain.c \
	core/sampler-internal.h \
	core/sampler-lanes.h \
	core/sampler-logits.c \
	core/sampler-penalties.c \
	core/sampler-scan.c \
	core/sampler-select.c \
	core/sampler-stages.c \
	core/sampler-top.c \
	core/sampler-top.h \
	core/sampler.c \
	core/scheduler-disk.c \
	core/scheduler-internal.h \
	core/scheduler-pages.c \
	core/scheduler-request.c \
	core/scheduler-stats.c \
	core/scheduler-step.c \
	core/scheduler-verify.c \
	core/scheduler.c \
	core/scheduler.h \
	core/session.c \
	core/session.h \
	core/settings-files.c \
	core/settings-internal.h \
	core/settings-keys.c \
	core/settings-parse.c \
	core/settings.c \
	core/settings.h \
	core/tokenizer-bpe.c \
	core/tokenizer-detok.c \
	core/tokenizer-ids.c \
	core/tokenizer-internal.h \
	core/tokenizer-load.c \
	core/tokenizer-merge.c \
	core/tokenizer-merges.c \
	core/tokenizer-pre.c \
	core/tokenizer-special.c \
	core/tokenizer-spm.c \
	core/tokenizer-table.c \
	core/tokenizer-utf8.c \
	core/tokenizer.c \
	core/tokenizer.h
core_libcore_la_LIBADD = $(INIH_LIBS) $(PCRE2_LIBS) $(JANSSON_LIBS) $(ZLIB_LIBS) -lm

libsharpi_la_SOURCES =
libsharpi_la_LIBADD = core/libcore.la
libsharpi_la_LDFLAGS = $(AM_LDFLAGS) -no-undefined -version-info $(LIBSHARPI_VERSION_INFO)
