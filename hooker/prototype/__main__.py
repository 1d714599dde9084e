"""``python start.py hooker.prototype DESCRIPTOR JOB``: a keeper, and the process that it keeps."""

from __future__ import annotations

import json
import os
import sys

from hooker.prototype import host, keeper


def main() -> None:
    descriptor, job = int(sys.argv[1]), json.loads(sys.argv[2])
    me = os.getpid()
    child = os.fork()
    if child == 0:
        keeper.die_with(me)
        os._exit(host.main(descriptor, job))
    os._exit(keeper.keep(child, descriptor))


if __name__ == "__main__":
    main()
