"""Every word that people read on the page, in both languages: `locales/*.yaml`."""

import functools
from pathlib import Path

import yaml
from starlette.requests import HTTPConnection

LOCALES_FOLDER = Path(__file__).parent / "locales"
LANGUAGES = ("zh-CN", "en")
LANGUAGE_COOKIE = "fftlama_language"
"""What was chosen on the page, as `static/i18n.js` writes it; what is none of `LANGUAGES` is passed over."""


@functools.cache
def load_strings() -> dict[str, dict[str, str]]:
    """Return every word of the page, language to key to text, in the order of `LANGUAGES`; not to be changed."""
    return {
        language: yaml.safe_load((LOCALES_FOLDER / f"{language}.yaml").read_text(encoding="utf-8"))
        for language in LANGUAGES
    }


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
