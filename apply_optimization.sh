#!/usr/bin/env bash
# Puts fftlama in the place of an existing cv_fft_inpainting_lama, in its own folder, and takes it out again.
#
# Usage: ./apply_optimization.sh [FOLDER] [--dry-run | --revert] [--celery] [--no-start]
#
#   FOLDER      the folder with app.py, start_app.sh, stop_app.sh and the weights; default: the current folder
#   --dry-run   say what would be done, and do nothing
#   --revert    give the folder back as it was, byte for byte; results in outputs/ stay
#   --celery    have repairs run on Celery workers through Redis (REDIS_URL, default redis://127.0.0.1:6379/0)
#   --no-start  do not start the app at the end
#
# What it does: the program goes into FOLDER/fftlama/, a link leads from there to the weights, fftlama/fftlama.yaml holds
# address, port, weights, outputs/ and the profile of the card. Only then app.py, start_app.sh and stop_app.sh are kept
# in FOLDER/.fftlama-upgrade/ with their checksums and replaced by ones that start and stop fftlama. Nothing else in the
# folder changes, the weights neither. The end is `bash stop_app.sh && bash start_app.sh`.
#
# A second run changes nothing. After a run that was stopped half-way, run it again or revert. It needs no git, and no
# network if one of the Pythons it finds has the libraries of requirements.lock; else they are installed first.
#
# Exit status
#   0  done, or nothing to do
#   1  a step failed; the lines above say which; run it again or revert
#   2  unknown argument, or the folder is none that it knows; what is missing is said and nothing was changed
#   3  no Python 3.11 to 3.13, or it cannot make a virtual environment
#   4  the libraries could not be installed; the old app is still in place
set -euo pipefail
unset CDPATH # or cd may go elsewhere, and says where it went
# Where an output is closed, as with >&-, what is said goes nowhere; else the first word would end the script half-way.
[ -e /dev/fd/1 ] || exec >/dev/null
[ -e /dev/fd/2 ] || exec 2>/dev/null

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

say() { printf '%s\n' "$*"; }

SAID='' # whether a sentence says why it ends

fail() { # fail STATUS SENTENCE...
    local status=$1
    SAID=yes
    shift
    printf 'Error: %s\n' "$*" >&2
    exit "$status"
}

[ -f "$ROOT/scripts/upgrade.sh" ] || fail 2 "$ROOT has no fftlama beside this script; run the one in fftlama's own folder"
# shellcheck source=scripts/upgrade_search.sh
. "$ROOT/scripts/upgrade_search.sh"
# shellcheck source=scripts/upgrade.sh
. "$ROOT/scripts/upgrade.sh"

main() {
    local folder='' action=upgrade start=yes
    CELERY=
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run | --revert)
                [ "$action" = upgrade ] || fail 2 "--dry-run and --revert do not go together"
                action=${1#--}
                ;;
            --celery) CELERY=yes ;;
            --no-start) start='' ;;
            -h | --help)
                sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
                exit 0
                ;;
            -*) fail 2 "unknown argument $1; ./apply_optimization.sh --help says what it takes" ;;
            '') fail 2 "the folder's name is empty; give none for the current folder" ;;
            *)
                [ -z "$folder" ] || fail 2 "one folder at a time, not both $folder and $1"
                folder=$1
                ;;
        esac
        shift
    done
    folder=${folder:-.}
    [ -d "$folder" ] || fail 2 "$folder is no folder"
    FOLDER=$(cd "$folder" && pwd -P) || fail 2 "$folder cannot be entered"
    PROGRAM=$FOLDER/fftlama
    RECORD=$FOLDER/.fftlama-upgrade
    case $FOLDER in
        "$ROOT") fail 2 "$FOLDER is fftlama itself; give the folder of your cv_fft_inpainting_lama" ;;
        *$'\n'*) fail 2 "the path of the folder has a line break in it; rename it" ;;
    esac

    if [ "$action" = revert ]; then
        revert_folder
        return 0
    fi
    look_around
    if is_up_to_date; then
        say "$FOLDER has this fftlama already; nothing to change. \`bash start_app.sh\` there starts it."
        return 0
    fi
    say_plan "$start"
    [ "$action" = upgrade ] || return 0
    upgrade_folder
    [ -n "$start" ] || return 0
    # In the way its owner is used to, from its own folder.
    (cd "$FOLDER" && bash stop_app.sh && bash start_app.sh) ||
        fail 1 "fftlama is in place but does not run; the lines above say why. --revert gives the folder back"
}

main "$@"
