"""`python -m paddock_operator.cli` is `paddock`."""

import sys

from paddock_operator.cli import main

sys.exit(main())
