#!/usr/bin/env bash
# Installs what stands in for an FPGA: OpenCL drivers that run the engine on this machine's processor.
#
#   scripts/install-opencl.sh              # PoCL and the OpenCL loader, from the distribution (needs root)
#   scripts/install-opencl.sh --oclgrind   # Oclgrind, which finds races and accesses out of bounds (needs root)
#   scripts/install-opencl.sh --emulator   # Intel's FPGA emulator below third_party/ (pip; its licence: internal use)
#
# Where PoCL cannot be installed, that is said and is no failure: tests that need a device are then skipped, with the reason.
# A second run finds what the first one brought and does nothing.
set -euo pipefail

# The last version on the package index that brings the emulator ready to use; the second package is one that it does not declare.
readonly EMULATOR='intel-opencl-rt==2023.2.4 intel-cmplr-lib-rt==2023.2.4'

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

note() {
    printf 'install-opencl: %s\n' "$@" >&2
}

# from_distribution PACKAGES...
from_distribution() {
    if ! command -v apt-get >/dev/null; then
        note "this system has no apt-get: install PoCL (an OpenCL driver for processors) and an OpenCL loader yourself"
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        note "not root: run as root: apt-get install --no-install-recommends $*"
        return 1
    fi
    local log
    log=$(mktemp)
    if ! apt-get install -y --no-install-recommends "$@" > "$log" 2>&1 \
            && ! { apt-get update > "$log" 2>&1 && apt-get install -y --no-install-recommends "$@" >> "$log" 2>&1; }; then
        sed 's/^/  apt: /' "$log" | tail -n 5 >&2
        rm -f "$log"
        note "apt-get could not install $*"
        return 1
    fi
    rm -f "$log"
}

install_pocl() {
    if ls /etc/OpenCL/vendors/*pocl* >/dev/null 2>&1 && ldconfig -p | grep -q 'libOpenCL\.so\.1'; then
        return
    fi
    # PoCL links kernels with the system's ld.
    from_distribution pocl-opencl-icd ocl-icd-libopencl1 binutils libc6-dev \
        || note "without PoCL the FPGA tests are skipped on a machine without a board"
}

install_oclgrind() {
    [ -e /usr/lib/oclgrind/liboclgrind-rt-icd.so ] || from_distribution oclgrind ocl-icd-libopencl1
}

install_emulator() {
    local root dest
    root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
    dest=$root/third_party/fpga-emulator
    if [ -e "$dest/lib/libintelocl_emu.so" ]; then
        return
    fi
    rm -rf -- "$dest"
    mkdir -p -- "$(dirname -- "$dest")"
    python3 -m venv "$dest"
    # shellcheck disable=SC2086 # two requirements
    "$dest/bin/pip" install --disable-pip-version-check --quiet $EMULATOR
    note "installed; use it with OCL_ICD_VENDORS=$dest/lib/libintelocl_emu.so"
}

case ${1-} in
    '') install_pocl ;;
    --oclgrind) install_oclgrind ;;
    --emulator) install_emulator ;;
    -h|--help) usage ;;
    *) note "unknown argument '$1' (try --help)"; exit 1 ;;
esac
