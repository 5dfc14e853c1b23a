"""The egress guard's judgement of single addresses."""

import os
import socket
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tocsin.net.guard import Guard, embedded, is_public
from tocsin.readings import EVERY_PORT
from tocsin.settings import load

PRIVATE = {
    "private 10/8": "10.1.2.3",
    "private 172.16/12": "172.31.255.255",
    "private 192.168/16": "192.168.0.1",
    "loopback": "127.0.0.1",
    "loopback, not the usual one": "127.255.255.254",
    "this network": "0.0.0.0",
    "this network, not its first": "0.1.2.3",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "metadata of Alibaba": "100.100.100.200",
    "metadata of Oracle": "192.0.0.192",
    "Azure's wire server": "168.63.129.16",
    "carrier-grade NAT, first": "100.64.0.0",
    "carrier-grade NAT, last": "100.127.255.255",
    "protocol assignments": "192.0.0.8",
    "documentation 1": "192.0.2.1",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.1",
    "6to4 relays": "192.88.99.1",
    "benchmarks": "198.19.255.255",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 unspecified": "::",
    "IPv6 loopback": "::1",
    "IPv6 link-local": "fe80::1",
    "IPv6 link-local with a zone": "fe80::1%eth0",
    "IPv6 site-local": "fec0::1",
    "IPv6 unique-local": "fc00::1",
    "IPv6 metadata of AWS": "fd00:ec2::254",
    "IPv6 multicast": "ff02::1",
    "IPv6 documentation": "2001:db8::1",
    "IPv6 documentation, the newer": "3fff::1",
    "IPv6 discard": "100::1",
    "IPv6 reserved": "4000::1",
    "IPv6 benchmarks": "2001:2::1",
    "IPv6 ORCHID": "2001:20::1",
    "IPv6 segment routing": "5f00::1",
    "IPv4-mapped": "::ffff:127.0.0.1",
    "IPv4-mapped in hex": "::ffff:a9fe:a9fe",
    "IPv4-compatible": "::127.0.0.1",
    "IPv4-compatible, public inside": "::8.8.8.8",
    "IPv4-translated": "::ffff:0:127.0.0.1",
    "NAT64": "64:ff9b::10.0.0.1",
    "NAT64 of metadata": "64:ff9b::a9fe:a9fe",
    "local NAT64": "64:ff9b:1::10.0.0.1",
    "local NAT64, public inside": "64:ff9b:1::8.8.8.8",
    "6to4 of loopback": "2002:7f00:1::",
    "6to4, public inside": "2002:808:808::",
    "Teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
}
PUBLIC = {
    "IPv4": "8.8.8.8",
    "just below carrier-grade NAT": "100.63.255.255",
    "just above carrier-grade NAT": "100.128.0.0",
    "just above 172.16/12": "172.32.0.0",
    "just below multicast": "223.255.255.255",
    "next to Azure's wire server": "168.63.129.17",
    "IPv6": "2606:4700:4700::1111",
    "IPv6 with a zone": "2606:4700:4700::1111%1",
    "just above 2001::/23": "2001:200::1",
    "IPv4-mapped": "::ffff:8.8.8.8",
    "NAT64": "64:ff9b::8.8.8.8",
}


def guard(*allowed, closed=(), ports=EVERY_PORT):
    return Guard(tuple(ip_network(network) for network in allowed), ports, lambda: closed)


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE.keys())
def test_blocks(address):
    objection = guard().objection(address, 80)
    assert objection is not None
    assert "TOCSIN_ALLOW_NETWORKS" in objection.said
    shown = str(ip_address(address.partition("%")[0]))
    assert shown in objection.address
    assert shown not in objection.said  # for users a name's address is none of their business


@pytest.mark.parametrize("address", PUBLIC.values(), ids=PUBLIC.keys())
def test_lets_pass(address):
    assert guard().objection(address, 80) is None
    assert is_public(ip_address(address.partition("%")[0]))


@pytest.mark.parametrize("address", ["10.0.0.1", "::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::"])
def test_allowed_networks_match_the_address_inside(address):
    assert guard("10.0.0.0/8").objection(address, 80) is None
    assert guard("192.168.0.0/16").objection(address, 80) is not None


def test_allowed_networks_open_nothing_else():
    opened = guard("127.0.0.0/8", "fd00::/8")
    assert opened.objection("127.3.2.1", 80) is None
    assert opened.objection("fd12::1", 80) is None
    assert opened.objection("::1", 80) is not None
    assert opened.objection("fe80::1", 80) is not None
    assert opened.objection("169.254.169.254", 80) is not None


def test_an_ambiguous_translated_address_must_be_allowed_on_every_reading():
    two_faced = "64:ff9b:1:a00:0:100::"  # 10.0.0.1 for a prefix of 48 bits, something else for longer ones
    assert embedded(ip_address(two_faced))[0] == ip_address("10.0.0.1")
    assert guard("10.0.0.0/8").objection(two_faced, 80) is not None
    assert guard("64:ff9b:1::/48").objection(two_faced, 80) is None


def test_teredo_counts_both_ends():
    address = "2001:0:4136:e378:8000:63bf:3fff:fdd2"  # server 65.54.227.120, client 192.0.2.45
    assert guard("192.0.2.0/24").objection(address, 80) is not None
    assert guard("192.0.2.0/24", "65.54.227.120/32").objection(address, 80) is None


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::", "0.0.0.0", "::"]
)
def test_the_own_listener_stays_closed_in_an_allowed_network(address):
    own = guard("0.0.0.0/0", "::/0", closed=[("127.0.0.1", 8700)])
    assert "own listener" in said(own.objection(address, 8700))
    assert own.objection(address, 8701) is None


@pytest.mark.parametrize("listener", ["0.0.0.0", "::", "some-name-that-is-no-address"])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_a_listener_on_everything_closes_every_local_address(listener, address):
    own = guard("0.0.0.0/0", "::/0", closed=[(listener, 8700)])
    assert "own listener" in said(own.objection(address, 8700))
    assert own.objection(address, 8701) is None


def test_a_listener_on_everything_closes_the_addresses_of_the_interfaces():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks the routing table which address would be used
        except OSError:
            pytest.skip("this machine has no address but loopback")
        mine = probe.getsockname()[0]
    own = guard("0.0.0.0/0", closed=[("0.0.0.0", 8700)])
    assert "own listener" in said(own.objection(mine, 8700))
    assert own.objection("10.254.253.252", 8700) is None


def test_a_listener_on_one_address_leaves_the_others_open():
    assert guard("127.0.0.0/8", closed=[("127.0.0.1", 8700)]).objection("127.0.0.2", 8700) is None


def test_the_listener_is_asked_for_at_every_connect():
    closed = []
    own = guard("127.0.0.0/8", closed=closed)
    assert own.objection("127.0.0.1", 8700) is None
    closed.append(("127.0.0.1", 8700))
    assert own.objection("127.0.0.1", 8700) is not None


def said(objection):
    return "" if objection is None else objection.said


@pytest.mark.parametrize("port", [1, 22, 25, 79, 81, 442, 444, 1023])
def test_ports_of_other_services_are_closed_in_every_network(port):
    of_default = guard("0.0.0.0/0", ports=load({}, Path(os.devnull)).allow_ports)
    assert f"Port {port} is closed" in said(of_default.objection("10.0.0.1", port))
    assert "TOCSIN_ALLOW_PORTS" in said(of_default.objection("8.8.8.8", port))
    assert f"Port {port} is closed" in said(of_default.objection_to_port(port))


@pytest.mark.parametrize("port", [80, 443, 1024, 8080, 65535])
def test_ports_of_web_servers_are_open(port):
    of_default = guard("10.0.0.0/8", ports=load({}, Path(os.devnull)).allow_ports)
    assert of_default.objection("10.0.0.1", port) is None
    assert of_default.objection_to_port(port) is None


def test_a_closed_port_says_nothing_about_the_address():
    of_default = guard(ports=load({}, Path(os.devnull)).allow_ports)
    assert said(of_default.objection("127.0.0.1", 25)) == said(of_default.objection("8.8.8.8", 25))


def test_a_private_address_does_not_tell_whether_the_service_listens_there():
    closed = guard(closed=[("127.0.0.1", 8700)])
    assert said(closed.objection("127.0.0.1", 8700)) == said(closed.objection("127.0.0.1", 8701))


@pytest.mark.parametrize("text", ["", "nonsense", "1.2.3", "/tmp/socket", "1.2.3.4.5", "\x00", "%eth0"])
def test_what_cannot_be_read_is_blocked(text):
    assert guard("0.0.0.0/0", "::/0").objection(text, 80) is not None
