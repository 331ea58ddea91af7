#!/bin/sh
# sshd.sh PORT KEY: takes the client whose public key is KEY.
set -e
mkdir -p /run/sshd /tmp/sshd
ssh-keygen -q -t ed25519 -N '' -f /tmp/sshd/host_key
cat "$2" >/tmp/sshd/keys
cat >/tmp/sshd/config <<END
Port $1
HostKey /tmp/sshd/host_key
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
AuthorizedKeysFile /tmp/sshd/keys
Subsystem sftp internal-sftp
END
exec /usr/sbin/sshd -D -e -f /tmp/sshd/config
