"""VM RPC for Python programs in a guest, over the C library (liboutsock_rpc.so).

    import outsock_rpc

    with outsock_rpc.connect() as client:
        kv = client.bind_module("kv", 1, 2)
        kv.perform_rpc(1, outsock_rpc.text("key") + b"value")
        print(kv.version, kv.perform_rpc(2, b"key"))

A call that fails raises: OSError with the module's errno where the function ran and failed, else
RpcError, whose name is one of the header's without "OUTSOCK_E_", such as "NOT_ALLOWED". Timeouts are
seconds, None = for as long as it takes. Objects may be used by any number of threads: calls block only
their own (ctypes lets go of the interpreter's lock). The library is looked for in OUTSOCK_RPC_LIBRARY,
beside this file, and where the dynamic loader looks.
"""

import ctypes
import os
import struct

__all__ = ["connect", "Client", "Binding", "EventQueue", "RpcError", "text"]


class RpcError(Exception):
    """What the gateway or the library says. `name`: "NO_SUCH_MODULE", "FULL", ...; `code`: its number."""

    def __init__(self, code):
        self.code = code
        self.name = _library.outsock_error_name(code).decode().removeprefix("OUTSOCK_E_")
        super().__init__(f"{self.name}: {_library.outsock_error_text(code).decode()}")


def _load():
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "liboutsock_rpc.so")
    named = os.environ.get("OUTSOCK_RPC_LIBRARY")
    library = ctypes.CDLL(named or (here if os.path.exists(here) else "liboutsock_rpc.so"), use_errno=True)
    pointer, size, out = ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER
    result = [out(pointer), out(size)]
    for name, returns, arguments in [
        ("connect", ctypes.c_int, [out(pointer)]),
        ("connect_fd", ctypes.c_int, [ctypes.c_int, out(pointer)]),
        ("disconnect", None, [pointer]),
        ("bind_module", ctypes.c_int, [pointer, ctypes.c_char_p, ctypes.c_uint16, ctypes.c_uint16, out(pointer)]),
        ("version", ctypes.c_uint16, [pointer]),
        ("unbind_module", ctypes.c_int, [pointer]),
        ("perform_rpc", ctypes.c_int, [pointer, ctypes.c_uint32, ctypes.c_char_p, size, *result]),
        ("free", None, [pointer, size]),
        ("open_ev_queue", ctypes.c_int, [pointer, ctypes.c_char_p, out(pointer)]),
        ("queue_is_shared", ctypes.c_int, [pointer]),
        ("put_event", ctypes.c_int, [pointer, ctypes.c_char_p, size, ctypes.c_int]),
        ("get_event", ctypes.c_int, [pointer, *result, ctypes.c_int]),
        ("close_ev_queue", None, [pointer]),
        ("error_name", ctypes.c_char_p, [ctypes.c_int]),
        ("error_text", ctypes.c_char_p, [ctypes.c_int]),
    ]:
        function = getattr(library, "outsock_" + name)
        function.restype, function.argtypes = returns, arguments
    return library


_library = _load()


def _check(code):
    if code > 0:
        raise OSError(code, os.strerror(code))
    if code < 0:
        raise RpcError(code)


def _made(function, *arguments):
    handle = ctypes.c_void_p()
    _check(function(*arguments, ctypes.byref(handle)))
    return handle


def _taken(pointer, length):
    value = ctypes.string_at(pointer, length.value)
    _library.outsock_free(pointer, length)
    return value


def _ms(seconds):
    return -1 if seconds is None else max(0, round(seconds * 1000))


def text(value):
    """A text as modules take it among other arguments: 16 bits of length, then its UTF-8 bytes."""
    encoded = value.encode()
    return struct.pack("<H", len(encoded)) + encoded


def connect(fd=None):
    """Connects to the gateway, or takes a connected stream socket, which the client closes."""
    if fd is None:
        return Client(_made(_library.outsock_connect))
    return Client(_made(_library.outsock_connect_fd, fd))


class _Handle:
    _give_back = None

    def __init__(self, handle):
        self._handle = handle

    def _take(self):
        handle, self._handle = self._handle, None
        return handle

    def close(self):
        """Gives it back. Nothing may use it any more."""
        handle = self._take()
        if handle is not None:
            getattr(_library, self._give_back)(handle)

    def __del__(self):
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Client(_Handle):
    """A stream to the gateway's host modules."""

    _give_back = "outsock_disconnect"

    def bind_module(self, name, first, last=None):
        """Binds a host module at the highest version of first..last that it serves."""
        last = first if last is None else last
        return Binding(_made(_library.outsock_bind_module, self._handle, name.encode(), first, last))


class Binding(_Handle):
    """A bound host module."""

    _give_back = "outsock_unbind_module"

    @property
    def version(self):
        """The version that was picked."""
        return _library.outsock_version(self._handle)

    def perform_rpc(self, function, arguments=b""):
        """Calls a function by its number; returns its result."""
        pointer, length = ctypes.c_void_p(), ctypes.c_size_t()
        _check(
            _library.outsock_perform_rpc(
                self._handle, function, arguments, len(arguments), ctypes.byref(pointer), ctypes.byref(length)
            )
        )
        return _taken(pointer, length)

    def open_ev_queue(self, ticket):
        """Opens the event queue of a ticket (8 bytes) that a function of the module gave."""
        if len(ticket) != 8:
            raise ValueError("a ticket has 8 bytes")
        return EventQueue(_made(_library.outsock_open_ev_queue, self._handle, ticket))

    def unbind_module(self):
        """Gives the module back; its event queues end."""
        _check(_library.outsock_unbind_module(self._take()))


class EventQueue(_Handle):
    """One side of an event queue."""

    _give_back = "outsock_close_ev_queue"

    @property
    def is_shared(self):
        """Whether its events go through shared memory; else they go over the stream."""
        return bool(_library.outsock_queue_is_shared(self._handle))

    def put_event(self, event, timeout=0):
        """Puts an event in; RpcError "FULL" when there was no room in time."""
        _check(_library.outsock_put_event(self._handle, event, len(event), _ms(timeout)))

    def get_event(self, timeout=0):
        """Takes an event out; RpcError "EMPTY" when none came in time."""
        pointer, length = ctypes.c_void_p(), ctypes.c_size_t()
        _check(_library.outsock_get_event(self._handle, ctypes.byref(pointer), ctypes.byref(length), _ms(timeout)))
        return _taken(pointer, length)
