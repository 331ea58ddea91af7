"""What servers see of sockets: one small program per rule, run natively or under `outsock run`.

    servers.py [NAME ...]       runs those whose name contains a NAME, or all

Clients come "from outside": natively that is loopback. Under `outsock run` one of these names a server:

    DIRECTORY (HOST:PORT)   is told a port which this program listens on, says where others reach it
    RELAY (HOST:PORT)       is told a port, connects to it from outside, and goes between

Exit status: the number of failures.
"""

import array
import contextlib
import ctypes
import errno
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

libc = ctypes.CDLL(None, use_errno=True)
OUTSOURCED = "DIRECTORY" in os.environ or "RELAY" in os.environ


class Skip(Exception):
    pass


def equal(got, want):
    if got != want:
        raise AssertionError(f"got {got!r}, want {want!r}")


def error_of(call, *args):
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"


def address(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def ask(word):
    with socket.create_connection(address(os.environ["DIRECTORY"]), timeout=20) as directory:
        directory.sendall(f"{word}\n".encode())
        return directory.makefile().readline().strip()


places = {}


def place(port):
    """Where a port of this program is or was reached from outside; None when it never was."""
    if "DIRECTORY" not in os.environ:
        return ("127.0.0.1", port)
    text = ask(port)
    if text:
        places[port] = address(text)
    return places.get(port)


names = {}


def reach(port):
    """Connects from outside."""
    if "RELAY" not in os.environ:
        return socket.create_connection(place(port), timeout=20)
    far = socket.create_connection(address(os.environ["RELAY"]), timeout=60)
    far.sendall(b"%d\n" % port)
    line = b""
    while not line.endswith(b"\n"):
        part = far.recv(1)
        if not part:
            raise AssertionError(f"the relay ended after {line!r}")
        line += part
    word = line.decode().strip()
    if word.startswith("E"):
        far.close()
        raise OSError(getattr(errno, word), word)
    names[far.fileno()] = address(word)
    return far


def name(far):
    """The name of a client, as those see it who are outside."""
    return names[far.fileno()] if "RELAY" in os.environ else far.getsockname()


def eventually(what, holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        time.sleep(0.01)


def server(backlog=16, family=socket.AF_INET, bind=None, reuseport=False, listen=True):
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuseport:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(bind or (("::" if family == socket.AF_INET6 else "0.0.0.0"), 0))
    if listen:
        sock.listen(backlog)
    return sock


def port_of(sock):
    return sock.getsockname()[1]


def client(sock_or_port, message=b""):
    port = sock_or_port if isinstance(sock_or_port, int) else port_of(sock_or_port)
    sock = reach(port)
    if message:
        sock.sendall(message)
    return sock


def read_all(sock):
    got = b""
    while part := sock.recv(65536):
        got += part
    return got


def talk(near, far, message=b"hello"):
    near.settimeout(20)
    far.sendall(message)
    equal(near.recv(65536), message)
    near.sendall(message[::-1])
    equal(far.recv(65536), message[::-1])


def is_reset(sock):
    try:
        if sock.recv(16) == b"\xffRESET":
            return True  # in a relay's words
    except ConnectionResetError:
        return True
    return False


def descriptors():
    return len(os.listdir("/proc/self/fd"))


# --- accept ---------------------------------------------------------------------------------------


def accept_blocking():
    listener = server()
    far = client(listener)
    near, peer = listener.accept()
    equal(peer, name(far))
    equal(near.getpeername(), name(far))
    equal(near.getsockname()[1], port_of(listener))
    equal(os.get_blocking(near.fileno()), True)
    talk(near, far)


def accept_waits():
    listener = server()
    accepted = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept()))
    thread.start()
    time.sleep(0.2)
    far = client(listener)
    thread.join(20)
    near, peer = accepted[0]
    equal(peer, name(far))
    talk(near, far)


def accept_nonblocking_and_epoll():
    for kind in "level", "edge", "poll", "select":
        listener = server()
        listener.setblocking(False)
        equal(error_of(listener.accept), "EAGAIN")
        epoll = select.epoll()
        epoll.register(listener, select.EPOLLIN | (select.EPOLLET if kind == "edge" else 0))
        equal(epoll.poll(0), [])
        far = client(listener)
        if kind in ("level", "edge"):
            equal([fd for fd, _ in epoll.poll(20)], [listener.fileno()])
        elif kind == "poll":
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            equal(poll.poll(20000), [(listener.fileno(), select.POLLIN)])
        else:
            equal(select.select([listener], [], [], 20)[0], [listener])
        near, peer = listener.accept()
        equal(peer, name(far))
        equal(error_of(listener.accept), "EAGAIN")
        talk(near, far)


def raw_accept(listener, name=True, room=16, flags=None):
    buffer = ctypes.create_string_buffer(80)
    length = ctypes.c_uint32(room)
    pointers = (buffer, ctypes.byref(length)) if name else (None, None)
    ctypes.set_errno(0)
    if flags is None:
        fd = libc.accept(listener.fileno(), *pointers)
    else:
        fd = libc.accept4(listener.fileno(), *pointers, flags)
    return fd, errno.errorcode.get(ctypes.get_errno()), buffer.raw, length.value


def accept_names_short_and_null():
    listener = server()
    far = client(listener)
    fd, _, _, _ = raw_accept(listener, name=False)
    talk(socket.socket(fileno=fd), far)
    for room in (0, 5, 16, 64):
        far = client(listener)
        fd, _, buffer, length = raw_accept(listener, room=room)
        equal(length, 16)
        host, port = name(far)
        whole = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(host))
        equal(buffer[:room][:16], whole[:room])
        equal(buffer[room:room + 1], b"\0")
        os.close(fd)


def accept_flags():
    listener = server()
    for flags in (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK):
        far = client(listener)
        fd, error, _, _ = raw_accept(listener, flags=flags)
        equal(error, None)
        equal(os.get_inheritable(fd), not flags & socket.SOCK_CLOEXEC)
        equal(os.get_blocking(fd), not flags & socket.SOCK_NONBLOCK)
        near = socket.socket(fileno=fd)
        near.setblocking(True)
        talk(near, far)
    equal(raw_accept(listener, flags=1 << 20)[:2], (-1, "EINVAL"))


def accept_bad_pointers():
    listener = server()
    listener.setblocking(False)
    bad = ctypes.c_void_p(8)
    libc.accept(listener.fileno(), bad, bad)
    equal(errno.errorcode[ctypes.get_errno()], "EAGAIN")
    far = client(listener)
    select.select([listener], [], [], 20)
    equal(libc.accept(listener.fileno(), bad, bad), -1)
    equal(errno.errorcode[ctypes.get_errno()], "EFAULT")
    far.settimeout(20)
    with contextlib.suppress(ConnectionResetError):
        equal(far.recv(16) in (b"", b"\xffRESET"), True)
    far = client(listener)
    listener.setblocking(True)
    near, _ = listener.accept()
    talk(near, far)


def accept_not_listening():
    sock = socket.socket()
    equal(error_of(sock.accept), "EINVAL")
    with socket.socket(socket.AF_UNIX) as local:
        equal(error_of(local.accept), "EINVAL")
    equal(libc.accept(9999, None, None), -1)
    equal(errno.errorcode[ctypes.get_errno()], "EBADF")


def accept_timeout():
    listener = server()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 300_000))
    begun = time.monotonic()
    equal(raw_accept(listener)[:2], (-1, "EAGAIN"))
    if time.monotonic() - begun < 0.25:
        raise AssertionError("too early")
    far = client(listener)
    fd, error, _, _ = raw_accept(listener)
    equal(error, None)
    talk(socket.socket(fileno=fd), far)


def accept_interrupted():
    listener = server()
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        equal(raw_accept(listener)[:2], (-1, "EINTR"))
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        # In a process of its own: with several threads nobody knows whose signal it is.
        child = os.fork()
        if child == 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
            time.sleep(0.5)
            client(listener, b"x")
            os._exit(0)
        fd, error, _, _ = raw_accept(listener)
        equal(error, None)
        equal(os.read(fd, 1), b"x")
        os.waitpid(child, 0)
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def accept_under_signals():
    """1 kHz of signals: every connection arrives once."""
    listener = server(128)
    hits = []
    signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        def clients():
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            for number in range(100):
                with client(listener, b"%d" % number) as far:
                    far.shutdown(socket.SHUT_WR)
                    equal(read_all(far), b"%d" % number)

        thread = threading.Thread(target=clients)
        thread.start()
        got = []
        while len(got) < 100:
            near, _ = listener.accept()
            with near:
                message = read_all(near)
                got.append(int(message))
                near.sendall(message)
        thread.join(20)
        equal(sorted(got), list(range(100)))
        listener.setblocking(False)
        equal(error_of(listener.accept), "EAGAIN")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def accept_without_descriptors():
    listener = server()
    far = client(listener)
    select.select([listener], [], [], 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, hard))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(3):
            equal(raw_accept(listener)[:2], (-1, "EMFILE"))
            equal([s for s in select.select([listener], [], [], 20)[0]], [listener])
        os.close(held.pop())
        fd, error, _, _ = raw_accept(listener)
        equal(error, None)
    finally:
        for fd_ in held:
            os.close(fd_)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    near = socket.socket(fileno=fd)
    equal(near.getpeername(), name(far))
    talk(near, far)


# --- several who accept ---------------------------------------------------------------------------


def serve_forked(listener):
    """A child that tells its number to everyone it accepts."""
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                near, _ = listener.accept()
                with near:
                    near.sendall(b"%d" % os.getpid())
        finally:
            os._exit(1)
    return pid


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def accept_preforked():
    listener = server(64)
    children = [serve_forked(listener) for _ in range(4)]
    try:
        seen = [int(read_all(client(listener))) for _ in range(100)]
        equal(set(seen) <= set(children), True)
        # One that is killed in accept() takes none with it.
        end(children.pop())
        seen = [int(read_all(client(listener))) for _ in range(50)]
        equal(set(seen) <= set(children), True)
    finally:
        for child in children:
            end(child)


def accept_in_threads():
    listener = server(64)
    got = []
    def serve():
        while True:
            near, _ = listener.accept()
            with near:
                message = near.recv(64)
                if message == b"end":
                    return
                got.append(int(message))
                near.sendall(message)
    threads = [threading.Thread(target=serve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(200):
        with client(listener, b"%d" % number) as far:
            equal(int(far.recv(64)), number)
    for thread in threads:
        client(listener, b"end")
    for thread in threads:
        thread.join(20)
    equal(sorted(got), list(range(200)))


def reuseport_group():
    first = server(64, reuseport=True)
    second = server(64, bind=("0.0.0.0", port_of(first)), reuseport=True)
    children = []
    for listener in (first, second):
        children.append(serve_forked(listener))
    seen = {int(read_all(client(first))) for _ in range(60)}
    equal(seen, set(children))
    for child in children:
        end(child)


def reuseport_one_closes():
    for _ in range(10):
        first = server(64, reuseport=True)
        second = server(64, bind=("0.0.0.0", port_of(first)), reuseport=True)
        port = port_of(first)
        first.close()
        second.settimeout(20)
        for _ in range(3):
            far = client(port)
            near, _ = second.accept()
            talk(near, far)
            near.close()
            far.close()
        second.close()


def listens_anew():
    """A server that closes its listener and listens again: who connects then is served."""
    listener = server(64)
    port = port_of(listener)
    client(listener).close()
    listener.accept()
    for _ in range(10):
        listener.close()
        listener = server(64, bind=("0.0.0.0", port))
        fars = [client(port, b"%d" % number) for number in range(16)]
        listener.settimeout(20)
        got = []
        for _ in fars:
            near, _ = listener.accept()
            near.settimeout(20)
            got.append(int(near.recv(64)))
            near.close()
        equal(sorted(got), list(range(16)))
        for far in fars:
            far.close()


def listen_on_connected():
    listener = server()
    near = client(listener)
    accepted, _ = listener.accept()
    equal(error_of(accepted.listen), "EINVAL")
    equal(error_of(accepted.accept), "EINVAL")
    talk(accepted, near)


def accept_storm():
    listener = server(1024)
    def serve():
        for _ in range(500):
            near, _ = listener.accept()
            with near:
                near.sendall(near.recv(64))
    thread = threading.Thread(target=serve)
    thread.start()
    wrong = []
    def clients(base):
        for number in range(base, base + 50):
            with client(listener, b"%d" % number) as far:
                if far.recv(64) != b"%d" % number:
                    wrong.append(number)
    threads = [threading.Thread(target=clients, args=(base * 50,)) for base in range(10)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    thread.join(60)
    equal(wrong, [])


# --- streams --------------------------------------------------------------------------------------


def data_before_accept():
    listener = server()
    far = client(listener, b"early")
    far.shutdown(socket.SHUT_WR)
    time.sleep(0.2)
    near, _ = listener.accept()
    equal(read_all(near), b"early")
    near.sendall(b"late")
    near.close()
    equal(read_all(far), b"late")


def client_gone_before_accept():
    listener = server()
    client(listener, b"bye").close()
    time.sleep(0.2)
    near, _ = listener.accept()
    equal(read_all(near), b"bye")


def client_reset_before_accept():
    for family in (socket.AF_INET, socket.AF_INET6):
        listener = server(family=family)
        far = client(listener, b"hello")
        time.sleep(0.1)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        far.close()
        listener.settimeout(20)
        near, _ = listener.accept()
        near.settimeout(20)
        equal(near.recv(64), b"hello")


def much_both_ways():
    listener = server()
    far = client(listener)
    near, _ = listener.accept()
    data = os.urandom(1 << 20)
    def send(sock):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    for sender, receiver in ((near, far), (far, near)):
        thread = threading.Thread(target=send, args=(sender,))
        thread.start()
        equal(read_all(receiver) == data, True)
        thread.join()


def accepted_options():
    listener = server()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    far = client(listener)
    near, _ = listener.accept()
    equal(near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1)
    equal(near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1)
    equal(near.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN), socket.AF_INET)
    equal(near.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL), socket.IPPROTO_TCP)
    equal(near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
    equal(near.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), 0)
    equal(near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0], 1)
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
    equal(near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 77)
    talk(near, far)


def accepted_descriptors_pass_on():
    """fork, SCM_RIGHTS, dup: the connection is the same everywhere, and ends with its last descriptor."""
    listener = server()
    far = client(listener)
    near, _ = listener.accept()
    copy = near.dup()
    near.close()
    one, two = socket.socketpair(socket.AF_UNIX)
    rights = array.array("i", [copy.fileno()])
    one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    _, ancillary, _, _ = two.recvmsg(1, socket.CMSG_SPACE(4))
    passed = socket.socket(fileno=struct.unpack("=i", ancillary[0][2])[0])
    copy.close()
    equal(passed.getpeername(), name(far))
    talk(passed, far)
    passed.close()
    equal(far.recv(1), b"")


def deferred_accept():
    listener = server()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    far = client(listener, b"data")
    listener.settimeout(20)
    near, _ = listener.accept()
    equal(near.recv(64), b"data")


# --- listeners ------------------------------------------------------------------------------------


def loopback_clients():
    listener = server()
    far = socket.create_connection(("127.0.0.1", port_of(listener)))
    near, peer = listener.accept()
    equal(peer, far.getsockname())
    equal(near.getsockname(), far.getpeername())
    talk(near, far)
    local = server(bind=("127.0.0.1", 0))
    far = socket.create_connection(local.getsockname())
    near, peer = local.accept()
    equal(peer, far.getsockname())
    talk(near, far)


def port_zero():
    """Bound to port 0, or not bound at all: the name is one that can be reached."""
    for bound in (True, False):
        listener = socket.socket()
        if bound:
            listener.bind(("0.0.0.0", 0))
        listener.listen()
        far = client(listener)
        near, _ = listener.accept()
        talk(near, far)


def ipv6_dual_and_only():
    listener = server(family=socket.AF_INET6)
    far = client(listener)
    near, peer = listener.accept()
    equal(peer[:2], ("::ffff:127.0.0.1", name(far)[1]))
    equal(near.getpeername()[:2], peer[:2])
    equal(near.getsockname()[0], "::ffff:127.0.0.1")
    equal(near.family, socket.AF_INET6)
    talk(near, far)
    far = socket.create_connection(("::1", port_of(listener)))
    near, peer = listener.accept()
    equal(peer, far.getsockname())


def listen_again_changes_the_backlog():
    listener = server(1)
    listener.listen(64)
    far = client(listener)
    near, _ = listener.accept()
    talk(near, far)


def closed_listener():
    listener = server()
    port = port_of(listener)
    place(port)
    far = client(listener)
    select.select([listener], [], [], 20)
    listener.close()
    far.settimeout(20)
    equal(is_reset(far), True)
    eventually("nobody listens", lambda: error_of(reach, port) == "ECONNREFUSED")


def closed_while_many_wait():
    listener = server(32)
    fars = [client(listener) for _ in range(20)]
    time.sleep(0.3)
    near, _ = listener.accept()
    listener.close()
    rest = [far for far in fars if name(far) != near.getpeername()]
    equal(len(rest), 19)
    for far in rest:
        far.settimeout(20)
        equal(is_reset(far), True)
    kept = next(far for far in fars if name(far) == near.getpeername())
    talk(near, kept)


def shutdown_listener():
    listener = server()
    port = port_of(listener)
    place(port)
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(error_of(listener.accept)))
    thread.start()
    time.sleep(0.2)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(20)
    equal(outcome, ["EINVAL"])
    eventually("nobody listens", lambda: error_of(reach, port) == "ECONNREFUSED")


def listener_in_a_child():
    """Closed here, it goes on in the child; killed there, it is gone."""
    listener = server()
    port = port_of(listener)
    place(port)
    child = serve_forked(listener)
    listener.close()
    time.sleep(0.3)
    for _ in range(5):
        equal(int(read_all(reach(port))), child)
    end(child)
    eventually("nobody listens", lambda: error_of(reach, port) == "ECONNREFUSED")
    # The port is free at once.
    again = server(bind=("0.0.0.0", port))
    far = client(again)
    near, _ = again.accept()
    talk(near, far)


def killed_server_can_restart_at_once():
    listener = server(listen=False)
    port = port_of(listener)
    listener.close()
    program = (
        "import socket,sys\ns=socket.socket()\ns.setsockopt(1,2,1)\ns.bind(('0.0.0.0',%d))\ns.listen()\n"
        "print('up',flush=True)\nwhile 1: s.accept()[0].sendall(b'hi')" % port
    )
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        equal(process.stdout.readline(), b"up\n")
        equal(client(port).recv(2), b"hi")
        process.kill()
        process.wait()


def inherited_over_exec():
    listener = server()
    program = "import socket;n,_=socket.socket(fileno=%d).accept();n.sendall(n.recv(9))" % listener.fileno()
    process = subprocess.Popen([sys.executable, "-c", program], pass_fds=[listener.fileno()])
    far = client(listener, b"over")
    equal(far.recv(9), b"over")
    equal(process.wait(20), 0)


def replaced_by_dup2():
    listener = server()
    port = port_of(listener)
    place(port)
    other = socket.socket()
    os.dup2(other.fileno(), listener.fileno())
    eventually("nobody listens", lambda: error_of(reach, port) == "ECONNREFUSED")


def taken_outside():
    if "DIRECTORY" not in os.environ:
        raise Skip("the directory's gateway has such places")
    for port, error in ((61111, "EADDRINUSE"), (61112, "EACCES")):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", port))
        equal(error_of(sock.listen), error)
        equal(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), 0)
        equal(error_of(socket.create_connection, ("127.0.0.1", port)), "ECONNREFUSED")
    # On loopback nobody outside is asked.
    local = server(bind=("127.0.0.1", 61111))
    far = socket.create_connection(local.getsockname())
    talk(local.accept()[0], far)
    equal(place(61111), None)


def no_descriptor_is_left():
    listener = server(64)
    with client(listener) as far, listener.accept()[0] as near:
        talk(near, far)
    before = descriptors()
    for _ in range(300):
        with client(listener) as far, listener.accept()[0] as near:
            far.sendall(b"x")
            equal(near.recv(1), b"x")
    equal(descriptors(), before)


def main():
    wanted = sys.argv[1:]
    failures = 0
    for title, test in list(globals().items()):
        is_test = callable(test) and getattr(test, "__code__", None) and test.__code__.co_argcount == 0
        if not is_test or title in ("main", "descriptors"):
            continue
        if wanted and not any(word in title for word in wanted):
            continue
        begun = time.monotonic()
        try:
            test()
        except Skip as reason:
            print(f"{title}: skipped: {reason}", flush=True)
        except BaseException:
            failures += 1
            print(f"{title}: FAILED\n{traceback.format_exc()}", flush=True)
        else:
            print(f"{title}: ok ({time.monotonic() - begun:.2f} s)", flush=True)
    sys.exit(min(failures, 100))


main()
