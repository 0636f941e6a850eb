#!/usr/bin/env bash
# Make a bare Debian 12 or Ubuntu 24.04 ready for ls4: system packages, uv, and the locked Python environment in .venv.
#
# Run as root or by somebody who may use sudo; `make install` calls it, and it returns at once when nothing has changed
# since it last succeeded. It starts no service: the system's own PostgreSQL cluster and web server are neither made nor
# enabled because of ls4, and are left alone where they exist.
#
#   deploy/install.sh         what ls4 needs
#   deploy/install.sh tests   and a browser, in which the tests look at the map page, and what the stacks are synthesised with
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  postgresql postgresql-postgis   # the tile indexes and Dagster's own storage
  cgi-mapserver nginx-light       # the maps and the front
  libnginx-mod-http-js            # the front computes where a tile lies
  python3 python3-venv procps util-linux
)
stamp=.venv/.ls4-installed${1:+-$1}
wanted=$(cat uv.lock pyproject.toml deploy/install.sh | sha256sum)

say() { printf 'install: %s\n' "$*"; }
give_up() { printf 'install: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

# Debian has the metapackage postgresql-postgis; elsewhere PostGIS may be packaged for one PostgreSQL version only.
available_name() {
  local name=$1
  if [ "$name" = postgresql-postgis ] && ! apt-cache show "$name" >/dev/null 2>&1; then
    name=$(apt-cache search --names-only '^postgresql-[0-9]+-postgis-3$' | cut -d' ' -f1 | sort -V | tail -n 1)
    [ -n "$name" ] || give_up "PostGIS 3 is not in the package lists: enable the distribution's main or universe section."
  fi
  echo "$name"
}

# While packages are being set up, /usr/sbin/policy-rc.d answers 101: start nothing. An own policy is put back after.
install_packages() {
  local policy=/usr/sbin/policy-rc.d kept='' conf=/etc/postgresql-common/createcluster.conf had_nginx=''
  if ! installed postgresql-common && [ ! -e "$conf" ]; then
    as_root mkdir -p "${conf%/*}"
    echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
  fi
  if installed nginx-light || installed nginx; then had_nginx=yes; fi
  if [ -e "$policy" ]; then kept=$policy.before-ls4; as_root mv "$policy" "$kept"; fi
  restore() {
    if [ -n "$kept" ]; then as_root mv "$kept" "$policy"; else as_root rm -f "$policy"; fi
  }
  trap restore EXIT
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    -o Dpkg::Options::=--force-confold "$@" >/dev/null
  restore
  trap - EXIT
  # Set up but not started, it would still come up at the next boot: a web server that nobody asked for.
  if [ -z "$had_nginx" ]; then
    as_root rm -f /etc/systemd/system/multi-user.target.wants/nginx.service  # `systemctl disable`, which may be missing
    as_root update-rc.d nginx disable >/dev/null
  fi
}

system_packages() {
  command -v apt-get >/dev/null || give_up "this is not a Debian or Ubuntu: install ${packages[*]} by this system's means."
  if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
    give_up "system packages are missing and there is no sudo: run it as root once."
  fi
  say "reading the package lists"
  as_root apt-get update -q >/dev/null
  local name names=()
  for name in "$@"; do
    name=$(available_name "$name")
    names+=("$name")
  done
  say "installing system packages: ${names[*]}"
  install_packages "${names[@]}"
}

missing_packages() {
  local name
  for name in "${packages[@]}"; do
    if [ "$name" = postgresql-postgis ]; then
      compgen -G '/usr/share/postgresql/*/extension/postgis.control' >/dev/null || echo "$name"
    else
      installed "$name" || echo "$name"
    fi
  done
}

# Ubuntu has Chromium as a snap only, which a test cannot drive: there, and without sudo, the tests of the page are skipped.
browser() {
  # libatomic1: of the Node that playwright brings and drives the browser with.
  if [ -x /usr/bin/chromium ] && installed libatomic1; then return; fi
  if [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; then as_root apt-get update -q >/dev/null; fi
  # Not through a pipe: grep would end with the first line, and apt-cache's broken pipe would count as no.
  if [[ $(LC_ALL=C apt-cache policy chromium) =~ Candidate:\ [0-9] ]]; then
    say "installing chromium, in which the tests look at the map page"
    install_packages chromium libatomic1
  else
    say "there is no package chromium here: the tests of the map page will be skipped"
  fi
}

# The CDK runs in Node. Without it the tests of the stacks are skipped.
node_for_cdk() {
  if command -v node >/dev/null; then return; fi
  if [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; then
    as_root apt-get update -q >/dev/null
    say "installing nodejs, in which the CDK runs"
    install_packages nodejs
  fi
}

# Arguments: further options of `uv sync`.
python_environment() {
  local uv
  python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || give_up \
    "Python 3.11, 3.12 or 3.13 is needed and this system's is $(python3 -V): use Debian 12 or Ubuntu 24.04."
  uv=$(command -v uv || true)
  if [ -z "$uv" ]; then
    uv=.tools/bin/uv
    if [ ! -x "$uv" ]; then
      say "making uv available in .tools"
      python3 -m venv .tools
      .tools/bin/pip install --quiet --disable-pip-version-check uv
    fi
  fi
  say "installing the locked Python environment into .venv"
  # --inexact: what the tests need besides stays where the demonstration or a check is started after them.
  UV_PYTHON_DOWNLOADS=never UV_PYTHON_PREFERENCE=only-system "$uv" sync --locked --inexact --quiet --python "$(command -v python3)" "$@"
}

if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -gt 0 ]; then system_packages "${missing[@]}"; fi
if [ "${1:-}" = tests ]; then
  browser
  node_for_cdk
  python_environment --group deploy
else
  python_environment
fi
echo "$wanted" >"$stamp"
say "everything is there"
