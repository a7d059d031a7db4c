# Common to the scripts of this directory; sourced by each of them.
# shellcheck shell=bash
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=$top/target/vm
# The flavours of Debian's kernel that a root has: one that boots quickly, and one with more
# drivers, DRM's vgem among them. Both have virtio and virtiofs built in: no initramfs.
flavours=(cloud-amd64 amd64)
flavour=${FLAVOUR:-${flavours[0]}}
PATH=$PATH:/usr/sbin:/sbin # chroot, also for ordinary users

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$@"; exit 1; }

[[ " ${flavours[*]} " = *" $flavour "* ]] || die "FLAVOUR=$flavour: one of ${flavours[*]}"

# Directory of the kernel that $KERNEL names; without it, of the newest one
# seen when the archive was last read. Empty if that was never read.
kernel_dir() {
    local name=${KERNEL:-}
    [[ $name =~ ^([0-9]+\.[0-9]+(\.[0-9]+)?)?$ ]] || die "KERNEL=$name: a version such as 7.2 or 7.2.12"
    if [ -z "$name" ] && [ -e "$cache/newest" ]; then name=$(<"$cache/newest"); fi
    [ -z "$name" ] || printf '%s/%s\n' "$cache" "$name"
}

# Holds the lock FILE on descriptor 9 for the rest of the script.
lock() {
    mkdir -p "$(dirname "$1")"
    exec 9>"$1"
    flock --nonblock 9 && return
    say "waiting for another run that holds ${1#"$top/"}"
    flock 9
}

# in_root ROOT COMMAND...: runs COMMAND in ROOT, in mounts of its own, which end
# with it: devices, processes, this machine's name servers and certificates, and
# what $BIND lists: "TARGET SOURCE" a line.
# shellcheck disable=SC2016 # expanded by the inner shell
in_root() {
    local root=$1
    shift
    "$(dirname "${BASH_SOURCE[0]}")/as-root" env BIND="${BIND:-}" unshare --mount -- sh -ec '
        root=$1
        shift
        for path in /dev /proc /etc/resolv.conf /etc/ssl/certs; do
            if [ -e "$path" ] && [ -e "$root$path" ]; then mount --rbind "$path" "$root$path"; fi
        done
        if [ -n "$BIND" ]; then
            printf "%s\n" "$BIND" | while read -r target source; do mount --bind "$source" "$root$target"; done
        fi
        export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin
        exec chroot "$root" "$@"' - "$root" "$@"
}
