"""Connects and closes, again and again; says what is left of it.

    churn.py HOST PORT ROUNDS

Prints "before" and "after": this program's descriptors, those of the agent that supervises it (one for each entry
of its table), and the agent's memory, KiB. A line on standard input lets it go on after each.
"""

import os
import select
import socket
import sys
import time

PATIENCE_S = 60
address, rounds = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
agent = os.getppid()


def closed():
    """connect and close"""
    socket.create_connection(address).close()


def echoed():
    """a message, its echo, both ends"""
    with socket.create_connection(address) as one:
        one.sendall(b"message")
        one.shutdown(socket.SHUT_WR)
        while one.recv(64):
            pass


def unread():
    """closed with the echo unread"""
    with socket.create_connection(address) as one:
        one.sendall(b"message")
        one.recv(1)


def registered():
    """non-blocking, in an epoll set before it connects, at two numbers"""
    with socket.socket() as one, select.epoll() as events:
        one.setblocking(False)
        events.register(one, select.EPOLLOUT)
        one.connect_ex(address)
        assert events.poll(PATIENCE_S), "nothing ever happens"
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        one.dup().close()


def given_up():
    """closed while it connects"""
    with socket.socket() as one:
        one.setblocking(False)
        one.connect_ex(address)


def numbers():
    memory = next(line for line in open(f"/proc/{agent}/status") if line.startswith("VmRSS"))
    return [len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{agent}/fd")), int(memory.split()[1])]


def settled(enough):
    """The agent looks for closed sockets every few seconds."""
    deadline = time.monotonic() + PATIENCE_S
    while (now := numbers())[1] > enough and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def tell(name, seen):
    print(name, *seen, flush=True)
    sys.stdin.readline()


ways = [closed, echoed, unread, registered, given_up]
at_first = numbers()[1]
for number in range(rounds // 5):
    ways[number % len(ways)]()
# An idle agent with the same descriptors as before any connection has nothing in its table.
before = settled(at_first + 2)
tell("before", before)
for number in range(rounds):
    ways[number % len(ways)]()
tell("after", settled(before[1]))
