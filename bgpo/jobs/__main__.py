"""`python -m bgpo.jobs`: everything that can be done with runs, from a terminal or a script."""

import os
import sys

from bgpo.jobs.commands import main

try:
    code = main()
    sys.stdout.flush()
except BrokenPipeError:  # who reads it, such as `head`, has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
    code = 0
sys.exit(code)
