"""A host module of outsock-gateway as a Python process, without any library.

    from outsock_module import Module, serve, NoSuchFunction

    class Hello(Module):
        name, versions = "hello", (1, 1)

        def call(self, caller, function, arguments):
            if function != 1:
                raise NoSuchFunction
            return f"hello {caller.guest}".encode()

    serve(Hello(), "/run/outsock/hello.sock")

The gateway makes the socket: its configuration has a [[module]] table of that name. A function returns
bytes (at most 65,536), or raises: OSError(errno, ...) fails the guest's call with that errno,
NoSuchFunction and BadArguments with those faults; anything else is EIO, and is printed. Each call runs
in a thread of a pool, so `call` may block, and must lock what it shares.

Event queues: caller.make_ev_queue(65536) gives an EventQueue; return its `ticket` to the guest.
"""

import collections
import concurrent.futures
import errno
import socket
import struct
import sys
import threading
import time
import traceback

__all__ = ["Module", "serve", "serve_once", "Caller", "EventQueue", "NoSuchFunction", "BadArguments", "QueueEnded"]

# Frames: guest/vmrpc/src/frame.rs.
_HEADER = struct.Struct("<IBBHII")
_UNBIND, _CALL, _OK, _ERRNO, _FAULT = 3, 4, 5, 6, 7
_CLOSE_QUEUE, _EVENT, _CREDIT, _QUEUE_ENDED = 9, 10, 11, 13
_REGISTER, _BINDING, _CANCEL, _MAKE_QUEUE = 14, 15, 16, 17
_NO_SUCH_FUNCTION, _BAD_ARGUMENTS, _RESULT_TOO_LARGE = 6, 7, 10
_PAYLOAD_BYTES_MAX = 65_536
_THREADS = 64
_RETRY_SECONDS = 0.5


class NoSuchFunction(Exception):
    """The module has no function of that number."""


class BadArguments(Exception):
    """The arguments do not have the form that the function takes."""


class QueueEnded(Exception):
    """The guest has closed the event queue, or is gone."""


class Refused(Exception):
    """The gateway does not take the module."""


class Module:
    """What a module overrides."""

    name = None
    versions = (1, 1)

    def bound(self, caller):
        """A guest has bound the module."""

    def unbound(self, caller):
        """It has not any more."""

    def call(self, caller, function, arguments):
        """Runs a function; returns its result."""
        raise NoSuchFunction


class Caller:
    """Who calls: `guest` (its name), `cid`, `version` (the one that was picked)."""

    def __init__(self, link, handle, version, tickets, cid, guest):
        self._link, self._handle, self._tickets, self._queues = link, handle, tickets, 0
        self.guest, self.cid, self.version = guest, cid, version

    def make_ev_queue(self, size=65_536):
        """Makes an event queue with `size` bytes each way: a power of two from 4 KiB to 1 MiB."""
        with self._link.lock:
            number, self._queues = self._queues, self._queues + 1
            queue = EventQueue(self._link, self._handle << 16 | number, self._tickets + number, size)
            self._link.queues[queue.id] = queue
        self._link.send(_MAKE_QUEUE, code=queue.id, payload=struct.pack("<I", size))
        return queue


def _cost(event):
    return 8 + (len(event) + 7) // 8 * 8


class EventQueue:
    """The module's side of an event queue. `ticket` goes to the guest."""

    def __init__(self, link, number, ticket, size):
        self._link, self.id, self._size = link, number, size
        self.ticket = struct.pack("<II", ticket, size)
        self._changed = threading.Condition()
        self._free, self._owed, self._events, self._ended = size, 0, collections.deque(), False

    def put_event(self, event, timeout=0):
        """Puts an event in. False when there was no room in time (seconds; None = wait)."""
        cost = _cost(event)
        if cost > self._size // 2 or len(event) > _PAYLOAD_BYTES_MAX:
            raise ValueError("the event is longer than half of the queue")
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._free >= cost, timeout)
            if self._ended:
                raise QueueEnded
            if self._free < cost:
                return False
            self._free -= cost
            self._link.send(_EVENT, code=self.id, payload=event)
        return True

    def get_event(self, timeout=0):
        """Takes an event out; None when none came in time (seconds; None = wait)."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._events, timeout)
            if not self._events:
                if self._ended:
                    raise QueueEnded
                return None
            event = self._events.popleft()
            self._owed += _cost(event)
            if self._owed >= self._size // 2:
                self._link.send(_CREDIT, code=self.id, payload=struct.pack("<I", self._owed))
                self._owed = 0
            return event

    def del_ev_queue(self):
        """Deletes the queue; the guest can still take out what has arrived."""
        self._link.queues.pop(self.id, None)
        self._link.send(_CLOSE_QUEUE, code=self.id)
        self._end()

    def _arrived(self, event):
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def _credited(self, size):
        with self._changed:
            self._free += size
            self._changed.notify_all()

    def _end(self):
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class _Link:
    def __init__(self, stream):
        self.lock, self.queues, self._stream, self._write = threading.Lock(), {}, stream, threading.Lock()

    def send(self, kind, call=0, code=0, handle=0, payload=b""):
        frame = _HEADER.pack(len(payload), kind, 0, handle, call, code) + payload
        try:
            with self._write:
                self._stream.sendall(frame)
        except OSError:
            # The reader sees it too, and ends everything.
            pass

    def _bytes(self, length):
        parts = []
        while length > 0:
            part = self._stream.recv(min(length, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def frame(self):
        length, kind, _, handle, call, code = _HEADER.unpack(self._bytes(_HEADER.size))
        return kind, handle, call, code, self._bytes(length)


def _run(module, link, caller, call, function, arguments):
    try:
        result = module.call(caller, function, arguments)
    except NoSuchFunction:
        link.send(_FAULT, call, _NO_SUCH_FUNCTION)
    except (BadArguments, UnicodeDecodeError, struct.error):
        link.send(_FAULT, call, _BAD_ARGUMENTS)
    except OSError as error:
        link.send(_ERRNO, call, error.errno or errno.EIO)
    except Exception:
        traceback.print_exc()
        link.send(_ERRNO, call, errno.EIO)
    else:
        if len(result) > _PAYLOAD_BYTES_MAX:
            link.send(_FAULT, call, _RESULT_TOO_LARGE)
        else:
            link.send(_OK, call, payload=result)


def serve_once(module, path):
    """Serves a module until the gateway is gone. Raises OSError where there is none, Refused if it does
    not take the module."""
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(path)
    link, callers = _Link(stream), {}
    name = module.name.encode()
    link.send(_REGISTER, payload=struct.pack("<H", len(name)) + name + struct.pack("<HH", *module.versions))
    pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
    try:
        registered = False
        while True:
            kind, handle, call, code, payload = link.frame()
            if kind == _OK:
                registered = True
            elif kind == _FAULT and not registered:
                raise Refused(f"the gateway does not take the module {module.name} (fault {code})")
            elif kind == _BINDING:
                tickets, cid = struct.unpack_from("<IQ", payload)
                callers[handle] = Caller(link, handle, code, tickets, cid, payload[12:].decode())
                module.bound(callers[handle])
            elif kind == _UNBIND:
                module.unbound(callers.pop(handle))
            elif kind == _CALL:
                pool.submit(_run, module, link, callers[handle], call, code, payload)
            elif kind in (_EVENT, _CREDIT, _QUEUE_ENDED):
                queue = link.queues.get(code)
                if queue is None:
                    continue
                if kind == _EVENT:
                    queue._arrived(payload)
                elif kind == _CREDIT:
                    queue._credited(*struct.unpack("<I", payload))
                else:
                    link.queues.pop(code, None)
                    queue._end()
    except (EOFError, ConnectionError):
        pass
    finally:
        stream.close()
        for queue in list(link.queues.values()):
            queue._end()
        pool.shutdown(wait=False, cancel_futures=True)
        for caller in callers.values():
            module.unbound(caller)


def serve(module, path):
    """Serves a module for ever: the gateway may come and go."""
    while True:
        try:
            serve_once(module, path)
        except Refused as error:
            sys.exit(str(error))
        except OSError:
            pass
        time.sleep(_RETRY_SECONDS)
