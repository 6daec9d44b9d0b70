"""Asks the server in this container whether it is alive. Exit status 0: yes. Standard library only."""

import os
import sys
import urllib.request

url = f"http://127.0.0.1:{os.environ.get('KNOTCAST_PORT', '8000')}/health"
try:
    with urllib.request.urlopen(url, timeout=4) as answer:
        healthy = answer.status == 200
except OSError as error:
    print(f"{url}: {error}", file=sys.stderr)
    healthy = False
sys.exit(0 if healthy else 1)
