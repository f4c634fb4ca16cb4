# The chat-template interpreter, part of libsharpi; needs jansson.
JINJA_SOURCES = \
	core/chat-template.c \
	core/chat-template.h \
	core/jinja/access.c \
	core/jinja/arena.c \
	core/jinja/arena.h \
	core/jinja/arithmetic.c \
	core/jinja/call.c \
	core/jinja/compare.c \
	core/jinja/eval.c \
	core/jinja/exec.c \
	core/jinja/filters-number.c \
	core/jinja/filters-sequence.c \
	core/jinja/filters-stream.c \
	core/jinja/filters-text.c \
	core/jinja/format.c \
	core/jinja/iterate.c \
	core/jinja/jinja.h \
	core/jinja/json.c \
	core/jinja/lexer.c \
	core/jinja/lexer.h \
	core/jinja/library.c \
	core/jinja/library.h \
	core/jinja/macro.c \
	core/jinja/methods-case.c \
	core/jinja/methods-search.c \
	core/jinja/node.h \
	core/jinja/number.c \
	core/jinja/number.h \
	core/jinja/parser.c \
	core/jinja/parser.h \
	core/jinja/render.h \
	core/jinja/sort.c \
	core/jinja/statements.c \
	core/jinja/template.c \
	core/jinja/tests.c \
	core/jinja/text-ops.c \
	core/jinja/text.c \
	core/jinja/unicode-tables.c \
	core/jinja/unicode.c \
	core/jinja/unicode.h \
	core/jinja/value.c \
	core/jinja/value.h

EXTRA_DIST += core/jinja/make-unicode-tables.py
