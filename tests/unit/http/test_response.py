from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

import pytest

from adapters.http import response
from adapters.http.response import HttpResponse, ResponseWriter


def lines(data: bytes) -> list[str]:
    return data.partition(b"\r\n\r\n")[0].decode().split("\r\n")


def test_an_answer_has_the_exact_content_type_its_length_and_its_date() -> None:
    data = ResponseWriter({}).write(HttpResponse(200, "text/xml", b"<a/>"))
    status, content_type, date, length = lines(data)
    assert (status, content_type, length) == ("HTTP/1.1 200 OK", "Content-Type: text/xml", "Content-Length: 4")
    assert parsedate_to_datetime(date.removeprefix("Date: ")).year > 2000
    assert data.endswith(b"\r\n\r\n<a/>")


@pytest.mark.parametrize(
    ("minor", "close", "expected"),
    [(1, False, None), (1, True, "close"), (0, False, "keep-alive"), (0, True, None)],
)
def test_connection_is_named_only_where_it_differs_from_the_version(
    minor: int, close: bool, expected: str | None
) -> None:
    data = ResponseWriter({}).write(HttpResponse(200, "a/b", b"", close), minor=minor).decode()
    found = re.search(r"Connection: (.*)\r\n", data)
    assert (found[1] if found else None) == expected
    assert data.startswith(f"HTTP/1.{minor} ")


def test_an_answer_without_content_has_neither_length_nor_type() -> None:
    data = ResponseWriter({}).write(HttpResponse(204, "text/xml", None))
    assert [line.split(":")[0] for line in lines(data)] == ["HTTP/1.1 204 No Content", "Date"]
    assert data.endswith(b"\r\n\r\n")


def test_an_answer_to_head_tells_the_length_and_sends_nothing() -> None:
    data = ResponseWriter({}).write(HttpResponse(405, "a/b", b"four"), bodiless=True)
    assert b"Content-Length: 4\r\n" in data
    assert data.endswith(b"\r\n\r\n")


def test_the_listeners_headers_and_the_answers_own_are_written() -> None:
    writer = ResponseWriter({"Access-Control-Allow-Origin": "*"})
    data = writer.write(HttpResponse(503, "a/b", b"", headers="Retry-After: 1\r\n"))
    assert lines(data)[1:3] == ["Access-Control-Allow-Origin: *", "Retry-After: 1"]


@pytest.mark.parametrize("headers", [{"a b": "c"}, {"a": "b\r\nc: d"}, {"": "x"}, {"a": "ü"}, {"Content-length": "1"}])
def test_a_header_that_would_break_the_answer_is_refused_by_name(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(next(iter(headers))))):
        ResponseWriter(headers)


def test_the_page_of_a_broken_message_escapes_its_text() -> None:
    answer = response.page("<script> & co")
    assert (answer.status, answer.content_type, answer.close) == (500, "text/html", True)
    assert answer.body is not None
    assert b"&lt;script&gt; &amp; co" in answer.body
