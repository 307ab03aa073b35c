"""``python forward.py FROM_HOST:PORT TO_HOST:PORT``: hands on connections, so that two worker pools of one machine have one port."""

from __future__ import annotations

import asyncio
import sys


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()
    finally:
        writer.close()


async def forward(here: tuple[str, int], there: tuple[str, int]) -> None:
    """Listen at ``here`` and hand each connection on to ``there``, for good."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*there)
        await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(accept, *here)
    await server.serve_forever()


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    asyncio.run(forward(_place(sys.argv[1]), _place(sys.argv[2])))
