"""`helm test`: is the release reached by its names, and does its front door ask for a token?"""

import os
import sys
import time
import urllib.error
import urllib.request

PATIENCE_S = 60


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        return refusal.code
    except OSError as error:
        return str(error)


checks = [
    (os.environ["SIGNALING"] + "/", 200),
    (os.environ["SIGNALING"] + "/rtc/validate", 401),
    (os.environ["PLACEMENT"] + "/readyz", 200),
    (os.environ["SFU"] + "/readyz", 200),
]
deadline = time.monotonic() + PATIENCE_S
failed = []
for url, wanted in checks:
    got = status(url)
    while got != wanted and time.monotonic() < deadline:
        time.sleep(1)
        got = status(url)
    print("ok    " if got == wanted else "FAILED", url, got, flush=True)
    if got != wanted:
        failed.append(url)
sys.exit("not reached, or not as it should be: " + ", ".join(failed) if failed else 0)
