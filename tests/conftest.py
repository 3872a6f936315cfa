"""Let processes hear Ctrl-C although the suite may have been started in the background."""

from __future__ import annotations

import signal

# A shell makes what it starts in the background deaf to it, and so would be what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
