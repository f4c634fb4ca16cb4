#!/bin/sh
# difference.sh A B MIN MAX: the largest difference of two files of float32 must lie in [MIN, MAX].
set -eu
[ "$(wc -c <"$1")" = "$(wc -c <"$2")" ] || { echo "$1 and $2 differ in size" >&2 && exit 1; }
# od may be told to print one number a line; the shell's substitution of processes is not to be had everywhere.
od -An -v -t f4 -w4 "$1" >"$1.txt"
od -An -v -t f4 -w4 "$2" | paste "$1.txt" - | awk -v min="$3" -v max="$4" '
    { d = $1 - $2; if (d < 0) d = -d; if (!(d <= 1e30)) bad = 1; if (d > most) most = d }
    END { printf "largest difference of logits %g, allowed %g to %g\n", most, min, max
          exit !(NR && !bad && most >= min && most <= max) }' || { rm -f "$1.txt" && exit 1; }
rm -f "$1.txt"
