# shellcheck shell=bash
# Makes .venv and installs lock files into it. Sourced by start_app.sh and run_tests.sh, which set ROOT (the checkout).
#
# TORCH_BACKEND (auto, cpu, cu128, ...) is handed to uv as --torch-backend and remembered in .venv; without it the plain
# builds of the package index are installed. uv takes pip's configured index where it has none of its own.

VENV=$ROOT/.venv
PYTHON=$VENV/bin/python
EXIT_NO_PYTHON=3
EXIT_INSTALL=4

say() { printf '%s\n' "$*"; }

fail() { # fail STATUS SENTENCE...
    local status=$1
    shift
    printf 'Error: %s\n' "$*" >&2
    exit "$status"
}

# Print the first Python on the path that is 3.11 to 3.13; one that can make a venv by itself is preferred.
find_python() {
    local name found=
    for name in python3 python3.13 python3.12 python3.11; do
        "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || continue
        if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            printf '%s\n' "$name"
            return 0
        fi
        found=${found:-$name}
    done
    [ -n "$found" ] && printf '%s\n' "$found"
}

# Make .venv with pip in it, or uv's own kind of venv where Debian keeps ensurepip in a package of its own.
make_venv() {
    local python version
    python=$(find_python) || fail $EXIT_NO_PYTHON "Python 3.11, 3.12 or 3.13 is needed and none was found as python3," \
        "python3.13, python3.12 or python3.11; python3 here is: $(python3 --version 2>&1 || true)"
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    say "Making .venv with Python $version"
    rm -rf "$VENV"
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        "$python" -m venv "$VENV" || fail $EXIT_NO_PYTHON "$python -m venv failed; the lines above say why"
    elif command -v uv >/dev/null 2>&1; then
        uv venv --quiet --seed --python "$(command -v "$python")" "$VENV" || fail $EXIT_NO_PYTHON "uv venv failed"
    elif "$python" -m venv --without-pip "$VENV" 2>/dev/null && "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip --quiet --python "$PYTHON" install pip || fail $EXIT_INSTALL "pip could not be put into .venv"
    else
        rm -rf "$VENV"
        fail $EXIT_NO_PYTHON "Python $version here cannot make a virtual environment: ensurepip is missing." \
            "Debian and Ubuntu package it apart: apt-get install python$version-venv (or python3-venv)"
    fi
}

# Give uv the package index and certificates that pip is configured with, unless uv has settings of its own.
share_pip_settings() {
    local index certificates
    if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
        index=${PIP_INDEX_URL:-$("$PYTHON" -m pip config get global.index-url 2>/dev/null || true)}
        [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    fi
    if [ -z "${SSL_CERT_FILE:-}" ]; then
        certificates=${PIP_CERT:-$("$PYTHON" -m pip config get global.cert 2>/dev/null || true)}
        [ -z "$certificates" ] || export SSL_CERT_FILE="$certificates"
    fi
}

# Install the lock file $1 (a name in the checkout) unless exactly it is installed already. $2 says what it is for.
install_lock() {
    local lock=$1 purpose=$2 quiet=--quiet backend remembered=$VENV/torch-backend installed=$VENV/installed-$1 wanted=$VENV/wanted-$1
    backend=${TORCH_BACKEND:-$(cat "$remembered" 2>/dev/null || true)}
    if cmp -s "$ROOT/$lock" "$installed" && [ "$backend" = "$(cat "$remembered" 2>/dev/null || true)" ]; then
        return 0
    fi
    rm -f "$installed"
    share_pip_settings
    if [ ! -x "$VENV/bin/uv" ]; then
        say "Installing uv with pip"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' "$ROOT/requirements.lock")" ||
            fail $EXIT_INSTALL "pip could not install uv; the lines above say why. Behind a proxy set HTTPS_PROXY"
    fi
    cp "$ROOT/$lock" "$wanted"
    if [ -n "$backend" ]; then
        # The lock's CUDA libraries belong to the index's build of torch; another build brings its own, or none.
        grep -Ev '^(nvidia-|cuda-|triton==)' "$ROOT/$lock" >"$wanted"
    fi
    say "Installing $purpose from $lock (the first time this downloads it)"
    [ ! -t 2 ] || quiet='' # uv draws its progress on a terminal
    # Compiled now, once: where Python may not write bytecode, every start would compile for ten seconds and more.
    "$VENV/bin/uv" pip install ${quiet:+"$quiet"} --compile-bytecode --python "$PYTHON" --requirements "$wanted" \
        --override "$ROOT/requirements-override.txt" ${backend:+--torch-backend="$backend"} ||
        fail $EXIT_INSTALL "uv could not install $lock; the lines above say why. Running this again goes on from there"
    rm -f "$wanted"
    printf '%s' "$backend" >"$remembered"
    cp "$ROOT/$lock" "$installed"
}

# Write the console script .venv/bin/fftlama. Where .venv is a link, several checkouts share the script: it runs the
# checkout by whose path it was called, or this one ($ROOT) if it was called by another name.
write_console_script() {
    local script=$VENV/bin/fftlama literal
    literal=$("$PYTHON" -c 'import sys; print(ascii(sys.argv[1]))' "$ROOT") # a path may hold quotes and backslashes
    # The two first lines are shell and, to Python, one string: a #! line cannot hold a path with a space in it.
    cat >"$script.new" <<SCRIPT
#!/bin/sh
'''exec' "\$(dirname "\$(readlink -f "\$0")")/python" "\$0" "\$@"
' '''
import sys
from pathlib import Path

called_by = Path(sys.argv[0]).absolute()
checkout = called_by.parent.parent.parent
is_own = called_by == checkout / ".venv/bin/fftlama" and (checkout / "cli/main.py").is_file()
sys.path[0] = str(checkout) if is_own else $literal
import cli.main

getattr(cli.main, "run", lambda: sys.exit(cli.main.main()))()  # a checkout of before has no run
SCRIPT
    chmod +x "$script.new"
    mv "$script.new" "$script"
}

# Make everything that the app runs on, or do nothing where it is there.
prepare_venv() {
    "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || make_venv
    install_lock requirements.lock "the libraries, about 5 GB with CUDA"
    write_console_script
}
