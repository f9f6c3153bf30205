#!/usr/bin/env bash
# Builds the engine's binary for a board with the vendor's compiler. Takes hours; see docs/boards.md.
#
#   scripts/build-fpga-binary.sh intel  BOARD    OUT.aocx    [ROWS [DEPTH]]   # aoc, Intel FPGA SDK for OpenCL
#   scripts/build-fpga-binary.sh xilinx PLATFORM OUT.xclbin  [ROWS [DEPTH]]   # v++, AMD Vitis
#
# Neither compiler was at hand when this was written: what has run is the same sources on emulators.
set -euo pipefail
usage() { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 3 ] && [ $# -le 5 ] || usage
vendor=$1 board=$2 out=$3 rows=${4:-14} depth=${5:-4608}
case $vendor in intel) compiler=aoc ;; xilinx) compiler=v++ ;; *) usage ;; esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
triscore=${TRISCORE:-$root/target/release/triscore}
[ -x "$triscore" ] || { echo "no program at $triscore: run 'make build', or name it in TRISCORE" >&2; exit 69; }
command -v "$compiler" >/dev/null || { echo "no $compiler on the PATH: install the vendor's tools and source their set-up script" >&2; exit 69; }

work=$(mktemp -d "${TMPDIR:-/tmp}/triscore-engine.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$triscore" fpga sources -o "$work" --rows "$rows" --depth "$depth" >/dev/null
read -r -a options < "$work/options"

case $vendor in
intel)
    # -fp-relaxed and -ffp-contract would change roundings; without them a sum is rounded as it is written.
    aoc -board="$board" "${options[@]}" -o "$out" "$work/engine.cl" ;;
xilinx)
    kernels=$(sed -n 's/^FPGA_TASK \([a-z_]*\)(ENGINE_ARGUMENTS).*/\1/p' "$work/engine.cl")
    objects=()
    for kernel in $kernels; do
        v++ -c -t hw --platform "$board" -k "$kernel" "${options[@]}" -o "$work/$kernel.xo" "$work/engine.cl"
        objects+=("$work/$kernel.xo")
    done
    v++ -l -t hw --platform "$board" -o "$out" "${objects[@]}" ;;
esac

echo "built $out; on the machine with the board, describe and check it:"
echo "  triscore fpga manifest $out --device N --rows $rows --depth $depth"
echo "  triscore fpga check $out --device N"
