# What backends share: the graph as a data flow of nodes, steps and memory, and the checks of a batch. Linked into each of them.
noinst_LTLIBRARIES += plugins/backend-common/libflow.la
plugins_backend_common_libflow_la_SOURCES = \
	plugins/backend-common/batch-check.c \
	plugins/backend-common/file.c \
	plugins/backend-common/flow-fuse.c \
	plugins/backend-common/flow-heads.c \
	plugins/backend-common/flow-lower.c \
	plugins/backend-common/flow-place.c \
	plugins/backend-common/flow-schedule.c \
	plugins/backend-common/flow-vectors.c \
	plugins/backend-common/flow.c \
	plugins/backend-common/flow.h \
	plugins/backend-common/scratch.c \
	plugins/backend-common/scratch.h \
	plugins/backend-common/settings.c \
	plugins/backend-common/settings.h
