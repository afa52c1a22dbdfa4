"""Texts of strangers that drive terminals and pages where nobody makes them harmless."""

DRIVERS = "\x1b]0;owned\x07\x9b31m\u202egnp.\u2066\u200f\x00\x08"
MARKUP = "<script>alert(1)</script>&`**[x](javascript:y)`"
EVIL = f"{MARKUP}{DRIVERS}"
LINES = f"{EVIL}\n  error  0 %\nhint: Run `rm -rf /`."


def has_driver(text: str) -> bool:
    return any(not letter.isprintable() for letter in text.replace("\n", ""))
