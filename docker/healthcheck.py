"""Asks the server in this container whether it is alive. Exit status 0: yes. Standard library only."""

import os
import ssl
import sys
import urllib.request

# Its own certificate is signed by nobody, and this asks over loopback: the name is not what matters here.
unverified = ssl.create_default_context()
unverified.check_hostname = False
unverified.verify_mode = ssl.CERT_NONE

scheme = "https" if os.environ.get("KNOTCAST_TLS") == "self-signed" else "http"
url = f"{scheme}://127.0.0.1:{os.environ.get('KNOTCAST_PORT', '8000')}/health"
try:
    with urllib.request.urlopen(url, timeout=4, context=unverified) as answer:
        healthy = answer.status == 200
except OSError as error:
    print(f"{url}: {error}", file=sys.stderr)
    healthy = False
sys.exit(0 if healthy else 1)
