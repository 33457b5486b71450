#!/usr/bin/env bash
# Makes the final run of this archive again, on whatever machine it lies, and compares. README.md says how and why.
#
#   ./reproduce.sh [--allow-other-versions]      PYTHON=python3.11 ./reproduce.sh
#
# Exit codes: 0 reproduced, 1 not reproduced, 2 something has to be put right first. Stopped, it goes on where it was.
# The same file is in every archive: what an archive holds is data to it, and never code.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

refuse() {
    printf 'reproduce: %s\n' "$*" >&2
    exit 2
}

options=()
case "${1-}" in
    "") ;;
    --allow-other-versions) options+=("$1") ;;
    *) refuse "usage: ./reproduce.sh [--allow-other-versions]" ;;
esac

printf '1. checking the files of the archive\n'
sha256sum --check --quiet --strict SHA256SUMS || refuse "these files are not as they were packed: unpack the archive again"

printf '2. checking what the run reads\n'
lacking=0
while IFS=$'\t' read -r place said; do
    if [ ! -e "$place" ]; then
        printf '   %s is missing: %s\n' "$place" "$said" >&2
        lacking=1
    fi
done <inputs/wanted.tsv
[ "$lacking" = 0 ] || refuse "put what is missing into its place, then start again"

wanted=$(cat python-version.txt)
python=${PYTHON:-python3}
found=$("$python" -c 'import platform; print(platform.python_version())') || refuse "there is no $python; set PYTHON to a Python $wanted"
if [ "$found" != "$wanted" ] && [ "${#options[@]}" = 0 ]; then
    refuse "the run was made with Python $wanted, and $python is $found: set PYTHON to that one, or add --allow-other-versions"
fi

if [ ! -e .venv/made ]; then
    printf '3. building the environment in .venv\n'
    "$python" -m venv --clear .venv ||
        refuse "$python makes no environment (on Debian and Ubuntu: install python3-venv); or set PYTHON to another one"
    # requirements.txt is the whole of what the run was made with, so that nothing is left to pip to resolve
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.txt ||
        refuse "the packages cannot be installed as they were (requirements.txt); README.md says where some of them come from"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index wheel/*.whl ||
        refuse "the wheel of nightshift cannot be installed: unpack the bundle anew"
    : >.venv/made
else
    printf '3. the environment in .venv is there\n'
fi

printf '4. the run\n'
code=0
.venv/bin/python final_run.py --replay record/horizon.jsonl ${options[@]+"${options[@]}"} || code=$?
[ "$code" = 0 ] || { printf 'reproduce: the run ended with exit code %s; what it said stands above\n' "$code" >&2; exit 2; }

printf '5. comparing\n'
exec .venv/bin/python -P -m search.reproduced .
