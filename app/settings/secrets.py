"""Getting at secrets. A value is returned and nothing else: no error, log line or repr ever holds it."""

import shlex
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from app.settings.config_errors import ConfigError, Place, line_of
from app.settings.models import Settings, UpstreamSettings
from app.settings.values import is_reference

COMMAND_SECONDS = 30


def resolve_secret(reference: str, environ: Mapping[str, str]) -> str:
    """The secret that `env:NAME`, `file:PATH` or `command:PROGRAM ARGS` refers to, stripped of blanks.

    Raises ConfigError, whose `file` is the reference, when there is none or it cannot be sent in a header.
    """
    kind, _, rest = reference.partition(":")
    readers = {"env": _from_environment, "file": _from_file, "command": _from_command}
    if kind not in readers or not rest.strip():
        hint = 'write "env:NAME", "file:PATH" or "command:PROGRAM ARGUMENTS"'
        raise ConfigError("secret", None, "says not where the secret is", hint)
    value = readers[kind](rest.strip(), reference, environ).strip()
    if not value:
        raise ConfigError(reference, None, "the secret is empty", "put the provider's key there")
    if not value.isascii() or not value.isprintable() or " " in value:
        hint = "put the provider's key there, one line and nothing else"
        raise ConfigError(
            reference, None, "the secret holds a line break, a blank or a non-ASCII character", hint
        )
    return value


def key_secrets(
    settings: Settings, environ: Mapping[str, str], only: Collection[str] | None = None
) -> dict[str, SecretStr]:
    """The secret of every configured key, or of those named, by the key's name.

    Raises ConfigError with the file's line of the first key whose secret cannot be had.
    """
    found: dict[str, SecretStr] = {}
    for number, key in enumerate(settings.keys):
        if only is not None and key.name not in only:
            continue
        try:
            found[key.name] = SecretStr(resolve_secret(key.secret, environ))
        except ConfigError as error:
            place = ("key", number, "secret")
            raise _at_its_line(settings.path, place, f'secret of key "{key.name}"', error) from None
    return found


def secret_variables(settings: Settings) -> frozenset[str]:
    """The environment variables with secrets: those that the configuration names, and the administrator's key."""
    found: set[str] = {"PENSTOCK_ADMIN_KEY", "DEEPSEEK_API_KEY"}
    left: list[Any] = [settings.model_dump(mode="json")]
    while left:
        value = left.pop()
        if isinstance(value, str) and value.startswith("env:"):
            found.add(value.removeprefix("env:").strip())
        elif isinstance(value, dict | list):
            left.extend(value.values() if isinstance(value, dict) else value)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class UpstreamHeaders:
    """What goes with every call to an upstream, its key's secret aside."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    hidden: tuple[str, ...] = field(default=(), repr=False)  # values of theirs that are secret
    proxy_auth: str = field(default="", repr=False)  # "user:password"


def upstream_headers(
    settings: Settings, environ: Mapping[str, str], only: Collection[str] | None = None
) -> dict[str, UpstreamHeaders]:
    """The headers of every upstream, or of those named. Raises ConfigError as `key_secrets` does."""
    return {
        upstream.name: _headers_of(settings.path, number, upstream, environ)
        for number, upstream in enumerate(settings.upstreams)
        if only is None or upstream.name in only
    }


def _headers_of(
    path: Path | None, number: int, upstream: UpstreamSettings, environ: Mapping[str, str]
) -> UpstreamHeaders:
    def resolved(reference: str, field_name: str) -> str:
        try:
            return resolve_secret(reference, environ)
        except ConfigError as error:
            what = f'{field_name} of upstream "{upstream.name}"'
            raise _at_its_line(path, ("upstream", number, field_name), what, error) from None

    hidden = {
        name: resolved(value, "headers") for name, value in upstream.headers.items() if is_reference(value)
    }
    proxy_auth = resolved(upstream.proxy_auth, "proxy_auth") if upstream.proxy_auth else ""
    return UpstreamHeaders({**upstream.headers, **hidden}, tuple(hidden.values()), proxy_auth)


def _from_environment(name: str, reference: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise ConfigError(reference, None, f"{name} is not set in the environment", f"export {name}=...")
    return environ[name]


def _from_file(path: str, reference: str, _environ: Mapping[str, str]) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(reference, None, "the file is not text", "put the provider's key there") from None
    except OSError as error:
        hint = "put the provider's key into that file and let this user read it"
        raise ConfigError(reference, None, f"cannot be read ({error.strerror})", hint) from None


def _from_command(command: str, reference: str, environ: Mapping[str, str]) -> str:
    """What the program prints. It runs without a shell; what it says on standard error is not shown, as that
    may hold the secret."""
    hint = "run the command by hand as this user; it must print the secret and exit with 0"
    try:
        done = subprocess.run(
            shlex.split(command),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=COMMAND_SECONDS,
            env=dict(environ),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(reference, None, f"took more than {COMMAND_SECONDS} s", hint) from None
    except OSError as error:
        raise ConfigError(reference, None, f"cannot be run ({error.strerror})", hint) from None
    except ValueError:  # an open quote, or output that is no text
        raise ConfigError(reference, None, "is no command line, or prints no text", hint) from None
    if done.returncode != 0:
        raise ConfigError(reference, None, f"ended with exit code {done.returncode}", hint)
    return done.stdout


def _at_its_line(path: Path | None, place: Place, what: str, error: ConfigError) -> ConfigError:
    text = path.read_text(encoding="utf-8-sig") if path else ""
    return ConfigError(str(path), line_of(text, place), f"{what} ({error.file}): {error.message}", error.hint)
