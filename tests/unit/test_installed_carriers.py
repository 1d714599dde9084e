"""Carriers of other packages (docs/transports.md, 2): found, believed, loaded, and told apart by HELLO."""

from __future__ import annotations

import hashlib
import os
import re
import site
import sys
from pathlib import Path

import pytest
from lone import HOME, messages, told, until

from hooker import transports
from hooker.carriers import installed
from hooker.carriers.contract import CONTRACT
from hooker.errors import ConfigurationError
from hooker.flow.messages import encode
from hooker.transports.children import PrototypeError
from hooker.transports.face import Lone
from hooker.transports.makers import Settings, make

CARRIERS = Path(__file__).parents[2] / "hooker" / "carriers"
API = CARRIERS.parent / "vtl" / "api.pxd"
LAYOUTS = {  # of what carriers are compiled with, by CARRIER_CONTRACT
    2: "178b861517a9257a",
    3: "e43a3900e3be060d",
    4: "8c859760a2547dec",
    5: "76cfb268e01320bd",
}
GOOD = "from hooker.carriers.contract import CONTRACT\nfrom hooker.carriers.udp import make\n"


class Installation:
    """Where an installation has its packages."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.proof = at.parent / "proof"  # that something was imported

    def add(self, name: str, text: str = GOOD, module: str = "a_carrier") -> None:
        (self.at / f"{module}.py").write_text(f"open({str(self.proof)!r}, 'w')\n{text}")
        self.offer(name, module)

    def offer(self, name: str, module: str) -> None:
        metadata = self.at / f"{name}-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(f"[hooker.carriers]\n{name} = {module}\n")


def layout() -> str:
    """Of what a carrier of another package is compiled with: structures and functions, no comments."""
    batch = re.findall(r"(?m)^cdef struct vtl_(?:addr|datagram|batch):.*\n(?: .*\n)+", API.read_text())
    assert len(batch) == 3
    texts = [(CARRIERS / name).read_text() for name in ("contract.pxd", "datagrams.pxd")]
    lines = [re.sub(r"\s*#.*", "", line) for text in [*texts, *batch] for line in text.splitlines()]
    return hashlib.sha256("\n".join(filter(None, lines)).encode()).hexdigest()[:16]


def test_another_layout_is_another_contract() -> None:
    """Else what was compiled with the one before would take one member for another."""
    assert LAYOUTS[CONTRACT] == layout(), "raise CARRIER_CONTRACT, and add its layout to LAYOUTS"
    assert max(LAYOUTS) == CONTRACT


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    made = Installation(tmp_path / "site")
    made.at.mkdir()
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(made.at)])
    monkeypatch.setattr(sys, "path", [str(made.at), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "a_carrier", raising=False)
    return made


def lone(name: str) -> Lone:
    (chosen,) = transports.choose(name).taken
    given = {chosen.wire_id: dict(chosen.given)}
    return Lone(make(chosen.wire_id, Settings(named=(chosen.name, chosen.place), parameters=given)))


def test_one_is_offered_without_being_imported(here: Installation) -> None:
    here.add("pigeon")
    (found,) = [one for one in transports.installed() if one.name == "vtl+pigeon"]
    assert (found.carrier, found.reliability, found.available()) == ("pigeon", "selective-repeat", (True, ""))
    chosen, vtl = transports.choose("vtl+pigeon,vtl").taken
    assert (chosen.wire_id, chosen.place, chosen.is_class, vtl.name) == (13, "a_carrier", False, "vtl")
    assert not here.proof.exists()
    with pytest.raises(ConfigurationError, match="have one number, 13"):
        transports.choose("vtl+pigeon,a:B")
    with pytest.raises(ConfigurationError, match="unknown transport"):
        transports.choose("vtl+dove")


def test_vtl_goes_over_it_and_hello_has_its_name(here: Installation) -> None:
    here.add("pigeon")
    here.offer("dove", "a_carrier")
    a, b = lone("vtl+pigeon"), lone("vtl+pigeon")
    there = a.connect(HOME, b.port)
    until(lambda: a.is_up(there), a, b)
    same = encode("hello", epoch=1, position=65535, token=7, own_token=8, data=b"\x02\x06pigeon")
    assert a.say(there, same)
    until(lambda: messages(b, "hello"), a, b)
    assert a.counters()["vtl+pigeon.pigeon_send_calls"] > 0
    assert a.say(there, encode("hello", epoch=1, token=7, data=b"\x02\x04dove"))
    until(lambda: told(a, "down") and told(b, "down"), a, b)
    assert [one[2] for who in (a, b) for one in told(who, "down")] == ["name", "name"]
    a.shut()
    b.shut()


TAKES = f"""{GOOD}
TAKES = (("height", 1, 300), ("flock", 0, 9))
def make(settings, ours=make):
    print(dict(settings.given))
    return ours(settings)
"""


def test_it_has_parameters_within_what_it_says(
    here: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    here.add("pigeon", TAKES)
    lone("vtl+pigeon:height=300:flock=0").shut()
    lone("vtl+pigeon").shut()
    assert capsys.readouterr().out.splitlines() == ["{'height': 300, 'flock': 0}", "{}"]


@pytest.mark.parametrize(
    ("given", "text", "said"),
    [
        ("height=0", TAKES, "height is from 1 to 300, not 0"),
        ("depth=1", TAKES, "it takes no 'depth', but height, flock"),
        ("height=1", GOOD, "it takes no 'height'"),
        ("height=1", f"{GOOD}TAKES = ('height',)", "is no list of names"),
        ("height=1", f"{GOOD}TAKES = 1", "is no list of names"),
    ],
)
def test_a_parameter_that_it_has_not_said_is_a_mistake(
    here: Installation, given: str, text: str, said: str
) -> None:
    here.add("pigeon", text)
    with pytest.raises(PrototypeError) as caught:
        lone(f"vtl+pigeon:{given}")
    assert said in caught.value.message


@pytest.mark.parametrize(
    "given", ["height", "height=", "height=-1", "height=9999999999", "=1", "a b=1", "x=1:x=1"]
)
def test_what_can_be_no_parameter_is_said_before_it_is_imported(here: Installation, given: str) -> None:
    here.add("pigeon")
    with pytest.raises(ConfigurationError, match=r"transport 'vtl\+pigeon': "):
        transports.choose(f"vtl+pigeon:{given}")
    assert not here.proof.exists()


@pytest.mark.parametrize("options", [b"", b"\x07\x00\x02\x03udp", b"\x02\x00", b"\x02\x04udp2"])
def test_only_another_name_ends_an_association(options: bytes) -> None:
    a, b = Lone(make(1, Settings())), Lone(make(1, Settings()))
    there = a.connect(HOME, b.port)
    until(lambda: a.is_up(there), a, b)
    assert a.say(there, encode("hello", epoch=1, token=7, data=options))
    until(lambda: messages(b, "hello") or told(b, "down"), a, b)
    assert bool(told(b, "down")) == (options[:1] == b"\x02")
    a.shut()
    b.shut()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import nothing_of_the_name", "No module named 'nothing_of_the_name'"),
        ("", "is made for contract None"),
        ("CONTRACT = 0", "is made for contract 0"),
        (f"{GOOD}def make(settings):\n    return 1", "has given 1, which is no carrier"),
        (f"{GOOD}def make(settings):\n    raise OSError('no pigeons')", "OSError: no pigeons"),
        (f"{GOOD}del make", "has no attribute 'make'"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(here: Installation, text: str, said: str) -> None:
    here.add("pigeon", text)
    with pytest.raises(PrototypeError) as caught:
        lone("vtl+pigeon")
    assert said in caught.value.message
    assert caught.value.message.startswith("carrier pigeon: ")
    assert "\n" not in str(caught.value)


def test_what_this_machine_lacks_is_no_mistake(here: Installation) -> None:
    """As of any transport: it is skipped where there is another one."""
    here.add(
        "pigeon",
        f"{GOOD}from hooker.errors import *\ndef make(settings):\n    raise KernelError('none here')",
    )
    with pytest.raises(ConfigurationError, match="none here") as caught:
        lone("vtl+pigeon")
    assert not isinstance(caught.value, PrototypeError)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's file")
@pytest.mark.parametrize("what", ["file", "directory", "writable"])
def test_what_another_user_could_have_written_is_not_imported(here: Installation, what: str) -> None:
    here.add("pigeon")
    if what == "writable":
        here.at.chmod(0o777)
    else:
        os.chown(here.at if what == "directory" else here.at / "a_carrier.py", 12345, 12345)
    with pytest.raises(ConfigurationError, match="user"):
        transports.choose("vtl+pigeon")
    with pytest.raises(installed.Unfit, match="user"):
        installed.make("pigeon", "a_carrier", Settings())  # type: ignore[arg-type]
    assert not here.proof.exists()


def test_only_what_is_installed_is_taken(
    here: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what else Python would find, nor what it would find first."""
    here.offer("pigeon", "a_carrier")
    (tmp_path / "a_carrier.py").write_text(f"open({str(here.proof)!r}, 'w')\n{GOOD}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ConfigurationError, match=f"a_carrier is not installed in {here.at}"):
        transports.choose("vtl+pigeon")
    (here.at / "a_carrier.py").write_text(GOOD)
    with pytest.raises(PrototypeError, match="Python finds"):
        lone("vtl+pigeon")
    assert not here.proof.exists()
