"""The app on a machine with one GPU, as far as chat can tell: `python -m tests.ui.card_app`, with app.py's options."""

from __future__ import annotations

import sys
from dataclasses import replace

import app
from bgpo.jobs.chat import Chat
from bgpo.jobs.chat_devices import Seats
from bgpo.jobs.devices import Gpu
from storage.queue import leases

CARD = Gpu("GPU-1", "NVIDIA H100", 80 * 2**30, 0)


def main() -> int:
    open_data = app.open_data

    def open_with_card(*given):
        services = open_data(*given)
        return replace(services, chat=Chat(seats=Seats(lambda: leases(services.db), lambda: [CARD])))

    app.open_data = open_with_card
    return app.main()


if __name__ == "__main__":
    sys.exit(main())
