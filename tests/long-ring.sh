#!/bin/sh
# 32,000 tokens through models with sliding windows: the cache is a ring, so memory must not grow with the tokens.
#
#   tests/long-ring.sh        in a build folder, best of one with --enable-sanitizers; takes minutes
#
# The rings hold 128 positions and wrap 250 times. Peak memory is compared with that of a run of 400 tokens with the same
# context, when every ring has been full. The first model slides in every layer, and three quarters of the tokens are decoded:
# nothing may grow. The second is Gemma 4, where one layer sees everything, mostly prefill: memory may grow by the rows of that
# layer, as the plan counts them, and no more.
set -eu
top=${top_builddir:-.}
source=$(cd "$(dirname "$0")/.." && pwd -P)
shared=${SHARPI_SHARED:-$source/../shared}
sharpi=$top/sharpi
positions=32000
slack=2048 # KiB: 64 bytes a token, for its id, what penalties remember of it, and the sanitizer's share of these
SHARPI_PLUGIN_PATH=${SHARPI_PLUGIN_PATH:-$(cd "$top" && pwd -P)/plugins/.libs}
# The address sanitizer keeps freed blocks, to catch their use; here they would look like growth. It reports leaks at the end.
ASAN_OPTIONS=quarantine_size_mb=0:thread_local_quarantine_size_kb=0:${ASAN_OPTIONS:-}
export SHARPI_PLUGIN_PATH ASAN_OPTIONS

command -v python3 >/dev/null || { echo "skipped: no python3 to make the models" && exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# run_model MODEL LETTERS OPTION...: reads a prompt of so many letters and decodes; sets n_tokens, peak and over_time.
run_model() {
    model=$1
    awk -v n="$2" 'BEGIN { srand(7); for (i = 0; i < n; i++) printf "%c", 97 + int(rand() * 26) }' >"$work/prompt"
    shift 2
    python3 "$source/tests/tools/resident.py" "$work/memory" "$sharpi" run -m "$model" -c $positions --chunk 64 --headroom 64 \
        --raw -f "$work/prompt" --ignore-end --seed 1 --stats "$@" >"$work/out" 2>"$work/err" || {
        status=$?
        tail -n 40 "$work/err"
        echo "FAILED: sharpi run ended with status $status"
        exit 1
    }
    n_tokens=$(sed -n 's/.*prefill \([0-9]*\) tokens.*decode \([0-9]*\) tokens.*/\1 \2/p' "$work/err" | awk '{ print $1 + $2 }')
    read -r peak over_time <"$work/memory"
}

# may_grow MODEL: KiB of the layers that are no rings.
may_grow() {
    "$sharpi" plan -m "$1" -c $positions --chunk 64 --headroom 64 --json | python3 -c '
import json, sys
print(sum(c["bytes"] for c in json.load(sys.stdin)["classes"] if c["positions"] > 128) // 1024)'
}

long_run() { # NAME MODEL LETTERS THREADS
    begin=$(date +%s)
    run_model "$2" 300 -t "$4" -n 100
    short=$peak
    run_model "$2" "$3" -t "$4" -n 0
    allowed=$(may_grow "$2")
    echo "$1: $n_tokens tokens in $(($(date +%s) - begin)) s; peak $short KiB after 400 tokens, $peak KiB now;" \
        "the plan lets $allowed KiB grow; resident over time: $over_time"
    [ "$n_tokens" -ge $positions ] || { echo "FAILED $1: fewer than $positions tokens" && exit 1; }
    [ $((peak - short)) -le $((allowed + slack)) ] || { echo "FAILED $1: memory grows" && exit 1; }
}

python3 "$source/examples/make-tiny-model.py" --context 32768 --window 48 "$work/rings.gguf" llama
long_run rings "$work/rings.gguf" 8000 1 # too small to share

fixture=$shared/fixtures/gemma4-ple.gguf
if [ -r "$fixture" ]; then
    # The same model, said to be made for a longer context.
    python3 -c '
import struct, sys
data, key = bytearray(open(sys.argv[1], "rb").read()), b"gemma4.context_length"
at = data.index(key) + len(key)
assert struct.unpack_from("<I", data, at)[0] == 4  # uint32
struct.pack_into("<I", data, at + 4, 32768)
open(sys.argv[2], "wb").write(data)' "$fixture" "$work/gemma4.gguf"
    long_run gemma4 "$work/gemma4.gguf" 31000 2
else
    echo "no $fixture: left out"
fi
echo "long runs: all passed"
