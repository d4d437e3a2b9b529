"""Whose address counts: chains of proxies, and what a client may write in front of them."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrelay.http.events import Headers
from llmrelay.http.forwarded import MAX_HOPS, Origin, client_address, is_trusted, parse_address
from llmrelay.values import parse_trusted_proxy

TRUSTED = [parse_trusted_proxy(text) for text in ("10.0.0.0/8", "2001:db8:aa::/48", "unix")]
PROXY = IPv4Address("10.0.0.1")


def told(*fields: tuple[str, str], peer: Origin = PROXY) -> str:
    return str(client_address(peer, Headers(fields), TRUSTED))


def forwarded(*values: str, peer: Origin = PROXY) -> str:
    return told(*(("forwarded", value) for value in values), peer=peer)


def x_forwarded_for(*values: str, peer: Origin = PROXY) -> str:
    return told(*(("x-forwarded-for", value) for value in values), peer=peer)


# --- Whom to believe ----------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["192.0.2.9", "2001:db8::9", "::ffff:192.0.2.9"])
def test_a_peer_that_is_not_trusted_is_the_client_whatever_it_says(peer: str) -> None:
    address = parse_address(peer)
    for text in ("198.51.100.7", "10.0.0.9", "garbage"):
        assert x_forwarded_for(text, peer=address) == peer.removeprefix("::ffff:")
        assert forwarded(f"for={text}", peer=address) == peer.removeprefix("::ffff:")


@pytest.mark.parametrize("peer", ["10.9.8.7", "::ffff:10.9.8.7", "2001:db8:aa::1", "unix"])
def test_a_trusted_peer_is_believed(peer: str) -> None:
    origin: Origin = "unix" if peer == "unix" else parse_address(peer)
    assert x_forwarded_for("198.51.100.7", peer=origin) == "198.51.100.7"
    assert forwarded("for=198.51.100.7", peer=origin) == "198.51.100.7"


def test_without_a_header_the_peer_is_the_client() -> None:
    assert told(("host", "a")) == "10.0.0.1"


def test_an_unknown_peer_and_an_unlisted_unix_socket_are_not_believed() -> None:
    headers = Headers((("x-forwarded-for", "198.51.100.7"),))
    assert client_address(None, headers, TRUSTED) is None
    assert client_address("unix", headers, TRUSTED[:2]) == "unix"
    assert client_address(PROXY, headers, ()) == PROXY


# --- The chain ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "client"),
    [
        # What stands left of the first untrusted address may be invented.
        (["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
        (["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7, 10.0.0.3, 10.0.0.2"], "198.51.100.7"),
        (["198.51.100.7", "10.0.0.3", "10.0.0.2"], "198.51.100.7"),
        (["1.1.1.1, 198.51.100.7, ::ffff:10.0.0.2"], "198.51.100.7"),
        (["garbage, 198.51.100.7"], "198.51.100.7"),
        # A client that sits at a trusted address itself.
        (["10.0.0.3"], "10.0.0.3"),
        (["10.0.0.4, 10.0.0.3"], "10.0.0.4"),
        # A hop that names no address: the proxy that wrote it is the last one that is known.
        (["1.1.1.1, unknown"], "10.0.0.1"),
        (["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
        # Empty elements are none.
        (["198.51.100.7, , "], "198.51.100.7"),
        (["198.51.100.7", "", ","], "198.51.100.7"),
        ([""], "10.0.0.1"),
    ],
)
def test_the_first_hop_from_the_right_that_is_not_trusted_is_the_client(
    values: list[str], client: str
) -> None:
    assert x_forwarded_for(*values) == client


def test_the_work_is_bounded() -> None:
    chain = ["198.51.100.7", *(f"10.1.0.{i}" for i in range(MAX_HOPS))]
    assert x_forwarded_for(", ".join(chain[:-1])) == "198.51.100.7"
    assert x_forwarded_for(", ".join(chain)) == "10.1.0.0"
    assert forwarded(", ".join(f"for={node}" for node in chain)) == "10.1.0.0"
    for text in (" \t" * 16384, "," * 32768, '"' * 32768, '="' * 16384, 'a="\\",' * 5000):
        assert forwarded(text) == x_forwarded_for(text) == "10.0.0.1"
    for text in ("; " + " \t" * 16384 + '"', "; ;" * 10000 + '"', ";a=b" * 8000 + "="):
        assert forwarded(text) == "10.0.0.1"


# --- How a node is written ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "client"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:4711", "198.51.100.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:DB8:0::7]:4711", "2001:db8::7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("\t 198.51.100.7 \t", "198.51.100.7"),
    ],
)
def test_x_forwarded_for_takes_addresses_as_proxies_write_them(text: str, client: str) -> None:
    assert x_forwarded_for(text) == client


NO_ADDRESSES = [
    *("unknown", "_hidden", "-", "localhost", "198.51.100", "198.51.100.256", "198.51.100.07"),
    *("198.51.100.7/32", "198.51.100.7:", "198.51.100.7:123456", "198.51.100.7 198.51.100.8"),
    *("2001:db8::7%eth0", "[2001:db8::7", "2001:db8::7]", "[198.51.100.7]", "[]", "[]:80", ":"),
    *("\u00b9.1.1.1", "0x7f.1", "3325256711", "198.51.100.7\x00"),
]


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_does_not_count(text: str) -> None:
    assert x_forwarded_for(text) == "10.0.0.1"
    assert forwarded(f'for="{text}"') == "10.0.0.1"
    assert forwarded(f"for={text}") == "10.0.0.1"


@pytest.mark.parametrize(
    ("text", "client"),
    [
        # The RFC's own examples.
        ('for="_gazonk"', "10.0.0.1"),
        ('For="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
        ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
        ('for=192.0.2.43, for="[2001:db8:cafe::17]"', "2001:db8:cafe::17"),
        # Ports, obfuscated ones too.
        ('for="192.0.2.43:47011"', "192.0.2.43"),
        ('for="192.0.2.43:_port"', "192.0.2.43"),
        ('for="[2001:db8::7]:_a.b-c"', "2001:db8::7"),
        # Everything that the grammar allows around it.
        (';;proto=https;FOR="192.0.2.43";', "192.0.2.43"),
        ("proto=https; for=192.0.2.43 ; by=_x", "192.0.2.43"),
        (r'host="a\"b, for=1.1.1.1";for="1\92.0.2.43"', "192.0.2.43"),
        ('secret="a=\\",;";for=192.0.2.43', "192.0.2.43"),
        ('ext="";for=192.0.2.43;e=""', "192.0.2.43"),
        # And what it does not.
        ("for=2001:db8::7", "10.0.0.1"),
        ('for="2001:db8::7"', "10.0.0.1"),
        ("for=[2001:db8::7]", "10.0.0.1"),
        ("for=192.0.2.43;for=192.0.2.43", "10.0.0.1"),
        ("for = 192.0.2.43", "10.0.0.1"),
        ("192.0.2.43", "10.0.0.1"),
        ("for=", "10.0.0.1"),
        ('for=""', "10.0.0.1"),
        ("for=192.0.2.43;", "192.0.2.43"),
        ("for=192.0.2.43;proto", "10.0.0.1"),
        ('for="192.0.2.43', "10.0.0.1"),
        ('for=192.0.2.43"', "10.0.0.1"),
        ("by=203.0.113.43;proto=https", "10.0.0.1"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_writes_it(text: str, client: str) -> None:
    assert forwarded(text) == client


# --- Both headers -------------------------------------------------------------------------------


def test_both_headers_count_if_they_agree_and_neither_if_they_do_not() -> None:
    x_field = ("x-forwarded-for", "198.51.100.7")
    assert told(x_field, ("forwarded", "for=198.51.100.7")) == "198.51.100.7"
    for forged in ("for=1.1.1.1", "for=_x", "garbage", ""):
        assert told(x_field, ("forwarded", forged)) == "10.0.0.1"
        assert told(("forwarded", forged), x_field) == "10.0.0.1"


# --- Whatever a client writes -------------------------------------------------------------------

# What a header's value may hold, and more often what means something in these two.
JUNK = st.text(
    st.sampled_from('",;=\\ \t[]:._') | st.characters(min_codepoint=0x20, max_codepoint=0xFF),
    max_size=20,
).filter(lambda text: "\x7f" not in text)
FORGED = st.lists(
    st.sampled_from(
        ["for=1.1.1.1", 'for="[2001:db8:bb::1]"', "1.1.1.1", "for=10.0.0.9", 'x="', ", ", ";"]
    )
    | JUNK,
    max_size=6,
).map("".join)
# An address of a proxy's is believed in what it wrote to its left.
CLIENTS = (
    st.ip_addresses()
    .map(lambda a: parse_address(str(a)))
    .filter(lambda a: not is_trusted(a, TRUSTED))
)


def as_forwarded(address: str, host: str) -> str:
    """An element as a careful proxy writes it, with the client's own Host in it."""
    node = f'"[{address}]"' if ":" in address else address
    quoted = host.replace("\\", "\\\\").replace('"', '\\"')
    return f'for={node};host="{quoted}";proto=https'


@given(
    client=CLIENTS,
    between=st.lists(st.integers(2, 250).map(lambda i: f"10.0.0.{i}"), max_size=3),
    own=st.lists(FORGED, max_size=3),
    other=st.lists(FORGED, max_size=2),
    host=FORGED,
    same_line=st.booleans(),
    standard=st.booleans(),
)
def test_a_client_is_never_taken_for_another(
    client: Origin,
    between: list[str],
    own: list[str],
    other: list[str],
    host: str,
    same_line: bool,
    standard: bool,
) -> None:
    """It writes both headers at will; then each proxy adds to one of them whom it heard from."""
    lines = list(own)
    for address in (str(client), *between):
        added = as_forwarded(address, host) if standard else address
        if same_line and lines:
            lines[-1] = f"{lines[-1]}, {added}"
        else:
            lines.append(added)
    names = ("forwarded", "x-forwarded-for") if standard else ("x-forwarded-for", "forwarded")
    fields = [(names[0], line) for line in lines]
    assert told(*fields) == str(client)
    assert told(*fields, *((names[1], line) for line in other)) in (str(client), str(PROXY))


@given(st.lists(st.tuples(st.sampled_from(["forwarded", "x-forwarded-for"]), FORGED), max_size=4))
def test_no_text_is_an_error(fields: list[tuple[str, str]]) -> None:
    assert told(*fields)
