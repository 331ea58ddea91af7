"""Python asyncio: many echoes at a time, each with half-close.

    many.py HOST PORT CONNECTIONS
"""

import asyncio
import sys


async def one(host, port, number):
    reader, writer = await asyncio.open_connection(host, port)
    said = f"connection {number} ".encode() * 1000
    writer.write(said)
    await writer.drain()
    writer.write_eof()
    heard = await reader.read(-1)
    assert heard == said, (number, len(heard), len(said))
    writer.close()
    await writer.wait_closed()


async def main(host, port, connections):
    await asyncio.gather(*(one(host, port, number) for number in range(connections)))
    print(f"{connections} echoes")


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
