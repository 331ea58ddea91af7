"""What programs see when they ask their nameserver: run under `outsock run`.

    names.py TEST       one of the functions below; prints what the caller compares

The nameserver is the first of /etc/resolv.conf, or 127.0.0.1.
"""

import select
import socket
import struct
import sys
import threading


def nameserver():
    try:
        for line in open("/etc/resolv.conf"):
            if line.startswith("nameserver "):
                return line.split()[1]
    except OSError:
        pass
    return "127.0.0.1"


SERVER = (nameserver(), 53)
FAMILY = socket.AF_INET6 if ":" in SERVER[0] else socket.AF_INET
A, TXT = 1, 16


def query(number, name, kind=A, edns=None):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    head = struct.pack(">HHHHHH", number, 0x100, 1, 0, 0, 0 if edns is None else 1)
    option = b"" if edns is None else struct.pack(">BHHIH", 0, 41, edns, 0, 0)
    return head + labels + b"\0" + struct.pack(">HH", kind, 1) + option


def summary(answer):
    number, flags, _, count, _, _ = struct.unpack(">HHHHHH", answer[:12])
    names = {0: "ok", 2: "servfail", 3: "nxdomain"}
    truncated = " truncated" if flags & 0x200 else ""
    return f"{number} {names.get(flags & 15, flags & 15)} {count}{truncated} {len(answer)}"


def udp():
    s = socket.socket(FAMILY, socket.SOCK_DGRAM)
    s.settimeout(20)
    return s


def connected():
    s = udp()
    s.connect(SERVER)
    print(s.getpeername()[:2] == SERVER, s.getpeername()[1])
    s.send(query(1, "db.peer"))
    print(summary(s.recv(512)))


def unconnected():
    """As musl does it, and with a bound port."""
    for bind in (False, True):
        s = udp()
        if bind:
            s.bind(("", 0))
        port = s.getsockname()[1]
        s.sendto(query(2, "db.peer"), SERVER)
        answer, source = s.recvfrom(512)
        print(source[:2] == SERVER, summary(answer), not bind or s.getsockname()[1] == port)


def sizes():
    s = udp()
    s.connect(SERVER)
    for edns in (None, 1232, 4096):
        s.send(query(3, "big.peer", TXT, edns))
        print(summary(s.recv(65535)))


def tcp():
    """Several queries at once; the slow one delays nobody."""
    s = socket.create_connection(SERVER, 20)
    many = [query(1, "slow.peer"), query(2, "db.peer"), query(3, "big.peer", TXT)]
    stream = b"".join(struct.pack(">H", len(message)) + message for message in many)
    s.sendall(stream[:7])
    s.sendall(stream[7:])
    file = s.makefile("rb")
    for _ in many:
        (length,) = struct.unpack(">H", file.read(2))
        print(summary(file.read(length)))
    s.sendall(b"\0\1x")
    print(len(file.read()))


def fast_open():
    """As musl since 1.2.4 asks by TCP: with the first bytes, or else by connect()."""
    MSG_FASTOPEN = 0x20000000
    s = socket.socket(FAMILY, socket.SOCK_STREAM)
    s.settimeout(20)
    message = query(9, "big.peer", TXT)
    stream = struct.pack(">H", len(message)) + message
    try:
        s.sendmsg([stream], [], MSG_FASTOPEN, SERVER)
    except OSError:
        s.connect(SERVER)
        s.sendall(stream)
    file = s.makefile("rb")
    print(summary(file.read(struct.unpack(">H", file.read(2))[0])))


def polled():
    """Registered before it is connected, as event loops do."""
    s = udp()
    s.setblocking(False)
    set_ = select.epoll()
    set_.register(s, select.EPOLLIN)
    s.connect(SERVER)
    s.send(query(5, "db.peer"))
    print(len(set_.poll(20)), summary(s.recv(512)))


def bad():
    """What is no query gets no answer and harms nobody."""
    s = udp()
    s.connect(SERVER)
    for message in (b"", b"short", query(1, "db.peer")[:2] + b"\x80" + b"\0" * 20, b"\xff" * 5000):
        s.send(message)
    s.settimeout(0.3)
    try:
        print(summary(s.recv(512)))
    except TimeoutError:
        print("silence")
    s.settimeout(20)
    s.send(query(6, "lost.peer"))
    print(summary(s.recv(512)))


def crowd():
    """More at once than there are sockets in stock."""
    results = []

    def one(number):
        s = udp()
        s.connect(SERVER)
        s.send(query(number, "db.peer"))
        results.append(summary(s.recv(512)).split()[:2] == [str(number), "ok"])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(results.count(True))


def elsewhere():
    """A socket that has asked a nameserver goes to a program in the guest next."""
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.bind(("127.0.0.1", 0))
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.connect(("127.0.0.1" if FAMILY != socket.AF_INET else SERVER[0], 53))
    s.connect(own.getsockname())
    s.send(b"hello")
    print(own.recv(100))
    # Port 53 of an address that is no nameserver is none of the resolver's business.
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(("127.0.0.99", 53))
    print(networks(s) == networks(own))


def networks(*sockets):
    SO_NETNS_COOKIE = 71
    return [s.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8) for s in sockets]


def network():
    """Whether the socket is still one of the guest's network."""
    own, s = udp(), udp()
    try:
        s.connect(SERVER)
    except OSError:
        pass
    print(networks(own) == networks(s))


def repeat():
    """One query per line of standard input."""
    for line in sys.stdin:
        s = udp()
        s.connect(SERVER)
        s.send(query(7, line.strip()))
        print(summary(s.recv(512)), flush=True)


globals()[sys.argv[1]]()
