"""A host of the inventory -> the RunnerSpecs of its runners.

What the inventory does not say of a host is as the command line has it. Whatever cannot be used is
an error that says where it is written; what is not used is a warning. Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from ..config import Config
from ..errors import UnusableConfig
from ..runners.spec import HostSpec, KeySource, RunnerSpec
from ..upstreams import UPSTREAMS
from ..values import HostAddress, parse_host
from . import ssh_args
from .ini import InvalidInventory
from .model import ALL, UNGROUPED, Inventory, Variable, Variables
from .variables import ALIASES, KNOWN, PREFIX, UNUSED


def make_specs(inventory: Inventory, config: Config) -> tuple[list[RunnerSpec], list[str]]:
    """The runners of every host, and warnings.

    Raises:
        InvalidInventory: a variable cannot be used.
    """
    specs: list[RunnerSpec] = []
    warnings: dict[str, None] = {}
    for host in inventory.hosts:
        variables = _renamed(inventory.variables_of(host))
        groups = {group.name for group in inventory.groups_of(host)} - {ALL, UNGROUPED}
        specs += _host_specs(host, variables, frozenset(groups), config)
        warnings |= dict.fromkeys(_warnings(host, variables))
    return specs, list(warnings)


def for_addresses(addresses: Iterable[HostAddress], config: Config) -> list[RunnerSpec]:
    """The runners that --runner asks for."""
    upstream, base_url = upstream_of(config.upstream, config.base_url)
    specs = (
        RunnerSpec(
            name=str(address),
            host=HostSpec(
                address,
                config.remote_python,
                base_url,
                config.identity,
                upstream=upstream,
                key=_key(upstream, KeySource(), config),
            ),
            max_calls=config.max_calls,
        )
        for address in dict.fromkeys(addresses)
    )
    return [each for spec in specs for each in _instances(spec, config.instances)]


def upstream_of(name: str | None, url: str | None) -> tuple[str, str]:
    """The upstream's name, "" if it is not a known one, and its base URL.

    Args:
        name, url: as they are said, if they are.

    Raises:
        UnusableConfig: its URL is the operator's own, and is not said.
    """
    own = UPSTREAMS["openai"].base_url
    if name is None and url is not None and url.rstrip("/") != own:
        return "", url  # whose key and quirks are not for us to guess
    name = name or "openai"
    url = url or UPSTREAMS[name].base_url
    if url is None:
        raise UnusableConfig(
            f"The upstream {name} is where you have it: say where with --base-url (in an inventory"
            f" llmrelay_base_url), as {UPSTREAMS[name].example_url}."
        )
    return name, url


def _key(upstream: str, said: KeySource, config: Config) -> KeySource:
    """Where its key is; where that is not said, as the upstream's own documentation has it."""
    if said != KeySource() or config.openai_key_file is not None or not upstream:
        return said
    variable = UPSTREAMS[upstream].key_variable
    if variable is None:
        return KeySource(needed=False)
    return said if variable == "OPENAI_API_KEY" else KeySource(variable)


def _renamed(variables: Variables) -> dict[str, Variable]:
    """What has several names by one; those with `ssh` in it last, as they go before the others."""
    ordered = sorted(variables.items(), key=lambda each: each[0].startswith("ansible_ssh_"))
    return {ALIASES.get(name, name): each for name, each in ordered}


def _host_specs(
    host: str, variables: Variables, groups: frozenset[str], config: Config
) -> Iterator[RunnerSpec]:
    said = _parsed(host, variables)
    upstream, base_url = _upstream(host, said, config)
    spec = RunnerSpec(
        name=host,
        host=HostSpec(
            address=_address(host, said, variables),
            python=said.get("ansible_python_interpreter") or config.remote_python,
            base_url=base_url,
            upstream=upstream,
            identity=said.get("ansible_ssh_private_key_file", config.identity),
            ssh_options=tuple(_ssh_options(variables)[0]),
            key=_key(
                upstream,
                KeySource(said.get("llmrelay_key_env"), said.get("llmrelay_key_file")),
                config,
            ),
        ),
        groups=groups,
        models=said.get("llmrelay_models", ()),
        model_map=said.get("llmrelay_model_map", ()),
        weight=said.get("llmrelay_weight", 1.0),
        max_calls=said.get("llmrelay_max_calls", config.max_calls),
        labels=said.get("llmrelay_labels", ()),
    )
    yield from _instances(spec, said.get("llmrelay_instances", config.instances))


def _instances(spec: RunnerSpec, count: int) -> Iterator[RunnerSpec]:
    """A host's one runner, or each of several."""
    if count == 1:
        yield spec
        return
    host = replace(spec.host, shared_as=spec.name)
    for number in range(count):
        yield replace(spec, name=f"{spec.name}#{number + 1}", host=host)


def _upstream(host: str, said: dict[str, Any], config: Config) -> tuple[str, str]:
    """A host's own upstream, else the command line's; its URL goes with either."""
    url = said.get("llmrelay_base_url")
    try:
        if "llmrelay_upstream" in said:
            return upstream_of(said["llmrelay_upstream"], url)
        return upstream_of(config.upstream, url or config.base_url)
    except UnusableConfig as error:
        raise InvalidInventory(f"{host}: {error.message}") from error


def _parsed(host: str, variables: Variables) -> dict[str, Any]:
    """The variables that mean something here, by name, as what they mean."""
    said: dict[str, Any] = {}
    for name, variable in variables.items():
        known = KNOWN.get(name)
        if known is not None:
            try:
                said[name] = known.parse(variable.value)
            except ValueError as error:
                hint = f" Leave it out: --limit '!{host}'." if name == "ansible_connection" else ""
                raise InvalidInventory(
                    f"{variable.origin}: {name} of {host}: {error}.{hint}"
                ) from error
        elif name.startswith(PREFIX):
            near = difflib.get_close_matches(name, KNOWN, 1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise InvalidInventory(f"{variable.origin}: there is no variable {name}{hint}")
    if "llmrelay_key_env" in said and "llmrelay_key_file" in said:
        raise InvalidInventory(
            f"{variables['llmrelay_key_file'].origin}: {host} has llmrelay_key_env and"
            " llmrelay_key_file; one key is enough."
        )
    return said


def _address(host: str, said: dict[str, Any], variables: Variables) -> HostAddress | None:
    if said.get("ansible_connection") == "local":
        return None
    name = said.get("ansible_host", host)
    user, at, bare = name.rpartition("@")
    try:
        address = parse_host(f"{user}{at}[{bare}]" if bare.count(":") > 1 else name)
        if address.port is not None:
            raise ValueError(f"{name!r} has a port in it, which goes into ansible_port")
    except ValueError as error:
        where = variables.get("ansible_host")
        raise InvalidInventory(f"{where.origin}: {error}." if where else f"{error}.") from error
    # `user@host` is ssh's, and its user yields to the variable, as with Ansible.
    user = said.get("ansible_user") or address.user
    return HostAddress(address.host, user, said.get("ansible_port"))


def _ssh_options(variables: Variables) -> tuple[list[tuple[str, str]], list[str]]:
    """ssh's options, and those that are not honoured."""
    options: list[tuple[str, str]] = []
    ignored: list[str] = []
    # As Ansible puts them together; what comes first holds.
    for name in ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args"):
        if (variable := variables.get(name)) is None:
            continue
        try:
            more, not_these = ssh_args.parse(str(variable.value))
        except ValueError as error:
            raise InvalidInventory(f"{variable.origin}: {name}: {error}.") from error
        options += more
        ignored += [f"{variable.origin}: {name}: {each} is not honoured" for each in not_these]
    return options, ignored


def _warnings(host: str, variables: Variables) -> Iterator[str]:
    yield from _ssh_options(variables)[1]
    for name, why in UNUSED.items():
        if name in variables:
            yield f"{variables[name].origin}: {name} is not used; {why}"
