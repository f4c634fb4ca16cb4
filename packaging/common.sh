# shellcheck shell=sh
# What quickstart and check share: stage lines, logs, and a source path that autotools can work with.
# Sourced with the source folder as its `top`, absolute. Writes below the build folder and, for odd paths, below the cache.

top=${top:?}
stage_start=0

# Prints what is being done and starts its clock.
stage() {
    stage_start=$(date +%s)
    printf '==> %s\n' "$*"
}

stage_done() {
    printf '    %s (%s s)\n' "${1:-done}" $(($(date +%s) - stage_start))
}

# fail WHAT LOG REMEDY: says what failed, shows the end of the log, and leaves.
fail() {
    {
        printf '\n%s: failed: %s\n' "$(basename "$0")" "$1"
        if [ -n "${2:-}" ] && [ -s "$2" ]; then
            printf 'The end of its log (%s):\n' "$2"
            tail -n "${SHARPI_LOG_LINES:-25}" "$2" | sed 's/^/    /'
        fi
        [ -z "${3:-}" ] || printf 'What to do: %s\n' "$3"
    } >&2
    exit 1
}

# logged LOG COMMAND...: runs with output to LOG and no standard input.
logged() {
    log=$1
    shift
    "$@" >"$log" 2>&1 </dev/null
}

# A folder of ours that only we can write, for links that must not be tampered with.
private_folder() {
    for candidate in "${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/sharpi" "${TMPDIR:-/tmp}/sharpi-$(id -u)" "/tmp/sharpi-$(id -u)"; do
        case $candidate in *[!A-Za-z0-9_./+,:@=-]* | [!/]*) continue ;; esac
        if (umask 077 && mkdir -p "$candidate") 2>/dev/null && [ -O "$candidate" ] && [ -w "$candidate" ]; then
            echo "$candidate"
            return 0
        fi
    done
    fail "finding a folder whose path has no spaces for the build" "" "set TMPDIR to one that you may write to"
}

# use_folders NAME: sets `source` and `build` to paths that configure and libtool accept, whatever the project's own path is.
# With an ordinary path they are the source folder and NAME inside it. Otherwise the source is reached through a link, the build
# folder is real and outside, and NAME becomes a link to it.
use_folders() {
    source=$top
    build=$top/$1
    case $top in
    *[!A-Za-z0-9_./+,:@=-]*)
        key=$(printf '%s' "$top" | cksum | tr ' ' '-')
        safe=$(private_folder)
        source=$safe/src-$key
        build=$safe/$1-$key
        ln -sfn "$top" "$source"
        mkdir -p "$build"
        # The link is a convenience: without it everything still works.
        if [ -L "$top/$1" ] || [ ! -e "$top/$1" ]; then ln -sfn "$build" "$top/$1" 2>/dev/null || :; fi
        printf '    the path has characters that autotools cannot take; building in %s\n' "$build"
        ;;
    esac
    mkdir -p "$build/logs" 2>/dev/null || [ -w "$build/logs" ] ||
        fail "making the build folder $build" "" "it or its parent belongs to another user (an earlier run as root?): remove it or change its owner"
    if [ ! -w "$build" ] || [ ! -w "$build/logs" ]; then
        fail "writing to $build" "" "it belongs to another user (an earlier run as root?): remove it or change its owner"
    fi
}

install_packages() {
    stage "System packages"
    logged "$build/logs/packages.log" "$top/packaging/packages" install build ||
        fail "installing system packages" "$build/logs/packages.log" "$(grep -h 'run: ' "$build/logs/packages.log" | tail -n 1 | sed 's/^packages: //')"
    if [ -s "$build/logs/packages.log" ]; then stage_done "installed"; else stage_done "all there"; fi
}

# Makes configure where the checkout has none. Later changes are noticed by make.
generate_configure() {
    if [ -f "$top/configure" ] && [ -f "$top/Makefile.in" ] && [ -f "$top/build-aux/ltmain.sh" ] &&
        [ -z "$(find "$top/configure.ac" -newer "$top/configure")" ]; then
        return 0
    fi
    stage "Generating configure"
    logged "$build/logs/autogen.log" "$top/autogen.sh" ||
        fail "autoreconf" "$build/logs/autogen.log" "are autoconf >= 2.71, automake >= 1.16 and libtool installed?"
    stage_done
}

# configure_in FOLDER OPTIONS...: configures there, unless that was done with the same options before.
configure_in() {
    folder=$1
    shift
    mkdir -p "$folder/logs"
    wanted="$source $* CC=${CC:-} CFLAGS=${CFLAGS-unset}"
    if [ -f "$folder/Makefile" ] && [ "$(cat "$folder/configured-with" 2>/dev/null)" = "$wanted" ]; then return 0; fi
    (cd "$folder" && logged "$folder/logs/configure.log" "$source/configure" "$@") ||
        fail "configure" "$folder/logs/configure.log" "install what it misses (packaging/packages list), then run $(basename "$0") again"
    printf '%s\n' "$wanted" >"$folder/configured-with"
}

jobs() { nproc 2>/dev/null || echo 2; }
