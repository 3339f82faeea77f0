"""`penstock init`: a first penstock.toml, from providers that are known."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from app.cli.failure import CommandFailure, Exit
from app.cli.first_configuration import NO_KEY_NEEDED, Chosen, Preset, configuration_text, presets
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
    """Ask each key's provider for its models and say what comes of it. False when a key is refused."""
    tests = UpstreamTests(settings, environ, SystemClock())
    findings = []
    for key in settings.keys:
        probed = tests.test(key.name, Probe.MODELS)
        findings.append(probed.finding)
        say(f"Key {key.name} {_SAID[probed.finding]}: {probed.words}")
    return KeyTestResult.REFUSED not in findings


@dataclass(frozen=True, slots=True)
class ProviderOptions:
    """What the command line says of each provider, each as VALUE or PROVIDER=VALUE."""

    keys: tuple[str, ...] = ()
    base_urls: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@click.command("init", short_help="write a first penstock.toml")
@click.option("--preset", "names", multiple=True, metavar="NAME", help="A provider; see --list.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="[NAME=]WHERE",
    help="Where a key of it is: env:NAME, file:PATH, command:... [default: env: and its usual name].",
)
@click.option(
    "--base-url", "base_urls", multiple=True, metavar="[NAME=]URL", help="Where its API begins, if elsewhere."
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="[NAME=]MODEL[=THEIRS]",
    help="A model, and the provider's own name of it [default: some that are known].",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="penstock.toml", show_default=True, help="File."
)
@click.option("--force", is_flag=True, help="Overwrite it.")
@click.option(
    "--test/--no-test", default=True, help="Ask each provider whether it knows the key (GET /models)."
)
@click.option("--list", "list_", is_flag=True, help="Print the providers and end.")
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
    """Write a commented penstock.toml. Without --preset it asks. Secrets are not written, only where they are.

    Of several providers the first is preferred for a model that more than one of them has.

    \b
    penstock init
    penstock init --preset deepseek --key env:DEEPSEEK_API_KEY
    penstock init --preset deepseek --preset siliconflow --key siliconflow=env:SF_1 --key siliconflow=env:SF_2
    penstock init --preset ollama --model llama3=llama3:8b --no-test
    """
    if list_:
        _print_presets()
        return
    if out.exists() and not force:
        raise CommandFailure(
            f"{out} is there already", "Overwrite it with --force, or name another with --out."
        )
    chosen = choose(names, ProviderOptions(keys, base_urls, models)) if names else ask()
    settings = write(out, configuration_text(chosen))
    click.echo(f"Written: {out}")
    good = try_keys(settings, os.environ, click.echo) if test else True
    click.echo("Start it with: penstock up" + ("" if out == Path("penstock.toml") else f" --config {out}"))
    if not good:
        raise CommandFailure("a key does not work", f"Mend it where it is kept, or its line in {out}.")


def write(out: Path, text: str) -> Settings:
    """Check the text as it will be read, and put it in place at once. Raises ConfigError, Failure."""
    draft = out.with_name(f".{out.name}.draft")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        settings = load_settings(draft, {})
        draft.replace(out)
    except OSError as error:
        raise CommandFailure(
            f"{out} cannot be written ({error.strerror})", "Name another file with --out."
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    return settings.model_copy(update={"path": out})


# -- by options


def choose(names: Sequence[str], given: ProviderOptions) -> list[Chosen]:
    """What the options say. Raises Failure with what is missing."""
    known = [(name, _preset(name)) for name in dict.fromkeys(names)]
    return [_chosen(name, preset, [one for one, _ in known], given) for name, preset in known]


def _chosen(name: str, preset: Preset, names: Sequence[str], given: ProviderOptions) -> Chosen:
    secrets = _of(name, names, given.keys, "--key") or _usual(preset)
    addresses = _of(name, names, given.base_urls, "--base-url") or [preset.base_url]
    models = [_model(text) for text in _of(name, names, given.models, "--model")] or [*preset.models.items()]
    if not addresses[-1]:
        raise _missing(f"{preset.title} has an address of your own", f"--base-url {name}={preset.address}")
    if not models:
        raise _missing(f"the models of {preset.title} are yours to name", f"--model {name}=MODEL")
    if not secrets:
        raise _missing(f"{preset.title} needs a key", f"--key {name}=env:NAME")
    return Chosen(name, preset, addresses[-1], tuple(_reference(text) for text in secrets), dict(models))


def _preset(name: str) -> Preset:
    if name not in presets():
        raise CommandFailure(f"no preset {name}", f"There are: {', '.join(presets())}.", Exit.USAGE)
    return presets()[name]


def _of(name: str, names: Sequence[str], values: Sequence[str], option: str) -> list[str]:
    """The values for one provider: those that name it, and the others where it is the only one."""
    found = []
    for value in values:
        whose, equals, rest = value.partition("=")
        if equals and whose in names:
            found += [rest] if whose == name else []
        elif len(names) == 1:
            found.append(value)
        else:
            raise _missing(f"{option} does not say for which preset", f"{option} {name}=...")
    return found


def _usual(preset: Preset) -> list[str]:
    """Where a key of this provider usually is; a local one needs none."""
    return [f"env:{preset.secret}" if preset.secret else NO_KEY_NEEDED]


def _model(text: str) -> tuple[str, str]:
    ours, _, theirs = text.partition("=")
    return ours, theirs or ours


def _reference(text: str) -> str:
    if not is_reference(text):
        raise CommandFailure(
            "a key is given by where it is, never by itself",
            'Write env:NAME, file:PATH or "command:PROGRAM ARGUMENTS".',
            Exit.USAGE,
        )
    return text


def _missing(what: str, option: str) -> CommandFailure:
    return CommandFailure(what, f"Add {option}", Exit.USAGE)


# -- by asking


def ask() -> list[Chosen]:
    """Ask for providers, one after the other. Raises Failure where nobody can answer."""
    if not sys.stdin.isatty():
        raise CommandFailure(
            "there is nobody to ask", "Name providers: --preset NAME (see --list).", Exit.USAGE
        )
    _print_presets()
    chosen: list[Chosen] = []
    while True:
        name = click.prompt("Provider", type=click.Choice([*presets()]), show_choices=False)
        if name not in [one.name for one in chosen]:
            chosen.append(_ask_for(name, presets()[name]))
        if not click.confirm("Another provider, for when this one has no room?", default=False):
            return chosen


def _ask_for(name: str, preset: Preset) -> Chosen:
    address = click.prompt(f"Address, such as {preset.address or preset.base_url}", preset.base_url or None)
    secrets = [_ask_key(_usual(preset)[0])]
    while preset.secret and (more := click.prompt("Another key of it (Enter: none)", "", show_default=False)):
        secrets.append(_reference(more))
    usual = ", ".join(
        f"{ours}={theirs}" if ours != theirs else ours for ours, theirs in preset.models.items()
    )
    models = click.prompt("Models, with commas", usual or None)
    return Chosen(
        name, preset, address, tuple(secrets), dict(_model(part.strip()) for part in models.split(","))
    )


def _ask_key(usual: str) -> str:
    while True:
        answer = str(click.prompt("Where is the key (env:NAME, file:PATH, command:...)", usual))
        if is_reference(answer):
            return answer
        click.echo("Not the key itself: where it is.")


def _print_presets() -> None:
    shown = new_table("preset", "provider", "address", "key", "as of")
    rows: Mapping[str, Preset] = presets()
    for name, preset in rows.items():
        key = f"env:{preset.secret}" if preset.secret else "none"
        shown.add_row(name, preset.title, preset.base_url or "yours", key, str(preset.date))
    print_tables(shown)
