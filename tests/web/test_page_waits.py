"""The page when no repair can run: it says why in both languages, and goes on by itself."""

from collections.abc import Callable

from playwright.sync_api import expect

from tests.support.cluster import cluster
from tests.support.page_driver import DONE, Person, photo_file
from tests.support.redis_server import FakeWorker

PATIENCE_MS = 60_000.0  # processes start and are missed meanwhile
WORDS = (  # those of another obstacle in the language of before
    "Waiting: no worker is there", "正在等待：没有可用的工作进程",
    "正在等待：无法连接 Redis", "Waiting: Redis is not reachable",
)  # fmt: skip


def test_page_says_what_repairs_wait_for_and_goes_on_by_itself(visit: Callable[..., Person]) -> None:
    with cluster(workers=0, has_page=True) as made:
        person = visit(made.web.url)
        person.open(photo_file())
        person.paint((0.4, 0.4), (0.5, 0.4))
        person.press("repair")
        status = person.page.locator('[data-part="status"]')
        for number, words in enumerate(WORDS):
            expect(status).to_contain_text(words, timeout=PATIENCE_MS)
            if number == 1:
                made.redis.kill()
            else:
                person.press("language")
        made.redis.start()
        made.workers.append(FakeWorker(made.redis.url, made.folder).start())
        person.page.locator(DONE).wait_for(timeout=PATIENCE_MS)
        assert person.shown_patches == 1
