#!/bin/sh
# Makes a C file of the chat page:   embed.sh index.html >page-data.c
# Only POSIX tools: od writes the bytes, awk the array.
set -eu
echo '/* Made from server/page/index.html by server/page/embed.sh. */'
echo '#include "server/page.h"'
echo 'const unsigned char page_data[] = {'
od -An -v -tx1 "$1" | awk '{ for (i = 1; i <= NF; i++) printf "0x%s,", $i; print "" }'
echo '};'
echo 'const uint64_t page_size = sizeof page_data;'
