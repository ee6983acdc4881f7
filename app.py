"""BGPO Studio: `python app.py`. Opens the database, takes up what was running, serves the pages.

Stopping the app (Ctrl-C) leaves training processes alone; the next start finds them again.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import ipaddress
import os
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import platformdirs

# read by Gradio when it is imported
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

APP_NAME = "bgpo-studio"
PASSWORD_VARIABLE = "BGPO_PASSWORD"
DATABASE_VARIABLE = "BGPO_DATABASE"
CHECK_SECONDS = 3.0  # for a look at the database file before the start


class StartError(Exception):
    """The app cannot start; the message is one sentence for the person who started it."""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python app.py",
        description="Trains small diffusion language models with BGPO, plots the runs live, lets you chat with them.",
    )
    default_folder = Path(platformdirs.user_data_dir(APP_NAME))
    found.add_argument("--data-dir", type=Path, default=default_folder, metavar="FOLDER",
                       help="database, logs and checkpoints (default: %(default)s)")
    found.add_argument("--host", default="127.0.0.1",
                       help="address to listen on; any but loopback needs a password")
    found.add_argument("--port", type=int, default=7860,
                       help="port to listen on, 0 for a free one (default: %(default)s)")
    found.add_argument("--database", metavar="URL", default=os.environ.get(DATABASE_VARIABLE),
                       help="sqlite:///file or postgresql://... (default: bgpo.db in the data folder; "
                       f"a URL with a password is better given in the environment variable {DATABASE_VARIABLE})")
    found.add_argument("--cpu-slots", type=int, metavar="N",
                       help="how many runs may compute on the CPU at once; kept until it is changed, here or on the "
                       "System page (at first 1)")
    found.add_argument("--password", default=os.environ.get(PASSWORD_VARIABLE), metavar="TEXT",
                       help="asked for before anything is shown; better given in the environment variable "
                       f"{PASSWORD_VARIABLE}")
    return found


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_of(host: str) -> frozenset[str] | None:
    """The names by which an app that listens there may be asked for; None for any, of an open one."""
    from ui.access import LOOPBACK

    return LOOPBACK | {host} if is_loopback(host) else None


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is known before anything else is started; raises StartError."""
    if not 0 <= port <= 65535:
        raise StartError(f"Port {port} does not exist; give --port a number from 1 to 65535, or 0 for a free one.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # told that it is TCP, asyncio sends what is written at once; else a small answer waits 40 ms for an acknowledgement
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        if error.errno in (98, 48, 10048):
            raise StartError(f"Port {port} on {host} is in use, perhaps by another BGPO Studio; "
                             f"stop that one or choose another with --port {port + 1}.") from None
        raise StartError(f"Cannot listen on {host}, port {port}: {error.strerror or error}.") from None
    return bound


def open_data(data_dir: Path, database_url: str | None, cpu_slots: int | None = None):
    """Services over the folder and the database, in which CPU slots that are given are kept; raises StartError."""
    from bgpo.jobs import retention
    from bgpo.jobs.chat import GIVE_WAY_EVERY, Chat
    from bgpo.jobs.chat_devices import Seats
    from bgpo.jobs.scheduler import Chore, Scheduler
    from storage.database import StorageError, open_database, sqlite_url
    from storage.queue import leases
    from storage.settings import set_cpu_slots
    from ui.services import Services

    data_dir = data_dir.expanduser().absolute()
    runs_folder = data_dir / "runs"
    try:
        url = database_url or sqlite_url(data_dir / "bgpo.db")
    except StorageError as error:
        raise StartError(str(error)) from None
    try:
        runs_folder.mkdir(parents=True, exist_ok=True)
        probe = runs_folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StartError(f"The data folder {data_dir} cannot be written ({error.strerror}); "
                         "choose another with --data-dir.") from None
    os.environ["GRADIO_TEMP_DIR"] = str(data_dir / "uploads")  # nothing that a browser sends is kept elsewhere
    check_data(url, runs_folder, own=not database_url)
    try:
        db = open_database(url)
        if cpu_slots is not None:
            set_cpu_slots(db, cpu_slots)
    except (StorageError, ValueError) as error:
        raise StartError(str(error)) from None
    chat = Chat(seats=Seats(lambda: leases(db)))
    chores = [
        Chore("chat", GIVE_WAY_EVERY, chat.give_way),
        Chore("retention", retention.FREE_EVERY, lambda: retention.free_all(db)),
        Chore("disk", retention.LOOK_EVERY, lambda: retention.watch_disk(db, runs_folder)),
    ]
    return Services(db, data_dir, runs_folder, db.url, chat, Scheduler(db, chores=chores))


@contextlib.contextmanager
def seeming_absent(package: str) -> Iterator[None]:
    """For those who import a package merely because it is installed; one that is loaded already stays."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # what Python takes for "cannot be imported"
    try:
        yield
    finally:
        del sys.modules[package]


def check_data(url: str, runs_folder: Path, own: bool) -> None:
    """Raises StartError, before anything is written, for a damaged database file, or for one that is gone.

    Args:
        own: whether it is the database of the data folder, so that the runs there are in it.
    """
    from bgpo.jobs.repair import run_folders
    from storage.database import Database, StorageError
    from storage.salvage import is_sound

    try:
        path = Database(url).path
    except StorageError:
        return  # opening it says what is wrong with the address
    repair = f"python -m bgpo.jobs repair --database {shlex.quote(url)}"
    if path is not None and path.is_file() and path.stat().st_size and not is_sound(path, CHECK_SECONDS):
        raise StartError(f"{path} is damaged. Nothing was changed; `{repair}` keeps the file as it is and brings back "
                         "what can be read, or give another with --database.")
    if own and path is not None and not path.exists() and (begun := run_folders(runs_folder)):
        raise StartError(f"{path} is missing, but there are folders of {len(begun)} runs in {runs_folder}. Put the "
                         f"file back, or let `{repair}` register them again; to begin anew, move {runs_folder} away.")


def build(services, hosts: frozenset[str] | None, password: str | None):
    """The whole web app (ASGI), which answers when asked for as one of `hosts`; None: as whatever."""
    with seeming_absent("pyarrow"):  # by pandas, which Gradio imports: 35 MB that no page needs
        import gradio as gr
    from fastapi import FastAPI

    from ui import api, assets, pages
    from ui.access import Access
    from ui.limits import MAX_UPLOAD, Limits, ZippedPage
    from ui.theme import CSS, head, theme

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.scheduler.start()
        try:
            yield
        finally:
            services.scheduler.shutdown()
            services.chat.close()

    app = FastAPI(title="BGPO Studio", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(ZippedPage)
    app.include_router(assets.router)
    app.include_router(api.build_router(services))
    api.add_refusals(app)
    app = gr.mount_gradio_app(
        app, pages.build(services), path="/", theme=theme(), css=CSS, head=head(), footer_links=[], run_history=False,
        ssr_mode=False, show_error=False, enable_monitoring=False, allowed_paths=[], max_file_size=MAX_UPLOAD,
    )
    return Limits(Access(app, hosts, password))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until Ctrl-C; 1 when it cannot start, with the reason on stderr."""
    options = parser().parse_args(arguments)
    try:
        if not is_loopback(options.host) and not options.password:
            raise StartError(f"Listening on {options.host} lets other machines in; set a password with --password or "
                             f"{PASSWORD_VARIABLE}, or leave --host at 127.0.0.1.")
        bound = listen(options.host, options.port)
        services = open_data(options.data_dir, options.database, options.cpu_slots)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    serve(build(services, hosts_of(options.host), options.password), bound, services.data_dir)
    return 0


def serve(app, bound: socket.socket, data_dir: Path) -> None:
    import uvicorn

    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    # open event streams of browsers must not hold up Ctrl-C
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=2, ws_max_size=2**20,
        proxy_headers=False,  # else whoever guesses passwords names another address each time
    )
    server = uvicorn.Server(config)
    print(f"BGPO Studio is at http://{shown}:{port} and keeps its data in {data_dir}. Ctrl-C stops it; runs go on.",
          flush=True)
    # What is loaded by now stays. Else the garbage collector looks through all of it in the middle of an answer, which
    # then takes 0.1 s longer.
    gc.collect()
    gc.freeze()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[bound])


if __name__ == "__main__":
    sys.exit(main())
