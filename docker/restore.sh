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

case "${1:-}" in
  name | time) target="recovery_target_$1 = '${2:?"a value for the target $1"}'" ;;
  latest) target="recovery_target_timeline = 'latest'" ;;
  *) sed -n 's/^#   //p' "$0" >&2 && exit 2 ;;
esac
[ -s "$base/PG_VERSION" ] || { echo "there is no base backup in $base" >&2 && exit 1; }
if [ -e "$data/postmaster.pid" ]; then
  # Whether its process lives cannot be seen from another container.
  echo "the server may be running: stop it first (docker compose stop db)." >&2
  echo "If it was killed and none runs, remove $data/postmaster.pid, then repeat this." >&2
  exit 1
fi

aside=$data.before-$(date +%Y%m%dT%H%M%S)
if [ -e "$data" ]; then
  mv "$data" "$aside"
  before="What was there before is in $aside."
fi
mkdir -p "$(dirname "$data")" # a new, empty volume has not even that
cp -a "$base" "$data"
# A base backup that was taken after a recovery still has the target of that one.
sed -i '/^recovery_target/d; /^restore_command/d' "$data/postgresql.auto.conf"
cat >>"$data/postgresql.auto.conf" <<CONF
restore_command = 'cp $wal/%f %p'
$target
recovery_target_action = 'promote'
CONF
touch "$data/recovery.signal"
chown -R postgres:postgres "$data"
chmod 700 "$data"
echo "ready: the next start applies the log. ${before:-}"
