"""llama.cpp's HTTP server (PyPI: xllamacpp) as a child process on a free loopback port.

python llama_server.py MODEL.gguf      prints its address, serves until standard input closes
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MODEL = "tiny-random"


def serve(model: Path) -> None:
    """Runs the server in this process; never returns."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL}
    params.n_ctx = 4096
    params.cpuparams.n_threads = 1
    # Two slots of 2,048 tokens, for n = 2. The cache is off, so that a request gets the same answer
    # twice.
    params.n_parallel = 2
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.warmup = False
    params.ui = False
    params.offline = True
    params.use_jinja = True
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)


class LlamaServer:
    """The child process; `url` is its address.

    The pipe to its standard input ends the child with its parent.
    """

    def __init__(self, model: Path, log: Path) -> None:
        self._log = log.open("wb")
        self._child = subprocess.Popen(
            [sys.executable, __file__, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._child.stdout is not None
        self.url = self._child.stdout.readline().strip()
        if not self.url.startswith("http://127.0.0.1:"):
            self.stop()
            raise AssertionError(
                f"llama.cpp did not start: {log.read_text(errors='replace')[-2000:]}"
            )

    def alive(self) -> bool:
        return self._child.poll() is None

    def stop(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(10)
        self._log.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
