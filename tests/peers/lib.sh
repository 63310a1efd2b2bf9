# shellcheck shell=bash
# What the peer harnesses share: messages, and Debian packages as test material.
#
# Sourced, not run. A package is fetched by name through the host's own apt, so its sources, keys and proxy apply, and
# only the files a harness asks for are unpacked. What was unpacked once is never fetched again: to get a newer
# version, remove its directory below target/peers/packages/.

root=$(cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.." && pwd -P)
packages=$root/target/peers/packages

# Exit statuses beyond a program's own: 77 is "skipped" to automake, meson and others.
readonly SKIPPED=77

say()  { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die()  { say "error: $*"; exit 1; }
skip() { say "skipped: $*"; exit "$SKIPPED"; }

# quoted LINE: whether the README quotes it in the row of this peer.
quoted() {
    grep -F "tests/peers/${0##*/}\`" "$root/README.md" | grep -qF "\`$1\`" && return 0
    say "README.md does not quote this line: $1"
    return 1
}

# begin NAME: makes $here, where the harness NAME keeps what it makes, and $run for this run alone. $run goes when the
# harness ends, and with it the process $machine, if one is running.
begin() {
    here=$root/target/peers/$1
    mkdir -p "$here"
    run=$(mktemp -d "$here/run.XXXXXX")
    machine=
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

clean_up() {
    [ -z "$machine" ] || kill "$machine" 2>/dev/null || true
    rm -rf "$run"
}

# Runs apt-get without a question and without a word, unless it fails. Another apt may be at work: wait for it.
quiet_apt() {
    local log options=(-q -y -o "APT::Sandbox::User=root" -o "DPkg::Lock::Timeout=120")
    log=$(DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" "$@" 2>&1) && return
    printf '%s\n' "$log" >&2
    return 1
}

# Like quiet_apt, but a first failure may only mean that the package lists are old.
apt_retrying() {
    command -v apt-get >/dev/null || skip "there is no apt-get here to fetch Debian packages with"
    quiet_apt "$@" 2>/dev/null && return
    [ "$EUID" -ne 0 ] || quiet_apt update || true
    quiet_apt "$@"
}

# need_program PROGRAM PACKAGE: installs PACKAGE unless PROGRAM is there already.
need_program() {
    command -v "$1" >/dev/null && return
    [ "$EUID" -eq 0 ] || skip "$1 is missing: install the Debian package $2 (this needs root), then run me again"
    say "installing $2"
    apt_retrying install --no-install-recommends "$2" || die "cannot install $2"
}

# dependency_of PACKAGE PREFIX: the first package that PACKAGE depends on whose name starts with PREFIX. Debian's
# kernel metapackages name the current versioned package in this way.
dependency_of() {
    apt-cache depends "$1" 2>/dev/null | sed -n "s/^ *Depends: \\($2.*\\)/\\1/p" | head -n 1
}

# unpack_package PACKAGE PATTERN...: fetches PACKAGE and leaves the files whose paths match one of the PATTERNs (tar's
# wildcards, starting with "./") in $packages/PACKAGE. That directory appears in one step, complete.
unpack_package() {
    local package=$1 part
    shift
    [ -d "$packages/$package" ] && return
    say "fetching $package"
    mkdir -p "$packages"
    part=$(mktemp -d "$packages/.$package.XXXXXX")
    mkdir "$part/tree"
    (cd "$part" && apt_retrying download "$package") || { rm -rf "$part"; die "cannot fetch $package"; }
    dpkg-deb --fsys-tarfile "$part"/*.deb | tar -x -C "$part/tree" --wildcards "$@" \
        || { rm -rf "$part"; die "$package does not hold what is needed of it: $*"; }
    # Losing the race against another harness is as good as winning it.
    mv -T "$part/tree" "$packages/$package" 2>/dev/null || [ -d "$packages/$package" ]
    rm -rf "$part"
}
