#!/usr/bin/env bash
# Makes the initrd of the QEMU tests from what make-machine.sh has made, and the programs of the guests.
#
#   test/qemu/make-initrd.sh DIR   writes DIR/initrd
#
# The guest runs the shell commands of its kernel argument run=, with + for spaces and ; between them.
set -euo pipefail

dir=${1:?usage: make-initrd.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work"/{bin,dev,proc,sys,modules}
cp "$dir/busybox" "$work/bin/busybox"
cp "$dir"/modules/* "$work/modules/"
for program in guest display vgpu; do gcc -O1 -Wall -static -o "$work/bin/$program" "$here/$program.c"; done
cat > "$work/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
# Loads modules, in order. A module that is absent is a part of the kernel.
load() {
  for module in "$@"; do
    [ -e /modules/$module.ko ] && insmod /modules/$module.ko $([ $module = vfio_iommu_type1 ] && echo allow_unsafe_interrupts=1)
  done
}
# Performs the lines of its input, up to one that is "end".
obey() {
  while read -r line && [ "$line" != end ]; do eval "$line"; echo "guest: obeyed"; done
}
load $(grep -v '^#' /modules/list | head -n 1)
echo "guest: up"
run=$(sed -n 's/.*run=\([^ ]*\).*/\1/p' /proc/cmdline | tr + ' ')
eval "$run"
echo "guest: done"
poweroff -f
INIT
chmod +x "$work/init"
(cd "$work" && find . | "$work/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) > "$dir/initrd"
