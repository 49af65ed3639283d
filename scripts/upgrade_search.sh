# shellcheck shell=bash
# What is there before an upgrade: files, weights, address and port, Pythons with the libraries. Sourced by
# apply_optimization.sh, which sets ROOT (the checkout), FOLDER (to be upgraded), PROGRAM and RECORD (in it). Reads only.

REPLACED=(app.py start_app.sh stop_app.sh)
HOW_TO_REVERT="run this with --revert first, or move it away"

# Set WEIGHTS, HOST_THERE, PORT_THERE, LIBRARIES; end with what is missing where the folder is not one we know.
look_around() {
    local name missing=() unread
    for name in "${REPLACED[@]}"; do
        [ -f "$FOLDER/$name" ] || missing+=("$name")
    done
    WEIGHTS=$(find_weights)
    unread=''
    [ -n "$WEIGHTS" ] || unread=$(unread_weights)
    [ -n "$WEIGHTS$unread" ] || missing+=("weights with a LaMa generator in them (.ckpt, .pth, .pt or .safetensors, at any depth)")
    if [ ${#missing[@]} -gt 0 ]; then
        printf 'Error: %s is no cv_fft_inpainting_lama folder that this script knows. Missing:\n' "$FOLDER" >&2
        printf '  %s\n' "${missing[@]}" >&2
    fi
    if [ -n "$unread" ]; then # what cannot be looked into is not missing
        printf 'Error: %s has no weights that %s can read. What cannot be read and may hold them:\n' "$FOLDER" "$(id -un)" >&2
        printf '%s\n' "$unread" | sed 's/^/  /' >&2
    fi
    if [ ${#missing[@]} -gt 0 ] || [ -n "$unread" ]; then
        say "Nothing was changed." >&2
        exit 2
    fi
    [ -w "$FOLDER" ] || fail 2 "$FOLDER cannot be written by $(id -un); nothing was changed"
    if [ -e "$PROGRAM" ] && [ ! -e "$RECORD" ]; then
        fail 2 "$PROGRAM is there and not from this script; $HOW_TO_REVERT. Nothing was changed"
    fi
    read_address
    LIBRARIES=$(find_libraries)
}

# Print the files below the folder that may be weights, NUL after each. What we put there ourselves is left out.
candidate_weights() {
    # From inside, as -path takes a pattern and the folder's own path may have brackets in it.
    (cd "$FOLDER" && find -L . \( -path ./fftlama -o -path './.fftlama-*' -o -name .git -o -name site-packages \) -prune -o \
        -type f \( -name '*.ckpt' -o -name '*.pth' -o -name '*.pt' -o -name '*.safetensors' \) -print0 2>/dev/null) || true
}

# Print the largest file that has the tensors of a LaMa generator. Names of tensors stand as they are in every format.
find_weights() {
    local file size best='' best_size=-1
    while IFS= read -r -d '' file; do
        case $file in *$'\n'*) continue ;; esac
        file=$FOLDER/${file#./}
        LC_ALL=C grep -qaF -e convl2l "$file" 2>/dev/null || continue
        size=$(wc -c <"$file" | tr -d ' ')
        if [ "$size" -gt "$best_size" ]; then
            best=$file
            best_size=$size
        fi
    done < <(candidate_weights)
    printf '%s' "$best"
}

# Print what may be weights and was passed over: files that cannot be read or have a line break in their names, and
# folders that cannot be entered; below the folder, a line each, the first ten.
unread_weights() {
    local file
    {
        while IFS= read -r -d '' file; do
            case $file in
                *$'\n'*) printf '%q\n' "${file#./}" ;;
                *) head -c 1 "$FOLDER/${file#./}" >/dev/null 2>&1 || printf '%s\n' "${file#./}" ;;
            esac
        done < <(candidate_weights)
        # From what find says of them: to look for what cannot be read it has no test that every system knows.
        (cd "$FOLDER" && LC_ALL=C find -L . \( -path ./fftlama -o -path './.fftlama-*' -o -name .git -o -name site-packages \) -prune \
            -o -type d -exec sh -c 'for d do ls "$d" >/dev/null 2>&1 || printf "%s\n" "${d#./}"; done' sh {} + 2>/dev/null) || true
    } | head -n 10
}

# Print the first match of the extended expression $1 in the files after it, only what is in its last parentheses.
first_match() {
    local expression=$1 line file
    shift
    for file in "$@"; do
        [ -f "$file" ] || continue
        line=$(LC_ALL=C grep -aEo -e "$expression" "$file" 2>/dev/null | head -n 1) || true
        [ -z "$line" ] || { printf '%s' "$line" && return 0; }
    done
}

# Set HOST_THERE and PORT_THERE from the old scripts and settings, as they were before an earlier upgrade.
read_address() {
    local old=$FOLDER sources word between
    [ ! -d "$RECORD/backup" ] || old=$RECORD/backup
    sources=("$old/start_app.sh" "$old/app.py" "$FOLDER/config.py" "$FOLDER"/configs/*.py "$FOLDER"/configs/*.y*ml
        "$FOLDER"/config.y*ml)
    # NAME = 7860, NAME="${PORT:-7860}", getenv("NAME", "7860"), add_argument("--NAME", type=int, default=7860)
    between="[\"']?([ =:]+|[ =]*\"?[$][{][A-Za-z0-9_]+:-|[ ]*,[ ]*|[ ]*,[^0-9]{0,40}default[ ]*=[ ]*)[\"']?"
    word=$(first_match "(^|[^A-Za-z])(server_port|SERVER_PORT|PORT|port)${between}[0-9]{2,5}" "${sources[@]}")
    PORT_THERE=$(printf '%s' "$word" | grep -Eo '[0-9]+$' || true)
    [ -n "$PORT_THERE" ] || PORT_THERE=7860
    word=$(first_match "(^|[^A-Za-z])(server[_-]name|SERVER_NAME|HOST|host)${between}([0-9]+[.][0-9.]+|localhost)" "${sources[@]}")
    HOST_THERE=$(printf '%s' "$word" | grep -Eo '([0-9]+\.[0-9.]+|localhost)$' || true)
    [ -n "$HOST_THERE" ] || HOST_THERE=0.0.0.0
}

# Print the Pythons worth a look, one a line: the folder's own, those its start script names, the usual ones, ours.
candidate_pythons() {
    local old=$FOLDER environment conda
    [ ! -d "$RECORD/backup" ] || old=$RECORD/backup
    printf '%s\n' "$FOLDER"/{.venv,venv,env,.env}/bin/python
    grep -aEo '/[^ "'\''=:;]*/bin/python[0-9.]*' "$old/start_app.sh" 2>/dev/null || true
    environment=$(first_match 'activate +[A-Za-z0-9_./-]+' "$old/start_app.sh")
    environment=${environment#activate}
    environment=${environment// /}
    if [ -n "$environment" ]; then
        printf '%s\n' "$environment/bin/python"
        for conda in /opt/conda /opt/miniconda3 "${HOME-}"/{anaconda3,miniconda3,miniforge3,.conda} /root/{anaconda3,miniconda3}; do
            printf '%s\n' "$conda/envs/$environment/bin/python"
        done
    fi
    [ -z "${VIRTUAL_ENV-}" ] || printf '%s\n' "$VIRTUAL_ENV/bin/python"
    [ -z "${CONDA_PREFIX-}" ] || printf '%s\n' "$CONDA_PREFIX/bin/python"
    command -v python3 python3.13 python3.12 python3.11 2>/dev/null || true
    printf '%s\n' "$ROOT/.venv/bin/python"
}

# Print the first Python that has every library of requirements.lock in its version; nothing where none has.
find_libraries() {
    local python
    while IFS= read -r python; do
        [ -x "$python" ] || continue
        if "$python" - "$ROOT/requirements.lock" >/dev/null 2>&1 <<'PYTHON'; then
import sys
from importlib.metadata import PackageNotFoundError, version

assert (3, 11) <= sys.version_info[:2] < (3, 14)
wanted, conditional = {}, set()
for line in open(sys.argv[1], encoding="utf-8"):
    pin, _, condition = line.partition(";")
    name, _, number = pin.strip().partition("==")
    if not number or name.startswith(("nvidia-", "cuda-", "triton")):
        continue  # another build of torch brings its own, or none
    wanted.setdefault(name, set()).add(number)  # a library may have a line for each Python
    if condition:
        conditional.add(name)
for name, numbers in wanted.items():
    try:
        if version(name).partition("+")[0] not in numbers:
            sys.exit(1)
    except PackageNotFoundError:
        if name not in conditional:
            raise
PYTHON
            printf '%s' "$python"
            return 0
        fi
    done < <(candidate_pythons | awk '!seen[$0]++')
}

# Set WORDS to the command line of the process $1, with a blank after each of its words; empty where it has none.
read_words_of() {
    local words=()
    { mapfile -d '' -t words <"/proc/$1/cmdline"; } 2>/dev/null || true
    WORDS=${words[*]:+"${words[*]} "}
}

# Print the pids of the old app: a Python that runs the folder's app.py, by its full path or from the folder.
old_app_pids() {
    local process pid WORDS
    for process in /proc/[0-9]*; do
        pid=${process#/proc/}
        read_words_of "$pid"
        case $WORDS in
            *python*" $FOLDER/app.py "*) printf '%s\n' "$pid" ;;
            *python*" app.py "* | *python*" ./app.py "*)
                [ "$(readlink "$process/cwd" 2>/dev/null || true)" != "$FOLDER" ] || printf '%s\n' "$pid"
                ;;
        esac
    done
}

# Print the path $1 as seen from the folder, where it is below it.
below_folder() {
    case $1 in
        "$FOLDER"/*) printf '%s' "${1#"$FOLDER"/}" ;;
        *) printf '%s' "$1" ;;
    esac
}

# Say what an upgrade of the folder would do. $1 is empty where the app is not to be started.
say_plan() {
    local size_mib pids owner
    size_mib=$(($(wc -c <"$WEIGHTS") / 1048576))
    say "In $FOLDER this will"
    say "  put the program into fftlama/, and nothing else into the folder"
    say "  link the weights   $(below_folder "$WEIGHTS") ($size_mib MiB; neither copied nor changed)"
    if [ -n "$LIBRARIES" ]; then
        say "  use the libraries  of $LIBRARIES, where they stay"
    else
        say "  install libraries  of requirements.lock into fftlama/.venv (no Python here has them; needs the network)"
    fi
    say "  keep the address   $HOST_THERE, port $PORT_THERE, and results in outputs/"
    say "  choose the profile for the card that is found"
    [ -z "$CELERY" ] || say "  have repairs run on Celery workers through $(redis_url)"
    say "  replace            ${REPLACED[*]} (kept in .fftlama-upgrade/ with their checksums)"
    owner=$(owner_of "$FOLDER")
    [ "$(id -u)" != 0 ] || [ "$owner" = "$(id -un)" ] ||
        say "  belong to root     what it puts there; the folder is $owner's, who then cannot start it: run this as $owner"
    pids=$(old_app_pids | tr '\n' ' ')
    [ -z "$pids" ] || say "  stop the old app   pid ${pids% }"
    [ -z "$1" ] || say "  start              bash stop_app.sh && bash start_app.sh"
    say "  --revert gives all this back."
}

owner_of() { # the way that every system has
    # shellcheck disable=SC2012
    LC_ALL=C ls -ld -- "$1" | awk '{ print $3 }'
}

redis_url() {
    printf '%s' "${REDIS_URL:-redis://127.0.0.1:6379/0}"
}
