#!/usr/bin/env bash
# Starts fftlama in the background and waits until it answers; the first time it installs what is needed into .venv.
#
# Usage: ./start_app.sh [--install-only]
#
#   --install-only   make .venv and install, then end; a later start needs no network
#
# Variables (all settings of fftlama.yaml work as FFTLAMA_NAME too; see README.md)
#   HOST            address to listen on (127.0.0.1); 0.0.0.0 lets other machines in
#   PORT            port to listen on (7860)
#   QUEUE           where repairs run (local)
#   TORCH_BACKEND   another build of torch: auto, cpu, cu128, ...; handed to uv, remembered in .venv
#   START_TIMEOUT_S seconds to wait for the app to answer (180)
#
# What runs is written down in run/app.state, its output goes to logs/. A second start finds it and says so.
#
# Exit status
#   0  it runs and answers (started now, or found running)
#   1  it died or did not answer in time; the end of its log is shown and nothing is left behind
#   2  unknown argument, a setting or START_TIMEOUT_S is wrong, or this machine cannot listen at HOST:PORT
#   3  no Python 3.11 to 3.13, or it cannot make a virtual environment
#   4  installation failed
#   5  the port is taken by another program, which is named
set -euo pipefail
unset CDPATH         # or cd may go elsewhere, and says where it went
unset PYTHONSAFEPATH # or Python does not find the program's own modules

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
LOCK=$ROOT/run/start.lock
STARTED_PID=
# shellcheck source=scripts/venv.sh
. "$ROOT/scripts/venv.sh"
# shellcheck source=scripts/running.sh
. "$ROOT/scripts/running.sh"

# Hold the folder run/start.lock, which holds our pid; wait for another start_app.sh that has it.
take_lock() {
    local owner said='' tries=0
    until mkdir "$LOCK" 2>/dev/null; do
        [ -d "$LOCK" ] || tries=$((tries + 1))
        [ "$tries" -lt 20 ] || fail 1 "$LOCK cannot be made; can you write to $ROOT?"
        owner=$(cat "$LOCK/pid" 2>/dev/null || true)
        # Our own pid is that of one before us: in a container all starts may have the same.
        case $([ "$owner" = "$$" ] || command_line "${owner:-0}") in
            *start_app.sh*)
                [ -n "$said" ] || say "Another start_app.sh (pid $owner) is at work; waiting for it"
                said=yes
                sleep 0.5
                ;;
            *) # Its owner is gone, or has made the folder this moment and not yet written its pid.
                sleep 0.5
                if [ "$owner" = "$(cat "$LOCK/pid" 2>/dev/null || true)" ]; then
                    mv "$LOCK" "$LOCK.$$" 2>/dev/null && rm -rf "$LOCK.$$"
                fi
                ;;
        esac
    done
    printf '%s\n' "$$" >"$LOCK/pid"
}

# On every exit: give the lock back, and leave no half-started app behind.
clean_up() {
    local status=$?
    trap '' INT TERM
    if [ -n "$STARTED_PID" ]; then
        end_app "$STARTED_PID" 5 || true
        rm -f "$STATE"
    fi
    [ "$(cat "$LOCK/pid" 2>/dev/null)" != "$$" ] || rm -rf "$LOCK"
    exit "$status"
}

# Print the body of GET $3 from $1:$2 if the status is 200. bash connects by itself, so curl is not needed. It asks for
# localhost, which the app always answers to: allowed_hosts may leave out the address it listens on.
http_body() {
    (
        exec 3<>"/dev/tcp/$1/$2" || exit 1
        printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$3" >&3
        IFS= read -r -t 5 line <&3
        case $line in *" 200 "*) ;; *) exit 1 ;; esac
        body=
        while IFS= read -r -t 5 line <&3; do
            [ "$line" != $'\r' ] || { IFS= read -r -d '' -t 5 body <&3 || true; }
        done
        printf '%s' "$body"
    ) 2>/dev/null
}

# Print what /health said ($1), if it comes from the process $2; else fail.
describe_health() {
    "$PYTHON" -c '
import json, sys
health = json.loads(sys.argv[1])
if health["pid"] != int(sys.argv[2]):
    sys.exit(1)
print("  device   {device}, {precision}".format(**health))
print("  profile  {profile}: {profile_reason}".format(**health))
print("  weights  {weights}".format(**health))' "$1" "$2" 2>/dev/null
}

# Whether the process $1 was started here and lives. Until its exec its command line is not the app's yet, which takes
# seconds on a busy machine.
is_starting() {
    [ "$1" = "$STARTED_PID" ] && kill -0 "$1" 2>/dev/null
}

# Wait until the app (pid $1) answers at $2:$3; show the end of its log $4 and exit if it dies or takes too long.
wait_until_healthy() {
    local pid=$1 host=$2 port=$3 log=$4 body described status deadline=$((SECONDS + START_TIMEOUT_S))
    while :; do
        if body=$(http_body "$host" "$port" /health) && described=$(describe_health "$body" "$pid"); then
            # It stays, whatever becomes of this script: where its output goes may have been closed by now.
            STARTED_PID=
            say "fftlama runs at $(state_value url)"
            say "$described"
            say "  log      $log"
            say "  results  $(state_value outputs)"
            say "  stop     ./stop_app.sh"
            return 0
        fi
        if ! is_our_app "$pid" && ! is_starting "$pid"; then
            printf 'Error: the app ended before it answered. The end of %s:\n' "$log" >&2
            tail -n 30 "$log" >&2
            # Only of an app that was started here the status is known: 2 for a wrong setting, as ours is.
            status=0
            wait "$pid" 2>/dev/null || status=$?
            [ "$status" -ne 2 ] || exit 2
            exit 1
        fi
        if [ "$SECONDS" -ge "$deadline" ]; then
            printf 'Error: the app did not answer within %s s. The end of %s:\n' "$START_TIMEOUT_S" "$log" >&2
            tail -n 30 "$log" >&2
            [ -n "$STARTED_PID" ] || printf 'It still runs (pid %s); ./stop_app.sh ends it.\n' "$pid" >&2
            exit 1
        fi
        sleep 0.2
    done
}

start_app() {
    local host port outputs url_host log taken status=0
    # The program's own settings table decides: command line, environment, fftlama.yaml, default.
    read -r host port outputs < <("$PYTHON" -c '
import sys
from config import SettingsError, load_settings
try:
    settings = load_settings()
except SettingsError as problem:
    sys.exit(f"Error: {problem}")
print(settings.host, settings.port, settings.outputs_dir)') || exit 2
    taken=$("$PYTHON" "$ROOT/scripts/port_owner.py" "$host" "$port") || status=$?
    case $status in
        0) ;;
        1) fail 5 "$taken Choose another port, e.g. PORT=$((port + 1)) ./start_app.sh" ;;
        *) fail 2 "$taken" ;;
    esac
    url_host=$host
    case $host in
        0.0.0.0) url_host=127.0.0.1 ;;
        ::) url_host=::1 ;;
    esac
    mkdir -p "$ROOT/logs"
    log=$ROOT/logs/app-$(date +%Y%m%d-%H%M%S).log
    # A session of its own, so that closing the terminal does not end it; exec keeps the pid.
    "$PYTHON" -c 'import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])' \
        "$PYTHON" "$ROOT/app.py" </dev/null >"$log" 2>&1 &
    STARTED_PID=$!
    {
        printf 'pid=%s\n' "$STARTED_PID"
        case $url_host in
            *:*) printf 'url=http://[%s]:%s\n' "$url_host" "$port" ;;
            *) printf 'url=http://%s:%s\n' "$url_host" "$port" ;;
        esac
        printf 'host=%s\nport=%s\noutputs=%s\nlog=%s\n' "$url_host" "$port" "$outputs" "$log"
    } >"$STATE.new"
    mv "$STATE.new" "$STATE"
    say "Starting fftlama at $(state_value url)"
    wait_until_healthy "$STARTED_PID" "$url_host" "$port" "$log"
    STARTED_PID=
}

main() {
    local install_only='' pid
    case ${1:-} in
        '') ;;
        --install-only) install_only=yes ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) fail 2 "unknown argument $1; ./start_app.sh --help says what it takes" ;;
    esac
    START_TIMEOUT_S=${START_TIMEOUT_S:-180}
    check_seconds START_TIMEOUT_S "$START_TIMEOUT_S"
    cd "$ROOT"
    mkdir -p run
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    take_lock
    if [ -z "$install_only" ] && pid=$(running_pid); then
        say "fftlama is already running (pid $pid)."
        wait_until_healthy "$pid" "$(state_value host)" "$(state_value port)" "$(state_value log)"
        return 0
    fi
    prepare_venv
    [ -n "$install_only" ] || start_app
}

main "$@"
