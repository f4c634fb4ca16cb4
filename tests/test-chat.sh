#!/bin/sh
# sharpi chat and run as scripts use them: lines on standard input, exit status, saved conversations, settings, JSON.
# The model is a tiny random one, so what it says does not matter, only that the same is said again.
set -u
sharpi=${top_builddir:-.}/sharpi
model=${SHARPI_SHARED:-../shared}/fixtures/gemma3.gguf
[ -r "$model" ] || { echo "skipped: no fixtures"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
bad() {
    echo "FAILED $*"
    sed 's/^/    /' "$work/out" "$work/err"
    failed=1
}
# chat STATUS INPUT OPTIONS...: runs, checks the exit status; output is in out and err
chat() {
    want=$1
    input=$2
    shift 2
    printf '%b' "$input" | "$sharpi" chat -m "$model" --template chatml -c 512 -t 1 -n 6 --seed 1 "$@" >"$work/out" 2>"$work/err"
    got=$?
    [ $got -eq "$want" ] || bad "chat $*: exit status $got instead of $want"
}
has() { grep -q -- "$2" "$work/$1" || bad "no '$2' in $1"; }

# Two turns: the second takes the first from the cache; the same seed says the same again.
chat 0 'hello\n/stats\nand more\n/stats\n'
cp "$work/out" "$work/first"
chat 0 'hello\n/stats\nand more\n/stats\n'
grep -v ' in .* s (' "$work/first" >"$work/a"
grep -v ' in .* s (' "$work/out" >"$work/b"
cmp -s "$work/a" "$work/b" || bad 'the same seed said something else'
reused=$(sed -n 's/^prompt.*tokens, \([0-9]*\) of them.*/\1/p' "$work/out" | tail -n 1)
[ "${reused:-0}" -gt 30 ] || bad "the second turn reused ${reused:-no} tokens"

# /save, /reset, /load and /undo.
chat 0 "one\ntwo\n/save $work/saved.json\n"
[ "$(grep -c '"role"' "$work/saved.json")" -eq 4 ] || bad 'not four messages saved'
chat 0 "/load $work/saved.json\n/undo\n/save $work/undone.json\n/reset\n/save $work/empty.json\n"
[ "$(grep -c '"role"' "$work/undone.json")" -eq 2 ] || bad 'not two messages after /undo'
[ "$(cat "$work/empty.json")" = '[]' ] || bad 'messages after /reset'
chat 0 "/system Be brief.\nthree\\\\\nlines \\\\\nhere\n/regen\n//slash\n/save $work/system.json\n/reset\n/save $work/reset.json\n"
grep -q '"content": "three\\nlines \\nhere"' "$work/system.json" || bad 'lines were not joined'
grep -q '"content": "/slash"' "$work/system.json" || bad 'two slashes were not one'
[ "$(grep -c '"role"' "$work/system.json")" -eq 5 ] || bad 'not five messages with a system message'
[ "$(grep -c '"role"' "$work/reset.json")" -eq 1 ] || bad 'the system message did not stay'
chat 0 "/multi\na\nb\n.\n/save $work/multi.json\n"
grep -q '"content": "a\\nb"' "$work/multi.json" || bad '/multi did not join lines'

# A template that opens the reasoning: all of it is reasoning then, marked, hidden, and saved beside the answer.
echo '{% for m in messages %}{{ m.content }}{% endfor %}<think>' >"$work/think.jinja"
chat 0 "hello\n/save $work/think.json\n" --template "$work/think.jinja" --logit-bias 104+1000
has out '^<think>$'
has out '^dddddd$'
grep -q '"reasoning_content": "dddddd"' "$work/think.json" || bad 'reasoning was not saved as such'
chat 0 'hello\n' --template "$work/think.jinja" --logit-bias 104+1000 --hide-reasoning
grep -q d "$work/out" && bad 'reasoning was not hidden'

# What is wrong is said, the chat goes on, and the exit status tells.
chat 1 "/sett temp=1\nhello\n/save $work/after.json\n"
has err 'did you mean /set?'
[ "$(grep -c '"role"' "$work/after.json")" -eq 2 ] || bad 'the chat did not go on'
chat 1 '/set temp=-1\n'
has err 'temperature = -1'
chat 1 '/undo\n'
chat 1 '/regen\n'
printf '[{"role": "user"}]' >"$work/broken.json"
chat 1 "/load $work/broken.json\n"
has err 'has no content'
chat 1 '/load /nowhere/x.json\n'
chat 0 '/quit\nnot said\n'
[ ! -s "$work/out" ] || bad 'something was said after /quit'

# A context that is full says so with numbers, and /reset helps.
chat 1 'hello, this is a long message\nhello, this is a long message\n/reset\nhi\n' -c 120
has err 'context 120 positions'
has err '/reset'

# Command line.
chat 1 '' --template nonsense
has err 'built-in ones are'
chat 2 '' --think --no-think
chat 1 '' --samplers 'top_k;temprature'
has err "did you mean 'temperature'"
printf 'hi\n' | "$sharpi" chat -m "$model" -c 128 >"$work/out" 2>"$work/err" && bad 'no template, no error'
has err '--template'

# run: one JSON object; settings, environment and options; a bias forbids a token.
run() { "$sharpi" run -m "$model" -c 256 -t 1 -n 8 "$@" >"$work/out" 2>"$work/err" || bad "run $*"; }
run --json --seed 7 'ab'
cp "$work/out" "$work/first"
[ "$(wc -l <"$work/out")" -eq 1 ] || bad 'not one line of JSON'
has out '"stop":"'
has out '"seed":7'
python3 -c 'import json, sys; o = json.load(open(sys.argv[1])); assert o["tokens"] <= 8 and o["context"] == 256' "$work/out" ||
    bad 'no JSON'
run --json --seed 7 'ab'
[ "$(sed 's/"prefill_s.*"seed"//' "$work/out")" = "$(sed 's/"prefill_s.*"seed"//' "$work/first")" ] ||
    bad 'the same seed made another text'
run --temp 0 --ignore-end 'ab'
cp "$work/out" "$work/greedy"
SHARPI_SAMPLING_TEMP=0 run --ignore-end --seed 3 'ab'
cmp -s "$work/out" "$work/greedy" || bad 'SHARPI_SAMPLING_TEMP=0 is not greedy'
run --set sampling.top-k=1 --ignore-end --seed 3 'ab'
cmp -s "$work/out" "$work/greedy" || bad 'top-k 1 is not greedy'
run --temp 0 --ignore-end --logit-bias 104+1000 'ab' # the byte 'd': four tokens come before the bytes
[ "$(cat "$work/out")" = dddddddd ] || bad 'a logit bias does not decide'
SHARPI_SAMPLING_TOP_P=x "$sharpi" run -m "$model" ab >"$work/out" 2>"$work/err" && bad 'a wrong setting is no error'
has err 'SHARPI_SAMPLING_TOP_P'

# Ctrl-C in an answer: what was said is there, status 130. Token 1 would end the answer.
mkfifo "$work/lines"
"$sharpi" chat -m "$model" --template chatml -t 1 -c 4096 --logit-bias 1-inf <"$work/lines" >"$work/out" 2>"$work/err" &
pid=$!
exec 3>"$work/lines"
echo 'tell me' >&3
i=0
while [ ! -s "$work/out" ] && [ $i -lt 100 ]; do
    sleep 0.1
    i=$((i + 1))
done
kill -INT $pid
wait $pid
got=$?
exec 3>&-
[ $got -eq 130 ] || bad "Ctrl-C: exit status $got instead of 130"
[ -s "$work/out" ] || bad 'Ctrl-C: nothing was said before'
exit $failed
