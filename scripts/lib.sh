# shellcheck shell=bash
# What the bash scripts of this folder share: source it, do not run it.

export LC_ALL=C
FERRY_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export FERRY_ROOT

# Everything that is large or slow to make lives here, outside the checkout.
CACHE=${FERRY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ferry}

# The kernel to work with: patches/$KVER and configs/$KVER.
if [[ -z ${KVER:-} && -n ${KERNEL_SRC:-} && -r $KERNEL_SRC/Makefile ]]; then
	KVER=$(awk -F' *= *' '$1 == "VERSION" { v = $2 } $1 == "PATCHLEVEL" { print v "." $2; exit }' \
		"$KERNEL_SRC/Makefile")
fi
KVER=${KVER:-7.3}
export KVER

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "error: $*"; exit 1; }

# take_lock NAME: one run at a time does what NAME stands for, others wait. Held until drop_lock or
# the end of the script and of what it has started.
take_lock() {
	mkdir -p "$CACHE/locks"
	exec {lock_fd}>"$CACHE/locks/$1"
	if ! flock -n "$lock_fd"; then
		say "another run is busy with $1; waiting for it"
		flock "$lock_fd"
	fi
}
drop_lock() { exec {lock_fd}>&-; }

# digest: the first 12 hex digits of the SHA-256 of stdin.
digest() { sha256sum | cut -c1-12; }

# The mirrors that this system already uses for Debian. Where apt has package lists it knows who
# stands behind an address; where it has none yet, an address that ends in /debian must do.
debian_mirrors() {
	# shellcheck disable=SC2016
	{
		apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages'
		apt-get --print-uris update 2>/dev/null | sed -n "s/^'\(.*\)\/dists\/.*/||\1/p"
	} | awk -F'|' '
		{ uri = $3; sub(/\/+$/, "", uri) }
		$2 ~ /[Ss]ecurity/ || uri ~ /security/ || seen[uri] { next }
		$1 == "Debian" || ($1 == "" && uri ~ /\/debian$/) { seen[uri] = 1; print uri }'
}

# What own_apt is to be told on top.
own_apt_options=()

# own_apt COMMAND...: apt-get with the system's settings (proxy, certificates) but with our own
# list of sources and our own state, so that nothing of the system is read or changed.
own_apt() {
	local dir=$CACHE/apt
	mkdir -p "$dir"/{lists/partial,archives/partial,parts}
	apt-get -q -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts="$dir/parts" \
		-o Dir::State::Lists="$dir/lists" -o Dir::Cache::Archives="$dir/archives" \
		-o Dir::Cache::PkgCache= -o Dir::Cache::SrcPkgCache= \
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts="$dir/parts" \
		-o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User="$(id -un)" \
		-o APT::Update::Post-Invoke::= -o APT::Update::Error-Mode=any ${own_apt_options[@]+"${own_apt_options[@]}"} "$@"
}

DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# find_package PACKAGE MINIMUM SUITE...: the first mirror, and suite on it, that has this version (any, if
# MINIMUM is empty) or a newer one. Sets mirrors, mirror, suite, version, and leaves own_apt with that suite.
find_package() {
	local package=$1 minimum=$2 log=$CACHE/apt/log
	shift 2
	mapfile -t mirrors < <(debian_mirrors)
	((${#mirrors[@]})) || die "apt has no Debian mirror configured"
	mkdir -p "$CACHE/apt"
	: >"$log"
	for mirror in "${mirrors[@]}"; do
		for suite; do
			say "looking for $package in $suite"
			echo "deb [signed-by=$DEBIAN_KEYRING] $mirror $suite main" >"$CACHE/apt/sources.list"
			own_apt update >>"$log" 2>&1 || continue
			version=$(own_apt --print-uris download "$package" 2>>"$log" |
				awk 'NR == 1 { split($2, f, "_"); gsub("%3a", ":", f[2]); print f[2] }') || continue
			[[ -z $version ]] || ! dpkg --compare-versions "$version" ge "${minimum:-0}" || return 0
		done
	done
	return 1
}
