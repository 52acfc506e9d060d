# shellcheck shell=sh
# tests/app/shell.sh - read by the tests beside it: a folder of their own, no settings but those of the test run, failures counted.
program=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export XDG_CONFIG_HOME="$dir" XDG_STATE_HOME="$dir/state" LC_ALL=C
for name in $(env | sed -n 's/^\(HLWQ_[A-Z_]*\)=.*/\1/p'); do
    case $name in HLWQ_SANITIZE | HLWQ_DEVICE | HLWQ_CPU) ;; *) unset "$name" ;; esac
done
failures=0

fail() {
    failures=$((failures + 1))
    printf 'FAILED: %s\n' "$*"
    for stream in out err; do
        [ ! -f "$dir/$stream" ] || sed "s/^/    $stream: /" "$dir/$stream"
    done
}

# finish CODE: 0, or 77 where the rest was skipped; 1 where something failed.
finish() {
    [ $failures -eq 0 ] || exit 1
    exit "$1"
}
