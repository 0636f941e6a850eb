#!/usr/bin/env bash
# Prepare a bare Debian 12, Debian 13 or Ubuntu 24.04 for ls4: system packages, uv, and the locked Python environment in .venv.
#
# Run it as root or as a user with sudo; `make install` calls it. It exits at once when nothing has changed since its last
# success. It starts no service: it neither creates nor enables the system's own PostgreSQL cluster and web server, and does
# not change existing ones.
#
#   deploy/install.sh         what ls4 needs
#   deploy/install.sh tests   also what tests and `make check` need: a browser for the map page, Node and the CDK for the stacks,
#                             Azurite for Azure Blob Storage
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  postgresql postgresql-postgis   # the tile indexes and Dagster's own storage
  cgi-mapserver nginx-light       # the map server and its web front end
  libnginx-mod-http-js            # computes the bounds of a tile in the web front end
  python3 python3-venv procps util-linux
)
stamp=.venv/.ls4-installed${1:+-$1}
wanted=$({ pwd; cat uv.lock pyproject.toml deploy/install.sh ls4_assets_tests/azurite/package-lock.json; } | sha256sum)

log() { printf 'install: %s\n' "$*"; }
fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

# Debian has the metapackage postgresql-postgis; other systems may package PostGIS for a single PostgreSQL version.
available_name() {
  local name=$1
  if [ "$name" = postgresql-postgis ] && ! apt-cache show "$name" >/dev/null 2>&1; then
    name=$(apt-cache search --names-only '^postgresql-[0-9]+-postgis-3$' | cut -d' ' -f1 | sort -V | tail -n 1)
    [ -n "$name" ] || fail "PostGIS 3 is not in the package lists: enable the distribution's main or universe section."
  fi
  echo "$name"
}

# During the installation /usr/sbin/policy-rc.d returns 101 (start no service). An existing policy is restored afterwards.
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
  # nginx is not started now, but without this it would start at the next boot.
  if [ -z "$had_nginx" ]; then
    as_root rm -f /etc/systemd/system/multi-user.target.wants/nginx.service  # `systemctl disable`, which may be missing
    as_root update-rc.d nginx disable >/dev/null
  fi
}

system_packages() {
  command -v apt-get >/dev/null || fail "This system is not Debian or Ubuntu: install the equivalents of ${packages[*]} yourself."
  if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
    fail "System packages are missing and sudo is not installed: run this script once as root."
  fi
  log "Updating the package lists."
  as_root apt-get update -q >/dev/null
  local name names=()
  for name in "$@"; do
    name=$(available_name "$name")
    names+=("$name")
  done
  log "Installing system packages: ${names[*]}"
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

# Ubuntu has Chromium only as a snap, which the tests cannot use: there, and without sudo, the tests of the map page are skipped.
browser() {
  # libatomic1: for the Node that is part of playwright and controls the browser.
  if [ -x /usr/bin/chromium ] && installed libatomic1; then return; fi
  if [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; then as_root apt-get update -q >/dev/null; fi
  # Not through a pipe: grep would exit at the first match, and apt-cache would then fail with a broken pipe.
  if [[ $(LC_ALL=C apt-cache policy chromium) =~ Candidate:\ [0-9] ]]; then
    log "Installing chromium for the tests of the map page."
    install_packages chromium libatomic1
  else
    log "This system has no package chromium: the tests of the map page will be skipped."
  fi
}

# The CDK needs Node. Without it the tests of the stacks are skipped.
node_for_cdk() {
  if command -v node >/dev/null; then return; fi
  if [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; then
    as_root apt-get update -q >/dev/null
    log "Installing nodejs for the CDK."
    install_packages nodejs
  fi
}

# Azurite, the server for the tests of Azure Blob Storage. Without npm these tests are skipped.
azurite() {
  if ! command -v npm >/dev/null; then
    log "This system has no npm: the tests of Azure Blob Storage will be skipped."
    return
  fi
  log "Installing Azurite in .tools/azurite."
  mkdir -p .tools/azurite
  cp ls4_assets_tests/azurite/package.json ls4_assets_tests/azurite/package-lock.json .tools/azurite/
  npm ci --prefix .tools/azurite --ignore-scripts --no-audit --no-fund --silent
}

# Arguments: additional options of `uv sync`.
python_environment() {
  local uv
  python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || fail \
    "ls4 needs Python 3.11, 3.12 or 3.13, but this system has $(python3 -V): use Debian 12, Debian 13 or Ubuntu 24.04."
  uv=$(command -v uv || true)
  if [ -z "$uv" ]; then
    uv=.tools/bin/uv
    if [ ! -x "$uv" ]; then
      log "Installing uv in .tools."
      python3 -m venv .tools
      .tools/bin/python -m pip install --quiet --disable-pip-version-check uv
    fi
  fi
  # The programs of an environment name its folder: in a checkout that was moved or copied they do not start.
  if [ -e .venv ] && ! grep -qsF "$PWD/.venv/" .venv/bin/ls4; then rm -rf .venv; fi
  log "Installing the locked Python environment in .venv."
  # --inexact: keep the packages for tests when the demonstration is started after them.
  UV_PYTHON_DOWNLOADS=never UV_PYTHON_PREFERENCE=only-system "$uv" sync --locked --inexact --quiet --python "$(command -v python3)" "$@"
}

if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -gt 0 ]; then system_packages "${missing[@]}"; fi
if [ "${1:-}" = tests ]; then
  browser
  node_for_cdk
  python_environment --group deploy --extra azure
  azurite
else
  python_environment
fi
echo "$wanted" >"$stamp"
log "Everything is installed."
