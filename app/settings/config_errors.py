"""Checks of single values that say what to do about a wrong one."""

import ipaddress

from pydantic_core import PydanticCustomError


def config_error(message: str, mend: str) -> PydanticCustomError:
    """What a validator raises: what is wrong with the value, which it does not quote, and how to mend it."""
    return PydanticCustomError("fault", "{message}", {"message": message, "mend": mend})


def checked_network(value: str) -> str:
    """`value` unchanged when it is a network in CIDR notation or one address."""
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        if "host bits" in str(error):
            meant = ipaddress.ip_network(value, strict=False)
            raise config_error("has bits set beyond its mask", f'write "{meant}"') from None
        raise config_error("must be a network", 'write it like "10.1.0.0/16" or "fd00::/8"') from None
    return value


def checked_ports(value: str) -> str:
    """`value` unchanged when it is a port or a range of ports."""
    first, dash, last = value.partition("-")
    numbers = [first, last] if dash else [first]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise config_error("must be a port or a range of ports", 'write it like "443" or "8000-9000"')
    if not 1 <= int(numbers[0]) <= int(numbers[-1]) <= 65535:
        raise config_error("must lie between 1 and 65535, the lower port first", 'write it like "8000-9000"')
    return value
