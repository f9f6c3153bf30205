#!/usr/bin/env bash
# Runs every fuzz target in fuzz/Cargo.toml for SECONDS each, from its seeds; stops at the first finding.
# usage: scripts/fuzz-smoke.sh [SECONDS] [TARGET...]
set -euo pipefail

seconds=${1:-60}
if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 [SECONDS] [TARGET...]" >&2
    exit 64
fi
cd "$(dirname "$0")/.."
targets=("${@:2}")
if [[ ${#targets[@]} -eq 0 ]]; then
    # The names of the [[bin]] tables.
    mapfile -t targets < <(awk '/^\[/ { bin = ($0 == "[[bin]]") } bin && /^name *=/ { gsub(/"/, "", $3); print $3 }' fuzz/Cargo.toml)
fi
if [[ ${#targets[@]} -eq 0 ]]; then
    echo "no fuzz targets in fuzz/Cargo.toml" >&2
    exit 1
fi
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked

# libFuzzer needs the compiler's unstable instrumentation; this opens it on a stable compiler.
export RUSTC_BOOTSTRAP=1
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target" "fuzz/seeds/$target"
    echo "== $target: $seconds s"
    cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -verbosity=0 -print_final_stats=1
done
echo "no findings in ${#targets[@]} target(s)"
