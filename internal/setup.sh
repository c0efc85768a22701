#!/bin/sh
# Sees to what a target of the Makefile needs:
#
#	internal/setup.sh [GO.MOD...] [postgres] [mariadb] [compiler] [docker] [pgbouncer] [promtool] [references]
#
# Go is for the user to install: it is checked against each go.mod or go.work that
# is named, first. What else is missing is named in one line, before it is installed
# by apt-get. That takes root, or a sudo that asks for no password; with neither it
# says what to do, changes nothing and fails.
set -eu

say() { echo "sqlrotate: $*" >&2; }

# has_go fails unless go, in the directory of the file $1, is what the file asks for.
# A go that is older may fetch it.
has_go() {
	wanted=$(sed -n 's/^go //p' "$1")
	if ! command -v go >/dev/null; then
		say "Go $wanted or later is needed, and there is no go in PATH (https://go.dev/dl)"
		return 1
	fi
	found=$(cd "$(dirname "$1")" && go version) || {
		say "Go $wanted or later is needed, and this go could not fetch it (https://go.dev/dl)"
		return 1
	}
	version=$(echo "$found" | sed 's/.*go\([0-9][0-9.]*\).*/\1/')
	oldest=$(printf '%s\n' "$wanted" "$version" | sort -t . -k 1,1n -k 2,2n -k 3,3n | head -n 1)
	if [ "$oldest" != "$wanted" ]; then
		hint=""
		[ "$(go env GOTOOLCHAIN)" != local ] || hint="; with GOTOOLCHAIN=auto it fetches a newer one"
		say "Go $wanted or later is needed, and $(command -v go) is $version$hint (https://go.dev/dl)"
		return 1
	fi
}

has_postgres() {
	[ -z "${SQLROTATE_TEST_POSTGRES-}" ] || return 0
	if command -v initdb && command -v postgres; then
		return 0
	fi >/dev/null
	for bin in /usr/lib/postgresql/*/bin; do
		[ ! -x "$bin/initdb" ] || [ ! -x "$bin/postgres" ] || return 0
	done
	return 1
}

# has_mariadb looks where Debian puts it, too, which isn't in everybody's PATH.
has_mariadb() { command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ]; }

# has_compiler tries a header, too: they are a package of their own.
has_compiler() {
	cc=$(go env CC 2>/dev/null) || cc=
	echo '#include <stdlib.h>' | ${cc:-${CC:-gcc}} -fsyntax-only -x c - >/dev/null 2>&1
}

has_docker() {
	command -v dockerd >/dev/null || docker version >/dev/null 2>&1
}

# has_pgbouncer looks where Debian puts it, too, which isn't in everybody's PATH.
has_pgbouncer() { command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ]; }

# has_references tries both Pythons that the tests would.
has_references() {
	command -v jq >/dev/null && { python3 -c 'import dotenv' || /usr/bin/python3 -c 'import dotenv'; } 2>/dev/null
}

has_promtool() { command -v promtool >/dev/null; }

needs=
missing=
packages=

# lack notes that the need $1 is missing, which is called $2, and is in the packages $3.
lack() {
	needs="$needs $1"
	missing="$missing${missing:+, }$2"
	packages="$packages $3"
}

for need; do
	case $need in
	*go.mod | *go.work) has_go "$need" || exit 1 ;;
	esac
done
for need; do
	case $need in
	*go.mod | *go.work) ;;
	postgres) has_postgres || lack postgres PostgreSQL postgresql ;;
	mariadb) has_mariadb || lack mariadb MariaDB mariadb-server-core ;; # no service
	compiler) has_compiler || lack compiler "a C compiler (for the race detector)" "gcc libc6-dev" ;;
	docker) has_docker || lack docker Docker docker.io ;;
	pgbouncer) has_pgbouncer || lack pgbouncer PgBouncer pgbouncer ;;
	promtool) has_promtool || lack promtool promtool prometheus ;;
	references) has_references || lack references "jq or python-dotenv" "jq python3 python3-dotenv" ;;
	*)
		say "setup.sh knows no $need"
		exit 2
		;;
	esac
done
[ -n "$needs" ] || exit 0

# give_up says what is missing, $1, and what else can be done.
give_up() {
	say "missing: $missing; $1"
	case $needs in
	*postgres*) say "or set SQLROTATE_TEST_POSTGRES to the DSN of a superuser on a server of your own; tests that start or stop one are then skipped" ;;
	esac
	exit 1
}

command -v apt-get >/dev/null ||
	give_up "there is no apt-get, so install by hand what Debian calls$packages"

if [ "$(id -u)" != 0 ]; then
	sudo -n true 2>/dev/null ||
		give_up "to install$packages, run as root or with sudo: $(dirname "$0")/setup.sh$needs"
	# shellcheck disable=SC2086 # they are words
	exec sudo -n sh "$0" $needs
fi

umask 022
export DEBIAN_FRONTEND=noninteractive
case $needs in
*postgres*)
	say "missing: $missing; installing with apt-get:$packages (no server of the system's is set up or started)"
	# The package would make a cluster and serve it on port 5432. This file is read
	# when it is installed, and only then.
	dir=/etc/postgresql-common/createcluster.d
	trap 'rm -f "$dir/sqlrotate.conf"; dpkg -S "$dir" >/dev/null 2>&1 || rmdir -p "$dir" 2>/dev/null || :' EXIT
	trap 'exit 1' HUP INT TERM
	mkdir -p "$dir"
	echo "create_main_cluster = false" >"$dir/sqlrotate.conf"
	;;
*) say "missing: $missing; installing with apt-get:$packages" ;;
esac
apt-get update -q -o Acquire::Retries=3
# shellcheck disable=SC2086 # they are words
apt-get install -q -y --no-install-recommends -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 $packages
