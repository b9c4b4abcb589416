"""python -m eval efficiency: where time and memory go between video file and answer."""
