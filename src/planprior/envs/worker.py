"""The first code of a worker process.

It imports nothing that loads NumPy, because BLAS libraries read the number of their
threads once, when they are loaded.
"""

import os
import signal
from multiprocessing.connection import Connection

from planprior import host

_THREAD_COUNTS = (
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def start(connection: Connection, environ: dict[str, str]) -> None:
    """Prepare the process and serve environments until told to stop.

    Args:
        connection: This worker's end of the pipe.
        environ: The parent's environment variables; those of the fork server may be
            older.
    """
    # Ctrl-C, SIGTERM from a cluster whose time is up, and a terminal's hangup reach the
    # whole group. The parent decides what they mean, and may need a last step to save.
    for number in host.STOPPING:
        signal.signal(number, signal.SIG_IGN)
    os.environ.update(environ)
    os.environ.update({name: "1" for name in _THREAD_COUNTS})

    from planprior.envs.process import serve

    serve(connection)
