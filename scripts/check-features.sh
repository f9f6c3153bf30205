#!/usr/bin/env bash
# Every feature must build on its own, and none must be needed by another that does not name it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for features in "" cpu cuda opencl deploy server cli cpu,server; do
    echo "features: ${features:-none}"
    cargo clippy --quiet --locked --lib --bins --no-default-features --features "$features" -- -D warnings
done

# An embedder of the CPU backend gets a small tree. The bound is what it was, with a little room.
most=60
count=$(cargo tree --locked --no-default-features --features cpu --edges normal --prefix none | sort -u | wc -l)
echo "crates in the tree of feature 'cpu': $count"
if [ "$count" -gt "$most" ]; then
    echo "error: the tree of feature 'cpu' has $count crates, at most $most are allowed" >&2
    exit 1
fi
