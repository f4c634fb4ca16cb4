# Documentation is shipped with the sources.
EXTRA_DIST += \
	bench/RESULTS.md \
	docs/abi.md \
	docs/architecture.md \
	docs/chat.md \
	docs/cli.md \
	docs/memory.md \
	docs/plugins.md \
	docs/server.md
