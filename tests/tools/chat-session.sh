#!/bin/sh
# A scripted terminal session of sharpi chat: three turns, history with the up arrow, Ctrl-C in an answer, /reset, /stats, Ctrl-D.
# Prints what the terminal showed; docs/chat.md has such a capture. Exit status 0 only if each step did what it should.
#
#   SHARPI_MODEL_270M=gemma-3-270m-q4_k_m.gguf tests/tools/chat-session.sh ./sharpi
#
# Needs tmux; without it or the model it exits with 77.
set -eu
sharpi=${1:-${top_builddir:-.}/sharpi}
model=${SHARPI_MODEL_270M:-}
command -v tmux >/dev/null || { echo "skipped: no tmux"; exit 77; }
[ -r "$model" ] || { echo "skipped: SHARPI_MODEL_270M names no model"; exit 77; }
[ -x "$sharpi" ] || { echo "chat-session: no program $sharpi" >&2; exit 2; }

work=$(mktemp -d)
socket=sharpi-chat-$$
screen() { tmux -L "$socket" "$@"; }
# shellcheck disable=SC2317 # called by the trap
finish() {
    screen kill-server 2>/dev/null || :
    rm -rf "$work"
}
trap finish EXIT
shot() { screen capture-pane -p -S - -t chat; }
fail() {
    echo "chat-session: $*; the screen was:" >&2
    shot | sed '/^ *$/d' >&2 || :
    exit 1
}
# Waits for something to be true of the screen.
wait_for() { # WHAT FUNCTION ARGUMENTS
    what=$1
    shift
    i=0
    until "$@"; do
        i=$((i + 1))
        [ $i -lt 600 ] || fail "no $what within a minute"
        sleep 0.1
    done
}
appears() { shot | grep -q -- "$1"; }
# The n-th prompt waits for input: it is the last line and stands alone (tmux cuts blanks at the end).
prompts() { [ "$(shot | grep -c '^>')" -eq "$1" ] && [ "$(shot | sed '/^ *$/d' | tail -n 1)" = '>' ]; }
keys() { screen send-keys -t chat "$@"; }
type_line() {
    keys -l "$1"
    keys Enter
}

ln -s "$(realpath "$model")" "$work/gemma-3-270m.gguf"
ln -s "$(realpath "$sharpi")" "$work/sharpi"
screen -f /dev/null new-session -d -s chat -x 100 -y 60 -c "$work" \
    "env -u NO_COLOR PS1='\$ ' HISTFILE= XDG_STATE_HOME='$work/state' LC_ALL=C.UTF-8 PATH='$work:$PATH' sh"
wait_for 'shell' appears '^\$'
type_line 'sharpi chat -m gemma-3-270m.gguf --template gemma -c 2048 -n 24 -t 2 --seed 2 --temp 0.6 --repeat-penalty 1.15'
wait_for 'first prompt' prompts 1

# Three turns; the third is the second again, from the history.
type_line 'Hello! What is the capital of France?'
wait_for 'first answer' prompts 2
type_line 'And of Italy?'
wait_for 'second answer' prompts 3
keys Up
wait_for 'line from the history' appears '^> And of Italy?$'
keys BSpace BSpace BSpace BSpace BSpace BSpace
type_line 'Spain?'
wait_for 'third answer' prompts 4
type_line '/stats'
wait_for 'statistics' prompts 5
shot | grep -q 'of them from the cache' || fail 'no statistics'
shot | grep -q ' 0 of them from the cache' && fail 'the cache was not used'

# A long answer, interrupted.
type_line '/set predict=1500'
wait_for 'prompt' prompts 6
type_line 'Tell me a long story about a king.'
sleep 1.5
keys C-c
wait_for 'prompt after Ctrl-C' prompts 7
shot | grep -q '^\[interrupted\]' || fail 'the answer was not interrupted'

type_line '/reset'
wait_for 'prompt after /reset' prompts 8
type_line '/set predict=24'
wait_for 'prompt' prompts 9
type_line 'What is the capital of Norway?'
wait_for 'answer after /reset' prompts 10

# Ctrl-C at the prompt asks first; Ctrl-D ends with status 0, the history is private.
keys -l 'never sent'
keys C-c
wait_for 'prompt after Ctrl-C' prompts 11
appears 'Ctrl-C again' || fail 'Ctrl-C at the prompt said nothing'
keys C-d
wait_for 'end' appears '^\$ *$'
type_line "echo status \$?"
wait_for 'exit status' appears '^status 0'
[ "$(stat -c %a "$work/state/sharpi/history")" = 600 ] || fail 'the history is not private'
grep -q 'Italy' "$work/state/sharpi/history" || fail 'the history lacks a line'
shot | sed '/^ *$/d; /^\$ echo status/,$d'
