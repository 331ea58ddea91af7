"""Datagrams as a program of the guest sees them. Arguments: HOST4 HOST6-or-dash ECHO CLOSED REFUSED STRANGER."""

import errno
import select
import socket
import sys
import threading

HOST4, HOST6 = sys.argv[1], sys.argv[2]
ECHO, CLOSED, REFUSED = (int(word) for word in sys.argv[3:6])
STRANGER = sys.argv[6]
# Generous: the slowest guest runs in an emulator on a busy machine.
PATIENCE = 30
FAMILIES = [(socket.AF_INET, HOST4)] + ([(socket.AF_INET6, HOST6)] if HOST6 != "-" else [])
LENGTHS = [0, 1, 2, 511, 1400, 1472, 1473, 9000, 16000, 32768, 65507]


def udp(family):
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(PATIENCE)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return made


def errno_of(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno] if error.errno else repr(error)
    return "no error"


def ask(sock, payload):
    """A datagram may be lost; an answer that comes is the right one."""
    for _ in range(5):
        sock.send(payload)
        sock.settimeout(PATIENCE / 5)
        try:
            return sock.recv(70000)
        except TimeoutError:
            pass
    raise SystemExit(f"no answer to {len(payload)} bytes")


def connected():
    for family, host in FAMILIES:
        sock = udp(family)
        sock.connect((host, ECHO))
        for length in LENGTHS:
            payload = bytes(n % 251 for n in range(length))
            assert ask(sock, payload) == payload, (host, length)
        assert sock.getpeername()[:2] == (host, ECHO)
        limit = 65508 if family == socket.AF_INET else 65528
        assert errno_of(lambda: sock.send(bytes(limit))) == "EMSGSIZE", host
        sock.close()


def unconnected():
    """One socket, several destinations: each answer names its sender."""
    sock = udp(socket.AF_INET6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    to = [("::ffff:" + HOST4, ECHO)] + ([(HOST6, ECHO)] if HOST6 != "-" else [])
    for round_ in range(3):
        for address in to:
            payload = f"{round_} {address}".encode()
            sock.sendto(payload, address)
            got, sender = sock.recvfrom(1000)
            assert (got, sender[:2]) == (payload, address), (got, sender)
    # A failure of one destination is no failure of the socket.
    sock.sendto(b"x", ("::ffff:" + HOST4, CLOSED))
    sock.sendto(b"y", to[0])
    assert sock.recvfrom(100)[0] == b"y"
    sock.close()


def heard(host, port):
    """What a connected socket hears after it has sent something."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = udp(family)
    sock.connect((host, port))
    sock.send(b"anybody?")
    ready = select.select([sock], [], [], PATIENCE)[0]
    outcome = errno_of(lambda: sock.recv(10)) if ready else "silence"
    sock.close()
    return outcome


def failures():
    assert heard(HOST4, CLOSED) == "ECONNREFUSED", heard(HOST4, CLOSED)
    assert heard(HOST4, REFUSED) == "EHOSTUNREACH", heard(HOST4, REFUSED)
    assert heard(STRANGER, 53) == "EHOSTUNREACH", heard(STRANGER, 53)
    if HOST6 != "-":
        assert heard(HOST6, CLOSED) == "EACCES", heard(HOST6, CLOSED)


def own():
    """The guest's own datagrams stay in the guest."""
    server = udp(socket.AF_INET)
    server.bind(("127.0.0.1", 0))
    client = udp(socket.AF_INET)
    client.sendto(b"here", server.getsockname())
    payload, sender = server.recvfrom(10)
    assert (payload, sender) == (b"here", client.getsockname()[:0] or ("127.0.0.1", client.getsockname()[1]))
    assert heard("127.0.0.1", 9) == "ECONNREFUSED"


def segments():
    """Many datagrams in one send (UDP_SEGMENT)."""
    SOL_UDP, UDP_SEGMENT = 17, 103
    sock = udp(socket.AF_INET)
    sock.connect((HOST4, ECHO))
    sock.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    payload = b"".join(bytes([n]) * 1000 for n in range(10)) + b"tail"
    sock.send(payload)
    got = sorted(sock.recv(2000) for _ in range(11))
    assert b"".join(sorted(got)) == b"".join(sorted([payload[n : n + 1000] for n in range(0, 10004, 1000)])), got
    sock.close()


def many():
    """Many sockets at the same time."""
    failed = []

    def one(n):
        sock = udp(socket.AF_INET)
        sock.connect((HOST4, ECHO))
        for round_ in range(5):
            payload = f"{n} {round_}".encode() * 10
            if ask(sock, payload) != payload:
                failed.append(n)
        sock.close()

    threads = [threading.Thread(target=one, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


for part in (connected, unconnected, failures, own, segments, many):
    part()
    print(part.__name__, flush=True)
