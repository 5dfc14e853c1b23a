"""The HTTP wire in a process that has no descriptors left: nothing goes out, and it says that the fault is its own."""

import json
import subprocess
import sys
import textwrap

import pytest

from receiver import Receiver

PROLOGUE = """
import asyncio, json, os, resource, sys
import uvloop
from tocsin import settings
from tocsin.model import HttpRequest
from tocsin.net.http import HttpWire

PORT = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
taken = []

def take_all(but=0):
    while True:
        try:
            taken.append(os.dup(0))
        except OSError:
            break
    for _ in range(but):
        os.close(taken.pop())

def give_back():
    while taken:
        os.close(taken.pop())

def request(host="127.0.0.1", guarded=True):
    return HttpRequest(url=f"http://{host}:{PORT}/", shown_url="", body=b"{}", timeout_seconds=5.0, guarded=guarded)

def shown(reply):
    return getattr(reply, "status", None) or [reply.reason, reply.sent, reply.ours]

async def main():
    wire = HttpWire(settings.load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"}))
    said = await scene(wire)
    await wire.close()
    print(json.dumps([shown(reply) for reply in said]))
"""
OURS = ["internal", False, True]


@pytest.fixture(params=["asyncio", "uvloop"])
def child(request):
    """Runs a scene, the body of a coroutine that gets `wire` and returns replies, in a process of 100 descriptors."""

    def run(scene):
        body = textwrap.indent(textwrap.dedent(scene), "    ")
        code = f"{PROLOGUE}\nasync def scene(wire):{body}\n{request.param}.run(main())"
        with Receiver("0.0.0.0") as receiver:
            ended = subprocess.run(
                [sys.executable, "-c", code, str(receiver.port)], capture_output=True, text=True, timeout=60, check=False
            )
        assert ended.returncode == 0 and ended.stderr == "", ended.stderr
        return json.loads(ended.stdout)

    return run


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("guarded", [True, False])
def test_no_descriptor_for_a_connection(child, guarded, left):
    assert child(f"""
        said = [await wire.send(request(guarded={guarded}))]
        await wire.send(request("127.0.0.9", guarded={guarded}))  # idle ones are left alone while another can be had otherwise
        for lane in wire._lanes.values():
            lane._multi and setattr(lane._multi, "shed", lambda: False)
        take_all(but={left})
        said.append(await wire.send(request("127.0.0.2", guarded={guarded})))
        said.append(await wire.send(request("127.0.0.1", guarded={guarded})))  # on its kept connection
        give_back()
        said.append(await wire.send(request("127.0.0.2", guarded={guarded})))
        return said
    """) == [200, OURS, 200, 200]


def test_no_descriptor_for_the_first_request_of_all(child):
    assert child("""
        take_all()
        said = [await wire.send(request())]
        give_back()
        return said + [await wire.send(request())]
    """) == [OURS, 200]


def test_no_descriptor_to_look_a_name_up(child):
    assert child("""
        await wire.send(request())
        take_all()
        said = [await wire.send(request("localhost"))]
        give_back()
        return said + [await wire.send(request("localhost"))]
    """) == [OURS, 200]


def test_idle_connections_make_room_for_new_ones(child):
    assert (
        child("""
        said = [await wire.send(request(f"127.0.0.{number}")) for number in range(1, 25)]
        take_all()
        said += await asyncio.gather(*(wire.send(request(f"127.0.1.{number}")) for number in range(1, 6)))
        said += [await wire.send(request(f"127.0.2.{number}")) for number in range(1, 15)]
        return said
    """)
        == [200] * 43
    )


def test_more_than_idle_connections_make_room_for(child):
    said = child("""
        for number in range(1, 5):
            await wire.send(request(f"127.0.0.{number}"))
        take_all()
        said = await asyncio.gather(*(wire.send(request(f"127.0.1.{number}")) for number in range(1, 40)))
        give_back()
        return [*said, *await asyncio.gather(*(wire.send(request(f"127.0.1.{number}")) for number in range(1, 40)))]
    """)
    assert all(one in (200, OURS) for one in said[:39]) and OURS in said[:39] and 200 in said[:39]
    assert said[39:] == [200] * 39
