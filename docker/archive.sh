#!/bin/bash
# Copies a finished segment of the log into the archive; the server calls it as archive_command, with %p and %f.
#
# A crash at any moment leaves a segment under its name whole or not at all, so the next call can repeat it. A segment that
# is there already is never overwritten: the same one counts as archived, another one is an error.
set -euo pipefail
from=${1:?the path of the segment} name=${2:?its name} archive=${3:-/backup/wal}
to=$archive/$name new=$archive/.$name.new # restore_command asks for no name that begins with a dot

if [ ! -e "$to" ]; then
  cp "$from" "$new"
  sync "$new"
  # -n: should another server have brought its own meanwhile, that one stays, and the comparison below says so.
  mv -nT "$new" "$to" || true
  rm -f "$new"
fi
if ! cmp -s "$from" "$to"; then
  echo "the archive already holds another file under the name $name: another server's, or a copy that was cut short" >&2
  exit 1
fi
sync "$to" "$archive"
