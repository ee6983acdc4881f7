"""Says for `maths.py` whether two answers in maths are equal, by math-verify. It can be ended at any time.

One JSON line in, `[expected, answer]`; one out, true or false. The kernel ends this process when one question takes
more than its processor time, also in the middle of a big multiplication; too much memory is a false. No answer is ever
handed to Python: of math-verify's readers only the LaTeX parser is used, and where there is one a system-call filter is
on.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys

SECONDS = 1.0  # of processor time per question; an honest one takes a tenth of that
_MEMORY = 2 * 1024**3


def main() -> None:
    logging.disable(logging.CRITICAL)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but answers goes to the parent
    from math_verify import LatexExtractionConfig, parse, verify

    how = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(answer: str) -> list:
        return parse(f"\\boxed{{{answer}}}", how, fallback_mode="no_fallback", parsing_timeout=None)

    verify(read("1"), read("2"), timeout_seconds=None)  # loads what is loaded late
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _filter_system_calls()
    print("ready", file=channel, flush=True)
    for line in sys.stdin:
        expected, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # no handler: the default ends the process
        try:
            equal = bool(verify(read(expected), read(answer), timeout_seconds=None))
        except (Exception, RecursionError, MemoryError):
            equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(equal), file=channel, flush=True)


def _filter_system_calls() -> None:
    """No program is started and no connection made from here on, should a reader ever be fooled."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError):  # not Linux, or no libseccomp
        return
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for call in ("execve", "execveat", "fork", "vfork", "socket", "connect", "ptrace", "kill"):
        rules.add_rule(pyseccomp.ERRNO(1), call)
    rules.load()


if __name__ == "__main__":
    main()
