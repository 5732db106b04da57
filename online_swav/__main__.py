"""`python -m online_swav` is the command `online-swav`."""

import sys

from online_swav.cli import main

sys.exit(main())
