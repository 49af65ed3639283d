#!/usr/bin/env bash
# Runs everything that must pass: lint, format, types, shellcheck, tests. CI runs this and nothing else.
#
# Usage: ./run_tests.sh [--quick] [ARGUMENTS OF PYTEST]    e.g. -k mask, tests/masks, or -n 0 for one test after the other
#
# --quick leaves out the tests that drive a browser, start servers or other processes, interpret Triton kernels, or are slow.
#
# Installs what it needs into .venv the first time, as ./start_app.sh does (TORCH_BACKEND is the same). The tests drive
# the system's Chromium, Redis and nginx; what is missing is installed from the distribution's packages if this is root.
#
# Exit status
#   0  everything passed
#   1  something did not; every check is run, and the last line names what failed
#   3  no Python 3.11 to 3.13, or it cannot make a virtual environment
#   4  installation failed
#   6  Chromium, redis-server, nginx or openssl is missing, and it cannot be installed from here
set -euo pipefail
unset CDPATH # or cd may go elsewhere, and says where it went

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
FAILED=
NAMES=() PIDS=()
# shellcheck source=scripts/venv.sh
. "$ROOT/scripts/venv.sh"

find_chromium() {
    local name
    # The last two are where macOS has them, out of the PATH.
    for name in chromium chromium-browser google-chrome google-chrome-stable \
        /Applications/Chromium.app/Contents/MacOS/Chromium \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
        "$name" --version >/dev/null 2>&1 && return 0
    done
    return 1
}

find_program() { # find_program NAME; Debian keeps some of them where only root looks
    case $1 in
    chromium) find_chromium ;;
    *) PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 ;;
    esac
}

install_program() { # install_program NAME PACKAGE, for root; the package's name is Debian's, the others' the program's
    local name=$1 package=$2
    say "Installing $package from the distribution's packages"
    mkdir -p logs
    if command -v apt-get >/dev/null 2>&1; then
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$package"
    elif command -v dnf >/dev/null 2>&1; then
        dnf -q -y install "${name%-server}"
    elif command -v apk >/dev/null 2>&1; then
        apk add -q "${name%-server}"
    elif command -v pacman >/dev/null 2>&1; then
        pacman -Sy --noconfirm "${name%-server}"
    else
        echo "No package manager known here was found."
    fi >"logs/$package-install.log" 2>&1 || true
    find_program "$name"
}

need_program() { # need_program NAME PACKAGE
    local advice="Install it, e.g. on Debian: sudo apt-get install $2"
    find_program "$1" && return 0
    [ "$(id -u)" = 0 ] || fail 6 "The tests need $1. $advice"
    install_program "$1" "$2" || fail 6 "$1 could not be installed (logs/$2-install.log says why). $advice"
}

# Debian packages Chromium without its windows apart: the page's tests take it a quarter less. It is asked for once.
need_browser() {
    local shell=chromium-headless-shell
    find_program $shell && return 0
    [ "$(id -u)" != 0 ] || [ -f logs/$shell-install.log ] || ! command -v apt-get >/dev/null 2>&1 ||
        ! install_program $shell $shell || return 0
    need_program chromium chromium
}

begin() { # begin NAME COMMAND...: a check that runs beside the tests; `tell` waits for all of them and says what they said
    NAMES+=("$1")
    shift
    "$@" >"$SAID/${#NAMES[@]}" 2>&1 &
    PIDS+=($!)
}

tell() {
    local n
    for n in "${!NAMES[@]}"; do
        wait "${PIDS[n]}" || FAILED="$FAILED, ${NAMES[n]}"
        say "== ${NAMES[n]}"
        cat "$SAID/$((n + 1))"
    done
    PIDS=()
}

end_begun() { # what runs beside a shell is not reached by its Ctrl+C
    [ "${#PIDS[@]}" = 0 ] || kill "${PIDS[@]}" 2>/dev/null || true
    rm -rf "$SAID"
}

# Triton chooses its interpreter when a kernel is defined, so these tests need processes of their own.
interpret() {
    local status=0 folders=()
    [ $# -gt 0 ] || folders=(tests/*/kernels) # to collect all the others takes each worker a quarter of a minute
    TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES='' "${PYTEST[@]}" -n 0 -m interpreter ${folders[@]+"${folders[@]}"} "$@" ||
        status=$?
    [ "$status" = 5 ] || return "$status" # 5: the arguments choose none of them
}

# Install what package-lock.json names unless exactly it is installed already.
install_node_modules() {
    local remembered=node_modules/installed-package-lock.json
    cmp -s package-lock.json "$remembered" && return 0
    say "Installing what checks the page's scripts from package-lock.json (the first time this downloads it)"
    npm ci --loglevel=error --no-audit --no-fund >/dev/null && cp package-lock.json "$remembered"
}

check_scripts() { # the Node.js from requirements-dev.lock, not one of this machine
    local PATH=$VENV/bin:$PATH
    install_node_modules || return
    node node_modules/eslint/bin/eslint.js web/static && node node_modules/typescript/bin/tsc --project tsconfig.json
}

check_docstrings() { # what pydoclint compares are sections ("Args:"), which two files of five have
    grep -rlE --include='*.py' --exclude-dir=.venv --exclude-dir=node_modules '^ +[A-Z][A-Za-z]*:$' . | tr '\n' '\0' |
        xargs -0 "$VENV/bin/pydoclint"
}

cd "$ROOT"
QUICK=
if [ "${1:-}" = --quick ]; then
    QUICK=yes
    shift
fi
prepare_venv
install_lock requirements-dev.lock "what the tests need"
if [ -z "$QUICK" ]; then
    need_browser
    need_program redis-server redis-server
    need_program nginx nginx-light
    need_program openssl openssl
fi
# Each process computes on one thread, because two that compute on all cores only slow each other down.
export OMP_NUM_THREADS=1
# Else each of the hundred processes that are started would compile this program again, and each run all tests.
unset PYTHONDONTWRITEBYTECODE
PYTEST=("$PYTHON" -m pytest -q --durations=5)
PATH=$VENV/bin:$PATH install_node_modules || true # the tests need it too; what failed is said by the check
SAID=$(mktemp -d)
trap end_begun EXIT
# First, since it takes longest. It looks for garbage, which it does not make, for an eighth of its time.
begin mypy "$PYTHON" -c \
    'import gc; gc.disable(); gc.enable = gc.disable; from mypy.__main__ import console_entry; console_entry()'
begin ruff "$VENV/bin/ruff" check .
begin format "$VENV/bin/ruff" format --check .
begin docstrings check_docstrings
begin rooms "$VENV/bin/lint-imports" --no-cache
begin shellcheck "$VENV/bin/shellcheck" -x start_app.sh stop_app.sh run_tests.sh scripts/*.sh .ci/run \
    examples/iopaint_shim/bin/* examples/clients/*.sh
begin "the page's scripts" check_scripts
[ -n "$QUICK" ] || begin "pytest of the kernels, in Triton's interpreter" interpret "$@"
# Four on two cores: many tests wait, for a server, a page or a moment. Those of --quick don't.
CHOSEN="not interpreter" WORKERS=4
[ -z "$QUICK" ] || CHOSEN="not browser and not server and not process and not interpreter and not slow" WORKERS=2
say "== pytest"
"${PYTEST[@]}" -n $WORKERS --dist worksteal -m "$CHOSEN" "$@" || FAILED="$FAILED, pytest"
tell
[ -z "$FAILED" ] || say "== failed: ${FAILED#, }"
[ -z "$FAILED" ] && say "== all passed"
