#!/usr/bin/env bash
# Repair photos with curl: photo and mask in, the file out, in the photo's own format (of a GIF a PNG, of a HEIC a JPEG).
#   repair.sh MASK PHOTO...      writes PHOTO's name with _repaired beside it
# A server that is started again meanwhile is waited for, LAMA_WAIT_S seconds at most, and the photo is sent once more.
# Variables: LAMA_SERVER_URL (http://127.0.0.1:7860), LAMA_API_KEY, LAMA_TIMEOUT_S (600), LAMA_WAIT_S (120).
# Exit codes: 0 done, 1 a photo failed, 2 no arguments.
set -euo pipefail

server=${LAMA_SERVER_URL:-http://127.0.0.1:7860}
server=${server%/}
[ $# -ge 2 ] || {
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
mask=$1
still_s=${LAMA_TIMEOUT_S:-600}
wait_s=${LAMA_WAIT_S:-120}
was_there='' # whether the server has answered; one that has not is not waited for
shift
login=''
[ -z "${LAMA_API_KEY:-}" ] || login="header = \"Authorization: Bearer $LAMA_API_KEY\""
# To the environment's proxy 127.0.0.1 is another machine.
direct=${no_proxy:-${NO_PROXY:-}}
[ "$direct" = "*" ] || direct="127.0.0.1,localhost,::1,$direct" # to curl * is all there are only by itself
# Quoted for curl, so that commas and semicolons in a name do no harm, nor quotes and backslashes.
quoted() {
    local name=${1//\\/\\\\}
    printf '"%s"' "${name//\"/\\\"}"
}
# One try: the answer goes to $part, its status and kind to $status (000: there is none), curl's own exit code to $error.
# A server that stands still is not waited for without end, nor is one that takes ten minutes for a large photo cut off.
# The key goes in by standard input: everybody on this machine sees the words of a command line.
send() {
    error=0
    status=$(curl --silent "$errors" --noproxy "$direct" --connect-timeout 60 --speed-time "$still_s" --speed-limit 1 \
        --config - -o "$part" -w '%{http_code} %{content_type}' \
        -F "image=@$(quoted "$photo")" -F "mask=@$(quoted "$mask")" "$server/api/v1/repair" <<<"$login") || error=$? status=000
}
failed=0
part=''
trap '[ -z "$part" ] || rm -f "$part"' EXIT # of a picture that Ctrl+C cut off
trap 'exit 130' INT TERM
for photo in "$@"; do
    name=${photo##*/}
    result=${photo%"$name"}${name%.*}_repaired
    part=$result.part
    until_s='' cuts=0 errors=--show-error
    while true; do
        send
        said=''
        case $status in
            000) ;; # curl has said it, and half a picture may lie there
            200*) was_there=yes && break ;;
            *) was_there=yes said=$(head -c 500 "$part" || true) ;;
        esac
        case $error,$status,$said in
            0,502* | 0,503*,*'"starting"'* | 0,503*,*'"interrupted"'* | 0,503*,*'"busy"'*) ;;
            18,* | 52,* | 55,* | 56,*) cuts=$((cuts + 1)) ;; # cut; once more only, as the photo may be the cause
            7,*) [ "$was_there" ] || break ;;
            *) break ;;
        esac
        was_there=yes
        [ "$cuts" -lt 2 ] || break
        if [ -z "$until_s" ]; then
            printf 'the server is away; it is waited for, %s s at most\n' "$wait_s" >&2
            until_s=$((SECONDS + wait_s)) errors=--silent # each try would say the same
        fi
        [ "$SECONDS" -lt "$until_s" ] || break
        sleep 1
    done
    suffix=${name##*.}
    case $status,$suffix in # a repaired GIF is a PNG, a HEIC a JPEG
        '200 image/png',[Pp][Nn][Gg] | '200 image/jpeg',[Jj][PpFf]*) ;;
        '200 image/png',*) suffix=png ;;
        '200 image/jpeg',*) suffix=jpg ;;
    esac
    case $status in
        '200 image/'*)
            mv "$part" "$result.$suffix"
            printf '%s\n' "$result.$suffix"
            ;;
        *)
            printf '%s: %s %s\n' "$photo" "$status" "$said" >&2
            rm -f "$part"
            failed=1
            ;;
    esac
done
exit "$failed"
