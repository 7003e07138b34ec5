"""SPIRA: indications of respiratory insufficiency in a few seconds of speech."""

import os

__version__ = "0.1.0"

# Matrices of the signal path are small: on two cores, BLAS threads that wait for one another make
# it ten times slower. And one thread adds in one order, so that results repeat to the last bit.
# This must be said before numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Since 1.29 ONNX Runtime tells Microsoft about every session, through a database in the cache
# folder of the user, unless this is said before it is first imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
