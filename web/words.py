"""Every word that people read on the page, in both languages: `locales/*.yaml`."""

import functools
from pathlib import Path

import yaml

LOCALES_FOLDER = Path(__file__).parent / "locales"
LANGUAGES = ("zh-CN", "en")


@functools.cache
def load_strings() -> dict[str, dict[str, str]]:
    """Return every word of the page, language to key to text, in the order of `LANGUAGES`; not to be changed."""
    return {
        language: yaml.safe_load((LOCALES_FOLDER / f"{language}.yaml").read_text(encoding="utf-8"))
        for language in LANGUAGES
    }


def choose_language(setting: str, accepted: str) -> str:
    """Choose the language of a page that the server writes.

    Args:
        setting: the setting `language`; "auto" leaves it to the browser.
        accepted: the browser's header Accept-Language.

    Returns:
        one of `LANGUAGES`.
    """
    if setting != "auto":
        return setting
    return "zh-CN" if accepted.lower().lstrip().startswith("zh") else "en"
