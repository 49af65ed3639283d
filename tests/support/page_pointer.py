"""Long drags on the page, without a frame for each move: to draw those takes as long as all else of a test."""

from collections.abc import Sequence

from tests.support.page_driver import Person

MOVES = """([points, steps]) => {
  const stage = document.querySelector('.fft-stage');
  const between = (from, to, part) => from + (to - from) * part;
  const held = { pointerId: 1, pointerType: 'mouse', isPrimary: true, buttons: 1, bubbles: true };
  for (let i = 1; i < points.length; i += 1) {
    for (let step = 1; step <= steps; step += 1) {
      const [clientX, clientY] = [0, 1].map((k) => between(points[i - 1][k], points[i][k], step / steps));
      stage.dispatchEvent(new PointerEvent('pointermove', { ...held, clientX, clientY }));
    }
  }
}"""


def drag_at_once(person: Person, points: Sequence[tuple[float, float]], *, steps: int = 1) -> None:
    """Press at the first point and go over the others to the last, where the button is still held.

    The mouse itself makes the first and the last move. Between them is what it reports of moves in one frame.

    Args:
        person: who has the page open.
        points: fractions of the photo.
        steps: moves from each to the next.
    """
    on_screen = person.stage_points(points)
    person.page.mouse.move(*on_screen[0])
    person.page.mouse.down()
    person.page.evaluate(MOVES, [on_screen, steps])
    person.page.mouse.move(*on_screen[-1])
