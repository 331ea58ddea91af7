#!/bin/sh
# The native run: client and peer in a network namespace whose loopback has the documentation addresses.
#
#     native.sh DIRECTORY [WORD...]     DIRECTORY holds the program `differential`
set -e
program=$1/differential
shift
if [ -z "$IN_NAMESPACE" ]; then
    IN_NAMESPACE=1 exec unshare -n sh "$0" "${program%/*}" "$@"
fi
ip link set lo up
ip address add 192.0.2.1/24 dev lo
ip -6 address add 2001:db8::1/64 dev lo nodad
ip route add unreachable 198.51.100.102
ip route add prohibit 198.51.100.103
ip -6 route add unreachable 2001:db8:1::2
ip -6 route add prohibit 2001:db8:1::3
"$program" peer 192.0.2.1 2001:db8::1 fixed >/tmp/peer.$$ &
peer=$!
trap 'kill $peer; rm -f /tmp/peer.$$' EXIT
tries=0
until grep -q ready /tmp/peer.$$; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] && kill -0 $peer || exit 1
    sleep 0.1
done
"$program" run native "$@"
