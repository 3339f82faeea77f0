"""Getting at secrets. A value is returned and nothing else: no error, log line or repr ever holds it."""

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from app.settings.errors import ConfigError
from app.settings.models import Settings
from app.settings.toml_lines import line_of

COMMAND_SECONDS = 30


def resolve_secret(reference: str, environ: Mapping[str, str]) -> str:
    """The secret that `env:NAME`, `file:PATH` or `command:PROGRAM ARGS` refers to, stripped of blanks.

    Raises ConfigError, whose `file` is the reference, when there is none or it cannot be sent in a header.
    """
    kind, _, rest = reference.partition(":")
    readers = {"env": _from_environment, "file": _from_file, "command": _from_command}
    if kind not in readers or not rest.strip():
        mend = 'write "env:NAME", "file:PATH" or "command:PROGRAM ARGUMENTS"'
        raise ConfigError("secret", None, "says not where the secret is", mend)
    value = readers[kind](rest.strip(), reference, environ).strip()
    if not value:
        raise ConfigError(reference, None, "the secret is empty", "put the provider's key there")
    if not value.isascii() or not value.isprintable() or " " in value:
        mend = "put the provider's key there, one line and nothing else"
        raise ConfigError(
            reference, None, "the secret holds a line break, a blank or a non-ASCII character", mend
        )
    return value


def key_secrets(settings: Settings, environ: Mapping[str, str]) -> dict[str, SecretStr]:
    """The secret of every configured key, by the key's name.

    Raises ConfigError with the file's line of the first key whose secret cannot be had.
    """
    found: dict[str, SecretStr] = {}
    for number, key in enumerate(settings.keys):
        try:
            found[key.name] = SecretStr(resolve_secret(key.secret, environ))
        except ConfigError as error:
            raise _at_its_line(settings.path, number, key.name, error) from None
    return found


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
        mend = "put the provider's key into that file and let this user read it"
        raise ConfigError(reference, None, f"cannot be read ({error.strerror})", mend) from None


def _from_command(command: str, reference: str, environ: Mapping[str, str]) -> str:
    """What the program prints. It runs without a shell; what it says on standard error is not shown, as that
    may hold the secret."""
    mend = "run the command by hand as this user; it must print the secret and exit with 0"
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
        raise ConfigError(reference, None, f"took more than {COMMAND_SECONDS} s", mend) from None
    except OSError as error:
        raise ConfigError(reference, None, f"cannot be run ({error.strerror})", mend) from None
    except ValueError:  # an open quote, or output that is no text
        raise ConfigError(reference, None, "is no command line, or prints no text", mend) from None
    if done.returncode != 0:
        raise ConfigError(reference, None, f"ended with exit code {done.returncode}", mend)
    return done.stdout


def _at_its_line(path: Path | None, number: int, name: str, error: ConfigError) -> ConfigError:
    text = path.read_text(encoding="utf-8-sig") if path else ""
    line = line_of(text, ("key", number, "secret"))
    return ConfigError(str(path), line, f'secret of key "{name}" ({error.file}): {error.message}', error.mend)
