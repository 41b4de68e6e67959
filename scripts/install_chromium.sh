#!/usr/bin/env bash
# Finds Chromium for the end-to-end tests; as root on Debian or Ubuntu, installs it when it is missing.
# Prints the browser's version; TRAJSEG_CHROMIUM names another one.
set -euo pipefail

chromium=${TRAJSEG_CHROMIUM:-/usr/bin/chromium}
if [[ ! -x $chromium ]]; then
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "no Chromium at $chromium: install your system's package (Debian: apt install chromium)," >&2
        echo "or set TRAJSEG_CHROMIUM to the browser's executable" >&2
        exit 1
    fi
    started=$SECONDS
    echo "installing Debian's chromium ..."
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
    echo "chromium installed in $((SECONDS - started)) s"
fi
"$chromium" --version
