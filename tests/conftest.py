"""Takes a suite that may have been started in the background, gives processes that hear Ctrl-C."""

from __future__ import annotations

import signal

# A shell makes what it starts in the background deaf to it, and so would be what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
