#!/usr/bin/env bash
# Retrains every model under models/ and says whether the committed files come out again (takes about three minutes).
#
#   scripts/train-models.sh           # trains in a copy, compares, changes nothing; fails where they disagree
#   scripts/train-models.sh --write   # trains in place, to commit the results
#
# On the processor that trained the committed files every file is the same bit for bit; another processor's matrix
# kernels round differently, and then the held-out figures are compared instead.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

write=no
case ${1-} in
    '') ;;
    --write) write=yes ;;
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "train-models: unknown argument '$1' (try --help)" >&2; exit 1 ;;
esac

"$root/scripts/setup-python.sh" models
python=$root/.venv/bin/python

if [ "$write" = yes ]; then
    place=$root
else
    place=$(mktemp -d)
    trap 'rm -rf -- "$place"' EXIT
    mkdir -p -- "$place/models"
    cp -R -- "$root/models/." "$place/models/"
    # Only what training writes: a script that stopped writing a file must not pass because of the copy.
    find "$place/models" \( -name '*.onnx' -o -name '*.data' -o -name '*.npz' -o -name '*.json' \
        -o -name '*.tab' -o -name '*.txt' \) ! -name '*config*.json' -delete
fi

cd -- "$place"
export PYTHONDONTWRITEBYTECODE=1
for script in digits_cnn.train digits_mlp.train digits_res.train digits_vit.train sklearn.train tiny.make bidaf.train \
    bidaf.punkt; do
    "$python" -m "models.$script"
done
if [ "$write" = no ]; then
    "$python" -m models.training.compare "$root/models" "$place/models"
fi
