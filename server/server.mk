# sharpi serve: the HTTP server. Left out where libmicrohttpd is missing.

SERVER_SOURCES = \
	server/auth.c \
	server/auth.h \
	server/connections.c \
	server/connections.h \
	server/embeddings.c \
	server/exchange.c \
	server/exchange.h \
	server/generate.c \
	server/generation.c \
	server/generation.h \
	server/gzip.c \
	server/gzip.h \
	server/handlers.h \
	server/http-error.c \
	server/http-error.h \
	server/info.c \
	server/json-memory.c \
	server/json-memory.h \
	server/json-read.c \
	server/json-read.h \
	server/listen.c \
	server/listen.h \
	server/messages.c \
	server/metrics.c \
	server/metrics.h \
	server/origin.c \
	server/origin.h \
	server/output.c \
	server/output.h \
	server/page.c \
	server/page.h \
	server/parse-chat.c \
	server/parse-completions.c \
	server/parse-messages.c \
	server/prompt.c \
	server/prompt.h \
	server/reply-chat.c \
	server/reply-completions.c \
	server/reply-messages.c \
	server/reply.c \
	server/reply.h \
	server/request.c \
	server/request.h \
	server/respond.c \
	server/route.c \
	server/server.c \
	server/server.h \
	server/settings.c \
	server/settings.h \
	server/sse.c \
	server/sse.h \
	server/stops.c \
	server/stops.h \
	server/stream.c \
	server/text.c \
	server/text.h \
	server/tokens.c

EXTRA_DIST += server/page/embed.sh server/page/index.html

if BUILD_SERVER
noinst_LTLIBRARIES += server/libserver.la
server_libserver_la_SOURCES = $(SERVER_SOURCES)
nodist_server_libserver_la_SOURCES = server/page-data.c
server_libserver_la_CPPFLAGS = $(AM_CPPFLAGS) $(MICROHTTPD_CFLAGS)
server_libserver_la_LIBADD = $(MICROHTTPD_LIBS) $(JANSSON_LIBS) $(ZLIB_LIBS)

sharpi_SOURCES += cli/cmd-serve.c
sharpi_LDADD += server/libserver.la core/libcore.la
sharpi_CPPFLAGS += $(MICROHTTPD_CFLAGS) -DSHARPI_WITH_SERVER

CLEANFILES += server/page-data.c
server/page-data.c: server/page/index.html server/page/embed.sh
	$(AM_V_GEN)$(MKDIR_P) server && $(SHELL) '$(srcdir)/server/page/embed.sh' '$(srcdir)/server/page/index.html' >$@.new && mv $@.new $@
endif
