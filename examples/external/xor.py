#!/usr/bin/env python3
"""A transport of one's own in a process of its own: every byte XOR a key. Both ends.

It speaks the contract of Tor's pluggable transports (pt-spec), as obfs4proxy does: the gateway starts it,
tells it by environment variables what to be, and reads from its standard output where it is ready. As a
client it is a SOCKS5 proxy that takes the key from the connection's arguments; as a server it leads what it
accepts to the gateway. Halves close on their own, a reset stays a reset. No encryption: do not use it so.
"""
import asyncio, errno, os, socket, struct, sys

REPLIES = {errno.ECONNREFUSED: 5, errno.ENETUNREACH: 3, errno.EHOSTUNREACH: 4, errno.ETIMEDOUT: 6}


def table(arguments):
    pairs = dict(pair.split("=", 1) for pair in arguments.split(";") if "=" in pair)
    key = int(pairs.get("key", "90"))
    return bytes(byte ^ key for byte in range(256))


def abort(writer):
    """Closes so that the other side sees a reset."""
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def half(reader, writer, xor):
    while chunk := await reader.read(65536):
        writer.write(chunk.translate(xor))
        await writer.drain()
    writer.write_eof()


async def relay(near, far, xor):
    halves = [asyncio.ensure_future(half(near[0], far[1], xor)),
              asyncio.ensure_future(half(far[0], near[1], xor))]
    done, pending = await asyncio.wait(halves, return_when=asyncio.FIRST_EXCEPTION)
    broken = pending or any(one.exception() for one in done)
    for one in pending:
        one.cancel()
    for writer in (near[1], far[1]):
        abort(writer) if broken else writer.close()


async def socks(reader, writer):
    """One client of the gateway's: RFC 1928, with the arguments in the two fields of RFC 1929."""
    _, count = await reader.readexactly(2)
    arguments = b""
    if 2 in await reader.readexactly(count):
        writer.write(b"\x05\x02")
        _, length = await reader.readexactly(2)
        arguments = await reader.readexactly(length)
        (length,) = await reader.readexactly(1)
        arguments += (await reader.readexactly(length)).strip(b"\0")
        writer.write(b"\x01\x00")
    else:
        writer.write(b"\x05\x00")
    _, _, _, kind = await reader.readexactly(4)
    family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
    host = socket.inet_ntop(family, await reader.readexactly(size))
    (port,) = struct.unpack(">H", await reader.readexactly(2))
    try:
        far = await asyncio.open_connection(host, port)
    except OSError as error:
        writer.write(bytes([5, REPLIES.get(error.errno, 1), 0, 1]) + bytes(6))
        return writer.close()
    writer.write(b"\x05\x00\x00\x01" + bytes(6))
    await relay((reader, writer), far, table(arguments.decode()))


async def main():
    print("VERSION 1", flush=True)
    if names := os.environ.get("TOR_PT_CLIENT_TRANSPORTS"):
        listening = await asyncio.start_server(socks, "127.0.0.1", 0, backlog=1024)
        port = listening.sockets[0].getsockname()[1]
        print(f"CMETHOD {names} socks5 127.0.0.1:{port}\nCMETHODS DONE", flush=True)
    else:
        name, at = os.environ["TOR_PT_SERVER_BINDADDR"].split("-", 1)
        options = os.environ.get("TOR_PT_SERVER_TRANSPORT_OPTIONS", "").replace(name + ":", "")
        onward = os.environ["TOR_PT_ORPORT"].rsplit(":", 1)

        async def serve(reader, writer):
            try:
                far = await asyncio.open_connection(*onward)
            except OSError:
                return abort(writer)
            await relay((reader, writer), far, table(options))

        host, port = at.rsplit(":", 1)
        listening = await asyncio.start_server(serve, host.strip("[]"), int(port), backlog=1024)
        port = listening.sockets[0].getsockname()[1]
        print(f"SMETHOD {name} {host}:{port}\nSMETHODS DONE", flush=True)
    # The gateway closes our standard input when it wants us to end.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(main())
