"""asyncio: an echo server on every address.

    serve.py PORT
"""

import asyncio
import sys


async def echo(reader, writer):
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
    except ConnectionError:
        pass
    writer.close()


async def main(port):
    server = await asyncio.start_server(echo, None, port)
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))
