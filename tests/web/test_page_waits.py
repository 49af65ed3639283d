"""The page when no repair can run: it says why in both languages, and goes on by itself."""

from collections.abc import Callable

from playwright.sync_api import expect

from tests.support.cluster import cluster
from tests.support.page_driver import DONE, Person, photo_file
from tests.support.redis_server import FakeWorker

PATIENCE_MS = 60_000.0  # processes start and are missed meanwhile
WORDS = {
    "en-US": ("Waiting: no worker is there", "Waiting: Redis is not reachable"),
    "zh-CN": ("正在等待：没有可用的工作进程", "正在等待：无法连接 Redis"),
}


def test_page_says_what_repairs_wait_for_and_goes_on_by_itself(visit: Callable[..., Person]) -> None:
    with cluster(workers=0, has_page=True) as made:
        people = {language: visit(made.web.url, locale=language) for language in WORDS}
        for person in people.values():
            person.open(photo_file())
            person.paint((0.4, 0.4), (0.5, 0.4))
            person.press("repair")
        for obstacle in range(2):
            for language, person in people.items():
                status = person.page.locator('[data-part="status"]')
                expect(status).to_contain_text(WORDS[language][obstacle], timeout=PATIENCE_MS)
            if not obstacle:
                made.redis.kill()
        made.redis.start()
        made.workers.append(FakeWorker(made.redis.url, made.folder).start())
        for person in people.values():
            person.page.locator(DONE).wait_for(timeout=PATIENCE_MS)
            assert person.shown_patches == 1
