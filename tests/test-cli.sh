#!/bin/sh
# The sharpi program from outside: exit statuses, what it says about mistakes, text commands, man pages and completion.
set -u
top=${top_builddir:-.}
source=${top_srcdir:-.}
sharpi=$top/sharpi
shared=${SHARPI_SHARED:-$source/../shared}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
# without backend-cuda, which would say on each run that there is no GPU
export SHARPI_PLUGINS_LOAD="backend-cpu arch-dense arch-gemma4 arch-moe kv-float kv-q8_0"

problem() {
    echo "FAILED $*"
    sed 's/^/    /' "$work/err"
    failed=1
}

# expect STATUS TEXT ARGUMENT...: exit status, and what stderr must say ("" = nothing at all)
expect() {
    want=$1
    text=$2
    shift 2
    "$sharpi" "$@" >"$work/out" 2>"$work/err" </dev/null
    got=$?
    [ $got -eq "$want" ] || problem "sharpi $*: exit status $got instead of $want"
    if [ -z "$text" ]; then
        [ ! -s "$work/err" ] || problem "sharpi $*: says something"
    else
        grep -qF -- "$text" "$work/err" || problem "sharpi $*: no \"$text\" in:"
    fi
}

# prints TEXT ARGUMENT...: succeeds, and stdout is exactly TEXT
prints() {
    wanted=$1
    shift
    expect 0 "" "$@"
    printf '%b' "$wanted" | cmp -s - "$work/out" || problem "sharpi $*: printed $(cat "$work/out")"
}

commands=$("$sharpi" --help | awk '/^Commands:/ { on = 1; next } /^$/ { on = 0 } on { print $1 }')
[ "$(echo "$commands" | wc -w)" -gt 5 ] || problem "--help lists no commands"

# ---- Command lines
expect 0 "" --help
expect 0 "" --version
expect 2 ""
expect 2 "did you mean 'tokenize'" tokenise
expect 2 "unknown command" frobnicate
for command in $commands; do
    expect 0 "" "$command" --help
    expect 2 "did you mean '--help'" "$command" --hepl
done
expect 2 "did you mean '--model'" run --modle x
expect 2 "did you mean '--against'" perplexity --agianst x
expect 2 "needs a value" run --predict
expect 2 "must be" run --predict many
expect 2 "one argument too many" logits a
expect 2 "did you mean '--logits'" bench text --logit 5
expect 2 "add -m" bench text -f "$source/NEWS"
expect 2 "1 to 1000" bench text -r 0
expect 1 "not a GGUF" bench text -m "$source/NEWS"

# ---- Files that are not there or something else
for command in tokenize detokenize; do
    expect 1 "/nonexistent.gguf" $command -m /nonexistent.gguf 1
    expect 1 "not a GGUF" $command -m "$source/NEWS" 1
done
expect 1 "/nonexistent.gguf" inspect /nonexistent.gguf
expect 1 "not a GGUF" inspect "$source/NEWS"
expect 1 "NEWS" run -m "$source/NEWS" -p x
expect 1 "/nonexistent.gguf" run -m /nonexistent.gguf -p x
expect 1 "no model" tokenize x
expect 1 "is a directory" tokenize -m "$work" x

# ---- Full disk and closed pipe, for what is printed in one piece and bit by bit
if [ -w /dev/full ]; then
    for command in $commands; do
        "$sharpi" "$command" --help >/dev/full 2>"$work/err"
        got=$?
        [ $got -eq 1 ] || problem "$command --help with a full disk: exit status $got"
        grep -q 'standard output' "$work/err" || problem "$command --help with a full disk says nothing"
    done
fi
# status_into_closed_pipe ARGUMENT...: the reader is gone before anything is written
status_into_closed_pipe() {
    mkfifo "$work/pipe"
    (
        exec 3>"$work/pipe"
        sleep 0.3
        "$sharpi" "$@" >&3 2>"$work/err"
        echo $? >"$work/status"
    ) &
    head -c 0 <"$work/pipe" >/dev/null
    wait
    rm "$work/pipe"
    got=$(cat "$work/status")
    [ "$got" -eq 141 ] || problem "sharpi $* into a closed pipe: exit status $got"
    [ ! -s "$work/err" ] || problem "sharpi $* into a closed pipe says something"
}
status_into_closed_pipe --help

# ---- A tiny model: run, perplexity
tiny=$work/tiny.gguf
# With a context that is long enough to be interrupted.
if command -v python3 >/dev/null && python3 "$source/examples/make-tiny-model.py" --context 100000 "$tiny"; then
    expect 0 "" run -m "$tiny" -c 128 -t 1 -n 4 --seed 1 hello
    status_into_closed_pipe run -m "$tiny" -c 128 -t 1 -n 4 hello
    status_into_closed_pipe tokenize -m "$tiny" hello
    status_into_closed_pipe bench text --logits 100 -r 1
    expect 0 "" bench text -m "$tiny" -f "$source/LICENSE" --logits 1000 -r 1 --json
    python3 -c 'import json, sys; r = json.load(open(sys.argv[1]))
assert r["logits"] == 1000 and len(r["texts"]) == 3 and all(t["mb_per_s"] > 0 for t in r["texts"]) and all(c["us"] > 0 for c in r["chains"])' \
        "$work/out" 2>"$work/err" || problem "bench text --json"
    if [ -w /dev/full ]; then
        for command in run tokenize; do
            "$sharpi" $command -m "$tiny" -p hello >/dev/full 2>"$work/err"
            got=$?
            [ $got -eq 1 ] || problem "$command with a full disk: exit status $got"
            grep -q 'No space left' "$work/err" || problem "$command does not say that the disk is full"
        done
        expect 1 "No space left" perplexity -q -m "$tiny" -t 1 -c 64 -f "$source/LICENSE" --save /dev/full
    fi

    # Ctrl-C and termination in the middle of an answer
    for status in 130 143; do
        signal=INT
        [ $status -eq 130 ] || signal=TERM
        : >"$work/out"
        "$sharpi" run -m "$tiny" -c 100000 -t 1 -n 99999 --ignore-end hello >"$work/out" 2>"$work/err" &
        pid=$!
        tries=0
        while [ "$(wc -c <"$work/out")" -lt 20 ] && [ $tries -lt 200 ]; do
            sleep 0.05
            tries=$((tries + 1))
        done
        kill -$signal $pid
        wait $pid 2>/dev/null
        got=$?
        [ $got -eq $status ] || problem "run after SIG$signal: exit status $got"
        [ "$(tail -c 1 "$work/out" | od -An -c | tr -d ' ')" = '\n' ] || problem "run after SIG$signal: the line is not ended"
    done

    # Divergence: nothing against itself, something against a coarser cache, no comparison with another text.
    ppl() { expect "$1" "$2" perplexity -q -m "$tiny" -t 1 -c 64 --windows 3 "$3" "$work/saved" -f "$4" --kv "$5"; }
    ppl 0 "" --save "$source/LICENSE" f32
    ppl 0 "" --against "$source/LICENSE" f32
    awk '/^KL divergence/ { exit !($3 < 0.00001) }' "$work/out" || problem "divergence from itself: $(cat "$work/out")"
    grep -q '^same top token 100' "$work/out" || problem "other top tokens than itself: $(cat "$work/out")"
    ppl 0 "" --against "$source/LICENSE" q8_0
    awk '/^KL divergence/ { exit !($3 > 0.00001 && $3 < 0.01) }' "$work/out" || problem "divergence of q8_0: $(cat "$work/out")"
    ppl 1 "another text" --against "$source/README.md" f32
    expect 1 "--save" perplexity -q -m "$tiny" -t 1 -c 64 -f "$source/LICENSE" --against "$source/LICENSE"
    head -c 5000 "$work/saved" >"$work/cut" && mv "$work/cut" "$work/saved"
    ppl 1 "saved" --against "$source/LICENSE" f32

    # template with a vocabulary's tokens
    printf '{{ bos_token }}|{%% for m in messages %%}{{ m.role }}={{ m.content }};{%% endfor %%}{{ tools | length }}' >"$work/t.jinja"
    echo '[{"role": "user", "content": "hi"}]' >"$work/m.json"
    echo '{"messages": [{"role": "user", "content": "hi"}], "tools": [1, 2]}' >"$work/request.json"
    echo '[1]' >"$work/tools.json"
    prints '<bos>|user=hi;1' template -m "$tiny" --file "$work/t.jinja" --messages "$work/m.json" --tools "$work/tools.json"
    prints '<x>|user=hi;2' template --file "$work/t.jinja" --messages "$work/request.json" --bos-token '<x>'
    prints '<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n' \
        template --builtin gemma --messages "$work/m.json" --add-generation-prompt
    expect 1 "no chat template" template -m "$tiny" --messages "$work/m.json"
    expect 1 "m.jinja" template --file "$work/m.jinja" --messages "$work/m.json"
    expect 1 "t.jinja:1" template --builtin chatml --messages "$work/t.jinja"
    expect 1 "did you mean 'chatml'" template --builtin chatlm --messages "$work/m.json"
    echo '{"text": 1}' >"$work/text.json"
    expect 1 "array of messages" template --builtin chatml --messages "$work/text.json"
else
    echo "no python3: tests with a model are left out"
fi

# ---- Recorded vocabularies: every input by its file, its ids in one line, and back
pairs=0
for vocab in "$shared"/data/vocab/*.gguf; do
    [ -r "$vocab.inp" ] || continue
    rm -f "$work"/input.*
    # The texts are separated by a line of their own; each to a file without that line's line ends.
    awk -v to="$work/input." 'BEGIN { n = 100; first = 1 }
        $0 == "__ggml_vocab_test__" { if (first) printf "" >(to n); close(to n); n++; first = 1; next }
        { printf "%s%s", first ? "" : "\n", $0 >(to n); first = 0 }' "$vocab.inp"
    n=100
    while IFS= read -r ids || [ -n "$ids" ]; do
        [ -r "$work/input.$n" ] || break
        "$sharpi" tokenize -m "$vocab" --no-special --file "$work/input.$n" >"$work/out" 2>"$work/err" ||
            problem "tokenize -m $vocab failed for input $n"
        [ "$(tr -s ' \n' ' ' <"$work/out" | sed 's/^ //; s/ $//')" = "$(echo "$ids" | sed 's/^ //; s/ $//')" ] ||
            problem "$vocab: input $n gives $(cat "$work/out") instead of $ids"
        "$sharpi" detokenize -m "$vocab" <"$work/out" >"$work/back" 2>"$work/err" || problem "detokenize failed"
        cmp -s "$work/back" "$work/input.$n" || problem "$vocab: input $n does not come back"
        n=$((n + 1))
        pairs=$((pairs + 1))
    done <"$vocab.out"
    [ $((n - 100)) -eq "$(find "$work" -name 'input.*' | wc -l)" ] || problem "$vocab: not as many texts as lines of ids"
done
[ $pairs -gt 0 ] && echo "$pairs recorded texts"
spm=$shared/data/vocab/ggml-vocab-llama-spm.gguf
if [ -r "$spm" ]; then
    prints '1 15043 29871 2\n' tokenize -m "$spm" "Hello </s>"
    prints '15043 1533 29879 29958\n' tokenize -m "$spm" --no-special "Hello </s>"
    prints '{"ids":[1,15043],"tokens":["<s>","\342\226\201Hello"]}\n' tokenize -m "$spm" --json -p Hello
    prints '2\n' tokenize -m "$spm" --count Hello
    prints 'Hello' detokenize -m "$spm" '[1, 15043]'
    prints '<s>Hello' detokenize -m "$spm" --special 1 15043
    expect 1 "not a token id" detokenize -m "$spm" 1 x
    expect 1 "not in the vocabulary" detokenize -m "$spm" 99999999
    expect 2 "one text at a time" tokenize -m "$spm" -p a b
fi

# ---- sharpi.ini: every key is in it, and what is commented out there could stand there
: >"$work/err"
sed -e "s,@sysconfdir@,$work,g" -e "s,@plugindir@,$work,g" "$source/data/sharpi.ini.in" >"$work/sharpi.ini"
for section in plugins model sampling server backend-cpu backend-cuda; do
    env -u SHARPI_PLUGINS_LOAD "$sharpi" plugins --set "$section.what-there-is=1" 2>&1 | sed -n 's/ (file .*//; s/.*no such key; its keys are: //p' |
        tr -s ', ' '\n'
done >"$work/keys"
[ "$(wc -l <"$work/keys")" -gt 50 ] || problem "the keys of sharpi.ini: $(cat "$work/keys")"
for key in $(tr _ - <"$work/keys"); do
    grep -q "^;$key = \|^;$key =\$" "$work/sharpi.ini" || problem "data/sharpi.ini.in lacks $key"
done
sed 's/^;\(\[.*\]\)$/\1/; s/^;\([a-z.-]* =\)/\1/' "$work/sharpi.ini" >"$work/all.ini"
env -u SHARPI_PLUGINS_LOAD "$sharpi" plugins --config "$work/all.ini" >"$work/out" 2>"$work/err" || problem "sharpi.ini with every key set"

# ---- Man pages and completion name every command and every option of --help, and each page that is made gets installed
options_of() { "$sharpi" "$1" --help | sed -n 's/^  \(-.,\|   \) --\([a-z0-9-]*\).*/\2/p'; }
: >"$work/err"
if [ -r "$top/man/sharpi.1" ]; then
    grep -q 'logits' "$top/man/sharpi-bench-text.1" || problem "no man page of bench text"
    if [ -n "${man_pages:-}" ]; then
        odd=$({ (cd "$top" && ls man/*.1) && echo "$man_pages" | tr -s ' ' '\n'; } | sort | uniq -u)
        [ -z "$odd" ] || problem "made and not in cli/man.mk, or the other way round: $odd"
    fi
    for command in $commands; do
        page=$top/man/sharpi-$command.1
        grep -q "sharpi\\\\-$command" "$top/man/sharpi.1" || problem "sharpi.1 does not mention $command"
        [ -r "$page" ] || { problem "no man page of $command" && continue; }
        for option in $(options_of "$command"); do
            sed 's/\\-/-/g' "$page" | grep -q -- "--$option" || problem "$page lacks --$option"
            sed -n "/^    $command)/,/;;/p" "$top/completion/sharpi" | grep -q "words=.*--$option " ||
                problem "bash completion lacks --$option of $command"
            grep -q -- "--${option}[]['}=+*]" "$top/completion/_sharpi" || problem "zsh completion lacks --$option of $command"
            grep -q -- "_from $command.* -l $option " "$top/completion/sharpi.fish" ||
                problem "fish completion lacks --$option of $command"
        done
    done
    if command -v bash >/dev/null; then
        completes() {
            bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sharpi; echo "${COMPREPLY[*]}"' \
                bash "$top/completion/sharpi" "$@" 2>"$work/err"
        }
        [ "$(completes sharpi toke)" = tokenize ] || problem "bash completes toke to $(completes sharpi toke)"
        [ "$(completes sharpi template --add)" = --add-generation-prompt ] || problem "bash does not complete an option"
        [ "$(completes sharpi run --model "$source/NE")" = "$source/NEWS" ] || problem "bash does not complete a file"
    fi
    if command -v zsh >/dev/null; then zsh -n "$top/completion/_sharpi" 2>"$work/err" || problem "zsh"; fi
    if command -v fish >/dev/null; then fish -n "$top/completion/sharpi.fish" 2>"$work/err" || problem "fish"; fi
else
    echo "no man pages in this build: left out"
fi

[ $failed -eq 0 ] && echo "cli: all passed"
exit $failed
