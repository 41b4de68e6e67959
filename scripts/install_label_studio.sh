#!/usr/bin/env bash
# Installs Label Studio into an environment of its own (its pins clash with ours), once.
#   scripts/install_label_studio.sh [DIR]      DIR defaults to .venv-label-studio in the repository
set -euo pipefail
script=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$script")/.."

version=1.23.2
target=${1:-.venv-label-studio}
stamp=$target/.label-studio-$version

# Two makes at once wait for each other instead of writing over each other.
exec 9<"$script"
if ! flock --nonblock 9; then
    echo "another installation of Label Studio is running; waiting for it"
    flock 9
fi

if [[ -f $stamp ]]; then
    echo "Label Studio $version is in $target"
    exit 0
fi

python=${PYTHON:-python3}
if ! "$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "$python is missing, older than 3.10 or has no venv; install python3 and python3-venv, or set PYTHON" >&2
    exit 1
fi

echo "installing Label Studio $version into $target (about 4 minutes, 1 GB) ..."
SECONDS=0
rm -rf "$target"
"$python" -m venv "$target"
"$target/bin/python" -m pip install -qq --no-compile --disable-pip-version-check "label-studio==$version" &
pip=$!
trap 'kill "$pip" 2>/dev/null' EXIT
while sleep 1; kill -0 "$pip" 2>/dev/null; do
    if (( SECONDS % 30 == 0 )); then
        echo "  $SECONDS s, $(du -sm "$target" | cut -f1) MB"
    fi
done
wait "$pip"
trap - EXIT
# An empty database, whose creation takes a minute: each server of the tests starts with a copy.
LABEL_STUDIO_BASE_DATA_DIR=$(realpath "$target")/empty-data LATEST_VERSION_CHECK=false COLLECT_ANALYTICS=false \
    SENTRY_DSN='' FRONTEND_SENTRY_DSN='' "$target/bin/label-studio" version >/dev/null
touch "$stamp"
echo "Label Studio $version installed in $SECONDS s"
