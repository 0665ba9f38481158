#!/bin/bash
# Passwords and a TLS certificate in /run/cbirdb, each only where it is missing: put your own there first and they stay.
# Each service then gets copies of its own, and no more: the CA's key stays here.
#
#   superuser_password   of role postgres, which only the first start and a DBA use
#   owner_password       of role cbirdb, the owner of the database and of schema cbir; pgpass is the same for libpq
#   server.crt, .key     what the server shows; ca.crt is what clients check it with, ca.key what signed it
set -euo pipefail
umask 077
cd /run/cbirdb

application=10001 # the user of the image cbirdb (docker/Dockerfile)
names=DNS:db,DNS:localhost,IP:127.0.0.1${CBIRDB_SERVER_NAMES:+,$CBIRDB_SERVER_NAMES}
days=${CBIRDB_CERTIFICATE_DAYS:-825}

for name in superuser_password owner_password; do
  [ -s "$name" ] || { od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$name.new" && mv "$name.new" "$name"; }
done
# In a password file of libpq, backslash and colon are escaped.
printf '*:*:*:cbirdb:%s\n' "$(sed 's/[\\:]/\\&/g' owner_password)" >pgpass.new && mv pgpass.new pgpass

if [ ! -s server.crt ] || [ ! -s server.key ]; then
  command -v openssl >/dev/null || {
    echo "this image has no openssl: put server.crt, server.key and ca.crt into the folder CBIRDB_SECRETS names" >&2
    exit 1
  }
  if [ ! -s ca.key ]; then
    openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj "/CN=cbirdb CA" \
      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
      -keyout ca.key -out ca.crt 2>/dev/null
  fi
  openssl req -newkey rsa:3072 -nodes -subj "/CN=db" -keyout server.key -out server.csr 2>/dev/null
  openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" -out server.crt \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$names") 2>/dev/null
  rm -f server.csr
  echo "made a certificate for $names, valid for $days days"
fi

chmod 400 superuser_password owner_password server.key
chmod 600 pgpass
[ ! -e ca.key ] || chmod 400 ca.key
chmod 444 server.crt ca.crt
chmod 700 .

# A copy takes its place at once: the server may read it at any moment.
give() { # FOLDER OWNER MODE FILE...
  local folder=$1 owner=$2 mode=$3 file
  shift 3
  for file; do
    install -o "$owner" -g "$owner" -m "$mode" "$file" "$folder/.$file.new"
    mv -T "$folder/.$file.new" "$folder/$file"
  done
}
give /run/db postgres 400 superuser_password owner_password server.key
give /run/db postgres 444 server.crt ca.crt
give /run/client "$application" 600 pgpass # libpq ignores one that others may read
give /run/client "$application" 444 ca.crt
chmod 755 /run/db /run/client

# A folder of the host belongs to its root; the server runs as postgres from its start.
mkdir -p /backup/wal
chown postgres:postgres /backup /backup/wal /var/lib/postgresql
