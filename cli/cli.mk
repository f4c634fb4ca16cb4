# The sharpi program.
#
# bin_PROGRAMS += sharpi
# sharpi_SOURCES = cli/main.c
# sharpi_LDADD = libsharpi.la
