# sharpi chat and run: sampling options, answers, conversations, line editing.

sharpi_SOURCES += \
	cli/answer.c \
	cli/answer.h \
	cli/chat-commands.c \
	cli/chat-prompt.c \
	cli/chat-prompt.h \
	cli/chat-screen.c \
	cli/chat-turn.c \
	cli/chat.h \
	cli/cmd-chat.c \
	cli/held-tokens.c \
	cli/held-tokens.h \
	cli/line-editor.c \
	cli/line-editor.h \
	cli/sampling.c \
	cli/sampling.h
sharpi_LDADD += $(LIBEDIT_LIBS) $(JANSSON_LIBS)
