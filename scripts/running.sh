# shellcheck shell=bash
# What runs from this checkout: run/app.state holds lines name=value (pid, url, log). Sourced by start_app.sh and
# stop_app.sh, which set ROOT (the checkout).

STATE=$ROOT/run/app.state

# Where an output is closed, as with >&-, what is said goes nowhere; else the first word would end the script half-way.
[ -e /dev/fd/1 ] || exec >/dev/null
[ -e /dev/fd/2 ] || exec 2>/dev/null

# Refuse the value $2 of the variable $1, with status 2, if it is no whole number of seconds. Nothing else may reach
# bash's arithmetic, which takes words for variables and 08 for a number in base 8.
check_seconds() {
    case $2 in
        '' | *[!0-9]* | 0?* | ???????*)
            printf 'Error: %s must be a whole number of seconds from 0 to 999999, not %q\n' "$1" "$2" >&2
            exit 2
            ;;
    esac
}

state_value() { # state_value NAME
    sed -n "s/^$1=//p" "$STATE" 2>/dev/null
}

# Print the command line of the process $1, its words separated by blanks; nothing if there is no such process.
command_line() {
    if [ -d /proc/self ]; then
        { tr '\0' ' ' <"/proc/$1/cmdline"; } 2>/dev/null || true
    else
        ps -p "$1" -o command= 2>/dev/null || true
    fi
}

# Whether the process $1 is this checkout's app: its command line is a Python, then this app.py, and nothing else.
# (A Python built as a macOS framework shows its own path in place of .venv's.) Where the folder was renamed since, the
# command line has the old path, and the folder it runs in the new one.
is_our_app() {
    local words
    case $1 in '' | *[!0-9]*) return 1 ;; esac
    words=$(command_line "$1")
    words=${words% }
    case $words in
        "$ROOT/.venv/bin/python $ROOT/app.py" | *"/Python $ROOT/app.py") return 0 ;;
        /*/.venv/bin/python\ /*/app.py) [ "$(readlink "/proc/$1/cwd" 2>/dev/null)" = "$ROOT" ] ;;
        *) return 1 ;;
    esac
}

# Print the pid of this checkout's app, if it runs. A stale state file is removed, with a word about it.
running_pid() {
    local pid
    [ -f "$STATE" ] || return 1
    pid=$(state_value pid)
    if is_our_app "$pid"; then
        printf '%s\n' "$pid"
        return 0
    fi
    if [ -n "$(command_line "${pid:-0}")" ]; then
        printf 'Process %s is another program by now; the record of it is removed.\n' "$pid" >&2
    else
        printf 'The app that was started as process %s is gone; the record of it is removed.\n' "${pid:-?}" >&2
    fi
    rm -f "$STATE"
    return 1
}

# Ask the process $1 to end, wait $2 seconds, then kill it; 0 when it is gone. It is the leader of its own group.
end_app() {
    local pid=$1 tenths=$(($2 * 10))
    if ! kill -TERM "$pid" 2>/dev/null; then # it is gone, or another user's, whom waiting does not change
        ! is_our_app "$pid"
        return
    fi
    while [ "$tenths" -gt 0 ] && is_our_app "$pid"; do
        sleep 0.1
        tenths=$((tenths - 1))
    done
    is_our_app "$pid" || return 0
    printf 'It did not end within %s s of SIGTERM; killing it.\n' "$2"
    kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
    tenths=50
    while [ "$tenths" -gt 0 ] && is_our_app "$pid"; do
        sleep 0.1
        tenths=$((tenths - 1))
    done
    ! is_our_app "$pid"
}
