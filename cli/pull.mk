# sharpi pull: models of the catalogue, of a hub, of anywhere. Left out where libcurl or nettle is missing.
if BUILD_PULL
sharpi_SOURCES += \
	cli/cmd-pull.c \
	cli/download.c \
	cli/download.h \
	cli/hub.c \
	cli/hub.h \
	cli/partial.c \
	cli/partial.h
sharpi_LDADD += $(CURL_LIBS)
sharpi_CPPFLAGS += $(CURL_CFLAGS) -DSHARPI_WITH_PULL
endif
