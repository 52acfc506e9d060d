#!/bin/sh
# convert: killed at any moment it leaves no broken output; a full disk is a sentence; what it writes runs as the source does.
set -u
. tests/app/shell.sh
source=tests/golden/qwen35/dense-tied

# Killed after so many seconds: the output is absent or complete.
complete=0
for delay in 0 0.003 0.006 0.009 0.012 0.015 0.02 0.025 0.03 0.04 0.06 0.09 0.15 0.4 1.5; do
    rm -f "$dir/killed.hlwq"
    "$program" convert "$source" -o "$dir/killed.hlwq" -q 2>/dev/null &
    pid=$!
    sleep $delay
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    if [ -e "$dir/killed.hlwq" ]; then
        "$program" info "$dir/killed.hlwq" >/dev/null 2>"$dir/err" || fail "killed after $delay s: $(cat "$dir/err")"
        complete=$((complete + 1))
    fi
done
[ $complete -gt 0 ] || fail "convert never finished, even with 1.5 s"

# A later convert removes what dead ones left.
"$program" convert "$source" -o "$dir/killed.hlwq" -q --force || fail "convert after kills"
set -- "$dir"/killed.hlwq.tmp.*
[ ! -e "$1" ] || fail "stale temporary $1"

# A full disk, as a limit on file size: exit 1, the file named, nothing left.
(
    ulimit -f 200
    "$program" convert "$source" -o "$dir/full.hlwq" -q 2>"$dir/err"
)
[ $? -eq 1 ] || fail "full disk: not exit 1"
grep -qF "$dir/full.hlwq" "$dir/err" || fail "full disk: no sentence: $(cat "$dir/err")"
set -- "$dir"/full*
[ ! -e "$1" ] || fail "full disk left $1"

# Without quantising, the container is the directory: the same logits, bit for bit.
"$program" convert "$source" -o "$dir/same.hlwq" -q --bits 0 || fail "convert --bits 0"
seq 1 70 >"$dir/ids"
"$program" logits -m "$source" --ids-file "$dir/ids" -o "$dir/a" 2>/dev/null || fail "logits of the directory"
"$program" logits -m "$dir/same.hlwq" --ids-file "$dir/ids" -o "$dir/b" 2>/dev/null || fail "logits of the container"
cmp -s "$dir/a" "$dir/b" || fail "the container's logits differ from the directory's"

# Integers in groups: named by info, and the same logits from every instruction set.
for format in i4 i4z i4g64 i4g64z; do
    "$program" convert "$source" -o "$dir/$format.hlwq" -q --bits $format || fail "convert --bits $format"
    name=$(echo $format | tr a-z A-Z)
    "$program" info "$dir/$format.hlwq" >"$dir/info" 2>&1
    grep -q "container, .*$name\|[ +]$name[ +]" "$dir/info" || fail "info does not say $name: $(cat "$dir/info")"
    "$program" logits -m "$dir/$format.hlwq" --ids-file "$dir/ids" -o "$dir/c" 2>/dev/null || fail "logits of $format"
    HLWQ_CPU=ref "$program" logits -m "$dir/$format.hlwq" --ids-file "$dir/ids" -o "$dir/d" 2>/dev/null
    cmp -s "$dir/c" "$dir/d" || fail "$format: other logits with HLWQ_CPU=ref"
    cmp -s "$dir/a" "$dir/c" && fail "$format: the logits of the source"
done

# One wrong byte among the weights is found before anything is computed.
size=$(wc -c <"$dir/same.hlwq")
printf '\377' | dd of="$dir/same.hlwq" bs=1 seek=$((size / 2)) conv=notrunc 2>/dev/null
"$program" logits -m "$dir/same.hlwq" --ids-file "$dir/ids" -o "$dir/c" 2>"$dir/err"
[ $? -eq 1 ] || fail "a damaged extent was used"
grep -q 'damaged' "$dir/err" || fail "damage: no sentence: $(cat "$dir/err")"

# Never over its own source, never over something else unasked.
"$program" convert "$source" -o "$dir/killed.hlwq" -q 2>"$dir/err" && fail "an existing file was replaced without --force"
grep -q 'exists' "$dir/err" || fail "existing output: $(cat "$dir/err")"
[ $failures -eq 0 ]
