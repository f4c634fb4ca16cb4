#!/bin/sh
# sharpi-plugin-check finds what is wrong with the broken plugins of tests/plugins, and nothing with sound ones.
set -u
top=${top_builddir:-.}
check=$top/sharpi-plugin-check
plugins=$top/tests/plugins/.libs
failed=0

# expect STATUS FILE TEXT...: exit status, and lines that the output must have
expect() {
    status=$1
    file=$2
    shift 2
    output=$("$check" "$file" 2>/dev/null)
    got=$?
    if test $got -ne "$status"; then
        echo "FAILED $file: exit status $got instead of $status"
        failed=1
    fi
    for text; do
        case $output in
        *"$text"*) ;;
        *)
            echo "FAILED $file: no \"$text\" in:"
            echo "$output"
            failed=1
            ;;
        esac
    done
}

expect 0 "$plugins/good.so" 'backend good-backend (no device), architecture good-arch, KV format good-kv' \
    'ok      frees its memory' 'all is well'
expect 0 "$plugins/small-table.so" 'all is well'
expect 1 "$plugins/careless.so" 'FAILED  exports nothing else: careless_helper' \
    'FAILED  init when memory runs out after 0 allocations'
expect 1 "$plugins/uses-core.so" 'FAILED  needs nothing of libsharpi: sharpi_version'
expect 1 "$plugins/no-entry.so" 'FAILED  exports sharpi_plugin_entry'
expect 1 "$plugins/bad-magic.so" 'not a sharpi plugin: its table begins with 0x12345678'
expect 1 "$plugins/incomplete-arch.so" "its architecture lacks the required member 'build'"
expect 1 "$plugins/offers-nothing.so" 'FAILED  offers: nothing is registered'
expect 1 "$plugins/not-there.so"
expect 1 "$0" 'FAILED  is a shared object for this machine' 'not an ELF file'
expect 2 --wrong

# Those that are built and installed.
for plugin in "$top"/plugins/.libs/*.so; do
    case $plugin in *'*'*) continue ;; esac
    expect 0 "$plugin" 'all is well'
done
exit $failed
