#!/bin/bash
# Puts a base backup in the place of the database and says up to where the archived log is applied at the next start.
#
#   docker compose stop db
#   docker compose run --rm restore name before_the_mistake      to a restore point
#   docker compose run --rm restore time '2026-11-24 09:30+00'   to a moment
#   docker compose run --rm restore latest                       to the end of the archive
#
# What was there before stays beside it, in a folder of its own, until somebody removes it.
set -euo pipefail
base=/backup/base wal=/backup/wal data=${PGDATA:?}

# In a file of settings, quotes are doubled, and a backslash or a line break is written with a backslash.
quoted() {
  local text=${1//\\/\\\\}
  text=${text//\'/\'\'}
  text=${text//$'\n'/\\n}
  printf "'%s'" "${text//$'\r'/\\r}"
}

case "${1:-} $#" in
  "name 2" | "time 2") setting=recovery_target_$1 value=$2 ;;
  "latest 1") setting=recovery_target_timeline value=latest ;;
  *) sed -n 's/^#   //p' "$0" >&2 && exit 2 ;;
esac
[ -n "$value" ] || { echo "the target $1 is empty" >&2 && exit 2; }
[ -s "$base/PG_VERSION" ] || { echo "there is no base backup in $base" >&2 && exit 1; }
# The server itself judges the target, before anything is touched; with no settings but this one.
check=$(mktemp -d)
touch "$check/postgresql.conf"
if ! said=$(postgres -D "$check" -C "$setting" -c "$setting=$value" 2>&1); then
  echo "PostgreSQL does not take this target: $said" >&2
  exit 2
fi
if [ -e "$data/postmaster.pid" ]; then
  # Whether its process lives cannot be seen from another container.
  echo "the server may be running: stop it first (docker compose stop db)." >&2
  echo "If it was killed and none runs, remove $data/postmaster.pid, then repeat this." >&2
  exit 1
fi

aside=$data.before-$(date +%Y%m%dT%H%M%S) new=$data.restoring
where_things_are() {
  local code=$?
  [ "$code" = 0 ] && return
  echo "the restore did not succeed." >&2
  if [ -e "$aside" ] && [ ! -e "$data" ]; then mv -T "$aside" "$data" || true; fi
  if [ -e "$data" ]; then
    echo "The database is in $data, as it was before." >&2
  elif [ -e "$aside" ]; then
    echo "The database as it was before is in $aside: move it back to $data." >&2
  fi
  rm -rf "$new" || echo "An unfinished copy is left in $new: remove it." >&2
}
trap where_things_are EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$(dirname "$data")" # a new, empty volume has not even that
rm -rf "$new"
cp -a "$base" "$new"
# A base backup that was taken after a recovery still has the target of that one.
sed -i '/^recovery_target/d; /^restore_command/d' "$new/postgresql.auto.conf"
cat >>"$new/postgresql.auto.conf" <<CONF
restore_command = 'cp $wal/%f %p'
$setting = $(quoted "$value")
recovery_target_action = 'promote'
CONF
touch "$new/recovery.signal"
chmod 700 "$new"
sync
before=
if [ -e "$data" ]; then
  mv -T "$data" "$aside"
  before=" What was there before is in $aside."
fi
mv -T "$new" "$data"
trap - EXIT
echo "ready: the next start applies the log.$before"
[ -z "$before" ] || echo "Should that start fail, its log says why; to go back: stop db, and move that folder to $data again."
