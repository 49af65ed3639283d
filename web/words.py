"""Every word that people read on the page, in both languages: `locales/*.yaml`."""

import functools
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import HTTPConnection

LOCALES_FOLDER = Path(__file__).parent / "locales"
LANGUAGES = ("zh-CN", "en")
LANGUAGE_COOKIE = "fftlama_language"
"""What was chosen on the page, as `static/i18n.js` writes it; what is none of `LANGUAGES` is passed over."""


@functools.cache
def load_strings() -> dict[str, dict[str, str]]:
    """Return every word of the page, language to key to text, in the order of `LANGUAGES`; not to be changed."""
    return {language: read_own_yaml(LOCALES_FOLDER / f"{language}.yaml") for language in LANGUAGES}


def read_own_yaml(file: Path) -> Any:
    """Return what a file of this program holds, by the reader in C where it is: the other takes ten times as long."""
    return yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def choose_language(setting: str, connection: HTTPConnection) -> str:
    """Choose the language of a page that the server writes.

    Args:
        setting: the setting `language`; "auto" leaves it to the browser.
        connection: with the cookie of what was chosen on the page, and the browser's header Accept-Language.

    Returns:
        one of `LANGUAGES`.
    """
    chosen = connection.cookies.get(LANGUAGE_COOKIE)
    if chosen in LANGUAGES:
        return chosen
    if setting != "auto":
        return setting
    accepted = connection.headers.get("accept-language", "")
    return "zh-CN" if accepted.lower().lstrip().startswith("zh") else "en"
