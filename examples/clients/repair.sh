#!/usr/bin/env bash
# Repair photos with curl: photo and mask in, the file out, in the photo's own format.
#   repair.sh MASK PHOTO...      writes PHOTO's name with _repaired beside it
# Variables: LAMA_SERVER_URL (http://127.0.0.1:7860), LAMA_API_KEY. Exit codes: 0 done, 1 a photo failed, 2 no arguments.
set -euo pipefail

server=${LAMA_SERVER_URL:-http://127.0.0.1:7860}
server=${server%/}
[ $# -ge 2 ] || {
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
mask=$1
shift
login=()
[ -z "${LAMA_API_KEY:-}" ] || login=(-H "Authorization: Bearer $LAMA_API_KEY")
# To the environment's proxy 127.0.0.1 is another machine.
direct=${no_proxy:-${NO_PROXY:-}}
[ "$direct" = "*" ] || direct="127.0.0.1,localhost,::1,$direct" # to curl * is all there are only by itself
failed=0
for photo in "$@"; do
    name=${photo##*/}
    result=${photo%"$name"}${name%.*}_repaired.${name##*.}
    # The names are quoted for curl too, so that commas and semicolons in them do no harm.
    status=$(curl --silent --show-error --noproxy "$direct" "${login[@]}" -o "$result.part" -w '%{http_code}' \
        -F "image=@\"$photo\"" -F "mask=@\"$mask\"" "$server/api/v1/repair") || status=000
    if [ "$status" = 200 ]; then
        mv "$result.part" "$result"
        printf '%s\n' "$result"
    else
        printf '%s: %s %s\n' "$photo" "$status" "$(head -c 500 "$result.part" 2>/dev/null)" >&2
        rm -f "$result.part"
        failed=1
    fi
done
exit "$failed"
