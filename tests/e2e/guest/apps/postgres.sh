#!/bin/sh
# postgres.sh PROGRAMS PORT ADDRESS DIRECTORY: a cluster of its own, run by the user that Debian has for it.
set -e
as="setpriv --reuid=postgres --regid=postgres --init-groups"
mkdir -p "$4"
chown postgres "$4"
cd "$4"
$as "$1/initdb" -D "$4/data" --auth=trust --no-sync --username=postgres >/dev/null
exec $as "$1/postgres" -D "$4/data" -p "$2" -c listen_addresses="$3" -c unix_socket_directories= -c fsync=off \
    -c shared_buffers=16MB -c dynamic_shared_memory_type=mmap
