# The sharpi program from outside: exit statuses, text commands, pull, man pages and completion.
TESTS += tests/test-cli.sh tests/test-pull.sh
dist_check_SCRIPTS += tests/test-cli.sh tests/test-pull.sh
EXTRA_DIST += tests/tools/flaky-server.py
