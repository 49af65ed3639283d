#!/usr/bin/env bash
# Stops the app that ./start_app.sh started from this checkout, and nothing else.
#
# Usage: ./stop_app.sh
#
# It needs no variables: what runs is written down in run/app.state, and the process found there is trusted only if its
# command line is this checkout's app. It is asked to end (TERM), has time for the repair at work, then is killed.
#
#   STOP_TIMEOUT_S  seconds between TERM and KILL (15)
#
# Exit status
#   0  stopped, or nothing was running
#   1  it runs but cannot be ended, e.g. because another user started it
#   2  unknown argument, or STOP_TIMEOUT_S is no whole number of seconds
set -euo pipefail
unset CDPATH # or cd may go elsewhere, and says where it went

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/running.sh
. "$ROOT/scripts/running.sh"

case ${1:-} in
    '') ;;
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *)
        printf 'Error: unknown argument %s; ./stop_app.sh takes none\n' "$1" >&2
        exit 2
        ;;
esac

STOP_TIMEOUT_S=${STOP_TIMEOUT_S:-15}
check_seconds STOP_TIMEOUT_S "$STOP_TIMEOUT_S"
if ! pid=$(running_pid); then
    printf 'fftlama is not running.\n'
    exit 0
fi
url=$(state_value url)
printf 'Stopping fftlama at %s (pid %s)\n' "$url" "$pid"
if ! end_app "$pid" "$STOP_TIMEOUT_S"; then
    printf 'Error: process %s is still there; was it started by another user?\n' "$pid" >&2
    exit 1
fi
rm -f "$STATE"
printf 'Stopped.\n'
