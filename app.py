"""The process: settings, engine, jobs, routes and page put together, started and stopped.

`create_app` builds the FastAPI application (the page is mounted at "/"); `main` serves it. The server listens at once
and says "starting" while torch and Gradio are imported side by side. SIGTERM lets running repairs end for a few
seconds, gives the others back to the queue on disk, and exits 0.

Exit codes: 0 stopped, 1 could not start, 2 a setting is wrong, or names what can't be used here, 3 it cannot listen at
host and port.
"""

import asyncio
import atexit
import contextlib
import errno
import faulthandler
import functools
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ExactParser, Settings, SettingsError, add_arguments, load_settings, program_version
from notices import ready_streams, run_and_exit

if TYPE_CHECKING:
    from fastapi import FastAPI

    from engine.devices import Placement
    from jobs.worker import Engine

EXIT_STOPPED, EXIT_START, EXIT_SETTINGS, EXIT_PORT = 0, 1, 2, 3
DRAIN_S = 2  # open connections get this long after SIGTERM
FINISH_S = 3.0  # running repairs get this long after that
LAST_S = 0.5  # and the threads of requests that were cut off this long in the end
REQUEST_THREAD = "AnyIO worker thread"  # as anyio names each
KEEP_ALIVE_S = 75
BACKLOG = 256
SPIN_COUNT = "1000"  # looks at what is waited for
MANY_THREADS = 8  # from here on large copies are shared among them (`tensor_ops.host_copies`)
EXPLAINED = (ValueError, RuntimeError, OSError)  # their texts say what to do; a traceback would only hide them
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

log = logging.getLogger("fftlama")


def create_app(settings: Settings, engine: "Engine | None" = None) -> "FastAPI":
    """Return the application with its page; `engine` None loads the one that the settings ask for.

    Nothing runs before the application's lifespan begins. `app.state.queue` is the job queue; after the lifespan
    `app.state.idle` says whether every thread came to rest.
    """
    # Read by Gradio when it is imported: no version check, no statistics.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    share_cores()
    from web.stubs import without_stubs

    with collecting_later(), ThreadPoolExecutor(1, thread_name_prefix="engine-loader") as loader:
        loading = None if engine else loader.submit(load_engines, settings)
        with without_stubs():
            import gradio as gr

        from web.gradio_routes import limit_gradio_routes
        from web.page import create_page, page_setup
        from web.page_document import write_canvas_into_page
        from web.page_files import PageFiles, serve_page_files

        app = create_api(settings, engine or loading.result())  # type: ignore[union-attr]
    files = PageFiles(page_setup(settings))
    serve_page_files(app, files)
    gr.mount_gradio_app(
        app, create_page(app.state.queue), path="/", server_name=settings.host, server_port=settings.port,
        root_path=settings.root_path or None, run_history=False, footer_links=[],
        max_file_size=f"{settings.max_file_mib}mb", show_error=True,
        enable_monitoring=False, ssr_mode=False, mcp_server=False,
    )  # fmt: skip
    limit_gradio_routes(app, max_file_mib=settings.max_file_mib)
    write_canvas_into_page(app, files, language=settings.language)
    return app


def create_api(settings: Settings, engine: "Engine | Sequence[Engine]") -> "FastAPI":
    """Return the application without its page: jobs, REST routes, and what operators look at."""
    from fastapi import FastAPI

    from jobs.queue import JobQueue
    from jobs.temp_folder import clear_temp_folder
    from jobs.worker import side_by_side
    from web.gate import protect
    from web.iopaint import NamedModels, create_iopaint_routes
    from web.lama_cleaner import create_lama_cleaner_routes
    from web.metrics import Metrics
    from web.openapi import create_document_routes
    from web.operators import create_operator_routes
    from web.routes import create_routes

    tempfile.gettempdir()  # found by a trial write unless `serve` has set it; later the disk may be full
    engines = engine if isinstance(engine, Sequence) else [engine]
    profile = getattr(engines[0], "profile", None)
    engines, storing = side_by_side(engines)
    # On a CPU a batch is no faster than one after another, and the first in line would wait for the last.
    batch_limit = 1 if engines[0].describe().get("device") == "cpu" else getattr(profile, "max_batch", 1)
    queue = JobQueue(settings, engines, batch_limit=batch_limit, storing=storing, observer=(metrics := Metrics()))
    clear_temp_folder(settings.data_dir)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        queue.start()
        try:
            yield
        finally:
            app.state.idle = queue.close(wait_s=FINISH_S)

    version = program_version()
    # Not FastAPI's document, since the bodies are read by hand, nor its pages, which load their scripts from elsewhere.
    app = FastAPI(title="fftlama", version=version, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.queue = queue
    app.state.idle = True
    models = NamedModels(queue)
    app.include_router(create_iopaint_routes(queue, settings, models))  # before those that answer all under /api/v1
    app.include_router(create_lama_cleaner_routes(queue, settings, models))
    app.include_router(create_operator_routes(queue, settings, metrics=metrics, version=version))
    app.include_router(create_document_routes(settings, version=version))
    app.include_router(create_routes(queue, settings))
    protect(app, settings)
    return app


def share_cores() -> None:
    """Have PyTorch's threads sleep when they wait for each other; counts only before torch is first imported.

    By default libgomp's spin for milliseconds. When another program (the browser, say) has one of the cores, the thread
    there comes late to each of a thousand meetings, and the others burn the time that the process had left: a repair of
    512x512 on two cores took 3.25 s instead of 0.22 (medians of 20, in turns). With both cores idle it takes 0.114
    instead of 0.112 s. Whoever has set one of the variables keeps it.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


@contextlib.contextmanager
def collecting_later() -> Iterator[None]:
    """Have Python look for garbage only afterwards, in all threads.

    Modules that are imported make hundreds of thousands of objects, nearly all of which stay. To look through them
    again and again takes a seventh of the time that importing PyTorch does.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def load_engine(settings: Settings) -> "Engine":
    """Load the model onto its device and warm it up, with what that changes for the whole process."""
    from engine.early_context import open_card_early

    open_card_early(settings.device)
    with collecting_later():
        from inference import load_inpainter

    inpainter = load_inpainter(settings, on_placement=leave_room)
    if not inpainter.device.startswith("cuda"):
        _take_all_threads()  # the card was there, and full
    freeze_loaded_objects()
    return inpainter


def leave_room(placement: "Placement") -> None:
    """Where a card computes, take the profile's part of its memory, and half of PyTorch's threads for the host's part.

    A large copy is done when the last of its threads is, and with as many threads as cores one of them often waits for
    a core that somebody else has: on a host of 16 cores with other work, the 95th percentile of repairs of 300 px was
    3.6 ms with 16 threads and 1.5 with 8 (bench/NOTES.md). Few threads stay as they are, and so does OMP_NUM_THREADS.
    """
    import torch

    if placement.device.type != "cuda":
        return
    torch.cuda.set_per_process_memory_fraction(placement.profile.memory_fraction, placement.device)
    _halve_threads()


@functools.cache  # once in a process: where cards share one, each is loaded after the other
def _halve_threads() -> int:
    """Return how many there were."""
    import torch

    if (threads := torch.get_num_threads()) >= MANY_THREADS and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads // 2)
    return threads


def _take_all_threads() -> None:
    import torch

    if _halve_threads.cache_info().currsize:  # else there was no card
        torch.set_num_threads(_halve_threads())


def freeze_loaded_objects() -> None:
    """Exempt all objects that exist now from garbage collection, until the process ends."""
    # What was loaded stays, and a full collection over it stops a repair for 50 ms.
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or extensions report at the end which of their objects are left


def load_engines(settings: Settings) -> "Engine | Sequence[Engine]":
    """Return what repairs: one engine, the cards of `devices`, or the workers of `queue=celery`."""
    if settings.queue == "celery":
        return load_remote_engines(settings)
    if not settings.devices:
        return load_engine(settings)
    numbers = list(dict.fromkeys(int(number) for number in settings.devices.split(",")))
    if len(numbers) > 1:
        from jobs.shared_arrays import CAN_SHARE

        if CAN_SHARE:
            return load_card_pool(settings, numbers)
    return [load_engine(settings.model_copy(update={"device": f"cuda:{number}"})) for number in numbers]


def load_card_pool(settings: Settings, numbers: Sequence[int]) -> "Sequence[Engine]":
    """Load the model onto several cards, each in a process of its own that sees no other card."""
    from jobs.card_pool import CardPool
    from jobs.card_run import CardPlan, only_card

    arguments = {"settings": settings.model_dump(mode="json")}
    plans = [CardPlan(f"cuda:{number}", "app:load_engine_of_card", arguments, only_card(number)) for number in numbers]
    pool = CardPool(plans, deadline_s=settings.job_timeout_s)
    pool.load()
    return pool.lanes()


def load_engine_of_card(settings: dict[str, Any]) -> "Engine":
    """Load the model in a card's own process; called there by `jobs.card_process`."""
    share_cores()
    chosen = Settings.model_validate({**settings, "device": "cuda:0"})
    set_up_logging(chosen)
    return load_engine(chosen)


def load_remote_engines(settings: Settings) -> "Sequence[Engine]":
    """Return what hands repairs to Celery workers; no model is loaded here."""
    from jobs.remote_engine import Fleet, RemoteEngine

    fleet = Fleet(settings.redis_url, version=program_version(), weights=find_weights_file(settings))
    return RemoteEngine.lanes(fleet, deadline_s=settings.job_timeout_s)


def find_weights_file(settings: Settings) -> Path:
    """Return the weights file that the settings ask for, the embedded one where they ask for none.

    Args:
        settings: `weights` and `weights_dir` are read.

    Returns:
        A file that can be read.

    Raises:
        DownloadError: The name is of weights that have not been fetched.
        CheckpointError: There is no such file, or it can't be read.
    """
    from lama.catalogue import embedded_path, find_weights

    file = find_weights(settings.weights, settings.weights_dir) or embedded_path()
    if not (file.is_file() and os.access(file, os.R_OK)):
        from lama.checkpoint import load_generator  # with PyTorch, which a server with workers does not need else

        load_generator(file)  # its sentence says what is wrong with the file
    return file


def main(argv: Sequence[str] | None = None, *, program: str = "app.py") -> int:
    """Serve until SIGTERM or Ctrl+C; settings come from the command line, environment and file.

    Args:
        argv: The command line's words after the program's name; None for this process's own.
        program: What the help and the refusals call the program.

    Returns:
        The exit code.
    """
    ready_streams()
    parser = ExactParser(prog=program, description="Serve fftlama: the page, the REST routes and /health.")
    add_arguments(parser)
    told: list[str] = []
    try:
        settings = load_settings(vars(parser.parse_args(argv)), tell=told.append)
    except SettingsError as error:
        print(f"fftlama: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    return serve(settings, told=told)


def serve(settings: Settings, *, told: Sequence[str] = (), on_ready: Callable[[str], None] | None = None) -> int:
    """Serve until SIGTERM or Ctrl+C.

    Args:
        settings: All of them count.
        told: What reading them had to say, for the log.
        on_ready: Called with the server's address, in a thread of its own, once everything answers; by default a line
            on standard output says so, one of the log where those are JSON.

    Returns:
        The exit code.
    """
    set_up_logging(settings)
    for sentence in told:
        log.warning("%s", sentence)
    if settings.log_level == "info":
        for chatty in ("uvicorn", "httpx"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
    if settings.log_level != "debug":
        # It warns once for every broken form, so that anybody could fill the log.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
    faulthandler.enable()
    try:
        listeners = _listen(settings.host, settings.port)
    except (OSError, UnicodeError) as error:  # a name with a label of more than 63 letters is a UnicodeError
        number, text = (error.errno, error.strerror) if isinstance(error, OSError) else (None, "that is no host name")
        reason = "another program uses it" if number == errno.EADDRINUSE else text
        print(f"fftlama: can't listen on {settings.host} port {settings.port}: {reason}.", file=sys.stderr)
        return EXIT_PORT
    from engine.device_turns import is_preparing
    from imaging.atomic_write import is_open_to_others
    from jobs.temp_folder import use_temp_folder
    from web.auth import login_warning

    use_temp_folder(settings.data_dir)

    if warning := login_warning(settings):
        log.warning("%s", warning)
    if is_open_to_others(settings.data_dir):  # made by somebody else, or before fftlama kept it to itself
        log.warning(
            "Other users of this machine can read the photos in %s; `chmod 700` on it ends that.", settings.data_dir
        )
    for name in ("input_path", "masks_dir"):
        if (path := getattr(settings, name)) and not path.exists():
            log.warning("%s: there is no %s; until there is, IOPaint's clients are shown nothing.", name, path)
    say_ready = _log_ready if settings.log_format == "json" else _say_ready
    code, clean = _serve(settings, listeners, on_ready or say_ready)
    logging.shutdown()
    is_read = True
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it any more, or its disk is full; Python would try again and end with 120
        is_read = False
    if not clean or is_preparing() or not is_read or not _have_threads_ended():
        # A repair that runs on, a photo that is encoded, a model still loading or preparing can't be interrupted: all
        # are safe to leave.
        os._exit(code)
    return code


def _have_threads_ended() -> bool:
    """Tell whether no request's thread is left, which Python would wait for: a large WebP takes more than a minute.

    Threads of a pool that is kept, as those of the network on two cores, are left too and wait: Python ends them.
    """
    until_s = time.monotonic() + LAST_S
    others = [one for one in threading.enumerate() if one.name == REQUEST_THREAD]
    for thread in others:
        thread.join(max(0.0, until_s - time.monotonic()))
    return not any(thread.is_alive() for thread in others)


def set_up_logging(settings: Settings) -> None:
    """Send every log line to standard output, as text or as one JSON object a line."""
    from web.json_log import JsonFormatter

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else logging.Formatter(LOG_FORMAT))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.captureWarnings(True)  # those of libraries are lines of the log too


def _listen(host: str, port: int) -> list[socket.socket]:
    """Return the listening sockets, so that a taken port is known before anything heavy is loaded.

    Args:
        host: An address or a name; "localhost" is 127.0.0.1 and, where there is IPv6, ::1.
        port: The port; 0 lets the system choose one for each socket.

    Returns:
        One socket for each address.

    Raises:
        OSError: There is no such host, or the port is taken.
        UnicodeError: The name has a label that no host name can have.
    """
    if host != "localhost":
        return [_listen_at(host, port)]
    # A browser tries ::1 first or alone, and many hosts files name one of the two only.
    listeners = [_listen_at("127.0.0.1", port)]
    try:
        listeners.append(_listen_at("::1", port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            listeners[0].close()
            raise
        # A machine without IPv6 has no ::1, and nobody there asks for it.
    return listeners


def _listen_at(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]  # fmt: skip
    # The protocol is named because asyncio sets TCP_NODELAY only then; without, every second answer waits 40 ms.
    listener = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _say_ready(url: str) -> None:
    print(f"fftlama is ready at {url}", flush=True)


def _log_ready(url: str) -> None:
    log.info("fftlama is ready at %s", url)


def _serve(settings: Settings, listeners: list[socket.socket], say_ready: Callable[[str], None]) -> tuple[int, bool]:
    """Serve until told to stop; return the exit code and whether every thread came to rest."""
    import uvicorn

    from jobs.errors import is_wrong_setting, kinds_of
    from web.connections import BoundedProtocol, OnceAMinute, raise_file_limit, say_no_descriptors
    from web.proxy import RootPath
    from web.security_headers import SecurityHeaders
    from web.startup import StartupGate

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    failures: list[Exception] = []

    def on_ready() -> None:
        with contextlib.suppress(OSError):  # a full disk under the log, or a pipe that nobody reads, stops no server
            say_ready(f"http://{host}:{settings.port}{settings.root_path}")

    def on_failure(error: Exception) -> None:
        failures.append(error)
        # Clients are not told where the folder lies; who starts the server needs it.
        is_of_the_folder = getattr(error, "code", "") in ("storage_unavailable", "disk_full")
        where = f" data_dir is {settings.data_dir}." if is_of_the_folder else ""
        log.error("fftlama could not start: %s%s", error, where, exc_info=not isinstance(error, EXPLAINED))
        server.should_exit = True

    BoundedProtocol.most_connections = raise_file_limit()
    for logger in ("uvicorn.error", "fftlama.web"):
        logging.getLogger(logger).addFilter(OnceAMinute())

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            asyncio.get_running_loop().set_exception_handler(say_no_descriptors)
            await super().startup(sockets)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            if gate.app is not None:
                gate.app.state.queue.stop_waiting()  # or patient clients would hold the server up
            await super().shutdown(sockets)

    gate = StartupGate(lambda: create_app(settings), on_ready=on_ready, on_failure=on_failure)
    server = Server(
        uvicorn.Config(
            # The answers while it starts, and of RootPath, have the headers too.
            SecurityHeaders(RootPath(gate, settings.root_path)), log_config=None,
            access_log=settings.log_level == "debug", server_header=False, lifespan="on",
            proxy_headers=False,  # web/proxy.py reads them
            http=BoundedProtocol, ws="none", timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S, backlog=BACKLOG,
        )
    )  # fmt: skip
    for name in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises a caught signal again when it has stopped; then it has done its work.
        signal.signal(name, lambda *_: None)
    server.run(sockets=listeners)
    app = gate.app
    clean = app is not None and bool(app.state.idle)
    if failures:
        return (EXIT_SETTINGS if is_wrong_setting(kinds_of(failures[0])) else EXIT_START), clean
    return EXIT_STOPPED, clean


if __name__ == "__main__":
    run_and_exit(main)
