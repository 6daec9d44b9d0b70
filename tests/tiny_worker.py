"""A worker process that also knows the tiny models: `-m tests.tiny_worker`, started as `engine.worker.process` is."""

import tests.tiny_models  # noqa: F401
from engine.worker.process import main

if __name__ == "__main__":
    main()
