# Documentation is shipped with the sources.
EXTRA_DIST += \
	docs/abi.md \
	docs/architecture.md \
	docs/cli.md \
	docs/memory.md \
	docs/plugins.md
