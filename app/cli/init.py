"""`penstock init`: writes a first penstock.toml from provider presets."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from app.cli.failure import CommandFailure, Exit
from app.cli.first_configuration import NO_KEY_NEEDED, Chosen, Preset, configuration_text, numbered, presets
from app.cli.tables import new_table, print_tables
from app.platform.ports import SystemClock
from app.settings import Settings, load_settings
from app.settings.values import is_reference
from app.upstreams.domain.key_health import KeyTestResult, Probe
from app.upstreams.key_tests import UpstreamTests

_SAID = {
    KeyTestResult.WORKS: "works",
    KeyTestResult.REFUSED: "is refused",
    KeyTestResult.NOT_OFFERED: "is not tested",
    KeyTestResult.NO_ANSWER: "is not tested",
}


def try_keys(settings: Settings, environ: Mapping[str, str], say: Callable[[str], object]) -> bool:
    """Test each key by listing its provider's models, and print the result. Returns False if a key is refused."""
    tests = UpstreamTests(settings, environ, SystemClock())
    findings = []
    for key in settings.keys:
        probed = tests.test(key.name, Probe.MODELS)
        findings.append(probed.finding)
        say(f"Key {key.name} {_SAID[probed.finding]}: {probed.words}")
    return KeyTestResult.REFUSED not in findings


@dataclass(frozen=True, slots=True)
class ProviderOptions:
    """Options that apply to providers, each as VALUE or PROVIDER=VALUE."""

    keys: tuple[str, ...] = ()
    base_urls: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@click.command("init", short_help="write a first penstock.toml")
@click.option("--preset", "names", multiple=True, metavar="NAME", help="A provider; --list shows all.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="[NAME=]WHERE",
    help="Where its key is: env:NAME, file:PATH or command:... [default: the provider's usual variable].",
)
@click.option(
    "--base-url",
    "base_urls",
    multiple=True,
    metavar="[NAME=]URL",
    help="Its API's base URL, if not the preset's.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="[NAME=]MODEL[=THEIRS]",
    help="A model, and the provider's name for it [default: the preset's models].",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="penstock.toml",
    show_default=True,
    help="File to write.",
)
@click.option("--force", is_flag=True, help="Overwrite it.")
@click.option("--test/--no-test", default=True, help="Test each key (GET /models).")
@click.option("--list", "list_", is_flag=True, help="List the providers and exit.")
def command(
    names: tuple[str, ...],
    keys: tuple[str, ...],
    base_urls: tuple[str, ...],
    models: tuple[str, ...],
    out: Path,
    force: bool,
    test: bool,
    list_: bool,
) -> None:
    """Write a commented penstock.toml. Without --preset it asks. It stores where secrets are, never the secrets.

    If several providers have the same model, the first one is preferred. A preset given more than once, or with several
    addresses, makes several providers of equal rank: node-1, node-2.

    \b
    penstock init
    penstock init --preset deepseek --key env:DEEPSEEK_API_KEY
    penstock init --preset deepseek --preset siliconflow --key siliconflow=env:SF_1 --key siliconflow=env:SF_2
    penstock init --preset ollama --model llama3=llama3:8b --no-test
    penstock init --preset node --base-url https://A/v1 --base-url https://B/v1 --key env:NODE_KEY --model m
    """
    if list_:
        _print_presets()
        return
    if out.exists() and not force:
        raise CommandFailure(
            f"{out} already exists", "Overwrite it with --force, or choose another file with --out."
        )
    chosen = choose(names, ProviderOptions(keys, base_urls, models)) if names else ask()
    settings = write(out, configuration_text(chosen))
    click.echo(f"Wrote {out}")
    good = try_keys(settings, os.environ, click.echo) if test else True
    click.echo("Start it with: penstock up" + ("" if out == Path("penstock.toml") else f" --config {out}"))
    if not good:
        raise CommandFailure("a key does not work", f"Correct the secret, or its line in {out}.")


def write(out: Path, text: str) -> Settings:
    """Validate the text, then write the file atomically. Raises ConfigError, Failure."""
    draft = out.with_name(f".{out.name}.draft")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        settings = load_settings(draft, {})
        draft.replace(out)
    except OSError as error:
        raise CommandFailure(
            f"{out} cannot be written ({error.strerror})", "Choose another file with --out."
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    return settings.model_copy(update={"path": out})


# -- by options

_MOST = 100  # providers of one preset


def choose(names: Sequence[str], given: ProviderOptions) -> list[Chosen]:
    """Read the providers from the options. Raises CommandFailure naming what is missing.

    A preset that is named more than once, or has several addresses, gives as many providers.
    """
    kinds = list(dict.fromkeys(names))
    return numbered([one for name in kinds for one in _chosen(name, names.count(name), kinds, given)])


def _chosen(name: str, times: int, names: Sequence[str], given: ProviderOptions) -> list[Chosen]:
    preset = _preset(name)
    addresses, keys = _of(name, names, given.base_urls, "--base-url"), _of(name, names, given.keys, "--key")
    models = _of(name, names, given.models, "--model")
    count = max(times, len(addresses), *(number for number, _ in [*addresses, *keys, *models]), 1)
    found = []
    for number in range(1, count + 1):
        address = _share(addresses, number, count, name, "--base-url") or [preset.base_url]
        secrets = _share(keys, number, count, name, "--key") or _usual(preset)
        own = [_model(value) for whose, value in models if whose in (0, number)] or [*preset.models.items()]
        if not address[-1]:
            raise _missing(f"{preset.title} needs your own address", f"--base-url {name}={preset.address}")
        if not own:
            raise _missing(f"{preset.title} needs a model name", f"--model {name}=MODEL")
        if not secrets:
            raise _missing(f"{preset.title} needs a key", f"--key {name}=env:NAME")
        found.append(Chosen(name, preset, address[-1], tuple(map(_reference, secrets)), dict(own)))
    return found


def _share(values: Sequence[tuple[int, str]], number: int, count: int, name: str, option: str) -> list[str]:
    """What one of several providers of a preset gets: its own, the value of its turn, or the only one."""
    common = [value for whose, value in values if not whose]
    if count == 1:
        return [value for _, value in values]
    if own := [value for whose, value in values if whose == number]:
        return own
    if len(common) not in (0, 1, count):
        what = f"{option} is given {len(common)} times for {count} of {name}"
        raise _missing(what, f"{option} {name}-{number}=..., or give it once for all or {count} times")
    return common[:1] if len(common) < count else [common[number - 1]]


def _preset(name: str) -> Preset:
    if name not in presets():
        raise CommandFailure(f"no preset {name}", f"Known presets: {', '.join(presets())}.", Exit.USAGE)
    return presets()[name]


def _of(name: str, names: Sequence[str], values: Sequence[str], option: str) -> list[tuple[int, str]]:
    """The values for one preset: those that name it; all others too if it is the only one.

    With the number of the provider that a value is for, as in node-2=...; 0 where it has none.
    """
    found = []
    for value in values:
        whose, equals, rest = value.partition("=")
        kind, _, number = whose.rpartition("-")
        if equals and whose in names:
            found += [(0, rest)] if whose == name else []
        elif equals and kind in names and number.isdecimal() and 0 < int(number) <= _MOST:
            found += [(int(number), rest)] if kind == name else []
        elif len(names) == 1:
            found.append((0, value))
        else:
            raise _missing(f"{option} does not say which preset it is for", f"{option} {name}=...")
    return found


def _usual(preset: Preset) -> list[str]:
    """Where this provider's key usually is; a local one needs none."""
    return [f"env:{preset.secret}" if preset.secret else NO_KEY_NEEDED]


def _model(text: str) -> tuple[str, str]:
    ours, _, theirs = text.partition("=")
    return ours, theirs or ours


def _reference(text: str) -> str:
    if not is_reference(text):
        raise CommandFailure(
            "the key itself is not accepted, only its location",
            'Write env:NAME, file:PATH or "command:PROGRAM ARGUMENTS".',
            Exit.USAGE,
        )
    return text


def _missing(what: str, option: str) -> CommandFailure:
    return CommandFailure(what, f"Add {option}", Exit.USAGE)


# -- by asking


def ask() -> list[Chosen]:
    """Ask for providers, one at a time. Raises CommandFailure without a terminal."""
    if not sys.stdin.isatty():
        raise CommandFailure(
            "cannot ask: standard input is not a terminal",
            "Choose providers with --preset NAME (see --list).",
            Exit.USAGE,
        )
    _print_presets()
    chosen: list[Chosen] = []
    while True:
        name = click.prompt("Provider", type=click.Choice([*presets()]), show_choices=False)
        chosen.append(_ask_for(name, presets()[name]))
        if not click.confirm("Add another provider?", default=False):
            return numbered(chosen)


def _ask_for(name: str, preset: Preset) -> Chosen:
    address = click.prompt(f"Address, such as {preset.address or preset.base_url}", preset.base_url or None)
    secrets = [_ask_key(_usual(preset)[0])]
    while preset.secret and (more := click.prompt("Another key (Enter for none)", "", show_default=False)):
        secrets.append(_reference(more))
    usual = ", ".join(
        f"{ours}={theirs}" if ours != theirs else ours for ours, theirs in preset.models.items()
    )
    models = click.prompt("Models, separated by commas", usual or None)
    return Chosen(
        name, preset, address, tuple(secrets), dict(_model(part.strip()) for part in models.split(","))
    )


def _ask_key(usual: str) -> str:
    while True:
        answer = str(click.prompt("Location of the key (env:NAME, file:PATH or command:...)", usual))
        if is_reference(answer):
            return answer
        click.echo("Do not paste the key. Give its location: env:NAME, file:PATH or command:...")


def _print_presets() -> None:
    shown = new_table("preset", "provider", "address", "key", "as of")
    rows: Mapping[str, Preset] = presets()
    for name, preset in rows.items():
        key = f"env:{preset.secret}" if preset.secret else "none"
        shown.add_row(name, preset.title, preset.base_url or "yours", key, str(preset.date))
    print_tables(shown)
