#!/usr/bin/env bash
# Installs what the tests need, then runs every test. `./test.sh --help` lists the other runs.
set -u
cd "$(dirname "$0")" || exit 1
export CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-2}" CARGO_TERM_COLOR=never

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Each pair is a Debian package and a program from it.
install_programs() {
    # Some programs are in folders that only root's PATH has.
    local missing="" PATH="$PATH:/usr/sbin:/sbin"
    for pair in curl:curl iproute2:ip openssl:openssl prometheus:promtool git:git \
        nginx-light:nginx haproxy:haproxy nodejs:node npm:npm default-jdk-headless:javac \
        python3:python3 e2fsprogs:mkfs.ext4 mount:losetup; do
        command -v "${pair#*:}" >/dev/null 2>&1 || missing+=" ${pair%%:*}"
    done
    # Debian's python3 does not include what makes a virtual environment.
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=" python3-venv"
    if [ -n "$missing" ]; then
        echo "installing:$missing"
        as_root apt-get update -q || return 1
        # shellcheck disable=SC2086
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -q -y --no-install-recommends $missing || return 1
    fi
    command -v cargo-nextest >/dev/null 2>&1 || cargo install --locked cargo-nextest
}

mkdir -p target
case " $* " in *" --help "* | *" -h "*) ;; *)
    install_programs || { echo "installing programs failed"; exit 1; } ;;
esac
exec python3 tests/suite/run.py "$@"
