"""`python -m bgpo.jobs`: everything that can be done with runs, from a terminal or a script."""

import sys

from bgpo.jobs.commands import main

sys.exit(main())
