"""`benchmarks.speed.small_card` with the tiny models: `-m tests.tiny_card`."""

import tests.tiny_models  # noqa: F401
from benchmarks.speed.small_card import main

if __name__ == "__main__":
    main()
