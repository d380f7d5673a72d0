"""Bytes to elements: encodings, prefixes, and what stands where a document type would."""

from __future__ import annotations

import gc
from contextlib import suppress
from xml.etree.ElementTree import Element

import pytest

from adapters.codecs.xmlrpc_parser import XmlError, shown, tree
from gateway.core.rpc.model import FaultCode, MessageLimits

LIMITS = MessageLimits()


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


def test_names_are_read_as_they_are_spelled() -> None:
    assert tree(b'<a xmlns="urn:x" xmlns:p="urn:x"><p:b/></a>', LIMITS)[0].tag == "p:b"


@pytest.mark.parametrize("prefix", ["ex", "p", "ns1"])
def test_the_extensions_of_apache_are_known_by_what_their_prefix_is_declared_for(prefix: str) -> None:
    declared = f'<a xmlns:{prefix}="http://ws.apache.org/xmlrpc/namespaces/extensions"><{prefix}:nil/></a>'
    assert tree(declared.encode(), LIMITS)[0].tag == "ex:nil"


def test_one_prefix_needs_no_declaration() -> None:
    assert tree(b"<a>\xc3\xa9<ex:nil/><q:nil/></a>", LIMITS)[0].tag == "ex:nil"
    assert tree(b"<a>\xc3\xa9<ex:nil/><q:nil/></a>", LIMITS)[1].tag == "q:nil"


def test_elements_that_nobody_knows_are_kept_for_a_message_and_end_it_when_there_are_many() -> None:
    assert len(tree(b"<a>" + b"<b/>" * 998 + b" " * 40_000 + b"</a>", LIMITS)) == 998
    with pytest.raises(XmlError, match=r"more than 1000 others, such as <b> \(line 1, column 4000\)") as caught:
        tree(b"<a>" + b"<b/>" * 10_000 + b"</a>", LIMITS)
    assert caught.value.code is FaultCode.TOO_LARGE


@pytest.mark.parametrize("end", [b"</a>", b"", b"<!DOCTYPE", b"<b/>" * 2000])
def test_nothing_stays_of_a_message_once_it_is_read(end: bytes) -> None:
    def elements() -> int:
        return sum(isinstance(each, Element) for each in gc.get_objects())

    gc.collect()
    before = elements()
    gc.disable()
    try:
        with suppress(XmlError):
            tree(b"<a>" + b"<value/>" * 5000 + end, LIMITS)
        assert elements() == before
    finally:
        gc.enable()


def test_what_is_open_all_at_once_is_bounded() -> None:
    deep = b"<value>" * 10_000 + b"</value>" * 10_000
    with pytest.raises(XmlError, match="nested deeper than is allowed"):
        tree(deep, LIMITS)
    assert len(tree(deep, MessageLimits(depth=10_000))) == 1
    assert len(tree(b"<data>" + b"<value><array></array></value>" * 5000 + b"</data>", LIMITS)) == 5000


@pytest.mark.parametrize(
    "long", [b'<value a="%b"/>', b"<value><!--%b--></value>", b"<value><?a %b?></value>", b"<a%b/>"]
)
def test_a_tag_is_not_read_without_end(long: bytes) -> None:
    with pytest.raises(XmlError, match="a tag or comment of more than 65536 bytes"):
        tree(b"<a>" + long % (b"x" * 200_000) + b"</a>", LIMITS)


@pytest.mark.parametrize("kind", [b"%b", b"<![CDATA[%b]]>"])
def test_a_text_may_be_as_long_as_the_message(kind: bytes) -> None:
    assert tree(b"<a>" + kind % (b"x" * 200_000) + b"</a>", LIMITS).text == "x" * 200_000


@pytest.mark.parametrize(
    ("name", "codec", "text"),
    [
        ("windows-1252", "cp1252", "\u20ac"),
        ("Windows-1251", "cp1251", "\u0416"),
        ("CP1252", "cp1252", "\u20ac"),
        ("ISO-8859-15", "iso8859-15", "\u20ac"),
        ("latin1", "latin-1", "\u00e9"),
        ("utf8", "utf-8", "\u20ac"),
        ("ascii", "ascii", "e"),
        ("koi8-r", "koi8-r", "\u0416"),
        ("Shift_JIS", "shift_jis", "\u8868"),
        ("GB18030", "gb18030", "\u4e2d"),
    ],
)
def test_tables_of_characters_may_be_declared_here_or_in_the_content_type(name: str, codec: str, text: str) -> None:
    declared = f'<?xml version="1.0" encoding="{name}"?><a>{text}</a>'
    assert tree(declared.encode(codec), LIMITS).text == text
    assert tree(f"<a>{text}</a>".encode(codec), LIMITS, name).text == text


def test_what_the_message_says_itself_goes_before_what_its_content_type_says() -> None:
    declared = '<?xml version="1.0" encoding="utf-8"?><a>\u00e9</a>'
    assert tree(declared.encode(), LIMITS, "iso-8859-1").text == "\u00e9"
    assert tree("<a>\u00e9</a>".encode("utf-8-sig"), LIMITS, "iso-8859-1").text == "\u00e9"
    assert tree("<a>\u00e9</a>".encode("utf-16"), LIMITS, "utf-8").text == "\u00e9"


@pytest.mark.parametrize(
    "name", ["zlib", "utf-7", "idna", "punycode", "unicode_escape", "iso-2022-jp", "cp037", "mbcs"]
)
def test_no_other_codec_of_python_is_reached(name: str) -> None:
    with pytest.raises(XmlError, match="encoding: expected utf-8"):
        tree(f'<?xml version="1.0" encoding="{name}"?><a/>'.encode(), LIMITS)
    assert tree("<a>\u00e9</a>".encode(), LIMITS, name).text == "\u00e9"


def test_a_message_with_an_undeclared_prefix_is_still_held_to_the_rest_of_xml() -> None:
    with pytest.raises(XmlError, match=r"does not match \(line 1, column 14\)"):
        tree(b"<a><ex:nil></a></ex:nil>", LIMITS)


def test_limits_are_met_exactly() -> None:
    body = b"<a>" + b"<value/>" * 100 + b"</a>"
    assert len(tree(body, MessageLimits(body=len(body), elements=100))) == 100
    for limits in (MessageLimits(body=len(body) - 1), MessageLimits(elements=99)):
        with pytest.raises(XmlError) as caught:
            tree(body, limits)
        assert caught.value.code is FaultCode.TOO_LARGE


def test_markup_that_is_only_text_does_not_count_as_values() -> None:
    body = b"<a><![CDATA[" + b"<value/>" * 500 + b"]]></a>"
    assert tree(body, MessageLimits(elements=100)).text == "<value/>" * 500


def test_every_problem_is_said_in_our_words() -> None:
    with pytest.raises(XmlError, match=r"^not well-formed XML \(line 1, column 1\)$"):
        tree(b"x", LIMITS)


def test_text_of_a_client_is_shown_on_one_line_and_short() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 1000)) == 62
