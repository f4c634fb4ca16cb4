#!/bin/sh
# sharpi serve from outside: HTTP itself, then the openai and anthropic packages, a small load, and the chat page.
# A model of one's own: SHARPI_TEST_MODEL=m.gguf (SHARPI_TEST_TEMPLATE=gemma). Python with the packages: SHARPI_TEST_PYTHON.
set -u
SHARPI=${top_builddir:-.}/sharpi
SHARPI_TEST_MODEL=${SHARPI_TEST_MODEL:-${SHARPI_SHARED:-../shared}/fixtures/gemma3.gguf}
export SHARPI SHARPI_TEST_MODEL
here=${top_srcdir:-.}/tests/server
python=${SHARPI_TEST_PYTHON:-python3}
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE

"$SHARPI" serve --help >/dev/null 2>&1 || { echo "skipped: this build has no server"; exit 77; }
[ -r "$SHARPI_TEST_MODEL" ] || { echo "skipped: no model (SHARPI_TEST_MODEL)"; exit 77; }
command -v "$python" >/dev/null || { echo "skipped: no $python"; exit 77; }

failed=0
skipped=
run() { # SCRIPT ARGUMENT...
    script=$1
    shift
    "$python" "$here/$script" "$@" || failed=1
}
has() { "$python" -c "import $1" 2>/dev/null; }

run protocol.py
run stall.py
# A sanitizer's own allocator cannot be preloaded over.
FAIL_MALLOC=$(cd "${top_builddir:-.}" && pwd)/tests/server/.libs/fail-malloc.so
export FAIL_MALLOC
if [ -r "$FAIL_MALLOC" ] && ! ldd "$SHARPI" | grep -q 'lib[at]san'; then run no-memory.py; fi
if [ -z "${SHARPI_TEST_QUICK:-}" ]; then run load.py --clients 24 --requests 200 --prompts 12 --longest 40; fi
for package in openai anthropic; do
    if has $package; then run "$package-api.py"; else skipped="$skipped $package"; fi
done
if has playwright && "$python" "$here/page.py" --available; then
    run page.py
else
    echo "the chat page is not tested: no playwright or no browser"
fi

[ $failed = 0 ] || exit 1
[ -z "$skipped" ] || { echo "skipped: $python lacks$skipped; a venv with them goes into SHARPI_TEST_PYTHON"; exit 77; }
