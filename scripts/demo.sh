#!/usr/bin/env bash
# The main job, shown: register a model, deploy it from its deployment file, score a real digit, look at the
# service, clean up. Works in a folder of its own and leaves nothing behind, whatever happens.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

triscore=target/release/triscore
[ -x "$triscore" ] || { echo "demo: build first: make build" >&2; exit 1; }

TRISCORE_HOME=$(mktemp -d)
export TRISCORE_HOME
clean_up() {
    "$triscore" service delete -n demo-digits >/dev/null 2>&1 || true
    rm -rf "$TRISCORE_HOME"
}
trap clean_up EXIT

show() { printf '\n$ %s\n' "$(printf '%q ' "$@" | sed "s#^$triscore#triscore#")"; "$@"; }

# The file asks for port 32267. If somebody has it, take a free one, as `--port` allows.
port=()
if python3 -c 'import socket,sys; sys.exit(socket.socket().connect_ex(("127.0.0.1", 32267)) != 0)'; then
    port=(--port 0)
fi

show "$triscore" model register -n digits -p models/digits_cnn/model.onnx --model-framework Onnx
show "$triscore" model deploy -n demo-digits -m digits:1 --dc models/digits_cnn/deploymentconfig.json "${port[@]}"
uri=$("$triscore" service show -n demo-digits --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["scoringUri"])')
printf '\nA held-out digit, sent to %s:\n\n' "$uri"
python3 scripts/demo.py "$uri" models/digits_cnn/request.json models/digits_cnn/metrics.json
show "$triscore" service show -n demo-digits
show "$triscore" service delete -n demo-digits
show "$triscore" model delete -i digits:1
