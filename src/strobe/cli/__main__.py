"""`python -m strobe.cli`, for where the script is not on the path."""

import sys

from strobe.cli import main

sys.exit(main())
