"""The toolstack's state at its start, the same every time."""

import random
from uuid import NAMESPACE_OID, UUID, uuid5

KIB = 1024
MIB = 1024**2
GIB = 1024**3

NULL_REF = "OpaqueRef:NULL"
USER, PASSWORD = "root", "xenroot"

POOL = "2c1f9c56-9a53-4d6e-9b0e-7a51f0e0c0de"
HOST2 = "c8d1b2ef-62a5-4d8c-9f1b-6c6b8b7e2002"
HOST = "b7c0a1de-51f4-4c7b-8e0a-5b5a7a6d1001"
SR = "6f2d1a34-77c8-4f0b-9d3e-1c9a5e4b2001"
VDI_SYSTEM = "0b9e4c1a-3f5d-4c52-8a76-d2e1f0a43001"
VDI_DATA = "5d7a2e90-1b64-4e0f-b8c3-94f6a7d23002"

HOST_MEMORY = 16 * GIB
DOMAIN_ZERO_MEMORY = 1 * GIB
RESERVED_MEMORY = 256 * MIB  # what the host never gives away
REPOSITORY_SIZE = 1024 * GIB

# id, name, description, static max, dynamic min, vcpus. The last one is larger than the host: it never starts.
VMS = (
    ("11111111-aaaa-4aaa-8aaa-000000000001", "web", "Answers the world.", 2 * GIB, 1 * GIB, 2),
    ("22222222-bbbb-4bbb-8bbb-000000000002", "db", "Remembers.", 4 * GIB, 4 * GIB, 4),
    ("33333333-cccc-4ccc-8ccc-000000000003", "archive", "Larger than its host.", 64 * GIB, 64 * GIB, 8),
)


def unique(name: str) -> str:
    """A UUID that is the same at every start."""
    return str(UUID(bytes=uuid5(NAMESPACE_OID, name).bytes, version=4))


USER_REF = f"OpaqueRef:{unique('user root')}"


def mac() -> str:
    """A MAC address that nobody else has."""
    return ":".join(["52", *(f"{random.randrange(256):02x}" for _ in range(5))])  # noqa: S311 - nothing depends on it


def ref(uuid: str) -> str:
    """The reference of the object with this UUID."""
    return f"OpaqueRef:{uuid}"
