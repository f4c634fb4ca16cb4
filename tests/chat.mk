# sharpi chat: its parts as a unit test, the program with scripted input, and a session in a terminal (tmux).

check_PROGRAMS += tests/test-chat
tests_test_chat_SOURCES = \
	cli/chat-screen.c \
	cli/command.c \
	cli/progress.c \
	cli/held-tokens.c \
	cli/options.c \
	cli/sampling.c \
	tests/fixtures.c \
	tests/fixtures.h \
	tests/test-chat.c
tests_test_chat_LDADD = $(LDADD) -lm

TESTS += tests/test-chat.sh tests/tools/chat-session.sh
dist_check_SCRIPTS += tests/test-chat.sh tests/tools/chat-session.sh
