"""Secrets out of what is written and shown: by the name they stand under, wherever it is, and in addresses."""

import os
import re


MASK = "<masked>"
# words of a name whose value is a secret, wherever they stand in it
WORDS = {"password", "passwd", "passphrase", "secret", "secrets", "authorization", "credential", "credentials"}
WORDS |= {"cookie", "apikey", "accesskey", "accesstoken", "authtoken", "hubtoken"}
# tokens of a tokenizer
TOKENS = {"eos", "bos", "pad", "unk", "sep", "cls", "mask", "image", "video", "audio", "end", "start", "stop", "think"}
KEYS = {"api", "access", "private", "secret", "auth", "signing", "encryption"}

# `name: value`, `name=value`, `"name": "value"`, `--name value`: JSON, Python, YAML and command lines in a text
_NAME = re.compile(r"""(?P<name>(?<!\w)[A-Za-z][\w-]*)(?:\\?["']?\s*[:=]\s*|\s+)""")
_OPTION = re.compile(r"(?<!\S)--$")
_VALUE = re.compile(
    r"""(?!(?:None|null|True|true|False|false)\b)"""
    r"""(?:(?P<quote>\\?["'])(?P<quoted>.*?)(?P=quote)|(?P<bare>(?:(?:Bearer|Basic|Token)\s+)?[^\s"',;}\])]+))""",
    flags=re.DOTALL,
)
# with one slash too, as a path that was made of an address has it
_USER_IN_ADDRESS = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*:/{1,2})[^/\s@'\"]+@")
_KNOWN = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,})|(?<=\bBearer )[^\s\"',]+")


def is_secret(name: str) -> bool:
    """Whether what stands under a name is a secret: `hub_token`, `api_key`, `Authorization`, not `eos_token`."""
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)
    words = [word.lower() for word in words]
    if WORDS & set(words):
        return True
    last, before = (words or [""])[-1], (words[-2] if len(words) > 1 else "")
    return (last == "token" and before not in TOKENS) or (last == "key" and before in KEYS)


def masked(value):
    """The same value, of the same build, with [`MASK`] where a secret stood."""
    if isinstance(value, dict):
        return {
            name: MASK if isinstance(name, str) and is_secret(name) and _is_set(item) else masked(item)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        items = [masked(item) for item in value]
        for place, (name, item) in enumerate(zip(value, value[1:], strict=False)):
            # a command line's option and its value, and pairs such as a request's headers
            pair = len(value) == 2 or (isinstance(name, str) and name.startswith("--"))
            if pair and isinstance(name, str) and is_secret(name) and _is_set(item):
                items[place + 1] = MASK
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, (str, os.PathLike)):
        text = mask_text(str(value))
        return value if text == str(value) else text
    return value


def mask_text(text: str) -> str:
    """A text in which secrets under a name, in addresses and of well-known forms are masked."""
    text = _USER_IN_ADDRESS.sub(rf"\g<scheme>{MASK}@", text)

    place = 0
    while match := _NAME.search(text, place):
        place = match.end("name")
        named = ":" in match[0] or "=" in match[0] or _OPTION.search(text[: match.start()])
        if named and is_secret(match["name"]) and (value := _VALUE.match(text, match.end())):
            start, end = value.span("quoted" if value["quote"] else "bare")
            text = f"{text[:start]}{MASK}{text[end:]}" if start < end else text
            place = start + len(MASK)
    return _KNOWN.sub(MASK, text)


def _is_set(value) -> bool:
    return value is not None and not isinstance(value, bool) and value not in ("", {}, [])
