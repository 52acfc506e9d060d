#!/bin/sh
# Drafts change no token and no logit: the short form of scripts/check-drafts, which must also notice what differs.
set -u
. tests/app/shell.sh
export HLWQ_PROGRAM="$program"

scripts/check-drafts --help >"$dir/out" || fail "--help"
grep -q -- '--limit' "$dir/out" || fail "--help says nothing of --limit"
for wrong in --nonsense "--limit" "--limit soon" "--book $dir/none"; do
    # shellcheck disable=SC2086 # a list of words
    scripts/check-drafts $wrong >"$dir/out" 2>"$dir/err"
    [ $? -eq 2 ] || fail "$wrong: not exit 2"
done

# A program that says something else as soon as it drafts, and one that says nothing.
cat >"$dir/other" <<END
#!/bin/sh
case "\$*" in *"--draft off"*) seed=1 ;; *) seed=2 ;; esac
exec "$program" "\$@" --temp 1 --seed \$seed
END
printf '#!/bin/sh\nexit 0\n' >"$dir/silent"
chmod +x "$dir/other" "$dir/silent"
for wrong in other silent; do
    HLWQ_PROGRAM="$dir/$wrong" scripts/check-drafts --quick --prompts 1 f16 >"$dir/out" 2>"$dir/err"
    [ $? -eq 1 ] || fail "what the program '$wrong' says was taken for right"
done
scripts/check-drafts --quick --limit 0 f16 >"$dir/out" 2>"$dir/err" && fail "--limit 0 was not over at once"

if [ -r models/demo-q5.hlwq ]; then
    short=f16
    [ -n "${HLWQ_SANITIZE:-}" ] || short="f16 k4v3"
    # shellcheck disable=SC2086
    scripts/check-drafts --quick $short >"$dir/out" 2>"$dir/err" || fail "scripts/check-drafts --quick"
    tail -n 1 "$dir/out"
fi
exit $((failures > 0))
