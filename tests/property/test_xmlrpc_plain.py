"""What is read as a plain message is exactly what the parser reads; what is none is left to the parser.

A comment behind a message changes nothing of its meaning, and leaves it to the parser.
"""

from __future__ import annotations

import random
import xmlrpc.client
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.codecs import xmlrpc_plain as plain
from adapters.codecs.xmlrpc import Codec
from gateway.core.rpc.model import Call, Envelope, MessageLimits, Reply
from tests.fuzz.mutate import Chance, mutated
from tests.kit.cases import each_case
from tests.kit.values import exactly

LIMITS = MessageLimits(depth=4)
CODEC = Codec(LIMITS)
COMMENT = b"<!---->"
CHARSETS = ("", "utf-8", "UTF-8", "latin-1", "shift_jis", "utf-16", "nonsense")

SPACES = st.sampled_from(["", "", "\n", " \t\n"])
TYPED = st.sampled_from(
    [
        *(("i4", "-7"), ("int", " 12 "), ("boolean", "1"), ("double", "1.5"), ("double", "1e400"), ("base64", "QUJD")),
        *(("dateTime.iso8601", "20260131T09:05:00Z"), ("nil", ""), ("i8", "9" * 18), ("string", "&amp;lt;")),
        *(("string", "a"), ("string", "1"), ("struct", ""), ("array", ""), ("i4", "a"), ("String", "a")),
    ]
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", "1", "a", "]]>", "\n", "&lt;", "&amp;lt;", "&#65;", "&apos;&quot;&gt;", "é", "\U0001f600", "\x7f\x85"]
    ),
    st.text(st.characters(exclude_characters="<&", exclude_categories=["Cs"]), max_size=6),
)
DECLARATIONS = st.sampled_from(
    [
        "",
        '<?xml version="1.0"?>',
        "<?xml version='1.0' encoding='UTF-8' ?>",
        '<?xml version="1.0" encoding="us-ascii"?>',
    ]
)


@st.composite
def scalars(draw: st.DrawFn) -> str:
    kind, text = draw(TYPED)
    typed = f"<value>{draw(SPACES)}<{kind}>{text}</{kind}>{draw(SPACES)}</value>"
    return draw(
        st.sampled_from([typed, typed, f"<value>{draw(TEXTS)}</value>", "<value/>", f"<value><{kind}/></value>"])
    )


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    items = "".join(item + draw(SPACES) for item in draw(st.lists(inner, max_size=3)))
    data = draw(st.sampled_from([f"<data>{draw(SPACES)}{items}</data>"] * 3 + ["<data/>"]))
    return f"<value>{draw(SPACES)}<array>{data}{draw(SPACES)}</array></value>"


@st.composite
def structs(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    names = st.sampled_from(["a", "b", "é", "a&lt;", "", " "])
    members = "".join(
        f"<member>{draw(SPACES)}<name>{draw(names)}</name>{draw(SPACES)}{value}</member>{draw(SPACES)}"
        for value in draw(st.lists(inner, max_size=3))
    )
    return f"<value><struct>{draw(SPACES)}{members}</struct>{draw(SPACES)}</value>"


VALUES = st.recursive(scalars(), lambda inner: arrays(inner) | structs(inner), max_leaves=6)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A call or a response, mostly a plain one."""
    values = draw(st.lists(VALUES, max_size=3))
    params = [f"<param>{draw(SPACES)}{value}{draw(SPACES)}</param>{draw(SPACES)}" for value in values]
    if draw(st.booleans()):
        name = draw(st.sampled_from(["VM.start", "VM.start", "m", "system.multicall", " a ", "a&amp;b"]))
        several = f"<params>{draw(SPACES)}{''.join(params)}</params>"
        inside = (
            f"<methodName>{name}</methodName>{draw(SPACES)}{draw(st.sampled_from([several, several, '<params/>', '']))}"
        )
        whole = f"<methodCall>{draw(SPACES)}{inside}{draw(SPACES)}</methodCall>"
    else:
        one = "".join(params[:1])
        whole = f"<methodResponse>{draw(SPACES)}<params>{draw(SPACES)}{one}</params>{draw(SPACES)}</methodResponse>"
    return (draw(DECLARATIONS) + draw(SPACES) + whole + draw(SPACES)).encode()


def assert_same(body: bytes, charset: str = "") -> bool:
    """Whether the message is plain; then it means the same to the parser."""
    call = plain.call(body, LIMITS, charset)
    if call is not None and call[0] != "system.multicall":
        assert exactly(CODEC.decode(body + COMMENT, charset)) == exactly(Envelope((Call(*call),)))
    result = plain.result(body, LIMITS, charset)
    if result is not None:
        assert exactly(CODEC.decode_outcome(body + COMMENT, charset)) == exactly(Reply(*result))
    return call is not None or result is not None


@settings(max_examples=500, deadline=None)
@given(messages(), st.sampled_from(CHARSETS))
def test_a_plain_message_means_what_it_means_to_the_parser(body: bytes, charset: str) -> None:
    assert_same(body, charset)


MOMENT = {"Status": "Success", "Value": datetime(2026, 1, 31, tzinfo=UTC)}
RESPONSE = b"<methodResponse><params><param><value><struct>%b</struct></value></param></params></methodResponse>"
MEMBER = b"<member><name>%b</name><value>%b</value></member>"
POOL = (
    xmlrpc.client.dumps(("OpaqueRef:1", 7, True, 0.5, b"ab"), "VM.start").encode(),
    xmlrpc.client.dumps(({"a": ["x", {"b": "c < d & e"}], "f": []},), "VM.create").encode(),
    xmlrpc.client.dumps((), "host.list").encode(),
    xmlrpc.client.dumps((MOMENT,), methodresponse=True).encode(),
    b"<?xml version='1.0'?><methodCall><methodName>a</methodName><params/></methodCall>",
    RESPONSE % (MEMBER % (b"Value", b"<array><data/></array>") + MEMBER % (b"Status", b"<string/>")),
    RESPONSE % (MEMBER % (b"&lt;&gt;", b"&apos;&quot;") + MEMBER % (b"&lt;&gt;", b"&amp;&amp;lt;")),
)
TOKENS = (*b"<value> </value> <param> &lt; & < > <i4> \xc3 <data/> <!---->".split(), b"\r", b"\n")


@each_case("body", POOL)
def test_what_clients_and_servers_write_day_by_day_is_plain(body: bytes) -> None:
    assert assert_same(body)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_damage_makes_no_other_message_of_it(seed: int) -> None:
    assert_same(mutated(Chance(random.Random(seed), TOKENS, POOL)))


def test_limits_are_left_to_the_parser() -> None:
    deep = xmlrpc.client.dumps(([[[[["x"]]]]],), "m").encode()
    assert plain.call(deep, LIMITS, "") is None
    assert plain.call(POOL[0], MessageLimits(body=len(POOL[0]) - 1), "") is None
    assert plain.call(POOL[0], MessageLimits(elements=20), "") is None
