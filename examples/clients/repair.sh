#!/usr/bin/env bash
# Repair photos with curl: photo and mask in, the file out, in the photo's own format (of a GIF a PNG, of a HEIC a JPEG).
#   repair.sh MASK PHOTO...      writes PHOTO's name with _repaired beside it
# Variables: LAMA_SERVER_URL (http://127.0.0.1:7860), LAMA_API_KEY, LAMA_TIMEOUT_S (600). Exit codes: 0 done, 1 a photo failed, 2 no arguments.
set -euo pipefail

server=${LAMA_SERVER_URL:-http://127.0.0.1:7860}
server=${server%/}
[ $# -ge 2 ] || {
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
mask=$1
still_s=${LAMA_TIMEOUT_S:-600}
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
failed=0
part=''
trap '[ -z "$part" ] || rm -f "$part"' EXIT # of a picture that Ctrl+C cut off
trap 'exit 130' INT TERM
for photo in "$@"; do
    name=${photo##*/}
    result=${photo%"$name"}${name%.*}_repaired
    part=$result.part
    # A server that stands still is not waited for without end, nor is one that takes ten minutes for a large photo cut off.
    # The key goes in by standard input: everybody on this machine sees the words of a command line.
    status=$(curl --silent --show-error --noproxy "$direct" --connect-timeout 60 --speed-time "$still_s" --speed-limit 1 \
        --config - -o "$part" -w '%{http_code} %{content_type}' \
        -F "image=@$(quoted "$photo")" -F "mask=@$(quoted "$mask")" "$server/api/v1/repair" <<<"$login") || status=000
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
            said=''
            [ "$status" = 000 ] || said=$(head -c 500 "$part") # else curl has said it, and half a picture may lie there
            printf '%s: %s %s\n' "$photo" "$status" "$said" >&2
            rm -f "$part"
            failed=1
            ;;
    esac
done
exit "$failed"
