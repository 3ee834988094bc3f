#!/bin/sh
# enter.sh UNPACKED FILES WORK [SOURCE TARGET]...: a room in which UNPACKED and FILES are part of the machine.
# Run in a mount namespace of its own (unshare --mount). The room is an overlay over /, what is written in it is
# forgotten, but for each TARGET, which is SOURCE on the real disk. Says "ready" and stays until it is killed.
set -eu
unpacked=$1 files=$2 work=$3
shift 3
mount --make-rprivate /
mkdir -p "$work"
mount -t tmpfs -o mode=755 tmpfs "$work"
mkdir "$work/upper" "$work/scratch" "$work/root"
cp -a "$unpacked/." "$work/upper"
cp -a "$files/." "$work/upper"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/scratch" overlay "$work/root"
mount --rbind /proc "$work/root/proc"
mount --rbind /dev "$work/root/dev"
while [ $# -gt 1 ]; do
    mkdir -p "$work/root$2"
    mount --bind "$1" "$work/root$2"
    shift 2
done
exec chroot "$work/root" /bin/sh -c 'echo ready; exec sleep 1000000'
