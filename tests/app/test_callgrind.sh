#!/bin/sh
# Prints how many instructions 32 decoded tokens of the demo model take: a figure that noise does not touch. No limit.
program=$1
command -v valgrind >/dev/null 2>&1 || { echo "skipped: valgrind is not installed"; exit 77; }
[ -z "${HLWQ_SANITIZE:-}" ] || { echo "skipped: a sanitizer is built in"; exit 77; }
[ -f models/demo-q5.hlwq ] || { echo "skipped: models/demo-q5.hlwq is not there"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
count() {
    HLWQ_CPU=avx2 valgrind --tool=callgrind --callgrind-out-file="$dir/out" \
        "$program" run -m models/demo-q5.hlwq -t 1 --temp 0 -q -n "$1" "The old man looked at the sea and" >/dev/null 2>"$dir/err" ||
        { cat "$dir/err"; exit 1; }
    sed -n 's/^summary: *//p; s/^totals: *//p' "$dir/out" | tail -n 1
}
few=$(count 1) || exit 1
many=$(count 33) || exit 1
[ -n "$few" ] && [ -n "$many" ] && [ "$many" -gt "$few" ] || { echo "no count: '$few' '$many'"; exit 1; }
echo "instructions for 32 decoded tokens, HLWQ_CPU=avx2, one thread: $((many - few))"
