#!/bin/bash
# Tries what README promises, a clone and two commands, on bare Debian: git, make,
# ca-certificates and Go, and nothing else. Run it by hand, as root, where there are
# debootstrap, util-linux, Go, a network and some 3 GB in TMPDIR:
#
#	internal/debian/try.sh [-full] [-only CASE,...] [RELEASE...]
#
# The releases are bookworm and trixie. What is tried is HEAD, with this machine's Go
# and the modules in its cache; each case has a root of its own:
#
#	root      as root
#	sudo      as a user whose sudo asks for no password
#	password  as a user whose sudo asks for one: told what to run, who then has root run it
#	neither   as a user without sudo: the same
#	no-go     there is no Go: told so before anything is installed
#	old-go    the release's own Go, which may not fetch another: the same
#	fetch-go  the release's own Go, which may: told so, or it works
#
# It runs the demo and the tests of one package, or with -full the whole of
# `make test`, and ends with a line for each case. In a chroot there are no user
# namespaces: the tests that need one are skipped.
set -euo pipefail

repository=$(cd "$(dirname "$0")/../.." && pwd)
full=
only=
while [ $# -gt 0 ]; do
	case $1 in
	-full) full=yes ;;
	-only) only=$2 && shift ;;
	-*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2 ;;
	*) break ;;
	esac
	shift
done
[ $# -gt 0 ] || set -- bookworm trixie

work=$(mktemp -d "${TMPDIR:-/var/tmp}/sqlrotate-debian.XXXXXX")
chmod 755 "$work"
trap 'rm -rf --one-file-system "$work"' EXIT
git -C "$repository" bundle create -q "$work/sqlrotate.bundle" HEAD
goroot=$(go env GOROOT)
modules=$(go env GOMODCACHE)/cache/download
proxy=$(go env GOPROXY)
mkdir -p "$modules"

# inside ROOT USER SCRIPT runs a script in a root, with mounts and processes that
# end with it.
inside() {
	# shellcheck disable=SC2016 # the inner shell expands it
	unshare --mount --pid --fork --kill-child bash -euc '
		root=$1
		mount -t proc proc "$root/proc"
		mount -t tmpfs tmpfs "$root/dev/shm"
		mount -t devpts -o ptmxmode=666 devpts "$root/dev/pts"
		mount --bind "$4" "$root/srv/modules"
		[ ! -d "$root/usr/local/go" ] || mount --bind "$5" "$root/usr/local/go"
		home=/root
		[ "$2" = root ] || home=/home/$2
		chroot "$root" setpriv --reuid="$2" --regid="$2" --init-groups env -i HOME="$home" USER="$2" ${7:+GOTOOLCHAIN=$7} \
			PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
			GOPROXY="file:///srv/modules,$6" sh -euc "cd; $3"
		exit $?' inside "$1" "$2" "$3" "$modules" "$goroot" "$proxy" "${toolchain-}" </dev/null 2>&1
}

# bare RELEASE makes the root that all cases copy.
bare() {
	echo "== $1: debootstrap"
	debootstrap --variant=minbase --include=git,make,ca-certificates "$1" "$work/$1" >"$work/log" || {
		tail -n 20 "$work/log"
		exit 1
	}
	mkdir "$work/$1/srv/modules" "$work/$1/usr/local/go"
	cp "$work/sqlrotate.bundle" "$work/$1/srv/"
	cp /etc/resolv.conf "$work/$1/etc/"
	echo "127.0.0.1 localhost $(uname -n)" >"$work/$1/etc/hosts"
	# This machine's own authorities, if it has any, between it and the network.
	cp -r /usr/local/share/ca-certificates "$work/$1/usr/local/share/"
	inside "$work/$1" root '
		update-ca-certificates
		apt-get update -q
		useradd -m -s /bin/sh dev' >"$work/log"
}

# The steps of a case. They run in $root, as $user, and any that fails ends the case.

fail() {
	echo "!! $*"
	exit 1
}

clone() { inside "$root" "$user" 'git clone -q -c advice.detachedHead=false /srv/sqlrotate.bundle sqlrotate'; }

packages() { inside "$root" root 'dpkg-query -W'; }

# works COMMAND...: it succeeds, and before anything is installed it says in one line
# what is missing.
works() {
	echo "-- $user: $*"
	inside "$root" "$user" "cd sqlrotate; $*" | tee "$work/out"
	awk '
		/^sqlrotate: missing: / { said++ }
		/^(Get|Hit|Ign|Reading package lists)/ && !said { exit bad = 1 }
		END { exit bad || said > 1 }' "$work/out" || fail "not said once, and first, what is missing"
}

# refused PATTERN COMMAND...: it fails with a line that matches, and installs nothing.
refused() {
	local pattern=$1 before
	shift
	echo "-- $user: $*"
	before=$(packages)
	if inside "$root" "$user" "cd sqlrotate; $*" >"$work/out"; then
		cat "$work/out"
		fail "it should have failed"
	fi
	cat "$work/out"
	[ "$(grep -c '^sqlrotate: .*or later is needed\|^sqlrotate: missing' "$work/out")" = 1 ] || fail "it isn't one line that says why"
	grep -q "^sqlrotate: $pattern" "$work/out" || fail "nothing says: $pattern"
	[ "$(packages)" = "$before" ] || fail "something was installed"
}

# clean: there is PostgreSQL, but no cluster of the system's, and nothing is left
# of what prevented it.
clean() {
	ls "$root"/usr/lib/postgresql/*/bin/postgres >/dev/null
	[ -z "$(ls "$root/etc/postgresql" 2>/dev/null)" ] || fail "there is a cluster of the system's"
	[ ! -e "$root/var/lib/mysql" ] || fail "there is a MariaDB of the system's"
	[ ! -e "$root/etc/postgresql-common/createcluster.d/sqlrotate.conf" ] || fail "the setting was left behind"
	[ -z "$(inside "$root" root 'dpkg --audit')" ] || fail "something is half installed"
}

commands() {
	works make demo DEMO="'-duration 10s'"
	clean
	if [ "$full" ]; then
		works make test
	else
		works "internal/setup.sh go.work postgres mariadb compiler && go test -race ./internal/pgtest ./mysqlopener"
	fi
	clean
}

refusals() {
	refused "missing: PostgreSQL, MariaDB, a C compiler .*postgresql mariadb-server-core gcc libc6-dev.*internal/setup.sh postgres mariadb compiler" make test
	refused "missing: PostgreSQL; .*internal/setup.sh postgres$" make demo
	echo "-- root: internal/setup.sh postgres mariadb compiler"
	inside "$root" root "cd ~$user/sqlrotate && PATH=/usr/sbin:/usr/bin:/sbin:/bin internal/setup.sh postgres mariadb compiler"
	clean
}

case_root() {
	user=root
	clone
	commands
}

case_sudo() {
	inside "$root" root '
		apt-get install -q -y --no-install-recommends sudo
		echo "dev ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/dev'
	clone
	commands
}

case_password() {
	inside "$root" root '
		apt-get install -q -y --no-install-recommends sudo
		echo "dev:secret" | chpasswd
		adduser dev sudo || usermod -a -G sudo dev'
	clone
	refusals
	commands
}

case_neither() {
	clone
	refusals
	commands
}

case_no-go() {
	rmdir "$root/usr/local/go"
	user=root
	clone
	refused "Go [0-9.]* or later is needed, and there is no go in PATH" make test
	refused "Go [0-9.]* or later is needed, and there is no go in PATH" make demo
}

own_go() {
	rmdir "$root/usr/local/go"
	inside "$root" root 'apt-get install -q -y --no-install-recommends golang-go; go version; go env GOTOOLCHAIN'
	user=root
	clone
}

case_old-go() {
	own_go
	toolchain=local
	refused "Go [0-9.]* or later is needed, and /usr/bin/go is 1" make test
	refused "Go [0-9.]* or later is needed, and /usr/bin/go is 1" make demo
}

case_fetch-go() {
	own_go
	toolchain=auto
	if inside "$root" root 'cd sqlrotate && internal/setup.sh go.work'; then
		commands
	else
		refused "Go [0-9.]* or later is needed" make demo
	fi
}

summary=
for release; do
	bare "$release"
	for name in root sudo password neither no-go old-go fetch-go; do
		[ -z "$only" ] || [[ ,$only, == *,$name,* ]] || continue
		echo "== $release, $name"
		root=$work/case
		cp -a "$work/$release" "$root"
		start=$SECONDS
		outcome=passed
		set +e # or it would have no effect in the case
		(
			set -e
			user=dev
			"case_$name"
		)
		# shellcheck disable=SC2181 # for the same reason
		[ $? = 0 ] || outcome=FAILED
		set -e
		summary+="$release $name $outcome $((SECONDS - start)) s"$'\n'
		rm -rf --one-file-system "$root"
	done
	rm -rf --one-file-system "${work:?}/$release"
done
printf '\n%s' "$summary"
[[ $summary != *FAILED* ]]
