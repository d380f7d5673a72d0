"""Bytes to elements: encodings, prefixes, and what stands where a document type would."""

from __future__ import annotations

import pytest

from adapters.codecs.xmlrpc_xml import PROBLEMS, UNDECLARED_PREFIX, Refused, shown, tree
from gateway.core.model import FaultCode, Limits

LIMITS = Limits()


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("", "utf-8"),
        ("", "utf-8-sig"),
        ('<?xml version="1.0"?>', "utf-8"),
        ('<?xml version="1.0" encoding="UTF-8"?>', "utf-8"),
        ('<?xml version="1.0" encoding="UTF-8"?>', "utf-8-sig"),
        ("<?xml version='1.0' encoding = 'ISO-8859-1' standalone='yes'?>", "latin-1"),
        ('<?xml version="1.0"\n encoding="utf-16"?>', "utf-16"),
        ("", "utf-16"),
    ],
)
def test_text_arrives_in_every_encoding_that_is_allowed(head: str, encoding: str) -> None:
    assert tree(f"{head}<a>\u00e9</a>".encode(encoding), LIMITS).text == "\u00e9"


def test_utf_16_may_be_big_endian() -> None:
    assert tree(b"\xfe\xff" + "<a>\u00e9</a>".encode("utf-16-be"), LIMITS).text == "\u00e9"


def test_us_ascii_may_be_declared() -> None:
    assert tree(b'<?xml version="1.0" encoding="US-ASCII"?><a>&#233;</a>', LIMITS).text == "\u00e9"


@pytest.mark.parametrize("body", [b"<a><![CDATA[<!DOCTYPE html>]]></a>", b"<a><!-- -->&lt;!DOCTYPE html></a>"])
def test_the_word_doctype_in_text_is_text(body: bytes) -> None:
    assert tree(body, LIMITS).text == "<!DOCTYPE html>"


def test_comments_and_instructions_do_not_cut_text_in_two() -> None:
    assert tree(b"<a>x<!-- <!DOCTYPE -->y<?p i?>z</a>", LIMITS).text == "xyz"


def test_line_ends_are_those_of_xml() -> None:
    assert tree(b"<a>\r\n\r&#13;</a>", LIMITS).text == "\n\n\r"


def test_names_are_told_apart_by_their_namespace() -> None:
    assert tree(b'<a xmlns:p="urn:x"><p:b/></a>', LIMITS)[0].tag == "{urn:x}b"


def test_a_prefix_that_nobody_declared_is_read_as_spelled() -> None:
    assert tree(b"<a>\xc3\xa9<ex:nil/></a>", LIMITS)[0].tag == "ex:nil"


def test_a_message_with_an_undeclared_prefix_is_still_held_to_the_rest_of_xml() -> None:
    with pytest.raises(Refused, match=r"does not match \(line 1, column 14\)"):
        tree(b"<a><ex:nil></a></ex:nil>", LIMITS)


def test_limits_are_met_exactly() -> None:
    body = b"<a>" + b"<value/>" * 100 + b"</a>"
    assert len(tree(body, Limits(body=len(body), elements=100))) == 100
    for limits in (Limits(body=len(body) - 1), Limits(elements=99)):
        with pytest.raises(Refused) as caught:
            tree(body, limits)
        assert caught.value.code is FaultCode.TOO_LARGE


def test_markup_that_is_only_text_does_not_count_as_values() -> None:
    body = b"<a><![CDATA[" + b"<value/>" * 500 + b"]]></a>"
    assert tree(body, Limits(elements=100)).text == "<value/>" * 500


def test_every_problem_is_said_in_our_words() -> None:
    assert UNDECLARED_PREFIX in PROBLEMS
    with pytest.raises(Refused, match=r"^not well-formed XML \(line 1, column 1\)$"):
        tree(b"x", LIMITS)


def test_text_of_a_client_is_shown_on_one_line_and_short() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 1000)) == 62
