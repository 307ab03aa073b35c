"""A CONNECT proxy that ends TLS for named hosts with a throw-away certificate and pipes the bytes to local programs.

So a real client, configured by proxy and CA variables only, speaks to emulators under Google's own host names. Every other
host is refused: a test can't leave the machine.

Run as ``python front.py FD FOLDER HOST=PORT[,h2] ...``, where FD is an inherited, bound socket. FOLDER/ca.pem is the CA;
``,h2`` is for hosts that speak gRPC.
"""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

VALID = datetime.timedelta(days=7)
REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def make_certificates(folder: Path, hosts: list[str]) -> None:
    """Writes ca.pem and server.pem (key and chain), for ``hosts`` and for a week."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("CA of the emulators")
    ca = _certificate(ca_name, ca_key, ca_name, ca_key, is_ca=True)
    leaf = _certificate(_name("emulators"), key, ca_name, ca_key, is_ca=False, hosts=hosts)
    chain = leaf.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM)
    (folder / "server.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + chain)
    (folder / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    is_ca: bool,
    hosts: list[str] | None = None,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    # Signing certificates is all a CA may do, signing a handshake all a server may: OpenSSL checks both.
    usage = x509.KeyUsage(True, False, False, False, False, is_ca, is_ca, False, False)
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), now - VALID, now + VALID)
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(usage, critical=True)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


class Front:
    """Where each host's bytes go: ``routes`` maps a host to a local port and the protocol spoken there."""

    def __init__(self, folder: Path, routes: dict[str, tuple[int, str]]) -> None:
        self.routes = routes
        self.contexts = {protocol: self._context(folder, protocol) for protocol in ("h2", "http/1.1")}

    def _context(self, folder: Path, protocol: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        context.set_alpn_protocols([protocol])
        return context

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one client's connection."""
        try:
            method, target, _ = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0].decode("latin1").split(" ")
            route = self.routes.get(target.rsplit(":", 1)[0])
            if method != "CONNECT" or route is None:
                print("refused", method, target, flush=True)
                writer.write(REFUSED)
                return
            writer.write(CONNECTED)
            await writer.drain()
            await writer.start_tls(self.contexts[route[1]])
            local_reader, local_writer = await asyncio.open_connection("127.0.0.1", route[0])
            await asyncio.gather(_pipe(reader, local_writer, writer), _pipe(local_reader, writer))
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            print("error", type(error).__name__, error, flush=True)
        finally:
            writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter | None = None) -> None:
    try:
        while data := await reader.read(1 << 18):
            if client is not None:
                _acknowledge(client)
            writer.write(data)
            await writer.drain()
    except (ConnectionError, ssl.SSLError):
        pass  # the other side is gone; closing tells this one
    finally:
        writer.close()


def _acknowledge(client: asyncio.StreamWriter) -> None:
    """Acknowledges at once what came: through a proxy urllib3 sends a body only then, and Linux would take 40 ms."""
    if hasattr(socket, "TCP_QUICKACK"):
        client.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


async def serve(descriptor: int, front: Front) -> None:
    server = await asyncio.start_server(front.connect, sock=socket.socket(fileno=descriptor))
    await server.serve_forever()


def main(arguments: list[str]) -> None:
    folder = Path(arguments[1])
    routes = {}
    for argument in arguments[2:]:
        host, _, port = argument.partition("=")
        routes[host] = int(port.removesuffix(",h2")), "h2" if port.endswith(",h2") else "http/1.1"
    make_certificates(folder, list(routes))
    asyncio.run(serve(int(arguments[0]), Front(folder, routes)))


if __name__ == "__main__":
    main(sys.argv[1:])
