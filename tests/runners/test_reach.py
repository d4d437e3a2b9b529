"""The way to a host: options, jump hosts and host keys, as OpenSSH's client has them.

Against OpenSSH's sshds, of which some are jump hosts. tests/test_jump.py has whole front-ends.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from llmrelay.config import Config
from llmrelay.errors import (
    ChangedHostKey,
    ConnectError,
    HostUnreachable,
    UnknownHostKey,
    UnusableConfig,
)
from llmrelay.runners import reach
from llmrelay.runners.jump import Jumps
from llmrelay.runners.shared import SharedHostDown
from llmrelay.runners.spec import HostSpec
from llmrelay.runners.ssh.login import Step
from llmrelay.values import HostAddress
from tests.helpers.openssh import (
    OpenSSHServer,
    generate_key,
    known_hosts_line,
    processes_matching,
    require_sshd,
)

LIMIT_S = 20.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Options = dict[str, str]


@pytest.fixture(scope="module")
def target() -> Iterator[OpenSSHServer]:
    require_sshd()
    with OpenSSHServer(host="127.0.0.2") as server:
        yield server


@pytest.fixture(scope="module")
def outer() -> Iterator[OpenSSHServer]:
    require_sshd()
    with OpenSSHServer("MaxSessions 1", host="127.0.0.20") as server:
        yield server


@pytest.fixture(scope="module")
def inner() -> Iterator[OpenSSHServer]:
    require_sshd()
    with OpenSSHServer("MaxSessions 1", host="127.0.0.21") as server:
        yield server


class Way:
    """What is said of the hosts, and what comes of it."""

    def __init__(self, folder: Path, loop: str, **servers: OpenSSHServer) -> None:
        self.loop = loop
        self.ssh_config = folder / "config"
        self.known_hosts = folder / "known"
        self.servers = servers
        self.write("")
        self.trust(*servers)

    def write(self, before: str, **changes: str) -> None:
        """An ssh_config with `before`, then a Host for each server, with lines of its own."""
        blocks = [before]
        for name, server in self.servers.items():
            blocks += [
                f"Host {name}",
                f"HostName {server.host}\nPort {server.port}\nUser {server.user}",
                f"IdentityFile {server.identity}\nIdentitiesOnly yes",
                changes.get(name, ""),
            ]
        self.ssh_config.write_text("\n".join(blocks) + "\n")

    def trust(self, *names: str) -> None:
        """Those host keys are known, and no others."""
        known = [self.servers[name].known_hosts.read_text() for name in names]
        self.known_hosts.write_text("".join(known))

    @property
    def config(self) -> Config:
        return Config(ssh_config=self.ssh_config, known_hosts=self.known_hosts)

    def go(self, *hosts: HostSpec, config: Config | None = None) -> list[Step]:
        """Connects to hosts, at once, and leaves; the steps, those of jump hosts included.

        Raises:
            ConnectError: the first that cannot be reached cannot for this reason.
        """
        config = config or self.config
        steps: list[Step] = []

        async def one(host: HostSpec, jumps: Jumps) -> None:
            async with reach.connect(host, config, jumps, steps.append):
                pass

        async def all_of_them() -> None:
            async with asyncio.timeout(LIMIT_S), Jumps(config, steps.append) as jumps:
                for host in hosts:
                    await one(host, jumps)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        try:
            with asyncio.Runner(loop_factory=LOOPS[self.loop]) as runner:
                runner.run(all_of_them())
        except SharedHostDown as down:
            raise down.error from None
        return steps


def to(name: str, **options: str) -> HostSpec:
    return HostSpec(
        HostAddress(name), "python3", "http://upstream", ssh_options=tuple(options.items())
    )


def hops(steps: list[Step]) -> list[str]:
    return [step.hop for step in steps if step.what == "login"]


@pytest.fixture(params=list(LOOPS))
def way(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    target: OpenSSHServer,
    outer: OpenSSHServer,
    inner: OpenSSHServer,
) -> Way:
    return Way(tmp_path, request.param, target=target, outer=outer, inner=inner)


def said(error: pytest.ExceptionInfo[ConnectError]) -> str:
    return error.value.message


# --- Which way ----------------------------------------------------------------------------------


def test_each_hop_tells_its_steps(way: Way, target: OpenSSHServer) -> None:
    steps = way.go(to("target", ProxyJump="outer"))
    assert [(step.hop, step.what) for step in steps] == [
        ("outer", "name"),
        ("outer", "tcp"),
        ("outer", "host key"),
        ("outer", "login"),
        ("target", "tcp"),
        ("target", "host key"),
        ("target", "login"),
    ]
    assert steps[1].found == f"127.0.0.20 port {way.servers['outer'].port}"
    assert steps[5].found.startswith("ssh-ed25519 SHA256:")
    assert steps[6].found == f"as {target.user}"
    assert all(step.took_s >= 0 for step in steps)


def test_hosts_behind_the_same_hops_share_them(way: Way) -> None:
    chain = to("target", ProxyJump="outer,inner")
    assert hops(way.go(chain, chain)) == ["outer", "inner", "target", "target"]


def test_a_chain_in_ssh_config_is_followed_from_its_first_hop(way: Way) -> None:
    way.write("", target="ProxyJump inner", inner="ProxyJump outer")
    assert hops(way.go(to("target"))) == ["outer", "inner", "target"]


def test_a_circle_of_jump_hosts_is_said_to_be_one(way: Way) -> None:
    way.write("", inner="ProxyJump outer", outer="ProxyJump inner")
    with pytest.raises(UnusableConfig) as error:
        way.go(to("target", ProxyJump="outer"))
    assert "over more than 8 hosts" in said(error)


@pytest.mark.parametrize("options", [{"ProxyJump": "none"}, {"ProxyCommand": "none"}])
def test_none_ends_what_ssh_config_says_of_jump_hosts(way: Way, options: Options) -> None:
    way.write("", target="ProxyJump outer")
    assert hops(way.go(to("target", **options))) == ["target"]


def over(name: str, way: Way) -> str:
    """The command that many an inventory has in place of ProxyJump."""
    return f"ssh -F {way.ssh_config} -o UserKnownHostsFile={way.known_hosts} -W %h:%p {name}"


def test_of_a_command_and_a_jump_host_the_first_holds(way: Way) -> None:
    way.write("", target="ProxyCommand /bin/false")
    assert hops(way.go(to("target", ProxyJump="outer"))) == ["outer", "target"]
    way.write("", target="ProxyJump nowhere.invalid")
    assert hops(way.go(to("target", ProxyCommand=over("outer", way)))) == ["target"]


def test_a_command_is_run_by_a_shell_and_may_say_what_it_likes(way: Way) -> None:
    command = f"sh -c 'echo noise >&2; exec \"$@\"' it {over('outer', way)}"
    steps = way.go(to("target", ProxyCommand=f"{command} | cat"))
    assert [step.what for step in steps] == ["tcp", "host key", "login"]
    assert steps[0].found == "by ProxyCommand"


def test_a_command_that_fails_is_quoted(way: Way) -> None:
    with pytest.raises(HostUnreachable) as error:
        way.go(to("target", ProxyCommand="sh -c 'echo the gate is closed >&2; exit 1'"))
    assert "; its ProxyCommand says: the gate is closed. Try: " in said(error)


def test_a_command_that_says_nothing_is_ended(way: Way) -> None:
    config = replace(way.config, connect_timeout_s=0.2)
    with pytest.raises(HostUnreachable) as error:
        way.go(to("target", ProxyCommand="sleep 62.5"), config=config)
    assert "no answer within 0.2 s" in said(error)
    assert not processes_matching("sleep 62.5")


# --- Options ------------------------------------------------------------------------------------


def test_an_option_goes_before_ssh_config_and_leaves_no_file(
    way: Way, target: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    spaced = tmp_path / "a key"
    spaced.write_bytes(target.identity.read_bytes())
    spaced.chmod(0o600)
    way.write("Host other\nPort 1\nHostName nowhere.invalid\nUser nobody\n")
    given = {
        "HostName": target.host,
        "Port": str(target.port),
        "User": target.user,
        "IdentityFile": f'"{spaced}"',
        "IdentitiesOnly": "yes",
    }
    assert hops(way.go(to("other", **given))) == ["other"]
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    "options", [{"User": "root\nProxyCommand x"}, {"Port": "many"}, {"ProxyCommand": "'"}]
)
def test_an_option_of_no_use_is_a_setting_of_no_use(way: Way, options: Options) -> None:
    with pytest.raises(UnusableConfig) as error:
        way.go(to("target", **options))
    assert said(error).startswith("The SSH settings for target are of no use: ")


# --- Host keys ----------------------------------------------------------------------------------


def test_the_files_of_host_keys_may_be_options(way: Way, tmp_path: Path) -> None:
    known = way.known_hosts.rename(tmp_path / "elsewhere")
    config = Config(ssh_config=way.ssh_config)
    nowhere = {"UserKnownHostsFile": os.devnull, "GlobalKnownHostsFile": os.devnull}
    with pytest.raises(UnknownHostKey) as error:
        way.go(to("target", **nowhere), config=config)
    assert f"-o UserKnownHostsFile={os.devnull}" in said(error)
    assert hops(way.go(to("target", UserKnownHostsFile=str(known)), config=config)) == ["target"]


def test_an_alias_is_what_known_hosts_is_asked_for(
    way: Way, target: OpenSSHServer, tmp_path: Path
) -> None:
    alias = to("target", HostKeyAlias="gpu-1")
    way.trust()
    key = target.host_keys[0].with_suffix(".pub")
    way.known_hosts.write_text(known_hosts_line("gpu-1", 22, key))
    assert hops(way.go(alias)) == ["target"]
    other = generate_key(tmp_path / "other").with_suffix(".pub")
    way.known_hosts.write_text(known_hosts_line("gpu-1", 22, other))
    with pytest.raises(ChangedHostKey) as error:
        way.go(alias)
    assert "ssh-keygen -R 'gpu-1'" in said(error)


def test_two_names_of_a_jump_host_are_one_only_if_the_same_keys_are_trusted(way: Way) -> None:
    """Else what is said of the second, be it that nobody is to be trusted, would not be heard."""
    outer = way.servers["outer"]
    place = f"HostName {outer.host}\nPort {outer.port}\nUser {outer.user}\n"
    place += f"IdentityFile {outer.identity}\nIdentitiesOnly yes\n"
    same = f"Host same\n{place}"
    strict = f"Host strict\n{place}HostKeyAlias nobody\n"
    way.write(same + strict)
    first = to("target", ProxyJump="outer")
    assert hops(way.go(first, to("target", ProxyJump="same"))) == ["outer", "target", "target"]
    with pytest.raises(UnknownHostKey) as error:
        way.go(first, to("target", ProxyJump="strict"))
    assert said(error).startswith("The host key of strict is not known")


def test_a_person_is_told_how_to_get_to_the_second_of_two_jump_hosts(way: Way) -> None:
    way.trust("outer", "target")
    with pytest.raises(UnknownHostKey) as error:
        way.go(to("target", ProxyJump="outer,inner"))
    assert said(error).startswith("The host key of inner is not known")
    assert said(error).endswith("-J outer inner true")


# --- What else may be in the way ----------------------------------------------------------------


def test_a_jump_host_that_forwards_nothing_is_named_as_the_reason(
    way: Way, tmp_path: Path, target: OpenSSHServer
) -> None:
    with OpenSSHServer("AllowTcpForwarding no", host="127.0.0.22") as closed:
        way = Way(tmp_path, way.loop, target=target, closed=closed)
        with pytest.raises(HostUnreachable) as error:
            way.go(to("target", ProxyJump="closed"))
    assert "target cannot be reached: its jump host says: open failed" in said(error)
    assert "AllowTcpForwarding" in said(error)


def test_what_a_jump_host_cannot_reach_is_no_loss_of_the_jump_host(way: Way) -> None:
    with pytest.raises(HostUnreachable) as error:
        way.go(to("target", ProxyJump="outer", Port="1"))
    assert "its jump host says: Connection refused" in said(error)
    assert "-o ProxyJump=outer -o Port=1" in said(error)


@pytest.mark.parametrize("name", ["x" * 64, "a..b"])
def test_what_can_be_no_name_of_a_host_is_unreachable(way: Way, name: str) -> None:
    with pytest.raises(HostUnreachable) as error:
        way.go(to(name))
    assert f"{name} is no name of a host" in said(error)
