"""The choices beside the picture: which model repairs, and how thoroughly."""

import json
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.support.page_driver import NOTE_STATUS, Person, photo_file
from tests.support.serving import RunningServer

Visit = Callable[..., Person]
MODEL = 'select[data-part="model"]'
TOLD = '[data-part="model-state"]'


def active_model(server: RunningServer) -> str:
    with server.client as client:
        health, models = client.get("/health").json(), client.get("/api/v1/models").json()
    assert health["weights"] == models["active"]
    return str(models["active"])


def test_another_model_is_chosen_here_or_by_somebody_else_and_a_damaged_one_is_refused_in_words(
    visit: Visit, start_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    """What a real engine makes of such files is tried in test_routes_models.py."""
    for name in ("tiny", "small", "broken"):  # the fake engine cannot use the last one
        (tmp_path / f"{name}.safetensors").write_bytes(b"weights")
    server = start_server("page", weights_dir=tmp_path)
    with server.client as client:
        assert client.post("/api/v1/models", json={"name": "lama-compact"}).status_code == 200
    # It is chosen with the keyboard, and repairs.
    person = visit(server.url)
    select = person.page.locator(MODEL)
    expect(select).to_have_value(active_model(server))
    names = [text.split(" · ")[0] for text in select.locator("option").all_inner_texts()]
    assert names[0] == "lama-compact" and {"tiny.safetensors", "small.safetensors"} < set(names)
    person.open(photo_file(320, 240))
    select.focus()
    person.key("t")  # the letter chooses, and is no shortcut while the list has the focus
    expect(person.page.locator(TOLD)).to_be_hidden()
    expect(select).not_to_have_attribute("aria-busy", "true")
    assert active_model(server) == "tiny"
    person.paint((0.4, 0.4), (0.6, 0.6))
    person.repair()
    assert person.shown_patches == 1
    # Who looks again sees what somebody else chose.
    with server.client as client:
        assert client.post("/api/v1/models", json={"name": "small"}).status_code == 200
    person.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(select).to_have_value("small")
    # A damaged one is refused in words, and the one before stays.
    person.press("language")
    select.select_option("broken")
    expect(person.page.locator(TOLD)).to_contain_text("无法使用，继续使用 small")
    expect(person.page.locator(TOLD)).to_contain_text("broken is damaged")
    expect(select).to_have_value("small")


def test_quality_goes_with_the_repair_and_models_are_absent_without_a_choice_and_shown_while_one_is_loaded(
    person: Person,
) -> None:
    person.open(photo_file(320, 240))
    expect(person.page.locator('input[value="fast"]')).to_be_checked()
    for quality in ("fast", "high"):
        if quality == "high":
            person.page.locator('input[value="high"]').check()
            person.slow_down(60, quality="high")
            person.page.evaluate(NOTE_STATUS)  # one that is looked for now and then may be missed
        person.paint((0.4, 0.4), (0.6, 0.6))
        person.key("Enter")  # also while the choice has the focus
        person.page.locator(f".fft-rounds li:nth-child({3 if quality == 'high' else 2})").wait_for()
        expect(person.page.locator('[data-part="status"][data-tone="good"]')).to_be_visible()
        if quality == "high":
            assert "Refining the large area…" in person.page.evaluate("seen")
        sent = json.loads(person.posts("/api/v1/repairs")[-1])
        assert sent.get("options") == ({"quality": "high"} if quality == "high" else None)
        if quality == "fast":
            person.press("timings")
        expect(person.page.locator(".fft-times")).to_be_visible()
        assert ("refining" in person.page.locator(".fft-times").inner_text()) == (quality == "high")

    # The choice of models is absent without a choice, and loading is shown.
    def model(name: str, *, active: bool) -> dict[str, object]:
        return {"name": name, "title": name, "size": 2**24, "active": active, "installed": True}

    state = {"models": [model("a", active=True)], "active": "a", "switching": None, "error": None}
    person.unroute()
    person.stops.add("*/api/v1/models", lambda stopped: stopped.fulfill(state))
    person.visit()
    expect(person.page.locator('input[value="high"]')).to_be_checked()
    expect(person.page.locator(MODEL)).to_be_hidden()
    state["models"] = [model("a", active=True), model("b", active=False)]
    state["switching"] = "b"
    person.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(person.page.locator(TOLD)).to_have_text("Loading b, repairs wait for it…")
    expect(person.page.locator('[data-part="model-busy"]')).to_be_visible()
    state.update(switching=None, active="b")
    expect(person.page.locator(TOLD)).to_be_hidden()
    expect(person.page.locator(MODEL)).to_have_value("b")
