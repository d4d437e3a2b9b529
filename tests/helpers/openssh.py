"""A throwaway OpenSSH sshd on loopback, with keys, accounts and login shells of its own.

What asyncssh's server does proves little about the sshd that people run. `OpenSSHServer` starts the
real one from a temporary folder with fresh host and user keys, any extra sshd_config lines, and, as
root, a temporary account whose login shell is bash, dash, zsh, fish or tcsh. When it ends, nothing
is left: no process, no account, no file.

It may not know llmrelay, nor read or change any real account's files. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.helpers.held import Held

HOST = "127.0.0.1"
START_LIMIT_S = 30.0
STOP_LIMIT_S = 15.0
PORT_ATTEMPTS = 3
ACCOUNT_ATTEMPTS = 40
LOGIN_SHELLS = ("bash", "dash", "zsh", "fish", "tcsh")
INSTALL_HINT = "run scripts/install-test-servers as root"

ACCOUNT_PREFIX = "llmrelay-t"
"""Temporary accounts are called this, then the pid of their maker, then something random."""

NOISE = "noise-from-the-login"
"""Is in every line that `write_noisy_rc` and `NOISY_FORCE_COMMAND` make a login print."""

# $SHELL is the account's login shell: it still is what reads the command. Every shell that is
# tested takes single quotes alike as long as no `!`, no backslash and no newline is in them.
NOISY_FORCE_COMMAND = (
    "ForceCommand /bin/sh -c '"
    f'echo {NOISE} before; echo {NOISE} before >&2; "$SHELL" -c "$SSH_ORIGINAL_COMMAND"; '
    f"status=$?; echo {NOISE} after; echo {NOISE} after >&2; exit $status'"
)

# First value wins in sshd_config, so these lines stand behind the test's own.
_DEFAULTS = (
    "LogLevel VERBOSE",
    "StrictModes no",
    "UsePAM no",
    "PidFile none",
    "PasswordAuthentication no",
    "KbdInteractiveAuthentication no",
    "PermitRootLogin prohibit-password",
    "PrintMotd no",
    "UseDNS no",
    # The default refuses at random from 10 logins in progress on.
    "MaxStartups 1000",
)


# --- What this machine has ----------------------------------------------------------------------


def available() -> str | None:
    """Why no OpenSSHServer can run here, or None."""
    missing = [name for name in ("sshd", "ssh", "ssh-keygen") if _which(name) is None]
    return f"no {', '.join(missing)} on this machine ({INSTALL_HINT})" if missing else None


def require_sshd() -> None:
    """Skips the calling test without sshd; fails it where CI=true, so that CI never skips it."""
    if reason := available():
        skip_or_fail(reason)


def require_login_shell(name: str) -> str:
    """The shell's absolute path; skips (fails where CI=true) if no account can be made with it."""
    require_sshd()
    path = _which(name)
    if path is None:
        skip_or_fail(f"no {name} on this machine ({INSTALL_HINT})")
    if os.geteuid() != 0:
        skip_or_fail("an account with another login shell can only be made by root")
    assert path is not None
    return path


def skip_or_fail(reason: str) -> None:
    """Skips the calling test; fails it where CI=true: there nothing may be missing."""
    import pytest

    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _which(name: str) -> str | None:
    # sshd is in sbin, which only root has in PATH.
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=f"{path}:/usr/local/sbin:/usr/sbin:/sbin")


# --- Processes ----------------------------------------------------------------------------------


def processes_matching(needle: str) -> list[int]:
    """The pids, without our own, whose command line (words joined by a space) has `needle`."""
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            if needle in b" ".join(words).decode(errors="replace") and pid != os.getpid():
                found.append(pid)
    return found


def children_of(pid: int) -> list[int]:
    """The living direct children of a process."""
    return [child for child in _pids() if (stat := _stat(child)) and stat[:1] == (pid,)]


def descendants_of(pid: int) -> list[int]:
    """Children, their children, and so on."""
    found = children_of(pid)
    for each in found:
        found += children_of(each)  # the loop goes on over what it appends
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> tuple[int, int] | None:
    """Parent and start time of a process, None if it is gone or only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold anything; what follows it is numbers.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))


def _is_still(pid: int, started: int) -> bool:
    """Whether the process lives, and is not another one that got its pid."""
    stat = _stat(pid)
    return stat is not None and stat[1] == started


# --- Keys ---------------------------------------------------------------------------------------


def generate_key(path: Path, kind: str = "ed25519") -> Path:
    """Makes a key pair without a passphrase at `path` and `path`.pub."""
    size = {"rsa": ["-b", "2048"]}.get(kind, [])
    command = ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def known_hosts_line(host: str, port: int, public_key: Path) -> str:
    """The known_hosts entry, with its newline, for a host with this key."""
    name = host if port == 22 else f"[{host}]:{port}"
    return f"{name} {' '.join(public_key.read_text().split()[:2])}\n"


# --- Accounts -----------------------------------------------------------------------------------


@contextlib.contextmanager
def temporary_user(shell: str, home: Path) -> Iterator[str]:
    """An account with this login shell and home folder, for as long as the context lasts.

    It is root under another name (uid 0): so it reaches an interpreter in root's home, and no file
    has to be handed over. No password opens it. Only root can make one.
    """
    if os.geteuid() != 0:
        raise PermissionError("a temporary account with a login shell of its own needs root")
    _remove_leftover_accounts()
    name = f"{ACCOUNT_PREFIX}{os.getpid()}-{secrets.token_hex(3)}"
    # "*" fits no password; "!" would lock the account, and sshd without PAM refuses locked ones.
    options = ["-o", "-u", "0", "-g", "0", "-M", "-d", str(home), "-s", shell, "-p", "*"]
    _account_command("useradd", *options, name)
    try:
        yield name
    finally:
        _remove_account(name)


def _remove_account(name: str) -> None:
    # Without -f it refuses, as processes of uid 0 run. Without -r it leaves home folder and mail.
    _account_command("userdel", "-f", name)


def _account_command(program: str, *arguments: str) -> None:
    path = _which(program)
    if path is None:
        raise FileNotFoundError(f"no {program} on this machine")
    for attempt in range(1, ACCOUNT_ATTEMPTS + 1):
        ran = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
        if ran.returncode == 0:
            return
        # Another test run holds the lock of /etc/passwd for a moment.
        if "lock" not in ran.stderr or attempt == ACCOUNT_ATTEMPTS:
            raise RuntimeError(f"{program} {arguments[-1]}: {ran.stderr.strip()}")
        time.sleep(0.05)


def _remove_leftover_accounts() -> None:
    """Removes what killed test runs left: a second name of root must not stay."""
    pattern = re.compile(re.escape(ACCOUNT_PREFIX) + r"(\d+)-[0-9a-f]{6}")
    for entry in pwd.getpwall():
        maker = pattern.fullmatch(entry.pw_name)
        if maker and not Path(f"/proc/{maker[1]}").exists():
            with contextlib.suppress(RuntimeError):  # another run may be removing it, too
                _remove_account(entry.pw_name)


def write_noisy_rc(home: Path) -> None:
    """Makes any login to an account with this home print noise on stdout and stderr.

    dash reads no file before a command, so sshd's own ~/.ssh/rc speaks too, whatever the shell.
    """
    speak = f"echo {NOISE} %s; echo {NOISE} %s >&2\n"
    # csh cannot redirect stderr alone, so another shell says it.
    via_sh = f"echo {NOISE} %s; sh -c 'echo {NOISE} %s >&2'\n"
    for name, line in {
        ".bashrc": speak,
        ".zshenv": speak,
        ".config/fish/config.fish": speak,
        ".tcshrc": via_sh,
        ".ssh/rc": speak,
    }.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line.replace("%s", path.name))


# --- The server ---------------------------------------------------------------------------------


class OpenSSHServer(Held):
    """`with OpenSSHServer("PermitTTY no") as server:` runs sshd on a free port of 127.0.0.1.

    `host` is another address of loopback. `options` are sshd_config lines and override the
    defaults. With `login_shell` (a path) the account to log in to is a temporary one with a home in
    the temporary folder, which `noisy_rc` fills with shell files that print; else it is the account
    that runs the tests.
    """

    def __init__(
        self,
        *options: str,
        login_shell: str | None = None,
        noisy_rc: bool = False,
        host_key_types: Sequence[str] = ("ed25519",),
        host: str = HOST,
    ) -> None:
        if noisy_rc and login_shell is None:
            raise ValueError("noisy_rc would write into a real home folder: give a login_shell")
        self.options = options
        self.host = host
        self.port = 0
        self.pid = 0
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
        self._login_shell = login_shell
        self._noisy_rc = noisy_rc
        self._host_key_types = host_key_types
        self._process: subprocess.Popen[bytes] | None = None

    def _take(self, cleanup: contextlib.ExitStack) -> None:
        if reason := available():
            raise FileNotFoundError(reason)
        self._prepare_folder(cleanup)
        if self._login_shell is not None:
            self.home = self.folder / "home"
            self.home.mkdir()
            self.user = cleanup.enter_context(temporary_user(self._login_shell, self.home))
        if self._noisy_rc:
            write_noisy_rc(self.home)
        cleanup.callback(self._stop)
        self._start()

    @property
    def log(self) -> str:
        """What sshd said until now."""
        return self.log_file.read_text(errors="replace")

    def ssh_options(self) -> list[str]:
        """Options of `ssh` and `sftp` that use this server's keys and nothing of the user's."""
        settings = {
            "BatchMode": "yes",
            "GlobalKnownHostsFile": os.devnull,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "IdentityFile": self.identity,
            "LogLevel": "ERROR",
            "Port": self.port,
            "StrictHostKeyChecking": "yes",
            "User": self.user,
            "UserKnownHostsFile": self.known_hosts,
        }
        pairs = [f"-o{name}={value}" for name, value in settings.items()]
        return ["-F", "none", *pairs]

    def ssh_command(self, *remote: str) -> list[str]:
        """The command line of OpenSSH's client that runs `remote` on this server."""
        return ["ssh", *self.ssh_options(), self.host, *remote]

    def ssh_config(self, alias: str) -> Path:
        """An ssh_config file in which `alias` is this server with all that a login needs."""
        path = self.folder / f"ssh_config.{alias}"
        path.write_text(
            f"Host {alias}\n"
            f"  HostName {self.host}\n"
            f"  Port {self.port}\n"
            f"  User {self.user}\n"
            f"  IdentityFile {self.identity}\n"
            f"  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n"
            f"  StrictHostKeyChecking yes\n"
        )
        return path

    def _prepare_folder(self, cleanup: contextlib.ExitStack) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="llmrelay-sshd-"))
        cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        # sshd reads authorized_keys as the account that logs in, which has to get there.
        self.folder.chmod(0o711)
        self.identity = generate_key(self.folder / "identity")
        self.authorized_keys = self.folder / "authorized_keys"
        self.authorized_keys.write_text(self.identity.with_suffix(".pub").read_text())
        self.host_keys = [
            generate_key(self.folder / f"host_{kind}", kind) for kind in self._host_key_types
        ]
        self.known_hosts = self.folder / "known_hosts"
        self.log_file = self.folder / "sshd.log"

    def _start(self) -> None:
        sshd = _which("sshd")
        assert sshd is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # for privilege separation
        config = self.folder / "sshd_config"
        config.write_text("\n".join(self._config(sshd)) + "\n")
        # By its absolute path: sshd starts itself again for each connection.
        self._command = [sshd, "-D", "-e", "-f", str(config)]
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self.port = _free_port(self.host)
            if self._launch():
                break
            # Somebody else may have got the port between our look and sshd's.
            if attempt == PORT_ATTEMPTS or "Address already in use" not in self.log:
                raise RuntimeError(f"sshd did not start:\n{self.log}")
        self.known_hosts.write_text(
            "".join(
                known_hosts_line(self.host, self.port, key.with_suffix(".pub"))
                for key in self.host_keys
            )
        )

    def _launch(self) -> bool:
        """Starts sshd on its port; whether it greets there."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "-p", str(self.port)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.pid = self._process.pid
        return self._wait_until_ready(self._process)

    def stop(self) -> None:
        """The host goes down: sshd and all its sessions, at once."""
        self._stop()

    def start_again(self) -> None:
        """The host comes back, on the same port."""
        if not self._launch():
            raise RuntimeError(f"sshd did not start again:\n{self.log}")

    def _config(self, sshd: str) -> list[str]:
        lines = [
            *self.options,
            f"ListenAddress {self.host}",
            *(f"HostKey {key}" for key in self.host_keys),
            f"AuthorizedKeysFile {self.authorized_keys}",
            *_DEFAULTS,
        ]
        if self._login_shell is None:
            # As in a shell within a shell, for which bash reads no .bashrc: what the developer has
            # in theirs, a lock that tests side by side would wait for, say, is not under test.
            lines.append("SetEnv SHLVL=2")
        if _version(sshd) >= (9, 8):
            # Else a few refused logins, which tests make, shut 127.0.0.1 out for a while.
            lines.append("PerSourcePenalties no")
        return lines

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + START_LIMIT_S
        while process.poll() is None and time.monotonic() < deadline:
            # Only a greeting counts: a connect to a port that nobody listens on may, on loopback,
            # connect to itself.
            with (
                contextlib.suppress(OSError),
                socket.create_connection((self.host, self.port), timeout=5) as probe,
            ):
                if probe.recv(4) == b"SSH-":
                    return True
            time.sleep(0.01)
        self._stop()
        return False

    def _stop(self) -> None:
        """Ends sshd, then what it started: its sessions do not end with it."""
        if self._process is None:
            return
        sessions = {pid: stat for pid in descendants_of(self.pid) if (stat := _stat(pid))}
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        for pid, (_parent, started) in sessions.items():
            if _is_still(pid, started):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + STOP_LIMIT_S
        while any(_is_still(pid, started) for pid, (_, started) in sessions.items()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"sshd's sessions do not end: {sorted(sessions)}")
            time.sleep(0.005)


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _version(sshd: str) -> tuple[int, int]:
    # Old ones know no -V, and say their version together with the complaint.
    ran = subprocess.run([sshd, "-V"], capture_output=True, text=True, check=False)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", ran.stdout + ran.stderr)
    return (int(found[1]), int(found[2])) if found else (0, 0)
