#!/bin/sh
# Installs what the tests against real servers and with real callers need: as root by apt-get, and the OpenID
# provider by npm into .venv; says what will be skipped otherwise.
# The packages' own services are never started and Postfix is left without a configuration: the tests run
# private instances. With CI=true a failed installation is an error, since the tests would fail too.
set -eu

PATH=$PATH:/usr/sbin:/sbin
missing=
# Program:package, as in conftest.py; a path where it is in nobody's PATH. Of fuse3 only the libfuse is used that it needs.
for pair in postfix:postfix dovecot:dovecot-core /usr/lib/dovecot/imap:dovecot-imapd /usr/lib/dovecot/lmtp:dovecot-lmtpd systemd-analyze:systemd \
    strace:strace pflogsumm:pflogsumm jq:jq php:php-cli bsd-mailx:bsd-mailx /usr/lib/git-core/git-send-email:git-email \
    /usr/share/perl5/Mail/Address.pm:libmailtools-perl perl:perl node:nodejs npm:npm fusermount3:fuse3; do
    case $pair in
        /*) [ -e "${pair%%:*}" ] ;;
        *) command -v "${pair%%:*}" >/dev/null ;;
    esac || missing="$missing ${pair#*:}"
done
if [ "${CI:-}" != true ] && [ ! -e /usr/sbin/postfix ] && [ -e /usr/sbin/sendmail ]; then
    echo "postfix is not installed: another mail transport agent is present, and it would be replaced" >&2
    missing=$(echo " $missing " | sed 's/ postfix / /')
fi
missing=$(echo "$missing" | xargs)
apt_line="apt-get install --yes --no-install-recommends $missing"

# Exactly what the lock file says, checked by its hashes; no package runs a script of its own. The folder appears
# whole or not at all.
install_provider() {
    folder=$venv/oidc-provider
    ! cmp -s "$source/package-lock.json" "$folder/package-lock.json" || return 0
    command -v node >/dev/null && command -v npm >/dev/null || { echo "Node.js and npm are missing"; return 1; }
    node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || { echo "Node.js is older than 18"; return 1; }
    echo "installing oidc-provider into $folder" >&2
    rm -rf "$folder" "$folder.new" && mkdir -p "$folder.new" &&
        cp "$source/package.json" "$source/package-lock.json" "$source/.npmrc" "$folder.new" &&
        (cd "$folder.new" && npm ci --silent --ignore-scripts </dev/null) >&2 &&
        mv "$folder.new" "$folder" || { echo "npm ci failed"; return 1; }
}

# The end of every way through this file.
finish() {
    source=$(cd "$(dirname "$0")" && pwd)/oidc
    venv=$(cd "$(dirname "$0")/../.." && pwd)/.venv
    if ! why=$(install_provider); then
        echo "the tests with an OpenID provider are skipped: $why" >&2
        [ "${CI:-}" = true ] && exit 1
    fi
    exit 0
}

if [ "$(id -u)" != 0 ]; then
    echo "not root: the tests against a real Postfix are skipped (sudo make test runs them)" >&2
    [ -z "$missing" ] || echo "not installed, and skipped: $missing (sudo $apt_line)" >&2
    finish
fi
[ -n "$missing" ] || finish

give_up() {
    echo "cannot install $missing: $1; by hand: $apt_line" >&2
    [ "${CI:-}" = true ] && exit 1
    finish
}
command -v apt-get >/dev/null || give_up "there is no apt-get"

# invoke-rc.d asks this file whether a package may start its service: 101 is no.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi

export DEBIAN_FRONTEND=noninteractive
case " $missing " in *" postfix "*)
    command -v debconf-set-selections >/dev/null &&
        echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections ;;
esac
echo "installing $missing" >&2
apt() { apt-get -qq -o DPkg::Lock::Timeout=120 "$@" </dev/null >&2; }
# The lists are fetched only where the first attempt fails: they are empty in a container and stale in an old one.
# shellcheck disable=SC2086 # one word per package
apt install --yes --no-install-recommends $missing 2>/dev/null ||
    { apt update && apt install --yes --no-install-recommends $missing; } || give_up "apt-get failed"
finish
