#!/bin/sh
# install.sh FOLDER: puts the programs that mailrelayd is compared with below FOLDER, one folder each, unpacked only.
# They exclude each other as packages, so none of them is installed: enter.sh shows a program its own folder as part
# of the machine. Postfix is taken from the machine (tests/servers/install.sh installs it). What cannot be had is said
# and left out. Debian and its relatives; as root, because enter.sh needs it anyway.
set -eu
folder=$1
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

skip() { echo "not measured: $name: $1" >&2; }

for name in exim4-daemon-light opensmtpd nullmailer msmtp dma; do
    [ ! -e "$folder/$name/unpacked" ] || continue
    [ "$(id -u)" = 0 ] || { skip "only root can run it beside an installed one"; continue; }
    command -v apt-get >/dev/null || { skip "there is no apt-get"; continue; }
    # What apt would install: the package and those libraries that are not there yet.
    packages=$(apt-get -s install --no-install-recommends "$name" 2>/dev/null | awk '/^Inst/ {print $2}')
    [ -n "$packages" ] || packages=$(apt-get -qq update && apt-get -s install --no-install-recommends "$name" |
        awk '/^Inst/ {print $2}') || { skip "apt-get does not know it"; continue; }
    [ -n "$packages" ] || packages=$name
    echo "unpacking $name" >&2
    rm -rf "$folder/$name" "$folder/deb"
    mkdir -p "$folder/$name" "$folder/deb"
    # shellcheck disable=SC2086 # one word per package
    (cd "$folder/deb" && apt-get -qq -o APT::Sandbox::User=root download $packages) ||
        { skip "apt-get download failed"; continue; }
    for package in "$folder"/deb/*.deb; do
        dpkg -x "$package" "$folder/$name"
    done
    rm -rf "$folder/deb"
    # Where /lib is a symlink to usr/lib, a folder of that name would hide the machine's libraries.
    for part in bin sbin lib lib64; do
        [ -d "$folder/$name/$part" ] && [ -L "/$part" ] || continue
        mkdir -p "$folder/$name/usr/$part"
        cp -a "$folder/$name/$part/." "$folder/$name/usr/$part"
        rm -rf "${folder:?}/$name/$part"
    done
    # The users that the packages' own scripts would have made.
    mkdir -p "$folder/$name/etc"
    cp /etc/passwd /etc/group "$folder/$name/etc/"
    number=64100
    for user in Debian-exim opensmtpd opensmtpq; do
        grep -q "^$user:" "$folder/$name/etc/passwd" ||
            echo "$user:x:$number:$number::/nonexistent:/usr/sbin/nologin" >>"$folder/$name/etc/passwd"
        grep -q "^$user:" "$folder/$name/etc/group" || echo "$user:x:$number:" >>"$folder/$name/etc/group"
        number=$((number + 1))
    done
    # smtpctl speaks to the daemon as this group only; the number is the one that was just given.
    if [ -e "$folder/$name/usr/sbin/smtpctl" ]; then
        chgrp 64102 "$folder/$name/usr/sbin/smtpctl"
        chmod 2755 "$folder/$name/usr/sbin/smtpctl"
    fi
    touch "$folder/$name/unpacked"
done
