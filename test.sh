#!/usr/bin/env bash
# Installs what the tests need, then runs every test. Usage: ./test.sh [--full]
#
# --full runs the campaigns at the size that the docs name; without it they run at a tenth, with fixed seeds.
set -u
cd "$(dirname "$0")"
export CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-2}" CARGO_TERM_COLOR=never
[ "${1:-}" = "--full" ] && export TOKEN_SHIELD_FULL=1
passed=0 failed=0 summary=""

step() {
    local name="$1" from=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    if "$@"; then
        passed=$((passed + 1)) summary+="  ok      $((SECONDS - from)) s  $name"$'\n'
    else
        failed=$((failed + 1)) summary+="  FAILED  $((SECONDS - from)) s  $name"$'\n'
    fi
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# package: a program that it brings
install_programs() {
    # Some lie where only root looks.
    local missing="" PATH="$PATH:/usr/sbin:/sbin"
    for pair in curl:curl iproute2:ip openssl:openssl prometheus:promtool git:git nginx-light:nginx haproxy:haproxy nodejs:node npm:npm \
        e2fsprogs:mkfs.ext4 mount:losetup; do
        command -v "${pair#*:}" >/dev/null 2>&1 || missing+=" ${pair%%:*}"
    done
    # Debian's python3 comes without what makes a venv.
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=" python3-venv"
    if [ -n "$missing" ]; then
        as_root apt-get update -q || return 1
        # shellcheck disable=SC2086
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing || return 1
    fi
    command -v cargo-nextest >/dev/null 2>&1 || cargo install --locked cargo-nextest
}

install_python() {
    [ -x target/venv/bin/python ] || python3 -m venv target/venv || return 1
    cmp -s tests/clients/requirements.txt target/venv/installed && return 0
    target/venv/bin/pip install -q --disable-pip-version-check -r tests/clients/requirements.txt &&
        cp tests/clients/requirements.txt target/venv/installed
}

install_node() {
    local wanted=marked@15.0.12
    [ "$(cat target/node/installed 2>/dev/null)" = "$wanted" ] && return 0
    mkdir -p target/node
    npm install --silent --no-fund --no-audit --ignore-scripts --prefix target/node "$wanted" && echo "$wanted" >target/node/installed
}

docs() { RUSTDOCFLAGS="-D warnings" cargo doc -q --no-deps --document-private-items; }
# What has nothing to do with networks, and takes long: crashes and power cuts.
CRASHES="tests/clients/test_power.py tests/clients/test_audit.py::test_kill_9_under_load"

# Tests wait most of their time, for time limits and for each other's ends. A file's tests run in one process, in their order.
# At full size, one at a time: campaigns take the whole machine.
AT_ONCE="-n 3 --dist loadfile"
MUTANTS=""
[ "${1:-}" = "--full" ] && AT_ONCE="" MUTANTS="--full"

# shellcheck disable=SC2086
crashes() { TOKEN_SHIELD_BIN="$PWD/target/debug/token-shield" target/venv/bin/python -m pytest -q $CRASHES; }

loopback_only() {
    as_root env TOKEN_SHIELD_BIN="$PWD/target/debug/token-shield" "$PWD/target/venv/bin/python" tests/clients/loopback_only.py -q $AT_ONCE \
        $(printf -- '--deselect %s ' $CRASHES $TAMPERING)
}

# As long as all the other clients together, and on one core: it runs beside them.
TAMPERING=tests/clients/test_tamper.py tampering_log=target/tampering.log tampering_pid=""
begin_tampering() {
    TOKEN_SHIELD_BIN="$PWD/target/debug/token-shield" target/venv/bin/python -m pytest -q "$TAMPERING" >"$tampering_log" 2>&1 &
    tampering_pid=$!
    trap 'kill "$tampering_pid" 2>/dev/null' EXIT
}
tampering() {
    local code
    wait "$tampering_pid"
    code=$?
    cat "$tampering_log"
    return "$code"
}

mkdir -p target
step "install programs" install_programs
step "install Python packages" install_python
step "install Node.js packages" install_node
step "format" cargo fmt --check
step "seeded faults: the patches apply" tests/mutants/run.py --check
step "lints" cargo clippy -q --all-targets --features failpoints -- -D warnings
step "documentation" docs
step "floors 0 and 1 alone" cargo check -q --lib --no-default-features
step "the offline commands alone" cargo check -q --no-default-features --features offline
step "build" cargo build -q
step "tests" cargo nextest run --no-fail-fast --features failpoints
# shellcheck disable=SC2086
step "seeded faults" tests/mutants/run.py $MUTANTS
step "examples in the documentation" cargo test -q --doc
# The clients' own: some of them let a process die at a given step.
step "the program with failpoints" cargo build -q --features failpoints
begin_tampering
step "unmodified clients, where loopback is the only network" loopback_only
step "tamperings, by both verifiers" tampering
step "crashes and power cuts" crashes

printf '\n%s\n%d passed, %d failed\n' "$summary" "$passed" "$failed"
[ "$failed" = 0 ]
