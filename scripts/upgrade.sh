# shellcheck shell=bash
# The steps of an upgrade and of its revert. Sourced by apply_optimization.sh after upgrade_search.sh.
#
# Each step can be done again, and appears whole by a rename. The order keeps the old app usable until the new one is
# complete: record, program, libraries, settings, backup, then the three scripts. RECORD holds
#   backup/           the replaced files and their SHA256SUMS (of links: LINKS); there only when it is complete
#   written           checksums of the files put in their place
#   program           checksums of the program's files
#   outputs-made      where there was no outputs/ before
#   done              when everything is in place

# Print checksums of the files named, in the form of sha256sum, or check such a list with --check.
sums() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum "$@"
    else
        shasum -a 256 "$@"
    fi
}

# Print the files of the program, relative to the checkout, NUL after each, sorted: what lies in the root, and every
# folder that is a package, but for those only developers need; of docs/ what README.md's readers are sent to.
program_files() {
    (
        cd "$ROOT" || exit 1
        {
            find . -maxdepth 1 -type f \( -name '*.py' -o -name '*.yaml' -o -name '*.lock' -o -name '*.toml' \
                -o -name 'requirements*.txt' -o -name 'st*_app.sh' -o -name 'README*' -o -name LICENSE \) \
                ! -name fftlama.yaml -print0
            for package in */__init__.py; do
                case ${package%/*} in bench | tests | training | docs | examples) continue ;; esac
                find "./${package%/*}" -name __pycache__ -prune -o -type f -print0
            done
            [ ! -d docs ] || find ./docs -maxdepth 2 -type f \( -name '*.md' -o -name '*.json' -o -path './docs/jobs/*' \
                -o -name before-mask-after.jpg \) -print0
            find ./scripts -name __pycache__ -prune -o -type f -print0
            [ ! -d weights ] || find ./weights -maxdepth 1 -type f \( -name 'lama-compact*' -o -name '*.md' \) -print0
        } | LC_ALL=C sort -z
    )
}

program_sums() {
    (cd "$ROOT" && program_files | xargs -0 sh -c 'if command -v sha256sum >/dev/null; then exec sha256sum -- "$@"; else exec shasum -a 256 -- "$@"; fi' sums)
}

# The file that takes the place of $1.
replacement() {
    case $1 in
        app.py)
            cat <<'PYTHON'
"""Starts fftlama, which took the place of what was here; see fftlama/README.md. Written by apply_optimization.sh."""

import os
import sys
from pathlib import Path

program = Path(__file__).resolve().parent / "fftlama"
python = program / ".venv" / "bin" / "python"
if not python.exists():
    sys.exit("fftlama/.venv is missing; `bash start_app.sh` makes it")
os.execv(python, [str(python), str(program / "app.py"), *sys.argv[1:]])
PYTHON
            ;;
        *.sh)
            cat <<BASH
#!/usr/bin/env bash
# Hands over to fftlama, which took the place of what was here; see fftlama/README.md. Written by apply_optimization.sh.
exec bash "\$(CDPATH='' cd "\$(dirname "\${BASH_SOURCE[0]}")" && pwd -P)/fftlama/$1" "\$@"
BASH
            ;;
    esac
}

written_sums() {
    local name
    for name in "${REPLACED[@]}"; do
        printf '%s  %s\n' "$(replacement "$name" | sums | cut -d ' ' -f 1)" "$name"
    done
}

# Whether the folder has exactly what an upgrade from here would give it.
is_up_to_date() {
    local celery
    [ -f "$RECORD/done" ] || return 1
    (cd "$FOLDER" && written_sums | sums --check --status -) 2>/dev/null || return 1
    [ "$(program_sums)" = "$(cat "$RECORD/program" 2>/dev/null)" ] || return 1
    (cd "$PROGRAM" && sums --check --status "$RECORD/program") 2>/dev/null || return 1
    [ -x "$PROGRAM/.venv/bin/python" ] && [ -f "$PROGRAM/weights/${WEIGHTS##*/}" ] || return 1
    celery=$(grep -c '^queue: celery' "$PROGRAM/fftlama.yaml" 2>/dev/null) || true
    [ -z "$CELERY" ] || [ "${celery:-0}" -gt 0 ]
}

upgrade_folder() {
    # Not every step has a sentence for a full disk; what it says itself stands above.
    trap '[ $? = 0 ] || [ -n "$SAID" ] || printf "Error: the upgrade broke off, the lines above say why; run it again or with --revert\n" >&2' EXIT
    mkdir -p "$RECORD"
    hold_folder
    rm -f "$RECORD/done"
    check_scripts
    [ -d "$FOLDER/outputs" ] || [ -d "$RECORD/backup" ] || : >"$RECORD/outputs-made"
    copy_program
    link_weights
    prepare_libraries
    write_settings
    back_up
    stop_old_app
    replace_scripts
    : >"$RECORD/done"
    rm -f "$RECORD/at-work"
    say "fftlama is in $FOLDER."
}

# Refuse to work beside another run on the same folder; the pid of one that was killed does not count.
hold_folder() {
    local owner WORDS
    owner=$(cat "$RECORD/at-work" 2>/dev/null || true)
    read_words_of "${owner:-0}"
    case $WORDS in
        *apply_optimization.sh*) [ "$owner" = "$$" ] || fail 1 "another apply_optimization.sh (pid $owner) is at work on $FOLDER" ;;
    esac
    # On a full disk nothing can be written: to give the folder back makes room.
    { printf '%s\n' "$$" >"$RECORD/at-work"; } 2>/dev/null || [ "${1-}" = unless-full ] || fail 1 "$RECORD/at-work cannot be written; is the disk full?"
}

# Whether the backup $1 has every replaced file as its checksums say.
is_whole() {
    local name
    for name in "${REPLACED[@]}"; do
        [ -e "$1/$name" ] || [ -L "$1/$name" ] || return 1
    done
    [ ! -f "$1/SHA256SUMS" ] || (cd "$1" && sums --check --status SHA256SUMS)
}

# Whether the folder's file $1 is the one from before the upgrade, or the one that the upgrade wrote.
is_known() {
    local sum
    if [ -L "$FOLDER/$1" ]; then
        [ "$(readlink "$FOLDER/$1")" = "$(readlink "$RECORD/backup/$1" || true)" ]
    else
        sum=$(sums <"$FOLDER/$1" | cut -d ' ' -f 1)
        grep -qF -e "$sum" "$RECORD/backup/SHA256SUMS" "$RECORD/written" 2>/dev/null
    fi
}

# After an upgrade the three files must be the old or the new ones: what somebody wrote since would be lost.
check_scripts() {
    local name
    [ -d "$RECORD/backup" ] || return 0
    is_whole "$RECORD/backup" || fail 1 "$RECORD/backup is damaged; nothing was changed"
    for name in "${REPLACED[@]}"; do
        is_known "$name" ||
            fail 1 "$FOLDER/$name was changed after the upgrade; move it away, --revert, then upgrade again"
    done
}

# Copy the program beside its place and put each of its parts there by a rename; data, settings and .venv stay.
copy_program() {
    local stage=$RECORD/program.new part
    program_sums >"$RECORD/program.new.sums"
    if [ "$(cat "$RECORD/program" 2>/dev/null)" = "$(cat "$RECORD/program.new.sums")" ] &&
        (cd "$PROGRAM" 2>/dev/null && sums --check --status "$RECORD/program") 2>/dev/null; then
        rm -f "$RECORD/program.new.sums"
        return 0
    fi
    say "Copying the program"
    rm -rf "$stage"
    mkdir -p "$stage"
    (cd "$ROOT" && program_files | tar --null -T - -cf -) | tar -xf - -C "$stage" || fail 1 "the program cannot be copied to $stage"
    (cd "$stage" && sums --check --status "$RECORD/program.new.sums") || fail 1 "the copy in $stage is damaged; is the disk full?"
    mkdir -p "$PROGRAM/weights"
    for part in "$stage"/*; do
        case ${part##*/} in
            weights) mv -f "$part"/* "$PROGRAM/weights/" ;;
            *)
                [ ! -d "$part" ] || rm -rf "${PROGRAM:?}/${part##*/}"
                mv -f "$part" "$PROGRAM/"
                ;;
        esac
    done
    rm -rf "$stage"
    mv "$RECORD/program.new.sums" "$RECORD/program"
}

# Link the weights; from inside the folder by a relative path, so that the folder can be moved.
link_weights() {
    local target=$WEIGHTS link=$PROGRAM/weights/${WEIGHTS##*/}
    case $WEIGHTS in "$FOLDER"/*) target=../../$(below_folder "$WEIGHTS") ;; esac
    [ "$(readlink "$link" 2>/dev/null || true)" != "$target" ] || return 0
    ln -sfn "$target" "$link"
}

# Make fftlama/.venv: with the libraries of a Python that has them, else by installing them.
prepare_libraries() {
    local venv=$PROGRAM/.venv packages file
    for file in "$venv"/lib/python*/site-packages/borrowed.pth; do
        # What was borrowed for an older program can't be brought up to date: to pip all of it is there, uv too.
        [ ! -f "$file" ] || cmp -s "$PROGRAM/requirements.lock" "$venv/installed-requirements.lock" || rm -rf "$venv"
    done
    if [ -n "$LIBRARIES" ] && { [ ! -x "$venv/bin/python" ] || [ ! -f "$venv/installed-requirements.lock" ]; }; then
        say "Making fftlama/.venv with the libraries of $LIBRARIES"
        rm -rf "$venv"
        "$LIBRARIES" -m venv --without-pip "$venv" || fail 3 "$LIBRARIES -m venv failed; the lines above say why"
        packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        # addsitedir follows the .pth files in there too, which a plain path would not; ascii as a .pth file has no charset.
        "$LIBRARIES" -c '
import sysconfig
for path in dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")):
    print(f"import site; site.addsitedir({path!a})")' >"$packages/borrowed.pth"
        cp "$PROGRAM/requirements.lock" "$venv/installed-requirements.lock"
    fi
    # The program's own script ends the work: it installs what is missing, and writes .venv/bin/fftlama.
    bash "$PROGRAM/start_app.sh" --install-only || exit $?
}

# Write fftlama/fftlama.yaml where there is none; of one that is there only the queue is changed, and only if asked.
write_settings() {
    local file=$PROGRAM/fftlama.yaml described name reason
    if [ ! -f "$file" ]; then
        described=$("$PROGRAM/.venv/bin/fftlama" profile) || fail 1 "the card cannot be looked at; the lines above say why"
        name=$(printf '%s\n' "$described" | sed -n 's/^profile  *//p')
        reason=$(printf '%s\n' "$described" | sed -n 's/^why  *//p')
        say "Profile ${name:-auto}: $reason"
        {
            printf '# Settings of fftlama, written by apply_optimization.sh; README.md lists all there are.\n'
            printf 'host: %s\nport: %s\noutputs_dir: ../outputs\n' "$HOST_THERE" "$PORT_THERE"
            printf 'weights: %s\n' "$(yaml_text "weights/${WEIGHTS##*/}")"
            printf '# %s Without this line it is chosen at every start.\nprofile: %s\n' "$reason" "${name:-auto}"
        } >"$file.new"
        mv "$file.new" "$file"
    fi
    if [ -n "$CELERY" ] && ! grep -q '^queue: celery' "$file"; then
        {
            grep -v -e '^queue:' -e '^redis_url:' "$file" || true
            printf 'queue: celery\nredis_url: %s\n' "$(yaml_text "$(redis_url)")"
        } >"$file.new"
        check_settings "$file.new"
        mv "$file.new" "$file"
        say "Start a worker on each machine with a card: $(shell_text "$PROGRAM/.venv/bin/fftlama") worker --redis" \
            "$(shell_text "$(redis_url)")"
    fi
    check_settings "$file"
}

yaml_text() { # in single quotes, where only the quote itself is written twice
    printf "'%s'" "$(printf '%s' "$1" | sed "s/'/''/g")"
}

shell_text() { # in single quotes, to be pasted: a path may hold blanks, an address ? and &
    printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
}

check_settings() {
    (cd "$PROGRAM" && "$PROGRAM/.venv/bin/python" -c '
import sys
from pathlib import Path
from config import SettingsError, load_settings
try:
    load_settings({}, {}, Path(sys.argv[1]))
except SettingsError as problem:
    sys.exit(f"Error: {problem}")' "$1") || fail 1 "the settings do not fit this program; the folder's own scripts are as they were"
}

# Keep what will be replaced, with checksums; whole or not at all.
back_up() {
    local stage=$RECORD/backup.new name
    [ ! -d "$RECORD/backup" ] || return 0
    rm -rf "$stage"
    mkdir "$stage"
    (cd "$FOLDER" && cp -pPR "${REPLACED[@]}" "$stage/")
    for name in "${REPLACED[@]}"; do
        if [ -L "$FOLDER/$name" ]; then # its target is not ours to keep; a link is known by where it leads
            printf '%s  %s\n' "$(readlink "$FOLDER/$name")" "$name" >>"$stage/LINKS"
        else
            (cd "$FOLDER" && sums "$name") >>"$stage/SHA256SUMS"
        fi
    done
    is_whole "$stage" || fail 1 "the copies in $stage are damaged; is the disk full?"
    mv "$stage" "$RECORD/backup"
}

# End the old app by its pid: TERM, 15 s, KILL. Its own stop_app.sh may end by name, which hits others too.
stop_old_app() {
    local pid tenths
    for pid in $(old_app_pids); do
        say "Stopping the old app (pid $pid)"
        kill -TERM "$pid" 2>/dev/null || continue
        tenths=150
        while kill -0 "$pid" 2>/dev/null && [ "$tenths" -gt 0 ]; do
            sleep 0.1
            tenths=$((tenths - 1))
        done
        [ "$tenths" -gt 0 ] || kill -KILL "$pid" 2>/dev/null || true
    done
}

replace_scripts() {
    local name
    written_sums >"$RECORD/written.new"
    mv "$RECORD/written.new" "$RECORD/written"
    for name in "${REPLACED[@]}"; do
        replacement "$name" >"$RECORD/$name.new"
        chmod +x "$RECORD/$name.new"
        mv -f "$RECORD/$name.new" "$FOLDER/$name"
    done
}

# Give the folder back: the three files from the backup, then the program and the record of it go.
revert_folder() {
    local name
    rm -rf "$RECORD.removed"
    if [ ! -d "$RECORD" ]; then
        say "$FOLDER has no upgrade to revert; nothing was changed."
        return 0
    fi
    [ -w "$FOLDER" ] || fail 2 "$FOLDER cannot be written by $(id -un); nothing was changed"
    hold_folder unless-full
    if [ -d "$RECORD/backup" ]; then
        is_whole "$RECORD/backup" ||
            fail 1 "$RECORD/backup is damaged; nothing was changed"
        [ ! -f "$PROGRAM/stop_app.sh" ] || bash "$PROGRAM/stop_app.sh" || fail 1 "fftlama runs and cannot be stopped"
        for name in "${REPLACED[@]}"; do
            keep_later_change "$name"
            rm -f "$RECORD/$name.old"
            put_back "$name"
        done
    fi
    rm -rf "$PROGRAM"
    [ ! -f "$RECORD/outputs-made" ] || rmdir "$FOLDER/outputs" 2>/dev/null || true
    # The backup goes last, and at once: a record without it would look like an upgrade that had replaced nothing.
    mv "$RECORD" "$RECORD.removed"
    rm -rf "$RECORD.removed"
    say "$FOLDER is as it was; results in outputs/ stay. \`bash start_app.sh\` there starts the old app."
}

# Put the file $1 of the backup into the folder. A hard link takes no room, which a full disk has none of; of a symbolic
# link, and where there are no hard ones, a copy is made.
put_back() {
    local kept=$RECORD/backup/$1 part=$RECORD/$1.old
    if [ ! -L "$kept" ]; then
        [ ! "$kept" -ef "$FOLDER/$1" ] || return 0 # by a run that was stopped
        ln "$kept" "$part" 2>/dev/null || cp -p "$kept" "$part"
    else
        cp -pPR "$kept" "$part"
    fi
    mv -f "$part" "$FOLDER/$1"
}

# Set aside a script that somebody changed after the upgrade.
keep_later_change() {
    [ -e "$FOLDER/$1" ] || return 0
    ! is_known "$1" || return 0
    mv "$FOLDER/$1" "$FOLDER/$1.changed-after-upgrade"
    say "$1 was changed after the upgrade; that version is kept as $1.changed-after-upgrade"
}
