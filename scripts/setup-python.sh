#!/usr/bin/env bash
# Makes the Python environment .venv in the repository root. Nothing that triscore itself needs is in it: it is for
# training the models under models/, for the comparisons with the Azure ML inference server, and for ONNX's own tests.
#
#   scripts/setup-python.sh              # scripts/requirements-models.txt: train and check the models
#   scripts/setup-python.sh bench        # scripts/requirements-bench.txt: scripts/bench-server.py
#   scripts/setup-python.sh contract     # scripts/requirements-contract.txt: tests/contract
#   scripts/setup-python.sh conformance  # scripts/requirements-conformance.txt: scripts/conformance.py
#   scripts/setup-python.sh gpu          # scripts/requirements-gpu.txt: make test-gpu
#   scripts/setup-python.sh cudnn        # scripts/requirements-cudnn.txt: make test-cudnn
#
# All sets fit in one .venv. PYTHON=<interpreter> picks the Python (default: python3; 3.11 or newer).
# A second run finds the stamp of the first, says nothing and does nothing.
set -euo pipefail

die() {
    printf 'setup-python: %s\n' "$@" >&2
    exit 1
}

case ${1-models} in
    models|bench|contract|conformance|gpu|cudnn) set_name=${1-models} ;;
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "unknown argument '$1': use 'models' (the default), 'bench', 'contract', 'conformance', 'gpu' or 'cudnn'" ;;
esac
[ $# -le 1 ] || die "one argument at most: 'models', 'bench', 'contract', 'conformance', 'gpu' or 'cudnn'"

scripts=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
venv=$(dirname -- "$scripts")/.venv
requirements=$scripts/requirements-$set_name.txt
stamp=$venv/.stamp-$set_name

python=${PYTHON-python3}
command -v -- "$python" >/dev/null || die "$python is not installed (Debian, Ubuntu: apt-get install python3 python3-venv)"
version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])') || die "$python does not run"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || die "$python is $version; the pinned packages need 3.11 or newer (PYTHON=<interpreter> picks another)"

stamp_text="$(sha256sum < "$requirements") python $version"
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$stamp_text" ] && [ -x "$venv/bin/python" ]; then
    exit 0
fi

# Another Python's environment, or half of one, is made anew; the other sets' packages are kept where they still fit.
if [ "$("$venv/bin/python" -c 'import pip, sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || true)" != "$version" ]; then
    echo "making $venv with Python $version" >&2
    "$python" -m venv --clear "$venv" \
        || die "$python cannot make virtual environments (Debian, Ubuntu: apt-get install python3-venv)"
fi
rm -f -- "$stamp"
echo "installing $(basename -- "$requirements") into $venv" >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --requirement "$requirements" \
    || die "pip could not install $requirements; its words are above"
printf '%s\n' "$stamp_text" > "$stamp.new"
mv -f -- "$stamp.new" "$stamp"
