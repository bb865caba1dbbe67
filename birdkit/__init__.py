"From a BirdCLEF folder to a Kaggle submission."
import os

# OpenMP threads that wait by spinning make a training step twenty times slower as soon as anything else runs on the machine.
# libgomp reads this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
