"""Servers in Python.

    server.py asyncio PORT     echoes, many at a time, with half-close
    server.py count PORT       accepts, echoes one message, closes; says what it has open now and then
"""

import asyncio
import os
import socket
import sys


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(port):
    server = await asyncio.start_server(echo, "0.0.0.0", port)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


def supervisor():
    """What the agent that supervises this process has open, and its memory, KiB."""
    pid = os.getppid()
    memory = next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS"))
    return f"{len(os.listdir(f'/proc/{pid}/fd'))} {memory.split()[1]}"


def count(port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", port))
    listener.listen(512)
    print("listening", flush=True)
    number = 0
    while True:
        near, _ = listener.accept()
        with near:
            message = near.recv(64)
            if message == b"open":
                near.sendall(f"{number} {len(os.listdir('/proc/self/fd'))} {supervisor()}".encode())
                continue
            number += 1
            near.sendall(message)


if sys.argv[1] == "asyncio":
    asyncio.run(serve(int(sys.argv[2])))
else:
    count(int(sys.argv[2]))
