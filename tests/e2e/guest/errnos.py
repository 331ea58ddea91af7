"""Prints the errno that connect() gives, blocking and as SO_ERROR, for each HOST PORT."""

import errno
import select
import socket
import sys


def name(number):
    return errno.errorcode.get(number, str(number))


def blocking(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        return name(sock.connect_ex((host, port)))


def non_blocking(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        first = sock.connect_ex((host, port))
        if first != errno.EINPROGRESS:
            return name(first)
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        assert poll.poll(60_000), "connect neither succeeded nor failed within a minute"
        return name(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


addresses = sys.argv[1:]
for host, port in zip(addresses[::2], addresses[1::2]):
    print(blocking(host, int(port)), non_blocking(host, int(port)))
