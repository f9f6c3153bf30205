#!/usr/bin/env bash
# Fetches the ONNX Runtime shared library that triscore loads at run time.
#
# The project publishes its plain C library inside its Python wheel, so pip (which most machines have) is the only
# tool needed: the wheel is downloaded, never installed, and no Python package is touched. The wheel is always the one
# for CPython 3.12, whatever Python runs pip: the library inside does not depend on Python, and a fixed wheel means a
# fixed checksum.
#
#   scripts/install-onnxruntime.sh [--dest DIR]      # default DIR: third_party/onnxruntime
#
# A second run finds the stamp of the first, says nothing and does nothing.
set -euo pipefail

readonly VERSION=1.32.0
readonly WHEEL_PYTHON=3.12
readonly WHEEL_GLIBC=2.28

# Checksums of the cp312 wheels of $VERSION (the cp311 to cp314 wheels of one architecture hold the very same library,
# so there is nothing to gain from another). To move to another version: change VERSION, run
# `python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_<arch>
# onnxruntime==<version>` once per architecture, and put `sha256sum` of what it brought here.
readonly SHA256_X86_64=99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8
readonly SHA256_AARCH64=e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

die() {
    printf 'install-onnxruntime: %s\n' "$@" >&2
    exit 1
}

repo_root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
dest=$repo_root/third_party/onnxruntime

while [ $# -gt 0 ]; do
    case $1 in
        --dest) dest=${2-}; shift $(($# > 1 ? 2 : 1)) ;;
        --dest=?*) dest=${1#--dest=}; shift ;;
        -h|--help) usage; exit 0 ;;
        *) die "unknown argument '$1' (try --help)" ;;
    esac
done

[ -n "$dest" ] || die "--dest needs a directory"

arch=$(uname -m)
case $arch in
    x86_64|amd64) arch=x86_64; sha256=$SHA256_X86_64 ;;
    aarch64|arm64) arch=aarch64; sha256=$SHA256_AARCH64 ;;
    *) die "no ONNX Runtime wheel for the processor '$arch' (there are x86_64 and aarch64)" \
           "build ONNX Runtime $VERSION yourself and point ORT_DYLIB_PATH at its libonnxruntime.so" ;;
esac
[ "$(uname -s)" = Linux ] || die "this script knows Linux only, and this is $(uname -s)" \
    "install ONNX Runtime $VERSION yourself and point ORT_DYLIB_PATH at its library"

stamp=$dest/stamp
stamp_text="onnxruntime $VERSION $arch sha256:$sha256"
if [ -s "$dest/libonnxruntime.so" ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$stamp_text" ]; then
    exit 0
fi

# The wheel's library needs this glibc; saying so here beats a dlopen error later.
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc //p' || true)
[ -n "$glibc" ] || die "no ONNX Runtime wheel for this platform: its library needs glibc, and this system has none (musl?)"
if [ "$(printf '%s\n' "$WHEEL_GLIBC" "$glibc" | sort -V | head -n 1)" != "$WHEEL_GLIBC" ]; then
    die "no ONNX Runtime wheel for this platform: its library needs glibc $WHEEL_GLIBC or newer, and this system has $glibc"
fi

command -v python3 >/dev/null || die "python3 is not installed (Debian, Ubuntu: apt-get install python3 python3-pip)"
python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip (Debian, Ubuntu: apt-get install python3-pip)"

mkdir -p -- "$dest" || die "cannot make the directory $dest"
# Beside the destination, hence on the same file system, so that the moves below are atomic.
work=$(mktemp -d -- "$dest/.install.XXXXXX") || die "cannot write to $dest"
trap 'rm -rf -- "$work"' EXIT

echo "fetching ONNX Runtime $VERSION for $arch" >&2
printf 'onnxruntime==%s --hash=sha256:%s\n' "$VERSION" "$sha256" > "$work/requirements.txt"
if ! python3 -m pip download --disable-pip-version-check --quiet --retries 2 \
        --no-deps --only-binary=:all: --require-hashes \
        --implementation cp --python-version "$WHEEL_PYTHON" --platform "manylinux_2_28_$arch" \
        --dest "$work" --requirement "$work/requirements.txt" > "$work/pip.log" 2>&1; then
    sed 's/^/  pip: /' "$work/pip.log" >&2
    if grep -q 'DO NOT MATCH THE HASHES' "$work/pip.log"; then
        die "the wheel that pip brought is not the one this script pins (hash mismatch): nothing was installed"
    elif grep -qiE 'connection|resolution|timed out|ProxyError|SSLError|unreachable' "$work/pip.log"; then
        die "pip cannot reach a package index: check the network, or pip's proxy and index settings" \
            "without a network: put the cp312 $arch wheel in a folder and set PIP_NO_INDEX=1 PIP_FIND_LINKS=<folder>"
    elif grep -qE 'No matching distribution|Could not find a version' "$work/pip.log"; then
        die "pip's package index has no wheel of onnxruntime $VERSION for CPython $WHEEL_PYTHON on Linux $arch" \
            "(an older mirror?): nothing was installed"
    fi
    die "pip could not download the wheel; its words are above"
fi

# Python unpacks: pip needed it anyway, and `unzip` is often missing.
python3 - "$work" "$VERSION" <<'PY' || die "the wheel does not hold what was expected: nothing was installed"
import pathlib
import shutil
import sys
import zipfile

work, version = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = work.glob("onnxruntime-*.whl")
wanted = {
    f"onnxruntime/capi/libonnxruntime.so.{version}": "libonnxruntime.so",
    "onnxruntime/LICENSE": "LICENSE",
    "onnxruntime/ThirdPartyNotices.txt": "ThirdPartyNotices.txt",
}
with zipfile.ZipFile(wheel) as archive:
    for member, name in wanted.items():
        with archive.open(member) as source, open(work / name, "wb") as target:
            shutil.copyfileobj(source, target)
(work / "libonnxruntime.so").chmod(0o755)
PY

# The stamp goes first and comes last: a run that is cut short leaves no stamp, so the next one starts over.
rm -f -- "$stamp"
for name in LICENSE ThirdPartyNotices.txt libonnxruntime.so; do
    mv -f -- "$work/$name" "$dest/$name"
done
printf '%s\n' "$stamp_text" > "$work/stamp"
mv -f -- "$work/stamp" "$stamp"
echo "installed $dest/libonnxruntime.so" >&2
