"""What names tell: effects, legacy names, places of interfaces, and paths that a property makes."""

from __future__ import annotations

from gateway.scaffold.guesses import PathByName, Place, path_by_name, places, prefixes, reads, snake
from tests.kit.cases import each_case

READ = "GetDevices getZones IsEmpty CanReboot DomainLookupByName Ping Describe ListSessions FindUserById HasX"
WRITE = "Issue Cancel Listen Hash Country GetAndReset GetNextFree FindOrCreate Start getter Pings"


def test_a_method_whose_first_word_reads_is_a_read_and_any_other_a_write() -> None:
    assert [name for name in READ.split() if not reads(name)] == []
    assert [name for name in WRITE.split() if reads(name)] == []


def test_legacy_names() -> None:
    names = ("HwAddress", "IP4Config", "UUIDs", "Rx Mode", "scan-type", "NTP", "-")
    assert [*map(snake, names)] == ["hw_address", "ip4_config", "uuids", "rx_mode", "scan_type", "ntp", "unnamed"]


def test_the_beginning_of_legacy_names_is_the_shortest_end_of_the_interface_that_is_unique() -> None:
    of_bluez = prefixes(["org.bluez.Device1", "org.bluez.Network1", "org.bluez.Network2"], "org.bluez")
    assert [*of_bluez.values()] == ["device", "network1", "network2"]
    nested = prefixes(["org.x.N", "org.x.N.Device.Wireless", "org.other.Wireless"], "org.x.N")
    assert [*nested.values()] == ["n", "device.wireless", "wireless"]
    assert prefixes(["org.a.X1", "com.b.X1"], "org.y") == {"org.a.X1": "org.a.x1", "com.b.X1": "com.b.x1"}


BASE = "/org/example/Shop1"


@each_case(
    ("interface", "objects", "expected"),
    [
        ("org.example.Shop1", [BASE], [Place(BASE)]),
        ("org.example.Manager", [f"{BASE}/Manager"], [Place(f"{BASE}/Manager")]),
        ("org.freedesktop.LogControl1", ["/org/freedesktop/LogControl1"], [Place("/org/freedesktop/LogControl1")]),
        ("org.example.Book1", [f"{BASE}/books/war"], [Place(subtrees=(f"{BASE}/books",))]),
        ("org.example.Book1", [f"{BASE}/3"], [Place(subtrees=(BASE,))]),
        ("org.example.Page1", [f"{BASE}/book1/page2", f"{BASE}/book2/page1"], [Place(subtrees=(BASE,))]),
        ("org.example.Any", [f"{BASE}/a/x", f"{BASE}/b/y"], [Place(subtrees=(f"{BASE}/a", f"{BASE}/b"))]),
        ("org.example.Any", [f"{BASE}/a", f"{BASE}/a/b"], [Place(subtrees=(BASE,))]),
        ("org.example.Any", [f"{BASE}/{letter}/x" for letter in "abcdef"], [Place(subtrees=(BASE,))]),
        ("org.example.Any", ["/", f"{BASE}/a", f"{BASE}/b"], [Place("/"), Place(subtrees=(BASE,))]),
        ("org.example.Any", ["/", "/a7"], [Place("/"), Place(subtrees=("/",))]),
        ("org.example.Any", [], []),
    ],
)
def test_where_an_interface_is(interface: str, objects: list[str], expected: list[Place]) -> None:
    assert places(interface, objects, BASE) == expected


@each_case(
    ("values", "expected"),
    [
        ({"/b/hci0/dev_11_22": {"A": "11:22"}}, PathByName("/b/hci0/dev_{a}", "a", "dashes")),
        ({"/u/User0": {"Uid": 0}, "/u/User7": {"Uid": 7}}, PathByName("/u/User{uid}", "uid", "none")),
        ({"/d/_66-".replace("-", "_") + "95": {"UUID": "66-95"}}, PathByName("/d/_{uuid}", "uuid", "dashes")),
        ({"/z/eth0_2e5": {"Name": "eth0.5"}}, PathByName("/z/{name}", "name", "systemd")),
        ({"/z/a": {"Name": "abc"}}, None),
        ({"/hci0": {"Timeout": 0}}, None),  # by chance
        ({"/z/x1": {"Id": "x1"}, "/y/x2": {"Id": "x2"}}, None),  # below two objects
        ({"/z/x1": {"Id": "x1"}, "/z/x2": {}}, None),
        ({"/z/same1": {"Id": "1"}, "/z/other2": {"Id": "2"}}, None),
        ({}, None),
    ],
)
def test_a_property_that_makes_the_paths_of_all_objects(
    values: dict[str, dict[str, object]], expected: PathByName | None
) -> None:
    assert path_by_name(values) == expected
