#!/bin/sh
# sharpi pull against a server that drops connections, changes files, lies and refuses (tests/tools/flaky-server.py).
set -u
top=${top_builddir:-.}
source=${top_srcdir:-.}
sharpi=$top/sharpi
if ! "$sharpi" pull --help >/dev/null 2>&1; then
    echo "skipped: this build has no 'sharpi pull'"
    exit 77
fi
if ! command -v python3 >/dev/null; then
    echo "skipped: no python3 for the server"
    exit 77
fi
work=$(mktemp -d)
failed=0
mkdir "$work/served" "$work/models"
: >"$work/port"
python3 "$source/tests/tools/flaky-server.py" "$work/served" >"$work/port" &
server=$!
trap 'kill $server 2>/dev/null; rm -rf "$work"' EXIT
tries=0
while [ ! -s "$work/port" ] && [ $tries -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
url=http://127.0.0.1:$(cat "$work/port")
unset HF_TOKEN HF_ENDPOINT SHARPI_CATALOGUE http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
SHARPI_MODEL_DIR=$work/models
no_proxy=127.0.0.1
export SHARPI_MODEL_DIR no_proxy

head -c 150000 /dev/urandom >"$work/served/m.gguf"
for part in 1 2 3; do head -c 5000 /dev/urandom >"$work/served/big-Q8_0-0000$part-of-00003.gguf"; done
head -c 100 /dev/urandom >"$work/served/tiny-Q4_K_M.gguf"
sum=$(sha256sum <"$work/served/m.gguf" | cut -d ' ' -f 1)
wrong=0000000000000000000000000000000000000000000000000000000000000000

problem() {
    echo "FAILED $name: $*"
    sed 's/^/    /' "$work/err"
    failed=1
}

# pull NAME-OF-TEST STATUS TEXT ARGUMENT...: runs with an empty folder; TEXT must be in stderr
pull() {
    rm -rf "$work/models"
    again "$@"
}

# The same without emptying the folder.
again() {
    name=$1
    want=$2
    text=$3
    shift 3
    : >"$work/served/requests.log"
    "$sharpi" pull "$@" >"$work/out" 2>"$work/err"
    got=$?
    [ $got -eq "$want" ] || problem "exit status $got instead of $want"
    [ -z "$text" ] || grep -qF -- "$text" "$work/err" || problem "no \"$text\" in:"
}

# The folder has file $1, equal to served file $2, its path was printed, and nothing else is there.
has() {
    cmp -s "$work/models/$1" "$work/served/$2" || problem "$1 is not what was served"
    [ "$(cat "$work/out")" = "$work/models/$1" ] || problem "printed $(cat "$work/out")"
    [ "$(find "$work/models" -name '*.partial*' | wc -l)" -eq 0 ] || problem "left something partial"
}

has_nothing() {
    [ ! -e "$work/models/m.gguf" ] || problem "a file is there"
    [ ! -s "$work/out" ] || problem "printed $(cat "$work/out")"
}

requests() {
    [ "$(wc -l <"$work/served/requests.log")" -eq "$1" ] || problem "not $1 requests: $(cat "$work/served/requests.log")"
}

pull whole_file 0 "fetching" "$url/plain/m.gguf" --sha256 "$sum"
has m.gguf m.gguf
again second_run_asks_nobody 0 "is there already" "$url/plain/m.gguf" --sha256 "$sum"
requests 0
pull dropped_connections_are_continued 0 "again from" "$url/drop/m.gguf" --sha256 "$sum"
has m.gguf m.gguf
requests 4
grep -q 'bytes=120000-' "$work/served/requests.log" || problem "no Range"
pull without_sum_the_version_is_compared 0 "again from" "$url/drop/m.gguf"
has m.gguf m.gguf
requests 4
pull without_ranges_it_begins_anew 0 "again from" "$url/norange/m.gguf" --sha256 "$sum"
has m.gguf m.gguf
# What arrived of the first version is dropped: the file is the second version, reversed, all of it.
pull changed_file_is_not_mixed 0 "again from" "$url/changing/m.gguf"
python3 -c 'import sys; sys.exit(open(sys.argv[1], "rb").read() != open(sys.argv[2], "rb").read()[::-1])' \
    "$work/models/m.gguf" "$work/served/m.gguf" || problem "two versions are mixed"
pull busy_server_is_asked_again 0 "503" "$url/busy/m.gguf"
has m.gguf m.gguf
pull wrong_sum_is_refused 1 "not the right file" "$url/plain/m.gguf" --sha256 $wrong
has_nothing
[ ! -e "$work/models/m.gguf.partial" ] || problem "the wrong file stays"
pull sum_of_the_hub_is_compared 1 "not the right file" "$url/lies/m.gguf"
has_nothing
pull redirection 0 "" "$url/moved/m.gguf"
has m.gguf m.gguf
pull refusal_says_what_to_do 1 "HF_TOKEN" "$url/refused/m.gguf"
requests 1
pull missing_file 1 "404" "$url/plain/none.gguf"
pull nobody_there 1 "127.0.0.1" --retries 0 "http://127.0.0.1:1/m.gguf"
pull path_in_a_name_is_refused 1 "cannot be a file's name" "$url/plain/%2e%2e"
pull other_protocols_are_refused 1 "" "file:///etc/passwd"
has_nothing
pull output_names_the_file 0 "" -o "$work/models.gguf" "$url/plain/m.gguf"
cmp -s "$work/models.gguf" "$work/served/m.gguf" || problem "not there"

# An interrupted run is continued by the next one.
name=interrupt_keeps_what_arrived
rm -rf "$work/models"
"$sharpi" pull "$url/slow/m.gguf" --sha256 "$sum" >"$work/out" 2>"$work/err" &
pid=$!
tries=0
while [ ! -s "$work/models/m.gguf.partial" ] && [ $tries -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
kill -INT $pid
wait $pid
got=$?
[ $got -eq 130 ] || problem "exit status $got instead of 130"
[ -s "$work/models/m.gguf.partial" ] || problem "nothing is kept"
again the_next_run_goes_on 0 "" "$url/plain/m.gguf" --sha256 "$sum"
has m.gguf m.gguf
grep -q 'bytes=2[0-9]*-' "$work/served/requests.log" || problem "begun anew: $(cat "$work/served/requests.log")"
rm -rf "$work/models"
mkdir "$work/models"
head -c 70000 "$work/served/m.gguf" >"$work/models/m.gguf.partial"
again earlier_run_is_continued 0 "" "$url/plain/m.gguf" --sha256 "$sum"
has m.gguf m.gguf
grep -q 'bytes=70000-' "$work/served/requests.log" || problem "begun anew"
rm "$work/models/m.gguf"
head -c 70000 /dev/zero >"$work/models/m.gguf.partial"
again unknown_version_begins_anew 0 "" "$url/plain/m.gguf"
has m.gguf m.gguf
rm "$work/models/m.gguf"
cp "$work/served/m.gguf" "$work/models/m.gguf.partial"
again complete_partial_file 0 "" "$url/plain/m.gguf" --sha256 "$sum"
has m.gguf m.gguf

# Hub
pull hub_file 0 "" --hub "$url" own-er/models m.gguf
has m.gguf m.gguf
pull hub_part_of_a_name 0 "" --hub "$url" own-er/models q4_k_m
has tiny-Q4_K_M.gguf tiny-Q4_K_M.gguf
pull hub_split_model 0 "" --hub "$url" own-er/models Q8_0
has big-Q8_0-00001-of-00003.gguf big-Q8_0-00001-of-00003.gguf
cmp -s "$work/models/big-Q8_0-00003-of-00003.gguf" "$work/served/big-Q8_0-00003-of-00003.gguf" || problem "no third part"
pull hub_without_file_lists 1 "tiny-Q4_K_M.gguf" --hub "$url" own-er/models
pull hub_wrong_file_suggests 1 "did you mean tiny-Q4_K_M.gguf" --hub "$url" own-er/models tiny-Q4_K_N.gguf
pull hub_unknown_repository 1 "has no repository" --hub "$url" own-er/other x

# Catalogue
cat >"$work/models.ini" <<END
[small-one]
title = A test
file = small.gguf
bytes = 150000
sha256 = $sum
license = none
source.1 = pypi: nothing==1.0
source.2 = $url/lies/none.gguf
source.3 = $url/drop/m.gguf
[wheels]
file = w.gguf
bytes = 1
sha256 = $sum
source.1 = pypi: nothing==1.0
[longer]
file = m.gguf
bytes = 149999
sha256 = $sum
source.1 = $url/plain/m.gguf
[endless]
file = m.gguf
bytes = 150000
sha256 = $sum
source.1 = $url/endless/m.gguf
END
pull catalogue_tries_its_sources 0 "404" --catalogue "$work/models.ini" small-one
has small.gguf m.gguf
pull catalogue_suggests 1 "did you mean 'small-one'" --catalogue "$work/models.ini" smal-one
pull catalogue_of_wheels 1 "fetch-model" --catalogue "$work/models.ini" wheels
pull wrong_size_is_refused 1 "has 150000 bytes" --catalogue "$work/models.ini" longer
pull endless_answer_is_cut 1 "more arrives than" --catalogue "$work/models.ini" endless
has_nothing
printf '[bad]\nfile = ../x\nsha256 = %s\nbytes = 1\nsource.1 = x\n' "$sum" >"$work/bad.ini"
pull catalogue_with_a_path 1 "plain file name" --catalogue "$work/bad.ini" bad
SHARPI_CATALOGUE=$source/data/models.ini again the_real_catalogue_is_sound 0 "" --list
grep -q . "$work/out" || problem "nothing in the catalogue"

pull wrong_option_suggests 2 "did you mean '--sha256'" --sha265 x
pull nothing_named 2 "OWNER/NAME FILE" --quiet
[ $failed -eq 0 ] && echo "pull: all passed"
exit $failed
