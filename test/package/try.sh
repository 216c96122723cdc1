#!/usr/bin/env bash
# Packs mdevsim, installs it in an empty project and uses it there: a built-in scenario, the project's own scenarios and
# models, the recorded vectors and captures.
#
#   test/package/try.sh [MAJOR…]     versions of Node; by default 20 and the version that npm ci installs
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
pinned="$repository/node_modules/node/bin/node"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "test/package: $*" >&2; exit 1; }

# Prints the folder of a Node of this version: the repository's own, the one on PATH, or one from npm.
folder_of() {
  local node
  for node in "$pinned" "$(command -v node || true)"; do
    if [ -x "$node" ] && [ "$("$node" -p 'process.versions.node.split(".")[0]')" = "$1" ]; then
      dirname "$(readlink -f "$node")"
      return
    fi
  done
  mkdir -p "$work/node-$1"
  (cd "$work/node-$1" && echo '{}' > package.json && npm install --no-audit --no-fund "node@$1") >&2
  echo "$work/node-$1/node_modules/node/bin"
}

# Runs mdevsim in the project. Arguments: exit code, a text that the output has, arguments of mdevsim.
expect() {
  local code=0 wanted=$1 text=$2 output
  shift 2
  output=$(timeout 120 npx mdevsim "$@" 2>&1) || code=$?
  if [ "$code" -ne "$wanted" ] || [[ "$output" != *"$text"* ]]; then
    echo "$output" >&2
    fail "Node $version: mdevsim $* ended with $code; expected $wanted and '$text'"
  fi
  echo "  mdevsim $*: $code"
}

# Installs the package in a new project below $work. Fails if npm warns about versions of Node.
install_project() {
  mkdir "$work/project-$version"
  cd "$work/project-$version"
  cp "$repository"/test/package/project/* .
  npm init -y > /dev/null
  npm install --no-audit --no-fund "$tarball" > npm.log 2>&1 || { cat npm.log >&2; fail "Node $version: npm install"; }
  if grep EBADENGINE npm.log >&2; then fail "Node $version: npm install warns about engines"; fi
}

# Interrupts a run by SIGTERM to the first of its processes, and expects a report, and that no process stays behind.
# Arguments: the command, and its exit code; - for any.
interrupt() {
  local command=$1 wanted=$2 code=0 pid
  $command run until-stopped.ts > interrupt.log 2>&1 &
  pid=$!
  for _ in $(seq 600); do grep -q 'the guest works' interrupt.log && break; sleep 0.1; done
  kill -TERM "$pid"
  wait "$pid" || code=$?
  for _ in $(seq 200); do grep -q '^INTERRUPTED' interrupt.log && break; sleep 0.1; done
  if ! grep -q '^INTERRUPTED' interrupt.log || { [ "$wanted" != - ] && [ "$code" -ne "$wanted" ]; }; then
    cat interrupt.log >&2
    fail "Node $version: $command, interrupted, ended with $code; expected $wanted and a report"
  fi
  for _ in $(seq 100); do pgrep -f "$PWD/.*/workers/host" > /dev/null || break; sleep 0.1; done
  if pgrep -af "$PWD/.*/workers/host" >&2; then fail "Node $version: $command left processes behind"; fi
  echo "  $command run until-stopped.ts, SIGTERM: $code"
}

# On a Node that is too old, the message names one command. It is run, and must be enough.
mend_node() {
  # A project's own Node may be as old: the command must not start itself again and again.
  mkdir -p node_modules/node/bin
  echo '{"name":"node","version":"20.0.0"}' > node_modules/node/package.json
  ln -s "$(command -v node)" node_modules/node/bin/node
  expect 104 'mdevsim needs Node' run first-light
  rm -r node_modules/node
  expect 104 'mdevsim needs Node' run first-light
  local command
  command=$(npx mdevsim run first-light 2>&1 | sed -n 's/.*One command adds it to this project: //p')
  echo "  $command"
  $command --no-audit --no-fund > npm.log 2>&1 || { cat npm.log >&2; fail "Node $version: $command"; }
  # Without npx, the command finds the project's Node by itself.
  node node_modules/mdevsim/dist/src/cli/bin.js run own.ts > own.log 2>&1 || { cat own.log >&2; fail "Node $version: restart"; }
}

try_version() {
  version=$1
  local folder
  folder=$(folder_of "$version")
  PATH="$folder:$PATH"
  hash -r
  echo "Node $(node --version), npm $(npm --version)"
  install_project
  [ "$version" -ge 24 ] || mend_node
  expect 0 'PASSED  first-light' run first-light --vms 1 --vgpus 2 --out html=report.html
  # The script of the charts and the data that it draws are in the package and in the page.
  if ! grep -q 'id="model">{"from":' report.html || ! grep -q 'uPlot' report.html; then
    fail "Node $version: the report has no charts"
  fi
  expect 104 'nearest built-in scenario: first-light' run frist-light
  # The steps of docs/tutorial.md.
  expect 0 'This machine carries' doctor
  expect 0 'wrote load.yaml' init load.yaml
  expect 0 'PASSED  load' run load.yaml --out junit=results.xml
  grep -q 'testcase classname="load.thresholds"' results.xml || fail "Node $version: no thresholds in results.xml"
  sed 's/rate==1/rate<1/' load.yaml > failing.yaml
  expect 99 '✗ checks' run failing.yaml
  expect 104 'no command' rnu
  expect 0 'PASSED  own' run own.ts
  expect 0 'PASSED  own-js' run own-js.js
  expect 0 'PASSED  own-js' run own-js.js --model ./inverter-js.js
  expect 0 'PASSED  edu-device' run edu-device --vms 1
  interrupt 'node node_modules/mdevsim/dist/src/cli/bin.js' 105
  interrupt 'npx mdevsim' -
  expect 0 '0 failed' conformance vtd
  expect 0 '0 failed' conformance virtio-iommu node_modules/mdevsim/test/data/virtio-iommu/0*.json.gz --quirks qemu
  expect 0 'PASSED' replay
  "$pinned" "$repository/node_modules/typescript/bin/tsc" -p . || fail "Node $version: types"
}

cd "$repository"
tarball="$work/$(npm pack --silent --pack-destination "$work" | tail -n 1)"
versions=("$@")
[ "${#versions[@]}" -gt 0 ] || versions=(20 "$("$pinned" -p 'process.versions.node.split(".")[0]')")
for each in "${versions[@]}"; do (try_version "$each") || exit 1; done
"$pinned" "$repository/test/package/links.ts" "$work/project-${versions[0]}/node_modules/mdevsim" || fail 'broken links'
echo 'test/package: passed'
