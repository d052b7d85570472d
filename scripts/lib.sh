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
