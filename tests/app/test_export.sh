#!/bin/sh
# convert --to: what is written for other programs is, read back, the model it was made from, bit for bit.
set -u
. tests/app/shell.sh
source=tests/golden/qwen35/dense-tied
logits() { # MODEL OUTPUT
    "$program" logits -m "$1" --ids-file "$dir/ids" -o "$2" 2>"$dir/err" || fail "logits of $1: $(cat "$dir/err")"
}
seq 1 70 >"$dir/ids"

# 16 bits: the source itself.
"$program" convert "$source" --to bf16 -o "$dir/bf16" -q || fail "convert --to bf16"
logits "$source" "$dir/want"
logits "$dir/bf16" "$dir/got"
cmp -s "$dir/want" "$dir/got" || fail "bf16: other logits than the source's"

# Integers: those that convert --bits writes into a container.
for format in i4 i4z i4g64 i4g64z; do
    "$program" convert "$source" -o "$dir/direct.hlwq" -q --force --bits $format --head-bits 16 --embed-bits 16 ||
        fail "convert --bits $format"
    logits "$dir/direct.hlwq" "$dir/want"
    for to in compressed-tensors gptq; do
        case $to-$format in gptq-*z) continue ;; esac
        rm -rf "$dir/out"
        "$program" convert "$source" --to $to --bits $format -o "$dir/out" -q || fail "convert --to $to --bits $format"
        logits "$dir/out" "$dir/got"
        cmp -s "$dir/want" "$dir/got" || fail "$to, $format: other logits than the container's"
        # And once more, from the container: its integers are taken as they are.
        rm -rf "$dir/again"
        "$program" convert "$dir/direct.hlwq" --to $to --bits $format -o "$dir/again" -q || fail "$to from a container"
        cmp -s "$dir/out/model.safetensors" "$dir/again/model.safetensors" || fail "$to, $format: other files"
        if python3 -c 'import safetensors, numpy' 2>/dev/null; then
            python3 tests/app/check_export.py "$dir/out" "$source" || fail "$to, $format: check_export.py"
        fi
    done
done
# Integers of others, mixtures and columns that are not in their order: kept, so the logits are the source's.
golden=${HLWQ_GOLDEN:-../shared/golden}
for case in gptq/dense-g128-actorder-sym:i4:gptq gptq/dense-g64-asym-v1:i4g64z:compressed-tensors \
    gptq/moe-g64-sym:i4g64:compressed-tensors compressed-tensors/moe-g128-sym-export:i4:gptq; do
    model=$golden/${case%%:*} to=${case##*:} format=${case#*:}
    [ -d "$model" ] || continue
    rm -rf "$dir/out"
    "$program" convert "$model" --to "$to" --bits "${format%:*}" -o "$dir/out" -q || fail "$model --to $to"
    logits "$model" "$dir/want"
    logits "$dir/out" "$dir/got"
    cmp -s "$dir/want" "$dir/got" || fail "$model --to $to: other logits than the source's"
done
"$program" convert "$source" --to gptq --bits i4z -o "$dir/no" -q 2>"$dir/err" && fail "gptq with zero points is written"
grep -q "zero points" "$dir/err" || fail "no sentence: $(cat "$dir/err")"
"$program" convert "$source" --to gptq -o "$dir/out" -q 2>"$dir/err" && fail "an existing directory is written over"

# A repository in the cache, its files links; one that is not there.
hub=$dir/hub/models--some--model
mkdir -p "$hub/blobs" "$hub/snapshots/0123abc" "$hub/refs"
printf 0123abc >"$hub/refs/main"
for file in config.json model.safetensors; do
    cp "$source/$file" "$hub/blobs/$file.blob"
    ln -s "../../blobs/$file.blob" "$hub/snapshots/0123abc/$file"
done
HF_HOME=$dir logits some/model "$dir/got"
logits "$source" "$dir/want"
cmp -s "$dir/want" "$dir/got" || fail "some/model: other logits"
HF_HOME=$dir "$program" info some/other >/dev/null 2>"$dir/err" && fail "some/other is found"
grep -q "hf download some/other" "$dir/err" || fail "no hint: $(cat "$dir/err")"
[ $failures -eq 0 ]
