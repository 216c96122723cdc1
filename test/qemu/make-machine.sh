#!/usr/bin/env bash
# Makes the machine of the QEMU tests in a directory: a Debian trixie root with QEMU >= 10.1 from its backports, a kernel,
# and busybox. Needs root and debootstrap. The mirror is this machine's own. What is there already is kept, unless the list
# of modules has changed.
#
#   test/qemu/make-machine.sh DIR
#
# Afterwards DIR/root is the root to run qemu-system-x86_64 in, DIR/vmlinuz the kernel, DIR/modules its modules, and
# DIR/busybox a static busybox.
set -euo pipefail

dir=${1:?usage: make-machine.sh DIR}
root=$dir/root
suite=trixie
list=$(dirname "$0")/modules

if [ -e "$dir/ready" ] && cmp -s "$list" "$dir/modules/list"; then exit 0; fi
[ "$(id -u)" -eq 0 ] || { echo "make-machine.sh needs root" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "make-machine.sh needs debootstrap" >&2; exit 2; }
mkdir -p "$dir"

if [ ! -e "$dir/bootstrapped" ]; then
  rm -rf "$root"
  mirror=$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)
  debootstrap --variant=minbase "$suite" "$root" "${mirror:?no Debian mirror is set up}"
  sed "s/ $suite / $suite-backports /" "$root/etc/apt/sources.list" > "$root/etc/apt/sources.list.d/backports.list"
  for file in /etc/apt/apt.conf.d/*proxy*; do [ -e "$file" ] && cp "$file" "$root/etc/apt/apt.conf.d/"; done
  touch "$dir/bootstrapped"
fi

in_root() { DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"; }
in_root apt-get -qq update
in_root apt-get -qq -y install --no-install-recommends busybox-static xz-utils
in_root apt-get -qq -y install --no-install-recommends -t "$suite-backports" qemu-system-x86
in_root apt-get -qq -y install --no-install-recommends --download-only linux-image-amd64

kernel=$(ls "$root"/var/cache/apt/archives/linux-image-[0-9]*.deb | head -n 1)
rm -rf "$dir/kernel"
dpkg -x "$kernel" "$dir/kernel"
cp "$dir"/kernel/boot/vmlinuz-* "$dir/vmlinuz"
rm -rf "$dir/modules"
mkdir -p "$dir/modules"
# The modules that the guests load, without their folders and compression. Those that the kernel contains are absent.
grep -v '^#' "$list" | tr ' ' '\n' | while read -r name; do
  file=$(find "$dir/kernel" -name "$name.ko*" | head -n 1)
  [ -n "$file" ] || continue
  case $file in *.xz) xz -dc "$file" > "$dir/modules/$name.ko" ;; *) cp "$file" "$dir/modules/$name.ko" ;; esac
done
cp "$list" "$dir/modules/list"
cp "$root/usr/bin/busybox" "$dir/busybox" 2>/dev/null || cp "$root/bin/busybox" "$dir/busybox"
rm -rf "$dir/kernel"
in_root apt-get clean
in_root qemu-system-x86_64 --version
touch "$dir/ready"
