"""What stands in the way of a runner: told apart by one sentence and an exit status each.

Against OpenSSH's sshd. docs/errors.md lists the statuses.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.front_end import KEY, run_serve, runner_options
from tests.helpers.openssh import OpenSSHServer, generate_key, require_sshd


@pytest.fixture(scope="module")
def server() -> Iterator[OpenSSHServer]:
    require_sshd()
    with OpenSSHServer() as running:
        yield running


def refusal(options: list[str], env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and sentence; nothing else may be said, least of all the key or a traceback."""
    status, stdout, stderr = run_serve(options, env)
    assert stdout == ""
    lines = [line for line in stderr.splitlines() if line.startswith("llmrelay: ")]
    assert lines, stderr
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    assert KEY not in stderr
    return status, lines[0]


def replaced(options: list[str], flag: str, value: str) -> list[str]:
    at = options.index(flag)
    return [*options[: at + 1], value, *options[at + 2 :]]


def script(folder: Path, text: str) -> str:
    """An executable that stands in for an interpreter."""
    path = folder / "python3"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_an_unknown_host_key_is_refused_and_shown(server: OpenSSHServer) -> None:
    options = replaced(runner_options(server), "--known-hosts", os.devnull)
    status, said = refusal(options)
    assert status == 11
    assert "is not known" in said
    assert "SHA256:" in said
    assert f"ssh -F /dev/null -i {server.identity}" in said


def test_a_changed_host_key_is_refused(server: OpenSSHServer, tmp_path: Path) -> None:
    other = generate_key(tmp_path / "other").with_suffix(".pub").read_text().split()
    known = tmp_path / "known_hosts"
    known.write_text(f"[{server.host}]:{server.port} {other[0]} {other[1]}\n")
    status, said = refusal(replaced(runner_options(server), "--known-hosts", str(known)))
    assert status == 12
    assert "has changed" in said
    assert "ssh-keygen -R" in said


def test_a_host_key_of_another_kind_counts_as_changed(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    other = generate_key(tmp_path / "other", "ecdsa").with_suffix(".pub").read_text().split()
    known = tmp_path / "known_hosts"
    known.write_text(f"[{server.host}]:{server.port} {other[0]} {other[1]}\n")
    status, said = refusal(replaced(runner_options(server), "--known-hosts", str(known)))
    assert status == 12
    assert "ssh-ed25519" in said


def test_ssh_config_cannot_turn_the_verification_off(server: OpenSSHServer, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "Host *\n  UserKnownHostsFile none\n  GlobalKnownHostsFile none\n"
        "  StrictHostKeyChecking no\n"
    )
    options = replaced(runner_options(server), "--ssh-config", str(config))
    at = options.index("--known-hosts")
    status, _ = refusal([*options[:at], *options[at + 2 :]])
    assert status == 11


def test_a_refused_login_names_the_user_and_the_command_to_try(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    options = replaced(
        runner_options(server), "--identity", str(generate_key(tmp_path / "stranger"))
    )
    status, said = refusal(options)
    assert status == 13
    assert f"refuses the login of {server.user}" in said


def test_nothing_listening_is_an_unreachable_host(server: OpenSSHServer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        # Bound and not listening: connections are refused.
        status, said = refusal(replaced(runner_options(server), "--runner", f"127.0.0.1:{port}"))
    assert status == 10
    assert "refused" in said


def test_a_host_that_never_answers_is_unreachable(server: OpenSSHServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        options = replaced(runner_options(server), "--runner", f"127.0.0.1:{port}")
        status, said = refusal([*options, "--connect-timeout", "0.3"])
    assert status == 10
    assert "no answer within 0.3 s" in said


def test_a_name_that_does_not_resolve_is_unreachable(server: OpenSSHServer) -> None:
    status, said = refusal(replaced(runner_options(server), "--runner", "no-such-host.invalid"))
    assert status == 10
    assert "does not resolve" in said


def test_no_python_says_what_was_looked_for(server: OpenSSHServer) -> None:
    status, said = refusal(replaced(runner_options(server), "--remote-python", "/no/such/python3"))
    assert status == 14
    assert "There is no /no/such/python3" in said


def test_an_old_python_says_what_was_found(server: OpenSSHServer, tmp_path: Path) -> None:
    # A Python that says it is old; real old ones are met in tests/runner_payload.
    fake = script(
        tmp_path,
        "#!/bin/sh\ncat > /dev/null &\n"
        "echo 'llmrelay: Python 3.6.8 (/usr/bin/python3) is too old' >&2\nexit 94\n",
    )
    status, said = refusal(replaced(runner_options(server), "--remote-python", fake))
    assert status == 14
    assert "Python 3.6.8 (/usr/bin/python3) is too old" in said


def test_no_openai_says_how_to_install_it(server: OpenSSHServer, tmp_path: Path) -> None:
    # -S hides site-packages, and with them openai.
    fake = script(tmp_path, f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    status, said = refusal(replaced(runner_options(server), "--remote-python", fake))
    assert status == 15
    assert "-m pip install openai uvloop" in said


def test_a_runner_that_says_nothing_useful_is_quoted(server: OpenSSHServer, tmp_path: Path) -> None:
    fake = script(tmp_path, "#!/bin/sh\necho 'quota exceeded' >&2\nexit 3\n")
    status, said = refusal(replaced(runner_options(server), "--remote-python", fake))
    assert status == 16
    assert "quota exceeded" in said


def test_no_key_says_where_one_may_come_from(server: OpenSSHServer) -> None:
    status, said = refusal(runner_options(server), {"OPENAI_API_KEY": ""})
    assert status == 4
    assert "OPENAI_API_KEY" in said
    assert "--openai-key-file" in said


def test_an_encrypted_or_missing_identity_is_a_setting_of_no_use(server: OpenSSHServer) -> None:
    status, said = refusal(replaced(runner_options(server), "--identity", "/no/such/key"))
    assert status == 3
    assert "/no/such/key" in said


def test_other_machines_are_not_listened_for_without_tokens() -> None:
    """Before anything is connected to: there is no such host."""
    status, said = refusal(["--runner", "no-such-host.invalid", "--listen", "0.0.0.0:0"])
    assert status == 3
    assert "--auth-tokens FILE" in said
    assert "--allow-anonymous" in said


def test_a_file_of_tokens_of_no_use_says_in_which_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# none yet\nalice\n")
    status, said = refusal(["--runner", "no-such-host.invalid", "--auth-tokens", str(file)])
    assert status == 3
    assert f"{file}:2: " in said


def test_a_taken_address_says_so(server: OpenSSHServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # The helper's own --port comes first on the command line; the last one counts.
        port = str(taken.getsockname()[1])
        status, _, stderr = run_serve([*runner_options(server), "--port", port])
    assert status == 17
    assert "in use" in stderr


def test_what_a_stranger_says_cannot_steer_the_terminal() -> None:
    """An SSH_MSG_DISCONNECT comes in the clear, before any host key (RFC 4253, section 11.1)."""
    said = b"\x1b[31mgo\x1b]0;owned\x07\nllmrelay is ready on http://evil.example"
    payload = b"\x01" + struct.pack(">II", 2, len(said)) + said + struct.pack(">I", 0)
    padding = 8 - (5 + len(payload)) % 8 + 8
    packet = struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"SSH-2.0-stranger\r\n")
            connection.recv(10_000)
            connection.sendall(packet)
            while connection.recv(10_000):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        status, sentence = refusal(["--runner", f"127.0.0.1:{port}", "--ssh-config", os.devnull])
        thread.join()
    assert status == 10
    assert "go" in sentence
    assert sentence.isprintable()


def test_without_any_stdin_there_is_nobody_to_ask_for_a_key() -> None:
    ran = subprocess.run(
        ["/bin/sh", "-c", f"exec {sys.executable} -m llmrelay serve --runner host <&-"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert ran.returncode == 4
    assert "Traceback" not in ran.stderr
