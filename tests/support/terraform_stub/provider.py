"""The plugin that Terraform starts: it serves a schema over gRPC, on a socket in a directory of its own.

Source: https://github.com/hashicorp/go-plugin/blob/main/docs/guide-plugin-write-non-go.md
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PROTOS = Path(__file__).parent.relative_to(Path(__file__).parents[2])
_COOKIE = "TF_PLUGIN_MAGIC_COOKIE"
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_REFUSED = "The stub provider holds a schema only: it makes and reads nothing. Use mock_provider in tests."

_messages, _services = grpc.protos_and_services(str(_PROTOS / "provider.proto"))
_plain, _control = grpc.protos_and_services(str(_PROTOS / "controller.proto"))


class _Provider(_services.ProviderServicer):  # type: ignore[name-defined, misc]  # made from the .proto file
    """Tells the schema, finds what is set that only a provider sets, and refuses to be used for more."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._known = schema
        self._schema = _messages.ProviderSchema(
            provider=_schema(schema["provider"]),
            resource_schemas={name: _schema(found) for name, found in schema["resource_schemas"].items()},
            data_source_schemas={name: _schema(found) for name, found in schema["data_source_schemas"].items()},
        )

    def GetSchema(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return self._schema

    def PrepareProviderConfig(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return _messages.PreparedConfiguration(prepared_config=request.config)

    def ValidateResourceTypeConfig(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return _checked(self._known["resource_schemas"][request.type_name]["block"], request.config)

    def ValidateDataSourceConfig(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return _checked(self._known["data_source_schemas"][request.type_name]["block"], request.config)

    def Configure(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return _messages.Findings(diagnostics=[_error("This is no provider", _REFUSED)])

    def Stop(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return _messages.Nothing()


class _Controller(_control.GRPCControllerServicer):  # type: ignore[name-defined, misc]  # made from the .proto file
    """Ends the process when Terraform says so."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def Shutdown(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        self.over.set()
        return _plain.Empty()


def _schema(schema: Mapping[str, Any]) -> Any:
    """A schema as a message."""
    return _messages.Schema(version=schema["version"], block=_block(schema["block"]))


def _block(block: Mapping[str, Any]) -> Any:
    """A block as a message."""
    return _messages.Block(
        attributes=[
            _messages.Attribute(name=name, **{**found, "type": json.dumps(found["type"]).encode()})
            for name, found in sorted(block["attributes"].items())
        ],
        block_types=[
            _messages.NestedBlock(
                type_name=name,
                block=_block(found["block"]),
                nesting=found["nesting_mode"].upper(),
                min_items=found.get("min_items", 0),
                max_items=found.get("max_items", 0),
            )
            for name, found in sorted(block["block_types"].items())
        ],
    )


def _checked(block: Mapping[str, Any], config: Any) -> Any:
    """What is wrong with a configuration."""
    value = msgspec.msgpack.decode(config.msgpack)
    found = [
        _error(f"{name} cannot be set", "Only the provider gives it a value.") for name in _set_wrongly(block, value)
    ]
    return _messages.Findings(diagnostics=found)


def _set_wrongly(block: Mapping[str, Any], value: Any) -> Iterator[str]:
    """Attributes that have a value though none may be given; values that are not known yet are no mappings."""
    if isinstance(value, list):
        for inner in value:
            yield from _set_wrongly(block, inner)
    if not isinstance(value, dict):
        return
    for name, attribute in block["attributes"].items():
        if not (attribute.get("required") or attribute.get("optional")) and value.get(name) is not None:
            yield name
    for name, nested in block["block_types"].items():
        yield from _set_wrongly(nested["block"], value.get(name))


def _error(summary: str, detail: str) -> Any:
    """A finding that Terraform stops at."""
    return _messages.Finding(severity="ERROR", summary=summary, detail=detail)


def serve(schema: Path) -> None:
    """Serve the schema in a file until Terraform is done."""
    if _COOKIE not in os.environ:
        sys.exit("this is a plugin, which Terraform starts")
    controller = _Controller()
    server = grpc.server(futures.ThreadPoolExecutor(4), options=_UNLIMITED)
    _services.add_ProviderServicer_to_server(_Provider(json.loads(schema.read_text())), server)
    _control.add_GRPCControllerServicer_to_server(controller, server)
    key, certificate = _identity()
    # Terraform's own certificate has a curve that gRPC's TLS does not take: who may speak to us is who may enter the directory.
    credentials = grpc.ssl_server_credentials([(key, certificate.public_bytes(serialization.Encoding.PEM))])
    with tempfile.TemporaryDirectory(prefix="terraform-stub-") as folder:
        server.add_secure_port(f"unix:{folder}/socket", credentials)
        server.start()
        told = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode().rstrip("=")
        print(f"1|5|unix|{folder}/socket|grpc|{told}", flush=True)  # noqa: T201  Terraform reads it
        controller.over.wait()
        server.stop(grace=1).wait()


def _identity() -> tuple[bytes, x509.Certificate]:
    """A key and a certificate for this process alone."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, certificate
